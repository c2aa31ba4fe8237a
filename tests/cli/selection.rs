//! Which snapshots the commands are about: filters, times, clocks that are wrong, names that are not unique.

use std::process::{Command, Stdio};

use crate::lab::{Lab, Outcome, contents};

/// Years before any time at which this runs, so that nothing is dated in the future by chance.
const DAYS: [&str; 2] = ["2020-01-01 12:00", "2020-01-02 12:00:30.25"];
/// Not far from the end of the calendar.
const FUTURE: &str = "9999-12-30 21:59:59";

/// With two snapshots of two days, and one that is dated in the future. Each has a file `day` that says which.
fn with_a_future() -> Lab {
    let lab = Lab::new();
    for (number, day) in (1..).zip(DAYS) {
        lab.write("tree/day", &format!("{number}\n"));
        lab.ok(["backup", "tree", "-q", "--host", "h", "--time", day]);
    }
    lab.write("tree/day", "future\n");
    let outcome = lab.run(["backup", "tree", "-q", "--host", "h", "--time", FUTURE]);
    assert_eq!((outcome.status, outcome.out.as_str()), (Some(0), ""), "{outcome:?}");
    assert!(outcome.err.contains("dated 9999-12-30 21:59:59+00:00, in the future"), "{}", outcome.err);
    lab
}

/// What a command prints that warns of the future.
#[track_caller]
fn warned(outcome: Outcome) -> String {
    assert_eq!(outcome.status, Some(0), "{outcome:?}");
    assert_eq!(outcome.err.lines().count(), 1, "{}", outcome.err);
    assert!(outcome.err.contains("9999-12-30 21:59:59+00:00, in the future"), "{}", outcome.err);
    outcome.out
}

fn parse(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_snapshot_of_the_future_is_neither_latest_nor_parent_nor_counted() {
    let lab = with_a_future();
    assert_eq!(warned(lab.run(["cat", "latest:day"])), "2\n");
    assert_eq!(warned(lab.run(["cat", "latest~1:day"])), "1\n");
    warned(lab.run(["restore", "latest", "-t", "out"]));
    assert!(contents(&lab.path("out")).contains(&("day".into(), "2\n".to_owned())));
    assert_eq!(warned(lab.run(["snapshots"])).lines().count(), 4);
    let saved = warned(lab.run(["backup", "tree", "-q", "--host", "h", "--time", "2020-01-03", "--json"]));
    let saved = parse(saved.lines().last().unwrap());
    assert!(saved["parent"].as_str().unwrap().starts_with("20200102T120030.25"), "{saved}");
    assert_eq!(lab.ok(["cat", "2020-01-03:day"]), "future\n");
    let out = warned(lab.run(["forget", "--keep-within", "36h"]));
    assert!(out.contains("keep 3, remove 1") && out.contains("dated in the future"), "{out}");
    // All that is left is in the future.
    lab.ok([
        "forget",
        "--path",
        "tree",
        "--unsafe-allow-remove-all",
        "--keep-tag",
        "none",
        "--host",
        "other",
    ]);
    let out = lab.run(["forget", "--keep-tag", "none"]);
    assert!(out.status == Some(1) && out.err.contains("remove all 2 snapshots"), "{out:?}");
    warned(lab.run(["forget", "--keep-tag", "none", "--unsafe-allow-remove-all"]));
    assert_eq!(warned(lab.run(["cat", "latest:day"])), "future\n");
    warned(lab.run(["forget", "latest"]));
    assert!(lab.ok(["snapshots"]).starts_with("There are no snapshots"));
}

#[test]
fn the_end_of_the_calendar_is_no_panic_in_any_zone() {
    let lab = with_a_future();
    for zone in ["UTC", "EAST-14", "WEST12"] {
        for line in [
            "snapshots",
            "snapshots --json",
            "ls 9999-12-30",
            "forget --keep-within 1y --keep-weekly 2 --keep-yearly 2 -n",
            "forget latest -n --json",
            "backup tree -n",
            "check",
        ] {
            let output = lab.command(line.split(' ')).env("TZ", zone).output().unwrap();
            assert!(output.status.success(), "{zone} {line}: {output:?}");
        }
    }
}

#[test]
fn what_follows_from_a_snapshot_of_the_future_is_told_as_it_is() {
    let lab = Lab::new();
    lab.run(["backup", "tree", "-q", "--time", FUTURE]);
    let listed = lab.run(["snapshots"]);
    assert!(listed.err.contains("there is no other for `latest`"), "{}", listed.err);
    let saved = lab.run(["backup", "tree"]);
    assert!(saved.err.contains("compared with it, since there is no other"), "{}", saved.err);
    assert!(saved.out.contains("since    9999-12-30"), "{}", saved.out);
    assert!(lab.run(["backup", "tree"]).err.contains("compared with an earlier one"));
    assert!(lab.run(["snapshots"]).err.contains("`latest` means an earlier one"));
    lab.write(
        "profiles.toml",
        "[profile.p]\nrepo = 'repo'\nsources = 'tree'\nschedule = 'daily'\nkeep-last = 9\n",
    );
    let run = "--config profiles.toml -P p schedule run --force";
    let output = lab.command(run.split(' ')).output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && log.matches("in the future").count() == 1, "{log}");
}

