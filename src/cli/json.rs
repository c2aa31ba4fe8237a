//! Output for programs: what each command prints with `--json`.
//!
//! Listings of snapshots and what they hold are one document; everything else prints lines, each an object
//! that says its `message_type`. Times are RFC 3339 in UTC. A name that is not UTF-8 stands there with
//! replacement characters, and beside it in base64 under its key with `_base64` after it. Keys are restic's
//! where it has them. What goes wrong with a file is such a line too; that the command failed, and warnings, go to standard
//! error, an object a line: `exit_error`, `warning`.

use std::error::Error;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::json;
use treering::causes::chain;
use treering::diff::{Change, ChangeRef, Entry, Kind, Owners};
use treering::progress::Progress;
use treering::relpath::RelPath;
use treering::repository::{Snapshot, Statistics, Totals};

use crate::cli::report;

/// Writes `value` and ends the line.
pub fn line(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    writeln!(out)
}

/// Writes `value`, an object, as a line that says what it is.
pub fn message(out: &mut dyn Write, message_type: &'static str, value: &impl Serialize) -> io::Result<()> {
    #[derive(Serialize)]
    struct Message<'a, T> {
        message_type: &'static str,
        #[serde(flatten)]
        value: &'a T,
    }
    line(out, &Message { message_type, value })
}

/// A name under a key; to be flattened into the object that it belongs to.
#[derive(Debug)]
pub struct Name<'a> {
    pub key: &'static str,
    pub bytes: &'a [u8],
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
    paths: Vec<std::borrow::Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    paths_base64: Option<Vec<String>>,
    program_version: &'a str,
    partial: bool,
    summary: &'a Statistics,
}

impl<'a> SnapshotObject<'a> {
    pub fn new(snapshot: &'a Snapshot) -> Self {
        let record = &snapshot.record;
        let is_text = record.roots.iter().all(|root| std::str::from_utf8(root).is_ok());
        let base64 = || record.roots.iter().map(|root| STANDARD.encode(root)).collect();
        Self {
            id: snapshot.id.to_string(),
            short_id: snapshot.name(),
            time: snapshot.time().to_string(),
            key: snapshot.key.to_string(),
            parent: record.parent.as_deref(),
            hostname: &record.host,
            username: &record.user,
            tags: &record.tags,
            paths: record.roots.iter().map(|root| String::from_utf8_lossy(root)).collect(),
            paths_base64: (!is_text).then(base64),
            program_version: &record.program,
            partial: record.is_partial(),
            summary: &record.statistics,
        }
    }
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
pub fn totals(totals: &Totals) -> serde_json::Value {
    json!({
        "created": totals.created,
        "updated": totals.updated,
        "metadata": totals.metadata,
        "renamed": totals.renamed,
        "deleted": totals.deleted,
        "bytes": totals.bytes,
    })
}

/// Writes a line that tells of something that could not be done with `path`.
pub fn error(out: &mut dyn Write, during: &'static str, path: &Path, error: &dyn Error) -> io::Result<()> {
    #[derive(Serialize)]
    struct Fault<'a> {
        error: serde_json::Value,
        during: &'static str,
        #[serde(flatten)]
        item: Name<'a>,
    }
    let item = Name { key: "item", bytes: path.as_os_str().as_bytes() };
    message(out, "error", &Fault { error: json!({ "message": chain(error) }), during, item })
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
