//! What a repository says of itself, in `config.cbor`.
//!
//! It comes with every clone and from every remote, so it is parsed whole before any of it is used, and its values are
//! types that hold nothing else: the id becomes the name of a directory.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::archive::Codec;
use crate::cbor::{self, CborError};
use crate::crypt::{CryptError, Recipient};
use crate::delta::{ConfirmKey, SegmentParams};
use crate::digest::{parse_hex, write_hex};

/// It is a few hundred bytes long, and never longer than this.
pub const MAX_CONFIG: u64 = 64 << 10;

/// The configuration of a repository.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Config {
    /// Version of the format.
    pub version: u32,
    /// What no other repository has.
    pub id: RepositoryId,
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Encryption {
    /// The public key that they are encrypted for, as `age1…`.
    pub recipient: String,
}

/// The id of a repository and of its clones: 16 random bytes. Its text is 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RepositoryId([u8; 16]);

/// Text that is not the id of a repository.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the id of a repository has 32 hexadecimal digits in lower case")]
pub struct RepositoryIdError;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It is longer than any.
    #[error("the configuration is longer than {MAX_CONFIG} bytes")]
    TooLarge,
    /// It is not the record that it should be.
    #[error("the configuration is damaged")]
    Malformed(#[source] CborError),
    /// It is of a later version.
    #[error("the configuration has format {0}")]
    Newer(u32),
    /// The public key is none.
    #[error("the configuration names no public key")]
    Recipient(#[source] CryptError),
    /// There is no such compression.
    #[error("the configuration names a compression that does not exist")]
    Compression(#[source] <Codec as FromStr>::Err),
}

impl RepositoryId {
    /// The id that has these bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for RepositoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for RepositoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for RepositoryId {
    type Err = RepositoryIdError;

    fn from_str(text: &str) -> Result<Self, RepositoryIdError> {
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(RepositoryIdError);
        }
        parse_hex(text).map(Self).ok_or(RepositoryIdError)
    }
}

impl TryFrom<String> for RepositoryId {
    type Error = RepositoryIdError;

    fn try_from(text: String) -> Result<Self, RepositoryIdError> {
        text.parse()
    }
}

impl From<RepositoryId> for String {
    fn from(id: RepositoryId) -> Self {
        id.to_string()
    }
}

impl Config {
    /// Parses all of a configuration whose version is at most `newest`.
    pub fn parse(bytes: &[u8], newest: u32) -> Result<Self, ConfigError> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        if bytes.len() as u64 > MAX_CONFIG {
            return Err(ConfigError::TooLarge);
        }
        let Version { version } = cbor::from_slice(bytes).map_err(ConfigError::Malformed)?;
        if version > newest {
            return Err(ConfigError::Newer(version));
        }
        let config: Self = cbor::from_slice(bytes).map_err(ConfigError::Malformed)?;
        config.compression.parse::<Codec>().map_err(ConfigError::Compression)?;
        if let Some(Encryption { recipient }) = &config.encryption {
            recipient.parse::<Recipient>().map_err(ConfigError::Recipient)?;
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_cbor::Value;

    use super::*;

    fn whole() -> BTreeMap<String, Value> {
        let config = Config {
            version: 1,
            id: RepositoryId::from_bytes([0xab; 16]),
            segments: SegmentParams::default(),
            compression: "gzip:6".into(),
            confirm_key: ConfirmKey([7; 32]),
            append_only: true,
            encryption: None,
        };
        cbor::from_slice(&cbor::to_vec(&config).unwrap()).unwrap()
    }

    fn parse(map: &BTreeMap<String, Value>) -> Result<Config, ConfigError> {
        Config::parse(&cbor::to_vec(map).unwrap(), 1)
    }

    #[test]
    fn a_configuration_is_taken_whole_or_not_at_all() {
        let config = parse(&whole()).unwrap();
        assert_eq!(config.id.to_string(), "ab".repeat(16));
        for key in ["version", "id", "segments", "compression", "confirm_key"] {
            let mut map = whole();
            map.remove(key);
            assert!(parse(&map).is_err(), "without {key}");
        }
        let map = |value: Vec<(&str, Value)>| {
            Value::Map(value.into_iter().map(|(key, value)| (Value::Text(key.into()), value)).collect())
        };
        let text = |text: &str| Value::Text(text.into());
        for (key, value) in [
            ("id", text("../../../../home/me")),
            ("id", text("")),
            ("id", text(&"A".repeat(32))),
            ("id", text(&format!("+{}", "a".repeat(31)))),
            ("compression", text("zip")),
            (
                "segments",
                map(vec![("min", Value::Integer(1)), ("avg", Value::Integer(1)), ("max", Value::Integer(1))]),
            ),
            ("confirm_key", Value::Bytes(vec![1])),
            ("encryption", map(vec![("recipient", text("age1nobody"))])),
            ("append_only", text("yes")),
        ] {
            let mut map = whole();
            map.insert(key.into(), value.clone());
            assert!(parse(&map).is_err(), "{key} {value:?}");
        }
        let mut later = whole();
        later.insert("version".into(), Value::Integer(2));
        later.remove("id");
        assert!(matches!(parse(&later), Err(ConfigError::Newer(2))));
        let mut more = whole();
        more.insert("colour".into(), text("blue"));
        assert!(parse(&more).is_ok());
        assert!(matches!(Config::parse(&vec![0; (64 << 10) + 1], 1), Err(ConfigError::TooLarge)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_configuration_or_an_error(bytes: Vec<u8>, id in ".{0,40}") {
            let _ = Config::parse(&bytes, 1);
            if let Ok(id) = id.parse::<RepositoryId>() {
                prop_assert!(!id.to_string().contains(['/', '.']));
            }
        }
    }
}
