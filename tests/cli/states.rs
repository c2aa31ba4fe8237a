//! Every command on repositories in every state: what it exits with, and that it says why.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::commits::commit;
use crate::encryption::{IDENTITY, RECIPIENT};
use crate::lab::{Lab, Outcome};
use crate::programs;

/// A repository in some state, and how a command is run on it.
struct State {
    lab: Lab,
    /// What stands before every command.
    flags: &'static [&'static str],
    who: Who,
}

#[derive(Clone, Copy)]
enum Who {
    /// Whoever runs the tests.
    Us,
    /// The owner of everything, whom permissions bind.
    Bound,
    /// Another user, who trusts the repository.
    Other,
}

/// A number that no user has.
const OTHER: u32 = 54_321;

fn with_two_snapshots(lab: Lab, flags: &[&str]) -> Lab {
    for (text, day) in [("notes\n", "2026-11-01"), ("other notes\n", "2026-11-02")] {
        lab.write("tree/notes", text);
        lab.ok(["backup", "tree", "-q", "--time", day].iter().chain(flags));
    }
    lab
}

fn plain() -> Lab {
    with_two_snapshots(Lab::new(), &[])
}

fn encrypted() -> Lab {
    let lab = Lab::bare();
    lab.write("key.txt", IDENTITY);
    lab.ok(["init", "--encrypt", "--recipient", RECIPIENT]);
    with_two_snapshots(lab, &["--identity", "key.txt"])
}

fn pushed_cold() -> Lab {
    let lab = plain();
    let url = format!("file://{}", lab.path("far").display());
    lab.ok(["remote", "add", "far", &url]);
    lab.ok(["push", "far", "-q"]);
    lab
}

/// The packs of layers of data.
fn data_packs(lab: &Lab) -> Vec<PathBuf> {
    let listed: serde_json::Value = serde_json::from_str(&lab.ok(["layers", "list", "--json"])).unwrap();
    let layers = listed["layers"].as_array().unwrap();
    let data = layers.iter().filter(|layer| layer["type"] == "data");
    let pack = |name: &str| lab.path("repo/objects/pack").join(name).with_extension("pack");
    data.map(|layer| pack(layer["name"].as_str().unwrap())).collect()
}

/// Removes the pack of every layer of data.
fn lose_data(lab: &Lab) {
    data_packs(lab).iter().for_each(|pack| fs::remove_file(pack).unwrap());
}

/// Puts into each directory of the tree what does not belong there.
fn litter(lab: &Lab) {
    commit(&lab.path("repo"), |transaction, edit| {
        let garbage = transaction.blob(b"garbage").unwrap();
        for kind in ["snapshots", "diffs", "index", "signatures", "archives"] {
            for name in ["2026/11/20/garbage", "1999/12/x"] {
                edit.set(format!("{kind}/{name}").as_bytes(), garbage).unwrap();
            }
        }
    });
}

/// Takes the right to write away from everybody, or gives it back to the owner.
fn set_writable(root: &Path, writable: bool) {
    for entry in walkdir::WalkDir::new(root).contents_first(!writable) {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode();
        let mode = if writable { mode | 0o200 } else { mode & !0o222 };
        fs::set_permissions(entry.path(), fs::Permissions::from_mode(mode)).unwrap();
    }
}

const STATES: [&str; 13] = [
    "plain",
    "locked",
    "opened",
    "cold",
    "evicted",
    "shallow",
    "read-only",
    "foreign",
    "another's",
    "damaged",
    "strayed-into",
    "unindexed",
    "littered",
];

