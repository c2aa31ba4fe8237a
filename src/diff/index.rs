//! The state of a directory: every name, with what it held.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustix::fs::FileType;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::archive::gzip;
use crate::cbor;
use crate::delta::{BlockSignature, ConfirmKey, SegmentParams, SignatureError, SignatureOptions};
use crate::diff::contents::{Event, Piece, ReadOptions, read_files};
use crate::diff::entry::{Content, Entry, Kind, SegmentRef};
use crate::diff::handle::NameAt;
use crate::diff::owners::Owners;
use crate::diff::page;
use crate::diff::read::{read_metadata, read_special, stat_metadata};
use crate::diff::scan::{Found, ScanError, ScanErrorKind, ScanOptions, scan};
use crate::diff::source::SourceDir;
use crate::diff::{DiffError, FORMAT_VERSION};
use crate::digest::Digest;
use crate::progress::{Interrupted, Progress};
use crate::{atomic, relpath::RelPath};

/// The state of a directory: its entries in path order, and block signatures of what its files hold.
///
/// About 200 bytes of memory a file of one segment whose path has 30 bytes, and 28 bytes a block of signature.
#[derive(Debug, Default)]
pub struct DirIndex {
    /// Everything in the directory, itself included (as the empty path), in path order.
    pub entries: Vec<Entry>,
    /// Names of the owners.
    pub owners: Owners,
    /// Signatures of the segments, where they were made.
    pub signatures: Arc<HashMap<Digest, BlockSignature>>,
    /// The key that confirms blocks of these signatures.
    pub key: ConfirmKey,
    /// What could not be read and is missing, or changed while it was read. Not kept in a file.
    pub problems: Vec<ScanError>,
    /// Where the directory was when it was scanned. Not kept in a file.
    pub root: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct IndexFile {
    format: String,
    version: u32,
    key: ByteBuf,
    owners: Owners,
    pages: Vec<ByteBuf>,
    signatures: Vec<(Digest, BlockSignature)>,
}

const FORMAT: &str = "treering directory index";

impl DirIndex {
    /// Scans `directory` and reads every file in it, with a signature of each.
    ///
    /// What cannot be read is in [`problems`](Self::problems); it fails only where the directory itself
    /// cannot be read.
    pub fn scan(directory: impl AsRef<Path>) -> Result<Self, DiffError> {
        let options = ScanOptions { threads: 1, ..ScanOptions::default() };
        Self::scan_with(directory.as_ref(), &options, true, SystemTime::now(), &Progress::new())
    }

    /// As [`scan`](Self::scan), leaving out what `options` says; `sign` says whether signatures are wanted,
    /// `began` what time it is.
    pub fn scan_with(
        directory: &Path,
        options: &ScanOptions,
        sign: bool,
        began: SystemTime,
        progress: &Progress,
    ) -> Result<Self, DiffError> {
        let excludes = options.excludes.load()?;
        excludes.check_leaves_some(&[directory])?;
        let options = &ScanOptions { excludes, ..options.clone() };
        let mut key = ConfirmKey::default();
        getrandom::fill(&mut key.0).map_err(std::io::Error::from)?;
        let mut index = Self { key: key.clone(), root: directory.to_owned(), ..Self::default() };
        let source = SourceDir::new(directory);
        scan::<DiffError>(&source, &RelPath::root(), options, |found| {
            progress.check()?;
            match found.and_then(|found| describe_in(&source, found, began)) {
                Ok((entry, problem)) => {
                    index.entries.push(entry);
                    index.problems.extend(problem);
                }
                Err(error) => index.problems.push(error),
            }
            Ok(())
        })?;
        let read = ReadOptions::new(SegmentParams::default(), began);
        let mut signatures = HashMap::new();
        let problems = fill(
            &mut index.entries,
            &source,
            &read,
            progress,
            |_, piece| sign.then(|| sign_piece(&piece, &key)),
            |_, segment, signature| {
                if let Some(signature) = signature {
                    signatures.insert(segment.digest, signature?);
                }
                Ok::<_, DiffError>(())
            },
        )?;
        index.problems.extend(problems);
        index.signatures = Arc::new(signatures);
        for entry in &index.entries {
            index.owners.note(entry);
        }
        Ok(index)
    }

