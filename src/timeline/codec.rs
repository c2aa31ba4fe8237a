//! What is done to a blob's content before it is stored: compression, then encryption.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use jiff::Timestamp;

/// How content is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// gzip (RFC 1952).
    Gzip,
    /// bzip2.
    Bzip2,
    /// xz.
    Xz,
}

/// A secret of the [Fernet](https://github.com/fernet/spec) scheme: AES-128 in CBC mode, authenticated by
/// HMAC-SHA-256.
#[derive(Clone)]
pub struct Key {
    text: String,
    fernet: fernet::Fernet,
}

/// Compression and encryption together.
#[derive(Debug, Clone, Default)]
pub struct Codec {
    /// How new content is compressed.
    pub compression: Compression,
    /// Encrypts new content, and decrypts what is there.
    pub key: Option<Key>,
}

/// Why content could not be brought into its stored form or back.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The name of no compression.
    #[error("{0:?} is no compression; there are none, gzip, bz2 and xz")]
    Compression(String),
    /// Text that is no key.
    #[error("this is no key: expected 32 bytes in url-safe base64")]
    Key,
    /// The content is encrypted, and there is no key.
    #[error("it is encrypted; give its key")]
    Locked,
    /// The key is another one, or the content was changed.
    #[error("it cannot be decrypted: the key is wrong or it is damaged")]
    Decrypt,
    /// The content could not be compressed.
    #[error("it cannot be compressed with {compression}")]
    Compress {
        /// The compression asked for.
        compression: Compression,
        /// The cause.
        source: io::Error,
    },
    /// The content does not follow the format of its compression.
    #[error("it cannot be decompressed: it is damaged or not compressed with {compression}")]
    Decompress {
        /// The compression that it should have.
        compression: Compression,
        /// The cause.
        source: io::Error,
    },
    /// The content is larger than [`MAX_CONTENT`].
    #[error("it is larger than 1 GiB, which is the most that a blob holds: cut it into several")]
    TooLarge,
}

/// The largest content in bytes that is stored, and that is decompressed, as a bound for what a hostile blob
/// can ask for.
pub const MAX_CONTENT: u64 = 1 << 30;

/// How much memory an xz stream may ask for. The strongest preset needs a quarter of it.
const XZ_MEMORY: u64 = 256 << 20;

const LEVEL: u32 = 6;

/// What the name of encrypted content ends in.
const ENCRYPTED: &str = ".fernet";

impl Compression {
    const ALL: [Self; 4] = [Self::None, Self::Gzip, Self::Bzip2, Self::Xz];

    /// What the name of content ends in that is compressed so.
    const fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Gzip => ".gz",
            Self::Bzip2 => ".bz2",
            Self::Xz => ".xz",
        }
    }

    fn compress(self, content: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        match self {
            Self::None => return Ok(content.to_owned()),
            Self::Gzip => flate2::bufread::GzEncoder::new(content, flate2::Compression::new(LEVEL))
                .read_to_end(&mut out),
            Self::Bzip2 => {
                bzip2::bufread::BzEncoder::new(content, bzip2::Compression::best()).read_to_end(&mut out)
            }
            Self::Xz => liblzma::bufread::XzEncoder::new(content, LEVEL).read_to_end(&mut out),
        }?;
        Ok(out)
    }

    fn decompress(self, stored: &[u8]) -> Result<Vec<u8>, CodecError> {
        let source: Box<dyn Read + '_> = match self {
            Self::None => Box::new(stored),
            Self::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(stored)),
            Self::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(stored)),
            Self::Xz => {
                let stream =
                    liblzma::stream::Stream::new_auto_decoder(XZ_MEMORY, liblzma::stream::CONCATENATED);
                let stream = stream.map_err(|error| self.damaged(error.into()))?;
                Box::new(liblzma::bufread::XzDecoder::new_stream(stored, stream))
            }
        };
        let mut content = Vec::new();
        let len =
            source.take(MAX_CONTENT + 1).read_to_end(&mut content).map_err(|error| self.damaged(error))?;
        match len as u64 > MAX_CONTENT {
            true => Err(CodecError::TooLarge),
            false => Ok(content),
        }
    }

    fn damaged(self, source: io::Error) -> CodecError {
        CodecError::Decompress { compression: self, source }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Bzip2 => "bz2",
            Self::Xz => "xz",
        })
    }
}

