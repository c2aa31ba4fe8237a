//! Output for programs: what each command prints with `--json`. `docs/json.md` describes it.

use std::collections::BTreeMap;
use std::error::Error;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};
use treering::causes::chain;
use treering::diff::{Change, ChangeRef, Entry, Kind, Owners};
use treering::progress::Progress;
use treering::relpath::RelPath;
use treering::repository::{Snapshot, Statistics, Totals};

use crate::cli::report;

/// Writes `value` and ends the line.
fn line(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    writeln!(out)
}

/// An object that says what it is.
#[derive(Serialize)]
struct Message<'a, T> {
    message_type: &'static str,
    #[serde(flatten)]
    value: &'a T,
}

/// Writes `value`, an object, as a line that says what it is.
pub fn message(out: &mut dyn Write, message_type: &'static str, value: &impl Serialize) -> io::Result<()> {
    line(out, &Message { message_type, value })
}

/// Writes a list as a document. `plural` is what its items are called.
pub fn list<T: Serialize>(
    out: &mut dyn Write,
    plural: &'static str,
    items: impl IntoIterator<Item = T>,
) -> io::Result<()> {
    let items: Vec<T> = items.into_iter().collect();
    message(out, plural, &BTreeMap::from([(plural, items)]))
}

/// A name under a key; to be flattened into the object that it belongs to.
#[derive(Debug)]
pub struct Name<'a> {
    pub key: &'static str,
    pub bytes: &'a [u8],
}

impl<'a> Name<'a> {
    pub fn of_path(key: &'static str, path: &'a Path) -> Self {
        Self { key, bytes: path.as_os_str().as_bytes() }
    }
}

impl Serialize for Name<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry(self.key, &String::from_utf8_lossy(self.bytes))?;
        if std::str::from_utf8(self.bytes).is_err() {
            map.serialize_entry(&format!("{}_base64", self.key), &STANDARD.encode(self.bytes))?;
        }
        map.end()
    }
}

/// Names under a key, as [`Name`] is one.
#[derive(Debug)]
pub struct Names<'a> {
    pub key: &'static str,
    pub names: Vec<&'a [u8]>,
}

impl<'a> Names<'a> {
    pub fn new<N: AsRef<OsStr> + ?Sized + 'a>(
        key: &'static str,
        names: impl IntoIterator<Item = &'a N>,
    ) -> Self {
        Self { key, names: names.into_iter().map(|name| name.as_ref().as_bytes()).collect() }
    }

    /// Of the sources of a snapshot.
    pub fn of_paths(paths: &'a [impl AsRef<[u8]>]) -> Self {
        Self { key: "paths", names: paths.iter().map(AsRef::as_ref).collect() }
    }
}

impl Serialize for Names<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        let texts: Vec<_> = self.names.iter().map(|name| String::from_utf8_lossy(name)).collect();
        map.serialize_entry(self.key, &texts)?;
        if self.names.iter().any(|name| std::str::from_utf8(name).is_err()) {
            let base64: Vec<_> = self.names.iter().map(|name| STANDARD.encode(name)).collect();
            map.serialize_entry(&format!("{}_base64", self.key), &base64)?;
        }
        map.end()
    }
}

/// Adds `names`, a [`Name`] or [`Names`], to `object`.
pub fn add_names(object: &mut Value, names: &impl Serialize) {
    if let (Value::Object(object), Ok(Value::Object(names))) = (object, serde_json::to_value(names)) {
        object.extend(names);
    }
}

/// A snapshot in a listing.
#[derive(Debug, Serialize)]
pub struct SnapshotObject<'a> {
    id: String,
    short_id: String,
    time: String,
    key: String,
    parent: Option<&'a str>,
    hostname: &'a str,
    username: &'a str,
    tags: &'a [String],
    #[serde(flatten)]
    paths: Names<'a>,
    program_version: &'a str,
    partial: bool,
    summary: Value,
}