    /// Writes the index to `path`, durably.
    pub fn to_file(&self, path: impl AsRef<Path>) -> Result<(), DiffError> {
        let mut pages = Vec::new();
        for page in pages_of(&self.entries) {
            pages.push(ByteBuf::from(gzip(&page::encode(page)?)?));
        }
        let mut signatures: Vec<_> =
            self.signatures.iter().map(|(digest, signature)| (*digest, signature.clone())).collect();
        signatures.sort_unstable_by_key(|(digest, _)| *digest);
        let file = IndexFile {
            format: FORMAT.into(),
            version: FORMAT_VERSION,
            key: self.key.0.to_vec().into(),
            owners: self.owners.clone(),
            pages,
            signatures,
        };
        Ok(atomic::write(path.as_ref(), &cbor::to_vec(&file)?)?)
    }

    /// Reads an index that [`to_file`](Self::to_file) wrote.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, DiffError> {
        let file: IndexFile = crate::diff::decode(FORMAT, &crate::diff::read_whole(path.as_ref())?)?;
        crate::diff::check_format(FORMAT, &file.format, file.version)?;
        let mut entries: Vec<Entry> = Vec::new();
        let allowance = page::Allowance::default();
        for (number, page) in file.pages.iter().enumerate() {
            let page = allowance.unpack(number, page)?;
            if let (Some(last), Some(first)) = (entries.last(), page.first())
                && last.path >= first.path
            {
                return Err(page::PageError::Order(first.path.clone()).into());
            }
            entries.extend(page);
        }
        let key = file.key.as_slice().try_into().map_err(|_| DiffError::Key)?;
        Ok(Self {
            entries,
            owners: file.owners,
            signatures: Arc::new(file.signatures.into_iter().collect()),
            key: ConfirmKey(key),
            ..Self::default()
        })
    }
}

fn sign_piece(piece: &Piece, key: &ConfirmKey) -> Result<BlockSignature, SignatureError> {
    let options = SignatureOptions::for_segment(piece.bytes.len());
    BlockSignature::compute(&piece.bytes, piece.offset, options, key)
}

/// Cuts entries into pages.
pub fn pages_of(entries: &[Entry]) -> impl Iterator<Item = &[Entry]> {
    let mut rest = entries;
    std::iter::from_fn(move || {
        let cut = (1..).zip(rest).find(|(count, entry)| page::ends_after(&entry.path, *count));
        let (page, after) = rest.split_at(cut.map_or(rest.len(), |(count, _)| count));
        rest = after;
        (!page.is_empty()).then_some(page)
    })
}

/// The entry of something found, of a regular file all but its content and extended attributes, which [`fill`] reads;
/// and why not all of its attributes are there. It stands at `place`, by which it is read.
pub(crate) fn describe(
    place: &NameAt<'_>,
    found: Found,
    began: SystemTime,
) -> Result<(Entry, Option<ScanError>), ScanError> {
    let stat = &found.stat;
    // Problems are told by the path that a person knows.
    let named = |source| ScanError { path: place.located().to_owned(), source };
    let (kind, (meta, fault)) = match stat.file_type() {
        FileType::RegularFile => {
            let link = (stat.links > 1).then(|| Box::new((stat.device, stat.inode)));
            let content = Content { size: stat.size, link, ..Content::default() };
            (Kind::File(content), (stat_metadata(stat, began), None))
        }
        _ => match read_special(place, stat) {
            Ok(kind) => (kind, read_metadata(place, stat, began)),
            Err(error) => return Err(named(error.into())),
        },
    };
    let problem = fault.map(|error| named(ScanErrorKind::Attributes(error)));
    Ok((Entry { path: found.path, kind, meta }, problem))
}

/// The entry of something found below a directory, of a regular file all but its content and extended attributes, which
/// [`fill`] reads; and why not all of its attributes are there.
pub fn describe_in(
    directory: &SourceDir,
    found: Found,
    began: SystemTime,
) -> Result<(Entry, Option<ScanError>), ScanError> {
    // Of a regular file nothing is read by its place.
    if found.stat.file_type() == FileType::RegularFile {
        return describe(&NameAt::of(Path::new("")), found, began);
    }
    let path = found.path.clone();
    let described = directory.with_name(&path, |place| describe(place, found, began));
    described.unwrap_or_else(|error| Err(ScanError { path: directory.locate(&path), source: error.into() }))
}

