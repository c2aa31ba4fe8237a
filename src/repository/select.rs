//! Which snapshots are meant: a [`Selector`] names one, a [`SnapshotFilter`] says among which.
//!
//! A snapshot that is dated in the future is not `latest`: one backup made with a wrong clock would otherwise
//! stand for the newest state until its date has come. [`Repository::select`] passes over such snapshots and
//! names them, so that a person can be told.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

use jiff::{SignedDuration, Timestamp, Zoned};

use crate::repository::snapshot::SnapshotName;
use crate::repository::store::Record;
use crate::repository::{Repository, RepositoryError, Snapshot};
use crate::spoken::{self, SpokenError, TimeRange};
use crate::timeline::TimeKey;

/// A way to name a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// The newest, or that many before it.
    Latest(usize),
    /// The beginning of an id, or of a time key.
    Id(String),
    /// The newest that was not taken after the end of a time.
    Before(TimeRange),
}

/// The shortest beginning of an id that is taken for one; shorter ones could be numbers in a time.
const SHORTEST_ID: usize = 4;

/// How far the clocks of two hosts may differ before a snapshot counts as dated in the future.
const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_mins(10);

/// Whether a snapshot of `time` is dated in the future at `now`. Ten minutes are allowed for clocks that differ.
pub fn is_future(time: Timestamp, now: Timestamp) -> bool {
    time.duration_since(now) > CLOCK_TOLERANCE
}

impl Selector {
    /// Reads `latest`, `latest~N`, the beginning of an id (at least four hexadecimal digits) or of a time
    /// key, or a time relative to `now`.
    pub fn parse(text: &str, now: &Zoned) -> Result<Self, RepositoryError> {
        if let Some(selector) = Self::parse_name(text) {
            return Ok(selector);
        }
        match spoken::parse_range(text, now) {
            Ok(range) => Ok(Self::Before(range)),
            Err(_) if is_short_id(text) => Err(RepositoryError::ShortId(text.to_owned())),
            Err(source @ SpokenError::OutOfRange { .. }) => Err(RepositoryError::Time(source)),
            Err(SpokenError::Unknown { .. }) => Err(RepositoryError::Selector(text.to_owned())),
        }
    }

    /// Reads what [`parse`](Self::parse) does, except for times.
    fn parse_name(text: &str) -> Option<Self> {
        if let Some(back) = text.strip_prefix("latest") {
            return match back {
                "" => Some(Self::Latest(0)),
                back => back.strip_prefix('~')?.parse().ok().map(Self::Latest),
            };
        }
        // A path may follow the key, behind a colon; that is not part of it.
        let is_key = (16..=TimeKey::LEN).contains(&text.len())
            && text.as_bytes()[8] == b'T'
            && text[..8].bytes().all(|byte| byte.is_ascii_digit())
            && text.bytes().all(|byte| byte.is_ascii_hexdigit() || b"TZ.-".contains(&byte));
        let is_id = is_hex(text) && text.len() >= SHORTEST_ID;
        (is_key || is_id).then(|| Self::Id(text.to_owned()))
    }
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_short_id(text: &str) -> bool {
    is_hex(text) && (1..SHORTEST_ID).contains(&text.len())
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
        let colons: Vec<usize> = colons.collect();
        // The longest time wins: `2026-11-01 14:00:/etc` is the path `/etc`.
        for &at in colons.iter().rev() {
            let selector = std::str::from_utf8(&bytes[..at]).ok().map(|text| Selector::parse(text, now));
            if let Some(Ok(selector)) = selector {
                return Ok(Self { selector, path: Some(bytes[at + 1..].to_vec()) });
            }
        }
        let first = colons.first().and_then(|&at| std::str::from_utf8(&bytes[..at]).ok());
        match first.filter(|first| is_short_id(first)) {
            Some(first) => Err(RepositoryError::ShortId(first.to_owned())),
            None => whole().map(|selector| Self { selector, path: None }),
        }
    }
}

