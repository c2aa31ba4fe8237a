//! Each command on a repository, and what it tells a person.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use treering::repository::{Repository, Selector};
use treering::timeline;

use crate::commits::commit;
use crate::lab::{Lab, Outcome, contents};

/// A repository with two snapshots, a day apart, of a tree that changed in every way.
fn two_snapshots() -> Lab {
    let lab = Lab::new();
    lab.ok(["backup", "tree", "--time", "2026-11-01 10:00", "--host", "alpha", "--tag", "first,daily"]);
    lab.write("tree/notes", "other notes\n");
    fs::rename(lab.path("tree/letters/one"), lab.path("tree/letters/uno")).unwrap();
    fs::remove_file(lab.path("tree/letters/two")).unwrap();
    lab.write("tree/new", "new\n");
    lab.ok(["backup", "tree", "--time", "2026-11-02 10:00", "--host", "alpha"]);
    lab
}

#[test]
fn init_says_where_the_repository_is() {
    let lab = Lab::bare();
    assert_eq!(lab.ok(["init", "--compression", "zstd:5"]), "Made the repository repo\n");
    assert_eq!(lab.ok(["-r", "other", "init", "-q"]), "");
}

#[test]
fn an_empty_repository_says_so() {
    let lab = Lab::new();
    let out = lab.ok(["snapshots"]);
    assert_eq!(out, "There are no snapshots yet: make one with `treering backup DIR`\n");
}

#[test]
fn backup_sums_up_what_it_did() {
    let lab = Lab::new();
    let first = lab.ok(["backup", "tree"]);
    assert!(first.starts_with("Saved snapshot "), "{first}");
    assert!(first.contains(": 3 files, 33 B\n"), "{first}");
    assert!(first.contains("changes  5 created\n"), "{first}");
    assert!(!first.contains("since"), "{first}");
    let second = lab.ok(["backup", "tree"]);
    assert!(second.contains("since "), "{second}");
    assert!(second.contains("changes  no differences\n"), "{second}");
    assert_eq!(lab.ok(["backup", "tree", "--quiet"]), "");
}

#[test]
fn the_first_snapshot_of_a_directory_is_not_said_to_differ_from_another_one() {
    let lab = Lab::new();
    lab.ok(["backup", "tree"]);
    lab.write("other/thing", "thing\n");
    let first = lab.ok(["backup", "other"]);
    assert!(first.contains("first    of these paths"), "{first}");
    assert!(!first.contains("since") && !first.contains("deleted"), "{first}");
    let second = lab.ok(["backup", "other"]);
    assert!(second.contains("since ") && second.contains("changes  no differences\n"), "{second}");
}

#[test]
fn lost_data_is_told_and_stored_again() {
    let lab = Lab::new();
    lab.ok(["backup", "tree", "--time", "2026-11-01 10:00"]);
    let layers: serde_json::Value = serde_json::from_str(&lab.ok(["layers", "list", "--json"])).unwrap();
    let layers = layers["layers"].as_array().unwrap();
    let data = layers.iter().find(|layer| layer["type"] == "data").unwrap()["name"].as_str().unwrap();
    fs::remove_file(lab.path("repo/objects/pack").join(data).with_extension("pack")).unwrap();
    let checked = lab.run(["check"]);
    assert_eq!(checked.status, Some(1));
    assert!(checked.err.contains(data), "{}", checked.err);
    let outcome = lab.run(["backup", "tree"]);
    assert_eq!(outcome.status, Some(3), "{}", outcome.err);
    assert!(outcome.err.contains("1 volume of earlier backups cannot be read"), "{}", outcome.err);
    lab.ok(["restore", "latest", "--target", "restored"]);
}

#[test]
fn a_damaged_record_is_told_by_the_next_backup() {
    let lab = Lab::new();
    lab.ok(["backup", "tree", "--time", "2026-11-01 10:00"]);
    let snapshot = Repository::open(&lab.path("repo")).unwrap().find(&Selector::Latest(0)).unwrap();
    let record = timeline::path("snapshots", &snapshot.key, ".cbor");
    commit(&lab.path("repo"), |transaction, edit| {
        edit.set(record.as_bytes(), transaction.blob(b"no record\n").unwrap()).unwrap();
    });
    for _ in 0..2 {
        let outcome = lab.run(["backup", "tree", "-q"]);
        assert_eq!(outcome.status, Some(3), "{}", outcome.err);
        assert!(outcome.err.contains("an earlier snapshot is damaged"), "{}", outcome.err);
    }
    let outcome = lab.run(["backup", "tree", "--json"]);
    let summary: serde_json::Value = serde_json::from_str(outcome.out.lines().last().unwrap()).unwrap();
    assert_eq!((&summary["base_damaged"], &summary["error_count"]), (&true.into(), &0.into()), "{summary}");
    assert!(summary["base_fault"].as_str().unwrap().contains("damaged"), "{summary}");
    // By schedule it is the same.
    lab.write(
        "profiles.toml",
        "[profile.p]\nrepo = 'repo'\nsources = 'tree'\nrun-partial = 'echo partial $TREERING_STATUS >> trace'\n",
    );
    let run = "--config profiles.toml -P p schedule run --force --json";
    let output = lab.command(run.split(' ')).output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().contains("\"partial\""), "{:?}", output.status);
    assert_eq!(fs::read_to_string(lab.path("trace")).unwrap(), "partial partial\n");
}

#[test]
fn the_repository_of_another_user_is_told_with_what_to_do() {
    let lab = Lab::new();
    let repo = lab.path("repo");
    // Only root can give it away.
    if std::os::unix::fs::chown(&repo, Some(12345), None).is_err() {
        return;
    }
    let outcome = lab.run(["snapshots"]);
    let hint = format!("git config --global --add safe.directory {}", repo.canonicalize().unwrap().display());
    assert!(outcome.err.contains(&hint), "{}", outcome.err);
    assert_eq!(outcome.status, Some(1));
}

