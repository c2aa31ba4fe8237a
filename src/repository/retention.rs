//! Which snapshots are kept.
//!
//! [`apply`] is a pure function of snapshots, a [`Policy`] and a time zone. The rules are restic's: in each
//! group of snapshots the newest come first, and a rule such as [`Policy::daily`] keeps the newest snapshot
//! of each of the latest days that have one. A rule that still has places left when the snapshots end keeps
//! the oldest one too, so that history grows to its full length. What any rule keeps is kept.
//!
//! Hours, days, weeks (of ISO 8601), months and years are those of the calendar in the given time zone. An
//! hour that a zone goes through twice when its clocks are set back counts as two. Durations such as
//! [`Policy::within`] count back from the newest snapshot of the group, not from now: time that passes removes
//! nothing.
//!
//! A source that could not be read, such as a disk that is not mounted, is [missing](crate::repository::SnapshotRecord::missing) in the
//! snapshot. What lacks a source takes no place from what has it: for each source that some snapshot of the group
//! lacks, the rules also go through those alone that have it. So a disk that is away for longer than the rules reach
//! loses nothing, and each such source at most adds as many again.
//!
//! The clock is asked for one thing: a snapshot that is dated in the [future](is_future) is kept, and counts for
//! no rule. If it did, a single snapshot made with a wrong clock would push all others out of
//! [`Policy::within`]. A clock that is set back makes all real snapshots look like that, so they stay.
//!
//! While the clock is years ahead, nothing looks like the future. Then there is a [`Gap`] between the snapshots
//! of before and those of now, and durations do not count it: what is kept spans the length that the rule names,
//! whatever the clock says. The same holds where nothing was backed up for that long. A gap is only left out where
//! it is longer than half a year and than the length of the rule; a clock that is ahead by less than that is not
//! noticed.
//!
//! ```
//! use treering::repository::{Count, GroupBy, Policy, Within};
//!
//! let policy = Policy { daily: Count(7), within: Some("2d12h".parse()?), ..Policy::default() };
//! assert!(!policy.is_empty());
//! assert_eq!("host,paths".parse(), Ok(GroupBy::default()));
//! assert_eq!("2d12h".parse::<Within>()?.to_string(), "2d12h");
//! # Ok::<(), treering::repository::RetentionError>(())
//! ```

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use jiff::{SignedDuration, Span, Timestamp, Zoned};

use crate::repository::{Snapshot, is_future};
use crate::spoken;
use crate::timeline::TimeKey;

/// How many a rule keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count(pub u32);

impl Count {
    /// All of them.
    pub const UNLIMITED: Self = Self(u32::MAX);
}

impl FromStr for Count {
    type Err = RetentionError;

    /// Reads a number, or `unlimited`.
    fn from_str(text: &str) -> Result<Self, RetentionError> {
        match text {
            "unlimited" => Ok(Self::UNLIMITED),
            text => text.parse().map(Self).map_err(|_| RetentionError::Count(text.to_owned())),
        }
    }
}

/// A length of time in calendar units, such as `1y6m`, `2w` or `2d12h`.
#[derive(Debug, Clone, Copy)]
pub struct Within(Span);

impl FromStr for Within {
    type Err = RetentionError;

    /// Reads numbers of years, months, weeks, days and hours (`y`, `m`, `w`, `d`, `h`), each at most once and
    /// in this order.
    fn from_str(text: &str) -> Result<Self, RetentionError> {
        let wrong = || RetentionError::Within(text.to_owned());
        let mut span = Span::new();
        let mut rest = text;
        let mut units = UNITS.iter();
        while !rest.is_empty() {
            let end = rest.find(|character: char| !character.is_ascii_digit()).ok_or_else(wrong)?;
            let number: i64 = rest[..end].parse().map_err(|_| wrong())?;
            let unit = rest[end..].chars().next().ok_or_else(wrong)?;
            if !units.any(|known| *known == unit) {
                return Err(wrong());
            }
            span = match unit {
                'y' => span.try_years(number),
                'm' => span.try_months(number),
                'w' => span.try_weeks(number),
                'd' => span.try_days(number),
                _ => span.try_hours(number),
            }
            .map_err(|_| wrong())?;
            rest = &rest[end + unit.len_utf8()..];
        }
        if span.is_zero() { Err(wrong()) } else { Ok(Self(span)) }
    }
}

/// The units of a [`Within`], the longest first.
const UNITS: [char; 5] = ['y', 'm', 'w', 'd', 'h'];

impl Within {
    /// No shorter than it is anywhere in the calendar.
    fn longest(&self) -> SignedDuration {
        let span = self.0;
        let days = i64::from(span.get_years()) * 366
            + i64::from(span.get_months()) * 31
            + i64::from(span.get_weeks()) * 7
            + i64::from(span.get_days());
        SignedDuration::from_hours(days * 24 + i64::from(span.get_hours()) + 1)
    }
}

impl fmt::Display for Within {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let span = self.0;
        let numbers =
            [span.get_years().into(), span.get_months(), span.get_weeks(), span.get_days(), span.get_hours()];
        let mut units = numbers.iter().zip(UNITS).filter(|(number, _)| **number != 0);
        units.try_for_each(|(number, unit)| write!(f, "{number}{unit}"))
    }
}

