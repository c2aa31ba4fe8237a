//! What a push has begun to bring to a cold remote, so that the next one goes on after it was killed.
//!
//! Each push brings layers under a tag of its own. A file in this repository lists them before they are
//! brought; a push that finds it goes on with its tag and sends nothing twice. A tag is given up as soon as a
//! head that lists it may be there for others: what they remove then does not come back under that name. What
//! was brought under earlier tags and is in no head is for the next head to call going.
//!
//! The file is locked while a push runs, so that two of one clone follow each other. Its lines are those of
//! layers in a head, `publishing` before a head is published, and `lost` where it was not.
//!
//! Whoever copies a repository while a push of it is unfinished has two with the same tag. It is given up too
//! when a head of the remote has it; that is all that can be told.

use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::gitkv::GitError;
use crate::progress::Progress;

use super::RemoteError;
use super::head::{Copies, Held, encode_layer, parse_layer};

const PUBLISHING: &str = "publishing";
const LOST: &str = "lost";

/// How long to wait before looking again whether another push of this clone is done.
const PAUSE: Duration = Duration::from_millis(50);

/// What is brought to a cold remote, and was brought to it and is in no head yet.
pub(super) struct Uploads {
    path: PathBuf,
    file: File,
    tag: u64,
    /// Under this tag, and others.
    open: Copies,
    spent: Copies,
}

impl Uploads {
    /// Waits until no other push of this clone to the same remote runs.
    pub fn begin(path: &Path, progress: &Progress) -> Result<Self, RemoteError> {
        let opened = File::options().read(true).append(true).create(true).open(path);
        let mut file = opened.map_err(RemoteError::io("open", path))?;
        loop {
            progress.check().map_err(GitError::from)?;
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) => thread::sleep(PAUSE),
                Err(TryLockError::Error(error)) => return Err(RemoteError::io("lock", path)(error)),
            }
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(RemoteError::io("read", path))?;
        let (open, spent) = parse(&String::from_utf8_lossy(&bytes));
        let tag = open.first().map_or_else(new_tag, |(_, held)| Ok(held.tag))?;
        let mut uploads = Self { path: path.to_owned(), file, tag, open, spent };
        if bytes.last().is_some_and(|&last| last != b'\n') {
            uploads.append("\n")?;
        }
        Ok(uploads)
    }

    /// What is brought from now on has this tag.
    pub fn tag(&self) -> u64 {
        self.tag
    }

    /// Whether a layer may have been brought already.
    pub fn is_begun(&self, copy: &(String, Held)) -> bool {
        self.open.contains(copy)
    }

    /// Everything that was begun.
    pub fn all(&self) -> impl Iterator<Item = &(String, Held)> {
        self.open.iter().chain(&self.spent)
    }

    /// Notes layers, durably, that are going to be brought.
    pub fn note<'a>(&mut self, copies: impl Iterator<Item = &'a (String, Held)>) -> Result<(), RemoteError> {
        let new: Copies = copies.filter(|copy| !self.is_begun(copy)).cloned().collect();
        if new.is_empty() {
            return Ok(());
        }
        let lines: Vec<_> = new.iter().map(|(name, held)| encode_layer(name, held) + "\n").collect();
        self.open.extend(new);
        self.append(&lines.concat())
    }

    /// Gives the tag up where somebody has published it.
    pub fn heed(&mut self, published: &Copies) -> Result<(), RemoteError> {
        match published.iter().any(|(_, held)| held.tag == self.tag) {
            true => self.give_up(),
            false => Ok(()),
        }
    }

    /// A head is about to be published: whoever finds this takes the tag for given up.
    pub fn publishing(&mut self) -> Result<(), RemoteError> {
        self.append(&format!("{PUBLISHING}\n"))
    }

    /// It was not published.
    pub fn lost(&mut self) -> Result<(), RemoteError> {
        self.append(&format!("{LOST}\n"))
    }

    /// What is brought from now on has another tag.
    pub fn give_up(&mut self) -> Result<(), RemoteError> {
        self.publishing()?;
        self.spent.append(&mut self.open);
        self.tag = new_tag()?;
        Ok(())
    }

    /// A head lists all that was begun, or calls it going.
    pub fn done(&mut self) -> Result<(), RemoteError> {
        self.open.clear();
        self.spent.clear();
        let empty = || {
            self.file.set_len(0)?;
            self.file.sync_all()
        };
        empty().map_err(RemoteError::io("write", &self.path))
    }

    fn append(&mut self, text: &str) -> Result<(), RemoteError> {
        let mut write = || {
            self.file.write_all(text.as_bytes())?;
            self.file.sync_data()
        };
        write().map_err(RemoteError::io("write", &self.path))
    }
}

