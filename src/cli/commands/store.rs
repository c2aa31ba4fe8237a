//! `store`: objects by name in many kinds of places.

use std::fs::File;
use std::io::{self, Write};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::SystemTime;

use clap::{Args, Subcommand, ValueEnum, ValueHint};
use jiff::Timestamp;
use serde_json::json;
use treering::store::{
    Algorithm, CacheFigures, CacheMode, CachePolicy, Error, Figures, Item, LocalOptions, Name, Namespace,
    NamespaceOptions, Operation, Options, Permissions, Store, StoreUrl,
};
use treering::url::Url;

use crate::cli::error::{CliError, Exit};
use crate::cli::local_path::local_path;
use crate::cli::report::{clock_time, count, local_time, plural, print, size};
use crate::cli::{Session, cold, json, read_input};

/// Store objects by name in files, over SFTP, S3, WebDAV or rclone
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

/// Does one of the `store` commands.
pub fn run(session: &Session, arguments: &StoreArguments) -> Result<Exit, CliError> {
    let options = options(arguments)?;
    let url = store_url(&arguments.url)?;
    let store = match &arguments.command {
        StoreCommand::Create => {
            let store = Store::create(&url, options)?;
            say(session, "created", arguments, "Made")?;
            store
        }
        StoreCommand::Destroy(destroy) => {
            Store::open(&url, options)?.destroy(destroy.confirm.as_deref())?;
            say(session, "destroyed", arguments, "Removed")?;
            return Ok(Exit::Done);
        }
        _ => Store::open(&url, options)?,
    };
    let done = act(session, &store, &arguments.command);
    if arguments.statistics {
        // Where it cannot be said, nothing else can be done.
        let _ = tell_calls(session, &store);
    }
    done
}

/// The URL of a store. The parser of arguments would repeat one that is none, with its secrets.
fn store_url(url: &Url) -> Result<StoreUrl, CliError> {
    StoreUrl::try_from(url).map_err(|reason| CliError::StoreUrl { url: url.clone(), reason })
}

fn options(arguments: &StoreArguments) -> Result<Options, CliError> {
    let cache = arguments.cache.as_ref().map(store_url).transpose()?;
    let mut options = Options { cache, ..cold::options()?.store };
    let mut namespaces = std::collections::BTreeMap::<_, NamespaceOptions>::new();
    for levels in &arguments.levels {
        let namespace = namespaces.entry(levels.namespace.clone()).or_default();
        (namespace.level, namespace.older_levels) = (levels.level, levels.older.clone());
    }
    for cached in &arguments.cached {
        let cache = CachePolicy { mode: cached.mode, ..CachePolicy::default() };
        namespaces.entry(cached.namespace.clone()).or_default().cache = cache;
    }
    let allowed = arguments.allow.iter().map(|allowed| (allowed.namespace.clone(), allowed.permissions));
    options.local = LocalOptions { quota: arguments.quota.map(Into::into), permissions: allowed.collect() };
    options.namespaces = namespaces;
    Ok(options)
}

fn say(
    session: &Session,
    kind: &'static str,
    arguments: &StoreArguments,
    done: &str,
) -> Result<(), CliError> {
    let url = arguments.url.to_string();
    session.say(kind, &json!({ "url": url }), &format!("{done} the store {url}"))
}

fn act(session: &Session, store: &Store, command: &StoreCommand) -> Result<Exit, CliError> {
    match command {
        // Done before there was a store to work on, and after there was one.
        StoreCommand::Create | StoreCommand::Destroy(_) => {}
        StoreCommand::List(arguments) => list(session, store, arguments)?,
        StoreCommand::Load(arguments) => load(store, arguments)?,
        StoreCommand::Store(arguments) => put(store, arguments)?,
        StoreCommand::Info(arguments) => {
            let item = store.info(&arguments.name)?;
            print(|out| tell(session, out, &item))?;
        }
        StoreCommand::Delete(arguments) => delete(store, arguments)?,
        StoreCommand::Undelete(arguments) => store.undelete(&arguments.name)?,
        StoreCommand::Move(StoreMoveArguments { name, new: Some(new) }) => store.rename(name, new)?,
        StoreCommand::Move(StoreMoveArguments { name, new: None }) => store.move_to_level(name)?,
        StoreCommand::Hash(arguments) => hash(session, store, arguments)?,
        StoreCommand::Stats(arguments) => stats(session, store, arguments)?,
    }
    Ok(Exit::Done)
}

