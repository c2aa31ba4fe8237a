//! The blobs of a repository, and what they mean.

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, PoisonError};

use itertools::Itertools;

use crate::cbor;
use crate::config::{ConfigError, MAX_CONFIG};
use crate::crypt::Identity;
use crate::format::{CONFIG, kind};
use crate::gitkv::{self, GitError, HEADS, KeepLayers, Person};
use crate::layers::{LayerError, ObjectId};
use crate::repository::blobs::Blob;
use crate::repository::budget::Budget;
use crate::repository::config::{self, Config, Encryption, InitOptions};
use crate::repository::keys;
use crate::repository::snapshot::short;
use crate::repository::{FORMAT_VERSION, Repository, RepositoryError, Snapshot, SnapshotName};
use crate::timeline::{TimeKey, TimedBlob, Timeline, TimelineError};

/// No record has more bytes: that of a snapshot of a million pages and of a million volumes has fewer.
const MAX_RECORD: u64 = 128 << 20;

/// No record holds more paths, tags and numbers.
const MAX_RECORD_VALUES: usize = 1 << 21;

/// About what a value of a record takes in memory beside its bytes.
const VALUE: u64 = 48;

/// What a repository says of itself; `None` where it is no repository of snapshots.
fn read_config(timeline: &Timeline) -> Result<Option<Config>, RepositoryError> {
    let Some(id) = timeline.find(CONFIG)? else { return Ok(None) };
    let bytes = timeline.git().read_blob_within(&id, MAX_CONFIG).map_err(TimelineError::from)?;
    match Config::parse(&bytes, FORMAT_VERSION) {
        Err(ConfigError::Newer(found)) => {
            Err(RepositoryError::Version { path: timeline.git().path().to_owned(), found })
        }
        Err(error) => Err(RepositoryError::damaged(CONFIG)(error.into())),
        Ok(config) => Ok(Some(config)),
    }
}

impl Repository {
    /// Makes a repository at `path`, where nothing or an empty directory may be. One that is encrypted can be
    /// read by the value that is returned.
    pub fn init(path: &Path, options: &InitOptions) -> Result<Self, RepositoryError> {
        let made = gitkv::create(path, options.access, |at| Self::init_at(at, options));
        let identity = made.map_err(|error| match error {
            RepositoryError::Timeline(TimelineError::Git(GitError::Occupied(path))) => {
                RepositoryError::Exists(path)
            }
            RepositoryError::Timeline(TimelineError::Git(GitError::Present(path))) => match Self::open(&path)
            {
                Err(RepositoryError::NoRepository { .. } | RepositoryError::OtherGit(_)) => {
                    RepositoryError::Exists(path)
                }
                // Whatever is wrong with it, it is one.
                _ => RepositoryError::Present(path),
            },
            other => other,
        })?;
        let mut repository = Self::open(path)?;
        if let Some(vault) = &mut repository.vault {
            vault.identity = identity;
        }
        repository.trust_what_is_here()?;
        repository.keep_reserve();
        Ok(repository)
    }

    /// Makes it at `path` itself, and returns what reads it.
    fn init_at(path: &Path, options: &InitOptions) -> Result<Option<Identity>, RepositoryError> {
        let timeline = Timeline::create_at(path, options.access)?;
        let mut batch = timeline.begin()?;
        let identity = match options.locks.as_slice() {
            [] => None,
            locks => Some(keys::create(&mut batch, locks)?),
        };
        let recipient = identity.as_ref().map(Identity::recipient);
        let encryption = recipient.map(|recipient| Encryption { recipient: recipient.to_string() });
        let config = config::new_config(options, encryption)?;
        batch.set(CONFIG, &cbor::to_vec(&config)?)?;
        batch.commit(&Person::on_host("treering", "localhost", options.time), "Make the repository")?;
        Ok(identity)
    }