/// What has the tag that may go on being used, and what has others. Lines that were cut off are passed over:
/// what they name was not brought yet.
fn parse(text: &str) -> (Copies, Copies) {
    let (mut open, mut published, mut spent) = (Copies::new(), Copies::new(), Copies::new());
    for line in text.lines() {
        match line {
            PUBLISHING => {
                spent.append(&mut published);
                published = std::mem::take(&mut open);
            }
            LOST => open.append(&mut published),
            line => open.extend(parse_layer(line)),
        }
    }
    spent.append(&mut published);
    (open, spent)
}

fn new_tag() -> Result<u64, RemoteError> {
    Ok(getrandom::u64().map_err(GitError::from)?)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::head::LayerKind;
    use super::*;

    fn copy(digit: char, tag: u64) -> (String, Held) {
        let held = Held { kind: LayerKind::Data, pack_bytes: 9, index_bytes: 8, objects: 1, tag };
        (format!("pack-{}", digit.to_string().repeat(40)), held)
    }

    fn begin(path: &Path) -> Uploads {
        Uploads::begin(path, &Progress::new()).unwrap()
    }

    #[test]
    fn a_killed_push_is_gone_on_with_until_it_may_have_published() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("uploads");
        let mut first = begin(&path);
        let tag = first.tag();
        let (a, b) = (copy('a', tag), copy('b', tag));
        first.note([&a].into_iter()).unwrap();
        drop(first);
        // Cut off while it was written.
        fs::write(&path, [fs::read(&path).unwrap(), b"data pack-bb".to_vec()].concat()).unwrap();
        let mut second = begin(&path);
        assert_eq!((second.tag(), second.is_begun(&a), second.is_begun(&b)), (tag, true, false));
        second.note([&a, &b].into_iter()).unwrap();
        second.publishing().unwrap();
        second.lost().unwrap();
        drop(second);
        let mut third = begin(&path);
        assert_eq!((third.tag(), third.is_begun(&a), third.is_begun(&b)), (tag, true, true));
        third.publishing().unwrap();
        drop(third);
        let mut fourth = begin(&path);
        assert_ne!(fourth.tag(), tag);
        assert!(!fourth.is_begun(&a));
        assert_eq!(fourth.all().cloned().collect::<Copies>(), [a, b].into());
        fourth.done().unwrap();
        drop(fourth);
        assert_eq!(begin(&path).all().count(), 0);
    }

    #[test]
    fn a_tag_that_others_have_seen_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("uploads");
        let mut uploads = begin(&path);
        let tag = uploads.tag();
        let (own, other) = (copy('a', tag), copy('b', tag ^ 1));
        uploads.note([&own].into_iter()).unwrap();
        uploads.heed(&[other].into()).unwrap();
        assert_eq!(uploads.tag(), tag);
        uploads.heed(&[own.clone()].into()).unwrap();
        assert_ne!(uploads.tag(), tag);
        assert_eq!(uploads.all().collect::<Vec<_>>(), [&own]);
        drop(uploads);
        assert_ne!(begin(&path).tag(), tag);
    }

    #[test]
    fn pushes_of_one_clone_follow_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("uploads");
        let first = begin(&path);
        let stopped = Progress::new();
        stopped.stop();
        assert!(Uploads::begin(&path, &stopped).is_err(), "waiting can be interrupted");
        thread::scope(|scope| {
            let second = scope.spawn(|| drop(begin(&path)));
            thread::sleep(3 * PAUSE);
            assert!(!second.is_finished());
            drop(first);
            second.join().unwrap();
        });
    }
}