/// Which snapshots are looked at. The default looks at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SnapshotFilter {
    /// Those of any of these hosts; of all where there is none.
    pub hosts: Vec<String>,
    /// Those that hold all of these directories.
    pub paths: Vec<Vec<u8>>,
    /// Those that hold no directories but [`paths`](Self::paths).
    pub exactly: bool,
    /// Those that have all tags of any of these lists; all where there is none.
    pub tags: Vec<Vec<String>>,
}

impl SnapshotFilter {
    /// Whether `snapshot` is one of them.
    pub fn matches(&self, snapshot: &Snapshot) -> bool {
        let record = &snapshot.record;
        let is_host = self.hosts.is_empty() || self.hosts.contains(&record.host);
        let holds_all = self.paths.iter().all(|path| record.roots.iter().any(|root| **root == **path));
        let holds_others =
            self.exactly && record.roots.iter().any(|root| !self.paths.iter().any(|path| **root == **path));
        let is_tagged = self.tags.is_empty() || self.tags.iter().any(|tags| snapshot.has_tags(tags));
        is_host && holds_all && !holds_others && is_tagged
    }

    /// Whether it looks at all snapshots.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for SnapshotFilter {
    /// Writes what follows the word "snapshot", such as ` of host a, of /etc and /home`; nothing where all are
    /// looked at.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let paths: Vec<_> = self.paths.iter().map(|path| String::from_utf8_lossy(path)).collect();
        let tags: Vec<_> = self.tags.iter().map(|tags| tags.join(",")).collect();
        let parts = [
            ("of host", self.hosts.join(" or ")),
            ("of", paths.join(" and ")),
            ("tagged", tags.join(" or ")),
        ];
        let parts = parts.iter().filter(|(_, names)| !names.is_empty());
        let parts: Vec<_> = parts.map(|(word, names)| format!("{word} {names}")).collect();
        if parts.is_empty() { Ok(()) } else { write!(f, " {}", parts.join(", ")) }
    }
}

/// What [`Repository::select`] found.
#[derive(Debug)]
pub struct Selected<T> {
    /// What was named.
    pub found: T,
    /// Snapshots that the filter lets through and that are dated in the future, where `latest` was asked for. It
    /// names one of them only if there are no others.
    pub future: Vec<SnapshotName>,
}

impl Repository {
    /// The snapshot that `selector` names, among all and whatever their dates. That another one cannot be read does
    /// not matter.
    pub fn find(&self, selector: &Selector) -> Result<Snapshot, RepositoryError> {
        Ok(self.select(selector, &SnapshotFilter::default(), Timestamp::MAX)?.found)
    }

    /// The snapshot that `selector` names among those that `filter` lets through, at `now`. A record that cannot be
    /// read could be any of them: it fails to be found where it is the one that is named.
    pub fn select(
        &self,
        selector: &Selector,
        filter: &SnapshotFilter,
        now: Timestamp,
    ) -> Result<Selected<Snapshot>, RepositoryError> {
        let _hold = self.hold()?;
        let Selected { found, future } = choose(self.records()?, selector, filter, now)?;
        Ok(Selected { found: found.snapshot?, future })
    }

    /// What the snapshot is called that `text` names among those that `filter` lets through: `latest`, `latest~N`, or
    /// the beginning of its id or of its time key. Times name nothing here, since a snapshot near a time is not one
    /// that anybody meant to remove. The record itself need not be readable, unless a filter asks what it says.
    pub fn name_of(
        &self,
        text: &str,
        filter: &SnapshotFilter,
        now: Timestamp,
    ) -> Result<Selected<SnapshotName>, RepositoryError> {
        let _hold = self.hold()?;
        let selector = Selector::parse_name(text).ok_or_else(|| match is_short_id(text) {
            true => RepositoryError::ShortId(text.to_owned()),
            false => RepositoryError::NoId(text.to_owned()),
        })?;
        let Selected { found, future } = choose(self.records()?, &selector, filter, now)?;
        let name = SnapshotName::from(&found);
        match found.snapshot {
            Err(error) if !filter.is_empty() => Err(error),
            _ => Ok(Selected { found: name, future }),
        }
    }
}

