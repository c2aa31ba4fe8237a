//! Profiles, and backups that run by themselves.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::encryption::{IDENTITY, RECIPIENT};
use crate::lab::{Lab, Outcome, contents, interruption, make_pipe};
use crate::programs;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What hooks call to leave a trace.
const TRACE: &str =
    r#"echo "$0 $TREERING_PROFILE $TREERING_STATUS ${TREERING_SNAPSHOT:+saved} $TREERING_ERROR" >> trace"#;

/// A lab whose home has profiles.
struct Home(Lab);

impl Home {
    /// With `profiles` below the defaults: a repository `rings`, and the tree as source.
    fn new(profiles: &str) -> Self {
        let home = Self(Lab::bare());
        home.profiles(profiles);
        home.ok("-r rings init");
        home
    }

    fn profiles(&self, profiles: &str) {
        let defaults = "[default]\nrepo = '~/rings'\nsources = '~/tree'\nhost = 'elm'\n";
        self.0.write("config/treering/treering.toml", &format!("{defaults}{profiles}"));
    }

    fn command<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = self.0.command(arguments);
        command.env("HOME", self.0.path("")).env("XDG_CONFIG_HOME", self.0.path("config"));
        command.env("XDG_STATE_HOME", self.0.path("state")).env("TREERING_REPOSITORY", "nowhere");
        command.env_remove("TREERING_CONFIG").env_remove("JOURNAL_STREAM");
        command
    }

    fn run(&self, line: &str) -> Outcome {
        self.command(line.split(' ')).output().unwrap().into()
    }

    #[track_caller]
    fn ok(&self, line: &str) -> String {
        let outcome = self.run(line);
        assert_eq!(outcome.status, Some(0), "{line}: {outcome:?}");
        outcome.out
    }

    #[track_caller]
    fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.ok(line)).unwrap()
    }

    #[track_caller]
    fn fails(&self, line: &str, status: i32, message: &str) {
        let outcome = self.run(line);
        assert_eq!(outcome.status, Some(status), "{line}: {outcome:?}");
        assert!(outcome.err.contains(message), "{line}: {}", outcome.err);
        assert_eq!(outcome.err.lines().count(), 1, "{line}: {}", outcome.err);
    }

    fn snapshots(&self) -> Vec<Value> {
        self.json("-r rings snapshots --json")["snapshots"].as_array().unwrap().clone()
    }

    /// What `show` says of a profile.
    fn shown(&self, name: &str) -> Value {
        self.json(&format!("-P {name} schedule show --json"))["profiles"][0].clone()
    }

    fn trace(&self) -> String {
        fs::read_to_string(self.0.path("trace")).unwrap_or_default()
    }

    /// Starts the program, with its log in the file `log`.
    fn start(&self, line: &str) -> Running {
        let log = OpenOptions::new().create(true).append(true).open(self.0.path("log")).unwrap();
        let mut command = self.command(line.split(' '));
        Running(command.stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.0.path("log")).unwrap()
    }

    /// Waits until a backup reads its patterns from the named pipe, and returns the end that holds it there.
    fn held(&self) -> File {
        let nonblock = rustix::fs::OFlags::NONBLOCK.bits() as i32;
        let mut pipe = None;
        // Without a reader this fails at once.
        wait_until("a backup reads the pipe", || {
            pipe = OpenOptions::new().write(true).custom_flags(nonblock).open(self.0.path("pipe")).ok();
            pipe.is_some()
        });
        pipe.unwrap()
    }
}

/// A process that is killed if the test fails.
struct Running(Child);

