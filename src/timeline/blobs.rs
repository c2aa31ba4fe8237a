//! Blobs by their time alone.

use std::ops::RangeInclusive;
use std::path::Path;
use std::vec;

use jiff::Timestamp;

use crate::gitkv::{GitError, Mode, Person, TreeEdit, TreeEntry};
use crate::layers::ObjectId;

use super::codec::Codec;
use super::{Listing, TimeKey, TimedBlob, Timeline, TimelineError, gitblobts, path, stray};

/// Time-indexed blobs of one kind, compressed and encrypted as wanted.
///
/// The names in the tree say how each blob is encoded, so the compression may change at any time.
/// [`Blobs::open`] recognises repositories of `gitblobts` and adds to
/// them what gitblobts reads; there, names do not say how a blob is encoded, and the codec must be the one
/// that was used from the beginning.
///
/// ```
/// use treering::gitkv::Person;
/// use treering::timeline::{Blobs, Codec, Compression};
///
/// let dir = tempfile::tempdir()?;
/// let codec = Codec { compression: Compression::Gzip, key: None };
/// let blobs = Blobs::create(&dir.path().join("repo.git"), codec)?;
/// let (morning, noon) = ("2026-11-20T09:00:00Z".parse()?, "2026-11-20T12:00:00Z".parse()?);
/// let who = Person::new("A Writer", "writer@example.org", noon);
/// blobs.add(b"12 degrees", morning, &who)?;
/// blobs.add(b"21 degrees", noon, &who)?;
///
/// let latest_first: Result<Vec<_>, _> = blobs.range(noon, morning)?.collect();
/// assert_eq!(latest_first?[0].content, b"21 degrees");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Blobs {
    timeline: Timeline,
    codec: Codec,
}

/// Where blobs lie in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// In directories by date, as this crate has them.
    Dated,
    /// All at the root, as gitblobts has them. A range reads every name, and blobs of one time have no order
    /// of arrival.
    Gitblobts,
}

/// What a blob is called, and what it takes to read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobName {
    /// Its time.
    pub time: Timestamp,
    /// Its file's name.
    pub name: String,
    /// What follows the key in the name; gitblobts has no keys.
    suffix: Option<String>,
    id: ObjectId,
}

/// A blob with its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// Its time.
    pub time: Timestamp,
    /// Its file's name.
    pub name: String,
    /// Its content, decoded.
    pub content: Vec<u8>,
}

/// The directory that blobs lie in, of [`Layout::Dated`].
const KIND: &str = "blobs";

impl Blobs {
    /// Makes a repository at `path`, where nothing or an empty directory may be.
    pub fn create(path: &Path, codec: Codec) -> Result<Self, TimelineError> {
        Ok(Self { timeline: Timeline::create(path)?, codec })
    }

    /// Opens the repository at `path`, which may be an ordinary clone, as those of gitblobts are: blobs that are
    /// added there are committed, and in index and working tree.
    pub fn open(path: &Path, codec: Codec) -> Result<Self, TimelineError> {
        Ok(Self { timeline: Timeline::open_with_work_tree(path)?, codec })
    }

    /// How the repository is laid out; an empty one by date.
    pub fn layout(&self) -> Result<Layout, TimelineError> {
        self.layout_of(self.tree()?.as_ref())
    }

    fn layout_of(&self, tree: Option<&ObjectId>) -> Result<Layout, TimelineError> {
        let Some(tree) = tree else { return Ok(Layout::Dated) };
        let tree = self.timeline.git.read_tree(tree)?;
        let is_flat = tree.lookup(KIND.as_bytes()).is_none()
            && tree.entries().any(|entry| is_file(entry) && flat_time(entry).is_ok());
        Ok(if is_flat { Layout::Gitblobts } else { Layout::Dated })
    }

    /// The timeline below.
    pub fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    /// Adds a blob in a commit of its own and returns its name.
    pub fn add(&self, content: &[u8], time: Timestamp, who: &Person) -> Result<String, TimelineError> {
        let names = self.add_many([(time, content)], who)?;
        Ok(names.into_iter().collect())
    }

