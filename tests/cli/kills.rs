//! Every command that changes files, killed before each of its operations on the file system in turn.
//!
//! After a kill a person does nothing but what they would do anyway: give the command again, and go on. Then the same must
//! be there as if nothing had happened, and no file that an undisturbed run does not leave.
//!
//! [`KILLS`] instants of each command are tried, spread over all of them; with `TREERING_KILLS=all` every one is.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use walkdir::WalkDir;

use crate::lab::Outcome;
use crate::programs;

/// Instants that are tried of each command.
const KILLS: usize = 10;

/// Cases that are tried at one time.
const THREADS: usize = 2;

/// Kills the program at one operation.
const KILL_AT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/kill_at.py");

/// A command that is killed.
struct Case {
    /// The command, for sh.
    command: &'static str,
    /// What is done before, by sh.
    before: &'static str,
    /// What a person goes on with, and what must hold then, by sh.
    after: &'static str,
    /// What the command may say when it is given again, because the killed one had finished.
    finished: Option<&'static str>,
}

const CASE: Case = Case { command: "", before: "", after: "", finished: None };

/// A repository with two snapshots, small files and one of half a megabyte.
const REPOSITORY: &str = "
    mkdir tree && seq 3000 > tree/lines && head -c 500000 /dev/urandom > tree/noise && treering init -q
    treering backup tree -q && seq 2000 9000 > tree/more && treering backup tree -q
";

/// Something new to save.
const CHANGE: &str =
    "seq 100000 120000 > tree/lines && head -c 300000 /dev/urandom > tree/other && rm tree/more\n";

/// The next backup and prune, and that the repository is whole.
const GO_ON: &str = "go_on repo";

/// Shell functions for what comes after a kill.
const FUNCTIONS: &str = r#"
set -eu
# The repository $1 is whole, and its newest snapshot is the tree.
whole() {
    treering -r "$1" check --read-data -q
    git -C "$1" fsck --strict --no-dangling 2>&1 | { ! grep .; }
    treering -r "$1" restore latest -t restored -q
    diff -r tree restored
    rm -r restored
}
go_on() {
    treering -r "$1" backup tree -q
    treering -r "$1" prune -q
    whole "$1"
}
# The repository $1 has $2 snapshots.
has() {
    test "$(treering -r "$1" snapshots --json | grep -o '"short_id"' | wc -l)" = "$2"
}
# The cold remote at $1 is whole.
cold_whole() {
    treering clone --cold "$1" looked -q
    whole looked
    rm -r looked
}
"#;

struct Sweep {
    dir: tempfile::TempDir,
}

impl Sweep {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn live(&self) -> PathBuf {
        self.dir.path().join("live")
    }

    fn command(&self, program: &str) -> Command {
        let live = self.live();
        let program_dir = Path::new(env!("CARGO_BIN_EXE_treering")).parent().unwrap().to_owned();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::iter::once(program_dir).chain(std::env::split_paths(&path));
        let mut command = Command::new(program);
        command
            .current_dir(&live)
            .env_clear()
            .env("PATH", std::env::join_paths(path).unwrap())
            .env("HOME", live.join("home"))
            .env("TREERING_REPOSITORY", "repo")
            .env("TZ", "UTC")
            .env("GIT_AUTHOR_NAME", "Ann")
            .env("GIT_AUTHOR_EMAIL", "ann@example.org")
            .env("GIT_COMMITTER_NAME", "Ann")
            .env("GIT_COMMITTER_EMAIL", "ann@example.org")
            .stdin(Stdio::null());
        if let Some(directory) = std::env::var_os("TMPDIR") {
            command.env("TMPDIR", directory);
        }
        command
    }

    fn shell(&self, script: &str) -> Outcome {
        outcome(self.command("sh").arg("-c").arg(format!("{FUNCTIONS}{script}")))
    }

