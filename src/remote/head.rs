//! What a cold remote says of itself: lines of text, so that a person can go on from them with git alone.
//!
//! A *head* names a commit and the layers that hold all that it reaches. The last line is the SHA-256 of the
//! lines before it, so a head that was cut short or changed is noticed.
//!
//! A layer lies there under the name that it has everywhere and a *tag*, random digits of the push that brought
//! it. So what is stored again after it was removed has another name: see [`removal`](super::removal).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use crate::digest::Digest;
use crate::layers::ObjectId;

/// The version of the layout of cold remotes.
pub(super) const LAYOUT: u32 = 1;

/// How the mark of a cold remote begins, and how a head does; the version follows.
const MARK: &str = "treering cold remote";
const HEAD: &str = "treering cold head";

/// What a layer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LayerKind {
    /// Commits, trees, and blobs that describe: small, and needed by every command.
    Metadata,
    /// Volumes: large, and needed where content is read.
    Data,
}

impl LayerKind {
    /// The word for it, which is also the namespace of a store where such layers lie.
    pub fn name(self) -> &'static str {
        match self {
            Self::Metadata => "metadata",
            Self::Data => "data",
        }
    }
}

/// What a head says of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Held {
    pub kind: LayerKind,
    pub pack_bytes: u64,
    pub index_bytes: u64,
    pub objects: u32,
    /// Of the push that brought it.
    pub tag: u64,
}

/// Layers as they lie in a remote, each with its name.
pub(super) type Copies = BTreeSet<(String, Held)>;

/// The state of a repository, as a cold remote has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    /// The id of the repository.
    pub repository: String,
    /// The tip of its branch.
    pub commit: ObjectId,
    /// The commit of the head that this one was made from.
    pub previous: Option<ObjectId>,
    /// The layers, by name.
    pub layers: BTreeMap<String, Held>,
    /// Layers that nothing needs any more, and that may be there still.
    pub going: Copies,
}

/// Why text is not what it should be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeadError {
    /// Of a later version.
    Newer(u32),
    /// Of no version.
    Damaged(&'static str),
}

impl Head {
    pub fn encode(&self) -> String {
        let mut text = format!("{HEAD} {LAYOUT}\nrepository {}\ncommit {}\n", self.repository, self.commit);
        if let Some(previous) = &self.previous {
            let _ = writeln!(text, "previous {previous}");
        }
        for (name, held) in &self.layers {
            let _ = writeln!(text, "{}", encode_layer(name, held));
        }
        for (name, held) in &self.going {
            let _ = writeln!(text, "{GOING} {}", encode_layer(name, held));
        }
        seal(text)
    }

    pub fn parse(bytes: &[u8]) -> Result<Self, HeadError> {
        let text = unseal(bytes, HEAD)?;
        let (mut repository, mut commit, mut previous) = (None, None, None);
        let (mut layers, mut going) = (BTreeMap::new(), Copies::new());
        let id = |text: &str| text.parse().map_err(|_| HeadError::Damaged("it names no commit"));
        for line in lines(text) {
            let (key, value) = line.split_once(' ').ok_or(HeadError::Damaged("a line has no value"))?;
            match key {
                "repository" => repository = Some(value.to_owned()),
                "commit" => commit = Some(id(value)?),
                "previous" => previous = Some(id(value)?),
                "metadata" | "data" => {
                    let (name, held) = parse_layer(line).ok_or(NO_LAYER)?;
                    layers.insert(name, held);
                }
                GOING => drop(going.insert(parse_layer(value).ok_or(NO_LAYER)?)),
                // Later programs may say more.
                _ => {}
            }
        }
        match (repository, commit) {
            (Some(repository), Some(commit)) => Ok(Self { repository, commit, previous, layers, going }),
            _ => Err(HeadError::Damaged("it names no commit")),
        }
    }
}

/// What stands before a layer that may be there still.
const GOING: &str = "going";

const NO_LAYER: HeadError = HeadError::Damaged("a line is no layer");