/// Runs the program where the clock says something else.
fn run_at(lab: &Lab, clock: &str, line: &str) -> Outcome {
    let mut faketime = Command::new("faketime");
    faketime.arg(clock);
    lab.by(faketime, line.split(' ')).stdin(Stdio::null()).output().unwrap().into()
}

#[test]
fn a_clock_that_is_ahead_removes_nothing_by_a_length_of_time() {
    if !crate::programs::are_here(&["faketime"]) {
        return;
    }
    let lab = Lab::new();
    lab.write(
        "profiles.toml",
        "[profile.p]\nrepo = 'repo'\nsources = 'tree'\nschedule = 'daily'\nkeep-within = '30d'\nprune = true\n",
    );
    for day in ["2019-11-01", "2020-01-01", "2020-01-02", "2020-01-03"] {
        lab.write("tree/day", day);
        lab.ok(["backup", "tree", "-q", "--time", day]);
    }
    let run = "--config profiles.toml -P p schedule run --force --json";
    for (clock, removed) in [("2015-06-01", 0), ("2040-01-01", 2), ("2040-01-20", 0)] {
        let Outcome { status, out, err } = run_at(&lab, clock, run);
        assert_eq!(status, Some(0), "{clock}: {err}");
        // The first run of 2040 removes what is more than 30 days older than what was the newest.
        assert_eq!(parse(&out)["snapshots_removed"], removed, "{clock}: {out} {err}");
        let is_told = err.contains("no snapshots between 2020-01-03 00:00:00+00:00 and 2040-");
        assert_eq!(is_told, clock.starts_with("2040"), "{clock}: {err}");
    }
    assert_eq!(lab.ok(["cat", "2020-01-03:day"]), "2020-01-03");
    let Outcome { out, err, .. } =
        run_at(&lab, "2040-01-25", "forget --keep-within 30d --group-by= -n --json");
    let (out, err) = (parse(&out), parse(&err));
    assert!(err["gap"]["before"].as_str().unwrap().starts_with("2020"), "{err}");
    assert!(out["groups"][0]["reasons"].to_string().contains("within 30d, but for a gap"), "{out}");
    // What is new has the length of the rule by then.
    let Outcome { status, out, err } = run_at(&lab, "2040-02-01", run);
    assert_eq!((status, &parse(&out)["snapshots_removed"]), (Some(0), &4.into()), "{out} {err}");
    assert!(!err.contains("no snapshot is dated"), "{err}");
}

#[test]
fn a_clock_beyond_the_calendar_is_no_panic() {
    if !crate::programs::are_here(&["faketime"]) {
        return;
    }
    let lab = Lab::new();
    lab.write(
        "profiles.toml",
        "[profile.p]\nrepo = 'repo'\nsources = 'tree'\nschedule = 'daily'\nkeep-last = 9\n",
    );
    for clock in ["9999-12-31 00:00:00", "9999-12-30 21:59:59"] {
        for line in [
            "backup tree",
            "snapshots",
            "ls latest",
            "diff latest tree/",
            "restore latest -t out",
            "forget --keep-within 1y --keep-last 1 --prune",
            "check",
            "--config profiles.toml schedule show",
            "--config profiles.toml schedule next",
            "--config profiles.toml -P p schedule run --force",
        ] {
            let outcome = run_at(&lab, clock, line);
            assert_eq!(outcome.status, Some(0), "{clock} {line}: {outcome:?}");
        }
    }
    let outcome = lab.run(["backup", "tree", "--time", "9999-12-31"]);
    assert_eq!(outcome.status, Some(1), "{outcome:?}");
    assert!(outcome.err.contains("\"9999-12-31\" is out of range"), "{outcome:?}");
    assert!(!outcome.err.contains("parameter"), "{outcome:?}");
}

