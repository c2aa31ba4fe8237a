//! `kv`: a git repository as a store of keys and values.

use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use clap::{Args, Subcommand, ValueHint};
use serde_json::json;
use tempfile::TempDir;
use treering::atomic;
use treering::child::Running;
use treering::gitkv::{Commit, GitError, GitKv, KvFile, OpenMode};
use treering::layers::ObjectId;

use crate::cli::error::{CliError, Exit};
use crate::cli::json::{self, Name};
use crate::cli::local_path::local_path;
use crate::cli::report::{self, Align, print};
use crate::cli::{Session, cache_directory, complain_of_layers, prepare_to_write, read_input};

/// Use a git repository as a key-value store
#[derive(Debug, Subcommand)]
#[command(after_help = "\
A key is a path in the repository, its value the file there. URL is the path of a repository or whatever else git accepts. \
Every change is a commit, and pushed. Repositories elsewhere are cloned once, below XDG_CACHE_HOME or ~/.cache, and from then on fetched. \
In a clone with a working tree, a change is a commit on the branch that is checked out, with index and files; it is not pushed.

Examples:
  git init --bare notes.git
  echo hello | treering kv put notes.git greetings/one
  treering kv get notes.git greetings/one
  treering kv edit git@example.org:me/notes.git todo
  treering kv list notes.git greetings
  treering kv log notes.git greetings/one")]
pub enum KvCommand {
    /// Write the value of a key to standard output
    Get(KvKeyArguments),
    Put(PutArguments),
    Edit(EditArguments),
    Rm(RmArguments),
    List(KvListArguments),
    /// List the commits that changed a key, the latest first
    Log(KvKeyArguments),
    Show(ShowArguments),
}

#[derive(Debug, Args)]
pub struct KvRepository {
    /// The repository: a path, such as `.` in a clone, or a URL that git accepts
    #[arg(value_name = "URL", value_hint = ValueHint::DirPath)]
    pub url: PathBuf,
}

#[derive(Debug, Args)]
pub struct KvKeyArguments {
    #[command(flatten)]
    pub repository: KvRepository,
    /// The key
    #[arg(value_name = "KEY")]
    pub key: OsString,
}

/// What a commit says.
#[derive(Debug, Args)]
pub struct MessageArguments {
    /// What the commit says, instead of the name of the key
    #[arg(short, long, value_name = "TEXT")]
    pub message: Option<String>,
}

/// Set the value of a key
#[derive(Debug, Args)]
#[command(after_help = "\
When somebody else changed the value at the same moment, both changes are merged by lines, as git does.

Examples:
  treering kv put notes.git todo todo.txt -m 'Add the shopping'
  date | treering kv put notes.git last-run")]
pub struct PutArguments {
    #[command(flatten)]
    pub key: KvKeyArguments,
    /// The file with the value; `-` is standard input
    #[arg(value_name = "FILE", default_value = "-", value_hint = ValueHint::FilePath, value_parser = local_path())]
    pub file: PathBuf,
    #[command(flatten)]
    pub message: MessageArguments,
}

/// Edit the value of a key in VISUAL or EDITOR
#[derive(Debug, Args)]
pub struct EditArguments {
    #[command(flatten)]
    pub key: KvKeyArguments,
    #[command(flatten)]
    pub message: MessageArguments,
}

/// Remove keys, all in one commit
#[derive(Debug, Args)]
pub struct RmArguments {
    #[command(flatten)]
    pub repository: KvRepository,
    /// The keys
    #[arg(value_name = "KEY", required = true)]
    pub keys: Vec<OsString>,
    #[command(flatten)]
    pub message: MessageArguments,
}

/// List the keys
#[derive(Debug, Args)]
pub struct KvListArguments {
    #[command(flatten)]
    pub repository: KvRepository,
    /// List only this key and those below it
    #[arg(value_name = "KEY", default_value = "", hide_default_value = true)]
    pub prefix: OsString,
}

/// Write the value that a key had in a commit to standard output
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  treering kv log notes.git todo
  treering kv show notes.git todo 1a2b3c4d5e")]
pub struct ShowArguments {
    #[command(flatten)]
    pub key: KvKeyArguments,
    /// The commit: its id, or the beginning of one that `treering kv log` lists
    #[arg(value_name = "COMMIT")]
    pub commit: String,
}

/// The editor of somebody who named none.
const EDITOR: &str = "vi";

/// How many bytes of rows are in line with each other.
const MAX_ROWS: usize = 1 << 20;

/// How many digits of a commit's id are shown.
const SHORT_ID: usize = 10;

