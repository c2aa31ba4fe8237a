//! Encryption of single blobs with age.
//!
//! A blob becomes one [age](https://age-encryption.org/v1) file, written for one X25519 [`Recipient`] and read
//! by the [`Identity`] that belongs to it: whole, as a stream, or a range of it without the rest, since age
//! encrypts in chunks of 64 KiB. Whoever writes needs nothing secret. An identity is kept in *slots*: age
//! files that hold it as a line of text, each locked by a passphrase or for another recipient ([`Lock`]), and
//! opened with a [`Credential`]. The program `age` reads all of these files, and what it writes is read here.
//!
//! Guarantees: what is decrypted is what was encrypted for that recipient, or an error; each chunk is bound
//! to its place, so chunks cannot be changed, moved or taken from another file. A whole file that was cut
//! short is an error; of a range only the chunks that hold it are looked at. Hostile input costs bounded
//! memory: headers have at most [`MAX_HEADER`] bytes, scrypt a work factor of at most [`MAX_WORK_FACTOR`],
//! which is 1 GiB for a second or four.
//!
//! Does not: tell *who* encrypted a blob (anybody who knows the recipient can), hide the length of a blob
//! beyond a hundred bytes or so, or keep secrets from being swapped to disk.
//!
//! ```
//! use treering::crypt::{Identity, decrypt, decrypt_range, encrypt};
//!
//! let identity = Identity::generate();
//! let content = vec![7; 1_000_000];
//! let sealed = encrypt(&identity.recipient(), &content)?;
//! assert_eq!(decrypt(&identity, &sealed)?, content);
//!
//! let fetch = |offset: u64, len: u64| Ok(sealed[offset as usize..][..len as usize].to_vec());
//! let range = decrypt_range(&identity, sealed.len() as u64, 700_000, 10, fetch)?;
//! assert_eq!(range, [7; 10]);
//! # Ok::<(), treering::crypt::CryptError>(())
//! ```

mod blob;
mod slot;
mod stream;

use std::fmt;
use std::io;
use std::str::FromStr;

use age::secrecy::{ExposeSecret, SecretString};

pub use blob::{
    Encrypting, MAX_HEADER, content_len, decrypt, decrypt_range, decrypting, encrypt, encrypt_in_place,
    encrypting, header_len,
};
pub use slot::{
    Credential, DEFAULT_WORK_FACTOR, Lock, MAX_WORK_FACTOR, Passphrase, SlotKind, lock, rounds, slot_kind,
    unlock,
};

/// Why something could not be encrypted or decrypted.
#[derive(Debug, thiserror::Error)]
pub enum CryptError {
    /// Text that is no public key.
    #[error("{text:?} is no age recipient: give a public key as `age-keygen` prints it, age1…")]
    Recipient {
        /// What was given.
        text: String,
    },
    /// Text without a secret key.
    #[error(
        "no line is an age identity, AGE-SECRET-KEY-1…; one that is itself encrypted must be decrypted first, with `age -d`"
    )]
    Identity,
    /// An empty passphrase.
    #[error("an empty passphrase protects nothing: give another")]
    EmptyPassphrase,
    /// Encrypted for somebody else.
    #[error("it is encrypted to another key")]
    OtherKey,
    /// A slot that costs too much to try.
    #[error("it asks for the scrypt work factor {0}, and at most {MAX_WORK_FACTOR} is tried")]
    Work(u8),
    /// No age file, or a damaged one.
    #[error("it is no age file, or a damaged one: {0}")]
    Damaged(&'static str),
    /// What was to be read cannot be, or is damaged.
    #[error("the encrypted content cannot be read")]
    Read(#[source] io::Error),
    /// What was encrypted cannot be written.
    #[error("cannot encrypt")]
    Encrypt(#[source] Box<age::EncryptError>),
}

impl CryptError {
    /// For `map_err`: what was encrypted cannot be written.
    fn write(error: io::Error) -> Self {
        Self::Encrypt(Box::new(error.into()))
    }
}

impl From<age::DecryptError> for CryptError {
    fn from(error: age::DecryptError) -> Self {
        use age::DecryptError::*;
        match error {
            NoMatchingKeys | DecryptionFailed | KeyDecryptionFailed => Self::OtherKey,
            ExcessiveWork { required, .. } => Self::Work(required),
            InvalidMac => Self::Damaged("its header has another checksum"),
            Io(error) => Self::Read(error),
            _ => Self::Damaged("its header cannot be used"),
        }
    }
}

/// A public key, which encrypts. Its text is `age1…`.
#[derive(Clone, PartialEq, Eq)]
pub struct Recipient(age::x25519::Recipient);

impl FromStr for Recipient {
    type Err = CryptError;

    fn from_str(text: &str) -> Result<Self, CryptError> {
        text.parse().map(Self).map_err(|_| CryptError::Recipient { text: text.to_owned() })
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A secret key, which decrypts. It does not show itself.
#[derive(Clone)]
pub struct Identity(age::x25519::Identity);

impl Identity {
    /// A new key pair.
    pub fn generate() -> Self {
        Self(age::x25519::Identity::generate())
    }

    /// The public key that belongs to it.
    pub fn recipient(&self) -> Recipient {
        Recipient(self.0.to_public())
    }

    /// The identities of a file as `age-keygen` writes it: one a line, beside comments that begin with `#`
    /// and empty lines. Fails where a line is something else, or none is an identity.
    pub fn parse_file(text: &str) -> Result<Vec<Self>, CryptError> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let identities: Vec<_> = lines.map(str::parse).collect::<Result<_, _>>()?;
        if identities.is_empty() { Err(CryptError::Identity) } else { Ok(identities) }
    }

    /// The line `AGE-SECRET-KEY-1…`, with its end.
    fn to_line(&self) -> SecretString {
        format!("{}\n", self.0.to_string().expose_secret()).into()
    }
}

impl FromStr for Identity {
    type Err = CryptError;

    fn from_str(text: &str) -> Result<Self, CryptError> {
        text.parse().map(Self).map_err(|_| CryptError::Identity)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity of {}", self.recipient())
    }
}
