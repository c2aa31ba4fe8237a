//! `kv`: a git repository as a store of keys and values.

use std::env;
use std::error::Error;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

use serde_json::json;
use tempfile::TempDir;
use treering::child::Running;
use treering::gitkv::{Commit, GitError, GitKv, KvFile, OpenMode};
use treering::layers::ObjectId;

use crate::cli::error::{CliError, Exit};
use crate::cli::json::{self, Name};
use crate::cli::kv_args::{
    EditArguments, KvCommand, KvKeyArguments, KvListArguments, KvRepository, MessageArguments, PutArguments,
    RmArguments, ShowArguments,
};
use crate::cli::report::{self, Align, print};
use crate::cli::{Session, cache_directory, complain_of_layers, prepare_to_write, read_input};

/// The editor of somebody who named none.
const EDITOR: &str = "vi";

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

    let directory = tempfile::Builder::new().prefix("treering-").tempdir();
    let directory = directory.map_err(CliError::file("make a directory in", &env::temp_dir()))?;
    // Editors go by the name to know what it is.
    let draft = directory.path().join(Path::new(key).file_name().unwrap_or(key));
    fs::write(&draft, &before).map_err(CliError::file("write", &draft))?;
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
    let keys = kv.list(arguments.prefix.as_bytes())?.collect::<Result<Vec<_>, _>>()?;
    print(|out| {
        keys.iter().try_for_each(|key| match session.json {
            true => json::message(out, "key", &Name { key: "key", bytes: key }),
            false => writeln!(out, "{}", report::name(key)),
        })
    })?;
    Ok(Exit::Done)
}

fn log(session: &Session, arguments: &KvKeyArguments) -> Result<Exit, CliError> {
    let kv = open(&arguments.repository)?;
    let commits = kv.log(arguments.key.as_bytes())?.collect::<Result<Vec<_>, _>>()?;
    if commits.is_empty() {
        return Err(no_key(&arguments.key).into());
    }
    print(|out| {
        if session.json {
            return commits.iter().try_for_each(|(id, commit)| {
                let object = json!({
                    "id": id.to_string(),
                    "time": commit.author.time().to_string(),
                    "author": commit.author.name(),
                    "mail": commit.author.mail(),
                    "message": String::from_utf8_lossy(&commit.message),
                });
                json::message(out, "commit", &object)
            });
        }
        let row = |(id, commit): &(ObjectId, Commit)| {
            let message = String::from_utf8_lossy(&commit.message);
            vec![
                short(id),
                report::clock_time(commit.author.time(), session.now.time_zone()),
                report::text(commit.author.mail()),
                report::text(message.lines().next().unwrap_or_default()),
            ]
        };
        let rows: Vec<_> = commits.iter().map(row).collect();
        report::table(out, &[Align::Left; 4], &rows)
    })?;
    Ok(Exit::Done)
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
    session.say("committed", &json!({ "commit": commit.map(|id| id.to_string()) }), &text)?;
    Ok(Exit::Done)
}

fn short(id: &ObjectId) -> String {
    let mut id = id.to_string();
    id.truncate(SHORT_ID);
    id
}