    /// Adds blobs in one commit and one layer, and returns their names. Those of one time keep the order in
    /// which they are given.
    pub fn add_many<C: AsRef<[u8]>>(
        &self,
        blobs: impl IntoIterator<Item = (Timestamp, C)>,
        who: &Person,
    ) -> Result<Vec<String>, TimelineError> {
        let tree = self.tree()?;
        let layout = self.layout_of(tree.as_ref())?;
        let (mut transaction, mut edit) = (self.timeline.git.begin()?, TreeEdit::new());
        let mut names = Vec::new();
        for (time, content) in blobs {
            let name = |source| TimelineError::Content { name: format!("to be added for {time}"), source };
            let stored = self.codec.encode(content.as_ref(), who.time()).map_err(name)?;
            let id = transaction.blob(&stored)?;
            let path = match layout {
                Layout::Dated => path(KIND, &self.key(tree, time)?, &self.codec.suffix()),
                Layout::Gitblobts => {
                    let mut random = [0; 32];
                    getrandom::fill(&mut random).map_err(GitError::from)?;
                    gitblobts::name(time, &random)
                }
            };
            edit.add(path.as_bytes(), id)?;
            names.push(path.rsplit('/').next().unwrap_or_default().to_owned());
        }
        let message = match names.len() {
            1 => "Add a blob".to_owned(),
            count => format!("Add {count} blobs"),
        };
        transaction.commit(who, &message, &edit)?;
        Ok(names)
    }

    /// A key for `time` that sorts after those that are there, whoever added them.
    fn key(&self, tree: Option<ObjectId>, time: Timestamp) -> Result<TimeKey, TimelineError> {
        self.timeline.key_after_those(tree, KIND, time)
    }