    /// Opens the repository at `path`. What is encrypted in it is read after an [`unlock`](Self::unlock).
    pub fn open(path: &Path) -> Result<Self, RepositoryError> {
        let none = |source| RepositoryError::NoRepository { path: path.to_owned(), source };
        let timeline = Timeline::open_with(path, CONFIG).map_err(|error| match error {
            TimelineError::Git(GitError::NotRepository(_)) => none(None),
            TimelineError::Git(error @ (GitError::NotBare(_) | GitError::Unfinished(_))) => none(Some(error)),
            other => other.into(),
        })?;
        let read = read_config(&timeline);
        // What is not found may be where an index is damaged.
        if !matches!(read, Ok(Some(_)))
            && let Some(fault) = timeline.git().layers().faults().first()
        {
            let fault = fault.to_string();
            let (path, source) = (path.to_owned(), read.err().map(Box::new));
            return Err(RepositoryError::WithoutIndex { path, fault, source });
        }
        let config = match read.map_err(|error| lost_newest(path, error))? {
            Some(config) => config,
            // Whoever lost the branch has lost nothing else.
            None if timeline.git().layers().layers().len() > 0 && !has_branch(&timeline)? => {
                return Err(RepositoryError::LostBranch(path.to_owned()));
            }
            None => {
                let git = timeline.git();
                let branches = git.branches_with(HEADS, CONFIG).map_err(TimelineError::from)?;
                let head = git.head().map_err(TimelineError::from)?;
                let snapshots = head.map(|head| git.find(&head, kind::SNAPSHOTS.as_bytes())).transpose();
                if snapshots.map_err(TimelineError::from)?.flatten().is_some() {
                    return Err(RepositoryError::damaged(CONFIG)("nothing is there".into()));
                }
                let references = git.references().map_err(TimelineError::from)?;
                let is_used = references.iter().any(|(name, _)| name.starts_with(HEADS));
                return Err(match branches.is_empty() {
                    false => RepositoryError::SeveralBranches {
                        path: path.to_owned(),
                        branches: branches.join(", "),
                    },
                    true if is_used => RepositoryError::OtherGit(path.to_owned()),
                    true => none(None),
                });
            }
        };
        Self::new(timeline, config)
    }

    /// Whether what lies at `path`, bare or an ordinary clone, is a repository of snapshots.
    pub fn is_at(path: &Path) -> Result<bool, RepositoryError> {
        match Timeline::open_with_work_tree(path) {
            Err(TimelineError::Git(GitError::NotRepository(_))) => Ok(false),
            timeline => Ok(read_config(&timeline?)?.is_some()),
        }
    }

    fn new(timeline: Timeline, config: Config) -> Result<Self, RepositoryError> {
        let vault = keys::vault(&config);
        let vault = vault.map_err(|error| RepositoryError::damaged(CONFIG)(error.into()))?;
        let (segments, hold, counted) = Default::default();
        Ok(Self { timeline, config, vault, segments, hold, counted })
    }

    /// All snapshots, oldest first. Fails where one cannot be read.
    pub fn snapshots(&self) -> Result<Vec<Snapshot>, RepositoryError> {
        let _hold = self.hold()?;
        self.records()?.into_iter().map(|record| record.snapshot).collect()
    }

    /// All snapshots whose records can be read, oldest first, and why the others cannot; what lies among them and is no
    /// record is named as well.
    pub fn readable_snapshots(&self) -> Result<(Vec<Snapshot>, Vec<RepositoryError>), RepositoryError> {
        let _hold = self.hold()?;
        let (blobs, mut unreadable) = self.blobs_and_strays(kind::SNAPSHOTS)?;
        let mut snapshots = Vec::new();
        for record in self.records_of(&blobs)? {
            let name = SnapshotName::from(&record).name();
            match record.snapshot {
                Ok(snapshot) => snapshots.push(snapshot),
                // This one is not of the record.
                Err(RepositoryError::Encrypted) => return Err(RepositoryError::Encrypted),
                Err(source) => {
                    unreadable.push(RepositoryError::UnreadableSnapshot { id: name, source: source.into() })
                }
            }
        }
        Ok((snapshots, unreadable))
    }

