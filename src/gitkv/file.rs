//! A value that is read and written like a file.

use std::io::{self, Cursor, Read, Seek, SeekFrom, Write};
use std::str::FromStr;

use crate::layers::{LayerWriter, ObjectId, ObjectKind};

use super::commit::Person;
use super::edit::TreeEdit;
use super::kv::{GitKv, KvView};
use super::{GitError, shown, tree};

/// What may be done with a value, as in Python's `open`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OpenMode {
    /// `r`: read what is there.
    Read,
    /// `w`: write anew, over what may be there.
    Write,
    /// `a`: write behind what may be there.
    Append,
    /// `r+`: read and write what is there.
    Update,
    /// `x`: write what is not there yet.
    Create,
}

/// The name of no [`OpenMode`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no mode to open with; there are r, w, a, r+ and x")]
pub struct ParseOpenModeError(String);

impl FromStr for OpenMode {
    type Err = ParseOpenModeError;

    fn from_str(text: &str) -> Result<Self, ParseOpenModeError> {
        Ok(match text {
            "r" => Self::Read,
            "w" => Self::Write,
            "a" => Self::Append,
            "r+" => Self::Update,
            "x" => Self::Create,
            _ => return Err(ParseOpenModeError(text.to_owned())),
        })
    }
}

/// A value held in memory; made by [`GitKv::file`]. Dropped without a [`commit`](Self::commit), it has
/// changed nothing.
pub struct KvFile<'a> {
    kv: &'a GitKv,
    key: Vec<u8>,
    mode: OpenMode,
    /// What the value was when this was opened or last committed.
    base: Option<ObjectId>,
    content: Cursor<Vec<u8>>,
    message: Option<String>,
}

impl GitKv {
    /// Opens the value of `key` like a file. Nothing changes before [`KvFile::commit`].
    pub fn file(&self, key: impl AsRef<[u8]>, mode: OpenMode) -> Result<KvFile<'_>, GitError> {
        KvFile::open(self, key.as_ref(), mode)
    }
}

impl<'a> KvFile<'a> {
    pub(super) fn open(kv: &'a GitKv, key: &[u8], mode: OpenMode) -> Result<Self, GitError> {
        if let Some(fault) = tree::path_fault(key) {
            return Err(GitError::Path { path: shown(key), fault });
        }
        let base = kv.view()?.find(key)?;
        let content = match (mode, &base) {
            (OpenMode::Read | OpenMode::Update, None) => return Err(GitError::NoKey(shown(key))),
            (OpenMode::Create, Some(_)) => return Err(GitError::Exists(shown(key))),
            (OpenMode::Read | OpenMode::Update, Some(base)) => kv.git().read_blob(base)?,
            (OpenMode::Write | OpenMode::Append | OpenMode::Create, _) => Vec::new(),
        };
        Ok(Self { kv, key: key.to_owned(), mode, base, content: Cursor::new(content), message: None })
    }

    /// Sets what the commit will say; otherwise it names the key.
    pub fn set_message(&mut self, message: &str) {
        self.message = Some(message.to_owned());
    }

    /// Commits what was written, and returns the commit; `None` when the value is that already.
    ///
    /// If somebody changed the value meanwhile, what was appended goes behind theirs; other changes are
    /// merged with theirs by lines, as git does. Where both changed the same lines it is
    /// [`GitError::Conflict`]: theirs stays, and this still holds what was written.
    pub fn commit(&mut self, who: &Person) -> Result<Option<ObjectId>, GitError> {
        if self.mode == OpenMode::Read {
            return Ok(None);
        }
        let message = self.message.clone().unwrap_or_else(|| format!("Set {}", shown(&self.key)));
        let (mut written, mut merged) = (None, None);
        let mut edit = |head: Option<&ObjectId>, layer: &mut LayerWriter| {
            let now = KvView::of(self.kv.git(), head.copied()).find(&self.key)?;
            let content = self.merged(now.as_ref())?;
            let id = layer.write(ObjectKind::Blob, &content)?;
            let mut edit = TreeEdit::new();
            edit.set(&self.key, id)?;
            (written, merged) = (Some(id), Some(content));
            Ok(edit)
        };
        let committed = self.kv.commit::<GitError>(who, &message, &mut edit)?;
        self.base = written;
        let content = match self.mode {
            OpenMode::Append => Vec::new(),
            _ => merged.unwrap_or_default(),
        };
        let position = self.content.position().min(content.len() as u64);
        self.content = Cursor::new(content);
        self.content.set_position(position);
        if self.mode == OpenMode::Create {
            self.mode = OpenMode::Write;
        }
        Ok(committed)
    }

