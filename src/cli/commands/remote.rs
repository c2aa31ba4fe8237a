//! `remote`: lists and changes remotes.

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;
use treering::remote::{Remote, RemoteKind, Remotes};
use treering::repository::FORMAT_VERSION;
use treering::url::Url;

use crate::cli::error::{CliError, Exit};
use crate::cli::json::{self};
use crate::cli::report::{self, Align, print, text};
use crate::cli::{self, Session, cold};

/// Manage remotes
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  git init --bare /mnt/disk/rings.git
  treering remote add origin /mnt/disk/rings.git
  treering push

  treering remote add cold s3:/bucket/rings
  treering push cold")]
pub enum RemoteCommand {
    Add(RemoteAddArguments),
    /// List the remotes
    List,
    Remove(RemoteRemoveArguments),
    Removals(RemoteRemovalsArguments),
    Trust(RemoteTrustArguments),
}

/// Add a remote
#[derive(Debug, Args)]
#[command(after_help = "\
A git remote is a bare git repository. A cold remote is a place for files, made by the first push; a repository can have both. \
The URLs of cold remotes:
  file:///PATH                       a directory that holds no git repository
  sftp://[USER@]HOST[:PORT]/PATH     from the home directory; //PATH is absolute
  s3:[PROFILE@|KEY:SECRET@][http(s)://HOST[:PORT]]/BUCKET/PATH[?region=R&style=path]
  webdav://[USER:PASSWORD@]HOST[:PORT]/PATH, webdavs://…
  rclone:REMOTE:PATH                 whatever rclone is configured to reach")]
pub struct RemoteAddArguments {
    /// What it is called here
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Where it is: a path, any URL that git takes, or that of a cold remote
    #[arg(value_name = "URL")]
    pub url: Url,
}

/// Forget a remote; what lies there stays
#[derive(Debug, Args)]
pub struct RemoteRemoveArguments {
    /// What it is called here
    #[arg(value_name = "NAME")]
    pub name: String,
}

/// Choose whether snapshots that others removed from a remote are removed here
#[derive(Debug, Args)]
#[command(after_help = "\
Whoever can write to a remote can remove snapshots from it. By default this repository keeps them, and `pull` and `push` say how \
many there are. `take` is for remotes where you run `forget` in another clone, or in the remote itself.

Examples:
  treering remote removals hub take
  treering remote removals hub         # print the setting")]
pub struct RemoteRemovalsArguments {
    /// The remote
    #[arg(value_name = "NAME")]
    pub name: String,
    /// `keep` keeps these snapshots here, `take` removes them with the next pull or push
    #[arg(value_name = "keep|take")]
    pub rule: Option<RemovalRule>,
}

/// Whether snapshots that others removed from a remote are removed here
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RemovalRule {
    Keep,
    Take,
}

/// Trust the programs that a copied repository may start
#[derive(Debug, Args)]
#[command(after_help = "\
rclone addresses, git remote helpers, git settings and hooks can start programs. treering ignores those of a repository copied from \
elsewhere until you run `remote add`, `clone` or this command on this host. Trust covers this path and the current settings; a change \
needs trust again. Look at REPO/config, REPO/hooks and REPO/treering/remotes/*/url first.")]
pub struct RemoteTrustArguments {
    /// Trust only the address of this remote [default: all addresses, the git settings and the hooks]
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
}

/// Changes or lists the remotes.
pub fn run(session: &Session, command: &RemoteCommand) -> Result<Exit, CliError> {
    // One of blobs has remotes too.
    let remotes = Remotes::open_with(session.repository_path()?, FORMAT_VERSION, &cold::options()?)?;
    if remotes.is_shared() && !matches!(command, RemoteCommand::List) {
        cli::write_for_group();
    }
    match command {
        RemoteCommand::Add(arguments) => remotes.add(&arguments.name, &arguments.url)?,
        RemoteCommand::Remove(arguments) => remotes.remove(&arguments.name)?,
        RemoteCommand::Removals(arguments) => match arguments.rule {
            Some(rule) => remotes.set_removals(&arguments.name, rule == RemovalRule::Take)?,
            None => {
                let rule = if remotes.takes_removals(&arguments.name)? { "take" } else { "keep" };
                session.say("removals", &json!({ "remote": arguments.name, "removals": rule }), rule)?;
            }
        },
        RemoteCommand::Trust(arguments) => {
            let trusted = remotes.trust(arguments.name.as_deref())?;
            let text = match trusted.is_empty() {
                true => "There is nothing that needs trust".to_owned(),
                false => format!("Trusted {}", trusted.join(", ")),
            };
            session.say("trusted", &json!({ "trusted": trusted }), &text)?;
        }
        RemoteCommand::List => {
            let (remotes, unread) = remotes.list_readable()?;
            list(session, &remotes)?;
            unread.iter().for_each(|error| report::complain_of_loss(&treering::causes::chain(error)));
        }
    }
    Ok(Exit::Done)
}

fn list(session: &Session, remotes: &[Remote]) -> Result<(), CliError> {
    print(|out| {
        if session.json {
            let object = |remote: &Remote| json!({ "name": remote.name, "url": remote.url.to_string(), "type": kind(remote) });
            return json::list(out, "remotes", remotes.iter().map(object));
        }
        let row =
            |remote: &Remote| vec![text(&remote.name), text(kind(remote)), text(&remote.url.to_string())];
        report::table(out, &[Align::Left; 3], &remotes.iter().map(row).collect::<Vec<_>>())
    })
}

fn kind(remote: &Remote) -> &'static str {
    match remote.kind {
        RemoteKind::Git => "git",
        RemoteKind::Cold => "cold",
    }
}
