//! `ls` and `cat`: what a snapshot holds.

use std::io::{self, BufWriter, ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::Serialize;
use treering::diff::{Entry, Kind, Owners};
use treering::repository::RepositoryError;

use crate::cli::Session;
use crate::cli::args::{CatArguments, LsArguments};
use crate::cli::error::{CliError, Exit};
use crate::cli::json::{self, EntryObject, SnapshotObject};
use crate::cli::report::{self, name, print};

/// Lists the entries of a snapshot, by the absolute paths that they had.
pub fn run(session: &Session, arguments: &LsArguments) -> Result<Exit, CliError> {
    let (repository, snapshot, path) = session.find(&arguments.snapshot, &arguments.filters)?;
    let entries = repository.entries(&snapshot, path.as_deref())?;
    let owners = &snapshot.record.owners;
    print(|out| {
        if session.json {
            let paths: Vec<_> =
                entries.iter().map(|entry| repository.display_path(&snapshot, &entry.path)).collect();
            let entries =
                paths.iter().zip(&entries).map(|(path, entry)| EntryObject::new(path, entry, owners));
            let listing = Listing { snapshot: SnapshotObject::new(&snapshot), entries: entries.collect() };
            return json::line(out, &listing);
        }
        let columns = arguments.long.then(|| Columns::new(session, &entries, owners));
        for entry in &entries {
            let path = repository.display_path(&snapshot, &entry.path);
            match &columns {
                Some(columns) => columns.write(out, &path, entry)?,
                None => writeln!(out, "{}", name(path.as_os_str().as_bytes()))?,
            }
        }
        Ok(())
    })?;
    Ok(Exit::Done)
}

/// The document that `ls --json` prints.
#[derive(Serialize)]
struct Listing<'a> {
    snapshot: SnapshotObject<'a>,
    entries: Vec<EntryObject<'a>>,
}

/// The columns of a long listing. Widths come first and rows are written one by one, since a listing can be
/// long.
struct Columns<'a> {
    session: &'a Session,
    owners: &'a Owners,
    user: usize,
    group: usize,
    size: usize,
}

impl<'a> Columns<'a> {
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

/// Writes the content of a file to standard output.
pub fn cat(session: &Session, arguments: &CatArguments) -> Result<Exit, CliError> {
    let (repository, snapshot, path) = session.find(&arguments.file, &arguments.filters)?;
    let path = path.ok_or(CliError::PathNotGiven)?;
    let mut out = BufWriter::with_capacity(1 << 20, io::stdout().lock());
    match repository.cat(&snapshot, &path, &mut out) {
        Ok(_) => out.flush().map_err(CliError::Output)?,
        Err(RepositoryError::Io { source, .. }) if source.kind() == ErrorKind::BrokenPipe => {
            return Err(CliError::Output(source));
        }
        Err(error) => return Err(error.into()),
    }
    Ok(Exit::Done)
}
