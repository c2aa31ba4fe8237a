//! A finished volume on its way into the repository, with what lies beside it.

use std::collections::HashMap;

use crate::archive::{Codec, SignatureLocation, Volume};
use crate::digest::Digest;
use crate::repository::RepositoryError;
use crate::repository::store::{INDEX_SUFFIX, kind};
use crate::timeline::{Batch, Tier, TimeKey};

/// A volume that is complete, with the signatures that go beside it.
pub(super) struct Finished {
    pub volume: Volume,
    signatures: Vec<u8>,
}

impl Finished {
    /// Takes the signatures of the volume's segments out of `signatures`, and tells its index their places.
    pub fn new(
        mut volume: Volume,
        signatures: &mut HashMap<Digest, Vec<u8>>,
    ) -> Result<Self, RepositoryError> {
        let mut bytes = Vec::new();
        let digests = volume.index.digests().to_vec();
        for (entry, digest) in digests.iter().enumerate() {
            let Some(signature) = signatures.remove(digest) else { continue };
            let location = SignatureLocation { offset: bytes.len() as u64, len: signature.len() as u32 };
            volume.index.set_signature(entry, location)?;
            bytes.extend(signature);
        }
        Ok(Self { volume, signatures: bytes })
    }

    /// Adds the volume, its index and its signatures under a key and a number, and returns the path of the
    /// volume.
    pub fn put(
        self,
        batch: &mut Batch<'_>,
        key: &TimeKey,
        number: usize,
        codec: Codec,
    ) -> Result<String, RepositoryError> {
        let Self { volume, signatures } = self;
        let suffix = format!("-{number}{}", codec.suffix());
        let path = batch.put(kind::ARCHIVES, key, &suffix, &volume.bytes, Tier::Data)?;
        drop(volume.bytes);
        let suffix = format!("-{number}{INDEX_SUFFIX}");
        batch.put(kind::ARCHIVES, key, &suffix, &volume.index.encode()?, Tier::Metadata)?;
        if !signatures.is_empty() {
            batch.put(kind::SIGNATURES, key, &format!("-{number}.cbor.gz"), &signatures, Tier::Metadata)?;
        }
        Ok(path)
    }
}
