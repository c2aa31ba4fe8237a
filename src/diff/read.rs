//! Reading what a scan found: content, link targets, extended attributes.
//!
//! A file is read through one descriptor, its holes are skipped, and it is looked at again after the last
//! byte: what changed in between is told, so that the caller can report it and keep the rest. Nothing is
//! opened that is not a regular file.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::time::{Duration, SystemTime};

use rustix::fs::{FileType, SeekFrom};
use xattr::{FileExt as _, XAttrs};

use crate::diff::entry::{FileTime, Kind, Metadata, Xattrs};
use crate::diff::handle::NameAt;
use crate::diff::stat::Stat;

/// Time stamps of files lag behind the clock by up to this much (a tick of the slowest kernels is 10 ms).
const CLOCK_LAG: Duration = Duration::from_millis(20);

/// A regular file being read: the data between its holes, as one stream.
pub struct DataReader {
    file: File,
    stat: Stat,
    holes: Vec<Range<u64>>,
    next_hole: usize,
    at: u64,
    end: u64,
    /// Whether the file had no more to give.
    is_over: bool,
}

/// What a file turned out to hold.
pub struct ReadFile {
    /// Length that was read, holes included.
    pub size: u64,
    /// The holes.
    pub holes: Vec<Range<u64>>,
    /// It was written to, or cut, while it was read.
    pub changed: bool,
    /// Its extended attributes, as far as they can be read.
    pub xattrs: Option<Box<Xattrs>>,
    /// Why some or all of them cannot be read.
    pub xattr_fault: Option<io::Error>,
}

impl DataReader {
    /// Reads what is opened with [`FILE_FLAGS`]; fails when that is not a regular file.
    pub fn new(file: OwnedFd) -> io::Result<Self> {
        let file = File::from(file);
        let opened = Stat::from(rustix::fs::fstat(&file)?);
        if opened.file_type() != FileType::RegularFile {
            return Err(io::Error::other("it is no longer a regular file"));
        }
        let holes = if opened.allocated < opened.size { find_holes(&file, opened.size)? } else { Vec::new() };
        // Files in /proc say that they are empty, and are not. One that is costs a read to find that out.
        let end = if opened.size == 0 { u64::MAX } else { opened.size };
        Ok(Self { file, stat: opened, holes, next_hole: 0, at: 0, end, is_over: false })
    }

    /// The file, to be read otherwise.
    pub fn into_file(self) -> File {
        self.file
    }

    /// What `fstat` said when it was opened.
    pub fn stat(&self) -> &Stat {
        &self.stat
    }

    /// How many bytes of data it holds at most: as many as it should, or any number where it says none.
    pub fn data_len(&self) -> u64 {
        self.end - self.holes.iter().map(|hole| hole.end - hole.start).sum::<u64>()
    }

    /// The holes, as they were when it was opened.
    pub fn holes(&self) -> &[Range<u64>] {
        &self.holes
    }

    /// Reads no more than about `limit` bytes of data: what lies after them counts as not there, and the file
    /// as changed.
    pub fn limit_data(&mut self, limit: u64) {
        if self.data_len() <= limit {
            return;
        }
        let mut left = limit;
        let mut at = 0;
        for hole in &self.holes {
            if hole.start - at > left {
                break;
            }
            left -= hole.start - at;
            at = hole.end;
        }
        self.end = at + left;
        self.holes.retain(|hole| hole.end <= self.end);
    }

    /// Looks at the file again and says what was read.
    pub fn finish(mut self) -> io::Result<ReadFile> {
        let (xattrs, xattr_fault) = collect_xattrs(self.file.list_xattr(), |name| self.file.get_xattr(name));
        let now = Stat::from(rustix::fs::fstat(&self.file)?);
        self.holes.retain(|hole| hole.end <= self.end);
        let size = if self.stat.size > 0 || !self.is_over { self.end } else { 0 };
        let changed = size != now.size || (now.mtime, now.ctime) != (self.stat.mtime, self.stat.ctime);
        Ok(ReadFile { size: self.end, holes: self.holes, changed, xattrs, xattr_fault })
    }
}