    /// How many snapshots there are, whether they can be read or not.
    pub fn count_snapshots(&self) -> Result<u64, RepositoryError> {
        let _hold = self.hold()?;
        Ok(self.blobs_of(kind::SNAPSHOTS)?.len() as u64)
    }

    /// What the snapshots are called, oldest first, whether they can be read or not.
    pub fn snapshot_names(&self) -> Result<Vec<SnapshotName>, RepositoryError> {
        let _hold = self.hold()?;
        let blobs = self.blobs_of(kind::SNAPSHOTS)?;
        let shared = SharedIds::of(&blobs);
        let name = |found: &TimedBlob| SnapshotName {
            key: found.key,
            id: found.id,
            shares_id: shared.contains(&found.id),
        };
        Ok(blobs.iter().map(name).collect())
    }

    /// Fails where the branch was set back to an older state, and lacks snapshots for that.
    pub(super) fn expect_newest(&self) -> Result<(), RepositoryError> {
        let git = self.timeline.git();
        let Some(commit) = git.lost_tip()? else { return Ok(()) };
        let mut lost = HashSet::new();
        for found in self.timeline.list_at(&commit, kind::SNAPSHOTS)?.without_strays() {
            lost.insert(found?.key);
        }
        for found in self.blobs_of(kind::SNAPSHOTS)? {
            lost.remove(&found.key);
        }
        let head = git.head()?;
        match lost.len() {
            0 => Ok(()),
            snapshots => Err(RepositoryError::SetBack {
                path: self.path().to_owned(),
                branch: git.branch().to_owned(),
                commit,
                snapshots,
                has_more: !head.map_or(Ok(true), |head| git.has_seen(&commit, &head))?,
                newest: git.newest_path(),
            }),
        }
    }

    /// The blobs of a kind, in order of time. What lies among them that is none is passed over: it is in nobody's way,
    /// and [`blobs_and_strays`](Self::blobs_and_strays) names it.
    pub(super) fn blobs_of(&self, kind: &str) -> Result<Vec<TimedBlob>, RepositoryError> {
        Ok(self.timeline.list(kind, ..)?.without_strays().collect::<Result<_, _>>()?)
    }

    /// Whether several snapshots have the first digits of this id.
    pub(super) fn shares_id(&self, id: &ObjectId) -> Result<bool, RepositoryError> {
        Ok(SharedIds::of(&self.blobs_of(kind::SNAPSHOTS)?).contains(id))
    }

