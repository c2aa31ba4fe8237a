//! The command line of `treering store`.

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Subcommand, ValueEnum, ValueHint};
use treering::store::{Algorithm, CacheMode, Name, Namespace, Permissions};
use treering::url::Url;

use crate::cli::local_path::local_path;

/// Keep objects by name in files, over SSH, in S3, by WebDAV, or wherever rclone reaches
#[derive(Debug, Args)]
#[command(after_help = "\
The URL of a store:
  file:///PATH                       a directory of local files, laid out as borgstore does
  sftp://[USER@]HOST[:PORT]/PATH     from the home directory; //PATH is absolute
  s3:[PROFILE@|KEY:SECRET@][http(s)://HOST[:PORT]]/BUCKET/PATH[?region=R&style=path]
  webdav://[USER:PASSWORD@]HOST[:PORT]/PATH, webdavs://…
  rclone:REMOTE:PATH                 whatever rclone is configured to reach

To try a slow backend, TREERING_STORE_LATENCY is the least time of a call in microseconds, and TREERING_STORE_BANDWIDTH the \
most bits in a second.

Examples:
  export TREERING_STORE=sftp://backup@example.org/objects
  treering store create
  treering store --levels data=2 store data/0123abcd picture.png
  treering store --levels data=2 load data/0123abcd --offset 100 --size 20
  treering store --levels data=2 list data")]
pub struct StoreArguments {
    /// Where the store is
    #[arg(long, value_name = "URL", env = "TREERING_STORE", hide_env_values = true)]
    pub url: Url,
    /// How deep the objects of a namespace lie, and at what other levels they may still be found; can be given again
    #[arg(long, value_name = "NAMESPACE=N[,OLD...]")]
    pub levels: Vec<Levels>,
    /// A second, nearer store that keeps copies
    #[arg(long, value_name = "URL")]
    pub cache: Option<Url>,
    /// What the cache does for a namespace: off, mirror or write-through; can be given again
    #[arg(long, value_name = "NAMESPACE=MODE", requires = "cache")]
    pub cached: Vec<Cached>,
    /// The most bytes that a store of local files may hold
    #[arg(long, value_name = "BYTES")]
    pub quota: Option<NonZeroU64>,
    /// What may be done in a namespace of local files, of the letters lrwWD: list, read, write new, replace, delete; can be
    /// given again
    #[arg(long, value_name = "NAMESPACE=LETTERS")]
    pub allow: Vec<Allowed>,
    /// Afterwards print what each kind of call has cost
    #[arg(long)]
    pub statistics: bool,
    #[command(subcommand)]
    pub command: StoreCommand,
}

#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Make a new store
    Create,
    /// Remove the store and everything in it
    Destroy(StoreDestroyArguments),
    List(StoreListArguments),
    Load(StoreLoadArguments),
    Store(StoreStoreArguments),
    /// Say how long an object is and when it was stored
    Info(StoreNameArguments),
    Delete(StoreDeleteArguments),
    /// Take a soft deletion back
    Undelete(StoreNameArguments),
    Move(StoreMoveArguments),
    Hash(StoreHashArguments),
    Stats(StoreStatsArguments),
}

#[derive(Debug, Args)]
pub struct StoreNameArguments {
    /// The object, NAMESPACE/KEY
    #[arg(value_name = "NAME")]
    pub name: Name,
}

/// Remove the store and everything in it
#[derive(Debug, Args)]
pub struct StoreDestroyArguments {
    /// Needed, since nothing brings it back
    #[arg(long, required = true)]
    pub force: bool,
    /// Confirm with the last component of the URL; required for a store without treering's marker file, such as one made by
    /// borgstore
    #[arg(long, value_name = "NAME")]
    pub confirm: Option<String>,
}

/// List the objects of namespaces: how long each is, when it was stored, and its name
#[derive(Debug, Args)]
pub struct StoreListArguments {
    /// The namespaces
    #[arg(value_name = "NAMESPACE", required = true)]
    pub namespaces: Vec<Namespace>,
    /// Those that are soft-deleted, too: their names end with .del
    #[arg(long)]
    pub deleted: bool,
}

/// Print an object, or a part of it
#[derive(Debug, Args)]
pub struct StoreLoadArguments {
    /// The object, NAMESPACE/KEY
    #[arg(value_name = "NAME")]
    pub name: Name,
    /// The first byte
    #[arg(long, value_name = "N", requires = "size")]
    pub offset: Option<u64>,
    /// How many bytes; it is an error when there are fewer
    #[arg(long, value_name = "N")]
    pub size: Option<u64>,
}

