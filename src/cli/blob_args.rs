//! The command line of `treering blob`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};
use treering::timeline::Compression;

use crate::cli::local_path::local_path;

/// Keep files by their time in a git repository, and find them by it
#[derive(Debug, Subcommand)]
#[command(after_help = "\
The repository is one that `treering blob init` made, one of gitblobts, or a clone of either, bare or with a working tree. In one \
with a working tree, what is added is committed on the branch that is checked out, with index and files; `treering blob push` pushes it. What is compressed or encrypted is so before git sees it.

Examples:
  export TREERING_REPOSITORY=/srv/readings.git
  treering blob init
  sensors | treering blob add --compression xz
  treering blob add old.csv --time 'yesterday 14:00'
  treering blob list --from 'last tuesday'
  treering blob get --from '2 days ago' --output readings")]
pub enum BlobCommand {
    /// Make a new repository for blobs
    Init,
    /// Make a new key to encrypt blobs with
    Key(BlobKeyArguments),
    Add(BlobAddArguments),
    List(BlobListArguments),
    Get(BlobGetArguments),
    /// Bring the blobs to a remote
    Push(BlobRemoteArguments),
    /// Get the blobs of a remote
    Pull(BlobRemoteArguments),
}

#[derive(Debug, Args)]
pub struct BlobKeyArguments {
    /// The file to write it to; who loses it loses the blobs
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath, value_parser = local_path())]
    pub file: PathBuf,
}

/// How blobs are stored.
#[derive(Debug, Args)]
pub struct CodecArguments {
    /// How blobs are compressed: none, gzip, bz2 or xz; needed to read only what gitblobts wrote
    #[arg(long, value_name = "NAME", default_value_t)]
    pub compression: Compression,
    /// The file with the key of encrypted blobs
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, value_parser = local_path())]
    pub key_file: Option<PathBuf>,
}

/// Add files, each as a blob, and print their keys
#[derive(Debug, Args)]
#[command(after_help = "\
All are added at once or none is, and blobs of one time keep their order.

Examples:
  sensors | treering blob add
  treering blob add *.csv --time 2026-11-01 --compression gzip")]
pub struct BlobAddArguments {
    /// The files; `-`, or none at all, is standard input
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath, value_parser = local_path())]
    pub files: Vec<PathBuf>,
    /// The time that the blobs bear instead of now, such as '2 days ago' or '2026-11-01 14:00'
    #[arg(long)]
    pub time: Option<String>,
    #[command(flatten)]
    pub codec: CodecArguments,
}

/// A range of time; both ends belong to it.
#[derive(Debug, Args)]
pub struct RangeArguments {
    /// Where to begin, instead of with the earliest; when it is later than the end, the latest come first
    #[arg(long, value_name = "TIME")]
    pub from: Option<String>,
    /// Where to end, instead of with the latest
    #[arg(long, value_name = "TIME")]
    pub to: Option<String>,
}

/// List the blobs of a range of time: when, and the key
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  treering blob list --from 'midnight yesterday' --to midnight
  treering blob list --from now --to '1 hour ago'")]
pub struct BlobListArguments {
    #[command(flatten)]
    pub range: RangeArguments,
}

/// Get a blob to standard output, or those of a range of time to a directory
#[derive(Debug, Args)]
#[command(after_help = "\
In the directory each blob is a file called as its key.

Examples:
  treering blob get 20261120T195512.123456789Z-5f0c11ab92de7340
  treering blob get --from 2026-11-01 --to 2026-11-02 --output november")]
pub struct BlobGetArguments {
    /// The key of the blob
    #[arg(value_name = "KEY", conflicts_with_all = ["from", "to", "output"])]
    pub key: Option<String>,
    #[command(flatten)]
    pub range: RangeArguments,
    /// The directory for the blobs of a range
    #[arg(short, long, value_name = "DIR", value_hint = ValueHint::DirPath, value_parser = local_path())]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub codec: CodecArguments,
}

/// Another repository with the same blobs
#[derive(Debug, Args)]
#[command(after_help = "\
A remote is added by `treering -r REPO remote add NAME URL`, with any URL that git accepts. What was added on either side is on \
both afterwards.")]
pub struct BlobRemoteArguments {
    /// The remote
    #[arg(value_name = "REMOTE", default_value = "origin")]
    pub remote: String,
}