    /// The blobs of a kind, in order of time, and whatever else is there.
    pub(super) fn blobs_and_strays(
        &self,
        kind: &str,
    ) -> Result<(Vec<TimedBlob>, Vec<RepositoryError>), RepositoryError> {
        let (mut blobs, mut strays) = (Vec::new(), Vec::new());
        for found in self.timeline.list(kind, ..)? {
            match found {
                Ok(blob) => blobs.push(blob),
                Err(error @ TimelineError::Stray { .. }) => strays.push(error.into()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok((blobs, strays))
    }

    /// Every snapshot record there is, oldest first.
    pub(super) fn records(&self) -> Result<Vec<Record>, RepositoryError> {
        self.records_of(&self.blobs_of(kind::SNAPSHOTS)?)
    }

    fn records_of(&self, blobs: &[TimedBlob]) -> Result<Vec<Record>, RepositoryError> {
        let mut budget = Budget::of(self)?;
        let shared = SharedIds::of(blobs);
        let record = |found: &TimedBlob| {
            let shares_id = shared.contains(&found.id);
            let snapshot = self.read_record(found, shares_id, &mut budget);
            Record { key: found.key, id: found.id, shares_id, snapshot }
        };
        Ok(blobs.iter().map(record).collect())
    }

    fn read_record(
        &self,
        found: &TimedBlob,
        shares_id: bool,
        budget: &mut Budget,
    ) -> Result<Snapshot, RepositoryError> {
        let blob = Blob::listed(kind::SNAPSHOTS, found);
        let mut take = |bytes: u64| {
            budget.take(bytes).map_err(|error| RepositoryError::damaged(&blob.path)(error.into()))
        };
        take(self.stored_len(&blob)?)?;
        let bytes = self.read_blob_within(&blob, MAX_RECORD)?;
        let values = cbor::count_values(&bytes);
        if values > MAX_RECORD_VALUES {
            return Err(RepositoryError::damaged(&blob.path)(format!("it holds {values} values").into()));
        }
        take(VALUE * values as u64)?;
        let decoded = cbor::from_slice(&bytes);
        let record = decoded.map_err(|error| RepositoryError::damaged(&blob.path)(error.into()))?;
        Ok(Snapshot { key: found.key, id: found.id, shares_id, record })
    }

    /// Keeps whatever takes layers away, such as pruning and evicting, waiting as long as what is returned lives.
    ///
    /// Every method that reads more than one object holds this by itself. Who calls several, to find a snapshot and
    /// then read it, holds it around all of them. Holding it again while it is held costs nothing. Who holds it and
    /// calls [`prune`](Self::prune) waits for himself.
    ///
    /// Where the lock cannot be opened, as in a repository of somebody else, nothing is held, and who prunes
    /// meanwhile makes reading fail.
    pub fn hold(&self) -> Result<Hold, RepositoryError> {
        let mut held = self.hold.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(keep) = held.upgrade() {
            return Ok(Hold { _keep: Some(keep) });
        }
        let git = self.timeline.git();
        let keep = match git.keep_layers() {
            Ok(keep) => Arc::new(keep),
            Err(GitError::Io { .. }) => return Ok(Hold { _keep: None }),
            Err(error) => return Err(TimelineError::from(error).into()),
        };
        // What was removed before that is not to be looked for.
        git.refresh().map_err(TimelineError::from)?;
        *held = Arc::downgrade(&keep);
        Ok(Hold { _keep: Some(keep) })
    }
}

/// While it lives, nothing that a snapshot needs is removed or moved: see [`Repository::hold`].
#[derive(Debug, Clone)]
#[must_use = "it keeps layers only as long as it lives"]
pub struct Hold {
    _keep: Option<Arc<KeepLayers>>,
}

fn has_branch(timeline: &Timeline) -> Result<bool, RepositoryError> {
    Ok(timeline.git().head_or_none().map_err(TimelineError::from)?.is_some())
}

/// What it means that the configuration at the newest commit of the repository at `path` cannot be read.
fn lost_newest(path: &Path, error: RepositoryError) -> RepositoryError {
    match error {
        RepositoryError::Timeline(TimelineError::Git(
            source @ (GitError::Missing(_) | GitError::Layer(LayerError::Missing { .. })),
        )) => RepositoryError::LostNewest { path: path.to_owned(), source },
        error => error,
    }
}

/// The short ids that several snapshots have.
pub(super) struct SharedIds(HashSet<String>);

impl SharedIds {
    pub fn of(all: &[TimedBlob]) -> Self {
        Self(all.iter().map(|blob| short(&blob.id)).duplicates().collect())
    }

    pub fn contains(&self, id: &ObjectId) -> bool {
        self.0.contains(&short(id))
    }
}

/// A snapshot record that the tree holds, whether it can be read or not.
#[derive(Debug)]
pub(super) struct Record {
    pub key: TimeKey,
    pub id: ObjectId,
    pub shares_id: bool,
    pub snapshot: Result<Snapshot, RepositoryError>,
}

impl From<&Record> for SnapshotName {
    fn from(record: &Record) -> Self {
        Self { key: record.key, id: record.id, shares_id: record.shares_id }
    }
}