fn list(session: &Session, store: &Store, arguments: &StoreListArguments) -> Result<(), CliError> {
    let mut failed = None;
    print(|out| {
        for namespace in &arguments.namespaces {
            let items = match arguments.deleted {
                true => store.list_with_deleted(namespace),
                false => store.list(namespace),
            };
            for item in items {
                match item {
                    Ok(item) => tell(session, out, &item)?,
                    Err(error) => {
                        failed = Some(error);
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    })?;
    failed.map_or(Ok(()), |error| Err(error.into()))
}

fn tell(session: &Session, out: &mut dyn Write, item: &Item) -> io::Result<()> {
    let time = item.modified.and_then(|time| Timestamp::try_from(time).ok());
    if session.json {
        let object = json!({
            "name": item.name.to_string(),
            "size": item.size,
            "mtime": time.map(|time| time.to_string()),
            "deleted": item.name.is_deleted(),
        });
        return json::message(out, "object", &object);
    }
    let time = time.map_or_else(|| "-".to_owned(), |time| clock_time(time, session.now.time_zone()));
    writeln!(out, "{:>12}  {time:<19}  {}", item.size, item.name)
}

fn load(store: &Store, arguments: &StoreLoadArguments) -> Result<(), CliError> {
    let StoreLoadArguments { name, offset, size } = arguments;
    if let Some(size) = size {
        let bytes = store.load_range(name, offset.unwrap_or(0), *size)?;
        return print(|out| out.write_all(&bytes));
    }
    let mut failed = None;
    print(|out| {
        // A failure to write looks like one to load; only the target knows.
        let mut target = Target { out, failed: None };
        let loaded = store.load_to(name, &mut target);
        match (target.failed, loaded) {
            (Some(error), _) => Err(error),
            (None, loaded) => {
                failed = loaded.err();
                Ok(())
            }
        }
    })?;
    failed.map_or(Ok(()), |error: Error| Err(error.into()))
}

/// Keeps the error of what it writes to.
struct Target<'a> {
    out: &'a mut dyn Write,
    failed: Option<io::Error>,
}

impl Write for Target<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes).map_err(|error| {
            let kind = error.kind();
            self.failed = Some(error);
            kind.into()
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn put(store: &Store, arguments: &StoreStoreArguments) -> Result<(), CliError> {
    let StoreStoreArguments { name, file, new } = arguments;
    let path = file;
    if path != Path::new("-") && !new {
        let file = File::open(path).map_err(CliError::file("read", path))?;
        // A pipe has no length to tell.
        if file.metadata().is_ok_and(|metadata| metadata.is_file()) {
            return Ok(store.store_file(name, &file)?);
        }
    }
    let bytes = read_input(path)?;
    if *new {
        store.store_new(name, &bytes)?
    } else {
        store.store(name, &bytes)?
    }
    Ok(())
}

fn delete(store: &Store, arguments: &StoreDeleteArguments) -> Result<(), CliError> {
    for name in &arguments.names {
        if arguments.soft { store.soft_delete(name)? } else { store.delete(name)? }
    }
    Ok(())
}

fn hash(session: &Session, store: &Store, arguments: &StoreHashArguments) -> Result<(), CliError> {
    for name in &arguments.names {
        let hash = store.hash(name, arguments.algorithm.into())?;
        print(|out| match session.json {
            true => json::message(out, "hash", &json!({ "name": name.to_string(), "hash": hash })),
            // As sha256sum prints it.
            false => writeln!(out, "{hash}  {name}"),
        })?;
    }
    Ok(())
}

#[derive(Default)]
struct Sum {
    objects: u64,
    bytes: u64,
}

impl Sum {
    fn add(&mut self, item: &Item) {
        self.objects += 1;
        self.bytes += item.size;
    }
}

fn stats(session: &Session, store: &Store, arguments: &StoreStatsArguments) -> Result<(), CliError> {
    for namespace in &arguments.namespaces {
        let (mut live, mut deleted) = (Sum::default(), Sum::default());
        let mut newest: Option<SystemTime> = None;
        for item in store.list_with_deleted(namespace) {
            let item = item?;
            if item.name.is_deleted() { &mut deleted } else { &mut live }.add(&item);
            newest = newest.max(item.modified);
        }
        let newest = newest.and_then(|time| Timestamp::try_from(time).ok());
        let values = json!({
            "namespace": namespace.to_string(),
            "objects_count": live.objects,
            "bytes": live.bytes,
            "objects_deleted": deleted.objects,
            "bytes_deleted": deleted.bytes,
            "newest": newest.map(|time| time.to_string()),
        });
        let mut text = format!("{namespace}: {}, {}", plural(live.objects, "object"), size(live.bytes));
        if deleted.objects > 0 {
            text += &format!("; {} soft-deleted, {}", count(deleted.objects), size(deleted.bytes));
        }
        if let Some(time) = newest {
            text += &format!("; newest {}", local_time(time, session.now.time_zone()));
        }
        print(|out| match session.json {
            true => json::message(out, "namespace", &values),
            false => writeln!(out, "{text}"),
        })?;
    }
    Ok(())
}

/// Prints what the calls have cost: on standard error, since the output may be an object.
fn tell_calls(session: &Session, store: &Store) -> io::Result<()> {
    let mut err = io::stderr().lock();
    let operations = Operation::ALL.map(|operation| (operation.to_string(), store.figures(operation)));
    for (name, figures) in operations.iter().filter(|(_, figures)| figures.calls > 0) {
        let Figures { calls, failures, retries, time, bytes } = figures;
        match session.json {
            true => json::message(
                &mut err,
                "calls",
                &json!({
                    "operation": name, "calls": calls, "error_count": failures, "retries": retries,
                    "total_duration": time.as_secs_f64(), "bytes": bytes,
                }),
            ),
            false => writeln!(
                err,
                "{name:<8} {calls:>6} calls  {failures:>4} failed  {retries:>4} retried  {:>9.3} s  {bytes:>12} bytes",
                time.as_secs_f64()
            ),
        }?;
    }
    let CacheFigures { hits, misses, bytes, errors } = store.cache_figures();
    match (hits + misses + errors > 0, session.json) {
        (false, _) => Ok(()),
        (true, true) => json::message(
            &mut err,
            "cache",
            &json!({ "hits": hits, "misses": misses, "error_count": errors, "bytes": bytes }),
        ),
        (true, false) => writeln!(
            err,
            "cache    {hits:>6} hits   {misses:>4} missed  {errors:>4} errors  {bytes:>23} bytes"
        ),
    }
}