#[test]
fn a_repository_is_no_remote_of_itself() {
    let lab = Lab::new();
    let file = format!("file://{}", lab.path("repo").display());
    for url in ["repo", "./tree/../repo", &file] {
        let outcome = lab.run(["remote", "add", "self", url]);
        assert_eq!(outcome.status, Some(1));
        assert!(outcome.err.contains("would be this repository itself"), "{}", outcome.err);
    }
    assert!(!lab.ok(["remote", "list"]).contains("self"));
}

#[test]
fn a_dry_run_sums_up_what_would_be_done_and_saves_nothing() {
    let lab = Lab::new();
    let out = lab.ok(["backup", "tree", "-n"]);
    assert!(out.starts_with("Would save a snapshot: 3 files, 33 B\n"), "{out}");
    assert!(out.contains("changes  5 created\n"), "{out}");
    let out = lab.ok(["backup", "tree", "-n", "-v"]);
    assert!(out.contains("+  letters/one\n"), "{out}");
    assert!(lab.ok(["snapshots"]).starts_with("There are no snapshots"));
}

#[test]
fn excludes_leave_things_out() {
    let lab = Lab::new();
    lab.write("tree/cache/CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55\n");
    lab.write("tree/cache/blob", "blob");
    lab.write("tree/letters/.leave", "two\n");
    lab.write("patterns", "notes\n");
    let flags = "--exclude-file patterns --ignore-file .leave --exclude-caches -x -e on[e]";
    lab.ok(["backup", "tree"].into_iter().chain(flags.split(' ')));
    let listed = lab.ok(["ls", "latest"]);
    let names: Vec<_> = listed.lines().map(|line| line.rsplit('/').next().unwrap()).collect();
    assert_eq!(names, ["tree", "cache", "CACHEDIR.TAG", "letters", ".leave"]);
}

#[test]
fn excludes_that_cannot_be_used_fail_before_anything_is_saved() {
    let lab = Lab::new();
    lab.write("patterns", "# fine\n*.o\na**b\\\n");
    for (flags, named) in [
        (["--exclude-file", "/nope"], "/nope"),
        (
            ["--exclude-file", "patterns"],
            r#"the pattern of line 3 in patterns: "a**b\\" ends with a \ that escapes nothing"#,
        ),
        (["-e", "a**b\\"], r"a**b\\"),
    ] {
        let outcome = lab.run(["backup", "tree"].into_iter().chain(flags));
        assert_eq!((outcome.status, outcome.out.as_str()), (Some(1), ""), "{}", outcome.err);
        assert!(outcome.err.contains(named), "{}", outcome.err);
    }
    assert!(lab.ok(["snapshots"]).starts_with("There are no snapshots"));
    // One in the tree is a problem of its directory.
    lab.write("tree/.leave", "a**b\\\ntwo\n");
    let outcome = lab.run(["backup", "tree", "--ignore-file", ".leave"]);
    assert_eq!(outcome.status, Some(3), "{}", outcome.err);
    assert!(outcome.out.contains(": 3 files"), "{}", outcome.out);
}

#[test]
fn snapshots_are_a_table() {
    let out = two_snapshots().ok(["snapshots"]);
    let lines: Vec<_> = out.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
    assert_eq!(lines[0], ["ID", "Time", "Host", "Tags", "Files", "Size", "Added", "Roots"]);
    assert_eq!(lines[1][1..5], ["2026-11-01", "10:00:00+00:00", "alpha", "first,daily"]);
    assert_eq!(lines[2][1..5], ["2026-11-02", "10:00:00+00:00", "alpha", "3"]);
    assert!(lines[1].last().unwrap().ends_with("/tree"), "{out}");
}

#[test]
fn snapshots_are_named_by_place_id_or_time() {
    let lab = two_snapshots();
    let table = lab.ok(["snapshots"]);
    let id = table.lines().nth(1).unwrap().split(' ').next().unwrap();
    for name in ["latest~1", id, "2026-11-01 12:00"] {
        assert_eq!(lab.ok(["cat", &format!("{name}:notes")]), "notes\n", "{name}");
    }
}

#[test]
fn ls_names_paths_as_they_were() {
    let lab = two_snapshots();
    let root = lab.path("tree").canonicalize().unwrap();
    let expected = ["", "/letters", "/letters/one", "/letters/two", "/notes"];
    let expected: String = expected.map(|path| format!("{}{path}\n", root.display())).concat();
    assert_eq!(lab.ok(["ls", "latest~1"]), expected);
    let whole = format!("latest:{}/letters", root.display());
    assert_eq!(lab.ok(["ls", &whole]), lab.ok(["ls", "latest:letters"]));
}

#[test]
fn a_long_listing_shows_what_ls_would() {
    use std::os::unix::fs::PermissionsExt;
    let lab = Lab::new();
    fs::set_permissions(lab.path("tree/notes"), fs::Permissions::from_mode(0o4750)).unwrap();
    let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    let times = fs::FileTimes::new().set_modified(old);
    fs::File::open(lab.path("tree/notes")).unwrap().set_times(times).unwrap();
    std::os::unix::fs::symlink("notes", lab.path("tree/link")).unwrap();
    lab.ok(["backup", "tree"]);
    let out = lab.ok(["ls", "--long", "latest"]);
    let line = |end: &str| out.lines().find(|line| line.ends_with(end)).unwrap_or_else(|| panic!("{out}"));
    assert!(line("/notes").starts_with("-rwsr-x---  "), "{out}");
    assert!(line("/notes").contains("  6  2001-09-09 01:46:40  /"), "{out}");
    assert!(line("/link -> notes").starts_with("lrwxrwxrwx  "), "{out}");
    assert!(line("/tree").starts_with('d'), "{out}");
}