/// What is kept. Rules add up; without any there is nothing to decide by.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// The newest.
    pub last: Count,
    /// The newest of each hour that has one, of the latest so many.
    pub hourly: Count,
    /// The same of days.
    pub daily: Count,
    /// The same of weeks, which begin on Monday.
    pub weekly: Count,
    /// The same of months.
    pub monthly: Count,
    /// The same of years.
    pub yearly: Count,
    /// All that are younger than the newest by less than this.
    pub within: Option<Within>,
    /// The newest of each hour, among those.
    pub within_hourly: Option<Within>,
    /// The same of days.
    pub within_daily: Option<Within>,
    /// The same of weeks.
    pub within_weekly: Option<Within>,
    /// The same of months.
    pub within_monthly: Option<Within>,
    /// The same of years.
    pub within_yearly: Option<Within>,
    /// Those that have all tags of any of these lists.
    pub tags: Vec<Vec<String>>,
}

/// A part of the calendar of which one snapshot is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    /// Not of the calendar: each snapshot is one.
    Last,
    /// An hour.
    Hour,
    /// A day.
    Day,
    /// A week.
    Week,
    /// A month.
    Month,
    /// A year.
    Year,
}

impl Period {
    fn word(self) -> &'static str {
        match self {
            Self::Last => "last",
            Self::Hour => "hourly",
            Self::Day => "daily",
            Self::Week => "weekly",
            Self::Month => "monthly",
            Self::Year => "yearly",
        }
    }

    /// What tells the period that `time` lies in from others. `number` tells snapshots apart.
    fn of(self, time: &Zoned, number: usize) -> [i64; 5] {
        let (year, month, day) = (time.year().into(), time.month().into(), time.day().into());
        match self {
            Self::Last => [number as i64, 0, 0, 0, 0],
            Self::Hour => [year, month, day, time.hour().into(), time.offset().seconds().into()],
            Self::Day => [year, month, day, 0, 0],
            Self::Week => {
                let week = time.date().iso_week_date();
                [week.year().into(), week.week().into(), 0, 0, 0]
            }
            Self::Month => [year, month, 0, 0, 0],
            Self::Year => [year, 0, 0, 0, 0],
        }
    }
}

impl Policy {
    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        let no_count = self.counts().iter().all(|(_, count)| *count == Count(0));
        no_count && self.withins().iter().all(|(_, within)| within.is_none()) && self.tags.is_empty()
    }

    fn counts(&self) -> [(Period, Count); 6] {
        [
            (Period::Last, self.last),
            (Period::Hour, self.hourly),
            (Period::Day, self.daily),
            (Period::Week, self.weekly),
            (Period::Month, self.monthly),
            (Period::Year, self.yearly),
        ]
    }

    fn withins(&self) -> [(Period, Option<Within>); 6] {
        [
            (Period::Last, self.within),
            (Period::Hour, self.within_hourly),
            (Period::Day, self.within_daily),
            (Period::Week, self.within_weekly),
            (Period::Month, self.within_monthly),
            (Period::Year, self.within_yearly),
        ]
    }
}

/// What the snapshots of a group have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupBy {
    /// The host.
    pub host: bool,
    /// The directories that were backed up.
    pub paths: bool,
    /// The tags.
    pub tags: bool,
}

impl Default for GroupBy {
    /// Host and directories, as restic has it.
    fn default() -> Self {
        Self { host: true, paths: true, tags: false }
    }
}

impl FromStr for GroupBy {
    type Err = RetentionError;

    /// Reads any of `host`, `paths` and `tags`, separated by commas; nothing is one group of all.
    fn from_str(text: &str) -> Result<Self, RetentionError> {
        let mut by = Self { host: false, paths: false, tags: false };
        for word in text.split(',').filter(|word| !word.is_empty()) {
            match word {
                "host" | "hosts" => by.host = true,
                "path" | "paths" => by.paths = true,
                "tag" | "tags" => by.tags = true,
                _ => return Err(RetentionError::GroupBy(word.to_owned())),
            }
        }
        Ok(by)
    }
}

/// Why a snapshot is kept.
#[derive(Debug, Clone)]
pub enum Reason {
    /// It is the newest of its period.
    Newest(Period),
    /// It is the oldest of all, and the rule has places left.
    Oldest(Period),
    /// It is the newest of its period, or any for [`Period::Last`], in a length of time.
    Within(Period, Within),
    /// The same, if a [`Gap`] is left out of that time.
    WithinButGap(Period, Within),
    /// It has these tags.
    Tags(Vec<String>),
    /// The same, among those that have a source which others lack.
    Having(Vec<u8>, Box<Reason>),
    /// It is dated in the future, so no rule can say anything of it.
    Future,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newest(period) => write!(f, "{} snapshot", period.word()),
            Self::Oldest(period) => write!(f, "oldest {} snapshot", period.word()),
            Self::Within(Period::Last, within) => write!(f, "within {within}"),
            Self::Within(period, within) => write!(f, "{} within {within}", period.word()),
            Self::WithinButGap(Period::Last, within) => write!(f, "within {within}, but for a gap"),
            Self::WithinButGap(period, within) => {
                write!(f, "{} within {within}, but for a gap", period.word())
            }
            Self::Tags(tags) => write!(f, "has tags {}", tags.join(",")),
            Self::Having(source, reason) => {
                write!(f, "{reason}, of those that have {}", String::from_utf8_lossy(source))
            }
            Self::Future => f.write_str("dated in the future"),
        }
    }
}

/// A group of snapshots, and what becomes of them. Both lists begin with the newest.
#[derive(Debug)]
pub struct Group {
    /// The host that they have in common.
    pub host: Option<String>,
    /// The directories that they have in common.
    pub paths: Option<Vec<Vec<u8>>>,
    /// The tags that they have in common.
    pub tags: Option<Vec<String>>,
    /// What is kept, and why.
    pub keep: Vec<(Snapshot, Vec<Reason>)>,
    /// What no rule keeps.
    pub remove: Vec<Snapshot>,
    /// The newest gap without which less would be kept.
    pub gap: Option<Gap>,
}

