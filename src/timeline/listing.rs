//! Going through the blobs of a range of time.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::Arc;

use jiff::Timestamp;

use crate::gitkv::{Git, Mode, Node, Tree, TreeEntry};
use crate::layers::ObjectId;

use super::{TimeKey, TimelineError, stray};

/// The blobs of one kind in a range of time; made by [`Timeline::list`](super::Timeline::list).
///
/// They come in order of time and, of one time, in order of arrival, then of suffix. Trees are read as they
/// are needed, one for each year, month and day that is come to. What is damaged or strays among the blobs is
/// an error in its place, after which the listing goes on.
pub struct Listing<'a> {
    git: &'a Git,
    times: (Bound<String>, Bound<String>),
    is_descending: bool,
    /// The kind's directory, until the first blob is asked for.
    start: Option<(ObjectId, String)>,
    /// The trees that were listed: no two days have the same blobs.
    seen: HashSet<ObjectId>,
    /// The directories that are being listed, from the kind's own down to a day's.
    open: Vec<Directory>,
}

/// A blob and where it stands in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimedBlob {
    /// Its time, and its place among those of the same time.
    pub key: TimeKey,
    /// What follows the key in its name.
    pub suffix: String,
    /// The blob.
    pub id: ObjectId,
}

struct Directory {
    tree: Arc<Tree>,
    path: String,
    /// The digits of the date so far: none, a year, a month, a day.
    date: String,
    /// The positions of the entries in the range of time that are still to come.
    rest: Range<usize>,
}

/// How many digits of a date a directory's name has, by its level below the kind.
const DIGITS: [usize; 3] = [4, 2, 2];

impl<'a> Listing<'a> {
    pub(super) fn new(
        git: &'a Git,
        head: Option<ObjectId>,
        kind: &str,
        times: impl RangeBounds<Timestamp>,
    ) -> Result<Self, TimelineError> {
        let times = (
            times.start_bound().map(|time| time_text(*time)),
            times.end_bound().map(|time| time_text(*time)),
        );
        let node = head.map(|head| git.find(&head, kind.as_bytes())).transpose()?.flatten();
        let start = match node {
            Some(Node { mode: Mode::Directory, id }) => Some((id, kind.to_owned())),
            Some(_) => return Err(stray(kind.to_owned(), "it should be a directory")),
            None => None,
        };
        Ok(Self { git, times, is_descending: false, start, seen: HashSet::new(), open: Vec::new() })
    }

    /// The same blobs, the latest first. To be called before the first one is taken.
    #[must_use]
    pub fn descending(self) -> Self {
        Self { is_descending: true, ..self }
    }

    /// The same blobs without an error for what strays among them.
    pub fn without_strays(self) -> impl Iterator<Item = Result<TimedBlob, TimelineError>> {
        self.filter(|found| !matches!(found, Err(TimelineError::Stray { .. })))
    }

    fn step(&mut self) -> Result<Option<TimedBlob>, TimelineError> {
        if let Some((id, path)) = self.start.take() {
            self.open(&id, path, String::new())?;
        }
        while let Some(directory) = self.open.last_mut() {
            let position = match self.is_descending {
                true => directory.rest.next_back(),
                false => directory.rest.next(),
            };
            let Some(entry) = position.and_then(|position| directory.tree.get(position)) else {
                self.open.pop();
                continue;
            };
            let path = format!("{}/{}", directory.path, String::from_utf8_lossy(entry.name));
            if directory.is_day() {
                return directory.blob(entry).map(Some).map_err(|fault| stray(path, fault));
            }
            let date = directory.inner_date(entry).map_err(|fault| stray(path.clone(), fault))?;
            let id = entry.id;
            if !self.seen.insert(id) {
                return Err(stray(path, "another directory of a date is the same"));
            }
            self.open(&id, path, date)?;
        }
        Ok(None)
    }