#[test]
fn diff_shows_one_line_a_change() {
    let lab = two_snapshots();
    let expected = "\
U  .
U  letters/
-  letters/two
R  letters/one -> letters/uno
+  new
M  notes
1 created, 1 updated, 2 with other metadata, 1 renamed, 1 deleted\n";
    assert_eq!(lab.ok(["diff", "latest~1", "latest"]), expected);
    assert_eq!(lab.ok(["diff", "latest", "tree"]), "no differences\n");
    assert_eq!(lab.ok(["diff", "latest", "./tree", "--quiet"]), "");
}

#[test]
fn diff_compares_a_source_that_is_no_directory_by_any_of_its_names() {
    let lab = Lab::new();
    lab.write("tree/new\nline", "odd name\n");
    lab.write("tree/fee", "a name like the beginning of an id\n");
    let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, lab.path("tree").join(name)).unwrap();
    link("letters", "lk");
    link("nowhere", "dangling");
    link("tree", "../way");
    for name in ["notes", "fee", "new\nline", "lk", "dangling"] {
        let path = format!("tree/{name}");
        // A link that is saved as one is told of.
        assert_eq!(lab.run(["backup", "-q", &path]).status, Some(0));
        let listed = lab.ok(["ls", "latest"]);
        let listed = listed.trim_end_matches('\n').split(" -> ").next().unwrap();
        let absolute = lab.path(&path).display().to_string();
        let way = format!("way/{name}");
        for named in [path.as_str(), &absolute, listed, &way] {
            for old in ["latest".to_owned(), format!("latest:{name}"), format!("latest:{absolute}")] {
                assert_eq!(lab.ok(["diff", &old, named]), "no differences\n", "{old} {named}");
            }
        }
        let mut here = lab.command(["-r", "../repo", "diff", "latest", name]);
        let outcome = Outcome::from(here.current_dir(lab.path("tree")).output().unwrap());
        assert_eq!((outcome.status, outcome.out.as_str()), (Some(0), "no differences\n"), "{outcome:?}");
        assert_eq!(lab.run(["backup", "-q", &path, "tree/letters"]).status, Some(0));
        let files = ["latest~1", "latest"].map(|snapshot| format!("{snapshot}:{absolute}"));
        assert_eq!(lab.ok(["diff", &files[0], &files[1]]), "no differences\n");
        assert_eq!(lab.ok(["diff", "latest", &path]), "no differences\n");
        assert_eq!(lab.ok(["diff", &files[0], &path]), "no differences\n");
    }
    lab.ok(["backup", "-q", "tree/notes"]);
    lab.write("tree/notes", "other notes\n");
    assert_eq!(lab.ok(["diff", "latest", "tree/notes"]), "M  .\n1 updated\n");
    lab.write("other/notes", "notes of elsewhere\n");
    assert_eq!(lab.ok(["diff", "latest", "other/notes"]), "M  .\n1 updated\n");
    assert_eq!(lab.run(["diff", "latest", "tree/none"]).status, Some(1));
    // A link, or a file, where a directory was has nothing below it.
    lab.ok(["backup", "-q", "tree/letters"]);
    fs::rename(lab.path("tree/letters"), lab.path("tree/moved")).unwrap();
    link("moved", "letters");
    let gone = lab.ok(["diff", "latest", "tree/letters"]);
    assert!(gone.contains("-  one\n") && gone.contains("-  two\n"), "{gone}");
    assert!(!lab.ok(["diff", "latest", "tree/letters/"]).contains("one"), "a slash follows the link");
}

