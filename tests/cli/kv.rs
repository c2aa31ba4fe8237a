//! A git repository as a store of keys and values: `treering kv`.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::lab::{Lab, Outcome};
use crate::python;

/// With an empty bare repository `kv.git` on the branch that gitkv pushes to.
fn lab() -> Lab {
    let lab = Lab::bare();
    let init = ["init", "-q", "--bare", "-b", "master"];
    assert!(Command::new("git").args(init).arg(lab.path("kv.git")).status().expect("git runs").success());
    lab
}

fn url(lab: &Lab) -> String {
    format!("file://{}", lab.path("kv.git").display())
}

/// Runs `treering kv`, with the cache in the lab.
fn command(lab: &Lab, arguments: &[&str]) -> Command {
    let mut command = lab.command(["kv"].iter().chain(arguments));
    command.env("XDG_CACHE_HOME", lab.path("cache")).env_remove("VISUAL").env_remove("EDITOR");
    command
}

fn run(lab: &Lab, arguments: &[&str]) -> Outcome {
    command(lab, arguments).output().unwrap().into()
}

#[track_caller]
fn ok(lab: &Lab, arguments: &[&str]) -> String {
    let outcome = run(lab, arguments);
    assert_eq!((outcome.status, outcome.err.as_str()), (Some(0), ""), "{arguments:?}: {}", outcome.out);
    outcome.out
}

/// Runs `kv edit` with an editor that is this line of shell, where `$1` is the file.
fn edit(lab: &Lab, url: &str, key: &str, script: &str) -> Outcome {
    lab.write("editor", script);
    let editor = format!("sh '{}'", lab.path("editor").display());
    command(lab, &["edit", url, key]).env("EDITOR", editor).output().unwrap().into()
}

#[test]
fn a_path_and_a_url_show_what_the_other_wrote() {
    let lab = lab();
    let url = url(&lab);
    assert!(ok(&lab, &["put", "kv.git", "letters/one", "tree/letters/one"]).starts_with("Committed "));
    assert_eq!(ok(&lab, &["get", &url, "letters/one"]), "first letter\n");
    ok(&lab, &["put", &url, "notes", "tree/notes", "-m", "Take notes"]);
    assert_eq!(ok(&lab, &["put", &url, "notes", "tree/notes"]), "Nothing changed\n");
    assert_eq!(ok(&lab, &["list", "kv.git"]), "letters/one\nnotes\n");
    assert_eq!(ok(&lab, &["list", &url, "letters"]), "letters/one\n");
    assert_eq!(ok(&lab, &["list", &url, "let"]), "");
    assert!(lab.path("cache/treering").is_dir(), "the clone is kept");
}

