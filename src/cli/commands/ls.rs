//! `ls`: lists what a snapshot has.

use std::cell::RefCell;
use std::ffi::OsString;
use std::io::{self, Write};
use std::iter;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use clap::Args;
use serde::ser::{SerializeSeq, SerializeStruct};
use serde::{Serialize, Serializer};
use treering::diff::{Entry, Kind, Owners};
use treering::repository::{RepositoryError, SnapshotView};

use crate::cli::Session;
use crate::cli::error::{CliError, Exit};
use crate::cli::filter::{FilterArguments, SNAPSHOT_HELP};
use crate::cli::json::{self, EntryObject, SnapshotObject};
use crate::cli::report::{self, name, print};

/// List the contents of a snapshot
#[derive(Debug, Args)]
#[command(after_help = SNAPSHOT_HELP)]
pub struct LsArguments {
    /// The snapshot, and a path in it
    #[arg(value_name = "SNAP[:PATH]")]
    pub snapshot: OsString,
    /// Show mode, owner, size and time, as `ls -l` does
    #[arg(short, long)]
    pub long: bool,
    #[command(flatten)]
    pub filters: FilterArguments,
}

/// The entries that decide how wide the columns of a long listing are. What follows may be wider.
const SAMPLE: usize = 1000;

/// Lists the entries of a snapshot, by the absolute paths that they had.
pub fn run(session: &Session, arguments: &LsArguments) -> Result<Exit, CliError> {
    let (repository, snapshot, path) = session.find(&arguments.snapshot, &arguments.filters)?;
    let view = repository.view(&snapshot)?;
    let top = view.resolve(path.as_deref())?;
    let mut entries = view.walk(&top)?;
    // A damaged page is told of when all the others are listed.
    let mut fault = None;
    let mut sound = iter::from_fn(|| {
        loop {
            match entries.next()? {
                Ok(entry) => return Some(entry),
                Err(error) => {
                    let is_last = !matches!(error, RepositoryError::Damaged { .. });
                    fault.get_or_insert(error);
                    if is_last {
                        return None;
                    }
                }
            }
        }
    });
    print(|out| {
        if session.json {
            return json::message(
                out,
                "listing",
                &Listing { view: &view, entries: RefCell::new(&mut sound) },
            );
        }
        if !arguments.long {
            return sound.try_for_each(|entry| {
                writeln!(out, "{}", name(view.display_path(&entry.path).as_os_str().as_bytes()))
            });
        }
        let first: Vec<Entry> = sound.by_ref().take(SAMPLE).collect();
        let columns = Columns::new(session, &first, &snapshot.record.owners);
        let mut rows = first.into_iter().chain(sound);
        rows.try_for_each(|entry| columns.write(out, &view.display_path(&entry.path), &entry))
    })?;
    fault.map_or(Ok(Exit::Done), |fault| Err(fault.into()))
}

/// The document that `ls --json` prints.
struct Listing<'a, I> {
    view: &'a SnapshotView<'a>,
    /// Goes by as it is written, since a listing can be long.
    entries: RefCell<I>,
}

impl<I: Iterator<Item = Entry>> Serialize for Listing<'_, I> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut document = serializer.serialize_struct("Listing", 2)?;
        document.serialize_field("snapshot", &SnapshotObject::new(self.view.snapshot()))?;
        document.serialize_field("entries", &Entries(self))?;
        document.end()
    }
}

struct Entries<'a, I>(&'a Listing<'a, I>);

impl<I: Iterator<Item = Entry>> Serialize for Entries<'_, I> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Listing { view, entries } = self.0;
        let owners = &view.snapshot().record.owners;
        let mut list = serializer.serialize_seq(None)?;
        for entry in entries.borrow_mut().by_ref() {
            list.serialize_element(&EntryObject::new(&view.display_path(&entry.path), &entry, owners))?;
        }
        list.end()
    }
}

/// The columns of a long listing.
struct Columns<'a> {
    session: &'a Session,
    owners: &'a Owners,
    user: usize,
    group: usize,
    size: usize,
}

impl<'a> Columns<'a> {
    /// As wide as `entries` need them.
    fn new(session: &'a Session, entries: &[Entry], owners: &'a Owners) -> Self {
        let mut columns = Self { session, owners, user: 0, group: 0, size: 0 };
        for entry in entries {
            columns.user = columns.user.max(columns.user(entry).chars().count());
            columns.group = columns.group.max(columns.group(entry).chars().count());
            columns.size = columns.size.max(size(entry).len());
        }
        columns
    }

    fn user(&self, entry: &Entry) -> String {
        owner(self.owners.users.get(&entry.meta.uid), entry.meta.uid)
    }

    fn group(&self, entry: &Entry) -> String {
        owner(self.owners.groups.get(&entry.meta.gid), entry.meta.gid)
    }

    fn write(&self, out: &mut dyn Write, path: &Path, entry: &Entry) -> io::Result<()> {
        let time = report::timestamp(entry.meta.mtime)
            .map(|time| report::clock_time(time, self.session.now.time_zone()))
            .unwrap_or_else(|| "?".into());
        write!(
            out,
            "{}  {:<user$}  {:<group$}  {:>size$}  {time:<19}  {}",
            report::permissions(entry),
            self.user(entry),
            self.group(entry),
            size(entry),
            name(path.as_os_str().as_bytes()),
            user = self.user,
            group = self.group,
            size = self.size,
        )?;
        match &entry.kind {
            Kind::Symlink(target) => writeln!(out, " -> {}", name(target)),
            _ => writeln!(out),
        }
    }
}

fn owner(name: Option<&String>, id: u32) -> String {
    match name {
        Some(name) if !name.is_empty() => report::text(name),
        _ => id.to_string(),
    }
}

fn size(entry: &Entry) -> String {
    match &entry.kind {
        Kind::File(content) => content.size.to_string(),
        Kind::Symlink(target) => target.len().to_string(),
        _ => "-".into(),
    }
}
