//! Time-indexed blobs in a git repository.
//!
//! A blob is found by its kind, a [`TimeKey`] and a suffix, and lies at `<kind>/YYYY/MM/DD/<time
//! key><suffix>` in the tree of the repository's branch. Once written it is never overwritten.
//! [`Timeline::list`] goes through a range of time and reads the trees of no day outside of it.
//!
//! Blobs are added by a [`Batch`]. It writes those of [`Tier::Data`] into layers of their own, apart from
//! everything that is needed to find them, so that the large and seldom read can live elsewhere. Nothing of a
//! batch is visible before [`Batch::commit`] returns, and then all of it is, durably; two processes that
//! commit at one time both succeed. What is promised when a process dies is said in [`gitkv`](crate::gitkv),
//! on which this rests. A blob comes back as the bytes that were put: compression and encryption are the
//! caller's.
//!
//! [`Blobs`] is the simpler thing: blobs by their time alone, compressed and encrypted, in a repository of
//! this crate or of gitblobts.
//!
//! The clock is never read here.
//!
//! ```
//! use treering::gitkv::Person;
//! use treering::timeline::{Tier, Timeline};
//!
//! let dir = tempfile::tempdir()?;
//! let timeline = Timeline::create(&dir.path().join("repo.git"))?;
//! let noon = "2026-11-20T12:00:00Z".parse()?;
//! let key = timeline.key(noon)?;
//!
//! let mut batch = timeline.begin()?;
//! let path = batch.put("readings", &key, ".txt", b"21 degrees", Tier::Metadata)?;
//! assert!(path.starts_with("readings/2026/11/20/20261120T120000.000000000Z-"));
//! batch.commit(&Person::new("A Writer", "writer@example.org", noon), "Read the thermometer")?;
//!
//! let blob = timeline.list("readings", noon..)?.next().expect("it was just added")?;
//! assert_eq!((blob.key, blob.suffix.as_str()), (key, ".txt"));
//! assert_eq!(timeline.read(&blob.id)?, b"21 degrees");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod batch;
mod blobs;
mod codec;
mod gitblobts;
mod key;
mod listing;

use std::ops::RangeBounds;
use std::path::Path;

use jiff::Timestamp;

use crate::gitkv::{Access, Alone, Git, GitError, Mode, Swept};
use crate::layers::{LayerError, ObjectId};

pub use batch::{Batch, LayerBound, Tier};
pub use blobs::{Blob, BlobName, BlobNames, Blobs, Layout};
pub use codec::{Codec, CodecError, Compression, Key, MAX_CONTENT};
pub use key::{TimeKey, TimeKeyError, TimeKeys};
pub use listing::{Listing, TimedBlob};

/// Time-indexed blobs in one bare git repository. Any number of threads may use it.
pub struct Timeline {
    git: Git,
    keys: TimeKeys,
    bound: LayerBound,
}

