//! What README.md and docs/*.md print as commands is run as it is printed, page by page and in order.
//!
//! Each page has a root directory of its own, which goes away at the end (`docs/sandbox.sh`). `docs/world.sh`
//! says what every page finds there, and `docs/PAGE.sh` what that page takes for granted. Hosts are this
//! machine: `ssh` runs its command here, S3 is a server in this process, and a git host is a directory.
//!
//! A block of commands is marked `sh`. What stands in comments right before a block is checked:
//!
//! - `<!-- not run: REASON -->`: the block is not run.
//! - ``<!-- not run: `COMMAND`: REASON -->``: a command of the block that begins so is not run.
//! - ``<!-- exits 1: `COMMAND` -->``: a command that begins so ends with that status.
//! - `<!-- home: DIRECTORY -->`: the home directory from this block on.
//!
//! A block of another kind whose first line is `# /path` or `# ~/path` is added to that file before the page is run.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::programs::are_here;
use crate::s3_server::S3Server;

/// Kinds of blocks that hold no commands.
const OTHER_KINDS: [&str; 6] = ["text", "toml", "ini", "rust", "rust,no_run", "python"];

#[derive(Debug, PartialEq)]
enum Note {
    NotRun { command: Option<String> },
    Exits { status: i32, command: String },
    Home(String),
}

#[derive(Debug)]
struct Block {
    /// The line of the fence, from 1.
    line: usize,
    kind: String,
    lines: Vec<String>,
    notes: Vec<Note>,
}

/// A command, with the line where it begins.
#[derive(Debug, PartialEq)]
struct Printed {
    line: usize,
    text: String,
}

fn quoted(text: &str) -> Option<(&str, &str)> {
    text.trim().strip_prefix('`')?.split_once('`')
}

/// A comment of the page as a note; `None` when it is another comment.
fn note(comment: &str) -> Option<Result<Note, String>> {
    let (kind, rest) = comment.split_once(':')?;
    let wrong = || Err(format!("a note that cannot be read: {comment:?}"));
    let parsed = match kind.trim() {
        "not run" => {
            let (command, reason) = match quoted(rest) {
                Some((command, reason)) => (Some(command.to_owned()), reason.trim().trim_start_matches(':')),
                None => (None, rest),
            };
            match reason.trim().len() {
                0..10 => Err(format!("no reason is given in {comment:?}")),
                _ => Ok(Note::NotRun { command }),
            }
        }
        "home" => Ok(Note::Home(rest.trim().to_owned())),
        kind => {
            let status = kind.strip_prefix("exits ")?.parse();
            match (status, quoted(rest)) {
                (Ok(status), Some((command, ""))) => Ok(Note::Exits { status, command: command.to_owned() }),
                _ => wrong(),
            }
        }
    };
    Some(parsed)
}

/// The blocks of a page.
fn blocks(page: &str) -> Result<Vec<Block>, String> {
    let (mut blocks, mut notes) = (Vec::new(), Vec::new());
    let mut lines = page.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        let text = line.trim_start();
        let indent = line.len() - text.len();
        if let Some(kind) = text.strip_prefix("```") {
            let mut block = Block {
                line: at + 1,
                kind: kind.trim().into(),
                lines: Vec::new(),
                notes: std::mem::take(&mut notes),
            };
            loop {
                let Some((_, line)) = lines.next() else {
                    return Err(format!("line {}: the block does not end", block.line));
                };
                if line.trim() == "```" {
                    break;
                }
                block.lines.push(line.get(indent..).unwrap_or_default().to_owned());
            }
            blocks.push(block);
        } else if let Some(comment) = text.strip_prefix("<!--").and_then(|text| text.strip_suffix("-->")) {
            if let Some(note) = note(comment.trim()) {
                notes.push(note.map_err(|error| format!("line {}: {error}", at + 1))?);
            }
        } else if !text.is_empty() && !notes.is_empty() {
            return Err(format!("line {}: a note must stand right before its block", at + 1));
        }
    }
    Ok(blocks)
}