/// Reads the content of all regular files among `entries`, which [`describe_in`] made, and completes them;
/// returns what went wrong.
///
/// Entries whose file cannot be read are removed. Names of one file are read once, by another name where the
/// first cannot be. `process` runs on several threads, `store` here and in order, both with the number of the
/// entry. Holes count as bytes in `progress` when their file is done.
pub fn fill<R: Send, E: From<Interrupted>>(
    entries: &mut Vec<Entry>,
    directory: &SourceDir,
    options: &ReadOptions,
    progress: &Progress,
    process: impl Fn(usize, Piece) -> R + Sync,
    mut store: impl FnMut(usize, SegmentRef, R) -> Result<(), E>,
) -> Result<Vec<ScanError>, E> {
    let mut jobs = Jobs::new(entries);
    let paths: Vec<RelPath> = entries.iter_mut().map(|entry| std::mem::take(&mut entry.path)).collect();
    let mut problems = Vec::new();
    let mut unread = Vec::new();
    let mut segments = Vec::new();
    let result: Result<(), E> = loop {
        let mut lost = Vec::new();
        let read = read_files(
            jobs.files.len(),
            |job| jobs.files[job].size.into(),
            |job| directory.open(&paths[jobs.files[job].number()]),
            options,
            progress,
            |piece| process(jobs.files[piece.file].number(), piece),
            |event| {
                match event {
                    Event::Segment { file, segment, result } => {
                        segments.push(segment);
                        progress.bytes.add(segment.len.into());
                        store(jobs.files[file].number(), segment, result)?;
                    }
                    Event::File { file, outcome } => {
                        let number = jobs.files[file].number();
                        let size = entries[number].content().map_or(0, |content| content.size);
                        progress.files.add(1);
                        // Holes, and what was cut off meanwhile, are done too.
                        let counted = segments.iter().map(|segment| u64::from(segment.len)).sum();
                        progress.bytes.add(size.saturating_sub(counted));
                        let outcome = outcome.map(|read| (read.content(&segments), read));
                        segments.clear();
                        let mut fail = |source| {
                            progress.errors.add(1);
                            problems.push(ScanError { path: directory.locate(&paths[number]), source });
                        };
                        match outcome {
                            Ok((content, read)) => {
                                entries[number].kind = Kind::File(content);
                                entries[number].meta = read.meta;
                                if read.changed {
                                    fail(ScanErrorKind::Changed);
                                }
                                if let Some(error) = read.xattr_fault {
                                    fail(ScanErrorKind::Attributes(error));
                                }
                            }
                            Err(error) => {
                                lost.push(number);
                                fail(ScanErrorKind::Io(error));
                            }
                        }
                    }
                }
                Ok(())
            },
        );
        jobs.retry(&lost);
        unread.extend(lost);
        if read.is_err() || jobs.files.is_empty() {
            break read;
        }
    };
    for (entry, path) in entries.iter_mut().zip(paths) {
        entry.path = path;
    }
    result?;
    jobs.share(entries);
    unread.sort_unstable();
    let mut number = 0;
    entries.retain(|_| {
        number += 1;
        unread.binary_search(&(number - 1)).is_err()
    });
    Ok(problems)
}

/// What sorts files of a kind together: like content in one gzip window compresses better.
fn likeness(path: &RelPath) -> (&[u8], &[u8]) {
    let name = path.name();
    let extension = name.iter().rposition(|&byte| byte == b'.').map_or(&name[..0], |dot| &name[dot + 1..]);
    (extension, name)
}

/// The beginning of a [`likeness`], which decides nearly always: names of a million files lie all over the memory.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct LikenessKey {
    extension: [u8; 7],
    is_cut: bool,
    name: [u8; 8],
}

impl LikenessKey {
    fn new((extension, name): (&[u8], &[u8])) -> Self {
        // No name has a zero in it, so a shorter one still comes first.
        fn head<const N: usize>(bytes: &[u8]) -> [u8; N] {
            let mut head = [0; N];
            head.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
            head
        }
        let is_cut = extension.len() > 7 || name.len() > 8;
        Self { extension: head(extension), is_cut, name: head(name) }
    }
}

/// Which entries are read, and which are further names of those.
struct Jobs {
    files: Vec<Job>,
    /// Number of an entry, and of the one that is the same file.
    copies: Vec<(usize, usize)>,
}

/// A file to read, in 8 bytes: there may be a million, and no memory holds 2^32 entries.
struct Job {
    number: u32,
    /// Whatever is longer than fits is just as large.
    size: u32,
}

impl Job {
    fn new(number: usize, size: u64) -> Self {
        Self { number: number as u32, size: size.try_into().unwrap_or(u32::MAX) }
    }