    /// The names of the blobs from `from` to `to`, both included; the latest first when `from` is later than
    /// `to`.
    pub fn list(&self, from: Timestamp, to: Timestamp) -> Result<BlobNames<'_>, TimelineError> {
        let (times, is_descending) = if from <= to { (from..=to, false) } else { (to..=from, true) };
        let tree = self.tree()?;
        let names = match (self.layout_of(tree.as_ref())?, tree) {
            (Layout::Gitblobts, Some(tree)) => Names::Flat(self.flat_range(&tree, &times, is_descending)?),
            _ => {
                let listing = Listing::new(&self.timeline.git, tree, KIND, times)?;
                Names::Dated(if is_descending { listing.descending() } else { listing })
            }
        };
        Ok(BlobNames(names))
    }

    /// The blobs from `from` to `to` with their contents; see [`list`](Self::list). One is read and decoded
    /// when it is come to. One that cannot be is an error that names it, and the range goes on.
    pub fn range(
        &self,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<impl Iterator<Item = Result<Blob, TimelineError>>, TimelineError> {
        Ok(self.list(from, to)?.map(|name| self.read(&name?)))
    }

    /// The latest blob.
    pub fn latest(&self) -> Result<Option<Blob>, TimelineError> {
        let latest = self.list(Timestamp::MAX, Timestamp::MIN)?.next().transpose()?;
        latest.map(|name| self.read(&name)).transpose()
    }

    /// The blob of that name, or of that [`TimeKey`].
    pub fn get(&self, name: &str) -> Result<Option<Blob>, TimelineError> {
        let Some(tree) = self.tree()? else { return Ok(None) };
        let found = match self.layout_of(Some(&tree))? {
            Layout::Dated => self.find_dated(tree, name)?,
            Layout::Gitblobts => {
                let tree = self.timeline.git.read_tree(&tree)?;
                let id = tree.lookup(name.as_bytes()).map(|entry| entry.id);
                let time = gitblobts::time(name).ok();
                time.zip(id).map(|(time, id)| BlobName::flat(time, name.to_owned(), id))
            }
        };
        found.map(|found| self.read(&found)).transpose()
    }

    fn find_dated(&self, tree: ObjectId, name: &str) -> Result<Option<BlobName>, TimelineError> {
        let text = name.split_at_checked(TimeKey::LEN).map_or(name, |(key, _)| key);
        let Ok(key) = text.parse::<TimeKey>() else { return Ok(None) };
        let mut faults = Vec::new();
        for blob in Listing::new(&self.timeline.git, Some(tree), KIND, key.time()..=key.time())? {
            match blob {
                Ok(blob) if blob.key == key && (name == text || name[text.len()..] == blob.suffix) => {
                    return Ok(Some(blob.into()));
                }
                Ok(_) => {}
                Err(fault) => faults.push(fault),
            }
        }
        // It may be among what could not be read.
        faults.into_iter().next().map_or(Ok(None), Err)
    }

    /// The content of a blob.
    pub fn read(&self, blob: &BlobName) -> Result<Blob, TimelineError> {
        let unreadable = |source| TimelineError::Unreadable { name: blob.name.clone(), source };
        let stored = self.timeline.git.read_blob(&blob.id).map_err(unreadable)?;
        let content = match &blob.suffix {
            None => Some(self.codec.decode(&stored)),
            Some(suffix) => self.codec.decode_named(suffix, stored),
        };
        let content =
            content.ok_or_else(|| stray(blob.name.clone(), "its name does not say how it is encoded"))?;
        let content = content.map_err(|source| TimelineError::Content { name: blob.name.clone(), source })?;
        Ok(Blob { time: blob.time, name: blob.name.clone(), content })
    }

    /// Gets what a remote of the repository has, and joins it with what is here: what either added since they
    /// last met, less what either removed. Whether that changed anything here.
    pub fn pull(&self, remote: &str, who: &Person) -> Result<bool, TimelineError> {
        Ok(self.timeline.git.pull(remote, who)?)
    }

    /// Brings what is here to a remote of the repository, pulling before if somebody else did the same.
    pub fn push(&self, remote: &str, who: &Person) -> Result<(), TimelineError> {
        Ok(self.timeline.git.push(remote, who)?)
    }

    /// The tree that the branch has now.
    fn tree(&self) -> Result<Option<ObjectId>, TimelineError> {
        let git = &self.timeline.git;
        let head = git.head_or_none()?;
        Ok(head.map(|head| git.read_commit(&head)).transpose()?.map(|commit| commit.tree))
    }

    /// What gitblobts has at the root, in no order.
    fn flat(&self, tree: &ObjectId) -> Result<Vec<Result<BlobName, TimelineError>>, TimelineError> {
        let tree = self.timeline.git.read_tree(tree)?;
        let names = tree.entries().filter(|entry| is_file(*entry)).map(|entry| {
            let name = String::from_utf8_lossy(entry.name).into_owned();
            match flat_time(entry) {
                Ok(time) => Ok(BlobName::flat(time, name, entry.id)),
                Err(fault) => Err(stray(name, fault)),
            }
        });
        Ok(names.collect())
    }

    /// Those of a range in order of time. What is no blob has no time, and counts as the earliest.
    fn flat_range(
        &self,
        tree: &ObjectId,
        times: &RangeInclusive<Timestamp>,
        is_descending: bool,
    ) -> Result<vec::IntoIter<Result<BlobName, TimelineError>>, TimelineError> {
        let mut names = self.flat(tree)?;
        names.retain(|name| name.as_ref().map_or(true, |name| times.contains(&name.time)));
        names.sort_by(|left, right| {
            let place =
                |name: &Result<BlobName, _>| name.as_ref().ok().map(|name| (name.time, name.name.clone()));
            match is_descending {
                false => place(left).cmp(&place(right)),
                true => place(right).cmp(&place(left)),
            }
        });
        Ok(names.into_iter())
    }
}

fn is_file(entry: TreeEntry<'_>) -> bool {
    matches!(entry.mode, Mode::File | Mode::Executable)
}

/// The time of a file of gitblobts.
fn flat_time(entry: TreeEntry<'_>) -> Result<Timestamp, &'static str> {
    gitblobts::time(str::from_utf8(entry.name).map_err(|_| "its name is no text")?)
}

impl BlobName {
    fn flat(time: Timestamp, name: String, id: ObjectId) -> Self {
        Self { time, name, suffix: None, id }
    }
}

impl From<TimedBlob> for BlobName {
    fn from(TimedBlob { key, suffix, id }: TimedBlob) -> Self {
        Self { time: key.time(), name: format!("{key}{suffix}"), suffix: Some(suffix), id }
    }
}

/// The names of the blobs in a range; made by [`Blobs::list`].
pub struct BlobNames<'a>(Names<'a>);