impl Read for DataReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(hole) = self.holes.get(self.next_hole).filter(|hole| hole.start == self.at) {
            self.at = hole.end;
            self.next_hole += 1;
        }
        let until = self.holes.get(self.next_hole).map_or(self.end, |hole| hole.start.min(self.end));
        let len = usize::try_from(until.saturating_sub(self.at)).unwrap_or(usize::MAX).min(buffer.len());
        if len == 0 {
            return Ok(0);
        }
        let count = self.file.read_at(&mut buffer[..len], self.at)?;
        if count == 0 {
            self.end = self.at;
            self.is_over = true;
        }
        self.at += count as u64;
        Ok(count)
    }
}

fn find_holes(file: &File, size: u64) -> io::Result<Vec<Range<u64>>> {
    let mut holes = Vec::new();
    let mut at = 0;
    while at < size {
        let data = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(data) => data.min(size),
            Err(rustix::io::Errno::NXIO) => size,
            // The file system does not tell holes.
            Err(rustix::io::Errno::INVAL) if at == 0 => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        if data > at {
            holes.push(at..data);
        }
        if data == size {
            break;
        }
        at = rustix::fs::seek(file, SeekFrom::Hole(data))?.min(size);
    }
    Ok(holes)
}

/// What a name that is not a regular file is, its link target read.
pub fn read_special(place: &NameAt<'_>, stat: &Stat) -> io::Result<Kind> {
    Ok(match stat.file_type() {
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink(place.read_link()?.into_boxed_slice()),
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice => Kind::CharDevice(stat.special),
        FileType::BlockDevice => Kind::BlockDevice(stat.special),
        FileType::RegularFile | FileType::Unknown => {
            return Err(io::Error::other("it is not what it was when it was found"));
        }
    })
}

/// The metadata to keep of what stands at a place: its `stat`, as of a scan that began at `began`, and its extended
/// attributes. Where these cannot be read, why; such an entry never counts as unchanged.
pub fn read_metadata(place: &NameAt<'_>, stat: &Stat, began: SystemTime) -> (Metadata, Option<io::Error>) {
    let (xattrs, fault) = match place.open_directory(stat) {
        Some(directory) => {
            let directory = File::from(directory);
            collect_xattrs(directory.list_xattr(), |name| directory.get_xattr(name))
        }
        None => {
            let path = place.path();
            collect_xattrs(xattr::list(&path), |name| xattr::get(&path, name))
        }
    };
    let mut meta = Metadata { xattrs, ..stat_metadata(stat, began) };
    if fault.is_some() {
        meta.ctime = FileTime::default();
    }
    (meta, fault)
}

/// As [`read_metadata`], without the extended attributes.
pub fn stat_metadata(stat: &Stat, began: SystemTime) -> Metadata {
    Metadata {
        mode: stat.mode & 0o7777,
        uid: stat.uid,
        gid: stat.gid,
        mtime: stat.mtime,
        ctime: if is_settled(stat, began) { stat.ctime } else { FileTime::default() },
        inode: stat.inode,
        xattrs: None,
    }
}

/// Whether any later change to the file would show in its time stamps: it last changed long enough before
/// `began`.
fn is_settled(stat: &Stat, began: SystemTime) -> bool {
    let limit = FileTime::from(began.checked_sub(CLOCK_LAG).unwrap_or(SystemTime::UNIX_EPOCH));
    // A content time far in the future was set by hand; the inode's time still tells of changes then.
    let horizon = FileTime { seconds: limit.seconds.saturating_add(3600), ..limit };
    stat.ctime < limit && !(limit..horizon).contains(&stat.mtime)
}

/// Extended attributes, and why some or all of them cannot be read.
fn collect_xattrs(
    names: io::Result<XAttrs>,
    get: impl Fn(&OsStr) -> io::Result<Option<Vec<u8>>>,
) -> (Option<Box<Xattrs>>, Option<io::Error>) {
    use std::os::unix::ffi::OsStringExt;
    let names = match names {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::Unsupported => return (None, None),
        Err(error) => return (None, Some(error)),
    };
    let mut xattrs = Xattrs::new();
    let mut fault = None;
    for name in names {
        match get(&name) {
            Ok(value) => xattrs.extend(value.map(|value| (name.into_vec(), value))),
            Err(error) => drop(fault.get_or_insert(error)),
        }
    }
    xattrs.sort_unstable();
    ((!xattrs.is_empty()).then(|| Box::new(xattrs)), fault)
}

