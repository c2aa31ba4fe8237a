//! What is due: a pure function of profiles, of what ran before, and of a given time.
//!
//! A profile is due at the first time of its rule after its last run began, plus a delay of its own within its
//! jitter. However many of those times have passed, they are made up for by one run. A run that did not succeed
//! is made again after a pause that doubles with each failure in a row, whatever the rule says, up to an hour.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::profile::Profile;
use super::rule::Rule;
use crate::digest::Digest;

/// The pause after a first failure.
const FIRST_PAUSE: SignedDuration = SignedDuration::from_mins(1);
/// The longest pause.
const LONGEST_PAUSE: SignedDuration = SignedDuration::from_hours(1);

/// What is known of the runs of a profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// When the profile was first met.
    pub seen: Timestamp,
    /// The last run, be it under way or over.
    pub last: Option<Run>,
    /// How many runs, up to the last, did not come to a good end; one that is under way is among them until it does.
    pub failures: u32,
    /// When a run last came to a good end.
    pub succeeded: Option<Timestamp>,
}

/// A run of a profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// When it should have begun.
    pub due: Timestamp,
    /// When it began.
    pub started: Timestamp,
    /// How it ended; `None` while it is under way, and where it was cut off.
    pub end: Option<End>,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// When.
    pub time: Timestamp,
    /// How well.
    pub status: Status,
    /// The id of the snapshot that was saved.
    pub snapshot: Option<String>,
    /// What went wrong.
    pub error: Option<String>,
}

/// How well a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// All was done.
    Done,
    /// All was done, but for files that could not be read.
    Partial,
    /// It failed.
    Failed,
    /// It was stopped.
    Interrupted,
}

impl Status {
    /// As it is called in hooks, logs and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Partial => "partial",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
        }
    }

    /// Whether a snapshot was saved and everything after it was done.
    pub fn is_success(self) -> bool {
        matches!(self, Self::Done | Self::Partial)
    }
}

impl History {
    /// Of a profile that is met at `now` for the first time.
    pub fn new(now: Timestamp) -> Self {
        Self { seen: now, last: None, failures: 0, succeeded: None }
    }

    /// Takes down that a run begins. It counts as failed until it ends, so one that is killed is not forgotten.
    pub fn begin(&mut self, due: Timestamp, now: Timestamp) {
        self.last = Some(Run { due, started: now, end: None });
        self.failures = self.failures.saturating_add(1);
    }

    /// Takes down how the run ended that was begun last.
    pub fn end(&mut self, end: End) {
        if end.status.is_success() {
            self.failures = 0;
            self.succeeded = Some(end.time);
        }
        if let Some(run) = &mut self.last {
            run.end = Some(end);
        }
    }
}

/// What else decides when a profile is due.
#[derive(Debug, Clone)]
pub struct Moment<'a> {
    /// The time.
    pub now: Timestamp,
    /// Where the clock is read.
    pub zone: &'a TimeZone,
    /// Since when due runs have been watched for. What came due before is made up for only in profiles that say
    /// so.
    pub since: Timestamp,
    /// What makes the delay of this machine another than that of the next: its name.
    pub host: &'a str,
}

/// When `profile` is due next, given what ran before and that it does not run now; `None` where it has no
/// schedule. A time that is not after [`Moment::now`] means now.
///
/// It does not fall back: of two moments, the later gives the same time or a later one, as long as nothing ran in
/// between and the clock was not set back.
///
/// ```
/// use jiff::Timestamp;
/// use jiff::tz::TimeZone;
/// use treering::schedule::{History, Moment, Profiles, due_at};
///
/// let text = "[profile.home]\nrepo = '/rings'\nsources = '/home'\nschedule = 'daily at 03:00'";
/// let profiles = Profiles::parse(text, "/etc/treering/treering.toml".as_ref(), None)?;
/// let seen: Timestamp = "2026-11-20T19:55:12Z".parse()?;
/// let moment = Moment { now: seen, zone: &TimeZone::UTC, since: seen, host: "elm" };
/// let due = due_at(profiles.get("home")?, &History::new(seen), &moment);
/// assert_eq!(due, Some("2026-11-21T03:00:00Z".parse()?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn due_at(profile: &Profile, history: &History, moment: &Moment) -> Option<Timestamp> {
    let rule = profile.schedule.as_ref()?;
    if let Some(run) = history.last.as_ref().filter(|_| history.failures > 0) {
        // A time in the future tells of a clock that was set back since.
        let ended = run.end.as_ref().map_or(run.started, |end| end.time).min(moment.now);
        return ended.checked_add(pause(history.failures)).ok();
    }
    let mut from = history.last.as_ref().map_or(history.seen, |run| run.started);
    if !profile.catch_up.0 {
        from = from.max(moment.since);
    }
    after(rule, from.min(moment.now), delay(profile, moment.host), moment.zone)
}