#[test]
fn a_time_names_everything_up_to_its_end() {
    let lab = with_a_future();
    let day = |name: &str| {
        let output = lab.command(["cat", &format!("{name}:day")]).stderr(Stdio::null()).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let listed = lab.run(["snapshots"]).out;
    let printed: Vec<_> =
        listed.lines().skip(1).map(|line| line[10..].trim_start()[..25].to_owned()).collect();
    assert_eq!(printed.len(), 3, "{listed}");
    for (name, day_of) in printed.iter().zip(["1\n", "2\n", "future\n"]) {
        assert_eq!(day(name), day_of, "{name}");
    }
    for name in ["2020-01-02", "2020-01-02 12:00", "2020-01-02 12:00:30", "2020-01-02 12:00:30.25", "today"] {
        assert_eq!(day(name), "2\n", "{name}");
    }
    for name in ["2020-01-02 12:00:29", "2020-01-02 11:59", "2020-01-02 12:00:30.2", "2020-01-01"] {
        assert_eq!(day(name), "1\n", "{name}");
    }
    let outcome = lab.run(["ls", "2019-12-31"]);
    assert!(outcome.err.contains("no snapshot at or before 2019-12-31 23:59:59+00:00"), "{outcome:?}");
    let outcome = lab.run(["cat", "9998-01-01:day"]);
    assert_eq!(outcome.out, "2\n");
    assert!(
        outcome.err.contains("9998-01-01 00:00:00+00:00 lies in the future: this is snapshot "),
        "{outcome:?}"
    );
}

#[test]
fn filters_choose_in_every_command_that_names_snapshots() {
    let lab = Lab::new();
    lab.write("more/only", "more\n");
    for (flags, source) in [
        (["--host", "a", "--tag", "x,y"], "tree"),
        (["--host", "b", "--tag", "x"], "more"),
        (["--host", "b", "--tag", "z"], "tree/letters"),
    ] {
        lab.ok(["backup", source, "-q"].into_iter().chain(flags));
    }
    for filter in [
        "--host a",
        "--path tree",
        "--tag y",
        "--tag x,y",
        "--host a --tag x",
        "--host a --host c --path tree/",
    ] {
        let with = |line: &str| lab.ok(line.split(' ').chain(filter.split(' ')));
        assert_eq!(with("cat latest:notes"), "notes\n", "{filter}");
        assert_eq!(with("ls latest").lines().count(), 5, "{filter}");
        assert_eq!(with("diff latest ./tree"), "no differences\n", "{filter}");
        assert_eq!(parse(&with("snapshots --json"))["snapshots"].as_array().unwrap().len(), 1, "{filter}");
        assert_eq!(parse(&with("forget --keep-last 1 -n --json"))["groups"].as_array().unwrap().len(), 1);
        assert_eq!(parse(&with("forget latest -n --json"))["snapshot_keys"].as_array().unwrap().len(), 1);
        let target = lab.path(filter);
        lab.ok(["restore", "latest", "-t", target.to_str().unwrap()].into_iter().chain(filter.split(' ')));
        assert_eq!(contents(&target).len(), 3, "{filter}");
        for line in ["ls latest~1", "forget latest~1", "cat 2019-01-01:notes", "diff latest latest~1"] {
            let outcome = lab.run(line.split(' ').chain(filter.split(' ')));
            assert_eq!(outcome.status, Some(1), "{line} {filter}: {outcome:?}");
            assert!(
                outcome.err.contains("no snapshot ")
                    && outcome.err.contains(" of host a") == filter.contains("host")
            );
        }
    }
    // An id that another one has.
    let id = parse(&lab.ok(["snapshots", "--host", "b", "--json"]))["snapshots"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(lab.ok(["cat", &format!("{id}:only")]), "more\n");
    assert_eq!(lab.run(["forget", &id, "--host", "a"]).status, Some(1));
    lab.ok(["forget", &id, "--host", "b"]);
    assert_eq!(lab.ok(["snapshots", "--tag", "none"]), "There is no snapshot tagged none\n");
}

#[test]
fn records_of_one_id_are_named_by_their_keys() {
    let lab = Lab::new();
    // Until the files are old enough to count as unchanged.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    for time in ["2020-01-05", "2020-01-01", "2020-01-02"] {
        lab.ok(["backup", "tree", "-q", "--host", "h", "--time", time]);
    }
    let listed = parse(&lab.ok(["snapshots", "--json"]))["snapshots"].clone();
    let of = |number: usize, what: &str| listed[number][what].as_str().unwrap().to_owned();
    assert_eq!(of(0, "id"), of(1, "id"), "both have the same parent and content");
    let outcome = lab.run(["forget", &of(0, "id")]);
    assert_eq!(outcome.status, Some(1));
    for key in [of(0, "key"), of(1, "key")] {
        assert!(outcome.err.contains(&key), "{}", outcome.err);
        assert_eq!(lab.ok(["cat", &format!("{key}:notes")]), "notes\n");
        assert_eq!(lab.ok(["snapshots"]).matches(&key).count(), 1);
    }
    let planned = lab.ok(["forget", "--keep-last", "9", "-n"]) + &lab.ok(["forget", &of(0, "key"), "-n"]);
    for (key, lines) in [(of(0, "key"), 2), (of(1, "key"), 1), (of(2, "key"), 0)] {
        assert_eq!(planned.matches(&key).count(), lines, "{planned}");
    }
    assert_eq!([of(0, "short_id"), of(1, "short_id")], [of(0, "key"), of(1, "key")]);
    assert_eq!(of(2, "short_id"), of(2, "id")[..8]);
    lab.ok(["forget", &of(0, "key")]);
    assert_eq!(parse(&lab.ok(["snapshots", "--json"]))["snapshots"][0]["key"], of(1, "key"));
}

#[test]
fn whatever_names_a_snapshot_names_one() {
    let lab = Lab::new();
    // Until the files are old enough to count as unchanged.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let backup = |time: &str, option: &str| lab.ok(["backup", "tree", option, "--host", "h", "--time", time]);
    let saved =
        |out: &str| out.split_once("Saved snapshot ").unwrap().1.split(':').next().unwrap().to_owned();
    let alone = saved(&backup("2020-01-05", "--one-file-system"));
    assert_eq!(alone.len(), 8);
    backup("2020-01-01", "-q");
    let shared = saved(&backup("2020-01-02", "--one-file-system"));
    let summary = parse(backup("2020-01-03", "--json").lines().last().unwrap());
    for name in [&alone, &shared, summary["snapshot_id"].as_str().unwrap()] {
        assert_eq!(lab.ok(["cat", &format!("{name}:notes")]), "notes\n");
    }
    let restored = lab.ok(["restore", &shared, "-t", "restored"]);
    assert!(restored.contains(&format!("snapshot {shared} ")), "{restored}");
    let restored = lab.ok(["restore", &shared, "-t", "again", "--json"]);
    assert_eq!(parse(restored.lines().last().unwrap())["snapshot_id"], *shared);
    let outcome = lab.run(["ls", &format!("{shared}:nothing")]);
    assert!(outcome.err.contains(&shared), "{outcome:?}");
    // What is dated in the future is told with the command that removes it.
    let late = |time: &str| lab.run(["backup", "tree", "-q", "--host", "h", "--time", time]);
    late("2100-01-02");
    let forget = || {
        let err = lab.run(["ls", "latest"]).err;
        err.split_once("`treering forget ").map(|(_, rest)| rest.split('`').next().unwrap().to_owned())
    };
    late("2100-01-03");
    for _ in 0..2 {
        let name = forget().unwrap();
        assert_eq!(lab.run(["forget", &name]).status, Some(0), "{name}");
    }
    assert_eq!(forget(), None);
}

#[test]
fn a_repository_is_no_url() {
    let lab = Lab::bare();
    let urls = [
        "s3:host/bucket",
        "sftp:host:rings",
        "rclone:there:rings",
        "https://host/rings",
        "me@host:rings",
        "host:rings",
        "host:/srv/rings",
    ];
    for url in urls {
        let clone = format!("clone tree {url}");
        for line in ["init", "snapshots", "backup tree", "blob init", &clone] {
            let outcome = lab.run(["-r", url].into_iter().chain(line.split(' ')));
            assert_eq!(outcome.status, Some(1), "{outcome:?}");
            assert!(outcome.err.contains("put ./ before its name"), "{}", outcome.err);
            assert!(
                outcome.err.contains("looks like a URL") && outcome.err.contains("remote add"),
                "{}",
                outcome.err
            );
        }
    }
    let outcome = lab.run(["clone", "tree", "new/below/rings"]);
    assert_eq!(outcome.status, Some(1), "{outcome:?}");
    let left: Vec<_> =
        std::fs::read_dir(lab.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["tree"]);
    lab.ok(["-r", "./s3:here", "init"]);
    lab.ok(["-r", "./host:path", "init"]);
    lab.ok(["-r", "host:path", "snapshots"]);
    lab.ok(["-r", "s3:here", "snapshots"]);
}

#[test]
fn with_json_failures_and_warnings_are_objects() {
    let lab = with_a_future();
    for (line, code) in [("ls nothing --json", 1), ("--json -r nowhere snapshots", 10), ("--json bogus", 1)] {
        let outcome = lab.run(line.split(' '));
        let error = parse(&outcome.err);
        assert_eq!(error["message_type"], "exit_error", "{error}");
        assert_eq!((error["code"].as_i64(), outcome.status), (Some(code), Some(code as i32)), "{error}");
        assert!(error["message"].as_str().unwrap().len() > 10, "{error}");
    }
    let warning = parse(&lab.run(["ls", "latest", "--json"]).err);
    assert_eq!(warning["message_type"], "warning");
}