impl Running {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    /// The exit status.
    fn end(mut self) -> Option<i32> {
        self.0.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended as it should.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[track_caller]
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_profile_stands_for_flags_and_the_command_line_wins() {
    let home = Home::new("[profile.p]\nexclude = ['two']\ntag = ['a', 'b']\npush = 'hub'\n");
    let hub = Command::new("git").args(["init", "-q", "--bare"]).arg(home.0.path("hub.git")).status();
    assert!(hub.expect("the program git is installed").success());
    home.ok("-P p remote add hub hub.git");
    let out = home.ok("-P p backup");
    assert!(out.contains("\nPushed to hub: 1 snapshot in "), "{out}");
    assert!(!home.ok("backup -P p --no-push").contains("Pushed"));
    assert!(home.ok("push -P p").starts_with("Pushed to hub: 1 snapshot in "));
    home.ok("backup -P p --no-push --tag c -e one -H oak tree/letters");
    let snapshots = home.snapshots();
    let first =
        (&snapshots[0]["tags"], &snapshots[0]["hostname"], &snapshots[0]["summary"]["total_files_processed"]);
    assert_eq!(first, (&serde_json::json!(["a", "b"]), &"elm".into(), &2.into()));
    let last =
        (&snapshots[2]["tags"], &snapshots[2]["hostname"], &snapshots[2]["summary"]["total_files_processed"]);
    assert_eq!(last, (&serde_json::json!(["c"]), &"oak".into(), &1.into()));
    home.ok("-P p restore latest~1 -t out");
    assert_eq!(contents(&home.0.path("out")).len(), 2);
    home.fails("-P p -r elsewhere snapshots", 10, "make one with `treering init`");
    home.fails("snapshots", 10, "nowhere");
}

#[test]
fn a_profile_has_the_key_of_an_encrypted_repository() {
    let home = Home::new("[profile.p]\nrepo = '~/vault'\nidentity = '~/key'\nkeep-last = 1\nprune = true\n");
    home.0.write("key", IDENTITY);
    home.ok(&format!("-r vault init --encrypt --recipient {RECIPIENT}"));
    home.ok("-P p schedule run --force");
    home.0.write("tree/notes", "changed");
    home.ok("-P p schedule run --force");
    assert_eq!(home.json("-P p snapshots --json")["snapshots"].as_array().unwrap().len(), 1);
    assert_eq!(home.ok("-P p cat latest:notes"), "changed");
    home.ok("-P p check --read-data");
    assert_eq!(home.run("-r vault prune").status, Some(12));
    home.ok("-P p restore latest --target out");
    assert_eq!(contents(&home.0.path("out")), contents(&home.0.path("tree")));
}

#[test]
fn what_is_wrong_with_profiles_is_one_line() {
    let home = Home::new("[profile.letters]\nschedule = 'daily'\n[profile.rest]\n");
    home.fails("-P leters backup", 1, "did you mean \"letters\"?");
    home.fails("--config none -P p backup", 1, "cannot read the profiles in ");
    home.fails("-r rings schedule show", 1, "-r has no meaning here");
    home.fails("-P rest schedule daemon", 1, "leave out -P");
    home.fails("-P rest schedule run", 1, "profile rest has no schedule");
    home.fails("-P rest schedule install", 1, "profile rest has no schedule");
    home.fails("schedule next --now soon", 1, "--now cannot be used");
    home.fails("-r rings backup", 1, "name at least one directory");
    home.profiles("[profile.p]\nshedule = 'daily'\n");
    home.fails("-P p backup", 1, "treering.toml:6: unknown key \"shedule\": did you mean \"schedule\"?");
    fs::remove_file(home.0.path("config/treering/treering.toml")).unwrap();
    home.fails("schedule show", 1, "there are no profiles: write some into ");
}

#[test]
fn what_comes_next_is_told_to_people_and_programs() {
    let home = Home::new(
        "[profile.a]\nschedule = 'daily at 03:00'\n[profile.b]\nschedule = 'hourly'\n[profile.c]\n",
    );
    let out = home.ok("schedule next -n 3 --now 2026-11-20T01:30Z");
    assert_eq!(out, "2026-11-20 02:00:00  b\n2026-11-20 03:00:00  a\n2026-11-20 03:00:00  b\n");
    let next = home.json("-P a schedule next --count 2 --json --now 2026-11-20T01:30Z");
    assert_eq!(next["runs"][1], serde_json::json!({ "due": "2026-11-21T03:00:00Z", "profile": "a" }));
    let out = home.ok("schedule show --now 2026-11-20T01:30Z");
    let lines: Vec<_> = out.lines().map(|line| line.split("  ").map(str::trim).collect::<Vec<_>>()).collect();
    assert_eq!(lines.len(), 4, "{out}");
    assert!(out.contains("a        daily at 03:00  never             2026-11-20 03:00:00\n"), "{out}");
    let shown = home.shown("b");
    assert_eq!(
        (&shown["schedule"], &shown["last"], &shown["failures"]),
        (&"hourly".into(), &Value::Null, &0.into())
    );
}

#[test]
fn what_is_due_runs_once_and_what_was_missed_is_made_up_for() {
    let home = Home::new("[profile.a]\nschedule = 'daily at 03:00'\n[profile.b]\nschedule = 'weekly'\n");
    let run = |now: &str| {
        home.ok(&format!("schedule run --now 2026-11-{now}Z"));
        home.snapshots().len()
    };
    assert_eq!(run("20T01:30"), 0, "it is seen for the first time");
    assert_eq!(run("20T02:59"), 0);
    assert_eq!(run("20T03:00"), 1);
    assert_eq!(run("20T03:01"), 1);
    assert_eq!(run("22T12:00"), 2, "two days are made up for by one run");
    assert_eq!(run("23T03:00"), 4, "both are due");
    let last = home.shown("a")["last"].clone();
    let times = (&last["due"], &last["started"], &last["result"]);
    assert_eq!(times, (&"2026-11-23T03:00:00Z".into(), &"2026-11-23T03:00:00Z".into(), &"done".into()));
    let outcome = home.run("-P a schedule run --now 2026-11-23T04:00Z");
    assert!(outcome.err.contains("a: not due before 2026-11-24 03:00:00"), "{outcome:?}");
    let run = home.json("-P a schedule run --force --json --now 2026-11-23T04:00Z");
    assert_eq!(
        (&run["message_type"], &run["result"], &run["error_count"]),
        (&"run".into(), &"done".into(), &0.into())
    );
    assert_eq!(run["snapshot_id"], home.snapshots()[4]["id"]);
}

#[test]
fn hooks_run_in_order_and_know_how_it_went() {
    let hooks = ["before", "after", "failed", "finally"];
    let hooks = hooks.map(|name| format!("run-{name} = ['set -- {name}; {}']\n", TRACE.replace("$0", "$1")));
    let hooks = hooks.concat().replace("['", "['''").replace("']", "''']");
    let home = Home::new(&format!(
        "schedule = 'daily'\n{hooks}\
         [profile.good]\n\
         [profile.none]\nsources = '~/gone'\n\
         [profile.early]\nrun-before = 'exit 7'\n\
         [profile.late]\nrun-after = ['true', 'false', 'echo never >> trace']\n\
         [profile.part]\nignore-file = '.leave'\nsources = '~/other'\n\
         [profile.some]\nignore-file = '.leave'\nsources = '~/other'\nrun-partial = 'echo some >> trace; false'\n"
    ));
    home.0.write("other/.leave", "[z-a]\n");
    let forced = |name: &str, status| {
        let _ = fs::remove_file(home.0.path("trace"));
        let outcome = home.run(&format!("-P {name} schedule run --force"));
        assert_eq!((outcome.status, outcome.out.as_str()), (Some(status), ""), "{name}: {outcome:?}");
        assert_eq!(outcome.err.matches(&format!("{name}: started")).count(), 1, "{outcome:?}");
        (home.trace(), outcome.err)
    };
    assert_eq!(forced("good", 0).0, "before good   \nafter good done saved \nfinally good done saved \n");
    let (trace, log) = forced("none", 1);
    let error =
        format!("cannot back up {}: No such file or directory (os error 2)", home.0.path("gone").display());
    assert_eq!(trace, format!("before none   \nfailed none failed  {error}\nfinally none failed  {error}\n"));
    assert!(log.contains(&format!("ERROR none: failed: {error} (")) && log.contains("; again at "), "{log}");
    let error = "run-before failed with exit status 7: exit 7";
    assert_eq!(
        forced("early", 1).0,
        format!("failed early failed  {error}\nfinally early failed  {error}\n")
    );
    let error = "run-after failed with exit status 1: false";
    let expected =
        format!("before late   \nfailed late failed saved {error}\nfinally late failed saved {error}\n");
    assert_eq!(forced("late", 1).0, expected);
    let (trace, log) = forced("part", 3);
    let error = "1 file could not be read";
    let expected =
        format!("before part   \nfailed part partial saved {error}\nfinally part partial saved {error}\n");
    assert_eq!(trace, expected);
    let file = home.0.path("other/.leave");
    let told =
        format!(": cannot use the pattern of line 1 in {}: \"[z-a]\" is not a pattern", file.display());
    assert!(log.contains("WARN part: some patterns are ignored in ") && log.contains(&told), "{log}");
    assert!(log.contains("1 file not read"), "{log}");
    let (trace, _) = forced("some", 3);
    assert_eq!(trace, format!("before some   \nsome\nfinally some partial saved {error}\n"));
    assert_eq!(home.shown("none")["failures"], 1);
    assert_eq!(home.snapshots().len(), 4);
}

#[test]
fn a_flag_replaces_only_its_own_part_of_what_a_profile_chooses() {
    let home = Home::new("[profile.work]\n[profile.mail]\nsources = '~/mail'\n");
    home.0.write("mail/notes", "mail\n");
    home.ok("-P work backup --tag rel");
    home.ok("-P mail backup --tag rel");
    home.0.write("tree/notes", "later\n");
    home.ok("-P work backup");
    home.ok("-P mail backup --host oak --tag oak");

    assert_eq!(home.ok("-P work cat latest:notes --tag rel"), "notes\n");
    assert!(home.ok("-P work ls latest --tag rel").contains("letters"));
    home.ok("-P work restore latest --tag rel --delete -t out");
    assert!(contents(&home.0.path("out")).contains(&("notes".into(), "notes\n".to_owned())));
    assert_eq!(home.ok("-P work diff latest ./tree --tag rel"), "M  notes\n1 updated\n");
    let count = |line: &str| home.json(line)["snapshots"].as_array().unwrap().len();
    assert_eq!(count("-P work snapshots --json --tag rel"), 1);
    // The paths stay those of the profile, and so does the host.
    assert_eq!(count("-P work snapshots --json --host oak"), 0);
    assert_eq!(count("-P mail snapshots --json --host oak"), 1);
    assert_eq!(count("-P work snapshots --json --path mail"), 1);
    home.fails("-P work cat latest:notes --tag oak", 1, "no snapshot at all of host elm, of ");
    home.fails("-P work forget latest --tag oak", 1, "no snapshot at all of host elm, of ");
    let planned = home.json("-P work forget --tag rel --keep-tag none --unsafe-allow-remove-all --json");
    assert_eq!(planned["snapshot_ids"].as_array().unwrap().len(), 1, "{planned}");
    assert_eq!(count("-P mail snapshots --json"), 1);

    // A profile without sources still has its host.
    home.0.write("config/treering/treering.toml", "[profile.oak]\nrepo = '~/rings'\nhost = 'oak'\n");
    assert_eq!(count("-P oak snapshots --json"), 1);
    assert_eq!(count("-P oak snapshots --json --tag rel"), 0);
    assert_eq!(count("-P oak snapshots --json --host elm"), 2);
}

#[test]
fn a_profile_chooses_its_own_snapshots_in_every_command() {
    let home = Home::new(
        "[profile.work]\nsources = ['~/tree', '~/tree/']\nkeep-last = 1\n[profile.more]\nsources = '~/more'\n",
    );
    home.0.write("more/only", "more\n");
    home.ok("-P work backup");
    home.ok("-P more backup");
    assert_eq!(home.ok("-P work cat latest:notes"), "notes\n");
    assert_eq!(home.ok("-P more cat latest:only"), "more\n");
    assert!(!home.ok("-P work ls latest").contains("only"));
    assert_eq!(home.ok("-P work diff latest ./tree"), "no differences\n");
    home.ok("-P work restore latest -t out");
    assert_eq!(contents(&home.0.path("out")).len(), 3);
    assert_eq!(home.json("-P work snapshots --json")["snapshots"].as_array().unwrap().len(), 1);
    home.fails("-P work ls latest~1", 1, "no snapshot latest~1 of host elm, of ");
    home.fails("-P work forget latest~1", 1, "no snapshot latest~1 of host elm, of ");
    // What the command line chooses wins, and an id is of any profile.
    assert_eq!(home.ok("-P work cat latest:only --path more"), "more\n");
    let other = home.json("-P more snapshots --json")["snapshots"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(home.ok(&format!("-P work cat {other}:only")), "more\n");
    // One directory that is named twice is one.
    home.ok("-P work backup");
    assert!(home.ok("-P work forget").contains("Removed 1 snapshot"));

    let output = home.command(["snapshots", "--json"]).env("TREERING_PROFILE", "more").output().unwrap();
    let listed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(listed["snapshots"][0]["id"], other.as_str());
    // Without a profile the defaults still name the repository.
    let without = |line: &str| {
        home.command(line.split(' '))
            .env_remove("TREERING_REPOSITORY")
            .env("TREERING_PROFILE", "")
            .output()
            .unwrap()
    };
    let listed: Value = serde_json::from_slice(&without("snapshots --json").stdout).unwrap();
    assert_eq!(listed["snapshots"].as_array().unwrap().len(), 2);
    home.0.write("config/treering/treering.toml", "[default]\nrepo = 's3:host/bucket'\n");
    let refused = without("init");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("looks like a URL"), "{refused:?}");
}

#[test]
fn a_run_keeps_what_it_has_saved_whatever_the_rules_say() {
    let home = Home::new("[profile.p]\nkeep-tag = 'k'\n");
    home.ok("-P p backup --tag k");
    let first = home.json("-P p schedule run --force --json");
    let second = home.json("-P p schedule run --force --json");
    assert_eq!((&first["snapshots_removed"], &second["snapshots_removed"]), (&0.into(), &1.into()));
    let left = home.snapshots();
    assert_eq!((left.len(), &left[1]["id"]), (2, &second["snapshot_id"]));
}

#[test]
fn runs_without_a_source_do_not_push_out_what_has_it() {
    let home = Home::new("[profile.p]\nsources = ['~/tree', '~/disk']\nkeep-last = 2\nprune = true\n");
    home.0.write("disk/only", "only here\n");
    home.ok("-P p schedule run --force");
    fs::rename(home.0.path("disk"), home.0.path("away")).unwrap();
    for _ in 0..3 {
        let outcome = home.run("-P p schedule run --force");
        assert_eq!(outcome.status, Some(3), "{outcome:?}");
    }
    let told = home.json("-P p forget --keep-last 2 --dry-run --json");
    let kept = told["groups"][0]["reasons"].as_array().unwrap();
    let matches: Vec<_> = kept.iter().map(|kept| kept["matches"][0].as_str().unwrap()).collect();
    let having = format!("last snapshot, of those that have {}", home.0.path("disk").display());
    assert_eq!(matches, ["last snapshot", "last snapshot", &having], "{told}");
    let id = kept[2]["snapshot"]["id"].as_str().unwrap();
    let path = home.0.path("disk/only");
    assert_eq!(home.ok(&format!("-P p cat {id}:{}", path.display())), "only here\n");
    fs::rename(home.0.path("away"), home.0.path("disk")).unwrap();
    home.ok("-P p schedule run --force");
    home.ok("-P p schedule run --force");
    assert_eq!(home.snapshots().len(), 2, "as if it had never been away");
}

#[test]
fn a_run_whose_rules_keep_nothing_removes_nothing_and_says_what_to_write() {
    let home = Home::new("[profile.p]\nkeep-tag = 'k'\nrun-partial = 'echo $TREERING_ERROR > trace'\n");
    home.ok("-P p backup");
    home.ok("-P p backup --host other");
    for before in 1..3 {
        let outcome = home.run("-P p schedule run --force --json");
        assert_eq!(outcome.status, Some(3), "{outcome:?}");
        assert!(outcome.err.contains(&format!("keep none of {} earlier", before)), "{outcome:?}");
        assert!(outcome.err.contains("keep-last = 1"), "{outcome:?}");
        assert_eq!(serde_json::from_str::<Value>(&outcome.out).unwrap()["snapshots_removed"], 0);
        assert_eq!(home.snapshots().len(), before + 2);
        assert!(home.trace().contains("keep no snapshot, so none is removed"), "{}", home.trace());
    }
}

#[test]
fn a_hook_finds_the_profile_that_it_runs_for() {
    let home = Home::new("[profile.p]\n");
    fs::rename(home.0.path("config/treering/treering.toml"), home.0.path("other.toml")).unwrap();
    let config = fs::read_to_string(home.0.path("other.toml")).unwrap();
    let program = env!("CARGO_BIN_EXE_treering");
    home.0.write(
        "other.toml",
        &format!("{config}run-after = 'cd / && {program} snapshots --json > \"$HOME/listed\"'\n"),
    );
    home.ok("--config other.toml -P p schedule run --force");
    let listed: Value = serde_json::from_slice(&fs::read(home.0.path("listed")).unwrap()).unwrap();
    assert_eq!(listed["snapshots"][0]["hostname"], "elm");
}

#[test]
fn a_run_removes_what_its_own_profile_does_not_keep() {
    let home = Home::new(
        "[profile.few]\nkeep-last = 2\nprune = true\n\
         [profile.both]\nsources = ['~/tree', '~/more']\n\
         [profile.all]\nsources = '~/more'\nkeep-daily = 'unlimited'\nkeep-last = 'unlimited'\n",
    );
    home.0.write("more/file", "more");
    home.ok("-P both backup");
    home.ok("-P both backup");
    let mut report = Value::Null;
    for round in 0..4 {
        home.0.write("tree/large", &format!("{round}\n").repeat(100_000));
        home.ok("-P all schedule run --force -q");
        report = home.json("-P few schedule run --force --json");
    }
    assert_eq!(report["snapshots_removed"], 1);
    assert!(report["bytes_freed"].as_u64().unwrap() > 0, "{report}");
    let roots: Vec<_> = home.snapshots().iter().map(|one| one["paths"].as_array().unwrap().len()).collect();
    assert_eq!(roots, [2, 2, 1, 1, 1, 1, 1, 1]);
    home.ok("-r rings check --read-data");
    assert!(home.ok("-P few forget --keep-last 1 -n").contains("Would remove 1 snapshot\n"));
    assert!(home.ok("-P few forget").contains("Removed no snapshot\n"));
    assert!(home.ok("-P both forget --keep-last 1").contains("Removed 1 snapshot"));
}

#[test]
fn a_run_that_is_stopped_ends_in_order() {
    let home = Home::new(&format!(
        "[profile.p]\nexclude-file = '~/pipe'\nrun-after = 'echo never >> trace'\nrun-finally = '''set -- end; {}'''\n",
        TRACE.replace("$0", "$1")
    ));
    make_pipe(&home.0.path("pipe"));
    let run = home.start("-P p schedule run --force");
    let pipe = home.held();
    assert_eq!(home.shown("p")["last"]["result"], "running");
    run.signal(Signal::TERM);
    // The signals are taken by threads of their own, of which nothing can be seen from here.
    std::thread::sleep(Duration::from_secs(1));
    drop(pipe);
    assert_eq!(run.end(), Some(130), "{}", home.log());
    assert_eq!(home.trace(), "end p interrupted  interrupted\n");
    assert_eq!(home.shown("p")["last"]["result"], "interrupted");
    assert!(home.snapshots().is_empty());
    // The second signal ends what the first cannot.
    let run = home.start("-P p schedule run --force");
    let _pipe = home.held();
    wait_until("it ends", || {
        run.signal(interruption());
        home.shown("p")["last"]["result"] == "interrupted"
    });
    assert_eq!(run.end(), Some(130), "{}", home.log());
}

#[test]
fn a_run_that_is_killed_is_known_to_have_begun_and_its_repository_stays_its_own() {
    let home = Home::new("[profile.p]\nexclude-file = '~/pipe'\nschedule = 'daily'\n[profile.q]\n");
    make_pipe(&home.0.path("pipe"));
    let run = home.start("-P p schedule run --force");
    let pipe = home.held();
    run.signal(Signal::KILL);
    assert_eq!(run.end(), None);
    // Its backup lives on, and nobody else begins.
    let shown = home.shown("p");
    assert_eq!((&shown["last"]["result"], &shown["failures"]), (&"running".into(), &1.into()));
    let outcome = home.run("-P q schedule run --force");
    assert_eq!(outcome.status, Some(11), "{outcome:?}");
    assert!(outcome.err.contains("q: another run of its repository is under way"), "{outcome:?}");
    let stopped = home.start("-P q schedule run --force --wait");
    std::thread::sleep(Duration::from_millis(500));
    stopped.signal(Signal::TERM);
    assert_eq!(stopped.end(), Some(130), "who waits can be stopped too");
    let waiting = home.start("-P q schedule run --force --wait");
    drop(pipe);
    assert_eq!(waiting.end(), Some(0), "{}", home.log());
    assert_eq!(home.shown("p")["last"]["result"], "cut off");
    let next = home.shown("p")["next"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let started = home.shown("p")["last"]["started"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert_eq!(next.duration_since(started).as_mins(), 1, "it is tried again");
    let saved = home.snapshots();
    assert!(saved.len() == 2, "what lived on came to its end: {saved:?}");
    home.ok("-r rings check --read-data");
}

#[test]
fn the_daemon_runs_what_is_due_and_reloads_what_is_right() {
    let home = Home::new("[profile.a]\nschedule = 'every 1 second'\n");
    let daemon = home.start("schedule daemon");
    let runs = |name: &str| home.log().matches(&format!("INFO {name}: done: snapshot ")).count();
    wait_until("two runs", || runs("a") >= 2);
    home.profiles("[profile.a]\nshedule = 'every 1 second'\n");
    daemon.signal(Signal::HUP);
    wait_until("it complains", || home.log().contains("ERROR the old profiles stay: "));
    assert!(home.log().contains("did you mean \"schedule\"?"), "{}", home.log());
    let before = runs("a");
    wait_until("the old profiles run", || runs("a") >= before + 2);
    home.profiles("[profile.b]\nschedule = 'every 1 second'\n");
    daemon.signal(Signal::HUP);
    wait_until("the new profile runs", || runs("b") >= 1);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.end(), Some(0), "{}", home.log());
    let log = home.log();
    assert!(log.ends_with("INFO stopped\n") && log.matches("INFO waiting for ").count() == 2, "{log}");
    assert!(log.matches(": started\n").count() == runs("a") + runs("b"), "{log}");
}

#[test]
fn the_daemon_sleeps_while_nothing_is_due() {
    let home = Home::new("[profile.a]\nschedule = 'yearly'\n");
    let daemon = home.start("schedule daemon");
    wait_until("it is up", || home.log().contains("INFO waiting for a of "));
    let status = || {
        let status = fs::read_to_string(format!("/proc/{}/status", daemon.0.id())).unwrap();
        let lines = status.lines().filter(|line| line.contains("ctxt_switches") || line.starts_with("State"));
        lines.collect::<Vec<_>>().join("\n")
    };
    wait_until("it sleeps", || status().contains("sleeping"));
    std::thread::sleep(Duration::from_millis(200));
    let before = status();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(status(), before);
    daemon.signal(interruption());
    assert_eq!(daemon.end(), Some(0));
}

#[test]
fn the_daemon_stops_its_runs_in_order() {
    let home = Home::new(
        "[profile.a]\nschedule = 'every 1 second'\nexclude-file = '~/pipe'\nrun-finally = 'echo finally >> trace'\n",
    );
    make_pipe(&home.0.path("pipe"));
    let daemon = home.start("schedule daemon");
    let pipe = home.held();
    daemon.signal(Signal::TERM);
    wait_until("it stops", || home.log().contains("INFO stopping a"));
    std::thread::sleep(Duration::from_secs(1));
    drop(pipe);
    assert_eq!(daemon.end(), Some(0), "{}", home.log());
    assert_eq!(home.trace(), "finally\n");
    assert!(home.log().contains("WARN a: interrupted: interrupted"), "{}", home.log());
    assert_eq!(home.shown("a")["last"]["result"], "interrupted");
}

#[test]
fn the_daemon_tells_of_a_run_that_is_killed() {
    let home =
        Home::new("[profile.a]\nschedule = 'every 1 second'\nrun-before = 'echo $PPID > pid; cat pipe'\n");
    make_pipe(&home.0.path("pipe"));
    let daemon = home.start("schedule daemon");
    let pipe = home.held();
    let run = fs::read_to_string(home.0.path("pid")).unwrap().trim().parse().unwrap();
    kill_process(Pid::from_raw(run).unwrap(), Signal::KILL).unwrap();
    drop(pipe);
    wait_until("it is told", || home.log().contains("ERROR a: the run was cut off; again at "));
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.end(), Some(0), "{}", home.log());
}

#[test]
fn a_daemon_that_is_killed_leaves_a_sound_state_to_the_next() {
    let home = Home::new("[profile.a]\nschedule = 'every 1 second'\n");
    for round in 1..4 {
        let daemon = home.start("schedule daemon");
        wait_until("a run begins", || home.log().matches("a: started").count() >= round);
        daemon.signal(Signal::KILL);
        assert_eq!(daemon.end(), None);
        // Its run goes on by itself.
        wait_until("the run ends", || home.shown("a")["last"]["result"] == "done");
    }
    home.ok("-r rings check --read-data");
}

#[test]
fn two_profiles_of_one_repository_never_run_at_once() {
    let home = Home::new(
        "schedule = 'every 1 second'\nrun-before = 'mkdir busy || echo twice >> trace'\nrun-finally = 'rmdir busy'\n\
         [profile.a]\n[profile.b]\n[profile.c]\nrepo = '~/tree/../rings'\n",
    );
    let daemon = home.start("schedule daemon");
    let runs = |name: &str| home.log().matches(&format!("INFO {name}: done: ")).count();
    wait_until("all have run", || ["a", "b", "c"].iter().all(|name| runs(name) >= 2));
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.end(), Some(0), "{}", home.log());
    assert_eq!(home.trace(), "", "{}", home.log());
}

#[test]
fn a_run_that_cannot_begin_is_not_tried_all_the_time() {
    let home = Home::new("[profile.a]\nschedule = 'every 1 second'\n");
    let daemon = home.start("schedule daemon");
    wait_until("a run ends", || home.log().contains("INFO a: done: "));
    // Nothing can be remembered any more.
    wait_until("the place for it is lost, though runs write there", || {
        let _ = fs::remove_dir_all(home.0.path("state"));
        fs::write(home.0.path("state"), "").is_ok()
    });
    wait_until("it is told", || home.log().contains("state"));
    std::thread::sleep(Duration::from_secs(3));
    let complaints = home.log().lines().filter(|line| line.contains("cannot ")).count();
    assert!((1..10).contains(&complaints), "{}", home.log());
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.end(), Some(0), "{}", home.log());
}

