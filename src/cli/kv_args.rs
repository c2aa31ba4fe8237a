//! The command line of `treering kv`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

use crate::cli::local_path::local_path;

/// Use any git repository as a store of keys and values
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
