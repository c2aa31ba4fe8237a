//! Which snapshot is meant.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use jiff::{Timestamp, Zoned};

use crate::repository::store::Record;
use crate::repository::{Repository, RepositoryError, Snapshot};
use crate::spoken;

/// A way to name a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// The newest, or that many before it.
    Latest(usize),
    /// The beginning of an id, or of a time key.
    Id(String),
    /// The newest that was not taken after a time.
    Before(Timestamp),
}

/// The shortest beginning of an id that is taken for one; shorter ones could be numbers in a time.
const SHORTEST_ID: usize = 4;

impl Selector {
    /// Reads `latest`, `latest~N`, the beginning of an id (at least four hexadecimal digits) or of a time
    /// key, or a time relative to `now`.
    pub fn parse(text: &str, now: &Zoned) -> Result<Self, RepositoryError> {
        if let Some(back) = steps_back(text) {
            return Ok(Self::Latest(back));
        }
        let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let is_key = text.len() >= 16
            && text.as_bytes()[8] == b'T'
            && text[..8].bytes().all(|byte| byte.is_ascii_digit());
        if is_key || (is_hex && text.len() >= SHORTEST_ID) {
            return Ok(Self::Id(text.to_owned()));
        }
        let time = spoken::parse(text, now);
        time.map(Self::Before).map_err(|source| RepositoryError::Selector { text: text.to_owned(), source })
    }
}

/// How many snapshots before the newest one `latest` or `latest~N` means.
pub(super) fn steps_back(text: &str) -> Option<usize> {
    match text.strip_prefix("latest")? {
        "" => Some(0),
        back => back.strip_prefix('~')?.parse().ok(),
    }
}

/// The newest of `records`, or that many before it.
pub(super) fn latest(mut records: Vec<Record>, back: usize) -> Result<Record, RepositoryError> {
    let at = records.len().checked_sub(back.saturating_add(1));
    at.map(|at| records.swap_remove(at)).ok_or_else(|| {
        RepositoryError::NoSnapshot(match back {
            0 => "at all".to_owned(),
            back => format!("latest~{back}"),
        })
    })
}

/// A snapshot, and perhaps a path in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotPath {
    /// The snapshot.
    pub selector: Selector,
    /// The path, as bytes.
    pub path: Option<Vec<u8>>,
}

impl SnapshotPath {
    /// Reads `SNAP` or `SNAP:PATH`. Times hold colons too, so the path begins after the first colon before
    /// which there is a snapshot.
    pub fn parse(text: &OsStr, now: &Zoned) -> Result<Self, RepositoryError> {
        let bytes = text.as_bytes();
        let whole = || Selector::parse(&text.to_string_lossy(), now);
        if let Ok(selector) = whole() {
            return Ok(Self { selector, path: None });
        }
        let colons = bytes.iter().enumerate().filter(|(_, byte)| **byte == b':').map(|(at, _)| at);
        // The longest time wins: `2026-11-01 14:00:/etc` is the path `/etc`.
        for at in colons.collect::<Vec<_>>().into_iter().rev() {
            let selector = std::str::from_utf8(&bytes[..at]).ok().map(|text| Selector::parse(text, now));
            if let Some(Ok(selector)) = selector {
                return Ok(Self { selector, path: Some(bytes[at + 1..].to_vec()) });
            }
        }
        whole().map(|selector| Self { selector, path: None })
    }
}

impl Repository {
    /// The snapshot that `selector` names. That another one cannot be read does not matter.
    pub fn find(&self, selector: &Selector) -> Result<Snapshot, RepositoryError> {
        let mut records = self.records()?;
        let found = match selector {
            Selector::Latest(back) => return latest(records, *back)?.snapshot,
            Selector::Before(time) => {
                let end = records.partition_point(|record| record.key.time() <= *time);
                let at = end.checked_sub(1);
                at.map(|at| records.swap_remove(at)).ok_or_else(|| format!("at or before {time}"))
            }
            Selector::Id(prefix) => {
                let lower = prefix.to_ascii_lowercase();
                records.retain(|record| {
                    record.id.to_string().starts_with(&lower) || record.key.to_string().starts_with(prefix)
                });
                if records.len() > 1 {
                    return Err(RepositoryError::Ambiguous(prefix.clone()));
                }
                records.pop().ok_or_else(|| prefix.clone())
            }
        };
        found.map_err(RepositoryError::NoSnapshot)?.snapshot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> SnapshotPath {
        let now: Zoned = "2026-11-20T12:00:00[UTC]".parse().unwrap();
        SnapshotPath::parse(OsStr::new(text), &now).unwrap()
    }

    #[test]
    fn snapshots_are_named_in_any_way_and_paths_follow_a_colon() {
        let time = |text: &str| Selector::Before(text.parse().unwrap());
        let at = |selector, path: Option<&str>| SnapshotPath { selector, path: path.map(|path| path.into()) };
        assert_eq!(parse("latest"), at(Selector::Latest(0), None));
        assert_eq!(parse("latest~2:/etc:x"), at(Selector::Latest(2), Some("/etc:x")));
        assert_eq!(parse("1a2b3c:a b"), at(Selector::Id("1a2b3c".into()), Some("a b")));
        assert_eq!(parse("2026-11-01"), at(time("2026-11-01T00:00:00Z"), None));
        assert_eq!(parse("2026-11-01 14:00"), at(time("2026-11-01T14:00:00Z"), None));
        assert_eq!(parse("2026-11-01 14:00:/etc"), at(time("2026-11-01T14:00:00Z"), Some("/etc")));
        assert_eq!(parse("latest~18446744073709551615"), at(Selector::Latest(usize::MAX), None));
        assert_eq!(parse("latest:"), at(Selector::Latest(0), Some("")));
    }
}
