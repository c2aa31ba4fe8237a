//! What is secret in an address: planted in every form and every command, and looked for wherever somebody else could
//! read it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use walkdir::WalkDir;

use crate::lab::{Lab, Outcome, answering_server};
use crate::programs;

/// The word that nobody else may see.
const WORD: &str = "HUSHHUSH";

/// Addresses that hold it, at a HOST where nobody is let in. In some there is no place for a secret, or a slip.
const ADDRESSES: [&str; 27] = [
    "https://me:HUSHHUSH@HOST/x.git",
    "https://HUSHHUSH@HOST/x.git",
    "http://me:a%20HUSHHUSH@HOST/x.git",
    "https://me:a/HUSHHUSH@HOST/x.git",
    "https://HOST/x.git?token=HUSHHUSH",
    "https:me:HUSHHUSH@HOST/x.git",
    "ftp://me:HUSHHUSH@HOST/x.git",
    "git://me:HUSHHUSH@HOST/x.git",
    "ssh://me:HUSHHUSH@HOST/x.git",
    "ssh://me:a/HUSHHUSH@HOST/x.git",
    "me:HUSHHUSH@localhost:x.git",
    "odd://me:HUSHHUSH@HOST/x.git",
    "ext::sh -c 'exit 1' me:HUSHHUSH@x",
    "sftp://me:HUSHHUSH@HOST/x",
    "sftp:me:HUSHHUSH@localhost:x",
    "s3:KEY:HUSHHUSH@http://HOST/bucket/x",
    "s3:KEY:HUSHHUSH@HOST/bucket/x",
    "s3:KEY:HUSHHUSH",
    "s3:/KEY:HUSHHUSH@/bucket/x",
    "s3:KEY:SECRET@http://HOST/bucket/x?token=HUSHHUSH",
    "S3:KEY:HUSHHUSH@http://HOST/bucket/x",
    "s4:KEY:HUSHHUSH@http://HOST/bucket/x",
    "webdav://me:HUSHHUSH@HOST/x",
    "webdavs:me:HUSHHUSH@HOST/x",
    "rclone::webdav,url='http://HOST',bearer_token=HUSHHUSH:x",
    "rclone:nowhere,pass=HUSHHUSH:x",
    "rclone:HUSHHUSH",
];

/// What is done with an address, URL, after `remote add there URL` was tried.
const COMMANDS: [&[&str]; 25] = [
    &["remote", "list"],
    &["remote", "list", "--json"],
    &["push", "there"],
    &["pull", "there", "--json"],
    &["layers", "list"],
    &["layers", "fetch"],
    &["backup", "tree", "-q", "--push=there"],
    &["check"],
    &["remote", "add", "other", "URL", "--json"],
    &["remote", "remove", "there"],
    &["clone", "URL", "clone"],
    &["clone", "--cold", "URL", "clone", "--json"],
    &["kv", "get", "URL", "key"],
    &["kv", "put", "URL", "key", "tree/notes"],
    &["store", "--url", "URL", "list", "data"],
    &["store", "--url", "URL", "create", "--json"],
    &["store", "--url", "file:///nowhere", "--cache", "URL", "list", "data"],
    // In places that are not for it.
    &["remote", "add", "URL", "there"],
    &["remote", "add", "URL"],
    &["remote", "remove", "URL"],
    &["push", "URL"],
    &["backup", "tree", "--push=URL"],
    &["-r", "URL", "snapshots"],
    &["clone", "repo", "URL"],
    &["ls", "latest", "x", "URL", "--json", "--odd"],
];

/// Programs that note their arguments where a test finds them, before the real one runs.
fn with_witnesses(lab: &Lab) -> String {
    let path = std::env::var("PATH").unwrap();
    for program in ["git", "ssh", "rclone"] {
        let real = programs::find(program).map_or("false".to_owned(), |real| real.display().to_string());
        let script = format!(
            "#!/bin/sh\nprintf '%s\\n' \"{program} $*\" >> '{}'\nexec {real} \"$@\"\n",
            lab.path("argv").display()
        );
        lab.write_program(&format!("bin/{program}"), &script);
    }
    format!("{}:{path}", lab.path("bin").display())
}

fn run(lab: &Lab, path: &str, arguments: &[&str]) -> Outcome {
    let mut command = lab.command(arguments);
    command.env("PATH", path).env("GIT_TRACE2_EVENT", lab.path("git-trace")).env("HOME", lab.path("home"));
    command.env("TREERING_LOG", "debug");
    command.env("GIT_SSH_COMMAND", "ssh -o ConnectTimeout=2 -o BatchMode=yes");
    Outcome::lossy(command.output().unwrap())
}

/// The files below `root` that hold the word and that somebody else may read.
fn readable_by_others(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in
        WalkDir::new(root).into_iter().map(Result::unwrap).filter(|entry| entry.file_type().is_file())
    {
        let holds = fs::read(entry.path()).unwrap().windows(WORD.len()).any(|part| part == WORD.as_bytes());
        let mode = entry.metadata().unwrap().permissions().mode();
        if holds && mode & 0o077 != 0 {
            found.push(format!("{} {mode:o}", entry.path().display()));
        }
    }
    found
}

