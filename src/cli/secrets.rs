//! Passphrases and identities: from files, commands, the environment, and people at a terminal.
//!
//! Everything that is given is tried; nothing is asked for unless somebody sits there.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::{Args, ValueHint};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use treering::child;
use treering::crypt::{Credential, DEFAULT_WORK_FACTOR, Identity, Lock, Passphrase, Recipient};

use crate::cli::error::CliError;
use crate::cli::local_path::local_path;

/// What opens an encrypted repository. All that is given is tried.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct KeyArguments {
    /// The passphrase of an encrypted repository is the first line of this file
    #[arg(long, global = true, value_name = "FILE", env = "TREERING_PASSWORD_FILE", hide_env_values = true, value_hint = ValueHint::FilePath, value_parser = local_path())]
    pub password_file: Option<PathBuf>,
    /// The passphrase is what this command prints, run by sh
    #[arg(
        long,
        global = true,
        value_name = "COMMAND",
        env = "TREERING_PASSWORD_COMMAND",
        hide_env_values = true
    )]
    pub password_command: Option<String>,
    /// Open it with the age identities in this file; can be given again
    #[arg(long, global = true, value_name = "FILE", env = "TREERING_IDENTITY", hide_env_values = true, value_hint = ValueHint::FilePath, value_parser = local_path())]
    pub identity: Vec<PathBuf>,
}

/// Who shall be able to open an encrypted repository.
#[derive(Debug, Args)]
pub struct LockArguments {
    /// Let the owner of this age public key open it, age1…; can be given again
    #[arg(long, value_name = "RECIPIENT")]
    pub recipient: Vec<Recipient>,
}

/// The variable that holds a passphrase itself.
const PASSWORD: &str = "TREERING_PASSWORD";

/// Bytes that a file of passphrases or identities may have.
const MAX_FILE: u64 = 64 * 1024;

/// Everything that flags and the environment give.
pub fn given(arguments: &KeyArguments) -> Result<Vec<Credential>, CliError> {
    let mut credentials = Vec::new();
    for path in arguments.identity.iter().filter(|path| !path.as_os_str().is_empty()) {
        let text = read(path)?;
        let identities = Identity::parse_file(&text);
        let identities =
            identities.map_err(|source| CliError::Secret { what: path.display().to_string(), source })?;
        credentials.extend(identities.into_iter().map(Credential::Identity));
    }
    let passphrases = [
        arguments.password_file.as_deref().map(from_file),
        arguments.password_command.as_deref().filter(|command| !command.is_empty()).map(from_command),
        std::env::var(PASSWORD).ok().filter(|text| !text.is_empty()).map(|text| passphrase(PASSWORD, text)),
    ];
    for passphrase in passphrases.into_iter().flatten() {
        credentials.push(Credential::Passphrase(passphrase?));
    }
    Ok(credentials)
}

/// As [`given`]; where nothing is, what somebody at the terminal types.
pub fn given_or_asked(arguments: &KeyArguments) -> Result<Vec<Credential>, CliError> {
    let mut credentials = given(arguments)?;
    if credentials.is_empty() && is_attended() {
        credentials.push(Credential::Passphrase(ask("Passphrase of the repository: ")?));
    }
    Ok(credentials)
}

/// What a new repository is locked with: all that is given; else a passphrase that somebody types.
pub fn locks(arguments: &KeyArguments, new: &LockArguments) -> Result<Vec<Lock>, CliError> {
    let given = given(arguments)?.into_iter().map(|credential| match credential {
        Credential::Identity(identity) => Lock::Recipient(identity.recipient()),
        Credential::Passphrase(passphrase) => by_passphrase(passphrase),
    });
    let mut locks: Vec<_> = given.chain(recipients(new)).collect();
    if locks.is_empty() {
        locks.push(by_passphrase(ask_new()?));
    }
    Ok(locks)
}

/// What new keys of a repository are locked with.
pub fn new_locks(
    new: &LockArguments,
    file: Option<&Path>,
    command: Option<&str>,
) -> Result<Vec<Lock>, CliError> {
    let passphrases = [file.map(from_file), command.map(from_command)];
    let passphrases: Vec<_> = passphrases.into_iter().flatten().collect::<Result<_, _>>()?;
    let mut locks: Vec<_> = passphrases.into_iter().map(by_passphrase).chain(recipients(new)).collect();
    if locks.is_empty() {
        locks.push(by_passphrase(ask_new()?));
    }
    Ok(locks)
}

fn recipients(new: &LockArguments) -> impl Iterator<Item = Lock> {
    new.recipient.iter().cloned().map(Lock::Recipient)
}

fn by_passphrase(passphrase: Passphrase) -> Lock {
    Lock::Passphrase { passphrase, work_factor: DEFAULT_WORK_FACTOR }
}

fn from_file(path: &Path) -> Result<Passphrase, CliError> {
    passphrase(&path.display().to_string(), first_line(&read(path)?))
}

fn from_command(command: &str) -> Result<Passphrase, CliError> {
    let failed = |source| CliError::PasswordCommand { command: command.to_owned(), source };
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).stdin(Stdio::null()).stderr(Stdio::inherit());
    let (status, printed) = child::output(&mut shell, MAX_FILE).map_err(failed)??;
    if !status.success() {
        return Err(failed(io::Error::other(status.to_string())));
    }
    let text = String::from_utf8(printed).map_err(|error| failed(io::Error::other(error.utf8_error())))?;
    passphrase(&format!("what `{command}` prints"), first_line(&text))
}

fn passphrase(what: &str, text: String) -> Result<Passphrase, CliError> {
    Passphrase::new(text).map_err(|source| CliError::Secret { what: what.to_owned(), source })
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

fn read(path: &Path) -> Result<String, CliError> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE).read_to_string(&mut text));
    read.map_err(CliError::file("read", path))?;
    Ok(text)
}

/// Whether somebody can answer.
pub fn is_attended() -> bool {
    io::stdin().is_terminal()
}

fn ask_new() -> Result<Passphrase, CliError> {
    if !is_attended() {
        return Err(CliError::NoNewKey);
    }
    let first = ask("New passphrase: ")?;
    match ask("The same again: ")?.is(&first) {
        true => Ok(first),
        false => Err(CliError::PassphrasesDiffer),
    }
}

/// Asks at the terminal, and does not show what is typed.
fn ask(question: &str) -> Result<Passphrase, CliError> {
    let path = Path::new("/dev/tty");
    let ask = || -> io::Result<String> {
        let terminal = File::options().read(true).write(true).open(path)?;
        let _hidden = Hidden::new(&terminal)?;
        (&terminal).write_all(question.as_bytes())?;
        let mut line = String::new();
        BufReader::new((&terminal).take(MAX_FILE)).read_line(&mut line)?;
        (&terminal).write_all(b"\n")?;
        Ok(first_line(&line))
    };
    passphrase("what was typed", ask().map_err(CliError::file("ask at", path))?)
}

/// While it lives, a terminal does not show what is typed.
struct Hidden<'a> {
    terminal: &'a File,
    before: rustix::termios::Termios,
}

impl<'a> Hidden<'a> {
    fn new(terminal: &'a File) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        tcsetattr(terminal, OptionalActions::Flush, &hidden)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Hidden<'_> {
    fn drop(&mut self) {
        // The terminal may be gone.
        let _ = tcsetattr(self.terminal, OptionalActions::Flush, &self.before);
    }
}