/// The line for a layer.
pub(super) fn encode_layer(name: &str, held: &Held) -> String {
    let Held { kind, pack_bytes, index_bytes, objects, tag } = held;
    format!("{} {name} {pack_bytes} {index_bytes} {objects} {tag:016x}", kind.name())
}

/// The layer of a line; `None` where it is none.
pub(super) fn parse_layer(line: &str) -> Option<(String, Held)> {
    let mut words = line.split(' ');
    let kind = match words.next()? {
        "data" => LayerKind::Data,
        "metadata" => LayerKind::Metadata,
        _ => return None,
    };
    let name = words.next().filter(|name| is_layer(name))?;
    let mut number = || words.next()?.parse::<u64>().ok();
    let (pack_bytes, index_bytes, objects) = (number()?, number()?, u32::try_from(number()?).ok()?);
    if index_bytes > max_index(objects) {
        return None;
    }
    let tag = words.next().filter(|tag| tag.len() == 16)?;
    let tag = u64::from_str_radix(tag, 16).ok()?;
    Some((name.to_owned(), Held { kind, pack_bytes, index_bytes, objects, tag }))
}

/// Bytes that the index of a pack of so many objects has at most: for each an id, a checksum and a place, which may
/// take twelve bytes.
fn max_index(objects: u32) -> u64 {
    8 + 256 * 4 + u64::from(objects) * (20 + 4 + 12) + 2 * 20
}

/// Whether `name` can be that of a layer: `pack-` and a SHA-1.
pub(super) fn is_layer(name: &str) -> bool {
    name.strip_prefix("pack-")
        .is_some_and(|id| id.len() == 40 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
}

/// The mark of a cold remote that holds the repository of that id.
pub(super) fn encode_mark(repository: &str) -> String {
    seal(format!("{MARK} {LAYOUT}\nrepository {repository}\n"))
}

/// The id of the repository that a cold remote is marked to hold.
pub(super) fn parse_mark(bytes: &[u8]) -> Result<String, HeadError> {
    let text = unseal(bytes, MARK)?;
    let id = lines(text).find_map(|line| line.strip_prefix("repository "));
    id.map(str::to_owned).ok_or(HeadError::Damaged("it names no repository"))
}

/// The lines of `text`, of which a carriage return is a part like any other byte.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.split_terminator('\n')
}

/// `text` with its checksum behind it.
fn seal(mut text: String) -> String {
    let digest = Digest::of(text.as_bytes());
    let _ = writeln!(text, "sha256 {digest}");
    text
}

/// The lines between the first, which must be `first` and a known version, and the checksum, which must hold.
fn unseal<'a>(bytes: &'a [u8], first: &str) -> Result<&'a str, HeadError> {
    let damaged = HeadError::Damaged;
    let text = std::str::from_utf8(bytes).map_err(|_| damaged("it is not text"))?;
    let (line, _) = text.split_once('\n').ok_or(damaged("it is cut off"))?;
    let version = line.strip_prefix(first).and_then(|rest| rest.strip_prefix(' '));
    let version: u32 = version.and_then(|text| text.parse().ok()).ok_or(damaged("it is something else"))?;
    if version > LAYOUT {
        return Err(HeadError::Newer(version));
    }
    let body = text.strip_suffix('\n').ok_or(damaged("it is cut off"))?;
    let (body, sum) = body.rsplit_once('\n').ok_or(damaged("it is cut off"))?;
    let sealed = &text[..body.len() + 1];
    let sum = sum.strip_prefix("sha256 ").ok_or(damaged("it is cut off"))?;
    if Digest::of(sealed.as_bytes()).to_string() != sum {
        return Err(damaged("its checksum does not hold"));
    }
    Ok(sealed.get(line.len() + 1..).unwrap_or_default())
}