#[test]
fn an_address_tells_nobody_its_secret() {
    if !programs::are_here(&["git", "ssh", "rclone"]) {
        return;
    }
    // It lets nobody in.
    let host = answering_server("403 Forbidden");
    std::thread::scope(|scope| {
        for addresses in ADDRESSES.chunks(7) {
            let host = &host;
            scope.spawn(move || addresses.iter().for_each(|address| plant(&address.replace("HOST", host))));
        }
    });
}

fn plant(address: &str) {
    let lab = Lab::new();
    let path = with_witnesses(&lab);
    lab.ok(["backup", "tree", "-q"]);
    let added: &[&str] = &["remote", "add", "there", "URL"];
    let mut seen = Vec::new();
    for command in std::iter::once(&added).chain(&COMMANDS) {
        let arguments: Vec<_> = command.iter().map(|word| word.replace("URL", address)).collect();
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let outcome = run(&lab, &path, &arguments);
        if format!("{}{}", outcome.out, outcome.err).contains(WORD) {
            seen.push(format!("{command:?} says {} {}", outcome.out, outcome.err));
        }
    }
    // git writes down the arguments of what it runs itself.
    for log in ["argv", "git-trace"] {
        for line in fs::read_to_string(lab.path(log)).unwrap_or_default().lines() {
            if line.contains(WORD) {
                seen.push(format!("{log}: {line}"));
            }
        }
    }
    seen.extend(readable_by_others(&lab.path("")));
    assert!(seen.is_empty(), "{address}: {seen:#?}");
}

/// What a remote with a login needs to work: git has it, and others have not.
#[test]
fn a_login_reaches_the_server_and_no_argument() {
    if !programs::are_here(&["git"]) {
        return;
    }
    let lab = Lab::new();
    let path = with_witnesses(&lab);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        // First nobody is let in; then it is seen who came.
        for answer in ["401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"", "404 Not Found"] {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            let mut bytes = [0; 4096];
            while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                let read = stream.read(&mut bytes).unwrap();
                assert!(read > 0);
                request.extend_from_slice(&bytes[..read]);
            }
            write!(stream, "HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
            let request = String::from_utf8(request).unwrap();
            if let Some(line) = request.lines().find(|line| line.starts_with("Authorization:")) {
                return line.to_owned();
            }
        }
        String::new()
    });
    let url = format!("http://me:{WORD}@{address}/x.git");
    lab.ok(["remote", "add", "there", &url]);
    let mode = fs::metadata(lab.path("repo/config")).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "{mode:o}");
    let outcome = run(&lab, &path, &["pull", "there"]);
    assert!(outcome.err.contains("not found"), "{}", outcome.err);
    // The base64 of `me:HUSHHUSH`.
    assert_eq!(server.join().unwrap(), "Authorization: Basic bWU6SFVTSEhVU0g=");
    for log in ["argv", "git-trace"] {
        assert!(!fs::read_to_string(lab.path(log)).unwrap().contains(WORD), "{log}");
    }
}

#[test]
fn who_logs_in_pushes_and_pulls() {
    if !programs::are_here(&["git", "python3"]) {
        return;
    }
    let lab = Lab::new();
    lab.ok(["backup", "tree", "-q"]);
    let hub = lab.path("served/hub.git");
    assert!(Command::new("git").args(["init", "-q", "--bare"]).arg(hub).status().unwrap().success());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/git_http.py");
    let mut server = Command::new("python3");
    server.arg(script).arg(lab.path("served")).arg(format!("me:{WORD}")).stdout(Stdio::piped());
    let mut server = server.spawn().unwrap();
    let mut port = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut port).unwrap();
    let url = format!("http://me:{WORD}@127.0.0.1:{}/hub.git", port.trim());
    let outcomes = [
        lab.run(["remote", "add", "there", &url]),
        lab.run(["push", "there"]),
        lab.run(["clone", &url, "clone"]),
        lab.run(["-r", "clone", "backup", "tree", "-q", "--push"]),
        lab.run(["pull", "there"]),
        lab.run(["push", "there"]),
    ];
    server.kill().unwrap();
    server.wait().unwrap();
    for outcome in outcomes {
        assert_eq!((outcome.status, outcome.err.as_str()), (Some(0), ""), "{}", outcome.out);
    }
    assert_eq!(lab.ok(["snapshots", "--json"]).matches("\"short_id\"").count(), 2);
}

/// What git or an earlier version wrote is put right with the next change.
#[test]
fn a_configuration_with_a_login_is_hidden_with_the_next_change() {
    let lab = Lab::new();
    let config = lab.path("repo/config");
    let mode = || fs::metadata(&config).unwrap().permissions().mode() & 0o777;
    lab.ok(["remote", "add", "plain", "/nowhere"]);
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{text}[remote \"old\"]\n\turl = https://me:{WORD}@localhost/x\n")).unwrap();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o644)).unwrap();
    lab.ok(["remote", "remove", "plain"]);
    assert_eq!(mode(), 0o600);
}