/// The times after [`Moment::now`] at which `profile` is due if every run ends well at once.
pub fn upcoming(profile: &Profile, moment: &Moment) -> impl Iterator<Item = Timestamp> {
    let delay = delay(profile, moment.host);
    let next = move |from: &Timestamp| after(profile.schedule.as_ref()?, *from, delay, moment.zone);
    std::iter::successors(next(&moment.now), next)
}

/// The first time after `from` that lies `delay` after a time of the rule.
fn after(rule: &Rule, from: Timestamp, delay: SignedDuration, zone: &TimeZone) -> Option<Timestamp> {
    rule.next(from.checked_sub(delay).ok()?, zone)?.checked_add(delay).ok()
}

/// How long `profile` waits after each time of its rule: always the same on one machine, spread evenly over its
/// jitter from machine to machine and profile to profile.
fn delay(profile: &Profile, host: &str) -> SignedDuration {
    let jitter = u64::try_from(profile.jitter.0.as_millis()).unwrap_or(0);
    let digest = Digest::of(format!("{}\n{host}", profile.name).as_bytes());
    let start = digest.as_bytes().first_chunk().copied().unwrap_or_default();
    let part = (u128::from(jitter) * u128::from(u64::from_be_bytes(start))) >> 64;
    // Less than the jitter, which came from such a number.
    SignedDuration::from_millis(i64::try_from(part).unwrap_or(0))
}