    /// Runs `command` to its end, or to the operation `number`; also says what was done.
    fn kill(&self, command: &str, number: usize) -> (Outcome, Vec<String>) {
        let report = self.dir.path().join("report");
        let mut python = self.command("python3");
        python.arg(KILL_AT).arg(number.to_string()).arg(&report).arg(self.live()).arg("--");
        let done = outcome(python.args(["sh", "-c", command]));
        let operations = fs::read(report).unwrap();
        (done, String::from_utf8_lossy(&operations).lines().map(str::to_owned).collect())
    }

    /// Brings everything to the state in `from`.
    fn copy(&self, from: &str, to: &str) {
        let to = self.dir.path().join(to);
        let _ = fs::remove_dir_all(&to);
        let copied = Command::new("cp").arg("-a").arg(self.dir.path().join(from)).arg(to).status();
        assert!(copied.unwrap().success());
    }

    /// What files there are, with whatever is random in their names taken out.
    fn shapes(&self) -> BTreeSet<String> {
        let files = WalkDir::new(self.live()).into_iter().map(Result::unwrap);
        // Directories of references come and go with these.
        let is_of_reference = |file: &walkdir::DirEntry| {
            file.file_type().is_dir() && file.path().to_string_lossy().contains("/refs/")
        };
        files
            .filter(|file| !is_of_reference(file))
            .map(|file| shape(file.path().strip_prefix(self.live()).unwrap()))
            .collect()
    }
}

fn outcome(command: &mut Command) -> Outcome {
    Outcome::lossy(command.output().unwrap())
}

/// A path with `#` for each run of at least six hexadecimal digits, and for loose objects of git.
fn shape(path: &Path) -> String {
    let (mut shape, mut digits) = (String::new(), String::new());
    for character in path.to_string_lossy().chars().chain(['\0']) {
        if character.is_ascii_hexdigit() {
            digits.push(character);
            continue;
        }
        match digits.len() {
            6.. => shape.push('#'),
            2 if shape.ends_with("objects/") => shape.push('#'),
            _ => shape.push_str(&digits),
        }
        digits.clear();
        shape.push(character);
    }
    shape.pop();
    shape
}

/// At which operations to kill: the first of each row of like ones, as writes of one file are; of these, some.
fn instants(operations: &[String]) -> Vec<usize> {
    let like = |operation: &str| {
        let (_, what) = operation.split_once(' ').unwrap();
        shape(Path::new(what))
    };
    let is_first = |at: &usize| *at == 0 || like(&operations[*at]) != like(&operations[*at - 1]);
    let firsts: Vec<_> = (0..operations.len()).filter(is_first).collect();
    let kills = KILLS.min(firsts.len());
    (0..kills).map(|at| 1 + firsts[at * firsts.len() / kills]).collect()
}

/// What went wrong when `case` was killed at some of its operations.
fn sweep(name: &str, case: &Case) -> Vec<String> {
    let lab = Sweep::new();
    fs::create_dir_all(lab.live().join("home")).unwrap();
    let made = lab.shell(case.before);
    if made.status != Some(0) {
        return vec![format!("{name}: before: {made:?}")];
    }
    lab.copy("live", "template");
    let (whole, operations) = lab.kill(case.command, 0);
    if whole.status != Some(0) || operations.is_empty() {
        return vec![format!("{name}: undisturbed: {whole:?}, {} operations", operations.len())];
    }
    let gone_on = lab.shell(case.after);
    if gone_on.status != Some(0) {
        return vec![format!("{name}: undisturbed, afterwards: {gone_on:?}")];
    }
    let expected = lab.shapes();

    let all = std::env::var_os("TREERING_KILLS").is_some_and(|kills| kills == "all");
    let instants = if all { (1..=operations.len()).collect() } else { instants(&operations) };
    let mut faults = Vec::new();
    for number in instants {
        lab.copy("template", "live");
        let (killed, operations) = lab.kill(case.command, number);
        let at = format!("{name}: killed before {}", operations.last().map_or("?", |last| last));
        match killed.status {
            Some(137) => {}
            // Threads need not do as many operations in each run.
            Some(0) if number > operations.len() => {}
            _ => faults.push(format!("{at}: {killed:?}")),
        }
        let again = outcome(lab.command("sh").arg("-c").arg(case.command));
        let had_finished = case.finished.is_some_and(|finished| again.err.contains(finished));
        if again.status != Some(0) && !had_finished {
            faults.push(format!("{at}: given again: {again:?}"));
            continue;
        }
        let gone_on = lab.shell(case.after);
        if gone_on.status != Some(0) {
            faults.push(format!("{at}: afterwards: {gone_on:?}"));
            continue;
        }
        let left: Vec<_> = lab.shapes().difference(&expected).cloned().collect();
        if !left.is_empty() {
            faults.push(format!("{at}: left {left:?}"));
        }
    }
    faults
}