/// A time without snapshots, so long that the clock may have jumped in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// The last snapshot before it.
    pub before: TimeKey,
    /// The first one after it.
    pub after: TimeKey,
}

/// The shortest gap.
const SHORTEST_GAP: SignedDuration = SignedDuration::from_hours(180 * 24);

/// Why nothing could be decided.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RetentionError {
    /// No rule says what to keep.
    #[error(
        "no rule says what to keep, so nothing is removed: give --keep-last 10, --keep-daily 7 or the like"
    )]
    NoRule,
    /// Text that is no number.
    #[error("{0:?} is no number of snapshots: give a number, or unlimited")]
    Count(String),
    /// Text that is no length of time.
    #[error("{0:?} is no length of time: give years, months, weeks, days and hours, as 1y6m or 2d12h")]
    Within(String),
    /// A word that snapshots cannot be grouped by.
    #[error("cannot group by {0:?}: give any of host, paths and tags, separated by commas")]
    GroupBy(String),
    /// A length of time that leads out of the calendar.
    #[error("{within} before {time} lies outside the calendar: give a shorter time")]
    Calendar {
        /// The length of time.
        within: String,
        /// From when it was counted back, as the clock of the zone shows it.
        time: String,
    },
}

impl Group {
    /// Whether rules keep nothing of it, though there was something to keep.
    pub fn is_emptied(&self) -> bool {
        let is_kept = |reasons: &[Reason]| reasons.iter().any(|reason| !matches!(reason, Reason::Future));
        !self.remove.is_empty() && !self.keep.iter().any(|(_, reasons)| is_kept(reasons))
    }
}

/// Decides at `now` what becomes of `snapshots`, group by group. Days and the like are those of the zone of `now`.
pub fn apply(
    snapshots: Vec<Snapshot>,
    policy: &Policy,
    by: GroupBy,
    now: &Zoned,
) -> Result<Vec<Group>, RetentionError> {
    if policy.is_empty() {
        return Err(RetentionError::NoRule);
    }
    let mut groups: BTreeMap<Key, Vec<Snapshot>> = BTreeMap::new();
    for snapshot in snapshots {
        groups.entry(Key::of(&snapshot, by)).or_default().push(snapshot);
    }
    groups.into_iter().map(|(key, snapshots)| decide(key, snapshots, policy, now)).collect()
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    host: Option<String>,
    paths: Option<Vec<Vec<u8>>>,
    tags: Option<Vec<String>>,
}

impl Key {
    fn of(snapshot: &Snapshot, by: GroupBy) -> Self {
        let record = &snapshot.record;
        let sorted_tags = || {
            let mut tags = record.tags.clone();
            tags.sort();
            tags.dedup();
            tags
        };
        Self {
            host: by.host.then(|| record.host.clone()),
            paths: by.paths.then(|| record.roots.iter().map(|root| root.to_vec()).collect()),
            tags: by.tags.then(sorted_tags),
        }
    }
}

/// A rule on its way through the snapshots.
struct Rule {
    period: Period,
    left: u32,
    /// Only those in this time.
    time: Option<RuleTime>,
    last: Option<[i64; 5]>,
}

/// A length of time on its way back through the snapshots.
struct RuleTime {
    within: Within,
    /// What it counts back from: the newest snapshot, earlier by the gaps that were met.
    from: Zoned,
    /// Where it ends.
    since: Timestamp,
    /// The newest gap that was met.
    gap: Option<Gap>,
    /// Where it would end without gaps.
    since_plain: Timestamp,
}

impl RuleTime {
    fn new(within: Within, from: Zoned) -> Result<Self, RetentionError> {
        let since = from.checked_sub(within.0).map_err(|_| RetentionError::Calendar {
            within: within.to_string(),
            time: spoken::local(from.timestamp(), from.time_zone()),
        })?;
        let since = since.timestamp();
        Ok(Self { within, from, since, gap: None, since_plain: since })
    }

    /// Goes on from one snapshot to the next, which is older.
    fn pass(&mut self, after: TimeKey, before: TimeKey) {
        let length = after.time().duration_since(before.time());
        if length <= SHORTEST_GAP.max(self.within.longest()) {
            return;
        }
        // Of one that leads out of the calendar, all that is older is within it.
        let from = self.from.checked_sub(length);
        self.since = match from.and_then(|from| Ok((from.checked_sub(self.within.0)?, from))) {
            Ok((since, from)) => {
                self.from = from;
                since.timestamp()
            }
            Err(_) => Timestamp::MIN,
        };
        self.gap.get_or_insert(Gap { before, after });
    }
}

impl Rule {
    /// Why the rule keeps the next snapshot, if it does.
    fn next(&mut self, time: &Zoned, number: usize, is_oldest: bool) -> Option<Reason> {
        let is_outside = self.time.as_ref().is_some_and(|rule| time.timestamp() <= rule.since);
        if self.left == 0 || is_outside {
            return None;
        }
        let period = self.period.of(time, number);
        let is_new = self.last.replace(period) != Some(period);
        if !is_new && !is_oldest {
            return None;
        }
        if self.left != Count::UNLIMITED.0 {
            self.left -= 1;
        }
        Some(match &self.time {
            Some(rule) if time.timestamp() <= rule.since_plain => {
                Reason::WithinButGap(self.period, rule.within)
            }
            Some(rule) => Reason::Within(self.period, rule.within),
            None if is_new => Reason::Newest(self.period),
            None => Reason::Oldest(self.period),
        })
    }
}