/// Does one of the `kv` commands.
pub fn run(session: &Session, command: &KvCommand) -> Result<Exit, CliError> {
    match command {
        KvCommand::Get(arguments) => get(arguments),
        KvCommand::Put(arguments) => put(session, arguments),
        KvCommand::Edit(arguments) => edit(session, arguments),
        KvCommand::Rm(arguments) => remove(session, arguments),
        KvCommand::List(arguments) => list(session, arguments),
        KvCommand::Log(arguments) => log(session, arguments),
        KvCommand::Show(arguments) => show(arguments),
    }
}

fn get(arguments: &KvKeyArguments) -> Result<Exit, CliError> {
    let kv = open(&arguments.repository)?;
    let value = kv.get(arguments.key.as_bytes())?;
    write_value(value, &arguments.key)
}

fn put(session: &Session, arguments: &PutArguments) -> Result<Exit, CliError> {
    let kv = open_to_write(&arguments.key.repository)?;
    let mut file = kv.file(arguments.key.key.as_bytes(), OpenMode::Write)?;
    let value = read_input(&arguments.file)?;
    file.write_all(&value).map_err(CliError::file("keep", &arguments.file))?;
    let commit = save(session, &mut file, &arguments.message)?;
    tell_commit(session, commit)
}

fn edit(session: &Session, arguments: &EditArguments) -> Result<Exit, CliError> {
    let KvKeyArguments { repository, key } = &arguments.key;
    let kv = open_to_write(repository)?;
    // In this order: what somebody writes between the two is merged, where it would be overwritten in the
    // other.
    let mut file = kv.file(key.as_bytes(), OpenMode::Write)?;
    let before = kv.get(key.as_bytes())?.unwrap_or_default();

    let directory = atomic::private_dir("treering-");
    let directory = directory.map_err(CliError::file("make a directory in", &env::temp_dir()))?;
    // Editors go by the name to know what it is.
    let draft = directory.path().join(Path::new(key).file_name().unwrap_or(key));
    let mut options = OpenOptions::new();
    let made = options.write(true).create_new(true).mode(0o600).open(&draft);
    made.and_then(|mut made| made.write_all(&before)).map_err(CliError::file("write", &draft))?;
    let edited = run_editor(&draft);
    let read = || fs::read(&draft).map_err(CliError::file("read", &draft));
    let unsaved = |directory: TempDir, source: Box<dyn Error + Send + Sync>| {
        let path = directory.keep().join(draft.file_name().unwrap_or_default());
        CliError::Unsaved { path, source }
    };
    match edited {
        // It was saved in the editor before.
        Err(CliError::Interrupted(interrupted)) if read()? != before => {
            return Err(unsaved(directory, interrupted.into()));
        }
        edited => edited?,
    }
    let after = read()?;
    if after == before {
        return tell_commit(session, None);
    }
    file.write_all(&after).map_err(CliError::file("keep", &draft))?;
    match save(session, &mut file, &arguments.message) {
        Ok(commit) => tell_commit(session, commit),
        Err(source) => Err(unsaved(directory, source.into())),
    }
}

/// Runs the person's editor on a file, through the shell, since what names it may have arguments.
fn run_editor(file: &Path) -> Result<(), CliError> {
    let given = ["VISUAL", "EDITOR"].into_iter().filter_map(env::var_os).find(|editor| !editor.is_empty());
    let editor = given.unwrap_or_else(|| EDITOR.into());
    let mut script = editor.clone();
    script.push(" \"$@\"");
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(script).arg("sh").arg(file);
    let failed = || CliError::file("run", Path::new("sh"));
    let mut running = Running::start_shell(&mut shell).map_err(failed())??;
    match running.wait().map_err(failed())??.success() {
        true => Ok(()),
        false => Err(CliError::Editor(editor)),
    }
}

fn remove(session: &Session, arguments: &RmArguments) -> Result<Exit, CliError> {
    let keys = &arguments.keys;
    let kv = open_to_write(&arguments.repository)?;
    let shown = || keys.iter().map(|key| key.to_string_lossy()).collect::<Vec<_>>().join(", ");
    let message = arguments.message.message.clone().unwrap_or_else(|| format!("Remove {}", shown()));
    let commit = kv.transaction(&session.who(), &message, |values| {
        for key in keys {
            if values.get(key.as_bytes())?.is_none() {
                return Err(no_key(key));
            }
            values.remove(key.as_bytes())?;
        }
        Ok(())
    })?;
    tell_commit(session, commit)
}

fn list(session: &Session, arguments: &KvListArguments) -> Result<Exit, CliError> {
    let kv = open(&arguments.repository)?;
    let mut keys = kv.list(arguments.prefix.as_bytes())?;
    let mut fault = None;
    print(|out| {
        while let Some(key) = taken(keys.next(), &mut fault) {
            match session.json {
                true => json::message(out, "key", &Name { key: "key", bytes: &key })?,
                false => writeln!(out, "{}", report::name(&key))?,
            }
        }
        Ok(())
    })?;
    fault.map_or(Ok(Exit::Done), |fault| Err(fault.into()))
}