/// Sweeps over cases with two threads, and panics with all that went wrong.
#[track_caller]
fn sweep_all(cases: &[(&str, Case)]) {
    if !programs::are_here(&["python3", "git", "diff", "seq"]) {
        return;
    }
    let (next, faults) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some((name, case)) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let found = sweep(name, case);
                    faults.lock().unwrap().extend(found);
                }
            });
        }
    });
    let faults = faults.into_inner().unwrap();
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

fn before(parts: &[&str]) -> &'static str {
    // Leaked: a few lines, and for the length of the tests.
    Box::leak(parts.join("\n").into_boxed_str())
}

const HUB: &str = "git init -q --bare -b main hub.git && treering remote add origin hub.git";
const COLD: &str = r#"treering remote add cold "file://$PWD/cold""#;
const URL: &str = r#"export TREERING_STORE="file://$PWD/objects""#;
const STORE: &str = r#"
    export TREERING_STORE="file://$PWD/objects"
    treering store create && echo one > one && echo two > two
"#;
/// A clone of the hub that has pushed something that the repository does not have.
const OTHER: &str = "
    treering clone hub.git other -q && seq 50 > tree/theirs
    treering -r other backup tree -q && treering -r other push -q
";

#[test]
fn backups_and_upkeep() {
    let repository = before(&[REPOSITORY, CHANGE]);
    let encrypted = before(&[
        "mkdir tree && seq 3000 > tree/lines && echo secret > password",
        "export TREERING_PASSWORD_FILE=password",
        "treering init --encrypt -q && treering backup tree -q && seq 9000 > tree/more",
    ]);
    sweep_all(&[
        (
            "init",
            Case {
                command: "treering init -q",
                before: "mkdir tree && seq 3000 > tree/lines",
                after: GO_ON,
                finished: Some("is a treering repository already"),
            },
        ),
        ("backup", Case { command: "treering backup tree -q", before: repository, after: GO_ON, ..CASE }),
        (
            "forget",
            Case { command: "treering forget --keep-last 1 -q", before: repository, after: GO_ON, ..CASE },
        ),
        (
            "prune",
            Case {
                command: "treering prune --max-unused 0% -q",
                before: before(&[repository, "treering backup tree -q && treering forget --keep-last 1 -q"]),
                after: GO_ON,
                ..CASE
            },
        ),
        (
            "merge",
            Case {
                command: "treering layers merge -q",
                before: before(&[
                    repository,
                    "for i in 1 2 3; do seq $i 5000 > tree/more; treering backup tree -q; done",
                ]),
                after: GO_ON,
                ..CASE
            },
        ),
        (
            "append-only",
            Case {
                command: "treering append-only on -q",
                before: repository,
                after: "treering append-only off -q; go_on repo",
                ..CASE
            },
        ),
        (
            "encrypted backup",
            Case {
                command: "treering backup tree -q",
                before: encrypted,
                after: "export TREERING_PASSWORD_FILE=password; go_on repo",
                ..CASE
            },
        ),
        (
            "key add",
            Case {
                command: "treering key add --password-file password --new-password-file other -q",
                before: before(&[encrypted, "echo other > other"]),
                after: "TREERING_PASSWORD_FILE=other treering snapshots -q
                    export TREERING_PASSWORD_FILE=password; go_on repo",
                ..CASE
            },
        ),
        (
            "restore",
            Case {
                command: "treering restore latest -t copy --delete --yes -q",
                before: before(&[REPOSITORY, "mkdir copy && touch copy/old"]),
                after: "diff -r tree copy; go_on repo",
                ..CASE
            },
        ),
    ]);
}