    /// Of the entry.
    fn number(&self) -> usize {
        self.number as usize
    }
}

impl Jobs {
    fn new(entries: &[Entry]) -> Self {
        let mut keyed = Vec::new();
        let mut copies = Vec::new();
        let mut first = HashMap::new();
        for (number, entry) in entries.iter().enumerate() {
            let Some(content) = entry.content() else { continue };
            match content.link.as_deref().map(|&link| *first.entry(link).or_insert(number)) {
                Some(original) if original != number => copies.push((number, original)),
                _ => {
                    let key = LikenessKey::new(likeness(&entry.path));
                    keyed.push((key, Job::new(number, content.size)));
                }
            }
        }
        keyed.sort_unstable_by(|(key_a, a), (key_b, b)| {
            let whole = |job: &Job| key_a.is_cut.then(|| likeness(&entries[job.number()].path));
            key_a.cmp(key_b).then_with(|| whole(a).cmp(&whole(b))).then(a.number.cmp(&b.number))
        });
        let mut files: Vec<Job> = keyed.into_iter().map(|(_, job)| job).collect();
        // They may have been collected where they stood, with room for the keys.
        files.shrink_to_fit();
        Self { files, copies }
    }

    /// What to read instead of the files with the numbers in `lost`: other names of them.
    fn retry(&mut self, lost: &[usize]) {
        let lost: HashSet<usize> = lost.iter().copied().collect();
        let mut instead = HashMap::new();
        let tried = self.files.drain(..).map(|job| (job.number(), job.size));
        let sizes: HashMap<usize, u32> = tried.filter(|(number, _)| lost.contains(number)).collect();
        self.copies.retain_mut(|(number, original)| {
            let Some(&size) = sizes.get(original) else { return true };
            *original = *instead.entry(*original).or_insert_with(|| {
                self.files.push(Job::new(*number, size.into()));
                *number
            });
            original != number
        });
    }

    fn share(&self, entries: &mut [Entry]) {
        for &(number, original) in &self.copies {
            entries[number].kind = entries[original].kind.clone();
            entries[number].meta = entries[original].meta.clone();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_by_extension_and_name_however_long() {
        let names = [
            "z/Makefile",
            "a/README",
            "b/README.md",
            "a/x.longextension1",
            "a/a.longextension2",
            "b/long-name-one.c",
            "a/long-name-two.c",
            "b/long-name-two.c",
            "a/x.c",
            "a/.c",
            "a/x.cc",
        ];
        let mut entries: Vec<_> = names
            .iter()
            .map(|name| Entry {
                path: RelPath::new(name.as_bytes()).unwrap(),
                kind: Kind::File(Content::default()),
                meta: Default::default(),
            })
            .collect();
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        let jobs = Jobs::new(&entries);
        let read: Vec<_> = jobs.files.iter().map(|job| entries[job.number()].path.to_string()).collect();
        assert_eq!(
            read,
            [
                "z/Makefile",
                "a/README",
                "a/.c",
                "a/x.c",
                "b/long-name-one.c",
                "a/long-name-two.c",
                "b/long-name-two.c",
                "a/x.cc",
                "a/a.longextension2",
                "a/x.longextension1",
                "b/README.md",
            ]
        );
    }

    #[test]
    fn a_file_is_read_by_another_name_where_the_first_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), "content").unwrap();
        for name in ["b", "c"] {
            std::fs::hard_link(dir.path().join("a"), dir.path().join(name)).unwrap();
        }
        let began = SystemTime::now();
        let mut entries = Vec::new();
        let source = SourceDir::new(dir.path());
        scan::<ScanError>(&source, &RelPath::root(), &ScanOptions::default(), |found| {
            entries.push(describe_in(&source, found?, began)?.0);
            Ok(())
        })
        .unwrap();
        std::fs::remove_file(dir.path().join("a")).unwrap();
        let problems = fill(
            &mut entries,
            &source,
            &ReadOptions::new(SegmentParams::default(), began),
            &Progress::new(),
            |_, _| (),
            |_, _, ()| Ok::<_, DiffError>(()),
        )
        .unwrap();
        assert_eq!(problems.len(), 1);
        let read: Vec<_> = entries
            .iter()
            .map(|entry| (entry.path.to_string(), entry.content().map(Content::data_len)))
            .collect();
        assert_eq!(read, [("".into(), None), ("b".into(), Some(7)), ("c".into(), Some(7))]);
    }
}
