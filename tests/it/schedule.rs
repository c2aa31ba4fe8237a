//! Schedules, beside the calendar of systemd.

use std::path::Path;
use std::process::Command;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use treering::schedule::{Installer, Moment, Profiles, upcoming};

use crate::programs;

const SCHEDULES: [&str; 12] = [
    "hourly at :15",
    "daily at 03:00, 15:30",
    "weekdays at 18:00",
    "weekly",
    "weekly on sun, wed at 04:05",
    "monthly on 1, 15, last at 23:59",
    "monthly on 31",
    "yearly",
    "*/7 2-4 * * *",
    "0 0 13 * fri",
    "30 8-18/5 29 feb,mar *",
    "@weekly",
];

/// The first times after `after` at which systemd would start a timer with the expression `calendar`.
fn elapses(calendar: &str, after: Timestamp) -> Vec<Timestamp> {
    let mut command = Command::new("systemd-analyze");
    command.env("TZ", "UTC").env("LC_ALL", "C").args(["calendar", "--iterations=10"]);
    command.arg(format!("--base-time={}", after.strftime("%Y-%m-%d %H:%M:%S"))).arg(calendar);
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{calendar}: {text}{}", String::from_utf8_lossy(&output.stderr));
    let time = |line: &str| {
        let time = line.split_once("Next elapse: ").or_else(|| line.split_once("Iter. #"))?.1;
        let (date, clock) = time.strip_suffix(" UTC")?.rsplit_once(' ')?;
        format!("{}T{clock}Z", date.rsplit_once(' ')?.1).parse().ok()
    };
    text.lines().filter_map(time).collect()
}

#[test]
fn timers_of_systemd_elapse_when_the_daemon_would_run() {
    if !programs::are_here(&["systemd-analyze"]) {
        return;
    }
    let config = Path::new("/etc/treering/treering.toml");
    let installer = Installer::new(Path::new("/usr/bin/treering"), config, true).unwrap();
    let now: Timestamp = "2026-11-20T19:55:12Z".parse().unwrap();
    for schedule in SCHEDULES {
        let text = format!("[profile.p]\nrepo = '/r'\nsources = '/s'\nschedule = '{schedule}'");
        let profiles = Profiles::parse(&text, config, None).unwrap();
        let profile = profiles.get("p").unwrap();
        let [_, timer] = installer.units(profile).unwrap();
        let calendars = timer.text.lines().filter_map(|line| line.strip_prefix("OnCalendar="));
        let mut theirs: Vec<_> = calendars.flat_map(|calendar| elapses(calendar, now)).collect();
        theirs.sort_unstable();
        theirs.dedup();
        let moment = Moment { now, zone: &TimeZone::UTC, since: now, host: "elm" };
        let ours: Vec<_> = upcoming(profile, &moment).take(10).collect();
        theirs.truncate(10);
        assert_eq!(ours, theirs, "{schedule}");
    }
}

#[test]
fn zones_by_name_keep_one_run_a_day_through_their_changes() {
    let midnight: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    for name in
        ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Santiago", "Africa/Casablanca"]
    {
        // Not every machine has the names of zones.
        let Ok(zone) = TimeZone::get(name) else { continue };
        for minute in (0..24 * 60).step_by(10) {
            let clock = format!("{:02}:{:02}", minute / 60, minute % 60);
            let text = format!("[profile.p]\nrepo = '/r'\nsources = '/s'\nschedule = 'daily at {clock}'");
            let profiles = Profiles::parse(&text, Path::new("/p.toml"), None).unwrap();
            let moment = Moment { now: midnight, zone: &zone, since: midnight, host: "elm" };
            let times: Vec<_> = upcoming(profiles.get("p").unwrap(), &moment).take(400).collect();
            for pair in times.windows(2) {
                let (one, two) = (zone.to_datetime(pair[0]).date(), zone.to_datetime(pair[1]).date());
                assert_eq!(one.tomorrow().unwrap(), two, "{name} {clock}");
                let gap = pair[1].duration_since(pair[0]);
                assert!((22..=26).contains(&gap.as_hours()) && gap > SignedDuration::ZERO, "{name} {clock}");
            }
        }
    }
}
