//! What every backend does for the store, and what they share to do it.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

use crate::atomic;
use crate::progress::{Interrupted, Progress};
use crate::signals;

use super::error::Reason;
use super::name::{MARKER, is_directory_of_store, is_file_of_store};

/// What a store needs from the place where it lies: the contract is in the head of the module.
///
/// Paths are those that [`Name::path`](super::name::Name::path) gives: relative, components separated by `/`.
pub(super) trait Backend: Send + Sync {
    /// Makes the place, which may exist when it is empty but for a marker. In a backend of files, directories for objects
    /// with nothing but unfinished files are as good as nothing.
    fn create(&self) -> Result<(), Reason>;

    /// Removes the directories that [`create`](Self::create) made, as far as nothing is in them: it, or storing the marker,
    /// has failed. A WebDAV server would remove what somebody else puts there meanwhile, so there they stay.
    fn abandon(&self) {}

    /// Looks whether the place is there and answers.
    fn check(&self) -> Result<(), Reason>;

    /// Removes the place and all that is in it, the marker last: what is interrupted can be done again.
    fn destroy(&self) -> Result<(), Reason>;

    /// All files below `directory`, in no promised order. After a temporary error the next call
    /// tries again what failed; after any other the listing is over.
    fn list<'a>(&'a self, directory: &str) -> Entries<'a>;

    /// The first path that a store does not write, if there is one: a reason not to destroy the place.
    fn foreign(&self) -> Result<Option<String>, Reason>;

    /// The bytes of `range`, exactly, which is not empty; or the whole object, when it has at most `limit` bytes.
    fn load(&self, path: &str, range: Option<Range<u64>>, limit: u64) -> Result<Vec<u8>, Reason>;

    /// Makes `content` the object: whole or not at all. When `new` is set, an object that exists stays,
    /// and the reason is [`Reason::Exists`].
    fn store(&self, path: &str, content: &Content<'_>, new: bool) -> Result<(), Reason>;

    /// Makes the names in `directory` durable, where that is more than what storing an object does: whoever stored one
    /// may have been killed, or have failed, before it did that.
    fn sync(&self, _directory: &str) -> Result<(), Reason> {
        Ok(())
    }

    /// Size and time of an object.
    fn info(&self, path: &str) -> Result<Entry, Reason>;

    /// Removes an object.
    fn delete(&self, path: &str) -> Result<(), Reason>;

    /// Gives an object another path. What was there is replaced; with `new` it stays, where the backend can do
    /// that in one step, and the reason is [`Reason::Exists`]. Where it cannot, the caller has looked before.
    fn rename(&self, from: &str, to: &str, new: bool) -> Result<(), Reason>;

    /// Whether storing with `new` is one atomic step, also between processes. Where that depends on the server,
    /// it is tried with an object at `path`, which nobody else uses.
    fn is_exclusive(&self, path: &str) -> Result<bool, Reason>;
}

/// Whether a file of that name is one that a backend of files was writing.
pub(super) fn is_unfinished(name: &str) -> bool {
    name.starts_with(atomic::TEMP_PREFIX) && name.ends_with(".tmp")
}

/// Whether a file of that name at the root of a store is there before the first object is: the marker, or what a
/// process left that was killed while it wrote that.
pub(super) fn is_marker(name: &str) -> bool {
    is_unfinished(name)
        || name.strip_prefix(MARKER).is_some_and(|rest| rest.is_empty() || rest.ends_with(".tmp"))
}

/// What lies at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    Other,
}

/// The most entries of one listing.
const LISTED: u64 = 1 << 24;
/// The most entries of one directory, and bytes of their paths: they are held in memory.
const HELD: u64 = 1 << 20;
const HELD_BYTES: u64 = 128 << 20;

/// How far a listing has come. A server may go on for ever, so each has an end, also when this process is to stop.
pub(super) struct Extent {
    entries: u64,
    bytes: u64,
    most: u64,
    most_bytes: u64,
}

impl Extent {
    /// Of a whole listing, which is passed on as it comes.
    pub const fn listing() -> Self {
        Self { entries: 0, bytes: 0, most: LISTED, most_bytes: u64::MAX }
    }

    /// Of what is held in memory.
    pub const fn held() -> Self {
        Self { entries: 0, bytes: 0, most: HELD, most_bytes: HELD_BYTES }
    }

    /// Counts one entry more.
    pub fn add(&mut self, path: &str) -> Result<(), Reason> {
        go_on()?;
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(path.len() as u64);
        if self.entries <= self.most && self.bytes <= self.most_bytes {
            return Ok(());
        }
        Err(Reason::permanent(format!(
            "the listing does not end after {} entries; check the server, or let the objects lie at deeper levels or in more \
             stores",
            self.entries - 1
        )))
    }
}

/// That this process is not to stop.
pub(super) fn go_on() -> Result<(), Reason> {
    if signals::is_stopping() { Err(Reason::permanent(Interrupted)) } else { Ok(()) }
}

