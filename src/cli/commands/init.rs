//! `init`: makes a repository.

use clap::Args;
use serde::Serialize;
use treering::archive::Codec;
use treering::gitkv::Access;
use treering::repository::{InitOptions, Repository, RepositoryId};

use crate::cli::error::{CliError, Exit};
use crate::cli::json::{self, Name};
use crate::cli::report::{self, print};
use crate::cli::secrets::LockArguments;
use crate::cli::{Session, secrets};

/// Create a repository
#[derive(Debug, Args)]
#[command(after_help = "\
An encrypted repository is opened by each passphrase, identity and recipient that is given here; where none is, a passphrase is \
asked for. To back up into it nothing of that is needed.

If the repository exists, `init` changes nothing and exits with status 1. That includes an `init` that was killed right after it \
finished: use that repository. An `init` killed earlier is started over.

Examples:
  treering init
  treering init --encrypt
  age-keygen -o ~/rings.key && treering init --encrypt --identity ~/rings.key")]
pub struct InitArguments {
    /// Encrypt all that it will hold
    #[arg(long)]
    pub encrypt: bool,
    #[command(flatten)]
    pub locks: LockArguments,
    /// How data is compressed: gzip[:1..12], zstd[:1..19] or none
    #[arg(long, value_name = "CODEC", default_value_t)]
    pub compression: Codec,
    /// Let nothing be removed from it; see `treering append-only`
    #[arg(long)]
    pub append_only: bool,
    /// Let the group read and write it too, as `git init --shared` does
    #[arg(long)]
    pub shared: bool,
}

/// Makes a repository.
pub fn run(session: &Session, arguments: &InitArguments) -> Result<Exit, CliError> {
    let path = session.repository_path()?;
    let is_encrypted = arguments.encrypt || !arguments.locks.recipient.is_empty();
    let locks = match is_encrypted {
        true => secrets::locks(&session.key()?, &arguments.locks)?,
        false => Vec::new(),
    };
    let options = InitOptions {
        compression: arguments.compression,
        append_only: arguments.append_only,
        access: if arguments.shared { Access::Group } else { Access::Owner },
        locks,
        ..InitOptions::new(session.now.timestamp())
    };
    let repository = Repository::init(path, &options)?;
    let path = path.as_os_str().as_encoded_bytes();
    print(|out| {
        if session.json {
            let id = repository.config().id;
            let name = Name { key: "repository", bytes: path };
            let recipient = repository.recipient().map(ToString::to_string);
            json::message(out, "initialized", &Initialized { id, repository: name, recipient })
        } else if session.quiet {
            Ok(())
        } else {
            let what = if is_encrypted { "encrypted repository" } else { "repository" };
            writeln!(out, "Made the {what} {}", report::name(path))?;
            match repository.recipient() {
                Some(recipient) => writeln!(out, "Its public key is {recipient}\n{LOSS}"),
                None => Ok(()),
            }
        }
    })?;
    Ok(Exit::Done)
}

/// What everybody who encrypts should know.
const LOSS: &str = "Whoever loses all of its passphrases and identities loses the backups: keep one elsewhere, \
    with `treering key add`";

/// The line that `init --json` prints.
#[derive(Serialize)]
struct Initialized<'a> {
    id: RepositoryId,
    #[serde(flatten)]
    repository: Name<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recipient: Option<String>,
}