/// The same, which forgets all that was there before, and prunes.
const REMOVER: &str = "
    treering clone hub.git other -q && seq 50 > tree/theirs && treering -r other backup tree -q
    treering -r other forget --keep-last 1 --prune -q && treering -r other push -q
";

#[test]
fn git_remotes() {
    let pushed = before(&[REPOSITORY, HUB, "treering push -q", CHANGE]);
    let other = before(&[pushed, OTHER]);
    let after = "go_on repo && treering push -q && whole repo && whole hub.git";
    let removed = before(&[pushed, REMOVER]);
    // Whatever was kept stays, and does not come back there.
    let after_removal = "go_on repo && treering push -q 2> /dev/null && whole repo && whole hub.git && has repo 4 && has hub.git 2";
    sweep_all(&[
        (
            "remote add git",
            Case {
                command: "treering remote add origin hub.git",
                before: before(&[REPOSITORY, "git init -q --bare hub.git"]),
                after,
                finished: Some("origin"),
            },
        ),
        (
            "remote remove git",
            Case {
                command: "treering remote remove origin",
                before: pushed,
                after: "treering remote add origin hub.git; go_on repo && treering push -q",
                finished: Some("origin"),
            },
        ),
        (
            "first push to git",
            Case { command: "treering push -q", before: before(&[REPOSITORY, HUB]), after, ..CASE },
        ),
        (
            "push to git",
            Case {
                command: "treering push -q",
                before: before(&[other, "treering backup tree -q"]),
                after,
                ..CASE
            },
        ),
        (
            "push to git after prune",
            Case {
                command: "treering push -q",
                before: before(&[
                    pushed,
                    "treering backup tree -q && treering forget --keep-last 1 --prune -q",
                ]),
                after,
                ..CASE
            },
        ),
        ("pull from git", Case { command: "treering pull -q", before: other, after, ..CASE }),
        (
            "pull from git what others removed",
            Case { command: "treering pull -q 2> /dev/null", before: removed, after: after_removal, ..CASE },
        ),
        (
            "push to git where others removed something",
            Case { command: "treering push -q 2> /dev/null", before: removed, after: after_removal, ..CASE },
        ),
        (
            "push to git beside what is kept",
            Case {
                command: "treering push -q",
                before: before(&[removed, "treering pull -q 2> /dev/null && treering backup tree -q"]),
                after: "go_on repo && treering push -q && whole repo && whole hub.git && has repo 5 && has hub.git 3",
                ..CASE
            },
        ),
        (
            "pull from git with removals",
            Case {
                command: "treering pull -q --removals",
                before: before(&[removed, "treering pull -q 2> /dev/null"]),
                after: "go_on repo && treering push -q && whole repo && whole hub.git && has repo 2 && has hub.git 2",
                ..CASE
            },
        ),
        (
            "clone",
            Case {
                command: "treering clone hub.git mine -q",
                before: pushed,
                after: "go_on mine && treering -r mine push -q && whole hub.git",
                finished: Some("is a treering repository already"),
            },
        ),
    ]);
}

