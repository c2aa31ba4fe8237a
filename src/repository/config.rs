//! What holds for a whole repository: settled when it is made, and what may be changed later.

use jiff::Timestamp;

use crate::archive::Codec;
use crate::cbor;
pub use crate::config::{Config, Encryption, RepositoryId};
use crate::crypt::Lock;
use crate::delta::{ConfirmKey, SegmentParams};
use crate::format::CONFIG;
use crate::gitkv::{Access, Person};
use crate::repository::{FORMAT_VERSION, Repository, RepositoryError};

/// How a repository is made.
#[derive(Debug, Clone)]
pub struct InitOptions {
    /// The time now.
    pub time: Timestamp,
    /// How volumes are compressed.
    pub compression: Codec,
    /// Whether nothing may be removed.
    pub append_only: bool,
    /// Who on this host may read and write it.
    pub access: Access,
    /// What the key of an encrypted repository is locked with, each lock opening it alone. With none, the
    /// repository is plain.
    pub locks: Vec<Lock>,
}

impl InitOptions {
    /// Volumes as `tar.gz`, plain, for the owner alone, and whatever may be removed.
    pub fn new(time: Timestamp) -> Self {
        Self {
            time,
            compression: Codec::default(),
            append_only: false,
            access: Access::Owner,
            locks: Vec::new(),
        }
    }
}

impl Repository {
    /// Compresses volumes in another way from now on. Those that are there stay as they are until they are
    /// repacked.
    pub fn set_compression(
        &mut self,
        codec: Codec,
        user: &str,
        host: &str,
        now: Timestamp,
    ) -> Result<(), RepositoryError> {
        let who = self.committer(user, host, now);
        let compression = codec.to_string();
        self.change_config(|config| config.compression = compression, "Change the compression", &who)
    }

    /// Changes the configuration, durably.
    pub(super) fn change_config(
        &mut self,
        change: impl FnOnce(&mut Config),
        message: &str,
        who: &Person,
    ) -> Result<(), RepositoryError> {
        let mut config = self.config.clone();
        change(&mut config);
        let mut batch = self.timeline.begin()?;
        batch.set(CONFIG, &cbor::to_vec(&config)?)?;
        batch.commit(who, message)?;
        self.config = config;
        Ok(())
    }
}

/// The configuration of a new repository.
pub(super) fn new_config(
    options: &InitOptions,
    encryption: Option<Encryption>,
) -> Result<Config, RepositoryError> {
    let mut id = [0; 16];
    let mut key = [0; 32];
    getrandom::fill(&mut id).and_then(|()| getrandom::fill(&mut key)).map_err(RepositoryError::Random)?;
    Ok(Config {
        version: FORMAT_VERSION,
        id: RepositoryId::from_bytes(id),
        segments: SegmentParams::default(),
        compression: options.compression.to_string(),
        confirm_key: ConfirmKey(key),
        append_only: options.append_only,
        encryption,
    })
}

impl Config {
    /// How volumes are compressed.
    pub fn codec(&self) -> Result<Codec, RepositoryError> {
        Ok(self.compression.parse::<Codec>()?)
    }
}
