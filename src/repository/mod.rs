//! Repositories of snapshots.
//!
//! A backup goes through four steps. It *scans* the sources and compares them with the parent's index, so
//! that what has not changed is not opened. It *reads* the rest, and stores each segment that the repository
//! does not hold, as a delta where that is smaller. It *writes* the pages of the index that changed. And it
//! *commits*: first everything that the snapshot names is durable, then the snapshot is visible. Killed at
//! any instant, it leaves every earlier snapshot as it was; what was stored up to the last checkpoint is used
//! by the next backup.
//!
//! Nothing here prints, reads the clock or the environment: those come in as options, and what happened goes
//! out as reports.
//!
//! ```
//! use treering::progress::Progress;
//! use treering::repository::{BackupOptions, InitOptions, Repository, RestoreOptions, Selector};
//!
//! let dir = tempfile::tempdir()?;
//! # std::fs::create_dir(dir.path().join("data"))?;
//! # std::fs::write(dir.path().join("data/file"), "content")?;
//! let now = jiff::Timestamp::now();
//! let repository = Repository::init(&dir.path().join("repo"), &InitOptions::new(now))?;
//! let options = BackupOptions::new(vec![dir.path().join("data")], now);
//! let report = repository.backup(&options, &Progress::new())?;
//! assert_eq!(report.statistics.files_new, 1);
//!
//! let snapshot = repository.find(&Selector::Latest(0))?;
//! repository.restore(&snapshot, &RestoreOptions::new(dir.path().join("out")), &Progress::new())?;
//! assert_eq!(std::fs::read(dir.path().join("out/file"))?, b"content");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod backup;
mod blobs;
mod budget;
mod cache;
mod chain;
mod changes;
mod check;
mod compare;
mod config;
mod error;
mod forget;
mod keys;
mod maker;
mod needs;
mod open_file;
mod own;
mod pages;
mod plan;
mod prune;
mod repack;
mod reserve;
mod restore;
mod retention;
mod segments;
mod select;
mod snapshot;
mod store;
mod table;
mod target;
mod view;
mod volumes;
mod work;

pub use backup::{BackupOptions, BackupReport, Unread};
pub use cache::CacheError;
pub use check::{CheckOptions, CheckReport, Fault, Unseen};
pub use compare::{CompareOptions, Comparison, Totals};
pub use config::{Config, Encryption, InitOptions, RepositoryId};
pub use error::RepositoryError;
pub use keys::KeySlot;
pub use open_file::OpenFile;
pub use plan::source_roots;
pub use prune::{MaxUnused, ParseMaxUnusedError, PruneOptions, PrunePlan, PruneReport};
pub use restore::{Mismatch, RestoreOptions, RestorePlan, RestoreReport, RestoreTarget};
pub use retention::{Count, Gap, Group, GroupBy, Period, Policy, Reason, RetentionError, Within, apply};
pub use select::{Selected, Selector, SnapshotFilter, SnapshotPath, is_future};
pub use snapshot::{
    Layout, PageList, PageListError, PageRef, Snapshot, SnapshotName, SnapshotRecord, Statistics,
};
pub use store::Hold;
pub use target::Spared;
pub use view::{Children, SnapshotView, Walk};
pub use work::Work;

use std::path::Path;
use std::sync::{Arc, Mutex, Weak};

use crate::gitkv::KeepLayers;
use crate::layers::{Cold, LayerSet, ObjectId};
use crate::timeline::{Timeline, TimelineError};
use blobs::Vault;
use segments::Segments;
use work::Counted;

/// Version of the repository's format; see `docs/format.md`.
pub const FORMAT_VERSION: u32 = crate::format::VERSION;

/// A repository of snapshots. Any number of threads may read it.
pub struct Repository {
    timeline: Timeline,
    config: Config,
    /// Of an encrypted repository.
    vault: Option<Vault>,
    /// Where the segments are, as of a commit; read when first needed.
    segments: Mutex<Option<(Option<ObjectId>, Arc<Segments>)>>,
    /// What keeps layers, as long as anybody [holds](Self::hold) it.
    hold: Mutex<Weak<KeepLayers>>,
    counted: Counted,
}

impl Repository {
    /// The git repository that holds it.
    pub fn path(&self) -> &Path {
        self.timeline.git().path()
    }

    /// Whether its group is to read and write what is written into it; see [`Git::is_shared`](crate::gitkv::Git::is_shared).
    pub fn is_shared(&self) -> bool {
        self.timeline.git().is_shared()
    }

    /// From now on, layers that are not here are read from `cold`.
    pub fn read_cold(&self, cold: Arc<Cold>) -> Result<(), RepositoryError> {
        Ok(self.timeline.git().read_cold(cold).map_err(TimelineError::from)?)
    }

    /// The layers that hold it.
    pub fn layers(&self) -> LayerSet {
        self.timeline.git().layers()
    }

    /// What was settled when it was made.
    pub fn config(&self) -> &Config {
        &self.config
    }
}