#[test]
fn systemd_takes_the_units() {
    let home = Home::new(
        "jitter = '10 minutes'\n[profile.a]\nschedule = 'daily at 03:00, 15:30'\npush = 'origin'\n\
         [profile.b]\nschedule = '*/15 1-3 1 jan-mar sun'\n[profile.c]\nschedule = 'every 90 minutes'\n\
         [profile.d]\nschedule = 'monthly on 1, last'\n",
    );
    let units = home.0.path("config/systemd/user");
    let out = home.ok("schedule install");
    assert!(out.starts_with("Installed 4 timers\nNow: systemctl --user daemon-reload && "), "{out}");
    let mut files: Vec<_> = fs::read_dir(&units).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.is_file());
    assert_eq!(files.len(), 8, "{files:?}");
    if programs::are_here(&["systemd-analyze"]) {
        let mut verify = Command::new("systemd-analyze");
        verify.args(["verify", "--user", "--man=no"]).args(&files);
        let runtime = home.0.path("run");
        fs::create_dir(&runtime).unwrap();
        let output = verify.env("HOME", home.0.path("")).env("XDG_RUNTIME_DIR", runtime).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !said.contains("treering"), "{said}");
    }
    let dry = home.ok("schedule install --system --dry-run");
    assert!(dry.contains("==> /etc/systemd/system/treering-a.service <==\n"), "{dry}");
    assert_eq!(home.ok("schedule uninstall -n").lines().count(), 8);
    assert!(home.ok("-P a schedule uninstall").starts_with("Removed 1 timer\n"));
    assert_eq!(home.json("schedule uninstall --json")["timers"].as_array().unwrap().len(), 3);
    let left = walkdir::WalkDir::new(&units).into_iter().map(Result::unwrap);
    assert_eq!(left.filter(|entry| !entry.file_type().is_dir()).count(), 0);
    assert_eq!(home.ok("schedule uninstall"), "Removed 0 timers\n");
}