impl From<SystemTime> for FileTime {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => Self {
                seconds: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
                nanos: after.subsec_nanos(),
            },
            Err(error) => {
                let before = error.duration();
                let seconds = i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
                match before.subsec_nanos() {
                    0 => Self { seconds: -seconds, nanos: 0 },
                    nanos => Self { seconds: -seconds - 1, nanos: 1_000_000_000 - nanos },
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};
    use std::path::Path;

    use rustix::fs::Mode;

    use super::*;
    use crate::diff::handle::FILE_FLAGS;

    fn stat(path: &Path) -> Stat {
        rustix::fs::lstat(path).unwrap().into()
    }

    fn open(path: &Path) -> io::Result<DataReader> {
        DataReader::new(rustix::fs::open(path, FILE_FLAGS, Mode::empty())?)
    }

    #[test]
    fn holes_are_skipped_and_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sparse");
        let mut file = File::create(&path).unwrap();
        file.seek(io::SeekFrom::Start(1 << 20)).unwrap();
        file.write_all(&[7; 4096]).unwrap();
        file.set_len(3 << 20).unwrap();
        let mut reader = open(&path).unwrap();
        let mut data = Vec::new();
        reader.read_to_end(&mut data).unwrap();
        let read = reader.finish().unwrap();
        assert_eq!(read.size, 3 << 20);
        let holes: u64 = read.holes.iter().map(|hole| hole.end - hole.start).sum();
        assert_eq!(holes + data.len() as u64, 3 << 20);
        assert!(data.len() < 1 << 20, "the file system keeps no holes here");
        assert!(!read.changed);
    }

    #[test]
    fn a_limit_falls_anywhere_between_holes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sparse");
        let file = File::create(&path).unwrap();
        for at in [0, 1 << 20, 2 << 20] {
            file.write_all_at(&[7; 8192], at).unwrap();
        }
        file.set_len(3 << 20).unwrap();
        for limit in [0, 1, 8191, 8192, 8193, 16384, 20000, 24576, u64::MAX] {
            let mut reader = open(&path).unwrap();
            reader.limit_data(limit);
            let mut data = Vec::new();
            reader.read_to_end(&mut data).unwrap();
            let read = reader.finish().unwrap();
            let holes: u64 = read.holes.iter().map(|hole| hole.end - hole.start).sum();
            assert_eq!(holes + data.len() as u64, read.size, "limit {limit}");
            assert!(data.len() as u64 <= limit);
            assert_eq!(read.changed, data.len() < 24576);
        }
    }

    #[test]
    fn growth_and_truncation_are_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, vec![1; 100_000]).unwrap();
        let mut reader = open(&path).unwrap();
        let mut start = vec![0; 1000];
        reader.read_exact(&mut start).unwrap();
        File::options().write(true).open(&path).unwrap().set_len(5000).unwrap();
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).unwrap();
        let read = reader.finish().unwrap();
        assert_eq!((read.size, read.changed), (5000, true));

        let mut reader = open(&path).unwrap();
        File::options().append(true).open(&path).unwrap().write_all(b"more").unwrap();
        let mut data = Vec::new();
        reader.read_to_end(&mut data).unwrap();
        let read = reader.finish().unwrap();
        assert_eq!((read.size, data.len(), read.changed), (5000, 5000, true));
    }

    #[test]
    fn what_is_not_a_regular_file_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("link");
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(open(&path).is_err());
        let place = NameAt::of(&path);
        assert_eq!(read_special(&place, &stat(&path)).unwrap(), Kind::Symlink((*b"/etc/passwd").into()));
        assert!(open(dir.path()).is_err());
    }

    #[test]
    fn a_file_as_young_as_the_scan_is_not_settled() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "x").unwrap();
        let now = SystemTime::now();
        let ctime = |began| read_metadata(&NameAt::of(&path), &stat(&path), began).0.ctime;
        assert_eq!(ctime(now), FileTime::default());
        assert_eq!(ctime(now + Duration::from_secs(60)), stat(&path).ctime);
        let future = now + Duration::from_secs(365 * 86_400);
        File::options().write(true).open(&path).unwrap().set_modified(future).unwrap();
        assert_ne!(ctime(now + Duration::from_secs(60)), FileTime::default());
    }

    #[test]
    fn times_before_the_epoch() {
        let before = SystemTime::UNIX_EPOCH - Duration::from_millis(1500);
        assert_eq!(FileTime::from(before), FileTime { seconds: -2, nanos: 500_000_000 });
    }
}
