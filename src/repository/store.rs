//! The blobs of a repository, and what they mean.

use std::path::Path;
use std::sync::Mutex;

use crate::archive::gunzip;
use crate::cbor;
use crate::diff::{Entry, MAX_PAGE, page};
use crate::gitkv::{GitError, KeepLayers, Person};
use crate::layers::ObjectId;
use crate::repository::config::{self, Config, InitOptions};
use crate::repository::{FORMAT_VERSION, Repository, RepositoryError, Snapshot};
use crate::timeline::{TimeKey, TimedBlob, Timeline, TimelineError};

/// What kinds of blobs there are, as directories of the tree.
pub(super) mod kind {
    pub const SNAPSHOTS: &str = "snapshots";
    pub const DIFFS: &str = "diffs";
    pub const INDEX: &str = "index";
    pub const SIGNATURES: &str = "signatures";
    pub const ARCHIVES: &str = "archives";
}

/// What the name of a snapshot record ends with.
pub(super) const SNAPSHOT_SUFFIX: &str = ".cbor";
/// What the name of a volume's index ends with.
pub(super) const INDEX_SUFFIX: &str = ".idx";

impl Repository {
    /// Makes a repository at `path`, where nothing or an empty directory may be.
    pub fn init(path: &Path, options: &InitOptions) -> Result<Self, RepositoryError> {
        let timeline = Timeline::create(path).map_err(|error| match error {
            TimelineError::Git(GitError::Occupied(path)) => RepositoryError::Exists(path),
            other => other.into(),
        })?;
        let config = Config::new(options)?;
        let mut batch = timeline.begin()?;
        batch.set(config::PATH, &cbor::to_vec(&config)?)?;
        batch.commit(&person("treering", "localhost", options.time), "Make the repository")?;
        Ok(Self::new(timeline, config))
    }

    /// Opens the repository at `path`.
    pub fn open(path: &Path) -> Result<Self, RepositoryError> {
        let none = |source| RepositoryError::NoRepository { path: path.to_owned(), source };
        let timeline = Timeline::open(path).map_err(|error| match error {
            TimelineError::Git(GitError::NotRepository(_)) => none(None),
            TimelineError::Git(error @ GitError::NotBare(_)) => none(Some(error)),
            other => other.into(),
        })?;
        let id = timeline.find(config::PATH)?.ok_or_else(|| none(None))?;
        let config: Config = cbor::from_slice(&timeline.read(&id)?)
            .map_err(|error| RepositoryError::damaged(config::PATH)(error.into()))?;
        if config.version > FORMAT_VERSION {
            return Err(RepositoryError::Version(config.version));
        }
        Ok(Self::new(timeline, config))
    }

    fn new(timeline: Timeline, config: Config) -> Self {
        Self { timeline, config, segments: Mutex::default() }
    }

    /// All snapshots, oldest first. Fails where one cannot be read; [`find`](Self::find) still finds the
    /// others.
    pub fn snapshots(&self) -> Result<Vec<Snapshot>, RepositoryError> {
        self.records()?.into_iter().map(|record| record.snapshot).collect()
    }

    /// Every snapshot record there is, oldest first.
    pub(super) fn records(&self) -> Result<Vec<Record>, RepositoryError> {
        let mut records = Vec::new();
        for blob in self.timeline.list(kind::SNAPSHOTS, ..)? {
            let blob = blob?;
            records.push(Record { key: blob.key, id: blob.id, snapshot: self.read_record(&blob) });
        }
        Ok(records)
    }

    fn read_record(&self, blob: &TimedBlob) -> Result<Snapshot, RepositoryError> {
        let path = crate::timeline::path(kind::SNAPSHOTS, &blob.key, &blob.suffix);
        let read = || Ok::<_, RepositoryError>(cbor::from_slice(&self.timeline.read(&blob.id)?)?);
        let record = read().map_err(|error| RepositoryError::damaged(&path)(error.into()))?;
        Ok(Snapshot { key: blob.key, id: blob.id, record })
    }

    /// Keeps pruning away while something is read that takes long. Where the repository cannot be written to,
    /// nothing is held, and who prunes meanwhile makes reading fail.
    pub(super) fn keep_while_reading(&self) -> Result<Option<KeepLayers>, RepositoryError> {
        match self.timeline.git().keep_layers() {
            Ok(keep) => Ok(Some(keep)),
            Err(GitError::Io { .. }) => Ok(None),
            Err(error) => Err(TimelineError::from(error).into()),
        }
    }

    /// The id of the blob at `path` of the tree, which something names.
    pub(super) fn blob(&self, path: &str) -> Result<ObjectId, RepositoryError> {
        let missing = || RepositoryError::damaged(path)("nothing is there".into());
        self.timeline.find(path)?.ok_or_else(missing)
    }
}

/// A snapshot record that the tree holds, whether it can be read or not.
pub(super) struct Record {
    pub key: TimeKey,
    pub id: ObjectId,
    pub snapshot: Result<Snapshot, RepositoryError>,
}

/// Decodes a page as it lies in its blob.
pub(super) fn decode_page(bytes: &[u8]) -> Result<Vec<Entry>, RepositoryError> {
    Ok(page::decode(&gunzip(bytes, MAX_PAGE)?)?)
}

/// Who commits.
pub(super) fn person(user: &str, host: &str, time: jiff::Timestamp) -> Person {
    Person::new(user, &format!("{user}@{host}"), time)
}