/// `None` where only root, or a program that is not here, can make it.
fn state(name: &str) -> Option<State> {
    let is_root = rustix::process::geteuid().is_root();
    let us = |lab| State { lab, flags: &[], who: Who::Us };
    Some(match name {
        "plain" => us(plain()),
        "locked" => us(encrypted()),
        "opened" => State { flags: &["--identity", "key.txt"], ..us(encrypted()) },
        "cold" => {
            let lab = pushed_cold();
            let url = format!("file://{}", lab.path("far").display());
            lab.ok(["clone", "--cold", &url, "clone", "-q"]);
            State { flags: &["-r", "clone"], ..us(lab) }
        }
        "evicted" => {
            let lab = pushed_cold();
            lab.ok(["layers", "evict", "-q"]);
            us(lab)
        }
        "shallow" => {
            let lab = plain();
            let url = format!("file://{}", lab.path("repo").canonicalize().unwrap().display());
            let mut git = Command::new("git");
            git.args(["clone", "--quiet", "--bare", "--depth", "1", &url]).arg(lab.path("shallow"));
            assert!(git.status().expect("the program git is installed").success());
            State { flags: &["-r", "shallow"], ..us(lab) }
        }
        "read-only" => {
            if is_root && !programs::are_here(&["setpriv"]) {
                return None;
            }
            let lab = plain();
            set_writable(&lab.path("repo"), false);
            State { who: Who::Bound, ..us(lab) }
        }
        "foreign" if is_root => {
            let lab = plain();
            std::os::unix::fs::chown(lab.path("repo"), Some(OTHER), None).unwrap();
            us(lab)
        }
        "another's" if is_root && programs::are_here(&["setpriv"]) => {
            let lab = pushed_cold();
            for open in ["", "repo"] {
                fs::set_permissions(lab.path(open), fs::Permissions::from_mode(0o755)).unwrap();
            }
            fs::create_dir(lab.path("theirs")).unwrap();
            fs::set_permissions(lab.path("theirs"), fs::Permissions::from_mode(0o777)).unwrap();
            lab.write("theirs/.gitconfig", "[safe]\n\tdirectory = *\n");
            State { who: Who::Other, ..us(lab) }
        }
        "damaged" => {
            let lab = plain();
            lose_data(&lab);
            us(lab)
        }
        "strayed-into" => {
            let lab = plain();
            lab.write("repo/objects/pack/pack-stray.idx", "no index");
            us(lab)
        }
        "littered" => {
            let lab = plain();
            litter(&lab);
            us(lab)
        }
        "unindexed" => {
            let lab = plain();
            let index = data_packs(&lab)[0].with_extension("idx");
            fs::remove_file(&index).unwrap();
            fs::write(&index, "no index").unwrap();
            us(lab)
        }
        _ => return None,
    })
}

impl State {
    fn run(&self, line: &str) -> Outcome {
        let arguments = self.flags.iter().copied().chain(line.split(' '));
        match self.who {
            Who::Us => self.lab.run(arguments),
            Who::Bound => self.lab.as_nobody(arguments),
            Who::Other => {
                let mut setpriv = Command::new("setpriv");
                let id = |option: &str| OsString::from(format!("--{option}={OTHER}"));
                setpriv.args([id("reuid"), id("regid")]).args(["--clear-groups", "--"]);
                let mut command = self.lab.by(setpriv, arguments);
                let theirs = self.lab.path("theirs");
                command.env("HOME", &theirs).env("XDG_CACHE_HOME", theirs.join("cache"));
                command.stdin(Stdio::null()).output().unwrap().into()
            }
        }
    }
}

/// The table of commands and exit statuses, a column for each of [`STATES`]. Read when the test runs, so that changing
/// it compiles nothing.
const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/states.txt");

/// The commands of the table, each with the status for one state.
fn expected(table: &str, column: usize) -> Vec<(String, i32)> {
    let rows = table.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let row = |line: &str| {
        let (statuses, command) = line.split_at(line.find(|c: char| c.is_alphabetic()).unwrap());
        let statuses: Vec<i32> = statuses.split_whitespace().map(|status| status.parse().unwrap()).collect();
        assert_eq!(statuses.len(), STATES.len(), "{line}");
        (command.to_owned(), statuses[column])
    };
    rows.map(row).collect()
}

#[test]
fn a_repository_that_one_may_not_enter_is_not_called_missing() {
    let Some(state) = state("another's") else { return };
    fs::set_permissions(state.lab.path("repo"), fs::Permissions::from_mode(0o700)).unwrap();
    for (command, _) in expected(&fs::read_to_string(TABLE).unwrap(), 0) {
        let found = state.run(&command);
        assert_eq!(found.status, Some(1), "{command}: {found:?}");
        assert!(found.err.contains("ermission denied"), "{command}: {found:?}");
        assert!(!found.err.contains("init"), "{command}: {found:?}");
    }
}

#[test]
fn each_command_ends_as_the_state_of_the_repository_says() {
    let table = fs::read_to_string(TABLE).unwrap();
    let mut wrong = Vec::new();
    for (column, name) in STATES.iter().enumerate() {
        let Some(state) = state(name) else { continue };
        for (command, status) in expected(&table, column) {
            let found = state.run(&command);
            let is_told =
                found.err.lines().all(|line| line.starts_with("treering: ") || line.starts_with('{'))
                    && (found.status == Some(0) || !found.err.is_empty())
                    && (found.status != Some(12) || found.err.contains("--identity"));
            if found.status != Some(status) || !is_told {
                wrong.push(format!("{command} on one that is {name}: not {status}, but {found:?}"));
            }
        }
        set_writable(&state.lab.path("repo"), true);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
