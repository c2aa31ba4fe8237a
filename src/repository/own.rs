//! What of a repository was not only claimed by somebody else.
//!
//! Everything that a remote brings may have been made up: the index of a volume can claim segments that the volume
//! does not hold, and a record can say of this host's files what it likes. So this repository remembers, in a file of
//! its own that no remote sees, which records and indexes it has written itself, and which segments of others it has
//! read and found to be what they should be. A backup rests on nothing else: it compares with snapshots of its own, and
//! reads what others claim to hold before that stands for storing it.
//!
//! The file has a line a thing: `blob`, the id of a record or an index, and its path, since somebody else may give the
//! same index to another volume; or `segment` and the digest of a segment of another's volume. Lines are appended, and
//! what cannot be read of them is passed over: what is forgotten is read once more. Where there is no file everything
//! counts as own, and the first backup writes one: a copy or a clone begins with what it has.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::PathBuf;

use crate::atomic;
use crate::digest::Digest;
use crate::format::{INDEX_SUFFIX, kind};
use crate::gitkv::PRIVATE;
use crate::layers::ObjectId;
use crate::removals;
use crate::repository::{Repository, RepositoryError};
use crate::timeline::path as blob_path;

/// The file, in the private directory of the repository.
const FILE: &str = "own";

/// What is known to be own, or was verified.
#[derive(Debug, Default)]
pub(super) struct Own {
    /// Records, and indexes of volumes, by their paths; `None` where all are.
    blobs: Option<HashMap<String, ObjectId>>,
    segments: HashSet<Digest>,
}

impl Own {
    /// That nothing is own.
    pub fn nothing() -> Self {
        Self { blobs: Some(HashMap::new()), segments: HashSet::new() }
    }

    /// Whether this repository wrote the record or the index that lies at `path`.
    pub fn wrote(&self, path: &str, id: &ObjectId) -> bool {
        self.blobs.as_ref().is_none_or(|blobs| blobs.get(path) == Some(id))
    }

    /// Whether a segment that others hold was read, and was what it should be.
    pub fn verified(&self, digest: &Digest) -> bool {
        self.segments.contains(digest)
    }
}

impl Repository {
    /// What is known to be own.
    pub(super) fn own(&self) -> Result<Own, RepositoryError> {
        let path = self.own_path();
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Own::default()),
            Err(source) => return Err(RepositoryError::Own { path, source }),
        };
        let (mut blobs, mut segments) = (HashMap::new(), HashSet::new());
        for line in BufReader::new(file).split(b'\n') {
            let line = line.map_err(|source| RepositoryError::Own { path: path.clone(), source })?;
            match str::from_utf8(&line).ok().and_then(|line| line.split_once(' ')) {
                Some(("blob", rest)) => {
                    let noted =
                        rest.split_once(' ').and_then(|(id, path)| Some((path.to_owned(), id.parse().ok()?)));
                    blobs.extend(noted);
                }
                Some(("segment", digest)) => segments.extend(digest.parse::<Digest>()),
                _ => {}
            }
        }
        Ok(Own { blobs: Some(blobs), segments })
    }

    /// The paths of what others removed from a remote and what is kept here.
    pub(super) fn removed_elsewhere(&self) -> Result<BTreeSet<String>, RepositoryError> {
        let private = self.path().join(PRIVATE);
        removals::kept(&private).map_err(|source| RepositoryError::Removals { path: private, source })
    }

    /// Counts everything that is here as own, unless it is known already what is.
    pub fn trust_what_is_here(&self) -> Result<(), RepositoryError> {
        match self.own_path().exists() {
            true => Ok(()),
            false => self.write_own(&Own::default()),
        }
    }

    /// Forgets what is not here any more.
    pub(super) fn forget_own_of_old(&self) -> Result<(), RepositoryError> {
        match self.own()? {
            Own { blobs: None, .. } => Ok(()),
            own => self.write_own(&own),
        }
    }

    /// Writes the file anew, of all that `own` knows and is still here.
    fn write_own(&self, own: &Own) -> Result<(), RepositoryError> {
        let mut lines = String::new();
        // Whoever appends meanwhile is forgotten, which costs him a look.
        for kind in [kind::SNAPSHOTS, kind::ARCHIVES] {
            for found in self.blobs_of(kind)? {
                let path = blob_path(kind, &found.key, &found.suffix);
                if is_claim(&path) && own.wrote(&path, &found.id) {
                    lines += &format!("blob {} {path}\n", found.id);
                }
            }
        }
        for (path, id) in self.key_files()? {
            if own.wrote(&path, &id) && !path.contains('\n') {
                lines += &format!("blob {id} {path}\n");
            }
        }
        own.segments.iter().for_each(|digest| lines += &format!("segment {digest}\n"));
        let private = self.timeline.git().private_dir()?;
        let path = private.join(FILE);
        atomic::write(&path, lines.as_bytes()).map_err(|source| RepositoryError::Own { path, source })
    }

    /// Notes that this repository is about to write a blob, if that is one to note.
    pub(super) fn note_own(&self, path: &str, id: impl FnOnce() -> ObjectId) {
        if is_claim(path) {
            self.append_own(&format!("blob {} {path}\n", id()));
        }
    }

    /// Notes segments of others that were read, and were what they should be.
    pub(super) fn note_verified<'a>(&self, digests: impl IntoIterator<Item = &'a Digest>) {
        let lines: String = digests.into_iter().map(|digest| format!("segment {digest}\n")).collect();
        if !lines.is_empty() {
            self.append_own(&lines);
        }
    }

    /// Appends lines, if there is a file: without one everything is own. What cannot be noted is read once more.
    fn append_own(&self, lines: &str) {
        let appended = File::options().append(true).open(self.own_path());
        if let Err(error) =
            appended.and_then(|mut file| file.write_all(lines.as_bytes()).and_then(|()| file.sync_data()))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::debug!(%error, "what this repository writes is not noted as its own");
        }
    }

    fn own_path(&self) -> PathBuf {
        self.path().join(PRIVATE).join(FILE)
    }
}

/// Whether what lies at `path` says what other blobs hold: a snapshot record, or the index of a volume.
fn is_claim(path: &str) -> bool {
    match path.split_once('/') {
        Some((kind, below)) => {
            matches!(kind, kind::SNAPSHOTS | kind::KEYS)
                || (kind == kind::ARCHIVES && below.contains(INDEX_SUFFIX))
        }
        None => false,
    }
}