/// How long to wait after that many failures in a row.
pub(super) fn pause(failures: u32) -> SignedDuration {
    let doubled = 1i32.checked_shl(failures.saturating_sub(1)).filter(|factor| *factor > 0);
    let pause = doubled.and_then(|factor| FIRST_PAUSE.checked_mul(factor));
    pause.map_or(LONGEST_PAUSE, |pause| pause.min(LONGEST_PAUSE))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::schedule::{CatchUp, Length};

    fn profile(schedule: &str, jitter: &str, catch_up: bool) -> Profile {
        let jitter = Length::try_from(jitter.to_owned()).unwrap();
        let schedule = Some(schedule.parse().unwrap());
        let catch_up = CatchUp(catch_up);
        Profile { name: "home".into(), schedule, jitter, catch_up, ..Profile::default() }
    }

    fn at(time: &str) -> Timestamp {
        format!("2026-11-{time}:00Z").parse().unwrap()
    }

    static UTC: TimeZone = TimeZone::UTC;

    fn moment(now: Timestamp) -> Moment<'static> {
        Moment { now, zone: &UTC, since: Timestamp::MIN, host: "elm" }
    }

    fn end(time: Timestamp, status: Status) -> End {
        End { time, status, snapshot: None, error: None }
    }

    /// A history in which a run began at `started` and ended as `status` says after a minute.
    fn ran(started: Timestamp, status: Status) -> History {
        let mut history = History::new(at("01T00:00"));
        history.begin(started, started);
        history.end(end(started + SignedDuration::from_mins(1), status));
        history
    }

    #[test]
    fn a_profile_that_never_ran_waits_for_its_first_time() {
        let profile = profile("daily at 03:00", "0s", true);
        let history = History::new(at("10T12:00"));
        assert_eq!(due_at(&profile, &history, &moment(at("10T12:00"))), Some(at("11T03:00")));
        assert_eq!(due_at(&profile, &history, &moment(at("15T12:00"))), Some(at("11T03:00")), "it is late");
        assert_eq!(due_at(&Profile::default(), &history, &moment(at("15T12:00"))), None);
    }

    #[test]
    fn missed_times_are_made_up_for_once_or_not_at_all() {
        let history = ran(at("10T03:00"), Status::Done);
        let now = moment(at("15T12:00"));
        let due = due_at(&profile("daily at 03:00", "0s", true), &history, &now);
        assert_eq!(due, Some(at("11T03:00")));
        let watched = Moment { since: at("15T11:00"), ..now.clone() };
        let due = due_at(&profile("daily at 03:00", "0s", false), &history, &watched);
        assert_eq!(due, Some(at("16T03:00")));
        let due = due_at(&profile("daily at 11:30", "0s", false), &history, &watched);
        assert_eq!(due, Some(at("15T11:30")), "what came due while it was watched for is not left out");
        let made_up = ran(at("15T12:00"), Status::Done);
        let due = due_at(&profile("daily at 03:00", "0s", true), &made_up, &now);
        assert_eq!(due, Some(at("16T03:00")));
    }

    #[test]
    fn after_failures_pauses_double_up_to_an_hour() {
        let profile = profile("daily at 03:00", "0s", true);
        let mut history = ran(at("10T03:00"), Status::Failed);
        let now = moment(at("10T03:02"));
        assert_eq!(due_at(&profile, &history, &now), Some(at("10T03:02")));
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let now = at("10T04:00");
            history.begin(now, now);
            history.end(end(now, Status::Interrupted));
            pauses.push(due_at(&profile, &history, &moment(now)).unwrap().duration_since(now).as_mins());
        }
        assert_eq!(pauses, [2, 4, 8, 16, 32, 60, 60, 60]);
        history.end(end(at("10T05:00"), Status::Partial));
        assert_eq!(due_at(&profile, &history, &now), Some(at("11T03:00")), "a success begins anew");
        assert_eq!(pause(u32::MAX), LONGEST_PAUSE);
    }

    #[test]
    fn a_run_that_was_cut_off_counts_as_failed() {
        let profile = profile("daily at 03:00", "0s", true);
        let mut history = ran(at("09T03:00"), Status::Done);
        history.begin(at("10T03:00"), at("10T03:00"));
        assert_eq!(due_at(&profile, &history, &moment(at("10T09:00"))), Some(at("10T03:01")));
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_stop_the_runs() {
        let profile = profile("daily at 03:00", "0s", true);
        for status in [Status::Done, Status::Failed] {
            let due = due_at(&profile, &ran(at("28T03:00"), status), &moment(at("10T12:00"))).unwrap();
            assert!(due <= at("11T03:00"), "{status:?}: {due}");
        }
    }

    #[test]
    fn delays_differ_from_host_to_host_and_are_spread() {
        let profile = profile("daily at 03:00", "1h", true);
        let delays: Vec<_> = (0..200).map(|host| delay(&profile, &host.to_string())).collect();
        let early = delays.iter().filter(|delay| **delay < SignedDuration::from_mins(30)).count();
        assert!((60..140).contains(&early), "{early}");
        assert_eq!(delay(&profile, "elm"), delay(&profile, "elm"));
    }

    fn any_profile() -> impl Strategy<Value = Profile> {
        const SCHEDULES: [&str; 6] =
            ["hourly", "daily at 02:30", "weekly", "every 7 minutes", "*/15 * * * *", "0 2 * * sun"];
        (prop::sample::select(&SCHEDULES), 0..5000u32, any::<bool>())
            .prop_map(|(schedule, jitter, catch_up)| profile(schedule, &format!("{jitter}s"), catch_up))
    }

    proptest! {
        #[test]
        fn a_run_comes_after_its_time_and_within_the_jitter(
            profile in any_profile(),
            started in 1_750_000_000i64..1_850_000_000,
            host in "[a-z]{1,8}",
        ) {
            let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
            let started = Timestamp::from_second(started).unwrap();
            let moment = Moment { now: started, zone: &zone, since: Timestamp::MIN, host: &host };
            let due = due_at(&profile, &ran(started, Status::Done), &moment).unwrap();
            prop_assert!(due > started);
            let rule = profile.schedule.as_ref().unwrap();
            let delay = delay(&profile, &host);
            prop_assert!(delay <= profile.jitter.0 && !delay.is_negative());
            let time = due - delay;
            prop_assert_eq!(rule.next(time - SignedDuration::from_nanos(1), &zone), Some(time));
            prop_assert_eq!(upcoming(&profile, &moment).next(), Some(due));
        }

        #[test]
        fn between_two_evaluations_no_run_is_lost(
            profile in any_profile(),
            started in 1_750_000_000i64..1_850_000_000,
            steps in prop::collection::vec(1..100_000i64, 1..20),
        ) {
            // Evaluated at any times, each time of the rule is followed by a run at the next evaluation.
            let zone = TimeZone::posix("EST5EDT,M3.2.0,M11.1.0").unwrap();
            let start = Timestamp::from_second(started).unwrap();
            let moment = |now| Moment { now, zone: &zone, since: start, host: "elm" };
            let mut history = ran(start, Status::Done);
            let (mut now, mut previous) = (start, start);
            for step in steps {
                now += SignedDuration::from_secs(step);
                let is_due = due_at(&profile, &history, &moment(now)).unwrap() <= now;
                let first = upcoming(&profile, &moment(previous)).next().unwrap();
                prop_assert_eq!(is_due, first <= now);
                if is_due {
                    history.begin(now, now);
                    history.end(end(now, Status::Done));
                }
                previous = now;
            }
        }
    }
}