#[test]
fn cold_remotes() {
    let pushed = before(&[REPOSITORY, COLD, "treering push cold -q", CHANGE]);
    let other = before(&[
        pushed,
        r#"treering clone --cold "file://$PWD/cold" other -q && seq 50 > tree/theirs"#,
        "treering -r other backup tree -q && treering -r other push -q",
    ]);
    let after = r#"go_on repo && treering push cold -q && whole repo && cold_whole "file://$PWD/cold""#;
    let evicted = before(&[pushed, "treering layers evict -q"]);
    sweep_all(&[
        ("remote add cold", Case { command: COLD, before: REPOSITORY, after, finished: Some("cold") }),
        (
            "first push to cold",
            Case { command: "treering push cold -q", before: before(&[REPOSITORY, COLD]), after, ..CASE },
        ),
        (
            "push to cold",
            Case {
                command: "treering push cold -q",
                before: before(&[other, "treering backup tree -q"]),
                after,
                ..CASE
            },
        ),
        (
            "push to cold after prune",
            Case {
                command: "treering push cold -q",
                before: before(&[
                    pushed,
                    "treering backup tree -q && treering forget --keep-last 1 --prune -q",
                ]),
                after,
                ..CASE
            },
        ),
        ("pull from cold", Case { command: "treering pull cold -q", before: other, after, ..CASE }),
        (
            "clone cold",
            Case {
                command: r#"treering clone --cold "file://$PWD/cold" mine -q"#,
                before: pushed,
                after: r#"go_on mine && treering -r mine push -q && cold_whole "file://$PWD/cold""#,
                finished: Some("is a treering repository already"),
            },
        ),
        ("evict", Case { command: "treering layers evict -q", before: pushed, after, ..CASE }),
        ("fetch", Case { command: "treering layers fetch -q", before: evicted, after, ..CASE }),
    ]);
}

#[test]
fn building_blocks() {
    let store = before(&[STORE, "treering store store data/one one"]);
    let objects = "
        for name in one two; do treering store load data/$name > loaded && diff $name loaded; done && rm loaded
    ";
    let bare = "git init -q --bare -b main notes.git && echo one > one && treering kv put notes.git key one";
    let blobs = "export TREERING_REPOSITORY=blobs && treering blob init -q && echo one > one && treering blob add one -q";
    sweep_all(&[
        (
            "kv put",
            Case {
                command: "treering kv put notes.git other/key one",
                before: bare,
                after: "treering kv get notes.git key && treering kv get notes.git other/key
                    treering kv put notes.git third one
                    git -C notes.git fsck --strict --no-dangling 2>&1 | { ! grep .; }",
                ..CASE
            },
        ),
        (
            "kv rm",
            Case {
                command: "treering kv rm notes.git key",
                before: bare,
                after: "treering kv put notes.git key one && treering kv get notes.git key",
                finished: Some("key"),
            },
        ),
        (
            "kv put far",
            Case {
                command: r#"treering kv put "file://$PWD/notes.git" other/key one"#,
                before: bare,
                after: "treering kv get notes.git other/key && treering kv put notes.git third one",
                ..CASE
            },
        ),
        (
            "blob add",
            Case {
                command: "treering -r blobs blob add one -q",
                before: blobs,
                after: "treering -r blobs blob add one -q && treering -r blobs blob list
                    git -C blobs fsck --strict --no-dangling 2>&1 | { ! grep .; }",
                ..CASE
            },
        ),
        (
            "store create",
            Case {
                command: r#"treering store --url "file://$PWD/objects" create"#,
                before: "echo one > one && echo two > two",
                after: before(&[
                    URL,
                    "for name in one two; do treering store store data/$name $name; done",
                    objects,
                ]),
                finished: Some("exists"),
            },
        ),
        (
            "store replace",
            Case {
                command: r#"treering store --url "file://$PWD/objects" store data/two two"#,
                before: store,
                after: before(&[URL, objects]),
                ..CASE
            },
        ),
        (
            "store new",
            Case {
                command: r#"treering store --url "file://$PWD/objects" store --new data/two two"#,
                before: store,
                after: before(&[URL, objects]),
                finished: Some("exists"),
            },
        ),
        (
            "store move",
            Case {
                command: r#"treering store --url "file://$PWD/objects" move data/three data/two"#,
                before: before(&[store, "treering store store data/three two"]),
                after: before(&[URL, objects]),
                finished: Some("data/three"),
            },
        ),
        (
            "store delete",
            Case {
                command: r#"treering store --url "file://$PWD/objects" delete data/three"#,
                before: before(&[
                    store,
                    "treering store store data/two two && treering store store data/three two",
                ]),
                after: before(&[URL, objects]),
                finished: Some("data/three"),
            },
        ),
        (
            "store destroy",
            Case {
                command: r#"treering store --url "file://$PWD/objects" destroy --force"#,
                before: store,
                after: before(&[
                    STORE,
                    "for name in one two; do treering store store data/$name $name; done",
                    objects,
                ]),
                finished: Some("objects"),
            },
        ),
    ]);
}

