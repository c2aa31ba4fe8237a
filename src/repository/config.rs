//! What is settled when a repository is made.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::archive::Codec;
use crate::delta::{ConfirmKey, SegmentParams};
use crate::repository::{FORMAT_VERSION, RepositoryError};

/// Where the configuration lies in the tree.
pub(super) const PATH: &str = "config.cbor";

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
}

impl InitOptions {
    /// Volumes as `tar.gz`, and whatever may be removed.
    pub fn new(time: Timestamp) -> Self {
        Self { time, compression: Codec::default(), append_only: false }
    }
}

impl Config {
    pub(super) fn new(options: &InitOptions) -> Result<Self, RepositoryError> {
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
        })
    }

    /// How volumes are compressed.
    pub fn codec(&self) -> Result<Codec, RepositoryError> {
        Ok(self.compression.parse::<Codec>()?)
    }
}