/// Store a file as an object, replacing what the name held
#[derive(Debug, Args)]
pub struct StoreStoreArguments {
    /// The object, NAMESPACE/KEY
    #[arg(value_name = "NAME")]
    pub name: Name,
    /// The file; `-` is standard input
    #[arg(value_name = "FILE", default_value = "-", value_hint = ValueHint::FilePath, value_parser = local_path())]
    pub file: PathBuf,
    /// Fail when there is an object of that name; on WebDAV, rclone, S3 servers without conditional writes and SFTP servers
    /// without hard links, two clients at one moment can both succeed
    #[arg(long)]
    pub new: bool,
}

/// Remove objects
#[derive(Debug, Args)]
pub struct StoreDeleteArguments {
    /// The objects, NAMESPACE/KEY
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<Name>,
    /// Only hide them, until `undelete` or another `delete` of NAMESPACE/KEY.del
    #[arg(long)]
    pub soft: bool,
}

/// Give an object another name, or bring it from an older level to the current one
#[derive(Debug, Args)]
pub struct StoreMoveArguments {
    /// The object, NAMESPACE/KEY
    #[arg(value_name = "NAME")]
    pub name: Name,
    /// Its new name; without it, it moves to the level that --levels says
    #[arg(value_name = "NEW")]
    pub new: Option<Name>,
}

/// Print the hash of objects
#[derive(Debug, Args)]
pub struct StoreHashArguments {
    /// The objects, NAMESPACE/KEY
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<Name>,
    #[arg(long, value_name = "NAME", default_value = "sha256")]
    pub algorithm: HashName,
}

/// Say how many objects namespaces hold, and how many bytes
#[derive(Debug, Args)]
pub struct StoreStatsArguments {
    /// The namespaces
    #[arg(value_name = "NAMESPACE", required = true)]
    pub namespaces: Vec<Namespace>,
}

/// How the content is hashed
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum HashName {
    Sha256,
    Blake3,
}

impl From<HashName> for Algorithm {
    fn from(name: HashName) -> Self {
        match name {
            HashName::Sha256 => Self::Sha256,
            HashName::Blake3 => Self::Blake3,
        }
    }
}

/// `NAMESPACE=` and something about it.
fn split<T>(text: &str, value: impl FnOnce(&str) -> Result<T, String>) -> Result<(Namespace, T), String> {
    let (namespace, text) = text.split_once('=').ok_or("expected NAMESPACE=…")?;
    Ok((namespace.parse().map_err(|error: <Namespace as FromStr>::Err| error.to_string())?, value(text)?))
}

/// The levels of a namespace: the one to store at, then older ones.
#[derive(Debug, Clone)]
pub struct Levels {
    pub namespace: Namespace,
    pub level: u8,
    pub older: Vec<u8>,
}

impl FromStr for Levels {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse::<u8>().map_err(|_| format!("{text:?} is no level"));
        let numbers = |text: &str| text.split(',').map(number).collect::<Result<Vec<_>, _>>();
        let (namespace, mut levels) = split(text, numbers)?;
        Ok(Self { namespace, level: levels.remove(0), older: levels })
    }
}

/// What the cache does for a namespace.
#[derive(Debug, Clone)]
pub struct Cached {
    pub namespace: Namespace,
    pub mode: CacheMode,
}

impl FromStr for Cached {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (namespace, mode) = split(text, |mode| match mode {
            "off" => Ok(CacheMode::Off),
            "mirror" => Ok(CacheMode::Mirror),
            "write-through" => Ok(CacheMode::WriteThrough),
            _ => Err(format!("{mode:?} is no mode: use off, mirror or write-through")),
        })?;
        Ok(Self { namespace, mode })
    }
}

/// What may be done in a namespace.
#[derive(Debug, Clone)]
pub struct Allowed {
    pub namespace: Namespace,
    pub permissions: Permissions,
}

impl FromStr for Allowed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let letters =
            |text: &str| text.parse().map_err(|error: <Permissions as FromStr>::Err| error.to_string());
        let (namespace, permissions) = split(text, letters)?;
        Ok(Self { namespace, permissions })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_a_namespace_begins_with_it() {
        let levels: Levels = "data=2,0,1".parse().unwrap();
        assert_eq!((levels.namespace.as_str(), levels.level, levels.older), ("data", 2, vec![0, 1]));
        assert_eq!("data=1".parse::<Levels>().unwrap().older, Vec::<u8>::new());
        for text in ["", "data", "=1", "data=", "data=x", "data=1,", "Data=1", "data=300", "data=-1"] {
            assert!(text.parse::<Levels>().is_err(), "{text}");
        }
        assert_eq!("data=write-through".parse::<Cached>().unwrap().mode, CacheMode::WriteThrough);
        assert!("data=on".parse::<Cached>().is_err());
        assert!("data=lrwWD".parse::<Allowed>().is_ok());
        assert!("data=x".parse::<Allowed>().is_err());
    }
}
