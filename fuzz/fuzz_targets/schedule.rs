//! Text as a rule, as the configuration of profiles, as what is known of earlier runs, and as a crontab.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use treering::schedule::{History, Installer, Moment, Profiles, Rule, due_at, upcoming};

fuzz_target!(|text: &str| {
    // What jiff embeds or the system has; with gaps and repeats.
    let zone = jiff::tz::TimeZone::get("America/New_York").unwrap_or(jiff::tz::TimeZone::UTC);
    let now: jiff::Timestamp = "2026-10-31T23:30:00Z".parse().unwrap();
    let times = |rule: &Rule| {
        let mut after = now;
        for _ in 0..20 {
            let Some(next) = rule.next(after, &zone) else { break };
            assert!(next > after, "{rule}");
            after = next;
        }
    };
    if let Ok(rule) = text.parse::<Rule>() {
        times(&rule);
        assert_eq!(rule.to_string().parse::<Rule>().as_ref(), Ok(&rule));
    }
    let installer = Installer::new(Path::new("/treering"), Path::new("/treering.toml"), true).unwrap();
    let history = serde_json::from_str::<History>(text);
    let history = history.unwrap_or_else(|_| History::new(now));
    let moment = Moment { now, zone: &zone, since: now, host: "host" };
    if let Ok(profiles) = Profiles::parse(text, Path::new("/etc/treering.toml"), Some(Path::new("/root"))) {
        for profile in profiles.iter() {
            let _ = due_at(profile, &history, &moment);
            let _ = upcoming(profile, &moment).take(20).count();
            let _ = (profile.keep_flags(), installer.units(profile));
        }
    }
    let known = "[profile.a]\nrepo = 'r'\nsources = 's'\nschedule = 'daily at 03:00'\njitter = '1h'";
    let known = Profiles::parse(known, Path::new("/etc/treering.toml"), None).unwrap();
    let _ = due_at(known.get("a").unwrap(), &history, &moment);
    let with = installer.crontab(text, true);
    assert_eq!(installer.crontab(&with, true), with);
    let without = installer.crontab(&with, false);
    assert_eq!(installer.crontab(&without, false), without);
});
