//! `store`: objects by name in many kinds of places.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::SystemTime;

use jiff::Timestamp;
use serde_json::json;
use treering::store::{
    CacheFigures, CachePolicy, Error, Figures, Item, LocalOptions, NamespaceOptions, Operation, Options,
    Store, StoreUrl,
};
use treering::url::Url;

use crate::cli::error::{CliError, Exit};
use crate::cli::report::{clock_time, count, local_time, plural, print, size};
use crate::cli::store_args::{
    StoreArguments, StoreCommand, StoreDeleteArguments, StoreHashArguments, StoreListArguments,
    StoreLoadArguments, StoreMoveArguments, StoreStatsArguments, StoreStoreArguments,
};
use crate::cli::{Session, cold, json, read_input};

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
            "time": time.map(|time| time.to_string()),
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
            "objects": live.objects,
            "bytes": live.bytes,
            "deleted_objects": deleted.objects,
            "deleted_bytes": deleted.bytes,
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
                    "operation": name, "calls": calls, "failures": failures, "retries": retries,
                    "seconds": time.as_secs_f64(), "bytes": bytes,
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
            &json!({ "hits": hits, "misses": misses, "errors": errors, "bytes": bytes }),
        ),
        (true, false) => writeln!(
            err,
            "cache    {hits:>6} hits   {misses:>4} missed  {errors:>4} errors  {bytes:>23} bytes"
        ),
    }
}