impl<'a> SnapshotObject<'a> {
    pub fn new(snapshot: &'a Snapshot) -> Self {
        let record = &snapshot.record;
        Self {
            id: snapshot.id.to_string(),
            short_id: snapshot.name(),
            time: snapshot.time().to_string(),
            key: snapshot.key.to_string(),
            parent: record.parent.as_deref(),
            hostname: &record.host,
            username: &record.user,
            tags: &record.tags,
            paths: Names::of_paths(&record.roots),
            program_version: &record.program,
            partial: record.is_partial(),
            summary: statistics(&record.statistics),
        }
    }
}

/// What a snapshot holds, and what it cost. The record in the repository has other keys.
fn statistics(statistics: &Statistics) -> Value {
    json!({
        "files_new": statistics.files_new,
        "files_changed": statistics.files_changed,
        "files_unmodified": statistics.files_unmodified,
        "files_read": statistics.files_read,
        "bytes_read": statistics.bytes_read,
        "data_added_packed": statistics.bytes_stored,
        "bytes_volumes": statistics.bytes_volumes,
        "segments_whole": statistics.segments_whole,
        "segments_delta": statistics.segments_delta,
        "pages_new": statistics.pages_new,
        "total_files_processed": statistics.files,
        "total_bytes_processed": statistics.bytes,
        "directories_count": statistics.directories,
        "others_count": statistics.others,
        "error_count": statistics.errors,
    })
}

/// An entry of a snapshot in a listing.
#[derive(Debug, Serialize)]
pub struct EntryObject<'a> {
    #[serde(flatten)]
    path: Name<'a>,
    r#type: &'static str,
    mode: u32,
    permissions: String,
    uid: u32,
    gid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    mtime: Option<String>,
    #[serde(flatten)]
    target: Option<Name<'a>>,
}

impl<'a> EntryObject<'a> {
    /// Of `entry`, which is called `path`.
    pub fn new(path: &'a Path, entry: &'a Entry, owners: &'a Owners) -> Self {
        let owner = |name: Option<&'a String>| name.map(String::as_str).filter(|name| !name.is_empty());
        Self {
            path: Name { key: "path", bytes: path.as_os_str().as_bytes() },
            r#type: type_of(&entry.kind),
            mode: entry.meta.mode,
            permissions: report::permissions(entry),
            uid: entry.meta.uid,
            gid: entry.meta.gid,
            user: owner(owners.users.get(&entry.meta.uid)),
            group: owner(owners.groups.get(&entry.meta.gid)),
            size: entry.content().map(|content| content.size),
            mtime: report::timestamp(entry.meta.mtime).map(|time| time.to_string()),
            target: match &entry.kind {
                Kind::Symlink(target) => Some(Name { key: "linktarget", bytes: target }),
                _ => None,
            },
        }
    }
}

fn type_of(kind: &Kind) -> &'static str {
    match kind {
        Kind::File(_) => "file",
        Kind::Directory => "dir",
        Kind::Symlink(_) => "symlink",
        Kind::Fifo => "fifo",
        Kind::Socket => "socket",
        Kind::CharDevice(_) => "chardev",
        Kind::BlockDevice(_) => "dev",
    }
}

/// A difference.
#[derive(Debug, Serialize)]
pub struct ChangeObject<'a> {
    change: &'static str,
    #[serde(flatten)]
    path: Name<'a>,
    #[serde(flatten)]
    from: Option<Name<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
}

impl<'a> ChangeObject<'a> {
    pub fn new(change: ChangeRef<'a>) -> Self {
        let name = |path: &'a RelPath, key| Name { key, bytes: path.as_bytes() };
        let of = |change, from: Option<&'a RelPath>, entry: &'a Entry| Self {
            change,
            path: name(&entry.path, "path"),
            from: from.map(|from| name(from, "from")),
            r#type: Some(type_of(&entry.kind)),
            size: entry.content().map(|content| content.size),
        };
        match change {
            Change::Created(entry) => of("created", None, entry),
            Change::Updated(entry) => of("updated", None, entry),
            Change::Metadata(entry) => of("metadata", None, entry),
            Change::Renamed { from, entry } => of("renamed", Some(from), entry),
            Change::Deleted { path, directory } => Self {
                change: "deleted",
                path: name(path, "path"),
                from: None,
                r#type: directory.then_some("dir"),
                size: None,
            },
        }
    }
}

