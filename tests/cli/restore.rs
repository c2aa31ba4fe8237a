//! What `restore` may put where, and what it must not remove.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::lab::{Lab, Outcome, contents};

/// A restored copy in `out`, with a name that is not in the snapshot.
fn with_extra() -> Lab {
    let lab = Lab::new();
    lab.ok(["backup", "tree"]);
    lab.ok(["restore", "latest", "-t", "out"]);
    lab.write("out/extra", "extra");
    lab
}

#[test]
fn the_directory_above_a_target_need_not_be_readable() {
    let lab = with_extra();
    fs::create_dir(lab.path("homes")).unwrap();
    fs::rename(lab.path("out"), lab.path("homes/out")).unwrap();
    fs::set_permissions(lab.path("homes"), fs::Permissions::from_mode(0o311)).unwrap();
    let outcome = lab.as_nobody(["restore", "latest", "-t", "homes/out", "--delete", "--yes", "--verify"]);
    fs::set_permissions(lab.path("homes"), fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!((outcome.status, outcome.err.as_str()), (Some(0), ""), "{}", outcome.out);
    assert_eq!(contents(&lab.path("homes/out")), contents(&lab.path("tree")));
}

#[test]
fn a_mounted_file_system_that_the_backup_did_not_enter_is_never_emptied() {
    let lab = Lab::new();
    let script = "
        mkdir tree/plain tree/inner
        mount -t tmpfs none tree/inner; echo data > tree/inner/precious
        $T backup -q -x tree
        touch tree/plain/extra
        mkdir -p tree/new/deep tree/plain/bound
        mount -t tmpfs none tree/new/deep; echo data > tree/new/deep/precious
        # Of the same file system, so that only the mount itself tells.
        mount --bind tree/letters tree/plain/bound
        $T restore latest --in-place --delete --yes
        find tree -type f | sort
    ";
    let Some(outcome) = lab.with_mounts(script) else { return };
    assert_eq!((outcome.status, outcome.err.as_str()), (Some(0), ""), "{}", outcome.out);
    let (summary, left) = outcome.out.split_at(outcome.out.find("\ntree/").unwrap());
    let expected = [
        "tree/inner/precious",
        "tree/letters/one",
        "tree/letters/two",
        "tree/new/deep/precious",
        "tree/notes",
        "tree/plain/bound/one",
        "tree/plain/bound/two",
    ];
    assert_eq!(left.split_whitespace().collect::<Vec<_>>(), expected);
    for name in ["tree/inner", "tree/new/deep", "tree/plain/bound"] {
        let line = format!("{name}: mounted there, and the backup did not enter it");
        assert!(summary.contains(&line), "{summary}");
    }
    assert!(summary.contains("1 deleted"), "{summary}");
}

#[test]
fn a_file_system_mounted_at_the_target_itself_is_spared_where_the_snapshot_has_nothing() {
    let lab = Lab::new();
    let script = "
        mkdir tree/inner empty
        mount -t tmpfs none tree/inner; echo data > tree/inner/precious
        $T backup -q -x tree && $T restore latest:inner -t tree/inner --delete --yes && cat tree/inner/precious
        $T restore latest:inner --in-place --delete --yes -q && cat tree/inner/precious
        $T backup -q empty
        mount --bind tree/letters empty
        $T restore latest --in-place --delete --yes -q && ls empty
    ";
    let Some(outcome) = lab.with_mounts(script) else { return };
    assert_eq!((outcome.status, outcome.err.as_str()), (Some(0), ""), "{}", outcome.out);
    assert!(outcome.out.contains("mounted there, and the backup did not enter it"), "{}", outcome.out);
    assert!(outcome.out.ends_with("\ndata\ndata\none\ntwo\n"), "{}", outcome.out);
}

#[test]
fn a_file_system_that_was_not_mounted_when_its_place_was_saved_is_spared() {
    let lab = Lab::new();
    let script = "
        mkdir -p tree/disk/d; echo 'nothing is mounted' > tree/disk/marker; touch tree/disk/d/marker
        $T backup -q tree; $T backup -q tree/disk; $T backup -q tree/disk tree/letters
        mount -t tmpfs none tree/disk; mkdir tree/disk/d; echo data > tree/disk/d/precious
        for snapshot in latest~2 latest~1 latest; do
            $T restore $snapshot --in-place --delete --yes | grep mounted
            cat tree/disk/d/precious
        done
        $T restore latest~2 --target tree --delete --yes | grep mounted
        cat tree/disk/d/precious
        # A target that is named is meant.
        mkdir elsewhere; mount -t tmpfs none elsewhere; mkdir elsewhere/d; touch elsewhere/d/extra
        $T restore latest~2:disk --target elsewhere --delete --yes -q; ls elsewhere/d
    ";
    let Some(outcome) = lab.with_mounts(script) else { return };
    assert_eq!((outcome.status, outcome.err.as_str()), (Some(0), ""), "{}", outcome.out);
    assert_eq!(
        outcome.out.matches("mounted there, and the backup did not enter it").count(),
        4,
        "{}",
        outcome.out
    );
    assert_eq!(outcome.out.matches("data\n").count(), 4, "{}", outcome.out);
    assert!(outcome.out.ends_with("\nmarker\n"), "{}", outcome.out);
}

#[test]
fn a_mounted_file_system_that_the_backup_entered_is_restored_as_the_rest() {
    let lab = Lab::new();
    let script = "
        mkdir tree/inner
        mount -t tmpfs none tree/inner; echo data > tree/inner/kept
        $T backup -q tree
        rm tree/inner/kept; touch tree/inner/extra
        $T restore latest --in-place --delete --yes -q
        ls tree/inner
        umount tree/inner
        # A target may be a mount itself.
        mkdir out; mount -t tmpfs none out; touch out/extra
        $T restore latest -t out --delete --yes -q
        ls out
    ";
    let Some(outcome) = lab.with_mounts(script) else { return };
    assert_eq!((outcome.status, outcome.err.as_str()), (Some(0), ""), "{}", outcome.out);
    assert_eq!(outcome.out, "kept\ninner\nletters\nnotes\n");
}

#[test]
fn what_the_backup_could_not_read_is_spared() {
    if rustix::process::geteuid().is_root() && !crate::programs::are_here(&["setpriv"]) {
        return;
    }
    let lab = Lab::new();
    lab.write("tree/secret", "secret");
    lab.write("tree/closed/inside", "inside");
    let mode = |name: &str, mode| {
        fs::set_permissions(lab.path(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("tree/secret", 0);
    mode("tree/closed", 0);
    let outcome = lab.as_nobody(["backup", "tree"]);
    mode("tree/secret", 0o600);
    mode("tree/closed", 0o700);
    assert_eq!(outcome.status, Some(3), "{}", outcome.err);
    lab.write("tree/extra", "extra");
    // Warns that the snapshot is partial.
    let told = |line: &str, names: &str| {
        let outcome = lab.run(line.split(' '));
        assert_eq!(outcome.status, Some(0), "{outcome:?}");
        let told = outcome.err.contains(&format!("is partial: the backup could not read {names}, so"));
        assert!(told, "{line}: {}", outcome.err);
        outcome.out
    };
    let dry = told("restore latest -t tree --delete -n", "2 names");
    assert!(dry.contains("-  extra\n") && !dry.contains("secret") && !dry.contains("inside"), "{dry}");
    let json = told("restore latest -t new -n --json", "2 names");
    let summary: serde_json::Value = serde_json::from_str(json.lines().last().unwrap()).unwrap();
    assert_eq!((&summary["partial"], &summary["entries_unreadable"]), (&true.into(), &2.into()));
    told("restore latest -t new -n -i secret -i notes", "1 name");
    assert_eq!(lab.run("restore latest -t new -n -i notes".split(' ')).err, "");
    // Names in a directory that could not be read count too, and so may names that were found nowhere.
    let closed = lab.path("tree/closed/*");
    for include in ["closed/inside", "/closed/in*", closed.to_str().unwrap(), "inside", "*side"] {
        told(&format!("restore latest -t new -n -i notes -i {include}"), "1 name");
        // With nothing else that is there to be restored.
        let outcome = lab.run(["restore", "latest", "-t", "new", "-n", "-i", include]);
        let is_told = outcome.err.contains("is partial: the backup could not read");
        assert!(
            outcome.status == Some(1) && is_told && outcome.err.contains("tree/closed"),
            "{include}: {outcome:?}"
        );
    }
    assert_eq!(lab.run("restore latest -t new -n -i *o*es -e closed".split(' ')).err, "");
    // Other commands that are asked for something in there say so too.
    for line in [
        "ls latest:closed/inside",
        "cat latest:closed/inside",
        "cat latest:secret",
        "diff latest:closed/inside latest",
        "restore latest:closed/inside -t new -n",
    ] {
        let outcome = lab.run(line.split(' '));
        assert_eq!(outcome.status, Some(1), "{line}: {outcome:?}");
        assert!(outcome.err.contains("is partial: the backup could not read"), "{line}: {}", outcome.err);
    }
    assert!(lab.run(["cat", "latest:nowhere"]).err.contains("is not in snapshot"));
    // Nobody knows whether these differ.
    let outcome = lab.run(["diff", "latest", "tree"]);
    assert_eq!(outcome.status, Some(0), "{outcome:?}");
    assert!(outcome.out.contains("+  extra\n") && !outcome.out.contains("secret"), "{}", outcome.out);
    assert!(
        !outcome.out.contains("inside")
            && outcome.err.contains("partial: 2 names exist on the other side only"),
        "{outcome:?}"
    );
    let out = told("restore latest -t tree --delete --yes", "2 names");
    assert!(out.contains("spared   2 names that the backup could not read"), "{out}");
    assert_eq!(fs::read_to_string(lab.path("tree/secret")).unwrap(), "secret");
    assert_eq!(fs::read_to_string(lab.path("tree/closed/inside")).unwrap(), "inside");
    assert!(!lab.path("tree/extra").exists());
    // Elsewhere, and of a part, the same paths are spared.
    lab.write("other/inside", "other");
    lab.write("other/extra", "extra");
    told("restore latest:closed -t other --delete --yes", "1 name");
    assert!(lab.path("other/inside").exists() && lab.path("other/extra").exists());
}

#[test]
fn what_only_root_could_set_and_is_so_already_is_left() {
    if !rustix::process::geteuid().is_root() || !crate::programs::are_here(&["setpriv"]) {
        return eprintln!("skipped: only root makes files of others");
    }
    const SOMEBODY: u32 = 65_534;
    let lab = Lab::bare();
    let (notes, one, two) =
        (lab.path("tree/notes"), lab.path("tree/letters/one"), lab.path("tree/letters/two"));
    for path in ["", "tree", "tree/letters", "tree/letters/one", "tree/notes"] {
        chown(lab.path(path), Some(SOMEBODY), Some(SOMEBODY)).unwrap();
    }
    // Of a group that somebody is not in; the last is another's, too.
    chown(&notes, None, Some(0)).unwrap();
    chown(&one, None, Some(0)).unwrap();
    fs::set_permissions(&one, fs::Permissions::from_mode(0o2751)).unwrap();
    fs::set_permissions(&two, fs::Permissions::from_mode(0o4755)).unwrap();
    let run = |line: &str| {
        let mut setpriv = Command::new("setpriv");
        setpriv.args([&format!("--reuid={SOMEBODY}"), &format!("--regid={SOMEBODY}"), "--clear-groups"]);
        let mut command = lab.by(setpriv, line.split(' '));
        let outcome = Outcome::from(command.env("HOME", lab.path("")).output().unwrap());
        assert_eq!((outcome.status, outcome.err.as_str()), (Some(0), ""), "{line}: {}", outcome.out);
        outcome.out
    };
    run("init -q");
    run("backup tree -q");
    let of = |path: &Path| {
        let found = fs::metadata(path).unwrap();
        (found.uid(), found.gid(), found.mode() & 0o7777)
    };
    let before = [&notes, &one, &two].map(|path| of(path));
    let out = run("restore latest --in-place --verify");
    assert!(out.contains("no differences; 5 unchanged") && !out.contains("lacking"), "{out}");
    assert_eq!([&notes, &one, &two].map(|path| of(path)), before);
    // What can be set is, and the rest is left.
    for path in [&notes, &one] {
        fs::File::open(path).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    }
    let out = run("restore latest --in-place --verify");
    assert!(out.contains("2 with other metadata; 3 unchanged") && !out.contains("lacking"), "{out}");
    assert_eq!([&notes, &one, &two].map(|path| of(path)), before);
    // What is made anew has a group that can be given.
    fs::write(&notes, "other").unwrap();
    let out = run("restore latest --in-place --verify");
    assert!(out.contains("1 updated; 4 unchanged") && out.contains("lacking  1 name"), "{out}");
    assert_eq!(of(&notes).1, SOMEBODY);
    assert!(run("restore latest --in-place").contains("no differences; 5 unchanged"));
    // A group that is neither is changed.
    chown(&notes, None, Some(7)).unwrap();
    assert!(run("restore latest --in-place --verify").contains("1 with other metadata; 4 unchanged"));
    assert_eq!(of(&notes).1, SOMEBODY);
}

#[test]
fn nothing_is_deleted_that_nobody_agreed_to() {
    let lab = with_extra();
    let outcome = lab.run(["restore", "latest", "-t", "out", "--delete"]);
    assert_eq!((outcome.status, outcome.out.as_str()), (Some(1), ""));
    assert!(outcome.err.contains("would delete 1 name in out"), "{}", outcome.err);
    assert!(outcome.err.contains("--yes"), "{}", outcome.err);
    assert!(lab.path("out/extra").exists());
    lab.ok(["restore", "latest", "-t", "out", "--delete", "--yes"]);
    assert!(!lab.path("out/extra").exists());
    // Nothing to delete is nothing to ask for.
    lab.ok(["restore", "latest", "-t", "out", "--delete"]);
}

fn answer(child: &mut Child, text: &str) -> String {
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let mut shown = String::new();
    std::io::Read::read_to_string(child.stdout.as_mut().unwrap(), &mut shown).unwrap();
    shown
}

#[test]
fn at_a_terminal_the_names_are_shown_and_the_person_is_asked() {
    for (text, status, is_left) in [("n\n", 1, true), ("\n", 1, true), ("y\n", 0, false)] {
        let lab = with_extra();
        let Some(mut child) = lab.at_terminal("restore latest -t out --delete", Stdio::piped()) else {
            return;
        };
        let shown = answer(&mut child, text);
        assert!(shown.contains("-  extra"), "{shown}");
        assert!(shown.contains("out is not the directory that was backed up"), "{shown}");
        assert_eq!(child.wait().unwrap().code(), Some(status), "{shown}");
        assert_eq!(lab.path("out/extra").exists(), is_left, "{shown}");
    }
}

#[test]
fn the_root_is_known_where_it_is_mounted_by_another_name() {
    let lab = Lab::new();
    lab.ok(["backup", "tree"]);
    let script = "
        mkdir -p top other/tree; mount --bind / top; mount --bind other other
        for target in top top/ ./top/.; do $T restore latest -n -t $target && echo $target is taken; done
        $T restore latest -n -q -t other
    ";
    let Some(outcome) = lab.with_mounts(script) else { return };
    assert_eq!((outcome.status, outcome.out.as_str()), (Some(0), ""), "{}", outcome.err);
    assert_eq!(outcome.err.matches("--in-place").count(), 3, "{}", outcome.err);
}

#[test]
fn who_names_no_target_reads_of_both_ways() {
    let lab = Lab::new();
    lab.ok(["backup", "tree"]);
    for line in ["restore latest", "restore latest -t out --in-place"] {
        let outcome = lab.run(line.split(' '));
        assert_eq!(outcome.status, Some(1), "{line}: {outcome:?}");
        assert!(
            outcome.err.contains("--in-place") && outcome.err.contains("--target"),
            "{line}: {outcome:?}"
        );
    }
}

#[test]
fn the_content_of_a_directory_goes_into_the_root_only_by_force() {
    let lab = Lab::new();
    lab.ok(["backup", "tree"]);
    std::os::unix::fs::symlink("/", lab.path("slash")).unwrap();
    for target in ["/", "//", "/tmp/..", "slash"] {
        for what in ["latest", "latest:letters", "latest:notes"] {
            let outcome = lab.run(["restore", what, "--target", target, "--dry-run"]);
            assert_eq!(outcome.status, Some(1), "{what} to {target}: {}", outcome.out);
            assert!(outcome.err.contains("--in-place"), "{}", outcome.err);
        }
    }
    let forced = lab.ok(["restore", "latest", "--target", "/", "--dry-run", "--force"]);
    assert!(forced.contains("tree -> /\n"), "{forced}");
    // Each of several goes to where it was.
    lab.write("second/file", "second");
    lab.ok(["backup", "tree", "second"]);
    let several = lab.ok(["restore", "latest", "--target", "/", "--dry-run"]);
    assert!(several.contains("no differences"), "{several}");
}

#[test]
fn each_source_goes_back_to_where_it_was() {
    let lab = Lab::new();
    lab.write("real/second/file", "second");
    lab.write("third", "third");
    std::os::unix::fs::symlink("real", lab.path("link")).unwrap();
    let before = ["tree", "real"].map(|name| contents(&lab.path(name)));
    lab.ok(["backup", "tree", "link/second", "third", "--time", "2026-11-01"]);
    lab.ok(["backup", "tree", "--time", "2026-11-02"]);
    lab.ok(["backup", "third", "--time", "2026-11-03"]);
    for snapshot in ["2026-11-01 12:00", "2026-11-02 12:00", "2026-11-03 12:00"] {
        fs::remove_dir_all(lab.path("tree/letters")).unwrap();
        lab.write("tree/notes", "changed");
        lab.write("third", "changed");
        lab.write("real/second/file", "changed");
        let out = lab.ok(["restore", snapshot, "--in-place"]);
        assert!(out.contains(" in place\n"), "{out}");
        let several = snapshot.starts_with("2026-11-01");
        assert_eq!(contents(&lab.path("tree")) == before[0], !snapshot.starts_with("2026-11-03"), "{out}");
        assert_eq!(contents(&lab.path("real")) == before[1], several, "{out}");
        let third = fs::read_to_string(lab.path("third")).unwrap();
        assert_eq!(third == "third", !snapshot.starts_with("2026-11-02"), "{out}");
        lab.ok(["restore", "2026-11-01 12:00", "--in-place", "-q"]);
    }
    // A part, and only what is named.
    lab.write("tree/letters/one", "changed");
    lab.write("tree/notes", "changed");
    lab.ok(["restore", "2026-11-02 12:00:letters", "--in-place"]);
    assert_eq!(fs::read_to_string(lab.path("tree/letters/one")).unwrap(), "first letter\n");
    assert_eq!(fs::read_to_string(lab.path("tree/notes")).unwrap(), "changed");
    lab.ok(["restore", "2026-11-01 12:00", "--in-place", "-i", "notes"]);
    assert_eq!(fs::read_to_string(lab.path("tree/notes")).unwrap(), "notes\n");
    for (flags, told) in [(&["--in-place", "-t", "out"][..], "--target"), (&[], "--target")] {
        let outcome = lab.run(["restore", "latest"].iter().chain(flags));
        assert!(outcome.status != Some(0) && outcome.err.contains(told), "{}", outcome.err);
    }
}

#[test]
fn a_source_that_is_a_link_is_put_back_as_a_link() {
    for delete in [&[][..], &["--delete", "--yes"]] {
        let lab = Lab::new();
        lab.write("real", "data");
        lab.write("directory/file", "file");
        for (to, link) in [("real", "to-file"), ("directory", "to-directory")] {
            std::os::unix::fs::symlink(to, lab.path(link)).unwrap();
        }
        // It warns that they are links.
        assert_eq!(lab.run(["backup", "to-file", "to-directory", "tree"]).status, Some(0));
        lab.write("tree/notes", "changed");
        for changed in [false, true] {
            if changed {
                fs::remove_file(lab.path("to-file")).unwrap();
            }
            let out = lab.ok(["restore", "latest", "--in-place"].iter().chain(delete));
            assert!(out.contains(if changed { "1 created; " } else { "1 updated; " }), "{out}");
            for (to, link) in [("real", "to-file"), ("directory", "to-directory")] {
                assert_eq!(fs::read_link(lab.path(link)).unwrap().to_str(), Some(to));
                assert!(out.contains(&format!("{link}\n")), "{out}");
            }
            assert_eq!(fs::read_to_string(lab.path("real")).unwrap(), "data");
            assert_eq!(fs::read_to_string(lab.path("directory/file")).unwrap(), "file");
        }
    }
}

#[test]
fn nothing_is_written_nor_deleted_through_a_link_that_replaced_a_source() {
    for sources in [&["tree"][..], &["tree", "second"], &["second", "third"]] {
        for delete in [&[][..], &["--delete", "--yes"]] {
            let lab = Lab::new();
            lab.write("second/file", "second");
            lab.write("third", "third");
            let before: Vec<_> = sources.iter().map(|source| contents(&lab.path(source))).collect();
            lab.ok(["backup"].iter().chain(sources));
            for source in sources {
                fs::rename(lab.path(source), lab.path(&format!("{source}.old"))).unwrap();
                match *source {
                    "third" => lab.write("aside/third", "aside"),
                    source => lab.write(&format!("aside/{source}/aside"), "aside"),
                }
                std::os::unix::fs::symlink(format!("aside/{source}"), lab.path(source)).unwrap();
            }
            let aside = contents(&lab.path("aside"));
            if sources.len() == 1 {
                for part in ["latest:letters", "latest:notes", "latest:letters/one"] {
                    let outcome = lab.run(["restore", part, "--in-place"].iter().chain(delete));
                    assert_eq!(outcome.status, Some(1), "{}", outcome.out);
                    assert!(outcome.err.contains("tree is a symbolic link"), "{}", outcome.err);
                }
            }
            let dry = lab.ok(["restore", "latest", "--in-place", "-n"].iter().chain(delete));
            assert!(lab.path(sources[0]).is_symlink(), "{dry}");
            lab.ok(["restore", "latest", "--in-place", "--verify"].iter().chain(delete));
            assert!(contents(&lab.path("aside")) == aside);
            for (source, before) in sources.iter().zip(before) {
                assert!(!lab.path(source).is_symlink());
                assert!(contents(&lab.path(source)) == before, "{source}");
            }
        }
    }
}

#[test]
fn only_what_is_not_in_the_snapshot_goes_when_sources_are_restored_in_place() {
    let lab = Lab::new();
    lab.write("second/file", "second");
    lab.ok(["backup", "tree", "second"]);
    for extra in ["tree/extra", "second/extra", "beside"] {
        lab.write(extra, "extra");
    }
    // Called as a person would call them, whatever they are relative to.
    let called = |name: &str| format!("-  {}\n", lab.path(name).canonicalize().unwrap().display());
    let dry = lab.ok(["restore", "latest", "--in-place", "--delete", "-n"]);
    assert!(dry.contains(&called("tree/extra")) && dry.contains(&called("second/extra")), "{dry}");
    if let Some(mut child) = lab.at_terminal("restore latest --in-place --delete", Stdio::piped()) {
        let (first, second) = (called("tree/extra"), called("second/extra"));
        let shown = answer(&mut child, "n\n").replace('\r', "");
        assert!(shown.contains(&first) && shown.contains(&second), "{shown}");
        assert_eq!(child.wait().unwrap().code(), Some(1));
    }
    let out = lab.ok(["restore", "latest", "--in-place", "--delete", "--yes"]);
    assert!(out.contains(", 2 deleted"), "{out}");
    assert!(!lab.path("tree/extra").exists() && !lab.path("second/extra").exists());
    assert!(lab.path("beside").exists());
}

#[test]
fn the_report_says_where_each_source_went() {
    let lab = Lab::new();
    let root = lab.path("").canonicalize().unwrap();
    let root = root.display();
    lab.ok(["backup", "tree"]);
    let out = lab.ok(["restore", "latest", "-t", "one"]);
    assert!(out.contains(&format!("  source   {root}/tree -> one\n")), "{out}");
    let out = lab.ok(["restore", "latest:letters/one", "-t", "one"]);
    assert!(out.contains(&format!("  source   {root}/tree/letters/one -> one/one\n")), "{out}");
    lab.write("second/file", "second");
    lab.ok(["backup", "tree", "second"]);
    let out = lab.ok(["restore", "latest", "-t", "two"]);
    assert!(out.contains(&format!("  source   {root}/second -> two{root}/second\n")), "{out}");
    assert!(out.contains(&format!("  source   {root}/tree -> two{root}/tree\n")), "{out}");
    let out = lab.ok(["restore", "latest", "-t", "two", "--json"]);
    let summary: serde_json::Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    assert_eq!(summary["sources"][1]["target"], format!("two{root}/tree"));
}

#[test]
fn a_full_file_system_is_told_once_and_what_has_room_is_restored() {
    let lab = Lab::new();
    for number in 0..40 {
        lab.write(&format!("tree/large/{number}"), &format!("{number:08}").repeat(12_000));
    }
    lab.write("tree/zz/small", "small");
    lab.write("size/space/.keep", "");
    let script = "
        $T backup -q tree
        mkdir out few
        mount -t tmpfs -o size=1m none out
        mount -t tmpfs -o nr_inodes=20 none few
        for target in out few; do
            $T restore latest -t $target -v && exit 1 || echo status $?
            find $target -mindepth 1 | wc -l
        done
        cat out/zz/small
    ";
    let Some(outcome) = lab.with_mounts(script) else { return };
    assert_eq!(outcome.status, Some(0), "{}{}", outcome.out, outcome.err);
    assert_eq!(outcome.out.matches("status 3\n").count(), 2, "{}", outcome.out);
    assert!(outcome.out.ends_with("small"), "{}", outcome.out);
    let told: Vec<_> = outcome.err.lines().collect();
    assert_eq!(told.len(), 4, "{}", outcome.err);
    for pair in told.chunks(2) {
        assert!(pair[0].contains("the file system is full"), "{}", outcome.err);
        assert!(pair[1].contains("more names could not be restored"), "{}", outcome.err);
    }
    // What failed is neither listed nor counted as done.
    for part in outcome.out.split("status 3\n").take(2) {
        let created: usize =
            part.split("changes  ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        assert_eq!(part.lines().filter(|line| line.starts_with("+  ")).count(), created, "{part}");
        assert!(created < 40, "{part}");
    }
}

#[test]
fn what_many_names_fail_for_is_told_once() {
    let lab = Lab::new();
    for number in 0..20 {
        lab.write(&format!("tree/letters/deep/{number}"), "letter");
    }
    let script = "
        $T backup -q tree
        # Read only as a whole, and a part of a target; what is up to date needs no writing.
        mkdir ro part; mount -t tmpfs -o ro none ro
        $T restore -q latest -t ro && exit 1 || echo status $?
        mkdir part/letters; mount -t tmpfs -o ro none part/letters
        $T restore -q latest -t part && exit 1 || echo status $?
        $T restore -q latest -t same; mount --bind same same; mount -o remount,bind,ro same
        $T restore -q latest -t same && echo status $?
    ";
    let Some(outcome) = lab.with_mounts(script) else { return };
    assert_eq!(outcome.status, Some(0), "{}{}", outcome.out, outcome.err);
    assert_eq!(outcome.out, "status 1\nstatus 3\nstatus 0\n");
    let told: Vec<_> = outcome.err.lines().collect();
    assert_eq!(told.len(), 3, "{}", outcome.err);
    assert!(told[0].starts_with("treering: cannot use ro: Read-only file system"), "{}", told[0]);
    assert!(told[0].ends_with("remount it read-write, or choose another path"), "{}", told[0]);
    assert!(told[1].starts_with("treering: cannot restore letters/deep: Read-only"), "{}", told[1]);
    // The two letters, those in the directory that could not be made, and the metadata of the mounted directory.
    assert!(told[2].ends_with("for the same reason, 23 more names could not be restored"), "{}", told[2]);
}

#[test]
fn a_source_that_was_missing_at_the_backup_is_not_said_to_be_restored() {
    let lab = Lab::new();
    lab.write("other/file", "other");
    assert_eq!(lab.run(["backup", "tree", "other", "gone"]).status, Some(3));
    for target in [&["-t", "out"][..], &["--in-place"]] {
        let outcome = lab.run(["restore", "latest"].iter().chain(target));
        let sources: Vec<_> = outcome.out.lines().filter(|line| line.starts_with("  source ")).collect();
        assert_eq!(sources.len(), 2, "{outcome:?}");
        assert!(!sources.iter().any(|line| line.contains("gone")), "{}", outcome.out);
        assert!(outcome.err.contains("could not read 1 name, so it is not restored: "), "{}", outcome.err);
    }
}

#[test]
fn a_target_in_which_nothing_may_be_made_is_told_once() {
    // Its owner may change that.
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let lab = Lab::new();
    lab.write("tree/letters/deep/three", "third letter");
    lab.ok(["backup", "tree"]);
    fs::create_dir(lab.path("out")).unwrap();
    fs::set_permissions(lab.path("out"), fs::Permissions::from_mode(0o555)).unwrap();
    let outcome = lab.as_nobody(["restore", "latest", "-t", "out"]);
    assert_eq!(outcome.status, Some(3), "{outcome:?}");
    let told: Vec<_> = outcome.err.lines().collect();
    assert_eq!(told.len(), 2, "{}", outcome.err);
    assert!(told[0].starts_with("treering: cannot restore letters: Permission denied"), "{}", outcome.err);
    assert!(told[1].ends_with("for the same reason, 5 more names could not be restored"), "{}", outcome.err);
}

#[test]
fn nothing_but_what_cannot_be_opened_needs_proc() {
    let lab = Lab::new();
    let script = "
        umask 022
        chmod 751 tree/letters; chmod 4640 tree/notes; chmod 500 tree
        mkdir -p tree/letters/sub; chmod 2770 tree/letters/sub; ln -s nowhere tree/letters/link
        mkfifo -m 644 tree/letters/pipe
        touch -d 2020-02-02 tree/letters tree/letters/sub tree/notes
        $T backup -q tree
        mkfifo -m 666 tree/letters/wide
        $T backup -q tree
        mount -t tmpfs none /proc
        $T restore latest~1 -t out -q
        $T restore latest~1 -t out -q --delete --verify
        $T restore latest -t other -q || echo status $?
        (cd tree && find . ! -name wide -printf '%p %m %l %t\\n' | sort) > before
        (cd out && find . -printf '%p %m %l %t\\n' | sort) > after
        # The pipe that came later has changed its directory.
        diff -I '^./letters 751' before after
        stat -c %a out/letters
    ";
    let Some(outcome) = lab.with_mounts(script) else { return };
    assert_eq!((outcome.status, outcome.out.as_str()), (Some(0), "status 3\n751\n"), "{}", outcome.err);
    assert!(outcome.err.lines().count() == 1 && outcome.err.contains("letters/wide"), "{}", outcome.err);
    assert!(outcome.err.contains("needs /proc, which is not mounted"), "{}", outcome.err);
}

#[test]
fn owners_are_set_by_name_or_by_number() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    use std::os::unix::fs::{MetadataExt, chown};
    let lab = Lab::new();
    chown(lab.path("tree/notes"), Some(54_321), Some(54_322)).unwrap();
    // As if that number had a name there which somebody else has here.
    let script = "
        cp /etc/passwd passwd; cp /etc/group group
        echo 'ringmaster:x:54321:54321::/:/bin/sh' >> passwd; echo 'rings:x:54322:' >> group
        sed s/54321/54421/ passwd > passwd.rescue; sed s/54322/54422/ group > group.rescue
        mount --bind passwd /etc/passwd; mount --bind group /etc/group
        $T backup -q tree
        $T dir index tree -o full -q; mkdir empty; $T dir index empty -o none -q
        $T dir diff none tree -o changes --data data.tar.gz -q
        mount --bind passwd.rescue /etc/passwd; mount --bind group.rescue /etc/group
        $T restore latest -t named -q
        $T restore latest -t numbered -q --numeric-ids --verify
        mkdir patched patched-by-number
        $T dir apply patched changes data.tar.gz -q
        $T dir apply patched-by-number changes data.tar.gz -q --numeric-ids
    ";
    let Some(outcome) = lab.with_mounts(script) else { return };
    assert_eq!((outcome.status, outcome.err.as_str()), (Some(0), ""), "{}", outcome.out);
    let owner = |name: &str| {
        let meta = fs::metadata(lab.path(name).join("notes")).unwrap();
        (meta.uid(), meta.gid())
    };
    assert_eq!(["named", "patched"].map(owner), [(54_421, 54_422); 2]);
    assert_eq!(["numbered", "patched-by-number"].map(owner), [(54_321, 54_322); 2]);
}

#[test]
fn whom_acls_name_is_found_by_name_or_by_number() {
    if !rustix::process::geteuid().is_root() || !crate::programs::are_here(&["setfacl", "getfacl", "python3"])
    {
        return;
    }
    let lab = Lab::new();
    // Nothing belongs to them: their numbers are in ACLs alone. Numbers go the other way round on the other host.
    let recover = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/recover.py");
    let script = format!(
        "
        cp /etc/passwd passwd; cp /etc/group group
        echo 'ringmaster:x:54321:54321::/:/bin/sh' >> passwd; echo 'rings:x:54322:' >> group
        echo 'clown:x:54331:54331::/:/bin/sh' >> passwd
        sed 's/54321/54441/; s/54331/54321/' passwd > passwd.rescue; sed s/54322/54422/ group > group.rescue
        mount --bind passwd /etc/passwd; mount --bind group /etc/group
        setfacl -m u:ringmaster:r,u:clown:rw,g:rings:x,u:54399:w tree/notes || exit 9
        setfacl -d -m u:ringmaster:rx tree/letters
        $T backup -q tree
        $T dir index tree -o full -q; mkdir empty; $T dir index empty -o none -q
        $T dir diff none tree -o changes --data data.tar.gz -q
        mount --bind passwd.rescue /etc/passwd; mount --bind group.rescue /etc/group
        $T restore latest -t named -q --verify
        $T restore latest -t named
        $T restore latest -t numbered -q --numeric-ids --verify
        mkdir patched patched-by-number
        $T dir apply patched changes data.tar.gz -q
        $T dir apply patched-by-number changes data.tar.gz -q --numeric-ids
        python3 '{recover}' repo latest recovered > recovering 2>&1 || cat recovering >&2
        for out in named patched recovered numbered patched-by-number; do
            getfacl -cnE $out/notes $out/letters | grep ':[0-9]' | tr '\\n' ' '
            echo
        done
    "
    );
    let Some(outcome) = lab.with_mounts(&script) else { return };
    if outcome.status == Some(9) {
        return;
    }
    assert_eq!((outcome.status, outcome.err.as_str()), (Some(0), ""), "{}", outcome.out);
    let lines: Vec<_> = outcome.out.lines().rev().take(5).map(str::trim).collect();
    let named = "user:54321:rw- user:54399:-w- user:54441:r-- group:54422:--x default:user:54441:r-x";
    let numbered = "user:54321:r-- user:54331:rw- user:54399:-w- group:54322:--x default:user:54321:r-x";
    assert_eq!(lines, [numbered, numbered, named, named, named], "{}", outcome.out);
    assert!(outcome.out.contains("unchanged"), "{}", outcome.out);
}

#[test]
fn what_failed_is_not_counted_as_done() {
    let lab = Lab::new();
    lab.ok(["backup", "tree"]);
    lab.write("out/notes/precious", "precious");
    let outcome = lab.run(["restore", "latest", "-t", "out", "-v"]);
    assert_eq!(outcome.status, Some(3));
    assert!(outcome.err.contains("out/notes") || outcome.err.contains("notes"), "{}", outcome.err);
    assert!(outcome.out.contains("changes  3 created, 1 failed;"), "{}", outcome.out);
    assert!(!outcome.out.contains("notes\n"), "{}", outcome.out);
    assert!(outcome.out.contains("errors   1; the rest is restored"), "{}", outcome.out);
    let outcome = lab.run(["restore", "latest", "-t", "out"]);
    assert!(outcome.out.contains("changes  1 failed; "), "{}", outcome.out);
}

#[test]
fn a_source_that_was_missing_is_spared_in_its_place() {
    let lab = Lab::new();
    lab.write("other/kept", "kept");
    fs::rename(lab.path("other"), lab.path("away")).unwrap();
    assert_eq!(lab.run(["backup", "tree", "other"]).status, Some(3));
    fs::rename(lab.path("away"), lab.path("other")).unwrap();
    let outcome = lab.run(["restore", "latest", "--in-place", "--delete", "--yes"]);
    assert_eq!(outcome.status, Some(0), "{outcome:?}");
    assert!(outcome.out.contains("spared   1 name that the backup could not read"), "{}", outcome.out);
    assert!(outcome.err.contains(lab.path("other").to_str().unwrap()), "{}", outcome.err);
    assert!(lab.path("other/kept").exists());
    let listed = lab.run(["restore", "latest", "--in-place", "--delete", "--yes", "--json"]);
    let summary: serde_json::Value = serde_json::from_str(listed.out.lines().last().unwrap()).unwrap();
    assert_eq!((&summary["partial"], &summary["entries_spared"]), (&true.into(), &1.into()), "{summary}");
}