/// Why time-indexed blobs could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TimelineError {
    /// The git repository could not be read or written.
    #[error(transparent)]
    Git(#[from] GitError),
    /// A time has no key.
    #[error(transparent)]
    Key(#[from] TimeKeyError),
    /// Something lies among the blobs that is none. The others can be read.
    #[error("{path:?} is not a time-indexed blob: {fault}; remove it with git")]
    Stray {
        /// Where it lies.
        path: String,
        /// Why it is none.
        fault: &'static str,
    },
    /// A blob is not in the repository as it should be. The others can be read.
    #[error("the blob {name} cannot be read")]
    Unreadable {
        /// Its name.
        name: String,
        /// What is wrong.
        source: GitError,
    },
    /// The content of a blob could not be encoded or decoded. The others can be read.
    #[error("the blob {name} cannot be used")]
    Content {
        /// Its name.
        name: String,
        /// What is wrong.
        source: CodecError,
    },
}

impl From<LayerError> for TimelineError {
    fn from(error: LayerError) -> Self {
        Self::Git(error.into())
    }
}

impl Timeline {
    /// Makes a repository at `path`, where nothing or an empty directory may be.
    pub fn create(path: &Path) -> Result<Self, TimelineError> {
        Self::with(Git::init(path, &[])?)
    }

    /// Makes it at `path` itself, where nothing is, and which is moved away when it is complete.
    pub(crate) fn create_at(path: &Path, access: Access) -> Result<Self, TimelineError> {
        Self::with(Git::init_at(path, access.settings())?)
    }

    /// Opens the bare repository at `path`, on the branch that holds the file `wanted`, see [`Git::find_branch`].
    pub(crate) fn open_with(path: &Path, wanted: &str) -> Result<Self, TimelineError> {
        let mut git = Git::open(path)?;
        git.find_branch(wanted)?;
        Self::with(git)
    }

    /// Opens the bare repository at `path`.
    pub fn open(path: &Path) -> Result<Self, TimelineError> {
        Self::with(Git::open(path)?)
    }

    /// Opens the repository at `path`, bare or an ordinary clone; see [`Git::open_with_work_tree`].
    pub fn open_with_work_tree(path: &Path) -> Result<Self, TimelineError> {
        Self::with(Git::open_with_work_tree(path)?)
    }

    fn with(git: Git) -> Result<Self, TimelineError> {
        let keys = TimeKeys::new(getrandom::u64().map_err(GitError::from)?);
        Ok(Self { git, keys, bound: LayerBound::default() })
    }

    /// Sets how large the layers of later batches may become.
    #[must_use]
    pub fn with_layer_bound(self, bound: LayerBound) -> Self {
        Self { bound, ..self }
    }

    /// The repository below.
    pub fn git(&self) -> &Git {
        &self.git
    }

    /// A key for `time` that nobody else has. Of two keys for one time the later one sorts later.
    pub fn key(&self, time: Timestamp) -> Result<TimeKey, TimelineError> {
        Ok(self.keys.key(time)?)
    }

    /// A key for `time` that sorts after those of `kind` that the commit or tree `at` has, whoever gave them.
    pub(crate) fn key_after_those(
        &self,
        at: Option<ObjectId>,
        kind: &str,
        time: Timestamp,
    ) -> Result<TimeKey, TimelineError> {
        let there = Listing::new(&self.git, at, kind, time..=time)?;
        match there.descending().without_strays().next().transpose()? {
            None => self.key(time),
            Some(last) => Ok(self.keys.key_after(&last.key, getrandom::u32().map_err(GitError::from)?)?),
        }
    }

    /// Begins a batch of additions and removals.
    pub fn begin(&self) -> Result<Batch<'_>, TimelineError> {
        Batch::begin(self)
    }

    /// Begins a batch for whoever is alone in the repository.
    pub fn begin_alone<'a>(&'a self, alone: &Alone<'a>) -> Result<Batch<'a>, TimelineError> {
        Batch::begin_alone(self, alone)
    }

    /// The blobs of `kind` whose times lie in `times`, in order of time, as the branch has them now.
    pub fn list(&self, kind: &str, times: impl RangeBounds<Timestamp>) -> Result<Listing<'_>, TimelineError> {
        Listing::new(&self.git, self.git.head()?, kind, times)
    }

    /// As [`list`](Self::list), as the commit `at` has them.
    pub(crate) fn list_at(&self, at: &ObjectId, kind: &str) -> Result<Listing<'_>, TimelineError> {
        Listing::new(&self.git, Some(*at), kind, ..)
    }

    /// The blob of that kind, key and suffix, if there is one.
    pub fn get(&self, kind: &str, key: &TimeKey, suffix: &str) -> Result<Option<ObjectId>, TimelineError> {
        self.find(&path(kind, key, suffix))
    }

    /// The blob at a path that [`Batch::put`] or [`Batch::set`] gave, if there is one.
    pub fn find(&self, path: &str) -> Result<Option<ObjectId>, TimelineError> {
        let Some(head) = self.git.head()? else { return Ok(None) };
        let node = self.git.find(&head, path.as_bytes())?;
        Ok(node.filter(|node| node.mode != Mode::Directory).map(|node| node.id))
    }

    /// The content of a blob.
    pub fn read(&self, id: &ObjectId) -> Result<Vec<u8>, TimelineError> {
        Ok(self.git.read_blob(id)?)
    }

    /// At most `len` bytes from `offset` on of a blob, fewer where it ends, checked against no hash.
    pub fn read_range(&self, id: &ObjectId, offset: u64, len: u64) -> Result<Vec<u8>, TimelineError> {
        Ok(self.git.read_blob_range(id, offset, len)?)
    }

    /// Removes what writers who died left; see [`Git::sweep`].
    pub fn sweep(&self) -> Result<Swept, TimelineError> {
        Ok(self.git.sweep()?)
    }
}

/// Where a blob lies in the tree.
pub fn path(kind: &str, key: &TimeKey, suffix: &str) -> String {
    format!("{kind}/{}/{key}{suffix}", key.day())
}

/// Whether a blob of `kind` may lie at `path`.
pub(crate) fn is_path_of(kind: &str, path: &[u8]) -> bool {
    let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    let name = str::from_utf8(name).ok().and_then(|name| name.split_at_checked(TimeKey::LEN));
    name.is_some_and(|(key, suffix)| {
        key.parse().is_ok_and(|key| self::path(kind, &key, suffix).as_bytes() == path)
    })
}

fn stray(path: String, fault: &'static str) -> TimelineError {
    TimelineError::Stray { path, fault }
}