fn decide(
    key: Key,
    mut snapshots: Vec<Snapshot>,
    policy: &Policy,
    now: &Zoned,
) -> Result<Group, RetentionError> {
    snapshots.sort_by_key(|snapshot| Reverse(snapshot.key));
    let present = snapshots.partition_point(|snapshot| is_future(snapshot.time(), now.timestamp()));
    let future: Vec<Snapshot> = snapshots.drain(..present).collect();
    let mut verdicts = judge(&snapshots.iter().collect::<Vec<_>>(), policy, now)?;
    for (source, holders) in holders_of_missing(&snapshots) {
        let those: Vec<&Snapshot> = holders.iter().map(|&number| &snapshots[number]).collect();
        for (number, verdict) in holders.into_iter().zip(judge(&those, policy, now)?) {
            if verdicts[number].reasons.is_empty() {
                let reasons = verdict.reasons.into_iter();
                let reasons = reasons.map(|reason| Reason::Having(source.to_vec(), Box::new(reason)));
                verdicts[number] = Verdict { reasons: reasons.collect(), gap: verdict.gap };
            }
        }
    }
    let Key { host, paths, tags } = key;
    let keep = future.into_iter().map(|snapshot| (snapshot, vec![Reason::Future])).collect();
    let mut group = Group { host, paths, tags, keep, remove: Vec::new(), gap: None };
    for (snapshot, verdict) in snapshots.into_iter().zip(verdicts) {
        group.gap = group.gap.or(verdict.gap);
        match verdict.reasons.is_empty() {
            true => group.remove.push(snapshot),
            false => group.keep.push((snapshot, verdict.reasons)),
        }
    }
    Ok(group)
}

/// What the rules say of a snapshot.
struct Verdict {
    /// Why it is kept; none where it is not.
    reasons: Vec<Reason>,
    /// The gap without which it would not be.
    gap: Option<Gap>,
}

/// Applies the rules to `snapshots`, the newest first.
fn judge(snapshots: &[&Snapshot], policy: &Policy, now: &Zoned) -> Result<Vec<Verdict>, RetentionError> {
    let zone = now.time_zone();
    let mut rules = Vec::new();
    for (period, count) in policy.counts() {
        rules.push(Rule { period, left: count.0, time: None, last: None });
    }
    for (period, within) in policy.withins() {
        let (Some(within), Some(newest)) = (within, snapshots.first()) else { continue };
        let time = Some(RuleTime::new(within, newest.time().to_zoned(zone.clone()))?);
        rules.push(Rule { period, left: Count::UNLIMITED.0, time, last: None });
    }
    let count = snapshots.len();
    let mut after = None;
    let verdict = |(number, snapshot): (usize, &&Snapshot)| {
        if let Some(after) = after.replace(snapshot.key) {
            rules
                .iter_mut()
                .filter_map(|rule| rule.time.as_mut())
                .for_each(|time| time.pass(after, snapshot.key));
        }
        let time = snapshot.time().to_zoned(zone.clone());
        let tagged = policy.tags.iter().filter(|tags| snapshot.has_tags(tags));
        let mut reasons: Vec<Reason> = tagged.map(|tags| Reason::Tags(tags.clone())).collect();
        reasons.extend(rules.iter_mut().filter_map(|rule| rule.next(&time, number, number + 1 == count)));
        let is_gap = reasons.iter().all(|reason| matches!(reason, Reason::WithinButGap(..)));
        let gaps = rules.iter().filter_map(|rule| rule.time.as_ref()?.gap);
        let gap = gaps.max_by_key(|gap| gap.after).filter(|_| is_gap && !reasons.is_empty());
        Verdict { reasons, gap }
    };
    Ok(snapshots.iter().enumerate().map(verdict).collect())
}