enum Names<'a> {
    Dated(Listing<'a>),
    Flat(vec::IntoIter<Result<BlobName, TimelineError>>),
}

impl Iterator for BlobNames<'_> {
    type Item = Result<BlobName, TimelineError>;

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            Names::Flat(names) => names.next(),
            Names::Dated(listing) => listing.next().map(|blob| blob.map(BlobName::from)),
        }
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::super::codec::{CodecError, Compression, Key};
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn who() -> Person {
        Person::new("A", "a@example.org", at("2026-11-20T12:00:00Z"))
    }

    fn create(codec: Codec) -> (TempDir, Blobs) {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::create(&dir.path().join("repo.git"), codec).unwrap();
        (dir, blobs)
    }

    fn contents(blobs: &Blobs, from: Timestamp, to: Timestamp) -> Vec<String> {
        let blobs = blobs.range(from, to).unwrap();
        blobs.map(|blob| String::from_utf8(blob.unwrap().content).unwrap()).collect()
    }

    #[test]
    fn ranges_in_both_directions() {
        let (_dir, blobs) = create(Codec::default());
        let times =
            ["1969-12-31T23:00:00Z", "1970-01-01T00:00:00Z", "2026-11-20T12:00:00.000000001Z"].map(at);
        assert_eq!(blobs.latest().unwrap(), None);
        blobs.add_many([(times[2], "c"), (times[0], "a"), (times[1], "b")], &who()).unwrap();
        assert_eq!(contents(&blobs, Timestamp::MIN, Timestamp::MAX), ["a", "b", "c"]);
        assert_eq!(contents(&blobs, times[2], times[1]), ["c", "b"]);
        assert_eq!(contents(&blobs, times[0], times[0]), ["a"]);
        assert_eq!(blobs.latest().unwrap().unwrap().content, b"c");
        assert_eq!(blobs.timeline().git().layers().layers().len(), 1);
    }

    #[test]
    fn equal_times_keep_their_order_of_arrival_from_any_process() {
        let (dir, blobs) = create(Codec::default());
        let noon = at("2026-11-20T12:00:00Z");
        blobs.add_many(["0", "1", "2"].map(|content| (noon, content)), &who()).unwrap();
        for number in 3..9 {
            let other = Blobs::open(&dir.path().join("repo.git"), Codec::default()).unwrap();
            other.add(number.to_string().as_bytes(), noon, &who()).unwrap();
        }
        assert_eq!(contents(&blobs, noon, noon).concat(), "012345678");
    }

    #[test]
    fn each_blob_is_read_as_it_was_written() {
        let key = Key::generate().unwrap();
        let (dir, blobs) = create(Codec::default());
        let noon = at("2026-11-20T12:00:00Z");
        let mut names = vec![blobs.add(b"plain", noon, &who()).unwrap()];
        for (compression, key) in [(Compression::Xz, None), (Compression::Gzip, Some(key.clone()))] {
            let blobs = Blobs::open(&dir.path().join("repo.git"), Codec { compression, key }).unwrap();
            names.push(blobs.add(compression.to_string().as_bytes(), noon, &who()).unwrap());
        }
        assert!(names[1].ends_with(".xz") && names[2].ends_with(".gz.fernet"));
        let reader =
            |key| Blobs::open(&dir.path().join("repo.git"), Codec { key, ..Codec::default() }).unwrap();
        assert_eq!(contents(&reader(Some(key)), noon, noon), ["plain", "xz", "gzip"]);
        for key in [None, Some(Key::generate().unwrap())] {
            let reader = reader(key);
            let read: Vec<_> = reader.range(noon, noon).unwrap().collect();
            assert_eq!(read.iter().filter(|blob| blob.is_ok()).count(), 2, "the rest is readable");
            let error = read[2].as_ref().unwrap_err();
            assert!(matches!(
                error,
                TimelineError::Content { source: CodecError::Locked | CodecError::Decrypt, .. }
            ));
            assert!(error.to_string().contains(&names[2]), "{error}");
        }
        assert_eq!(blobs.get(&names[1]).unwrap().unwrap().content, b"xz");
        assert_eq!(blobs.get(&names[1][..TimeKey::LEN]).unwrap().unwrap().content, b"xz");
        for nothing in ["", "x", "20261120T120000.000000000Z-0000000000000000", &format!("{}.gz", names[0])] {
            assert_eq!(blobs.get(nothing).unwrap(), None, "{nothing}");
        }
    }

    #[test]
    fn a_blob_that_is_lost_is_named() {
        let (_dir, blobs) = create(Codec::default());
        let noon = at("2026-11-20T12:00:00Z");
        blobs.add(b"kept", noon, &who()).unwrap();
        let git = blobs.timeline().git();
        let mut edit = TreeEdit::new();
        let key = blobs.timeline().key(noon).unwrap();
        edit.add(path(KIND, &key, "").as_bytes(), ObjectId::from_bytes([9; 20])).unwrap();
        git.begin().unwrap().commit(&who(), "Lose", &edit).unwrap();
        let (read, lost): (Vec<_>, Vec<_>) = blobs.range(noon, noon).unwrap().partition(Result::is_ok);
        assert_eq!(read.len(), 1);
        let error = lost[0].as_ref().unwrap_err();
        assert!(
            matches!(error, TimelineError::Unreadable { name, .. } if *name == key.to_string()),
            "{error}"
        );
    }

    #[test]
    fn clones_exchange_what_they_added() {
        let (hub, here) = (create(Codec::default()), create(Codec::default()));
        let noon = at("2026-11-20T12:00:00Z");
        let url = hub.1.timeline().git().path().to_str().unwrap().to_owned();
        here.1.timeline().git().add_remote("hub", &url).unwrap();
        hub.1.add(b"there", noon, &who()).unwrap();
        here.1.add(b"here", noon, &who()).unwrap();
        here.1.push("hub", &who()).unwrap();
        hub.1.add(b"later", at("2026-11-21T12:00:00Z"), &who()).unwrap();
        assert!(here.1.pull("hub", &who()).unwrap());
        for (_, blobs) in [&hub, &here] {
            let mut all = contents(blobs, Timestamp::MIN, Timestamp::MAX);
            assert_eq!(all.pop().unwrap(), "later");
            all.sort();
            assert_eq!(all, ["here", "there"]);
        }
    }

    #[test]
    fn recognises_gitblobts_and_adds_as_it_does() {
        let (dir, blobs) = create(Codec::default());
        assert_eq!(blobs.layout().unwrap(), Layout::Dated);
        let git = blobs.timeline().git();
        let mut transaction = git.begin().unwrap();
        let mut edit = TreeEdit::new();
        let first = gitblobts::name(at("2026-11-20T12:00:00Z"), &[7; 32]);
        edit.add(first.as_bytes(), transaction.blob(b"first").unwrap()).unwrap();
        edit.add(b"README", transaction.blob(b"?").unwrap()).unwrap();
        transaction.commit(&who(), "", &edit).unwrap();
        let blobs = Blobs::open(&dir.path().join("repo.git"), Codec::default()).unwrap();
        assert_eq!(blobs.layout().unwrap(), Layout::Gitblobts);
        let second = blobs.add(b"second", at("1960-01-01T00:00:00Z"), &who()).unwrap();
        let read: Vec<_> = blobs.range(Timestamp::MIN, Timestamp::MAX).unwrap().collect();
        assert!(read[0].as_ref().unwrap_err().to_string().contains("README"));
        let names: Vec<_> = read[1..].iter().map(|blob| blob.as_ref().unwrap().name.as_str()).collect();
        assert_eq!(names, [&second, &first]);
        assert_eq!(blobs.latest().unwrap().unwrap().content, b"first");
        assert_eq!(blobs.get(&first).unwrap().unwrap().content, b"first");
    }
}