/// The one of `records`, the oldest first, that `selector` names.
fn choose(
    mut records: Vec<Record>,
    selector: &Selector,
    filter: &SnapshotFilter,
    now: Timestamp,
) -> Result<Selected<Record>, RepositoryError> {
    records.retain(|record| record.snapshot.as_ref().map_or(true, |snapshot| filter.matches(snapshot)));
    let none = |what: &str| RepositoryError::NoSnapshot(format!("{what}{filter}"));
    let past = |records: &[Record], end| records.partition_point(|record| record.key.time() <= end);
    let mut future = Vec::new();
    let at = match selector {
        Selector::Latest(back) => {
            let present = records.partition_point(|record| !is_future(record.key.time(), now));
            future.extend(records[present..].iter().map(SnapshotName::from));
            let end = if present == 0 { records.len() } else { present };
            let what = if *back == 0 { "at all".to_owned() } else { format!("latest~{back}") };
            end.checked_sub(back.saturating_add(1)).ok_or_else(|| none(&what))?
        }
        Selector::Before(range) => {
            let end = past(&records, range.last.timestamp());
            let what =
                || format!("at or before {}", spoken::local(range.last.timestamp(), range.last.time_zone()));
            end.checked_sub(1).ok_or_else(|| none(&what()))?
        }
        Selector::Id(prefix) => {
            let lower = prefix.to_ascii_lowercase();
            let is_named = |record: &Record| {
                record.id.to_string().starts_with(&lower) || record.key.to_string().starts_with(prefix)
            };
            let named: Vec<usize> =
                (0..records.len()).filter(|&at| records.get(at).is_some_and(is_named)).collect();
            match named.as_slice() {
                [] => return Err(none(prefix)),
                [only] => *only,
                several => {
                    let names = several.iter().filter_map(|&at| records.get(at)).map(SnapshotName::from);
                    return Err(ambiguous(prefix, &names.collect::<Vec<_>>()));
                }
            }
        }
    };
    Ok(Selected { found: records.swap_remove(at), future })
}

/// How many of the snapshots that one text names are listed.
const LISTED: usize = 5;