/// The sources that some of `snapshots` lack, and the numbers of those that have them.
fn holders_of_missing(snapshots: &[Snapshot]) -> BTreeMap<&[u8], Vec<usize>> {
    let missing: Vec<BTreeSet<&[u8]>> =
        snapshots.iter().map(|snapshot| snapshot.record.missing().collect()).collect();
    let mut holders: BTreeMap<&[u8], Vec<usize>> =
        missing.iter().flatten().map(|source| (*source, Vec::new())).collect();
    for (number, (snapshot, missing)) in snapshots.iter().zip(&missing).enumerate() {
        let roots = snapshot.record.roots.iter().map(|root| root.as_slice());
        for root in roots.filter(|root| !missing.contains(root)) {
            // A list of sources has each once, but a damaged one need not.
            let numbers = holders.get_mut(root).filter(|numbers| numbers.last() != Some(&number));
            numbers.into_iter().for_each(|numbers| numbers.push(number));
        }
    }
    holders
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use proptest::prelude::*;

    use super::*;
    use crate::diff::Owners;
    use crate::layers::ObjectId;
    use crate::relpath::RelPath;
    use crate::repository::{Layout, PageList, SnapshotFilter, SnapshotRecord, Statistics};

    fn snapshot(time: &str, host: &str, root: &str, tags: &[&str]) -> Snapshot {
        at(time.parse().unwrap(), host, root, tags)
    }

    fn at(time: Timestamp, host: &str, root: &str, tags: &[&str]) -> Snapshot {
        let record = SnapshotRecord {
            host: host.into(),
            user: "u".into(),
            roots: vec![root.as_bytes().to_vec().into()],
            layout: Layout::Single,
            tags: tags.iter().map(ToString::to_string).collect(),
            parent: None,
            pages: PageList::default(),
            volumes: Vec::new(),
            owners: Owners::default(),
            statistics: Statistics::default(),
            unreadable: Vec::new(),
            unread_attributes: Vec::new(),
            mounts: None,
            program: String::new(),
        };
        Snapshot {
            key: TimeKey::new(time, 0).unwrap(),
            id: ObjectId::from_bytes([0; 20]),
            shares_id: false,
            record,
        }
    }

    fn of(times: &[&str]) -> Vec<Snapshot> {
        times.iter().map(|time| snapshot(time, "h", "/r", &[])).collect()
    }

    /// A time at which no snapshot is dated in the future.
    fn late(zone: &TimeZone) -> Zoned {
        Timestamp::MAX.to_zoned(zone.clone())
    }

    /// The times that are kept, the newest first, as the zone's clock shows them.
    fn kept(snapshots: Vec<Snapshot>, policy: &Policy, zone: &str) -> Vec<String> {
        let zone = TimeZone::get(zone).unwrap();
        let groups = apply(snapshots, policy, GroupBy::default(), &late(&zone)).unwrap();
        let time =
            |snapshot: &Snapshot| snapshot.time().to_zoned(zone.clone()).strftime("%d %H:%M%:z").to_string();
        groups.iter().flat_map(|group| group.keep.iter().map(|(snapshot, _)| time(snapshot))).collect()
    }

    #[test]
    fn without_a_rule_nothing_is_decided() {
        let decided = apply(
            of(&["2026-11-20T12:00:00Z"]),
            &Policy::default(),
            GroupBy::default(),
            &late(&TimeZone::UTC),
        );
        assert_eq!(decided.unwrap_err(), RetentionError::NoRule);
    }

    #[test]
    fn a_period_keeps_its_newest_and_the_oldest_fills_up() {
        let times = [
            "2026-11-16T10:00:00Z",
            "2026-11-18T09:00:00Z",
            "2026-11-18T12:00:00Z",
            "2026-11-20T08:00:00Z",
            "2026-11-20T20:00:00Z",
        ];
        let daily = |number| Policy { daily: Count(number), ..Policy::default() };
        assert_eq!(kept(of(&times), &daily(2), "UTC"), ["20 20:00+00:00", "18 12:00+00:00"]);
        let groups = apply(of(&times[1..]), &daily(9), GroupBy::default(), &late(&TimeZone::UTC)).unwrap();
        let reasons: Vec<_> = groups[0].keep.iter().map(|(_, reasons)| reasons[0].to_string()).collect();
        assert_eq!(reasons, ["daily snapshot", "daily snapshot", "oldest daily snapshot"]);
        let last = Policy { last: Count(1), ..Policy::default() };
        assert_eq!(kept(of(&times), &last, "UTC"), ["20 20:00+00:00"]);
        let all = Policy { weekly: Count::UNLIMITED, ..Policy::default() };
        assert_eq!(kept(of(&times), &all, "UTC"), ["20 20:00+00:00", "16 10:00+00:00"]);
    }

    #[test]
    fn days_are_those_of_the_zone() {
        let times = ["2026-11-19T22:30:00Z", "2026-11-19T23:30:00Z"];
        let daily = Policy { daily: Count(5), ..Policy::default() };
        assert_eq!(kept(of(&times), &daily, "Europe/Berlin"), ["20 00:30+01:00", "19 23:30+01:00"]);
        let newest = Policy { daily: Count(1), ..Policy::default() };
        assert_eq!(kept(of(&times), &newest, "UTC"), ["19 23:30+00:00"]);
    }

    #[test]
    fn an_hour_that_comes_twice_is_two_and_one_that_is_skipped_is_none() {
        let back =
            ["2026-10-25T00:10:00Z", "2026-10-25T00:50:00Z", "2026-10-25T01:10:00Z", "2026-10-25T02:10:00Z"];
        let hourly = Policy { hourly: Count(3), ..Policy::default() };
        let expected = ["25 03:10+01:00", "25 02:10+01:00", "25 02:50+02:00"];
        assert_eq!(kept(of(&back), &hourly, "Europe/Berlin"), expected);
        let forward = ["2026-03-29T00:50:00Z", "2026-03-29T01:10:00Z"];
        assert_eq!(kept(of(&forward), &hourly, "Europe/Berlin"), ["29 03:10+02:00", "29 01:50+01:00"]);
        let half = ["2026-04-04T14:40:00Z", "2026-04-04T15:10:00Z"];
        assert_eq!(kept(of(&half), &hourly, "Australia/Lord_Howe").len(), 2, "01:40 and 01:40 again");
    }

    #[test]
    fn a_day_of_23_or_25_hours_is_one_day_back() {
        let within = |text: &str| Policy { within: Some(text.parse().unwrap()), ..Policy::default() };
        let back = ["2026-10-24T11:30:00Z", "2026-10-25T12:00:00Z"];
        assert_eq!(kept(of(&back), &within("1d"), "Europe/Berlin").len(), 2, "12 o'clock is 25 hours ago");
        assert_eq!(kept(of(&back), &within("1d"), "UTC").len(), 1);
        assert_eq!(kept(of(&back), &within("24h"), "Europe/Berlin").len(), 1);
        let month = ["2026-02-27T12:00:00Z", "2026-02-28T13:00:00Z", "2026-03-31T12:00:00Z"];
        assert_eq!(kept(of(&month), &within("1m"), "UTC").len(), 2, "a month before the 31st is the 28th");
    }

    #[test]
    fn a_length_of_time_does_not_count_a_gap_in_which_the_clock_may_have_jumped() {
        let within = |text: &str| Policy { within: Some(text.parse().unwrap()), ..Policy::default() };
        let real =
            ["2026-10-01T12:00:00Z", "2026-11-18T12:00:00Z", "2026-11-19T12:00:00Z", "2026-11-20T12:00:00Z"];
        let jumped = |times: &[&'static str]| of(&[real.as_slice(), times].concat());
        let decided = |snapshots, text: &str| {
            apply(snapshots, &within(text), GroupBy::default(), &late(&TimeZone::UTC)).unwrap().remove(0)
        };
        for times in [["2040-01-01T12:00:00Z"].as_slice(), &["2040-01-01T12:00:00Z", "2040-01-10T12:00:00Z"]]
        {
            let group = decided(jumped(times), "30d");
            assert_eq!((group.keep.len(), group.remove.len()), (3 + times.len(), 1), "{times:?}");
            assert_eq!(group.keep.last().unwrap().1[0].to_string(), "within 30d, but for a gap");
            let gap = group.gap.unwrap();
            assert_eq!(
                [gap.before.time(), gap.after.time()].map(|time| time.to_string()),
                [real[3], times[0]]
            );
        }
        // By then the rule has its length without what came before.
        let group = decided(jumped(&["2040-01-01T12:00:00Z", "2040-01-31T12:00:00Z"]), "30d");
        assert_eq!((group.keep.len(), group.gap), (1, None));
        let group = decided(jumped(&["2027-03-01T12:00:00Z"]), "30d");
        assert_eq!((group.keep.len(), group.gap), (1, None), "too short to be a jump");
        let group = decided(jumped(&["2028-03-01T12:00:00Z"]), "3y");
        assert_eq!((group.keep.len(), group.gap), (5, None), "no longer than the rule");
        let hourly =
            Policy { last: Count(5), within_hourly: Some("2d".parse().unwrap()), ..Policy::default() };
        let groups =
            apply(jumped(&["2040-01-01T12:00:00Z"]), &hourly, GroupBy::default(), &late(&TimeZone::UTC));
        assert_eq!(groups.unwrap()[0].gap, None, "another rule keeps them");
    }

    #[test]
    fn weeks_are_those_of_iso_8601() {
        let times =
            ["2026-12-27T12:00:00Z", "2026-12-28T12:00:00Z", "2027-01-03T12:00:00Z", "2027-01-04T12:00:00Z"];
        let weekly = Policy { weekly: Count(3), ..Policy::default() };
        assert_eq!(kept(of(&times), &weekly, "UTC"), ["04 12:00+00:00", "03 12:00+00:00", "27 12:00+00:00"]);
    }

    #[test]
    fn lengths_count_back_from_the_newest_and_keep_one_of_each_period() {
        let times =
            ["2020-01-01T10:00:00Z", "2020-01-02T10:00:00Z", "2020-01-02T20:00:00Z", "2020-01-03T09:00:00Z"];
        let policy = Policy { within_daily: Some("2d".parse().unwrap()), ..Policy::default() };
        assert_eq!(kept(of(&times), &policy, "UTC"), ["03 09:00+00:00", "02 20:00+00:00", "01 10:00+00:00"]);
        let short = Policy { within_daily: Some("20h".parse().unwrap()), ..Policy::default() };
        assert_eq!(kept(of(&times), &short, "UTC"), ["03 09:00+00:00", "02 20:00+00:00"]);
        let endless = Policy { within: Some("19998y".parse().unwrap()), ..Policy::default() };
        let fault = apply(of(&["0001-01-01T00:00:00Z"]), &endless, GroupBy::default(), &late(&TimeZone::UTC));
        assert!(matches!(fault, Err(RetentionError::Calendar { .. })));
    }

    /// A snapshot of sources of which some could not be read.
    fn lacking(time: &str, roots: &[&str], unreadable: &[&str]) -> Snapshot {
        let mut snapshot = snapshot(time, "h", "", &[]);
        let paths = unreadable.iter().map(|path| RelPath::new(path.as_bytes()).unwrap());
        snapshot.record = SnapshotRecord {
            roots: roots.iter().map(|root| root.as_bytes().to_vec().into()).collect(),
            layout: Layout::Absolute,
            unreadable: paths.collect(),
            ..snapshot.record
        };
        snapshot
    }

    #[test]
    fn what_lacks_a_source_takes_no_place_from_what_has_it() {
        let day = |day: usize, unreadable: &[&str]| {
            lacking(&format!("2026-11-{day:02}T12:00:00Z"), &["/a", "/b"], unreadable)
        };
        // The days that are kept, the newest first, and the last of the reasons of each.
        let decided = |snapshots: Vec<Snapshot>, policy: &Policy| {
            let group =
                apply(snapshots, policy, GroupBy::default(), &late(&TimeZone::UTC)).unwrap().remove(0);
            let shown = |(snapshot, reasons): &(Snapshot, Vec<Reason>)| {
                let day = snapshot.time().to_zoned(TimeZone::UTC).day();
                (day, reasons.last().unwrap().to_string())
            };
            group.keep.iter().map(shown).collect::<Vec<_>>()
        };
        let days = |kept: Vec<(i8, String)>| kept.into_iter().map(|(day, _)| day).collect::<Vec<_>>();
        let last = |count| Policy { last: Count(count), ..Policy::default() };
        let within = Policy { within: Some("2d".parse().unwrap()), ..Policy::default() };
        let all = |lacks: [&[&str]; 6]| (1..).zip(lacks).map(|(number, lacks)| day(number, lacks)).collect();
        // One source is away, below it a file is unreadable before.
        let away = || all([&[], &[], &["b/file"], &["b"], &["b"], &["b"]]);
        let kept = decided(away(), &last(2));
        let having = "last snapshot, of those that have /b".to_owned();
        let newest = "last snapshot".to_owned();
        assert_eq!(kept, [(6, newest.clone()), (5, newest), (3, having.clone()), (2, having)]);
        assert_eq!(days(decided(away(), &within)), [6, 5, 3, 2], "of each the length is kept");
        // It came back: nothing more is kept than elsewhere.
        assert_eq!(days(decided(all([&[], &[], &["b"], &["b"], &[], &[]]), &last(2))), [6, 5]);
        // No snapshot has it, and then another one goes as well.
        let both = all([&["b"], &["b"], &["b"], &["a", "b"], &["a", "b"], &["a", "b"]]);
        assert_eq!(days(decided(both, &last(2))), [6, 5, 3, 2]);
        // Each goes in turn, and a directory above both is unreadable.
        assert_eq!(days(decided(all([&[], &[], &["a"], &["b"], &[""], &[""]]), &last(1))), [6, 4, 3]);
        // In a group of other sources too, only what has it counts.
        let other = |day: usize| lacking(&format!("2026-11-{day:02}T12:00:00Z"), &["/a"], &[]);
        let mixed = vec![day(1, &[]), day(2, &["b"]), other(3), other(4)];
        let by = "host".parse().unwrap();
        let groups = apply(mixed, &last(1), by, &late(&TimeZone::UTC)).unwrap();
        assert_eq!(groups[0].keep.len(), 2, "{groups:?}");
    }

    #[test]
    fn the_only_source_of_a_snapshot_is_missing_whatever_it_is() {
        let alone = |root: &str, directories, unreadable: &[&str]| {
            let mut record = lacking("2026-11-20T12:00:00Z", &[root], unreadable).record;
            record.layout = Layout::Single;
            record.statistics.directories = directories;
            record.missing().count()
        };
        assert_eq!(alone("/r/x", 1, &[""]), 1);
        assert_eq!(alone("/r/x", 1, &["x"]), 0, "in the directory is a file of its name");
        assert_eq!(alone("/r/x", 0, &["x"]), 1);
        assert_eq!(alone("/", 1, &[""]), 1);
        assert_eq!(alone("/r/x", 1, &[]), 0);
    }

    #[test]
    fn a_snapshot_dated_in_the_future_is_kept_and_counts_for_no_rule() {
        let times =
            ["2026-11-01T12:00:00Z", "2026-11-19T12:00:00Z", "2026-11-20T12:00:00Z", "9999-12-30T21:59:59Z"];
        let at = |now: &str, policy: Policy| {
            let now: Zoned = format!("{now}[UTC]").parse().unwrap();
            let mut groups = apply(of(&times), &policy, GroupBy::default(), &now).unwrap();
            let group = groups.pop().unwrap();
            let is_emptied = group.is_emptied();
            let time = |snapshot: &Snapshot| snapshot.time().to_string()[..10].to_owned();
            (group.remove.iter().map(time).collect::<Vec<_>>(), is_emptied)
        };
        let within = || Policy { within: Some("10d".parse().unwrap()), ..Policy::default() };
        let last = |count| Policy { last: Count(count), ..Policy::default() };
        assert_eq!(at("2026-11-20T12:00:00", within()), (vec!["2026-11-01".to_owned()], false));
        assert_eq!(at("2026-11-20T11:51:00", within()).0, ["2026-11-01"], "clocks differ by some minutes");
        assert_eq!(at("2026-11-20T12:00:00", last(2)).0, ["2026-11-01"]);
        assert_eq!(at("2016-11-20T12:00:00", last(1)), (vec![], false), "the clock is set back");
        assert_eq!(at("2026-11-19T11:00:00", last(1)).0, Vec::<String>::new());
        let tagged = Policy { tags: vec![vec!["none".into()]], ..Policy::default() };
        assert_eq!(at("2026-11-20T12:00:00", tagged.clone()).0.len(), 3);
        assert!(at("2026-11-20T12:00:00", tagged).1, "what is dated in the future stands for nothing");
    }

    #[test]
    fn the_end_of_the_calendar_can_be_counted_from() {
        let policy = Policy {
            hourly: Count(2),
            weekly: Count(2),
            yearly: Count(2),
            within: Some("1y".parse().unwrap()),
            ..Policy::default()
        };
        let last = || vec![at(Timestamp::MAX, "h", "/r", &[]), at(Timestamp::MAX, "h", "/r", &[])];
        for zone in ["UTC", "Pacific/Kiritimati", "Pacific/Niue"] {
            assert_eq!(kept(last(), &policy, zone).len(), 2, "{zone}");
        }
    }

    #[test]
    fn groups_are_decided_each_by_itself() {
        let snapshots = || {
            vec![
                snapshot("2026-11-01T00:00:00Z", "a", "/r", &["x"]),
                snapshot("2026-11-02T00:00:00Z", "b", "/r", &["y", "x"]),
                snapshot("2026-11-03T00:00:00Z", "a", "/s", &["x", "y"]),
                snapshot("2026-11-04T00:00:00Z", "a", "/s", &[]),
            ]
        };
        let last = Policy { last: Count(1), ..Policy::default() };
        let count = |by: &str| {
            let groups = apply(snapshots(), &last, by.parse().unwrap(), &late(&TimeZone::UTC)).unwrap();
            assert!(groups.iter().all(|group| group.keep.len() == 1));
            groups.len()
        };
        assert_eq!(["host,paths", "host", "paths", "tags", "", "host,tags"].map(count), [3, 2, 2, 3, 1, 4]);
        assert_eq!("user".parse::<GroupBy>(), Err(RetentionError::GroupBy("user".into())));
        let tagged = Policy { tags: vec![vec!["x".into(), "y".into()]], ..Policy::default() };
        let groups = apply(snapshots(), &tagged, "".parse().unwrap(), &late(&TimeZone::UTC)).unwrap();
        assert_eq!((groups[0].keep.len(), groups[0].remove.len()), (2, 2));
        let filter = SnapshotFilter {
            hosts: vec!["a".into()],
            paths: vec![b"/s".to_vec()],
            tags: vec![vec!["x".into()]],
            exactly: false,
        };
        let matching: Vec<_> = snapshots().into_iter().filter(|snapshot| filter.matches(snapshot)).collect();
        assert_eq!(matching.len(), 1);
    }

    #[test]
    fn lengths_and_numbers_are_read_and_nonsense_is_not() {
        for text in ["1y2m3w4d5h", "2d", "36h"] {
            assert_eq!(text.parse::<Within>().unwrap().to_string(), text);
        }
        for text in ["", "d", "2", "2d3y", "1d1d", "0d", "-1d", "1s", "99999999999d", "1é"] {
            assert!(text.parse::<Within>().is_err(), "{text}");
        }
        assert_eq!("unlimited".parse(), Ok(Count::UNLIMITED));
        assert!("-1".parse::<Count>().is_err());
    }

    proptest! {
        /// `forget` rests on it where a record cannot be read.
        #[test]
        fn of_a_part_of_the_snapshots_no_more_is_removed_than_of_all(
            hours in prop::collection::btree_map(0i64..3000, any::<bool>(), 1..60),
            counts: [u8; 6], length in 0u32..400, periods: [bool; 6], jump in 1i64..3000, jump_by in 0i64..30000,
        ) {
            let snapshot = |hour: i64, tags: &[&str]| {
                let hour = hour + (hour / jump) * jump_by;
                at(Timestamp::from_second(1_790_000_000 + hour * 1800).unwrap(), "h", "/r", tags)
            };
            let all = || hours.keys().map(|hour| snapshot(*hour, if hour % 50 == 0 { &["t"] } else { &[] }));
            let [last, hourly, daily, weekly, monthly, yearly] = counts.map(|count| Count(u32::from(count % 8)));
            let [within, within_hourly, within_daily, within_weekly, within_monthly, within_yearly] =
                periods.map(|is_given| is_given.then(|| format!("{}h", length + 1).parse().unwrap()));
            let policy = Policy {
                last, hourly, daily, weekly, monthly, yearly, within, within_hourly, within_daily, within_weekly,
                within_monthly, within_yearly, tags: vec![vec!["t".into()]],
            };
            let removed = |snapshots: Vec<Snapshot>| -> std::collections::BTreeSet<TimeKey> {
                let groups = apply(snapshots, &policy, GroupBy::default(), &late(&TimeZone::UTC)).unwrap();
                groups.iter().flat_map(|group| group.remove.iter().map(|snapshot| snapshot.key)).collect()
            };
            let part = all().zip(hours.values()).filter(|(_, is_there)| **is_there).map(|(snapshot, _)| snapshot);
            prop_assert!(removed(part.collect()).is_subset(&removed(all().collect())));
        }

        #[test]
        fn rules_add_up_and_the_newest_always_stays(hours in prop::collection::vec(0i64..5000, 1..60), counts: [u8; 6]) {
            let base = 1_790_000_000;
            let snapshots = || hours.iter().map(|hour| at(Timestamp::from_second(base + hour * 1800).unwrap(), "h", "/r", &[]));
            let [last, hourly, daily, weekly, monthly, yearly] = counts.map(|count| Count(u32::from(count % 8)));
            let whole = Policy { last, hourly, daily, weekly, monthly, yearly, ..Policy::default() };
            prop_assume!(!whole.is_empty());
            let zone = TimeZone::get("America/New_York").unwrap();
            let keys = |policy: &Policy| -> std::collections::BTreeSet<_> {
                let groups = apply(snapshots().collect(), policy, GroupBy::default(), &late(&zone)).unwrap();
                groups.iter().flat_map(|group| group.keep.iter().map(|(kept, _)| kept.key)).collect()
            };
            let mut sum = std::collections::BTreeSet::new();
            for (period, count) in whole.counts().into_iter().filter(|(_, count)| *count != Count(0)) {
                let mut one = Policy::default();
                *match period {
                    Period::Last => &mut one.last,
                    Period::Hour => &mut one.hourly,
                    Period::Day => &mut one.daily,
                    Period::Week => &mut one.weekly,
                    Period::Month => &mut one.monthly,
                    Period::Year => &mut one.yearly,
                } = count;
                let kept = keys(&one);
                // Keys of one time are equal here, so that a set may have fewer.
                prop_assert!(kept.len() <= count.0 as usize);
                sum.extend(kept);
            }
            let kept = keys(&whole);
            prop_assert!(kept.contains(&snapshots().map(|snapshot| snapshot.key).max().unwrap()));
            prop_assert_eq!(kept, sum);
        }
    }
}
