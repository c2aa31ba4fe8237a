//! The command line of what keeps a repository elsewhere: `clone`, `remote`, `push`, `pull`, `layers`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum, ValueHint};
use treering::url::Url;

use crate::cli::local_path::repository_path;

/// Make a copy of a repository that stays in touch with it
#[derive(Debug, Args)]
#[command(after_help = "\
The clone is a repository like any other; the one it came from is its remote `origin`.

Examples:
  treering clone backup@example.org:rings.git /srv/rings
  treering clone --cold s3:/bucket/rings /srv/rings")]
pub struct CloneArguments {
    /// Bring only what describes the snapshots, and read content from the cold remote where it is needed
    #[arg(long)]
    pub cold: bool,
    /// Where the repository is: a path, any URL that git takes, or that of a cold remote
    #[arg(value_name = "URL")]
    pub url: Url,
    /// The directory to make
    #[arg(value_name = "REPO", value_hint = ValueHint::DirPath, value_parser = repository_path())]
    pub path: PathBuf,
}

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

/// Send snapshots to a remote
#[derive(Debug, Args)]
#[command(after_help = "\
Snapshots that others pushed are merged first; those that others removed stay in this repository, unless you say --removals. A push that was interrupted is made again with the same command.")]
pub struct PushArguments {
    /// Remove from this repository the snapshots that others removed from the remote
    #[arg(long)]
    pub removals: bool,
    /// The remote; where none is given, those of the profile, or else `origin` or the only one
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
}

/// Get snapshots from a remote
#[derive(Debug, Args)]
#[command(after_help = "\
Snapshots that others removed from the remote stay in this repository, and are not sent there again, unless you say \
--removals. `treering remote removals NAME take` makes that the rule for a remote.")]
pub struct PullArguments {
    /// Remove from this repository the snapshots that others removed from the remote
    #[arg(long)]
    pub removals: bool,
    /// The remote; where none is given, `origin` or the only one
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
}

/// Say which layers are here and which in cold remotes, and move them
#[derive(Debug, Subcommand)]
#[command(after_help = "\
A layer is a git pack. Those of data may be in cold remotes only; what is read of them is kept for a while in the \
repository's treering/blocks, at most TREERING_COLD_CACHE bytes (1G).

Examples:
  treering layers list
  treering layers evict           # free the disk of what a cold remote has
  treering layers fetch 1a2b3c    # bring one back
  treering layers merge           # after thousands of backups: tens of layers")]
pub enum LayersCommand {
    /// List the layers: name, kind, size, objects, and where each one is
    List,
    Fetch(LayersFetchArguments),
    Evict(LayersEvictArguments),
    /// Put many small layers together, until each is twice as large as all smaller ones
    Merge,
}

/// Bring layers here that are in cold remotes only
#[derive(Debug, Args)]
pub struct LayersFetchArguments {
    /// The layers, by name or the beginning of its digits; all where none is given
    #[arg(value_name = "LAYER")]
    pub layers: Vec<String>,
}

/// Remove the packs of layers of data that a cold remote has
#[derive(Debug, Args)]
#[command(after_help = "\
Each layer is read back from the remote and compared first, which takes as long as a download. What is not there or not the \
same stays, and the exit status is 1.")]
pub struct LayersEvictArguments {
    /// The layers, by name or the beginning of its digits; all of data where none is given
    #[arg(value_name = "LAYER")]
    pub layers: Vec<String>,
    /// The cold remote that must have them; else any will do
    #[arg(long, value_name = "NAME")]
    pub remote: Option<String>,
}