    /// What the value is to be when it is `now` somebody else's.
    fn merged(&self, now: Option<&ObjectId>) -> Result<Vec<u8>, GitError> {
        let ours = self.content.get_ref();
        let read = |id: Option<&ObjectId>| match id {
            Some(id) => self.kv.git().read_blob(id),
            None => Ok(Vec::new()),
        };
        match (self.mode, now) {
            (OpenMode::Append, now) => Ok([read(now)?, ours.clone()].concat()),
            (OpenMode::Create, Some(_)) => Err(GitError::Exists(shown(&self.key))),
            (_, now) if now == self.base.as_ref() => Ok(ours.clone()),
            (_, None) => Err(GitError::Conflict(shown(&self.key))),
            (_, Some(now)) => {
                let (base, theirs) = (read(self.base.as_ref())?, read(Some(now))?);
                let merged = merge_lines(&base, ours, &theirs)?;
                merged.ok_or_else(|| GitError::Conflict(shown(&self.key)))
            }
        }
    }
}

/// Merges two successors of `base` by lines. `None` when both changed the same ones, or when there are no
/// lines but binary data.
fn merge_lines(base: &[u8], ours: &[u8], theirs: &[u8]) -> Result<Option<Vec<u8>>, GitError> {
    if ours == theirs {
        return Ok(Some(ours.to_owned()));
    }
    if [base, ours, theirs].iter().any(|content| content.contains(&0)) {
        return Ok(None);
    }
    let [base, ours, theirs] = [base, ours, theirs].map(|content| {
        let mut input = git2::MergeFileInput::new();
        input.content(content);
        input
    });
    let result = git2::merge_file(&base, &ours, &theirs, None).map_err(GitError::git("merge"))?;
    Ok(result.is_automergeable().then(|| result.content().to_owned()))
}

fn refused(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, format!("the value was not opened for {what}"))
}

impl Read for KvFile<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.mode {
            OpenMode::Read | OpenMode::Update => self.content.read(buffer),
            OpenMode::Write | OpenMode::Append | OpenMode::Create => Err(refused("reading")),
        }
    }
}