    fn open(&mut self, id: &ObjectId, path: String, date: String) -> Result<(), TimelineError> {
        let tree = self.git.read_tree(id)?;
        let mut directory = Directory { tree, path, date, rest: 0..0 };
        let side = |entry: &TreeEntry<'_>| side(&directory.time_of(entry), &self.times);
        let begin = directory.tree.partition_point(|entry| side(entry) == Ordering::Less);
        let end = directory.tree.partition_point(|entry| side(entry) != Ordering::Greater);
        directory.rest = begin..end;
        self.open.push(directory);
        Ok(())
    }
}

impl Directory {
    fn is_day(&self) -> bool {
        self.date.len() == DIGITS.iter().sum::<usize>()
    }

    /// The beginning of the time that an entry is about, as far as it is known here, in the characters of a
    /// [`TimeKey`].
    fn time_of(&self, entry: &TreeEntry<'_>) -> Vec<u8> {
        match self.is_day() {
            true => entry.name[..entry.name.len().min(TIME_LEN)].to_owned(),
            false => [self.date.as_bytes(), entry.name].concat(),
        }
    }

    fn inner_date(&self, entry: TreeEntry<'_>) -> Result<String, &'static str> {
        let digits = match self.date.len() {
            0 => DIGITS[0],
            4 => DIGITS[1],
            _ => DIGITS[2],
        };
        let name = str::from_utf8(entry.name).unwrap_or_default();
        let is_number = name.len() == digits && name.bytes().all(|digit| digit.is_ascii_digit());
        let is_date = match self.date.len() {
            0 => true,
            4 => ("01"..="12").contains(&name),
            _ => ("01"..="31").contains(&name),
        };
        match is_number && is_date && entry.mode == Mode::Directory {
            true => Ok(format!("{}{name}", self.date)),
            false => Err("only directories of years, months and days belong there"),
        }
    }

    fn blob(&self, entry: TreeEntry<'_>) -> Result<TimedBlob, &'static str> {
        if !matches!(entry.mode, Mode::File | Mode::Executable) {
            return Err("it is no file");
        }
        let name = str::from_utf8(entry.name).ok().and_then(|name| name.split_at_checked(TimeKey::LEN));
        let (key, suffix) = name.ok_or("its name does not begin with a time key")?;
        let key: TimeKey = key.parse().map_err(|_| "its name does not begin with a time key")?;
        match key.to_string().starts_with(&self.date) {
            true => Ok(TimedBlob { key, suffix: suffix.to_owned(), id: entry.id }),
            false => Err("it lies in the directory of another day"),
        }
    }
}

impl Iterator for Listing<'_> {
    type Item = Result<TimedBlob, TimelineError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}

/// The length of a key's text without its sequence number.
const TIME_LEN: usize = TimeKey::LEN - 17;

/// The beginning of the keys of `time`. Keys leave out no time but those before the year 0000; for them it is
/// text that sorts before every key.
fn time_text(time: Timestamp) -> String {
    match TimeKey::new(time, 0) {
        Ok(key) => key.to_string()[..TIME_LEN].to_owned(),
        Err(_) => "-".to_owned(),
    }
}

/// Whether what has a time that begins with `time` comes before a range, may lie in it, or comes after it.
fn side(time: &[u8], (from, to): &(Bound<String>, Bound<String>)) -> Ordering {
    let compare = |bound: &String| {
        let common = time.len().min(bound.len());
        time[..common].cmp(&bound.as_bytes()[..common])
    };
    let is_whole = time.len() >= TIME_LEN;
    let is_before = match from {
        Bound::Included(from) => compare(from) == Ordering::Less,
        Bound::Excluded(from) => {
            compare(from) == Ordering::Less || is_whole && compare(from) == Ordering::Equal
        }
        Bound::Unbounded => false,
    };
    let is_after = match to {
        Bound::Included(to) => compare(to) == Ordering::Greater,
        Bound::Excluded(to) => compare(to) == Ordering::Greater || is_whole && compare(to) == Ordering::Equal,
        Bound::Unbounded => false,
    };
    match (is_before, is_after) {
        (true, _) => Ordering::Less,
        (_, true) => Ordering::Greater,
        _ => Ordering::Equal,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;
    use proptest::test_runner::TestRunner;

    use super::super::{Tier, Timeline};
    use super::*;
    use crate::gitkv::Person;

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn timeline(times: &[Timestamp]) -> (tempfile::TempDir, Timeline) {
        let dir = tempfile::tempdir().unwrap();
        let timeline = Timeline::create(&dir.path().join("repo.git")).unwrap();
        let mut batch = timeline.begin().unwrap();
        for &time in times {
            let key = timeline.key(time).unwrap();
            batch.put("kind", &key, ".x", time.to_string().as_bytes(), Tier::Metadata).unwrap();
        }
        batch.commit(&Person::new("A", "a", Timestamp::UNIX_EPOCH), "Add").unwrap();
        (dir, timeline)
    }

    fn listed(listing: Listing<'_>) -> Vec<Timestamp> {
        listing.map(|blob| blob.unwrap().key.time()).collect()
    }

    #[test]
    fn both_ends_are_as_the_range_says() {
        let times =
            ["1969-12-31T23:59:59.999999999Z", "1970-01-01T00:00:00Z", "1970-01-01T00:00:00.000000001Z"]
                .map(time);
        let (_dir, timeline) = timeline(&times);
        let [a, b, c] = times;
        let all = |range: (Bound<Timestamp>, Bound<Timestamp>)| listed(timeline.list("kind", range).unwrap());
        use Bound::{Excluded, Included, Unbounded};
        assert_eq!(all((Unbounded, Unbounded)), times);
        assert_eq!(all((Included(a), Included(b))), [a, b]);
        assert_eq!(all((Excluded(a), Included(c))), [b, c]);
        assert_eq!(all((Included(a), Excluded(c))), [a, b]);
        assert_eq!(all((Excluded(a), Excluded(c))), [b]);
        assert_eq!(all((Included(b), Included(b))), [b]);
        assert_eq!(all((Included(c), Included(a))), []);
        assert_eq!(all((Unbounded, Included(time("-000001-06-01T00:00:00Z")))), []);
        assert_eq!(all((Included(time("-000001-06-01T00:00:00Z")), Unbounded)), times);
        assert_eq!(listed(timeline.list("other", ..).unwrap()), []);
        assert_eq!(listed(timeline.list("kind", ..=b).unwrap().descending()), [b, a]);
    }

    #[test]
    fn reads_no_tree_of_a_day_outside_the_range() {
        let days = (1..=28).flat_map(|day| {
            ["2025-11", "2026-10", "2026-11"].map(|month| format!("{month}-{day:02}T12:00:00Z"))
        });
        let times: Vec<_> = days.map(|text| time(&text)).collect();
        let (dir, _) = timeline(&times);
        let read_by = |look: &dyn Fn(&Timeline)| {
            let timeline = Timeline::open(&dir.path().join("repo.git")).unwrap();
            look(&timeline);
            timeline.git().trees_read()
        };
        let two_days = time("2026-10-28T00:00:00Z")..=time("2026-11-01T23:00:00Z");
        let count =
            |timeline: &Timeline| assert_eq!(timeline.list("kind", two_days.clone()).unwrap().count(), 2);
        assert_eq!(read_by(&count), 2 + 1 + 2 + 2, "root and kind, a year, two months, a day in each");
        let latest = |timeline: &Timeline| {
            let latest = timeline.list("kind", ..).unwrap().descending().next().unwrap().unwrap();
            assert_eq!(latest.key.time(), time("2026-11-28T12:00:00Z"));
        };
        assert_eq!(read_by(&latest), 2 + 3);
        assert_eq!(read_by(&|timeline| drop(timeline.list("kind", ..).unwrap())), 1, "nothing was asked for");
    }

    #[test]
    fn what_strays_is_named_and_the_rest_is_listed() {
        let times = ["2026-11-01T00:00:00Z", "2026-11-03T00:00:00Z"].map(time);
        let (_dir, timeline) = timeline(&times);
        let key = timeline.key(time("2026-11-02T00:00:00Z")).unwrap();
        let strays = [
            "kind/README".to_owned(),
            "kind/2026/11/002/x".to_owned(),
            "kind/2026/12/01".to_owned(),
            "kind/2026/11/03/notes".to_owned(),
            format!("kind/2026/11/01/{key}.x"),
        ];
        let mut batch = timeline.begin().unwrap();
        for path in &strays {
            batch.set(path, b"?").unwrap();
        }
        batch.commit(&Person::new("A", "a", Timestamp::UNIX_EPOCH), "Stray").unwrap();
        let (found, errors): (Vec<_>, Vec<_>) = timeline.list("kind", ..).unwrap().partition(Result::is_ok);
        assert_eq!(found.into_iter().map(|blob| blob.unwrap().key.time()).collect::<Vec<_>>(), times);
        let mut named: Vec<_> = errors.into_iter().map(|error| error.unwrap_err().to_string()).collect();
        named.sort();
        assert_eq!(named.len(), strays.len());
        for path in strays {
            let path = path.strip_suffix("/x").unwrap_or(&path);
            assert!(named.iter().any(|error| error.starts_with(&format!("{path:?}"))), "{path}: {named:?}");
        }
        assert!(timeline.list("kind/README", ..).is_err());
    }

    #[test]
    fn a_missing_day_is_an_error_in_its_place() {
        let times = ["2026-11-01T00:00:00Z", "2026-11-02T00:00:00Z"].map(time);
        let (dir, timeline) = timeline(&times);
        let git = timeline.git();
        let head = git.head().unwrap().unwrap();
        let lost = git.find(&head, b"kind/2026/11/01").unwrap().unwrap().id;
        let objects: Vec<_> = git.walk(&head, b"").unwrap().map(|file| file.unwrap().1.id).collect();
        // Every object but one goes into another layer, which then takes the place of the first.
        let pack_dir = git.pack_dir();
        let mut layer = crate::layers::LayerWriter::create(&pack_dir).unwrap();
        let old = git.layers();
        for id in old.layers().flat_map(|layer| layer.ids()).filter(|id| *id != lost) {
            let (kind, bytes) = old.read(&id).unwrap().unwrap();
            layer.write(kind, &bytes).unwrap();
        }
        let names: Vec<_> = old.layers().map(|layer| layer.name().to_owned()).collect();
        layer.finish().unwrap();
        for name in names {
            fs::remove_file(pack_dir.join(format!("{name}.idx"))).unwrap();
            fs::remove_file(pack_dir.join(format!("{name}.pack"))).unwrap();
        }
        assert_eq!(objects.len(), 2);
        let timeline = Timeline::open(&dir.path().join("repo.git")).unwrap();
        let mut listing = timeline.list("kind", ..).unwrap();
        assert!(listing.next().unwrap().unwrap_err().to_string().contains(&lost.to_string()));
        assert_eq!(listed(listing), [times[1]]);
        assert!(timeline.key_after_those(Some(head), "kind", times[0]).is_err(), "who knows what is there");
        assert!(timeline.key_after_those(Some(head), "kind", times[1]).is_ok());
    }

    #[test]
    fn lists_what_a_sorted_list_would() {
        let nanoseconds = || -86_400_000_000_000_000i128..86_400_000_000_000_000;
        let strategy = (proptest::collection::vec(nanoseconds(), 0..20), nanoseconds(), nanoseconds());
        let at = |nanoseconds| Timestamp::from_nanosecond(nanoseconds).unwrap();
        let mut runner = TestRunner::new(ProptestConfig::with_cases(24));
        runner
            .run(&strategy, |(mut times, from, to)| {
                let (_dir, timeline) = timeline(&times.iter().copied().map(at).collect::<Vec<_>>());
                times.sort_unstable();
                let expected: Vec<_> =
                    times.iter().filter(|time| (from..=to).contains(time)).copied().map(at).collect();
                prop_assert_eq!(&listed(timeline.list("kind", at(from)..=at(to)).unwrap()), &expected);
                let mut descending = listed(timeline.list("kind", at(from)..=at(to)).unwrap().descending());
                descending.reverse();
                prop_assert_eq!(descending, expected);
                Ok(())
            })
            .unwrap();
    }
}