/// The first path that a store does not write, where `read` gives what is in a directory.
pub(super) fn find_foreign(
    mut read: impl FnMut(&str) -> Result<Vec<(String, Kind)>, Reason>,
) -> Result<Option<String>, Reason> {
    let mut pending = vec![String::new()];
    let mut extent = Extent::listing();
    while let Some(directory) = pending.pop() {
        for (path, kind) in read(&directory)? {
            extent.add(&path)?;
            match kind {
                Kind::Directory if is_directory_of_store(&path) => pending.push(path),
                Kind::File if is_file_of_store(&path) => {}
                _ => return Ok(Some(path)),
            }
        }
    }
    Ok(None)
}

/// The error for a server that reported success for what it did not do. The original is still there.
pub(super) fn pretended(operation: &str) -> Reason {
    Reason::permanent(format!(
        "the server acknowledged a {operation} without doing it; nothing was removed; update the server, or use another one"
    ))
}

pub(super) type Entries<'a> = Box<dyn Iterator<Item = Result<Entry, Reason>> + Send + 'a>;

/// A file that a listing meets.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub path: String,
    pub size: u64,
    pub modified: Option<SystemTime>,
}

/// What is to be stored. It can be read as often as attempts are needed.
pub(super) enum Content<'a> {
    Bytes(&'a [u8]),
    File(FileContent<'a>),
}

/// A file that is to be stored, and who watches how far that is.
pub(super) struct FileContent<'a> {
    file: &'a File,
    size: u64,
    progress: Option<&'a Progress>,
    /// What the progress was told of: an attempt after a failed one begins again.
    told: AtomicU64,
}

impl<'a> FileContent<'a> {
    pub fn new(file: &'a File, progress: Option<&'a Progress>) -> io::Result<Self> {
        Ok(Self { file, size: file.metadata()?.len(), progress, told: AtomicU64::new(0) })
    }

    fn piece(&self, start: u64, end: u64) -> io::Result<Vec<u8>> {
        self.check()?;
        let mut piece = vec![0; (end - start) as usize];
        self.file.read_exact_at(&mut piece, start)?;
        if let Some(progress) = self.progress {
            progress.bytes.add(end.saturating_sub(self.told.fetch_max(end, Relaxed)));
        }
        Ok(piece)
    }

    fn check(&self) -> io::Result<()> {
        self.progress.map_or(Ok(()), |progress| progress.check().map_err(io::Error::other))
    }
}

impl Content<'_> {
    pub fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(content) => content.size,
        }
    }

    /// That whoever watches has not asked to stop.
    pub fn check(&self) -> io::Result<()> {
        match self {
            Self::Bytes(_) => Ok(()),
            Self::File(content) => content.check(),
        }
    }

    /// The pieces in order, each of `length` bytes but the last. An empty content is one empty piece.
    pub fn pieces(&self, length: usize) -> impl Iterator<Item = io::Result<Vec<u8>>> {
        let size = self.size();
        let starts = (0..size.max(1)).step_by(length.max(1));
        starts.map(move |start| {
            let end = start.saturating_add(length as u64).min(size);
            match self {
                Self::Bytes(bytes) => Ok(bytes[start as usize..end as usize].to_vec()),
                Self::File(content) => content.piece(start, end),
            }
        })
    }

    /// Whether this is exactly `bytes`.
    pub fn equals(&self, bytes: &[u8]) -> io::Result<bool> {
        const PIECE: usize = 1 << 20;
        if self.size() != bytes.len() as u64 {
            return Ok(false);
        }
        for (own, other) in self.pieces(PIECE).zip(bytes.chunks(PIECE)) {
            if own? != other {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Sixteen hexadecimal digits that nobody else has, for a name.
pub(super) fn random() -> Result<String, Reason> {
    let random = getrandom::u64().map_err(|error| Reason::permanent(error.to_string()))?;
    Ok(format!("{random:016x}"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pieces_add_up_to_the_content(bytes: Vec<u8>, length in 1..100_usize) {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&bytes).unwrap();
            let progress = Progress::new();
            let watched = FileContent::new(&file, Some(&progress)).unwrap();
            for content in [Content::Bytes(&bytes), Content::File(watched)] {
                let pieces: Vec<Vec<u8>> = content.pieces(length).map(Result::unwrap).collect();
                prop_assert_eq!(&pieces.concat(), &bytes);
                prop_assert!(!pieces.is_empty() && pieces.iter().all(|piece| piece.len() <= length));
                prop_assert!(content.equals(&bytes).unwrap());
                prop_assert!(!content.equals(&[&bytes[..], b"x"].concat()).unwrap());
            }
            prop_assert_eq!(progress.bytes.get(), bytes.len() as u64, "once, however often they are read");
            progress.stop();
            let stopped = Content::File(FileContent::new(&file, Some(&progress)).unwrap());
            prop_assert!(stopped.check().is_err());
            prop_assert!(stopped.pieces(length).all(|piece| piece.is_err()));
        }
    }

    #[test]
    fn no_two_random_names_are_equal() {
        assert_ne!(random().unwrap(), random().unwrap());
    }
}
