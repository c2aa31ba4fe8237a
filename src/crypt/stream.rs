//! The payload of an age file: chunks of 64 KiB, each sealed by itself with ChaCha20-Poly1305 (the construction
//! STREAM; <https://age-encryption.org/v1>).
//!
//! `age` makes and opens the header. The chunks are sealed here, by `ring`, which takes a third of the time, and
//! where they lie, without another copy of them.

use std::cell::RefCell;
use std::collections::HashSet;

use age::secrecy::ExposeSecret;
use age::{EncryptError, Encryptor};
use age_core::format::{FILE_KEY_BYTES, FileKey, Stanza};
use ring::{aead, error::Unspecified, hkdf};

use super::CryptError;

/// Content in one chunk; all but the last have exactly that.
pub(super) const CHUNK: usize = 64 * 1024;
/// What a chunk grows by.
pub(super) const TAG: usize = 16;
/// What stands between header and chunks.
pub(super) const NONCE: usize = 16;

/// Makes an age file of `content`, where it lies. Grows it once.
pub(super) fn seal(recipient: &dyn age::Recipient, content: &mut Vec<u8>) -> Result<(), CryptError> {
    let (head, key) = begin(recipient)?;
    let len = content.len();
    let chunks = len.div_ceil(CHUNK).max(1);
    content.reserve_exact(head.len() + chunks * TAG);
    content.resize(len + head.len() + chunks * TAG, 0);
    // From the last to the first, so that none is moved to where another one still lies.
    for number in (0..chunks).rev() {
        let from = number * CHUNK;
        let chunk_len = CHUNK.min(len - from);
        let to = head.len() + number * (CHUNK + TAG);
        content.copy_within(from..from + chunk_len, to);
        let (chunk, tag) = content[to..to + chunk_len + TAG].split_at_mut(chunk_len);
        let nonce = nonce(number as u64, number + 1 == chunks);
        let sealed = key.seal_in_place_separate_tag(nonce, aead::Aad::empty(), chunk);
        tag.copy_from_slice(sealed.map_err(refused)?.as_ref());
    }
    content[..head.len()].copy_from_slice(&head);
    Ok(())
}

/// The header of a new file with the nonce that follows it, and what its chunks are sealed with.
fn begin(recipient: &dyn age::Recipient) -> Result<(Vec<u8>, aead::LessSafeKey), CryptError> {
    let tap = Tap { recipient, file_key: RefCell::new(None) };
    let encryptor = Encryptor::with_recipients(std::iter::once(&tap as &dyn age::Recipient))
        .map_err(|error| CryptError::Encrypt(error.into()))?;
    let mut head = Vec::new();
    // It writes chunks when it has them, and gets none.
    drop(encryptor.wrap_output(&mut head).map_err(CryptError::write)?);
    let salt = head.last_chunk::<NONCE>().copied().unwrap_or_default();
    let file_key = tap.file_key.take().ok_or_else(|| refused(Unspecified))?;
    let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, &salt).extract(file_key.expose_secret());
    let key = secret.expand(&[b"payload"], &aead::CHACHA20_POLY1305).map_err(refused)?;
    Ok((head, aead::LessSafeKey::new(key.into())))
}

/// Eleven bytes of the chunk's number, and one that tells the last.
fn nonce(number: u64, is_last: bool) -> aead::Nonce {
    let mut nonce = [0; aead::NONCE_LEN];
    nonce[3..11].copy_from_slice(&number.to_be_bytes());
    nonce[11] = is_last.into();
    aead::Nonce::assume_unique_for_key(nonce)
}

fn refused(error: Unspecified) -> CryptError {
    CryptError::write(std::io::Error::other(error.to_string()))
}

/// Hands the file key on to a recipient, and keeps it.
struct Tap<'a> {
    recipient: &'a dyn age::Recipient,
    file_key: RefCell<Option<FileKey>>,
}

impl age::Recipient for Tap<'_> {
    fn wrap_file_key(&self, file_key: &FileKey) -> Result<(Vec<Stanza>, HashSet<String>), EncryptError> {
        let copy = |to: &mut [u8; FILE_KEY_BYTES]| to.copy_from_slice(file_key.expose_secret());
        self.file_key.replace(Some(FileKey::init_with_mut(copy)));
        self.recipient.wrap_file_key(file_key)
    }
}