impl FromStr for Compression {
    type Err = CodecError;

    fn from_str(text: &str) -> Result<Self, CodecError> {
        let found = Self::ALL.into_iter().find(|compression| compression.to_string() == text);
        found.ok_or_else(|| CodecError::Compression(text.to_owned()))
    }
}

impl Key {
    /// A new random key.
    pub fn generate() -> Result<Self, CodecError> {
        fernet::Fernet::generate_key().parse()
    }

    /// The key as text, to be kept secret.
    pub fn expose(&self) -> &str {
        &self.text
    }

    fn decrypt(&self, stored: &[u8]) -> Result<Vec<u8>, CodecError> {
        let token = str::from_utf8(stored).map_err(|_| CodecError::Decrypt)?;
        // Told that it is the end of time, it refuses no token for a clock that went wrong.
        self.fernet.decrypt_at_time(token, None, u64::MAX - 60).map_err(|_| CodecError::Decrypt)
    }
}

impl FromStr for Key {
    type Err = CodecError;

    fn from_str(text: &str) -> Result<Self, CodecError> {
        let text = text.trim().to_owned();
        let fernet = fernet::Fernet::new(&text).ok_or(CodecError::Key)?;
        Ok(Self { text, fernet })
    }
}

/// Shows nothing of the secret.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

impl Codec {
    /// What the names of blobs end in that are encoded so; [`decode`](Self::decode) understands it.
    pub(super) fn suffix(&self) -> String {
        let encrypted = if self.key.is_some() { ENCRYPTED } else { "" };
        format!("{}{encrypted}", self.compression.suffix())
    }

    /// The stored form of `content`. Encrypted content carries `time` in clear.
    pub(super) fn encode(&self, content: &[u8], time: Timestamp) -> Result<Vec<u8>, CodecError> {
        if content.len() as u64 > MAX_CONTENT {
            return Err(CodecError::TooLarge);
        }
        let compression = self.compression;
        let failed = |source| CodecError::Compress { compression, source };
        let stored = compression.compress(content).map_err(failed)?;
        let seconds = u64::try_from(time.as_second()).unwrap_or(0);
        match &self.key {
            Some(key) => Ok(key.fernet.encrypt_at_time(&stored, seconds).into_bytes()),
            None => Ok(stored),
        }
    }

    /// The content of a blob whose name ends in `suffix`. `None` when that is no suffix of any codec.
    pub(super) fn decode_named(&self, suffix: &str, stored: Vec<u8>) -> Option<Result<Vec<u8>, CodecError>> {
        let (suffix, is_encrypted) = match suffix.strip_suffix(ENCRYPTED) {
            Some(suffix) => (suffix, true),
            None => (suffix, false),
        };
        let compression = Compression::ALL.into_iter().find(|compression| compression.suffix() == suffix)?;
        Some(match (&self.key, is_encrypted) {
            (_, false) => compression.decompress(&stored),
            (None, true) => Err(CodecError::Locked),
            (Some(key), true) => key.decrypt(&stored).and_then(|stored| compression.decompress(&stored)),
        })
    }

