//! What a power failure may take: nothing that a command has said is done.
//!
//! strace(1) tells what a command writes, renames and syncs. When it ends, each file that it wrote or renamed in a
//! repository must have been synced, and each directory in which it gave a name; and a file that is renamed over
//! another must be synced before. What is only a cache or a marker is left out by name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::lab::{Lab, Outcome};
use crate::programs;

const CALLS: &str = "trace=openat,creat,write,pwrite64,writev,pwritev,copy_file_range,ftruncate,rename,renameat,renameat2,link,linkat,\
    unlink,unlinkat,fsync,fdatasync";

/// Files that may be lost: locks and markers, caches, what only tells a person what git did, and the temporary
/// places that are left when a process ends.
fn may_be_lost(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap();
    name.ends_with(".lock")
        || ["FETCH_HEAD", "COMMIT_EDITMSG"].contains(&name)
        || ["writer-", "git-", "tmp_", ".tmp-"].iter().any(|prefix| name.starts_with(prefix))
        || path.contains(".treering-tmp-")
        || path.contains("/treering/blocks/")
        || path.ends_with("/treering/reserve")
        || path.ends_with("/treering/newest")
        || path.contains("/logs/")
}

/// What of a command would be lost with the power, below `root`.
#[derive(Default)]
struct Volatile {
    /// Files with content that is not synced.
    contents: BTreeSet<String>,
    /// Directories with names that are not synced, and the last such name.
    names: BTreeMap<String, String>,
    faults: Vec<String>,
}

impl Volatile {
    fn named(&mut self, path: &str) {
        if !may_be_lost(path) {
            let (directory, name) = path.rsplit_once('/').unwrap();
            self.names.insert(directory.to_owned(), name.to_owned());
        }
    }

    fn moved(&mut self, from: &str, to: &str, is_link: bool) {
        if self.contents.contains(from) {
            if !may_be_lost(to) {
                self.faults.push(format!("{from} became {to} before it was synced"));
            }
            self.contents.insert(to.to_owned());
        }
        if !is_link {
            self.contents.remove(from);
            // The files of a directory go with it.
            let below = format!("{from}/");
            let inside: Vec<_> =
                self.contents.iter().filter(|path| path.starts_with(&below)).cloned().collect();
            for path in inside {
                self.contents.remove(&path);
                self.contents.insert(path.replacen(from, to, 1));
            }
            let inside: Vec<_> =
                self.names.keys().filter(|path| *path == from || path.starts_with(&below)).cloned().collect();
            for path in inside {
                let name = self.names.remove(&path).unwrap();
                self.names.insert(path.replacen(from, to, 1), name);
            }
        }
        self.named(to);
    }

    fn gone(&mut self, path: &str) {
        self.contents.remove(path);
    }

    fn synced(&mut self, path: &str) {
        self.contents.remove(path);
        self.names.remove(path);
    }

    /// What is lost of that which is there.
    fn lost(mut self) -> Vec<String> {
        let is_there = |path: &str| Path::new(path).exists();
        let contents = self.contents.iter().filter(|path| !may_be_lost(path) && is_there(path));
        self.faults.extend(contents.map(|path| format!("the content of {path} is not synced")));
        let names = self.names.iter().filter(|(directory, name)| is_there(&format!("{directory}/{name}")));
        self.faults
            .extend(names.map(|(directory, name)| format!("the name {directory}/{name} is not synced")));
        self.faults
    }
}

/// The calls in the trace of one process, as name, arguments and result. Those that failed are left out.
fn calls(trace: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    trace.lines().filter_map(|line| {
        // The number of the process is padded to five places.
        let line = line.trim_start().split_once(' ')?.1.trim_start();
        let (call, result) = line.rsplit_once(" = ")?;
        let (name, arguments) = call.trim_end().strip_suffix(')')?.split_once('(')?;
        (!result.starts_with('-')).then_some((name, arguments, result))
    })
}

