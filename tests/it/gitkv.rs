//! Keys and values in a git repository, beside the program that they come from.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use treering::gitkv::{GitKv, OpenMode, Person};

use crate::python;

fn who() -> Person {
    Person::new("Ann", "ann@example.org", "2026-11-20T12:00:00Z".parse().unwrap())
}

fn put(kv: &GitKv, key: &str, mode: OpenMode, value: &str) {
    let mut file = kv.file(key, mode).unwrap();
    file.write_all(value.as_bytes()).unwrap();
    file.commit(&who()).unwrap().expect("the value changes");
}

fn get(kv: &GitKv, key: &str) -> String {
    kv.refresh().unwrap();
    String::from_utf8(kv.get(key).unwrap().expect(key)).unwrap()
}

/// Sets a key, then says so, then waits, and only then pushes what it wrote to another key before.
const GITKV_WRITES: &str = "
import gitkv, sys
url, key, value = sys.argv[1:]
with gitkv.Repo(url) as repo:
    with repo.open(key, 'w') as f:
        f.write(value)
    repo.commit_message = 'Python sets ' + key
    print('written', flush=True)
    sys.stdin.readline()
";

const GITKV_READS: &str = "
import gitkv, sys
repo = gitkv.Repo(sys.argv[1])
for key in sys.argv[2:]:
    with repo.open(key) as f:
        print(key + '=' + f.read().replace('\\n', ','))
print('log=' + ','.join(repo.message(c).strip() for c in repo.git_log('--no-merges', '--', sys.argv[2])))
";

/// Lets gitkv set `key`, does `between` after it has read and before it pushes, and waits for it.
fn gitkv_writes(url: &Path, key: &str, value: &str, between: impl FnOnce()) -> Option<()> {
    let arguments = [url.as_os_str(), OsStr::new(key), OsStr::new(value)];
    let mut command = python::command("gitkv", GITKV_WRITES, &arguments)?;
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "written\n");
    between();
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert!(child.wait().unwrap().success());
    Some(())
}

#[test]
fn gitkv_and_this_see_what_the_other_wrote() {
    let dir = tempfile::tempdir().unwrap();
    let url = dir.path().join("repo.git");
    // gitkv pushes to the branch master, whatever the repository's is.
    let init = Command::new("git").args(["init", "-q", "--bare", "-b", "master"]).arg(&url).status();
    assert!(init.expect("git runs").success());
    let local = GitKv::open(&url).unwrap();
    let remote = GitKv::open_url(url.to_str().unwrap(), &dir.path().join("cache")).unwrap();

    let lines = "1\n2\n3\n4\n5\n";
    put(&local, "first", OpenMode::Create, lines);
    if gitkv_writes(&url, "python", "from python\n", || put(&remote, "second", OpenMode::Write, "two\n"))
        .is_none()
    {
        return;
    }
    for kv in [&local, &remote] {
        assert_eq!(get(kv, "python"), "from python\n");
        assert_eq!(get(kv, "second"), "two\n");
    }

    // Both change different lines of one value, and each of them is the one who comes second once.
    gitkv_writes(&url, "first", &lines.replace('1', "python"), || {
        put(&local, "first", OpenMode::Write, &lines.replace('5', "local"));
    });
    assert_eq!(get(&remote, "first"), "python\n2\n3\n4\nlocal\n");
    let mut file = remote.file("first", OpenMode::Update).unwrap();
    file.write_all(b"PYTHON").unwrap();
    gitkv_writes(&url, "first", "python\n2\n3\n4\nagain\n", || ());
    file.commit(&who()).unwrap().unwrap();
    put(&local, "second", OpenMode::Append, "three\n");

    let keys = ["first", "second", "python"].map(OsStr::new);
    let seen = python::run("gitkv", GITKV_READS, &[&[url.as_os_str()][..], &keys].concat()).unwrap();
    let log = "log=Set first,Python sets first,Set first,Python sets first,Set first";
    let seen: Vec<_> = seen.lines().collect();
    assert_eq!(seen[..3], ["first=PYTHON,2,3,4,again,", "second=two,three,", "python=from python,"]);
    let sorted = |log: &str| {
        let mut log: Vec<_> = log.split(',').map(str::to_owned).collect();
        log.sort();
        log
    };
    assert_eq!(sorted(seen[3]), sorted(log));
    let fsck = Command::new("git").arg("-C").arg(&url).args(["fsck", "--strict"]).status();
    assert!(fsck.unwrap().success());
}

#[test]
fn works_beside_gitkv_on_one_clone() {
    let dir = tempfile::tempdir().unwrap();
    let url = dir.path().join("notes");
    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
        let output = command.arg("-C").arg(&url).args(arguments).output().expect("git runs");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    std::fs::create_dir(&url).unwrap();
    git(&["init", "-q", "-b", "master"]);
    let kv = GitKv::open(&url).unwrap();
    put(&kv, "ours", OpenMode::Create, "one\n");

    // As its documentation says for repositories that are not bare. Its pushes leave the files as they were.
    git(&["config", "receive.denyCurrentBranch", "ignore"]);
    if gitkv_writes(&url, "theirs", "two\n", || ()).is_none() {
        return;
    }
    assert_eq!((get(&kv, "ours"), get(&kv, "theirs")), ("one\n".into(), "two\n".into()));
    let before = git(&["status", "--porcelain"]);
    assert_eq!(before, "D  theirs\n");
    put(&kv, "ours", OpenMode::Append, "more\n");
    assert_eq!(git(&["status", "--porcelain"]), before);
    let mut file = kv.file("theirs", OpenMode::Append).unwrap();
    file.write_all(b"more\n").unwrap();
    let refused = file.commit(&who()).unwrap_err().to_string();
    assert!(refused.contains("\"theirs\" (staged)"), "{refused}");
    git(&["checkout", "-q", "-f"]);
    file.commit(&who()).unwrap().unwrap();
    assert_eq!(git(&["status", "--porcelain"]), "");

    // Git itself can bring the files along too.
    git(&["config", "receive.denyCurrentBranch", "updateInstead"]);
    gitkv_writes(&url, "ours", "python\n", || ());
    put(&kv, "dir/ours", OpenMode::Create, "three\n");
    assert_eq!(git(&["status", "--porcelain"]), "");
    assert_eq!(std::fs::read_to_string(url.join("dir/ours")).unwrap(), "three\n");
    let arguments = [url.as_os_str(), OsStr::new("ours"), OsStr::new("theirs"), OsStr::new("dir/ours")];
    let seen = python::run("gitkv", GITKV_READS, &arguments).unwrap();
    assert!(seen.starts_with("ours=python,\ntheirs=two,more,\ndir/ours=three,\n"), "{seen}");
    git(&["fsck", "--strict"]);
}