#[test]
fn a_crontab_gets_a_line_and_loses_it() {
    let home = Home::new("[profile.a]\nschedule = 'daily'\n");
    let script = "#!/bin/sh\ncd \"$(dirname \"$0\")\"\n\
        case $1 in -l) test -e table || { echo 'no crontab for me' >&2; exit 1; }; cat table;; -) cat > table;; esac\n";
    home.0.write_program("bin/crontab", script);
    let path = std::env::join_paths([home.0.path("bin"), "/bin".into(), "/usr/bin".into()]).unwrap();
    let cron = |line: &str| {
        let output = home.command(line.split(' ')).env("PATH", &path).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(cron("schedule install --cron -n").contains("\n* * * * * "));
    assert!(!home.0.path("bin/table").exists());
    cron("schedule install --cron");
    let mut table = fs::read_to_string(home.0.path("bin/table")).unwrap();
    let command = table.lines().find_map(|line| line.strip_prefix("* * * * * ")).unwrap().to_owned();
    let status = home.command::<&str>([]).get_envs().fold(Command::new("sh"), |mut shell, (key, value)| {
        if let Some(value) = value {
            shell.env(key, value);
        }
        shell
    });
    let mut shell = status;
    assert!(shell.args(["-c", &command]).status().unwrap().success(), "{command}");
    assert!(home.shown("a")["next"].is_string());
    table.push_str("0 1 * * * true\n");
    File::create(home.0.path("bin/table")).unwrap().write_all(table.as_bytes()).unwrap();
    cron("schedule uninstall --cron");
    assert_eq!(fs::read_to_string(home.0.path("bin/table")).unwrap(), "0 1 * * * true\n");
    home.fails("-P a schedule install --cron", 1, "leave out -P");

    // The line alone can be had where there is no cron.
    let without =
        |line: &str| home.command(line.split(' ')).env("PATH", home.0.path("nothing")).output().unwrap();
    let shown = without("schedule install --cron -n");
    assert!(
        shown.status.success() && String::from_utf8_lossy(&shown.stdout).contains("* * * * * "),
        "{shown:?}"
    );
    assert_eq!(without("schedule install --cron").status.code(), Some(1));
}