/// The texts in quotes among arguments, and the paths of descriptors.
fn quoted(arguments: &str) -> Vec<&str> {
    arguments.split('"').skip(1).step_by(2).collect()
}

fn descriptor(text: &str) -> Option<&str> {
    text.split_once('<')?.1.split('>').next()
}

/// The path that a call names, made absolute by the directory that stands before it.
fn absolute(arguments: &str, at: usize) -> Option<String> {
    let name = *quoted(arguments).get(at)?;
    if name.starts_with('/') {
        return Some(name.to_owned());
    }
    let before = arguments.split('"').nth(2 * at)?;
    Some(format!(
        "{}/{name}",
        descriptor(before.rsplit(", ").nth(1).unwrap_or(before)).or_else(|| descriptor(before))?
    ))
}

/// Runs the program under strace, and returns what of its changes below the lab would be lost.
fn volatile(lab: &Lab, line: &str) -> Vec<String> {
    let traces = lab.path("traces");
    let _ = fs::remove_dir_all(&traces);
    fs::create_dir(&traces).unwrap();
    let out = lab.path("traces/all");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-qq", "-s", "0", "-e", "signal=none"]);
    // Lines in which calls of several threads mix would be cut into two.
    strace.args(["-e", CALLS, "--seccomp-bpf", "-o"]).arg(&out);
    // Paths are not cut, whatever is said of their length above.
    let done = lab.by(strace, line.split(' ')).output().unwrap();
    assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));

    let root = lab.path("").canonicalize().unwrap();
    let root = root.to_str().unwrap().trim_end_matches('/');
    let trace = joined(&fs::read_to_string(&out).unwrap());
    let mut state = Volatile::default();
    let mut synced = 0;
    let within = |path: &Option<String>| path.as_ref().is_some_and(|path| path.starts_with(root));
    let clean = |path: String| {
        let parts = path.split('/').filter(|part| !part.is_empty() && *part != ".");
        parts.fold(String::new(), |path, part| path + "/" + part)
    };
    for (name, arguments, result) in calls(&trace) {
        let of_descriptor = || descriptor(arguments).map(str::to_owned);
        match name {
            "openat" | "creat" if arguments.contains("O_CREAT") || name == "creat" => {
                let path = descriptor(result).map(str::to_owned);
                if within(&path) {
                    let path = path.unwrap();
                    if arguments.contains("O_EXCL") || arguments.contains("O_TRUNC") {
                        state.named(&path);
                    }
                }
            }
            "write" | "pwrite64" | "writev" | "pwritev" | "ftruncate" => {
                let path = of_descriptor();
                if within(&path) {
                    state.contents.insert(path.unwrap());
                }
            }
            "copy_file_range" => {
                let path = arguments.split(", ").nth(2).and_then(descriptor).map(str::to_owned);
                if within(&path) {
                    state.contents.insert(path.unwrap());
                }
            }
            "fsync" | "fdatasync" => {
                if let Some(path) = of_descriptor() {
                    state.synced(&path);
                    synced += 1;
                }
            }
            "rename" | "renameat" | "renameat2" | "link" | "linkat" => {
                let paths = (absolute(arguments, 0), absolute(arguments, 1));
                if let (Some(from), Some(to)) = paths
                    && to.starts_with(root)
                {
                    state.moved(&clean(from), &clean(to), name.starts_with("link"));
                }
            }
            "unlink" | "unlinkat" => {
                if let Some(path) = absolute(arguments, 0) {
                    state.gone(&clean(path));
                }
            }
            _ => {}
        }
    }
    // Every command here changes something, so a trace without this is one that is not understood.
    assert!(synced > 0, "{line}: no call of fsync is seen");
    state.lost().into_iter().map(|fault| format!("{line}: {}", fault.replace(root, ""))).collect()
}