/// For the fuzz target `head`: reads `bytes` as a head and as a mark, also with a right first and last line; what is read
/// is written and read again.
#[doc(hidden)]
pub fn fuzz_head(bytes: &[u8]) {
    let body = String::from_utf8_lossy(bytes);
    let sealed = |first: &str| seal(format!("{first} {LAYOUT}\n{body}\n"));
    for bytes in [bytes, sealed(HEAD).as_bytes()] {
        if let Ok(head) = Head::parse(bytes) {
            assert_eq!(Head::parse(head.encode().as_bytes()).as_ref(), Ok(&head));
        }
    }
    for bytes in [bytes, sealed(MARK).as_bytes()] {
        if let Ok(repository) = parse_mark(bytes) {
            assert_eq!(parse_mark(encode_mark(&repository).as_bytes()), Ok(repository));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head() -> Head {
        let name = |digit: &str| format!("pack-{}", digit.repeat(40));
        let held = |kind, objects| Held { kind, pack_bytes: 1 << 40, index_bytes: 1072, objects, tag: 10 };
        Head {
            repository: "0123456789abcdef".into(),
            commit: ObjectId::from_bytes([1; 20]),
            previous: Some(ObjectId::from_bytes([2; 20])),
            layers: [(name("a"), held(LayerKind::Data, 16)), (name("b"), held(LayerKind::Metadata, 9))]
                .into(),
            going: [(name("c"), held(LayerKind::Data, 3)), (name("a"), held(LayerKind::Data, 16))].into(),
        }
    }

    #[test]
    fn an_index_is_no_larger_than_its_objects_make_it() {
        let name = format!("pack-{}", "0".repeat(40));
        let line = |bytes: u64, objects: u32| format!("data {name} 100 {bytes} {objects} 0123456789abcdef");
        for (bytes, objects, is_sound) in [
            (1072, 0, true),
            (1073, 0, false),
            (1108, 1, true),
            (1109, 1, false),
            (u64::MAX, u32::MAX, false),
        ] {
            assert_eq!(parse_layer(&line(bytes, objects)).is_some(), is_sound, "{bytes} of {objects}");
        }
    }

    #[test]
    fn a_head_reads_as_it_was_written() {
        for previous in [None, head().previous] {
            let head = Head { previous, ..head() };
            assert_eq!(Head::parse(head.encode().as_bytes()), Ok(head));
        }
        for id in ["abc", "abc\r\r"] {
            assert_eq!(parse_mark(encode_mark(id).as_bytes()).as_deref(), Ok(id));
        }
    }

    #[test]
    fn a_later_version_is_told_from_damage() {
        let later = seal(format!("{HEAD} 2\nanything\n"));
        assert_eq!(Head::parse(later.as_bytes()), Err(HeadError::Newer(2)));
        assert!(matches!(parse_mark(later.as_bytes()), Err(HeadError::Damaged(_))));
    }

    #[test]
    fn what_later_programs_add_is_skipped_and_what_is_no_layer_is_refused() {
        let parse = |line: &str| {
            let text = head().encode();
            let body = text.rsplit_once("sha256").unwrap().0;
            Head::parse(seal(format!("{body}{line}\n")).as_bytes())
        };
        assert_eq!(parse("colour blue"), Ok(head()));
        let name = format!("pack-{}", "a".repeat(40));
        for line in [
            "data ../../x 1 2 3 0123456789abcdef",
            "data pack-00 1 2 3 0123456789abcdef",
            &format!("data {name} 1 2 3"),
            &format!("data {name} 1 2 3 ../0123456789abc"),
            &format!("going {name} 1 2 3 0123456789abcdef"),
            "commit x",
            "data",
        ] {
            assert!(matches!(parse(line), Err(HeadError::Damaged(_))), "{line}");
        }
    }

    proptest! {
        #[test]
        fn what_is_cut_or_changed_is_noticed(at in any::<prop::sample::Index>(), flip in 1_u8..) {
            let text = head().encode().into_bytes();
            let at = at.index(text.len());
            prop_assert!(Head::parse(&text[..at]).is_err());
            let mut changed = text;
            changed[at] ^= flip;
            prop_assert!(Head::parse(&changed).is_err());
        }

        #[test]
        fn any_bytes_are_a_head_or_an_error(bytes: Vec<u8>, text in "(treering cold head 1\n)?.{0,80}") {
            let _ = Head::parse(&bytes);
            let _ = Head::parse(seal(text.clone()).as_bytes());
            let _ = parse_mark(seal(text).as_bytes());
        }
    }
}