/// The commands of a block. One goes on where a line ends in `\`, or until a here-document is complete.
fn commands(block: &Block) -> Vec<Printed> {
    let mut commands = Vec::new();
    let mut lines = block.lines.iter().enumerate();
    while let Some((at, line)) = lines.next() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let mut text = line.clone();
        let mut last = line.clone();
        while last.ends_with('\\') {
            let Some((_, more)) = lines.next() else { break };
            text = format!("{text}\n{more}");
            last = more.clone();
        }
        if let Some((_, word)) = line.split_once("<<") {
            let end =
                word.trim_start().trim_matches('\'').split(['\'', ' ']).next().unwrap_or_default().to_owned();
            for (_, more) in lines.by_ref() {
                text = format!("{text}\n{more}");
                if *more == end {
                    break;
                }
            }
        }
        commands.push(Printed { line: block.line + 1 + at, text });
    }
    commands
}

/// The script that runs a page, or what is wrong with the page. `None` when it has nothing to run.
fn script(name: &str, page: &str) -> Result<Option<String>, String> {
    const END: &str = "END_OF_WHAT_IS_PRINTED";
    let (mut files, mut script) = (String::new(), String::new());
    let mut has_commands = false;
    for block in blocks(page).map_err(|error| format!("{name}: {error}"))? {
        let place = format!("{name}:{}", block.line);
        if block.kind != "sh" {
            if !OTHER_KINDS.contains(&block.kind.as_str()) {
                return Err(format!("{place}: {:?} is no kind of block; is it `sh` or `text`?", block.kind));
            }
            let file = block.lines.first().and_then(|line| line.strip_prefix("# "));
            if let Some(file) = file.filter(|file| file.starts_with(['/', '~'])) {
                let content = block.lines.join("\n");
                files +=
                    &format!("mkdir -p \"$(dirname {file})\"\ncat >> {file} << '{END}'\n{content}\n{END}\n");
            }
            if !block.notes.is_empty() {
                return Err(format!("{place}: only a block of commands takes notes"));
            }
            continue;
        }
        if block.notes.iter().any(|note| matches!(note, Note::NotRun { command: None })) {
            continue;
        }
        let mut used = vec![false; block.notes.len()];
        for Printed { line, text } in commands(&block) {
            let mut status = 0;
            let mut runs = true;
            for (note, used) in block.notes.iter().zip(&mut used) {
                match note {
                    Note::NotRun { command: Some(command) } if text.starts_with(command) => {
                        (runs, *used) = (false, true)
                    }
                    Note::Exits { status: other, command } if text.starts_with(command) => {
                        (status, *used) = (*other, true)
                    }
                    Note::Home(home) if !*used => {
                        script += &format!("export HOME={home}\n");
                        *used = true;
                    }
                    _ => {}
                }
            }
            if runs {
                has_commands = true;
                script += &format!("printed '{name}:{line}' {status} << '{END}'\n{text}\n{END}\n");
            }
        }
        if let Some(at) = used.iter().position(|used| !used) {
            return Err(format!("{place}: {:?} fits no command of the block", block.notes[at]));
        }
    }
    Ok(has_commands.then(|| files + "\0" + &script))
}

fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What runs a program where it may mount.
fn unshare() -> Command {
    let mut unshare = Command::new("unshare");
    unshare.arg("--mount");
    if !rustix::process::geteuid().is_root() {
        unshare.args(["--user", "--map-root-user"]);
    }
    unshare
}

/// Whether this machine lets us mount. In CI it must.
fn may_mount() -> bool {
    let tried = unshare().arg("true").output().unwrap();
    let said = String::from_utf8_lossy(&tried.stderr).into_owned();
    let is_ci = std::env::var_os("CI").is_some_and(|ci| ci == "true");
    assert!(tried.status.success() || !is_ci, "pages cannot be run: {said}");
    if !tried.status.success() {
        eprintln!("skipped: pages cannot be run: {said}");
    }
    tried.status.success()
}