#[test]
fn standard_input_is_a_value_and_need_not_be_text() {
    let lab = lab();
    let mut child = command(&lab, &["put", "kv.git", "bytes", "-q"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"\xff\0\n").unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(command(&lab, &["get", "kv.git", "bytes"]).output().unwrap().stdout, b"\xff\0\n");
}

#[test]
fn the_log_leads_back_to_what_was() {
    let lab = lab();
    ok(&lab, &["put", "kv.git", "key", "tree/notes"]);
    ok(&lab, &["put", "kv.git", "key", "tree/letters/one", "-m", "Write\n\nat length"]);
    ok(&lab, &["rm", "kv.git", "key"]);
    let log = ok(&lab, &["log", "kv.git", "key"]);
    let messages: Vec<_> = log.lines().map(|line| line.split("  ").last().unwrap()).collect();
    assert_eq!(messages, ["Remove key", "Write", "Set key"], "{log}");
    let commits: Vec<_> = log.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(ok(&lab, &["show", "kv.git", "key", commits[2]]), "notes\n");
    assert_eq!(ok(&lab, &["show", "kv.git", "key", commits[1]]), "first letter\n");
    assert!(run(&lab, &["show", "kv.git", "key", commits[0]]).err.contains("there is no \"key\""));
    let json = ok(&lab, &["log", "kv.git", "key", "--json"]);
    let whole: Value = serde_json::from_str(json.lines().nth(1).unwrap()).unwrap();
    assert_eq!(whole["message"].as_str().unwrap().trim_end(), "Write\n\nat length");
    assert_eq!(ok(&lab, &["show", "kv.git", "key", whole["id"].as_str().unwrap()]), "first letter\n");
}

#[test]
fn keys_are_removed_together_or_not_at_all() {
    let lab = lab();
    for key in ["a", "b", "c"] {
        ok(&lab, &["put", "kv.git", key, "tree/notes"]);
    }
    let outcome = run(&lab, &["rm", "kv.git", "a", "nothing"]);
    assert_eq!((outcome.status, outcome.err.as_str()), (Some(1), "treering: there is no \"nothing\"\n"));
    assert_eq!(ok(&lab, &["list", "kv.git"]), "a\nb\nc\n");
    ok(&lab, &["rm", "kv.git", "a", "b", "-m", "Tidy up"]);
    assert_eq!(ok(&lab, &["list", "kv.git"]), "c\n");
}

#[test]
fn an_editor_changes_a_value() {
    let lab = lab();
    let url = url(&lab);
    let outcome = edit(&lab, &url, "dir/todo.txt", "case $1 in */todo.txt) echo one > \"$1\";; esac");
    assert_eq!((outcome.status, outcome.err.as_str()), (Some(0), ""));
    assert_eq!(ok(&lab, &["get", "kv.git", "dir/todo.txt"]), "one\n");
    edit(&lab, "kv.git", "dir/todo.txt", "echo two >> \"$1\"");
    assert_eq!(ok(&lab, &["get", &url, "dir/todo.txt"]), "one\ntwo\n");
    // Nobody else reads what is being edited.
    edit(&lab, "kv.git", "dir/todo.txt", "umask 0; stat -c %a \"$1\" \"${1%/*}\" > modes");
    assert_eq!(fs::read_to_string(lab.path("modes")).unwrap(), "600\n700\n");
    assert_eq!(edit(&lab, &url, "dir/todo.txt", ":").out, "Nothing changed\n");
    let outcome = edit(&lab, &url, "dir/todo.txt", "echo lost > \"$1\"; exit 1");
    assert_eq!(outcome.status, Some(1));
    assert!(outcome.err.contains("nothing was saved: set VISUAL or EDITOR"), "{}", outcome.err);
    assert_eq!(ok(&lab, &["get", &url, "dir/todo.txt"]), "one\ntwo\n");
}

#[test]
fn what_somebody_writes_during_an_edit_is_merged_or_neither_side_is_lost() {
    let lab = lab();
    let url = url(&lab);
    lab.write("lines", "1\n2\n3\n4\n5\n");
    lab.write("last", "1\n2\n3\n4\nlast\n");
    ok(&lab, &["put", "kv.git", "key", "lines"]);
    let meanwhile = |then: &str| {
        let program = env!("CARGO_BIN_EXE_treering");
        format!("'{program}' kv put kv.git key last -q && {then}")
    };
    let outcome = edit(&lab, &url, "key", &meanwhile("sed -i s/1/first/ \"$1\""));
    assert_eq!((outcome.status, outcome.err.as_str()), (Some(0), ""));
    assert_eq!(ok(&lab, &["get", &url, "key"]), "first\n2\n3\n4\nlast\n");

    ok(&lab, &["put", "kv.git", "key", "lines"]);
    let outcome = edit(&lab, &url, "key", &meanwhile("sed -i s/5/end/ \"$1\""));
    assert_eq!(outcome.status, Some(1));
    assert!(outcome.err.contains("\"key\" was changed by somebody else"), "{}", outcome.err);
    let (_, rest) = outcome.err.split_once("it is kept in ").unwrap();
    let (kept, _) = rest.split_once(": ").unwrap();
    assert_eq!(fs::read_to_string(kept).unwrap(), "1\n2\n3\n4\nend\n");
    fs::remove_dir_all(std::path::Path::new(kept).parent().unwrap()).unwrap();
    assert_eq!(ok(&lab, &["get", &url, "key"]), "1\n2\n3\n4\nlast\n");
}

#[test]
fn bad_input_is_refused_by_name() {
    let lab = lab();
    ok(&lab, &["put", "kv.git", "a/b", "tree/notes"]);
    let refused = |arguments: &[&str], status: i32, message: &str| {
        let outcome = run(&lab, arguments);
        assert_eq!((outcome.status, outcome.out.as_str()), (Some(status), ""), "{arguments:?}: {outcome:?}");
        assert!(outcome.err.starts_with("treering: ") && outcome.err.contains(message), "{}", outcome.err);
    };
    for key in ["", "..", "a/../b", "/etc/passwd", ".git/config", "a\nb", "a//b"] {
        refused(&["put", "kv.git", key, "tree/notes"], 1, &format!("the path {key:?} is not allowed"));
        refused(&["edit", "kv.git", key], 1, &format!("the path {key:?} is not allowed"));
    }
    refused(&["put", "kv.git", "a", "tree/notes"], 1, "\"a\" is both a file and a directory");
    refused(&["get", "kv.git", "a"], 1, "there is no \"a\"");
    refused(&["log", "kv.git", "c"], 1, "there is no \"c\"");
    refused(&["show", "kv.git", "a/b", "zz"], 1, "zz is no commit that changed a/b");
    refused(&["get", "tree", "a"], 10, "tree is not a git repository");
    refused(&["get", &format!("{}.not", url(&lab)), "a"], 10, "is not a git repository");
    let mut command = command(&lab, &["get", &url(&lab), "a/b"]);
    let output = command.env_remove("XDG_CACHE_HOME").env("HOME", lab.path("")).output().unwrap();
    assert_eq!(output.stdout, b"notes\n");
    assert!(lab.path(".cache/treering").is_dir());
}

#[test]
fn settings_of_the_person_do_not_change_what_git_does() {
    let lab = lab();
    ok(&lab, &["put", "kv.git", "a", "tree/notes"]);
    let hooks = lab.path("hooks");
    for hook in ["pre-push", "pre-receive", "reference-transaction", "post-checkout", "pre-auto-gc"] {
        lab.write_program(
            &format!("hooks/{hook}"),
            &format!("#!/bin/sh\necho {hook} >> {0}/ran\nexit 1\n", hooks.display()),
        );
    }
    let settings = format!(
        "[core]\nhooksPath = {hooks}\n[init]\ndefaultRefFormat = reftable\ntemplateDir = {hooks}\n\
        [clone]\ndefaultRemoteName = upstream\n[push]\ngpgSign = true\n[gc]\nauto = 1\n\
        [transfer]\nhideRefs = refs/heads\n[receive]\ndenyUpdates = true\n[fetch]\nprune = false\n\
        [url \"file://{there}/\"]\ninsteadOf = there:\n",
        hooks = hooks.display(),
        there = lab.path("").display(),
    );
    lab.write("settings", &settings);
    let run = |arguments: &[&str]| {
        let mut command = command(&lab, arguments);
        command.env("GIT_CONFIG_GLOBAL", lab.path("settings"));
        // A bad setting of the same kind, as `git -c` hands it on to an alias.
        command.env("GIT_CONFIG_COUNT", "1").env("GIT_CONFIG_KEY_0", "core.hooksPath");
        command.env("GIT_CONFIG_VALUE_0", &hooks).env("GIT_DEFAULT_HASH", "sha256");
        let output = command.env("GIT_NAMESPACE", "elsewhere").output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    run(&["put", "there:kv.git", "b", "tree/letters/one"]);
    assert_eq!(run(&["list", "there:kv.git"]), "a\nb\n");
    assert_eq!(ok(&lab, &["get", "kv.git", "b"]), "first letter\n");
    assert!(!hooks.join("ran").exists(), "{}", fs::read_to_string(hooks.join("ran")).unwrap());
}

#[test]
fn a_format_that_is_not_read_is_named_with_the_way_out() {
    let lab = lab();
    for (name, option, said) in [
        ("reftable", "--ref-format=reftable", "refstorage reftable"),
        ("sha256", "--object-format=sha256", "objectformat sha256"),
    ] {
        for bare in [true, false] {
            let name = format!("{name}-{bare}");
            let mut init = Command::new("git");
            init.args(["init", "-q", option]).args(bare.then_some("--bare")).arg(lab.path(&name));
            // Git before 2.45 knows no reftable.
            if !init.stderr(Stdio::null()).status().expect("git runs").success() {
                continue;
            }
            for line in [
                "kv list REPO",
                "kv put REPO a tree/notes",
                "-r REPO blob list",
                "-r REPO snapshots",
                "-r REPO backup tree",
                "-r REPO check",
            ] {
                let line = line.replace("REPO", &name);
                let outcome = lab.run(line.split(' '));
                assert_eq!(outcome.status, Some(1), "{line}: {outcome:?}");
                let way_out = ["git refs migrate --ref-format=files", "git init --object-format=sha1"];
                assert!(outcome.err.contains(said), "{line}: {}", outcome.err);
                assert!(way_out.iter().any(|way| outcome.err.contains(way)), "{line}: {}", outcome.err);
            }
        }
    }
}

#[test]
fn a_later_version_of_gits_format_is_named_with_the_way_out() {
    let lab = lab();
    lab.ok(["-r", "rings", "init", "-q"]);
    let git = ["-C", "kv.git", "config", "core.repositoryformatversion", "7"];
    assert!(Command::new("git").current_dir(lab.path("")).args(git).status().unwrap().success());
    let address = url(&lab);
    let clone = format!("clone {address} other");
    for line in [
        "kv list kv.git",
        "-r kv.git snapshots",
        "-r kv.git blob list",
        "-r rings remote add x kv.git",
        "clone kv.git other",
        &clone,
    ] {
        let outcome = lab.run(line.split(' '));
        assert_eq!(outcome.status, Some(1), "{line}: {outcome:?}");
        for said in ["kv.git has version 7 of git's format", "use a newer treering"] {
            assert!(outcome.err.contains(said), "{line}: {}", outcome.err);
        }
    }
    let outcome = run(&lab, &["list", &address]);
    assert!(outcome.err.contains("kv.git has version 7 of git's format"), "{}", outcome.err);
}

#[test]
fn a_branch_that_the_origin_does_not_have_is_said_and_a_new_one_is_followed() {
    let lab = lab();
    let url = url(&lab);
    ok(&lab, &["put", &url, "key", "tree/notes"]);
    let git = |arguments: &[&str]| {
        let done = Command::new("git").arg("-C").arg(lab.path("kv.git")).args(arguments).status();
        assert!(done.expect("git runs").success());
    };
    // The branch is renamed, first without and then with HEAD.
    git(&["update-ref", "refs/heads/main", "refs/heads/master"]);
    git(&["update-ref", "-d", "refs/heads/master"]);
    for url in ["kv.git", &url] {
        for arguments in [&["list", url][..], &["get", url, "key"], &["put", url, "key", "tree/letters/one"]]
        {
            let outcome = run(&lab, arguments);
            assert_eq!((outcome.status, outcome.out.as_str()), (Some(1), ""), "{arguments:?}: {outcome:?}");
            let said = format!(
                "HEAD of {url} names the branch \"master\", which does not exist; there are: main. Choose"
            );
            let said = said.replace("of kv.git", &format!("of {}/", lab.path("kv.git").display()));
            assert!(outcome.err.contains(&said), "{}", outcome.err);
        }
    }
    git(&["symbolic-ref", "HEAD", "refs/heads/main"]);
    for url in ["kv.git", &url] {
        assert_eq!(ok(&lab, &["get", url, "key"]), "notes\n");
    }
    ok(&lab, &["put", &url, "key", "tree/letters/one"]);
    assert_eq!(ok(&lab, &["get", "kv.git", "key"]), "first letter\n");
}

#[test]
fn an_address_that_was_used_before_follows_head_as_a_new_one_does() {
    let lab = lab();
    let by_path = url(&lab);
    // Git itself does not say of a path what HEAD names, if that is not there.
    lab.write_program(
        "bin/ssh",
        "#!/bin/sh\nwhile [ \"$1\" = -o ]; do shift 2; done\nshift\nexec sh -c \"$*\"\n",
    );
    let ssh = format!("ssh://host{}", lab.path("kv.git").display());
    let run = |url: &str, cache: &str, line: &str| {
        let words = line.split(' ').map(|word| if word == "URL" { url } else { word });
        let mut command = lab.command(["kv"].into_iter().chain(words));
        command.env("XDG_CACHE_HOME", lab.path(cache)).env("GIT_SSH_COMMAND", lab.path("bin/ssh"));
        Outcome::from(command.output().unwrap())
    };
    let git = |arguments: &[&str]| {
        let done = Command::new("git").arg("-C").arg(lab.path("kv.git")).args(arguments).output().unwrap();
        assert!(done.status.success(), "{arguments:?}");
        String::from_utf8(done.stdout).unwrap()
    };
    for (number, url) in [by_path.as_str(), &ssh].into_iter().enumerate() {
        let (used, first) = (format!("used{number}"), format!("first{number}"));
        let outcome = run(url, &used, &format!("put URL {first} tree/notes"));
        assert_eq!(outcome.status, Some(0), "{outcome:?}");
        let old = git(&["symbolic-ref", "HEAD"]).trim().to_owned();
        let second = format!("second{number}");
        git(&["branch", &second]);
        git(&["symbolic-ref", "HEAD", &format!("refs/heads/{second}")]);
        let outcome = run(url, &used, "put URL later tree/letters/one");
        assert_eq!(outcome.status, Some(0), "{outcome:?}");
        assert!(git(&["ls-tree", "--name-only", &second]).contains("later"), "{url}");
        assert!(!git(&["ls-tree", "--name-only", &old]).contains("later"), "{url}");
        assert_eq!(run(url, &used, "get URL later").out, "first letter\n");
        assert_eq!(run(url, &used, "rm URL later").status, Some(0));

        // What it names is not there, or is no branch.
        for (head, said) in [("refs/heads/none", "there are: "), ("commit", "is not a branch")] {
            match head {
                "commit" => drop(git(&["update-ref", "--no-deref", "HEAD", &second])),
                head => drop(git(&["symbolic-ref", "HEAD", head])),
            }
            for cache in [&used, &format!("new{head}{number}").replace('/', "")] {
                for line in ["list URL", "put URL key tree/notes"] {
                    let outcome = run(url, cache, line);
                    assert_eq!(
                        (outcome.status, outcome.out.as_str()),
                        (Some(1), ""),
                        "{url} {cache} {outcome:?}"
                    );
                    assert!(
                        outcome.err.contains(said) && outcome.err.contains(url),
                        "{cache}: {}",
                        outcome.err
                    );
                }
            }
            git(&["symbolic-ref", "HEAD", &format!("refs/heads/{second}")]);
            for cache in [&used, &format!("new{head}{number}").replace('/', "")] {
                assert_eq!(
                    run(url, cache, "list URL").out.trim(),
                    git(&["ls-tree", "--name-only", &second]).trim()
                );
            }
        }
    }
}

#[test]
fn the_first_change_makes_the_branch_that_head_names() {
    // The second server keeps git to a protocol in which nobody can say what is not there.
    for (says, made) in [(true, "trunk"), (false, "main")] {
        let lab = Lab::bare();
        let old = if says { "" } else { "unset GIT_PROTOCOL\n" };
        let script = "while [ \"$1\" = -o ]; do shift 2; done\nshift\nexec sh -c \"$*\"\n";
        lab.write_program("bin/ssh", &format!("#!/bin/sh\n{old}{script}"));
        let git = |arguments: &[&str]| {
            let done = Command::new("git").current_dir(lab.path("")).args(arguments).output().unwrap();
            assert!(done.status.success(), "{arguments:?}");
            String::from_utf8(done.stdout).unwrap()
        };
        git(&["init", "-q", "--bare", "-b", "first", "new.git"]);
        let url = format!("ssh://host{}", lab.path("new.git").display());
        let run = |arguments: &[&str]| {
            let outcome = command(&lab, arguments).env("GIT_SSH_COMMAND", lab.path("bin/ssh")).output();
            let outcome = Outcome::from(outcome.unwrap());
            assert_eq!((outcome.status, outcome.err.as_str()), (Some(0), ""), "{arguments:?}");
            outcome.out
        };
        assert_eq!(run(&["list", &url]), "");
        // Nobody has written yet, and it is called differently by now.
        git(&["-C", "new.git", "symbolic-ref", "HEAD", "refs/heads/trunk"]);
        run(&["put", &url, "key", "tree/notes"]);
        let branches = git(&["-C", "new.git", "for-each-ref", "--format=%(refname)"]);
        assert_eq!(branches, format!("refs/heads/{made}\n"));
        git(&["-C", "new.git", "symbolic-ref", "HEAD", branches.trim()]);
        assert_eq!(run(&["get", &url, "key"]), "notes\n");
    }
}

#[test]
fn a_clone_with_files_is_changed_as_a_person_would() {
    let lab = lab();
    let git = |arguments: &[&str]| {
        let output =
            Command::new("git").current_dir(lab.path("")).args(arguments).output().expect("git runs");
        String::from_utf8(output.stdout).unwrap()
    };
    git(&["clone", "-q", "kv.git", "clone"]);
    ok(&lab, &["put", "clone", "letters/one", "tree/letters/one"]);
    lab.write("clone/letters/one", "edited\n");
    let outcome = run(&lab, &["rm", "clone", "letters/one"]);
    assert_eq!(outcome.status, Some(1), "{outcome:?}");
    assert!(outcome.err.contains("\"letters/one\" (edited); commit them"), "{}", outcome.err);
    ok(&lab, &["put", "clone", "notes", "tree/notes"]);
    assert_eq!(git(&["-C", "clone", "status", "--porcelain"]), " M letters/one\n");
    assert_eq!(fs::read_to_string(lab.path("clone/notes")).unwrap(), "notes\n");
    assert_eq!(ok(&lab, &["list", "kv.git"]), "", "nothing is pushed");
    let outcome = edit(&lab, "clone", "letters/one", "echo third > \"$1\"");
    assert!(outcome.err.contains("it is kept in"), "{}", outcome.err);
    let (_, rest) = outcome.err.split_once("it is kept in ").unwrap();
    let (kept, _) = rest.split_once(": ").unwrap();
    fs::remove_dir_all(std::path::Path::new(kept).parent().unwrap()).unwrap();
}

const GITKV: &str = "
import gitkv, sys
url = sys.argv[1]
with gitkv.open(url, 'ours') as f:
    print(f.read(), end='')
with gitkv.open(url, 'theirs', 'w') as f:
    f.write('from python\\n')
";

#[test]
fn gitkv_and_the_program_see_what_the_other_wrote() {
    let lab = lab();
    ok(&lab, &["put", "kv.git", "ours", "tree/notes"]);
    let Some(seen) = python::run("gitkv", GITKV, &[OsStr::new(&url(&lab))]) else { return };
    assert_eq!(seen, "notes\n");
    for url in ["kv.git", &url(&lab)] {
        assert_eq!(ok(&lab, &["get", url, "theirs"]), "from python\n");
    }
    assert!(ok(&lab, &["log", "kv.git", "theirs"]).contains("GitKV: theirs"));
}
