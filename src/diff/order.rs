//! In which order the files of a patch are written, and by whom.
//!
//! The order is that in which their segments lie in the source, so that each part of it is unpacked once; but what
//! lies close together there is written directory by directory, since a file system makes the files of one
//! directory faster, and two threads that do so wait for each other.

use std::ops::Range;

use crate::diff::entry::{Content, Entry};

/// Files up to this many bytes are written in one piece; of larger ones each piece is about as long.
pub(super) const PIECE: u64 = 8 << 20;
/// Small files whose segments follow each other, of about so many bytes, are written directory by directory: a
/// source keeps at least so much of what it has unpacked.
const WINDOW: u64 = 24 << 20;
/// What a segment takes in a source beside its bytes.
const OVERHEAD: u64 = 1024;
/// Small files are handed out in runs of one directory, of at most so many.
const RUN: usize = 128;
/// Shorter runs go on in the next directory.
const SHORT_RUN: usize = 16;

/// A file to be written.
pub(super) struct ToWrite<'a> {
    /// Where its first segment is in the source; later, where its window begins.
    pub position: u64,
    /// Which of the files it is, in path order.
    pub number: usize,
    pub entry: &'a Entry,
    pub content: &'a Content,
}

/// Puts files in the order in which they are best written: those of one window of the source by their paths, and
/// the windows as they lie there.
pub(super) fn by_window(files: &mut [ToWrite<'_>]) {
    files.sort_unstable_by_key(|file| (file.position, file.number));
    let mut rest = files;
    while let Some(first) = rest.first().map(|file| file.position) {
        let mut bytes = 0;
        let mut len = 0;
        for file in rest.iter() {
            let span = (file.position - first).saturating_add(1);
            let (files, total) = (len as u64 + 1, bytes + file.content.data_len());
            // What lies between is taken to be like what is wanted.
            if len > 0 && (total / files + OVERHEAD).saturating_mul(span) > WINDOW {
                break;
            }
            (len, bytes) = (len + 1, total);
        }
        let (window, after) = rest.split_at_mut(len);
        window.sort_unstable_by_key(|file| file.number);
        window.iter_mut().for_each(|file| file.position = first);
        rest = after;
    }
}

/// Cuts files that are in order into runs for one thread each. Two threads that make files in one directory wait for
/// each other.
pub(super) fn runs<'a>(files: &'a [ToWrite<'a>]) -> impl Iterator<Item = Range<usize>> + 'a {
    let mut end = 0;
    std::iter::from_fn(move || {
        let start = end;
        while let Some(next) = files.get(end)
            && end - start < RUN
            && (end - start < SHORT_RUN
                || (next.position == files[end - 1].position
                    && next.entry.path.is_beside(&files[end - 1].entry.path)))
        {
            end += 1;
        }
        (end > start).then_some(start..end)
    })
}

/// Runs of segments of about [`PIECE`] bytes, each with where it begins in the data stream.
pub(super) fn pieces(content: &Content) -> Vec<(Range<usize>, u64)> {
    let mut pieces = Vec::new();
    let (mut first, mut start, mut end) = (0, 0, 0);
    for (number, segment) in content.segments.iter().enumerate() {
        end += u64::from(segment.len);
        if end - start >= PIECE || number + 1 == content.segments.len() {
            pieces.push((first..number + 1, start));
            (first, start) = (number + 1, end);
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diff::entry::{Kind, SegmentRef};
    use crate::digest::Digest;
    use crate::relpath::RelPath;

    /// Files of `len` bytes, by path, each with its position in the source.
    fn ordered(files: &[(&str, u64)], len: u32) -> (Vec<String>, Vec<usize>) {
        let segment = SegmentRef { digest: Digest::of(b""), len };
        let content = Content { size: len.into(), segments: vec![segment].into(), ..Content::default() };
        let entries: Vec<Entry> = files
            .iter()
            .map(|(path, _)| Entry {
                path: RelPath::new(path.as_bytes()).unwrap(),
                kind: Kind::File(content.clone()),
                meta: Default::default(),
            })
            .collect();
        let mut to_write: Vec<_> = entries
            .iter()
            .zip(files)
            .enumerate()
            .map(|(number, (entry, &(_, position)))| ToWrite { position, number, entry, content: &content })
            .collect();
        by_window(&mut to_write);
        let paths = to_write.iter().map(|file| file.entry.path.to_string()).collect();
        (paths, runs(&to_write).map(|run| run.len()).collect())
    }

    #[test]
    fn what_lies_together_in_the_source_is_written_directory_by_directory() {
        let files = [("a/x", 0), ("a/y", 2), ("b/x", 1), ("b/y", 3)];
        assert_eq!(ordered(&files, 1000).0, ["a/x", "a/y", "b/x", "b/y"]);
        let half_a_window = (WINDOW / 2 - OVERHEAD) as u32;
        assert_eq!(ordered(&files, half_a_window).0, ["a/x", "b/x", "a/y", "b/y"]);
    }

    #[test]
    fn what_lies_far_apart_in_the_source_is_no_window() {
        let far = u64::from(u32::MAX);
        let files = [("a/x", 0), ("a/y", 2 * far), ("b/x", far), ("b/y", u64::MAX)];
        assert_eq!(ordered(&files, 1).0, ["a/x", "b/x", "a/y", "b/y"]);
    }

    #[test]
    fn runs_end_with_their_directory_unless_they_are_short() {
        let in_directory =
            |name: &'static str, count: usize| (0..count).map(move |number| format!("{name}/{number:03}"));
        let paths: Vec<_> =
            in_directory("a", RUN + 20).chain(in_directory("b", 3)).chain(in_directory("c", 20)).collect();
        let files: Vec<_> = paths.iter().map(String::as_str).zip(0..).collect();
        assert_eq!(ordered(&files, 1).1, [RUN, 20, 23]);
    }
}
