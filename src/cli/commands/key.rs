//! `key`: what opens an encrypted repository.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};
use serde_json::json;
use treering::crypt::SlotKind;
use treering::repository::{KeySlot, RepositoryError};

use crate::cli::error::{CliError, Exit};
use crate::cli::local_path::local_path;
use crate::cli::report::{self, Align, print};
use crate::cli::secrets::LockArguments;
use crate::cli::{Session, json, secrets};

/// Manage the keys of an encrypted repository
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Whoever opened a repository once can go on to read it, and what is written to it later, though his key was removed: to keep \
him out, make a new one.

Examples:
  treering key list
  treering key add --recipient age1…
  treering key remove 1a2b3c4d")]
pub enum KeyCommand {
    /// List them
    List,
    Add(KeyAddArguments),
    Remove(KeyRemoveArguments),
}

/// Add passphrases or recipients, asking for a passphrase where none is given
#[derive(Debug, Args)]
pub struct KeyAddArguments {
    #[command(flatten)]
    pub locks: LockArguments,
    /// The new passphrase is the first line of this file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, value_parser = local_path())]
    pub new_password_file: Option<PathBuf>,
    /// The new passphrase is what this command prints, run by sh
    #[arg(long, value_name = "COMMAND")]
    pub new_password_command: Option<String>,
}

/// Remove one; another that stays must be given
#[derive(Debug, Args)]
pub struct KeyRemoveArguments {
    /// Its id, or the beginning of it
    #[arg(value_name = "ID")]
    pub id: String,
}

/// Changes or lists the keys.
pub fn run(session: &Session, command: &KeyCommand) -> Result<Exit, CliError> {
    match command {
        KeyCommand::List => list(session),
        KeyCommand::Add(arguments) => add(session, arguments),
        KeyCommand::Remove(arguments) => remove(session, arguments),
    }
}

fn list(session: &Session) -> Result<Exit, CliError> {
    let slots = session.open()?.keys(&secrets::given(&session.key()?)?)?;
    print(|out| {
        if session.json {
            let slot = |slot: &KeySlot| json!({ "id": slot.id, "type": kind(slot), "opens": slot.opens });
            return json::list(out, "keys", slots.iter().map(slot));
        }
        let row = |slot: &KeySlot| {
            let opens = if slot.opens { "opened by what was given" } else { "" };
            vec![slot.id.clone(), kind(slot).to_owned(), opens.to_owned()]
        };
        let rows: Vec<_> = slots.iter().map(row).collect();
        report::table(out, &[Align::Left, Align::Left, Align::Left], &rows)
    })?;
    Ok(Exit::Done)
}

fn kind(slot: &KeySlot) -> &'static str {
    match slot.kind {
        Ok(SlotKind::Passphrase) => "passphrase",
        Ok(SlotKind::Recipient) => "recipient",
        Err(_) => "damaged",
    }
}

fn add(session: &Session, arguments: &KeyAddArguments) -> Result<Exit, CliError> {
    let repository = session.open_readable()?;
    if repository.recipient().is_none() {
        return Err(RepositoryError::NotEncrypted.into());
    }
    let file = arguments.new_password_file.as_deref();
    let locks = secrets::new_locks(&arguments.locks, file, arguments.new_password_command.as_deref())?;
    for lock in &locks {
        let id = repository.add_key(lock, session.now.timestamp())?;
        session.say("key_added", &json!({ "id": id }), &format!("Added key {id}"))?;
    }
    Ok(Exit::Done)
}

fn remove(session: &Session, arguments: &KeyRemoveArguments) -> Result<Exit, CliError> {
    let repository = session.open()?;
    let credentials = secrets::given_or_asked(&session.key()?)?;
    let id = repository.remove_key(&arguments.id, &credentials, session.now.timestamp())?;
    session.say("key_removed", &json!({ "id": id }), &format!("Removed key {id}"))?;
    Ok(Exit::Done)
}