    /// The content of a blob that this very codec encoded.
    pub(super) fn decode(&self, stored: &[u8]) -> Result<Vec<u8>, CodecError> {
        match &self.key {
            Some(key) => self.compression.decompress(&key.decrypt(stored)?),
            None => self.compression.decompress(stored),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    const TIME: Timestamp = Timestamp::UNIX_EPOCH;

    fn codecs() -> impl Iterator<Item = Codec> {
        let key = Key::generate().unwrap();
        Compression::ALL
            .into_iter()
            .flat_map(move |compression| [None, Some(key.clone())].map(|key| Codec { compression, key }))
    }

    #[test]
    fn what_could_not_be_read_again_is_not_written() {
        // Zeros that nobody reads take no memory.
        let content = vec![0; MAX_CONTENT as usize + 1];
        for codec in codecs() {
            assert!(matches!(codec.encode(&content, TIME), Err(CodecError::TooLarge)), "{codec:?}");
        }
    }

    #[test]
    fn gives_back_what_it_was_given() {
        for codec in codecs() {
            for content in [&b""[..], b"x", &b"repeated ".repeat(50_000)] {
                let stored = codec.encode(content, TIME).unwrap();
                assert_eq!(codec.decode(&stored).unwrap(), content, "{codec:?}");
                let other = Codec { compression: Compression::None, key: codec.key.clone() };
                assert_eq!(
                    other.decode_named(&codec.suffix(), stored).unwrap().unwrap(),
                    content,
                    "{codec:?}"
                );
            }
        }
    }

    #[test]
    fn a_wrong_key_or_a_changed_byte_is_an_error() {
        let other = Key::generate().unwrap();
        for codec in codecs().filter(|codec| codec.suffix() != "") {
            let content = b"content".repeat(50);
            let stored = codec.encode(&content, TIME).unwrap();
            if codec.key.is_some() {
                let wrong = Codec { key: Some(other.clone()), ..codec.clone() };
                assert!(matches!(wrong.decode(&stored), Err(CodecError::Decrypt)));
                let none = Codec { key: None, ..codec.clone() };
                assert!(matches!(
                    none.decode_named(&codec.suffix(), stored.clone()),
                    Some(Err(CodecError::Locked))
                ));
            }
            for at in 0..stored.len() {
                let mut damaged = stored.clone();
                damaged[at] ^= 1;
                // Some bits of gzip's header and of base64's end mean nothing.
                assert!(codec.decode(&damaged).map_or(true, |read| read == content), "{codec:?} {at}");
                let cut = codec.decode(&stored[..at]);
                assert!(cut.map_or(true, |read| read == content || at == 0), "{codec:?} {at}");
            }
        }
    }

    #[test]
    fn a_token_from_a_clock_that_is_ahead_is_read() {
        let codec = Codec { compression: Compression::None, key: Some(Key::generate().unwrap()) };
        let stored = codec.encode(b"x", "9999-01-01T00:00:00Z".parse().unwrap()).unwrap();
        assert_eq!(codec.decode(&stored).unwrap(), b"x");
    }

    #[test]
    fn the_usual_programs_read_it_and_it_reads_theirs_in_several_parts() {
        for (compression, program) in
            [(Compression::Gzip, "gzip"), (Compression::Bzip2, "bzip2"), (Compression::Xz, "xz")]
        {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("file");
            let codec = Codec { compression, key: None };
            std::fs::write(
                &file,
                [codec.encode(b"one ", TIME).unwrap(), codec.encode(b"two", TIME).unwrap()].concat(),
            )
            .unwrap();
            let run = |argument: &str, path: &std::path::Path| {
                let input = std::fs::File::open(path).unwrap();
                Command::new(program).arg(argument).stdin(Stdio::from(input)).output()
            };
            let output = match run("-dc", &file) {
                Err(error) if std::env::var_os("CI").is_none() => {
                    eprintln!("skipped: {program} does not run: {error}");
                    continue;
                }
                output => output.unwrap(),
            };
            assert_eq!(output.stdout, b"one two", "{program}");
            assert_eq!(codec.decode(&std::fs::read(&file).unwrap()).unwrap(), b"one two");
            std::fs::write(&file, b"theirs").unwrap();
            let theirs = run("-c", &file).unwrap().stdout;
            assert_eq!(codec.decode(&theirs).unwrap(), b"theirs");
        }
    }

    #[test]
    fn a_key_is_never_shown_by_accident() {
        let key = Key::generate().unwrap();
        assert!(
            !format!("{:?}", Codec { key: Some(key.clone()), ..Codec::default() }).contains(key.expose())
        );
        assert!("too short".parse::<Key>().is_err());
        assert_eq!(format!(" {}\n", key.expose()).parse::<Key>().unwrap().expose(), key.expose());
    }
}