/// A trace in which calls that another process interrupted are in one line again, where they ended.
fn joined(trace: &str) -> String {
    let mut begun: BTreeMap<&str, &str> = BTreeMap::new();
    let mut whole = String::new();
    for line in trace.lines() {
        let Some((process, call)) = line.split_once(' ') else { continue };
        let call = call.trim_start();
        if let Some(beginning) = call.strip_suffix(" <unfinished ...>") {
            begun.insert(process, beginning);
        } else if let Some((_, rest)) = call.split_once(" resumed>") {
            let beginning = begun.remove(process).expect("a call that is resumed was begun");
            whole.push_str(&format!("{process} {beginning}{rest}\n"));
        } else {
            whole.push_str(line);
            whole.push('\n');
        }
    }
    whole
}

fn is_traceable() -> bool {
    // In a sandbox it may be there and not be allowed.
    programs::are_here(&["strace", "git"])
        && Command::new("strace")
            .args(["-qq", "-e", "trace=none", "true"])
            .status()
            .is_ok_and(|done| done.success())
}

#[test]
fn whatever_a_command_has_done_is_synced_when_it_ends() {
    if !is_traceable() {
        return;
    }
    let lab = Lab::bare();
    let git = |arguments: &[&str]| {
        let done = Command::new("git").args(arguments).current_dir(lab.path("")).status().unwrap();
        assert!(done.success());
    };
    git(&["init", "-q", "--bare", "hub.git"]);
    git(&["init", "-q", "--bare", "notes.git"]);
    let cold = format!("file://{}", lab.path("cold").display());
    lab.write("password", "one\n");
    lab.write("new-password", "two\n");
    let mut faults = Vec::new();
    let mut count = 0;
    let mut run = |line: &str| {
        if line.starts_with("backup") || line.contains(" backup") {
            count += 1;
            lab.write("tree/notes", &format!("{count}\n").repeat(500 * count));
        }
        faults.extend(volatile(&lab, line));
    };
    run("init");
    run("backup tree");
    run("remote add origin hub.git");
    run("push");
    run("backup tree --push");
    run("clone hub.git clone");
    run("-r clone backup tree --push");
    run("pull");
    git(&["-C", "repo", "pack-refs", "--all"]);
    run("remote add other clone");
    run("push other");
    run("remote remove other");
    run(&format!("remote add cold {cold}"));
    run("push cold");
    run(&format!("clone --cold {cold} far"));
    run("-r far backup tree --push");
    run("pull cold");
    run("layers evict");
    run("layers fetch");
    run("layers merge");
    run("forget --keep-last 2");
    run("prune --max-unused 0%");
    run("push");
    run("push cold");
    run("-r clone pull");
    run("append-only on");
    run("remote remove cold");
    run("-r safe init --encrypt --password-file password");
    run("-r safe key add --password-file password --new-password-file new-password");
    run("kv put notes.git key tree/letters/one");
    run("-r blobs blob init");
    run("-r blobs blob add tree/letters/one");
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

/// The program with a failing fsync of the directory at `path`; git is hidden from it.
fn without_fsync(lab: &Lab, path: &Path, line: &str) -> Outcome {
    failing_fsync(lab, path, line, "")
}

/// The program with a failing fsync of what is at `path`, and with this `PATH`.
fn failing_fsync(lab: &Lab, path: &Path, line: &str, path_variable: &str) -> Outcome {
    let mut strace = Command::new(programs::find("strace").unwrap());
    strace.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync", "-e", "inject=fsync:error=EIO", "-P"]);
    strace.arg(path);
    Outcome::lossy(lab.by(strace, line.split(' ')).env("PATH", path_variable).output().unwrap())
}

#[test]
fn a_push_to_a_store_whose_sync_fails_is_not_done_however_often_it_is_made() {
    if !is_traceable() {
        return;
    }
    let lab = Lab::new();
    lab.ok(["backup", "tree"]);
    lab.ok(["remote", "add", "origin", &format!("file://{}", lab.path("cold").display())]);
    lab.ok(["push"]);
    lab.write("tree/notes", "other");
    lab.ok(["backup", "tree"]);
    let heads = lab.path("cold/heads").canonicalize().unwrap();
    for attempt in 1..=3 {
        let outcome = without_fsync(&lab, &heads, "push");
        assert_ne!(outcome.status, Some(0), "{attempt}: {outcome:?}");
    }
    assert!(lab.ok(["push"]).starts_with("Pushed to origin"));
}

#[test]
fn a_push_whose_sync_fails_is_not_done_however_often_it_is_made() {
    if !is_traceable() {
        return;
    }
    let lab = Lab::new();
    lab.ok(["backup", "tree"]);
    lab.ok(["-r", "hub.git", "blob", "init"]);
    fs::remove_file(lab.path("hub.git/refs/heads/main")).unwrap_or_default();
    lab.ok(["remote", "add", "origin", "hub.git"]);
    let branches = lab.path("hub.git/refs/heads").canonicalize().unwrap();
    for attempt in 1..=3 {
        let outcome = without_fsync(&lab, &branches, "push");
        assert_ne!(outcome.status, Some(0), "{attempt}: {outcome:?}");
        assert!(outcome.err.contains("cannot sync"), "{attempt}: {outcome:?}");
    }
    assert!(lab.ok(["push"]).starts_with("Pushed to origin"));
}

/// Runs the program with the `number`th fsync failing, once. `None` where it makes fewer.
fn one_failing_fsync(lab: &Lab, number: usize, line: &str, path_variable: &str) -> Option<Outcome> {
    let trace = lab.path("trace");
    let mut strace = Command::new(programs::find("strace").unwrap());
    strace.args(["-f", "-qq", "-e", "trace=fsync", "-e", &format!("inject=fsync:error=EIO:when={number}")]);
    strace.arg("-o").arg(&trace);
    let outcome =
        Outcome::lossy(lab.by(strace, line.split(' ')).env("PATH", path_variable).output().unwrap());
    fs::read_to_string(trace).unwrap().contains("(INJECTED)").then_some(outcome)
}

#[test]
fn a_push_of_which_one_sync_failed_once_is_not_done() {
    if !is_traceable() {
        return;
    }
    let programs = std::env::var("PATH").unwrap();
    for (remote, path_variable) in [("hub.git", ""), ("hub.git", &*programs), ("cold", "")] {
        let mut number = 1;
        loop {
            let lab = Lab::new();
            lab.ok(["backup", "tree"]);
            let made = Command::new("git").args(["init", "-q", "--bare"]).arg(lab.path("hub.git")).status();
            assert!(made.unwrap().success());
            let url = match remote {
                "cold" => format!("file://{}", lab.path("cold").display()),
                path => path.to_owned(),
            };
            lab.ok(["remote", "add", "origin", &url]);
            let Some(outcome) = one_failing_fsync(&lab, number, "push", path_variable) else { break };
            assert_eq!(outcome.status, Some(1), "{remote}, {path_variable:?}, {number}: {outcome:?}");
            assert!(lab.ok(["push"]).starts_with("Pushed to origin"));
            number += 1;
        }
        assert!(number > 8, "{remote}: only {number} calls of fsync are seen");
    }
}

#[test]
fn who_finds_that_a_thing_is_done_makes_it_durable() {
    if !is_traceable() {
        return;
    }
    let lab = Lab::bare();
    lab.write("tree/notes", "notes\n");
    let programs = std::env::var("PATH").unwrap();
    lab.ok(["init"]);
    lab.ok(["backup", "tree", "-q"]);
    lab.ok(["clone", "repo", "clone"]);
    lab.ok(["backup", "tree", "-q"]);
    lab.ok(["-r", "blobs", "blob", "init"]);
    let hub = lab.path("hub.git");
    assert!(Command::new("git").args(["init", "-q", "--bare"]).arg(&hub).status().unwrap().success());
    lab.ok(["remote", "add", "hub", "hub.git"]);
    lab.ok(["remote", "add", "cold", &format!("file://{}", lab.path("cold").display())]);
    let key = lab.path("tree/notes");
    for (repository, line) in [
        ("clone", "-r clone pull"),
        ("clone", "-r clone append-only on"),
        ("repo", "forget --keep-last 1"),
        ("repo", "prune"),
        ("repo", "push hub"),
        ("repo", "push cold"),
        ("blobs", &format!("kv put blobs key {}", key.display())),
    ] {
        let branches = lab.path(repository).join("refs/heads").canonicalize().unwrap();
        if line.contains("push") {
            lab.ok(line.split(' '));
        }
        for attempt in 1..=2 {
            let outcome = failing_fsync(&lab, &branches, line, &programs);
            assert_eq!(outcome.status, Some(1), "{line}, {attempt}: {outcome:?}");
            assert!(outcome.err.contains("cannot sync"), "{line}, {attempt}: {outcome:?}");
            let is_told = outcome.err.contains("what was to be done is done");
            // There is nothing to prune, and never was, and a push changes nothing here.
            let does_nothing = line == "prune" || line.contains("push");
            assert_eq!(is_told, attempt == 1 && !does_nothing, "{line}, {attempt}: {outcome:?}");
        }
        lab.ok(line.split(' '));
    }
    // The natural second try would remove another one.
    lab.ok(["backup", "tree", "-q"]);
    let branches = lab.path("repo/refs/heads").canonicalize().unwrap();
    let outcome = failing_fsync(&lab, &branches, "forget latest", &programs);
    assert!(outcome.status == Some(1) && outcome.err.contains("done is done"), "{outcome:?}");
}

#[test]
fn a_remote_that_cannot_sync_is_not_called_busy() {
    if !is_traceable() {
        return;
    }
    let lab = Lab::bare();
    lab.write("tree/notes", "notes\n");
    let made =
        Command::new("git").args(["init", "-q", "--bare", "hub.git"]).current_dir(lab.path("")).status();
    assert!(made.unwrap().success());
    lab.ok(["init"]);
    lab.ok(["backup", "tree", "-q"]);
    lab.ok(["remote", "add", "origin", "hub.git"]);
    lab.ok(["push"]);
    lab.ok(["backup", "tree", "-q"]);
    let lock = lab.path("hub.git").canonicalize().unwrap().join("refs/heads/main.lock");
    let outcome = failing_fsync(&lab, &lock, "push", &std::env::var("PATH").unwrap());
    assert_eq!(outcome.status, Some(1), "{outcome:?}");
    assert!(!outcome.err.contains("others pushed"), "{outcome:?}");
    assert!(outcome.err.contains("refused the push") && outcome.err.contains("main.lock"), "{outcome:?}");
}

#[test]
fn a_trace_is_read_whatever_its_processes_are_numbered_and_however_their_calls_mix() {
    for (one, other) in [("7    ", "9999 "), ("12345 ", "123456 ")] {
        let trace = format!(
            "{one} write(3</a/x>, \"\"..., 5 <unfinished ...>\n\
             {other} fsync(4</a/y> <unfinished ...>\n\
             {one} <... write resumed>)             = 5\n\
             {one} fsync(3</a/x>)                   = 0\n\
             {other} <... fsync resumed>)             = 0\n\
             {one} unlink(\"/a/z\")                   = -1 ENOENT (No such file or directory)\n"
        );
        let trace = joined(&trace);
        let seen: Vec<_> =
            calls(&trace).map(|(name, arguments, _)| (name, descriptor(arguments).unwrap())).collect();
        assert_eq!(seen, [("write", "/a/x"), ("fsync", "/a/x"), ("fsync", "/a/y")]);
    }
}