#[test]
fn ordinary_clones() {
    let notes = "
        git init -q -b main notes && cd notes && mkdir dir && echo a > a && echo b > dir/b && echo mine > mine
        git add a dir mine && git commit -q -m Begin && echo edited > mine && cd .. && seq 1000 > one
    ";
    let clean = r#"
        test "$(git -C notes status --porcelain)" = " M mine" && test "$(cat notes/mine)" = edited
        git -C notes fsck --strict --no-dangling 2>&1 | { ! grep .; }
    "#;
    let blobs = "
        git init -q --bare -b main hub.git && git clone -q hub.git blobs 2>&1 && git clone -q hub.git other 2>&1
        echo one > one && treering -r other blob add one -q && treering -r other blob push -q
    ";
    sweep_all(&[
        (
            "kv put in a clone",
            Case {
                command: "treering kv put notes dir/new/key one -q && treering kv put notes a one -q",
                before: notes,
                after: before(&[
                    "treering kv get notes a | cmp - one && cmp notes/a one && cmp notes/dir/new/key one",
                    "treering kv put notes last one -q",
                    clean,
                ]),
                ..CASE
            },
        ),
        (
            "kv rm in a clone",
            Case {
                command: "treering kv rm notes a dir/b -q",
                before: notes,
                after: before(&[
                    "test ! -e notes/a && test ! -e notes/dir && treering kv put notes last one -q",
                    clean,
                ]),
                finished: Some("there is no"),
            },
        ),
        (
            "blob add in a clone",
            Case {
                command: "treering -r blobs blob add one -q",
                before: blobs,
                after: r#"
                    test -z "$(git -C blobs status --porcelain)"
                    treering -r blobs blob list | grep -q . && treering -r blobs blob push -q
                    git -C blobs fsck --strict --no-dangling 2>&1 | { ! grep .; }
                "#,
                ..CASE
            },
        ),
        (
            "blob pull in a clone",
            Case {
                command: "treering -r blobs blob pull -q",
                before: before(&[blobs, "treering -r blobs blob add one -q && git -C blobs fetch -q"]),
                after: r#"
                    test -z "$(git -C blobs status --porcelain)" && treering -r blobs blob add one -q
                    test "$(treering -r blobs blob list | wc -l)" = 3 && treering -r blobs blob push -q
                    git -C blobs fsck --strict --no-dangling 2>&1 | { ! grep .; }
                "#,
                ..CASE
            },
        ),
    ]);
}

#[test]
fn scheduled_runs() {
    sweep_all(&[(
        "schedule run",
        Case {
            command: "treering -P home schedule run --force -q",
            before: before(&[
                REPOSITORY,
                HUB,
                CHANGE,
                r#"
            mkdir -p home/.config/treering
            cat > home/.config/treering/treering.toml <<END
[profile.home]
repo = "$PWD/repo"
sources = ["$PWD/tree"]
push = "origin"
keep-last = 1
prune = true
schedule = "daily at 03:00"
END
        "#,
            ]),
            after: "go_on repo && treering push -q && whole repo && whole hub.git",
            ..CASE
        },
    )]);
}