/// Runs the commands of a page in its sandbox.
fn run(name: &str) {
    let page = checkout().join(if name == "README" { "README.md".into() } else { format!("docs/{name}.md") });
    let script = script(&format!("{name}.md"), &read(&page)).unwrap_or_else(|error| panic!("{error}"));
    let script = script.unwrap_or_else(|| panic!("{name}.md has no commands to run"));
    let (files, script) = script.split_once('\0').unwrap();
    if !are_here(&["age", "age-keygen", "bash", "chroot", "git", "unshare"]) || !may_mount() {
        return;
    }
    let own = checkout().join(format!("tests/cli/docs/{name}.sh"));
    let own = if own.exists() { read(&own) } else { String::new() };
    let world = read(&checkout().join("tests/cli/docs/world.sh"));

    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| -> PathBuf { dir.path().join(name) };
    fs::create_dir(path("root")).unwrap();
    fs::create_dir_all(path("checkout/docs")).unwrap();
    fs::copy(checkout().join("README.md"), path("checkout/README.md")).unwrap();
    for page in fs::read_dir(checkout().join("docs")).unwrap().map(Result::unwrap) {
        fs::copy(page.path(), path("checkout/docs").join(page.file_name())).unwrap();
    }
    fs::write(path("page.sh"), [&world, files, &own, script, "true\n"].join("\n")).unwrap();

    let s3 = S3Server::start();
    let mut unshare = unshare();
    unshare.arg("bash").arg(checkout().join("tests/cli/docs/sandbox.sh")).arg(path("root"));
    unshare.args([
        env!("CARGO_BIN_EXE_treering").as_ref(),
        path("page.sh").as_os_str(),
        path("checkout").as_os_str(),
    ]);
    unshare.args([S3Server::KEY, S3Server::SECRET, &format!("http://localhost:{}", s3.address.port())]);
    let output = unshare.stdin(Stdio::null()).output().unwrap();
    assert!(
        output.status.success(),
        "{name}.md: {:?} {:?}\n{}\n{}",
        output.status.code(),
        output.status.signal(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

macro_rules! pages {
    ($($test:ident $page:literal)*) => {
        const RUN: &[&str] = &[$($page),*];
        $(
            #[test]
            fn $test() {
                run($page);
            }
        )*
    };
}

pages! {
    readme "README"
    building_blocks "building-blocks"
    encryption "encryption"
    remotes "remotes"
    schedules "schedules"
}

/// As root alone: the databases run as other users.
#[test]
fn databases() {
    if !rustix::process::geteuid().is_root()
        || !are_here(&["mariadb", "mariadb-dump", "pg_dump", "psql", "runuser", "sqlite3"])
    {
        return;
    }
    run("databases");
}

#[test]
fn every_page_is_run_or_says_why_not() {
    let mut pages = vec![("README".to_owned(), checkout().join("README.md"))];
    for page in fs::read_dir(checkout().join("docs")).unwrap().map(|entry| entry.unwrap().path()) {
        if page.extension().is_some_and(|extension| extension == "md") {
            pages.push((page.file_stem().unwrap().to_string_lossy().into_owned(), page));
        }
    }
    for (name, page) in pages {
        let script = script(&format!("{name}.md"), &read(&page)).unwrap_or_else(|error| panic!("{error}"));
        let runs = RUN.contains(&name.as_str()) || name == "databases";
        assert_eq!(script.is_some(), runs, "{name}.md has commands, or none, but this module says otherwise");
    }
}

#[test]
fn a_block_that_is_not_marked_or_marked_wrongly_is_an_error() {
    let page = |text: &str| script("page", text);
    assert!(page("```\ntreering init\n```\n").unwrap_err().contains("`sh` or `text`"));
    assert!(page("<!-- not run: -->\n```sh\nx\n```\n").unwrap_err().contains("no reason"));
    assert!(
        page("<!-- not run: `y`: it would take a day -->\n```sh\nx\n```\n")
            .unwrap_err()
            .contains("fits no command")
    );
    assert!(
        page("<!-- not run: it would take a day -->\nText\n```sh\nx\n```\n")
            .unwrap_err()
            .contains("right before")
    );
    assert!(page("```sh\nx\n").unwrap_err().contains("does not end"));
    assert_eq!(page("<!-- not run: it would take a day -->\n\n```sh\nx\n```\n"), Ok(None));
    assert_eq!(page("<!-- a comment -->\nText\n```text\nx\n```\n"), Ok(None));

    let text = "- item\n\n  ```sh\n  # why\n  cat > f <<'EOF'\n  a\n\n  EOF\n  one \\\n    two\n  ```\n";
    let block = &blocks(text).unwrap()[0];
    let printed = |line, text: &str| Printed { line, text: text.into() };
    assert_eq!(commands(block), [printed(5, "cat > f <<'EOF'\na\n\nEOF"), printed(9, "one \\\n  two")]);
    let text = page("<!-- exits 1: `x` -->\n```sh\nx\n```\n").unwrap().unwrap();
    assert!(text.contains("printed 'page:3' 1 "), "{text}");
}