impl Write for KvFile<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.mode {
            OpenMode::Read => return Err(refused("writing")),
            OpenMode::Append => self.content.set_position(self.content.get_ref().len() as u64),
            OpenMode::Write | OpenMode::Update | OpenMode::Create => {}
        }
        self.content.write(bytes)
    }

    /// Does nothing: only a commit makes anything durable.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for KvFile<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.content.seek(to)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::who;
    use super::*;

    fn kv() -> (tempfile::TempDir, GitKv) {
        let dir = tempfile::tempdir().unwrap();
        let kv = GitKv::create(&dir.path().join("repo.git")).unwrap();
        (dir, kv)
    }

    fn put(kv: &GitKv, mode: &str, content: &str) -> Result<Option<ObjectId>, GitError> {
        let mut file = kv.file("key", mode.parse().unwrap())?;
        file.write_all(content.as_bytes()).unwrap();
        file.commit(&who())
    }

    fn value(kv: &GitKv) -> String {
        String::from_utf8(kv.get("key").unwrap().unwrap()).unwrap()
    }

    #[test]
    fn each_mode_does_what_python_does() {
        let (_dir, kv) = kv();
        for mode in ["r", "r+"] {
            assert!(matches!(kv.file("key", mode.parse().unwrap()), Err(GitError::NoKey(_))), "{mode}");
        }
        assert!(put(&kv, "x", "one").unwrap().is_some());
        assert!(matches!(kv.file("key", OpenMode::Create), Err(GitError::Exists(_))));
        put(&kv, "a", " two").unwrap();
        assert_eq!(value(&kv), "one two");
        put(&kv, "r+", "ONE").unwrap();
        assert_eq!(value(&kv), "ONE two");
        put(&kv, "w", "new").unwrap();
        assert_eq!(value(&kv), "new");
        assert_eq!(put(&kv, "w", "new").unwrap(), None, "nothing changes");
        let mut text = String::new();
        let mut file = kv.file("key", OpenMode::Update).unwrap();
        file.seek(SeekFrom::Start(1)).unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "ew");
        assert!(kv.file("key", OpenMode::Write).unwrap().read(&mut [0]).is_err());
        assert!(kv.file("key", OpenMode::Read).unwrap().write(b"x").is_err());
        assert!("rw".parse::<OpenMode>().is_err());
    }

    #[test]
    fn dropped_without_a_commit_it_changes_nothing() {
        let (_dir, kv) = kv();
        put(&kv, "w", "one").unwrap();
        let head = kv.head().unwrap();
        for mode in [OpenMode::Write, OpenMode::Append, OpenMode::Update] {
            kv.file("key", mode).unwrap().write_all(b"gone").unwrap();
        }
        assert_eq!((value(&kv).as_str(), kv.head().unwrap()), ("one", head));
    }

    #[test]
    fn changes_of_different_lines_are_merged() {
        let (_dir, kv) = kv();
        put(&kv, "w", "1\n2\n3\n4\n5\n").unwrap();
        let mut first = kv.file("key", OpenMode::Update).unwrap();
        let mut second = kv.file("key", OpenMode::Write).unwrap();
        first.write_all(b"I").unwrap();
        second.write_all(b"1\n2\n3\n4\nV\n6\n").unwrap();
        first.commit(&who()).unwrap().unwrap();
        second.commit(&who()).unwrap().unwrap();
        assert_eq!(value(&kv), "I\n2\n3\n4\nV\n6\n");
        second.write_all(b"7\n").unwrap();
        second.commit(&who()).unwrap().unwrap();
        assert_eq!(value(&kv), "I\n2\n3\n4\nV\n6\n7\n");
    }

    #[test]
    fn a_conflict_names_the_key_and_loses_neither_side() {
        let (_dir, kv) = kv();
        put(&kv, "w", "base\n").unwrap();
        for (theirs, ours) in [("theirs\n", "ours\n"), ("bin\0ary", "other\n")] {
            let mut file = kv.file("key", OpenMode::Update).unwrap();
            file.write_all(ours.as_bytes()).unwrap();
            put(&kv, "w", theirs).unwrap();
            let error = file.commit(&who()).unwrap_err();
            assert!(matches!(&error, GitError::Conflict(key) if key == "key"), "{error}");
            assert_eq!(value(&kv), theirs);
            let mut held = String::new();
            file.rewind().unwrap();
            file.read_to_string(&mut held).unwrap();
            assert!(held.starts_with(ours));
        }
        let mut file = kv.file("key", OpenMode::Update).unwrap();
        file.write_all(b"x").unwrap();
        kv.remove("key", &who()).unwrap();
        assert!(matches!(file.commit(&who()), Err(GitError::Conflict(_))));
    }

    #[test]
    fn appends_of_two_both_land() {
        let (_dir, kv) = kv();
        let mut first = kv.file("key", OpenMode::Append).unwrap();
        let mut second = kv.file("key", OpenMode::Append).unwrap();
        second.write_all(b"two ").unwrap();
        first.write_all(b"one ").unwrap();
        first.commit(&who()).unwrap();
        second.commit(&who()).unwrap();
        second.write_all(b"three").unwrap();
        second.commit(&who()).unwrap();
        assert_eq!(value(&kv), "one two three");
    }

    #[test]
    fn what_two_created_is_not_overwritten() {
        let (_dir, kv) = kv();
        let mut first = kv.file("key", OpenMode::Create).unwrap();
        first.write_all(b"mine").unwrap();
        put(&kv, "x", "theirs").unwrap();
        assert!(matches!(first.commit(&who()), Err(GitError::Exists(_))));
        assert_eq!(value(&kv), "theirs");
    }

    #[test]
    fn the_message_is_the_one_that_was_set() {
        let (_dir, kv) = kv();
        let mut file = kv.file("key", OpenMode::Write).unwrap();
        file.write_all(b"1").unwrap();
        let commit = file.commit(&who()).unwrap().unwrap();
        assert_eq!(kv.message(&commit).unwrap(), "Set key\n");
        file.write_all(b"2").unwrap();
        file.set_message("Count");
        let commit = file.commit(&who()).unwrap().unwrap();
        assert_eq!(kv.message(&commit).unwrap(), "Count\n");
    }

    #[test]
    fn refuses_keys_that_are_no_paths() {
        let (_dir, kv) = kv();
        for key in ["", "..", "/a", "a/", "a//b", ".git/config", "a\nb"] {
            assert!(matches!(kv.file(key, OpenMode::Write), Err(GitError::Path { .. })), "{key:?}");
        }
    }
}