/// `text` names all of `names`.
fn ambiguous(text: &str, names: &[SnapshotName]) -> RepositoryError {
    let mut listed: Vec<String> = names.iter().take(LISTED).map(|name| name.key.to_string()).collect();
    listed.extend((names.len() > LISTED).then(|| format!("{} more", names.len() - LISTED)));
    RepositoryError::Ambiguous { text: text.to_owned(), keys: listed.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::ObjectId;

    fn parse(text: &str) -> SnapshotPath {
        let now: Zoned = "2026-11-20T12:00:00[UTC]".parse().unwrap();
        SnapshotPath::parse(OsStr::new(text), &now).unwrap()
    }

    #[test]
    fn snapshots_are_named_in_any_way_and_paths_follow_a_colon() {
        let time = |first: &str, last: &str| {
            let [first, last] = [first, last].map(|end| format!("2026-11-01T{end}[UTC]").parse().unwrap());
            Selector::Before(TimeRange { first, last })
        };
        let at = |selector, path: Option<&str>| SnapshotPath { selector, path: path.map(|path| path.into()) };
        let minute = || time("14:00:00", "14:00:59.999999999");
        assert_eq!(parse("latest"), at(Selector::Latest(0), None));
        assert_eq!(parse("latest~2:/etc:x"), at(Selector::Latest(2), Some("/etc:x")));
        assert_eq!(parse("1a2b3c:a b"), at(Selector::Id("1a2b3c".into()), Some("a b")));
        let key = "20261101T140000.000000000Z-5f0c11ab92de7340";
        assert_eq!(parse(key), at(Selector::Id(key.into()), None));
        assert_eq!(parse(&format!("{key}:notes")), at(Selector::Id(key.into()), Some("notes")));
        assert_eq!(parse("2026-11-01"), at(time("00:00:00", "23:59:59.999999999"), None));
        assert_eq!(parse("2026-11-01 14:00"), at(minute(), None));
        assert_eq!(parse("2026-11-01 14:00:/etc"), at(minute(), Some("/etc")));
        assert_eq!(parse("2026-11-01 14:00+00:00:/etc"), at(minute(), Some("/etc")));
        assert_eq!(parse("latest~18446744073709551615"), at(Selector::Latest(usize::MAX), None));
        assert_eq!(parse("latest:"), at(Selector::Latest(0), Some("")));
    }

    #[test]
    fn what_names_no_snapshot_is_told_in_one_sentence() {
        let now: Zoned = "2026-11-20T12:00:00[UTC]".parse().unwrap();
        let fault = |text: &str| SnapshotPath::parse(OsStr::new(text), &now).unwrap_err();
        for short in ["1a2", "1a2:etc", "0"] {
            assert!(matches!(fault(short), RepositoryError::ShortId(_)), "{short}");
        }
        for wrong in ["", "soon", "latest~x", "latests", "soon:x", ":x"] {
            let fault = fault(wrong);
            assert!(matches!(fault, RepositoryError::Selector(_)), "{wrong}: {fault}");
            assert!(fault.to_string().len() < 150, "{fault}");
        }
        assert!(matches!(fault("19000 years ago"), RepositoryError::Time(_)));
    }

    /// Records whose content cannot be read, the oldest first, each with its id.
    fn records(all: &[(&str, u8)]) -> Vec<Record> {
        let record = |&(time, id): &(&str, u8)| Record {
            key: TimeKey::new(time.parse().unwrap(), id.into()).unwrap(),
            id: ObjectId::from_bytes([id; 20]),
            shares_id: false,
            snapshot: Err(RepositoryError::NoSources),
        };
        all.iter().map(record).collect()
    }

    #[test]
    fn what_is_dated_in_the_future_is_latest_only_if_there_is_nothing_else() {
        let all = [("2026-11-18T12:00:00Z", 1), ("2026-11-19T12:00:00Z", 2), ("2030-01-01T00:00:00Z", 3)];
        let latest = |back, now: &str| {
            let filter = SnapshotFilter::default();
            choose(records(&all), &Selector::Latest(back), &filter, now.parse().unwrap())
                .map(|chosen| (chosen.found.key.sequence(), chosen.future.len()))
                .ok()
        };
        assert_eq!(latest(0, "2026-11-20T12:00:00Z"), Some((2, 1)));
        assert_eq!(latest(1, "2026-11-20T12:00:00Z"), Some((1, 1)));
        assert_eq!(latest(2, "2026-11-20T12:00:00Z"), None);
        assert_eq!(latest(0, "2031-11-20T12:00:00Z"), Some((3, 0)));
        assert_eq!(latest(0, "2016-11-20T12:00:00Z"), Some((3, 3)));
        assert_eq!(latest(0, "2026-11-19T11:55:00Z"), Some((2, 1)), "clocks differ by some minutes");
    }

    #[test]
    fn records_of_one_id_are_told_apart_by_their_keys() {
        let time = "2026-11-18T12:00:00Z";
        let all = || records(&[(time, 7), (time, 7), ("2026-11-19T12:00:00Z", 8)]);
        let named = |text: &str| {
            let mut records = all();
            records[1].key = TimeKey::new(records[1].key.time(), 9).unwrap();
            choose(records, &Selector::Id(text.into()), &SnapshotFilter::default(), Timestamp::MAX)
        };
        let fault = named(&"07".repeat(20)).unwrap_err().to_string();
        let keys =
            ["20261118T120000.000000000Z-0000000000000007", "20261118T120000.000000000Z-0000000000000009"];
        assert!(keys.iter().all(|key| fault.contains(key)), "{fault}");
        for (key, sequence) in keys.into_iter().zip([7, 9]) {
            assert_eq!(named(key).unwrap().found.key.sequence(), sequence);
        }
        assert!(matches!(named("0999"), Err(RepositoryError::NoSnapshot(_))));
    }
}
