//! A finished volume on its way into the repository, with what lies beside it.

use std::collections::HashMap;

use crate::archive::{Codec, SignatureLocation, Volume};
use crate::digest::Digest;
use crate::format::{INDEX_SUFFIX, SIGNATURES_SUFFIX, kind};
use crate::repository::blobs::Encoded;
use crate::repository::{Repository, RepositoryError};
use crate::timeline::{Batch, Tier, TimeKey};

/// A volume that is complete, with the signatures that go beside it.
pub(super) struct Finished {
    volume: Volume,
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

    /// Makes of it what will lie in the repository. Any thread may do that.
    pub fn encode(self, repository: &Repository) -> Result<ToWrite, RepositoryError> {
        let Self { volume, signatures } = self;
        Ok(ToWrite {
            bytes: volume.bytes.len() as u64,
            archive: repository.encode(volume.bytes, Tier::Data)?,
            index: repository.encode(volume.index.encode()?, Tier::Metadata)?,
            signatures: match signatures.is_empty() {
                true => None,
                false => Some(repository.encode(signatures, Tier::Metadata)?),
            },
        })
    }
}

/// A volume and what goes beside it, as they will lie in the repository.
pub(super) struct ToWrite {
    /// Bytes of the volume, before it was encrypted.
    pub bytes: u64,
    archive: Encoded,
    index: Encoded,
    signatures: Option<Encoded>,
}

impl ToWrite {
    /// Adds the volume, its index and its signatures under a key and a number, and returns the path of the
    /// volume.
    pub fn put(
        self,
        repository: &Repository,
        batch: &mut Batch<'_>,
        key: &TimeKey,
        number: usize,
        codec: Codec,
    ) -> Result<String, RepositoryError> {
        let Self { archive, index, signatures, .. } = self;
        let mut put = |kind, suffix: &str, content: &Encoded| {
            repository.put(batch, kind, key, &format!("-{number}{suffix}"), content)
        };
        let path = put(kind::ARCHIVES, codec.suffix(), &archive)?;
        drop(archive);
        put(kind::ARCHIVES, INDEX_SUFFIX, &index)?;
        if let Some(signatures) = signatures {
            put(kind::SIGNATURES, SIGNATURES_SUFFIX, &signatures)?;
        }
        Ok(path)
    }
}
