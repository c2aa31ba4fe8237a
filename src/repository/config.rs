//! What holds for a whole repository: settled when it is made, and what may be changed later.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::archive::Codec;
use crate::cbor;
use crate::crypt::Lock;
use crate::delta::{ConfirmKey, SegmentParams};
use crate::gitkv::{Access, Person};
use crate::repository::{FORMAT_VERSION, Repository, RepositoryError};

/// Where the configuration lies in the tree.
pub(super) const PATH: &str = "config.cbor";

/// It is a few hundred bytes long, and never longer than this.
pub(super) const MAX_LEN: u64 = 64 << 10;

/// The configuration of a repository.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Config {
    /// Version of the format.
    pub version: u32,
    /// 32 hexadecimal digits that no other repository has.
    pub id: String,
    /// Where files are cut.
    pub segments: SegmentParams,
    /// How volumes are compressed, as in [`Codec`]'s text form. Volumes say what they are, so this can change
    /// at any time.
    pub compression: String,
    /// Key of the BLAKE3 values that confirm blocks.
    pub confirm_key: ConfirmKey,
    /// Whether nothing may be removed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub append_only: bool,
    /// How blobs are encrypted; plain where it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encryption>,
}

/// How the blobs of a repository are encrypted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Encryption {
    /// The public key that they are encrypted for, as `age1…`.
    pub recipient: String,
}

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
        batch.set(PATH, &cbor::to_vec(&config)?)?;
        batch.commit(who, message)?;
        self.config = config;
        Ok(())
    }
}

impl Config {
    pub(super) fn new(
        options: &InitOptions,
        encryption: Option<Encryption>,
    ) -> Result<Self, RepositoryError> {
        let mut id = [0; 16];
        let mut key = [0; 32];
        getrandom::fill(&mut id).and_then(|()| getrandom::fill(&mut key)).map_err(RepositoryError::Random)?;
        let mut hex = String::new();
        // Writing to a string does not fail.
        let _ = crate::digest::write_hex(&mut hex, &id);
        Ok(Self {
            version: FORMAT_VERSION,
            id: hex,
            segments: SegmentParams::default(),
            compression: options.compression.to_string(),
            confirm_key: ConfirmKey(key),
            append_only: options.append_only,
            encryption,
        })
    }

    /// How volumes are compressed.
    pub fn codec(&self) -> Result<Codec, RepositoryError> {
        Ok(self.compression.parse::<Codec>()?)
    }
}