/// Writes a line for each of `changes`.
pub fn changes<'a>(out: &mut dyn Write, changes: impl IntoIterator<Item = ChangeRef<'a>>) -> io::Result<()> {
    changes.into_iter().try_for_each(|change| message(out, "change", &ChangeObject::new(change)))
}

/// What a set of changes amounts to.
pub fn totals(totals: &Totals) -> Value {
    json!({
        "created": totals.created,
        "updated": totals.updated,
        "metadata": totals.metadata,
        "renamed": totals.renamed,
        "deleted": totals.deleted,
        "bytes": totals.bytes,
    })
}

/// What could not be done with one of many things.
#[derive(Debug, Serialize)]
pub struct ErrorObject<'a> {
    message_type: &'static str,
    error: Value,
    during: &'static str,
    #[serde(flatten)]
    item: Name<'a>,
}

impl<'a> ErrorObject<'a> {
    pub fn new(during: &'static str, item: &'a OsStr, error: &dyn Error) -> Self {
        let item = Name { key: "item", bytes: item.as_bytes() };
        Self { message_type: "error", error: cause(&chain(error)), during, item }
    }
}

/// What stands under `error`.
pub fn cause(message: &str) -> Value {
    json!({ "message": message })
}

/// Writes a line that tells of something that could not be done with `path`.
pub fn error(out: &mut dyn Write, during: &'static str, path: &Path, error: &dyn Error) -> io::Result<()> {
    line(out, &ErrorObject::new(during, path.as_os_str(), error))
}

/// Writes the line that tells how far an operation is.
pub fn status(out: &mut dyn Write, progress: &Progress, elapsed: Duration) -> io::Result<()> {
    let (done, total) = (progress.bytes.get(), progress.total_bytes.get());
    let part = if total == 0 { 0.0 } else { (done as f64 / total as f64).min(1.0) };
    let status = json!({
        "seconds_elapsed": elapsed.as_secs(),
        "percent_done": part,
        "files_done": progress.files.get(),
        "total_files": progress.total_files.get(),
        "bytes_done": done,
        "total_bytes": total,
        "error_count": progress.errors.get(),
    });
    message(out, "status", &status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_not_text_stand_there_twice() {
        let object = |bytes| serde_json::to_value(Name { key: "path", bytes }).unwrap();
        assert_eq!(object(b"a"), json!({ "path": "a" }));
        assert_eq!(object(b"\xff"), json!({ "path": "\u{fffd}", "path_base64": "/w==" }));
        let objects = |paths: &[Vec<u8>]| serde_json::to_value(Names::of_paths(paths)).unwrap();
        assert_eq!(objects(&[b"a".to_vec()]), json!({ "paths": ["a"] }));
        assert_eq!(
            objects(&[b"a".to_vec(), b"\xff".to_vec()]),
            json!({ "paths": ["a", "\u{fffd}"], "paths_base64": ["YQ==", "/w=="] })
        );
    }

    #[test]
    fn a_change_tells_both_names_of_a_rename() {
        let path = |text: &str| treering::relpath::RelPath::new(text.as_bytes()).unwrap();
        let meta = treering::diff::Metadata::default();
        let entry = Entry { path: path("new"), kind: Kind::Fifo, meta };
        let change = Change::Renamed { from: path("old"), entry };
        let value = serde_json::to_value(ChangeObject::new(change.as_ref())).unwrap();
        assert_eq!(value, json!({ "change": "renamed", "path": "new", "from": "old", "type": "fifo" }));
    }

    #[test]
    fn a_status_has_no_part_done_before_the_total_is_known() {
        let progress = Progress::new();
        progress.bytes.add(5);
        let part = |progress: &Progress| {
            let mut line = Vec::new();
            status(&mut line, progress, Duration::ZERO).unwrap();
            serde_json::from_slice::<serde_json::Value>(&line).unwrap()["percent_done"].as_f64()
        };
        assert_eq!(part(&progress), Some(0.0));
        progress.total_bytes.add(10);
        assert_eq!(part(&progress), Some(0.5));
    }
}