/// What was found, unless that is a fault, which is put away. A list is printed as it is found, since it may be longer than memory.
fn taken<T>(found: Option<Result<T, GitError>>, fault: &mut Option<GitError>) -> Option<T> {
    found?.map_err(|error| *fault = Some(error)).ok()
}

fn log(session: &Session, arguments: &KvKeyArguments) -> Result<Exit, CliError> {
    let kv = open(&arguments.repository)?;
    let mut commits = kv.log(arguments.key.as_bytes())?.peekable();
    if commits.peek().is_none() {
        return Err(no_key(&arguments.key).into());
    }
    let mut fault = None;
    print(|out| {
        let object = |(id, commit): &(ObjectId, Commit)| {
            json!({
                "id": id.to_string(),
                "time": commit.author.time().to_string(),
                "author": commit.author.name(),
                "mail": commit.author.mail(),
                "message": String::from_utf8_lossy(&commit.message),
            })
        };
        let row = |(id, commit): &(ObjectId, Commit)| {
            let message = String::from_utf8_lossy(&commit.message);
            vec![
                short(id),
                report::clock_time(commit.author.time(), session.now.time_zone()),
                report::text(commit.author.mail()),
                report::text(message.lines().next().unwrap_or_default()),
            ]
        };
        let (mut rows, mut len) = (Vec::new(), 0);
        while let Some(commit) = taken(commits.next(), &mut fault) {
            if session.json {
                json::message(out, "commit", &object(&commit))?;
                continue;
            }
            let row = row(&commit);
            len += row.iter().map(String::len).sum::<usize>();
            rows.push(row);
            if len > MAX_ROWS {
                report::table(out, &[Align::Left; 4], &rows)?;
                (rows, len) = (Vec::new(), 0);
            }
        }
        report::table(out, &[Align::Left; 4], &rows)
    })?;
    fault.map_or(Ok(Exit::Done), |fault| Err(fault.into()))
}

fn show(arguments: &ShowArguments) -> Result<Exit, CliError> {
    let ShowArguments { key: KvKeyArguments { repository, key }, commit } = arguments;
    let kv = open(repository)?;
    let id = match commit.parse::<ObjectId>() {
        Ok(id) => id,
        Err(_) => {
            let commits = kv.log(key.as_bytes())?.map(|commit| commit.map(|(id, _)| id));
            let mut found = Vec::new();
            for id in commits {
                let id = id?;
                found.extend(id.to_string().starts_with(commit.as_str()).then_some(id));
            }
            match found[..] {
                [id] => id,
                _ => {
                    let key = key.to_string_lossy().into_owned();
                    return Err(CliError::NoCommit { commit: commit.clone(), key });
                }
            }
        }
    };
    let value = kv.at(id).get(key.as_bytes())?;
    write_value(value, key)
}

/// As [`open`], to write.
fn open_to_write(repository: &KvRepository) -> Result<GitKv, CliError> {
    let kv = open(repository)?;
    prepare_to_write(kv.git(), &repository.url)?;
    Ok(kv)
}

/// Opens a repository that is here as it is, and any other by a clone.
fn open(repository: &KvRepository) -> Result<GitKv, CliError> {
    let url = &repository.url;
    let kv = match url.exists() {
        true => GitKv::open(url)?,
        false => {
            let cache = cache_directory().ok_or(CliError::NoCache)?;
            GitKv::open_url(url.to_string_lossy().as_ref(), &cache)?
        }
    };
    complain_of_layers(&kv.git().layers());
    Ok(kv)
}

/// Commits what was written to `file`.
fn save(
    session: &Session,
    file: &mut KvFile<'_>,
    arguments: &MessageArguments,
) -> Result<Option<ObjectId>, GitError> {
    if let Some(message) = &arguments.message {
        file.set_message(message);
    }
    file.commit(&session.who())
}

fn write_value(value: Option<Vec<u8>>, key: &OsStr) -> Result<Exit, CliError> {
    let value = value.ok_or_else(|| no_key(key))?;
    print(|out| out.write_all(&value))?;
    Ok(Exit::Done)
}

fn no_key(key: &OsStr) -> GitError {
    GitError::NoKey(key.to_string_lossy().into_owned())
}

/// Says which commit was made; `None` where nothing was to change.
fn tell_commit(session: &Session, commit: Option<ObjectId>) -> Result<Exit, CliError> {
    let text = match &commit {
        Some(id) => format!("Committed {}", short(id)),
        None => "Nothing changed".to_owned(),
    };
    session.say("committed", &json!({ "id": commit.map(|id| id.to_string()) }), &text)?;
    Ok(Exit::Done)
}

fn short(id: &ObjectId) -> String {
    let mut id = id.to_string();
    id.truncate(SHORT_ID);
    id
}