#[test]
fn diff_goes_on_past_what_it_cannot_read() {
    use std::os::unix::fs::PermissionsExt;
    if rustix::process::geteuid().is_root() && !crate::programs::are_here(&["setpriv"]) {
        return;
    }
    let lab = Lab::new();
    lab.write("tree/closed/inside", "inside\n");
    lab.ok(["backup", "tree"]);
    lab.write("tree/letters/two", "other second letter\n");
    lab.write("tree/notes", "other notes\n");
    let mode = |name: &str, mode| {
        fs::set_permissions(lab.path(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("tree/notes", 0);
    mode("tree/closed", 0);
    let outcome = lab.as_nobody(["diff", "latest", "tree"]);
    let json = lab.as_nobody(["diff", "latest", "tree", "--json"]);
    mode("tree/closed", 0o755);
    assert_eq!(outcome.out, "U  closed/\nM  letters/two\n1 updated, 1 with other metadata\n");
    assert_eq!(outcome.status, Some(3), "{}", outcome.err);
    for name in ["tree/notes: ", "tree/closed: "] {
        assert!(outcome.err.contains(name), "{}", outcome.err);
    }
    let json: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(json["errors"].as_array().unwrap().len(), 2, "{json}");
}

#[test]
fn diff_leaves_out_of_a_directory_what_it_is_told_to() {
    let lab = Lab::new();
    lab.write("tree/cache/CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55\n");
    lab.write("tree/cache/blob", "blob");
    lab.write("tree/letters/gone.log", "log");
    lab.write("tree/letters/there.log", "log");
    lab.ok(["backup", "tree"]);
    fs::remove_file(lab.path("tree/letters/gone.log")).unwrap();
    lab.write("tree/letters/there.log", "another log");
    lab.write("tree/letters/new.log", "new log");
    lab.write("tree/cache/blob", "another blob");
    lab.write("tree/notes", "other notes\n");
    let out = lab.ok(["diff", "latest", "tree", "-e", "*.log", "--exclude-caches"]);
    assert_eq!(out, "U  letters/\nM  notes\n1 updated, 1 with other metadata\n");
    let out = lab.ok(["diff", "latest", "tree"]);
    assert!(out.contains("-  letters/gone.log\n") && out.contains("M  cache/blob\n"), "{out}");
}

#[test]
fn restore_brings_back_each_state() {
    let lab = two_snapshots();
    let out = lab.ok(["restore", "latest", "--target", "out", "--verify"]);
    assert!(out.contains("verified 3 files\n"), "{out}");
    assert_eq!(contents(&lab.path("out")), contents(&lab.path("tree")));

    lab.write("out/extra", "extra");
    let dry = lab.ok(["restore", "latest~1", "-t", "out", "--delete", "--dry-run"]);
    assert!(dry.contains("-  extra\n"), "{dry}");
    assert_eq!(contents(&lab.path("out")).len(), 4);
    lab.ok(["restore", "latest~1", "-t", "out", "--delete", "--yes"]);
    let names = ["letters/one", "letters/two", "notes"];
    let found: Vec<_> = contents(&lab.path("out")).into_iter().map(|(path, _)| path).collect();
    assert_eq!(found, names.map(Into::<std::path::PathBuf>::into));
}

#[test]
fn restore_takes_a_path_and_patterns() {
    let lab = two_snapshots();
    lab.ok(["restore", "latest~1:letters", "-t", "letters"]);
    assert_eq!(contents(&lab.path("letters")).len(), 2);
    lab.ok(["restore", "latest~1", "-t", "some", "-i", "letters", "-e", "two"]);
    let some = contents(&lab.path("some"));
    assert_eq!(some, [("letters/one".into(), "first letter\n".into())]);
    // A path through a link means what it means to a backup.
    std::os::unix::fs::symlink(".", lab.path("way")).unwrap();
    let way = |path: &str| lab.path("way/tree").join(path).display().to_string();
    lab.ok(["restore", "latest~1", "-t", "by-way", "-i", &way("letters"), "-e", &way("letters/tw*")]);
    assert_eq!(contents(&lab.path("by-way")), some);
}

#[test]
fn several_directories_keep_their_paths() {
    let lab = Lab::new();
    lab.write("second/file", "second");
    lab.ok(["backup", "tree", "second"]);
    lab.ok(["restore", "latest", "-t", "out"]);
    let below = |name: &str| {
        let root = lab.path(name).canonicalize().unwrap();
        lab.path("out").join(root.strip_prefix("/").unwrap())
    };
    assert_eq!(contents(&below("tree")), contents(&lab.path("tree")));
    assert_eq!(contents(&below("second")), contents(&lab.path("second")));
}

#[test]
fn verbose_names_every_change() {
    let lab = Lab::new();
    let out = lab.ok(["backup", "tree", "--verbose"]);
    assert!(out.starts_with("+  .\n+  letters/\n+  letters/one\n"), "{out}");
    let out = lab.ok(["restore", "latest", "-t", "out", "-v"]);
    assert!(out.contains("+  notes\n"), "{out}");
}

#[test]
fn check_says_what_it_looked_at() {
    let lab = two_snapshots();
    let out = lab.ok(["check"]);
    assert!(out.starts_with("Checked 2 snapshots, "), "{out}");
    assert!(out.ends_with(": no faults\n"), "{out}");
    assert!(lab.ok(["check", "--read-data"]).contains("; read "));
}

#[test]
fn names_cannot_reach_the_terminal() {
    let lab = Lab::new();
    let name = std::ffi::OsStr::from_bytes(b"red\x1b[31m\xff\n");
    fs::write(lab.path("tree").join(name), "").unwrap();
    let out = lab.ok(["backup", "tree", "-v"]);
    assert!(out.contains("+  red\\u{1b}[31m\\xff\\n\n"), "{out}");
    assert!(lab.ok(["ls", "latest"]).contains("/red\\u{1b}[31m\\xff\\n\n"));
}

#[test]
fn help_tells_groups_examples_and_exit_statuses() {
    let help = Lab::bare().ok(["--help"]);
    for text in ["Backups:\n  init ", "Snapshots:", "Examples:", "Exit status:"] {
        assert!(help.contains(text), "{text}: {help}");
    }
    assert!(Lab::bare().ok(["diff", "--help"]).contains("R  renamed: OLD -> NEW"));
    assert!(Lab::bare().ok(["help", "diff"]).contains("R  renamed: OLD -> NEW"));
    assert_eq!(Lab::bare().ok(["--version"]), concat!("treering ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn a_shell_can_complete_the_command_line() {
    let lab = Lab::bare();
    for shell in ["bash", "zsh", "fish"] {
        assert!(lab.ok(["completions", shell]).contains("exclude-caches"), "{shell}");
    }
}

#[test]
fn compression_can_be_changed_and_old_volumes_stay() {
    let lab = Lab::new();
    lab.ok(["backup", "tree"]);
    assert_eq!(lab.ok(["compression"]), "New data is compressed by gzip:1\n");
    assert_eq!(lab.ok(["compression", "zstd"]), "New data is compressed by zstd:3\n");
    lab.write("tree/more", &"a line that was not there before\n".repeat(100));
    lab.ok(["backup", "tree"]);
    let output = std::process::Command::new("git")
        .args(["-C", "repo", "ls-tree", "-r", "--name-only", "main", "archives"])
        .current_dir(lab.path(""))
        .output()
        .expect("the program git is installed");
    let names = String::from_utf8(output.stdout).unwrap();
    assert!(names.contains(".tar.gz\n") && names.contains(".tar.zst\n"), "{names}");
    lab.ok(["check", "--read-data", "-q"]);
    lab.ok(["restore", "latest", "--target", "out", "-q"]);
    assert_eq!(contents(&lab.path("out")), contents(&lab.path("tree")));
    assert_eq!(lab.run(["compression", "lzma"]).status, Some(1));
}

#[test]
fn a_link_that_is_named_with_and_without_a_slash_is_told_of() {
    let lab = Lab::new();
    let link = lab.path("link");
    symlink("tree", &link).unwrap();
    for sources in [["link/", "link"], ["link", "link/"]] {
        let outcome = lab.run(["backup"].into_iter().chain(sources));
        assert!(outcome.status == Some(0) && outcome.out.contains("3 files"), "{outcome:?}");
        let expected = format!("{} was given both with and without a trailing slash", link.display());
        assert_eq!(outcome.err.matches(&expected).count(), 1, "{}", outcome.err);
    }
    assert_eq!(lab.run(["backup", "link/", "link/.", "tree", "tree/"]).err, "");
}

#[test]
fn a_backup_says_what_it_did_not_save_as_one_might_think() {
    let lab = Lab::new();
    symlink("tree", lab.path("link")).unwrap();
    let outcome = lab.run(["backup", "link"]);
    assert_eq!(outcome.status, Some(0));
    let link = lab.path("link");
    let expected = format!("{0} is a symbolic link, and is saved as one: name {0}/ to save", link.display());
    assert!(outcome.err.contains(&expected), "{}", outcome.err);
    assert!(lab.ok(["backup", "link/"]).contains("3 files"));
    symlink("tree/notes", lab.path("to-file")).unwrap();
    let outcome = lab.run(["backup", "to-file"]);
    assert!(outcome.err.contains("saved as one: name what it leads to"), "{}", outcome.err);
    let out = lab.ok(["restore", "latest", "-t", "to"]);
    let place = format!("source   {} -> to/to-file\n", lab.path("to-file").display());
    assert!(out.contains(&place), "{out}");

    let outcome = lab.run(["backup", "tree", "missing"]);
    assert_eq!(outcome.status, Some(3), "{}", outcome.err);
    assert!(outcome.err.contains(&format!("{}", lab.path("missing").display())), "{}", outcome.err);
    assert!(outcome.out.contains("3 files"), "{}", outcome.out);
    let listed = lab.ok(["snapshots"]);
    assert_eq!(listed.lines().filter(|line| line.ends_with(" (partial)")).count(), 1, "{listed}");
    let json: serde_json::Value = serde_json::from_str(&lab.ok(["snapshots", "--json"])).unwrap();
    let partial: Vec<_> =
        json["snapshots"].as_array().unwrap().iter().map(|snapshot| snapshot["partial"].as_bool()).collect();
    assert_eq!(partial, [Some(false), Some(false), Some(false), Some(true)]);

    for number in 0..100 {
        lab.write(&format!("mount/{number}"), "x");
    }
    lab.ok(["backup", "mount"]);
    fs::remove_dir_all(lab.path("mount")).unwrap();
    fs::create_dir(lab.path("mount")).unwrap();
    let outcome = lab.run(["backup", "mount"]);
    assert_eq!(outcome.status, Some(0));
    assert!(
        outcome.err.contains("mount holds no file, and had 100 files in the snapshot before"),
        "{}",
        outcome.err
    );
}

#[test]
fn excludes_are_paths_as_a_shell_has_them_and_tell_what_they_leave_out() {
    let lab = Lab::new();
    lab.write("tree/cache/big", "x");
    lab.write("tree/.skip", "*.bak\n");
    lab.write("tree/a.bak", "x");
    lab.write("tree/tagged/CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55");
    lab.write("tree/tagged/data", "x");
    let tree = lab.path("tree");
    let at = |path: &str| tree.join(path).display().to_string();
    std::os::unix::fs::symlink(".", lab.path("way")).unwrap();
    let way = lab.path("way/tree/cache").display().to_string();
    for pattern in [
        "~/tree/cache",
        "./tree/cache",
        "tree/cache",
        "/cache",
        "cache",
        &at("cache"),
        &way,
        "~/way/tree/c*e",
    ] {
        let mut command = lab.command(["backup", "tree", "--dry-run", "-v", "-e", pattern]);
        let output = command.env("HOME", lab.path("")).output().unwrap();
        let out = String::from_utf8(output.stdout).unwrap();
        let line = format!("x  {}: excluded by {}\n", at("cache"), pattern);
        assert!(out.contains(&line) && !out.contains("cache/big"), "{pattern}\n{out}");
    }
    let out = lab.ok(["backup", "tree", "-v", "--ignore-file", ".skip", "--exclude-caches"]);
    assert!(out.contains(&format!("x  {}: excluded by *.bak in {}\n", at("a.bak"), at(".skip"))), "{out}");
    assert!(out.contains(&format!("x  {}: a cache, by its CACHEDIR.TAG\n", at("tagged"))), "{out}");
    let json = lab.ok(["backup", "tree", "-v", "--json", "-e", "cache"]);
    let left_out = json.lines().find(|line| line.contains("left_out")).unwrap();
    let left_out: serde_json::Value = serde_json::from_str(left_out).unwrap();
    assert_eq!(
        (left_out["path"].as_str(), left_out["reason"].as_str()),
        (Some(&*at("cache")), Some("excluded by cache"))
    );
    assert!(!lab.ok(["backup", "tree", "-e", "cache"]).contains("excluded"));
}

#[test]
fn a_pattern_that_can_match_nothing_is_refused_by_every_command_that_takes_one() {
    let lab = Lab::new();
    lab.ok(["backup", "tree", "-q"]);
    let commands = [
        "backup tree -e",
        "diff latest ./tree -e",
        "restore latest -t out -e",
        "restore latest -t out -i",
        "dir index tree -o index -e",
    ];
    for command in commands {
        for pattern in ["", "[", "/", "x\\", "!", "~root/x", "{a"] {
            let outcome = lab.run(command.split(' ').chain([pattern]));
            assert_eq!(
                (outcome.status, outcome.out.as_str()),
                (Some(1), ""),
                "{command} {pattern}: {outcome:?}"
            );
            let shown = format!("{:?}", pattern.trim_start_matches('!'));
            assert!(outcome.err.contains(&shown), "{command} {pattern}: {}", outcome.err);
        }
        let outcome = lab.run(command.split(' ').chain(["!notes"]));
        assert_eq!((outcome.status, outcome.out.as_str()), (Some(1), ""), "{command}: {outcome:?}");
        assert!(outcome.err.contains(r#""!notes" takes back"#), "{command}: {}", outcome.err);
        if command.ends_with("-i") {
            continue;
        }
        // The source itself, or a directory above it.
        for pattern in [".", "tree", "./tree", lab.path("tree").to_str().unwrap()] {
            let pattern =
                if command.starts_with("restore") || pattern != "tree" { pattern } else { "./tree/" };
            let outcome = lab.run(command.split(' ').chain([pattern]));
            let is_restored_name = command.starts_with("restore") && pattern == "tree";
            assert_eq!(
                outcome.status,
                Some(i32::from(!is_restored_name)),
                "{command} {pattern}: {outcome:?}"
            );
        }
    }
    assert_eq!(lab.ok(["snapshots"]).lines().count(), 2);
}

#[test]
fn what_is_to_be_included_and_is_not_there_is_told() {
    let lab = Lab::new();
    lab.ok(["backup", "tree", "-q"]);
    for pattern in ["typo", "/typo", "~/typo", "./typo", "tree/typo"] {
        let outcome = lab.run(["restore", "latest", "-t", "out", "-i", pattern]);
        assert_eq!(outcome.status, Some(1), "{pattern}: {outcome:?}");
        let outcome =
            lab.run(["restore", "latest", "-t", "out", "-n", "--json", "-i", pattern, "-i", "notes"]);
        assert_eq!(outcome.status, Some(0), "{pattern}: {outcome:?}");
        assert!(outcome.err.contains(&format!("--include {pattern} matches nothing")), "{}", outcome.err);
        let summary: serde_json::Value = serde_json::from_str(outcome.out.lines().last().unwrap()).unwrap();
        assert_eq!(summary["includes_unmatched"], serde_json::json!([pattern]));
    }
    // One that others say the same of matches all the same.
    lab.ok(["restore", "latest", "-t", "out", "-i", "letters/one", "-i", "letters", "-i", "one"]);
    // What is only in the target, and is to be deleted.
    lab.write("out/stale", "x");
    lab.ok(["restore", "latest", "-t", "out", "--delete", "--yes", "-i", "stale"]);
    assert!(!lab.path("out/stale").exists());
}

#[test]
fn a_path_in_a_profile_lies_beside_it_whoever_runs_it_and_where() {
    let lab = Lab::new();
    for file in ["etc/w/cache/x", "etc/w/sub/x", "etc/w/by-file/x", "etc/w/kept"] {
        lab.write(file, "x");
    }
    lab.write("etc/patterns", "./w/by-file\n");
    let repo = lab.path("repo");
    lab.write(
        "etc/p.toml",
        &format!(
            "[profile.p]\nrepo = {repo:?}\nsources = 'w'\nexclude = ['w/cache', './w/sub']\nexclude-file = 'patterns'\n"
        ),
    );
    let config = lab.path("etc/p.toml");
    for directory in ["", "etc", "etc/w", "tree"] {
        let mut command = lab.command(["--config", config.to_str().unwrap(), "-P", "p", "backup", "-q"]);
        assert!(command.current_dir(lab.path(directory)).output().unwrap().status.success());
        let listed = lab.ok(["ls", "latest"]);
        let names: Vec<_> = listed.lines().map(|line| line.rsplit('/').next().unwrap()).collect();
        assert_eq!(names, ["w", "kept"], "{directory}");
        // The command line's own begin at the current directory.
        let mut command =
            lab.command(["--config", config.to_str().unwrap(), "-P", "p", "backup", "-e", "./kept"]);
        assert!(command.current_dir(lab.path(directory)).output().unwrap().status.success());
        assert_eq!(lab.ok(["ls", "latest"]).contains("kept"), directory != "etc/w", "{directory}");
    }
    // A file without a directory in its name.
    let mut command = lab.command(["backup", "etc/w", "-n", "-v", "--exclude-file", "patterns"]);
    let output =
        command.current_dir(lab.path("etc")).env("TREERING_REPOSITORY", &repo).arg("w").output().unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    assert!(out.contains("by-file: excluded by ./w/by-file\n"), "{out}");
}

#[test]
fn a_path_of_a_snapshot_is_compared_with_a_directory_and_with_another_snapshot() {
    let lab = Lab::new();
    let odd = "tree/letters/l\n\u{1b}";
    lab.write(&format!("{odd}/file"), "x");
    for sources in [&["tree"][..], &["tree", "tree/letters"]] {
        lab.ok(std::iter::once("backup").chain(sources.iter().copied()));
        let at = |path: &str| treering::printed::name(lab.path(path).to_str().unwrap().as_bytes());
        let letters = at("tree/letters");
        lab.write("copy/one", "first letter\n");
        lab.write("copy/new", "new");
        for path in [&letters, letters.strip_prefix('/').unwrap()] {
            let out = lab.ok(["diff", &format!("latest:{path}"), "copy"]);
            assert!(out.contains("+  new\n") && out.contains("-  two\n") && !out.contains("notes"), "{out}");
            assert_eq!(lab.ok(["diff", &format!("latest:{path}"), "tree/letters"]), "no differences\n");
        }
        let odd = at(odd);
        assert_eq!(lab.ok(["diff", &format!("latest:{odd}"), &odd]), "no differences\n");
        assert_eq!(lab.run(["diff", "latest:/nowhere", "copy"]).status, Some(1));
        assert_eq!(lab.run(["diff", "latest:/nowhere", "latest"]).status, Some(1));
        lab.write("tree/letters/fresh/file", "fresh");
        lab.ok(std::iter::once("backup").chain(sources.iter().copied()));
        for line in [
            format!("latest~1:{letters} latest"),
            format!("latest~1 latest:{letters}"),
            format!("latest~1:{letters} latest:{letters}"),
        ] {
            let out = lab.ok(std::iter::once("diff").chain(line.split(' ')));
            assert_eq!(out, "U  .\n+  fresh/\n+  fresh/file\n2 created, 1 with other metadata\n", "{line}");
        }
        let fresh = format!("latest:{letters}/fresh");
        assert_eq!(lab.ok(["diff", "latest~1", &fresh]), "+  .\n+  file\n2 created\n");
        assert_eq!(lab.ok(["diff", &fresh, "latest~1"]), "-  .\n-  file\n2 deleted\n");
        fs::remove_dir_all(lab.path("tree/letters/fresh")).unwrap();
    }
}

#[test]
fn the_files_of_a_snapshot_are_new_changed_or_unmodified() {
    let lab = Lab::new();
    let run = |flags: &[&str], expected: [u64; 3]| {
        let out = lab.ok(["backup", "tree", "--json"].iter().chain(flags));
        let summary: serde_json::Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
        let of = |key: &str| summary[key].as_u64().unwrap();
        let counts = ["files_new", "files_changed", "files_unmodified"].map(of);
        assert_eq!(counts, expected, "{flags:?} {summary}");
        assert_eq!(counts.iter().sum::<u64>(), of("total_files_processed"), "{summary}");
        assert_eq!(of("files_read") + of("files_not_opened"), of("total_files_processed"), "{summary}");
    };
    run(&["-n"], [3, 0, 0]);
    run(&[], [3, 0, 0]);
    // Until the files are old enough to count as unchanged.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    run(&[], [0, 0, 3]);
    run(&[], [0, 0, 3]);
    run(&["-f"], [0, 0, 3]);
    run(&["-f", "-n"], [0, 0, 3]);
    lab.write("tree/notes", "other notes\n");
    lab.write("tree/new", "new");
    run(&["-n"], [1, 1, 2]);
    run(&["-f"], [1, 1, 2]);
    fs::rename(lab.path("tree/new"), lab.path("tree/renamed")).unwrap();
    fs::remove_file(lab.path("tree/letters/one")).unwrap();
    run(&[], [1, 0, 2]);
}

#[test]
fn a_repository_that_is_there_already_stays_as_it_is() {
    let lab = Lab::new();
    lab.ok(["backup", "tree", "-q"]);
    let before = lab.ok(["snapshots"]);
    for line in ["init", "init --compression none"] {
        let outcome = lab.run(line.split(' '));
        assert_eq!(outcome.status, Some(1), "{line}: {outcome:?}");
        assert!(outcome.err.contains("repo is a treering repository already: use it"), "{}", outcome.err);
    }
    assert_eq!(lab.ok(["snapshots"]), before);
    // The help says so.
    let help = lab.ok(["init", "--help"]).split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        help.contains("If the repository exists, `init` changes nothing and exits with status 1."),
        "{help}"
    );
}

/// What cannot be read is not gone, and is not new when it can be read again.
#[test]
fn a_backup_tells_no_change_of_what_it_or_the_one_before_could_not_read() {
    if rustix::process::geteuid().is_root() && !crate::programs::are_here(&["setpriv"]) {
        return;
    }
    let lab = Lab::new();
    lab.write("tree/secret", "secret");
    lab.write("tree/closed/inside", "inside");
    lab.write("tree/gone", "gone");
    lab.ok(["backup", "tree"]);
    let close = |modes: [u32; 2]| {
        for (name, mode) in ["tree/secret", "tree/closed"].into_iter().zip(modes) {
            fs::set_permissions(lab.path(name), fs::Permissions::from_mode(mode)).unwrap();
        }
    };
    let summary = |flags: &[&str], status| {
        let outcome = lab.as_nobody(["backup", "tree", "--json"].iter().chain(flags));
        assert_eq!(outcome.status, Some(status), "{}", outcome.err);
        let summary: serde_json::Value = serde_json::from_str(outcome.out.lines().last().unwrap()).unwrap();
        let changes = &summary["statistics"];
        let sum =
            ["files_new", "files_changed", "files_unmodified"].map(|key| summary[key].as_u64().unwrap());
        assert_eq!(sum.iter().sum::<u64>(), summary["total_files_processed"].as_u64().unwrap(), "{summary}");
        ["created", "deleted"]
            .map(|key| changes[key].as_u64().unwrap())
            .into_iter()
            .chain(summary["entries_unknown"].as_u64())
            .collect::<Vec<_>>()
    };
    fs::remove_file(lab.path("tree/gone")).unwrap();
    close([0, 0]);
    assert_eq!(summary(&["-n"], 3), [0, 1, 2]);
    let outcome = lab.as_nobody(["backup", "tree", "-v"]);
    assert_eq!(outcome.status, Some(3), "{}", outcome.err);
    assert!(outcome.out.contains("1 deleted") && outcome.out.contains("-  gone\n"), "{}", outcome.out);
    assert!(!outcome.out.contains("-  secret") && !outcome.out.contains("inside"), "{}", outcome.out);
    assert!(
        outcome.out.contains("\n  unknown  2 names that could not be read now, or for"),
        "{}",
        outcome.out
    );
    // What is stored of it says the same.
    let script =
        "cd repo && git cat-file blob \"HEAD:$(git ls-tree -r --name-only HEAD diffs | tail -1)\" | gunzip";
    let stored =
        || Command::new("sh").args(["-c", script]).current_dir(lab.path("")).output().unwrap().stdout;
    let has = |stored: &[u8], name: &str| stored.windows(name.len()).any(|window| window == name.as_bytes());
    let of_diff = stored();
    assert!(has(&of_diff, "gone"), "{of_diff:?}");
    assert!(!has(&of_diff, "secret") && !has(&of_diff, "inside"), "{of_diff:?}");
    close([0o600, 0o700]);
    assert_eq!(summary(&["-n"], 0), [0, 0, 2]);
    lab.write("tree/fresh", "fresh");
    assert_eq!(summary(&[], 0), [1, 0, 2]);
    let of_diff = stored();
    assert!(has(&of_diff, "fresh") && !has(&of_diff, "secret") && !has(&of_diff, "inside"), "{of_diff:?}");
    // The snapshot has them all the same.
    lab.ok(["restore", "latest", "-t", "out", "-q"]);
    assert_eq!(fs::read_to_string(lab.path("out/closed/inside")).unwrap(), "inside");
    assert_eq!(summary(&[], 0), [0, 0, 0]);
}

#[test]
fn what_a_backup_added_is_the_same_in_every_listing() {
    let lab = Lab::new();
    let added = |out: &str| {
        let (_, rest) = out.split_once("added    ").unwrap();
        rest.split_once(" in ").unwrap().0.to_owned()
    };
    let first = added(&lab.ok(["backup", "tree"]));
    lab.write("tree/new", "something new");
    let second = added(&lab.ok(["backup", "tree"]));
    assert_ne!(first, "0 B");
    let listed = lab.ok(["snapshots"]);
    let row = |number: usize| listed.lines().nth(number).unwrap().to_owned();
    assert!(row(1).contains(&format!("  {first}  ")), "{first}\n{listed}");
    assert!(row(2).contains(&format!("  {second}  ")), "{second}\n{listed}");
    let summary = lab.ok(["backup", "tree", "--json"]);
    let summary: serde_json::Value = serde_json::from_str(summary.lines().last().unwrap()).unwrap();
    let json: serde_json::Value = serde_json::from_str(&lab.ok(["snapshots", "--json"])).unwrap();
    assert_eq!(summary["data_added_packed"], json["snapshots"][2]["summary"]["data_added_packed"]);
}

#[test]
fn what_ls_prints_means_the_same_everywhere_with_one_source_or_several() {
    let names = [
        "plain",
        "a[1].txt",
        "star*",
        "with space",
        "back\\slash",
        "line\nbreak",
        "!bang",
        "#hash",
        "sub/{x}",
        "tab\t",
        "\u{1b}[31m",
        "\u{202e}txt",
        "open[",
    ];
    let printed = treering::printed::name;
    for sources in [&["tree"][..], &["tree", "other"]] {
        let lab = Lab::new();
        lab.write("other/file", "other");
        // What the names would match as patterns.
        for decoy in ["a1.txt", "star-gazer", "sub/x", "bang"] {
            lab.write(&format!("tree/{decoy}"), "decoy");
        }
        for name in names {
            lab.write(&format!("tree/{name}"), name);
        }
        lab.ok(std::iter::once("backup").chain(sources.iter().copied()));
        let listed = lab.ok(["ls", "latest"]);
        for name in names {
            let path = format!("{}/{}", lab.path("tree").display(), printed(name.as_bytes()));
            assert!(listed.lines().any(|line| line == path), "{path}\n{listed}");
            assert_eq!(lab.ok(["cat", &format!("latest:{path}")]), name);
            let target = lab.path("restored");
            for path in [&path, path.strip_prefix('/').unwrap()] {
                lab.ok(["restore", "latest", "--target", target.to_str().unwrap(), "-i", path]);
                let restored = contents(&target);
                assert!(restored.iter().any(|(_, text)| text == name), "{path}");
                assert!(restored.len() == 1 || !path.starts_with('/'), "{path}");
                fs::remove_dir_all(&target).unwrap();
            }
            let all = lab.ok(["ls", "latest"]).lines().count() as u64;
            let out = lab.ok(["restore", "latest", "--target", "restored", "-n", "--json", "-e", &path]);
            let summary: serde_json::Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
            let created = summary["statistics"]["created"].as_u64().unwrap();
            assert!(created + 1 == all || sources.len() > 1, "{path} {out}");
            assert!(!out.contains(&format!("{:?}", format!("tree/{name}"))), "{path} {out}");
            // What is as it was is left out too.
            let left_out = lab.ok(["backup", "tree", "-n", "-v", "-e", &path]);
            let lines: Vec<_> = left_out.lines().filter(|line| line.starts_with("x  ")).collect();
            assert_eq!(lines, [format!("x  {path}: excluded by {}", treering::printed::text(&path))]);
            lab.write(&format!("tree/{name}"), "changed");
            let differs = lab.ok(["diff", "latest", "tree"]);
            assert!(differs.contains("1 updated"), "{differs}");
            let differs = lab.ok(["diff", "latest", "tree", "-e", &path]);
            assert!(!differs.contains("updated"), "{path}\n{differs}");
            lab.write(&format!("tree/{name}"), name);
        }
        lab.ok(std::iter::once("backup").chain(sources.iter().copied()));
        // A directory, in the snapshot and as it is now.
        let sub = lab.path("tree/sub");
        assert_eq!(lab.ok(["diff", "latest", sub.to_str().unwrap()]), "no differences\n");
        lab.write("tree/sub/new", "new");
        let differs = lab.ok(["diff", "latest", sub.to_str().unwrap()]);
        assert!(differs.contains("+  new\n") && differs.contains("1 created"), "{differs}");
        lab.write("tree/fresh/file", "new");
        let outcome = lab.run(["diff", "latest", lab.path("tree/fresh").to_str().unwrap()]);
        assert_eq!(outcome.status, Some(1), "{}", outcome.out);
    }
}
