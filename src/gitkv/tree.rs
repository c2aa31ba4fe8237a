//! Tree objects: the directories of git.

use std::cmp::Ordering;

use crate::layers::ObjectId;
use crate::relpath;

/// What a tree says that an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Another tree.
    Directory,
    /// A blob.
    File,
    /// A blob that is checked out executable.
    Executable,
    /// A blob that holds the target of a symbolic link.
    Link,
    /// A commit of another repository.
    Module,
}

/// What lies at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// What it is.
    pub mode: Mode,
    /// The object.
    pub id: ObjectId,
}

/// One name in a [`Tree`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeEntry<'a> {
    /// What it is.
    pub mode: Mode,
    /// Its name; neither empty nor `.` or `..`, and without a slash.
    pub name: &'a [u8],
    /// The object.
    pub id: ObjectId,
}

/// A tree object, checked: its entries are in git's order, each name is there once and can be one.
#[derive(Debug)]
pub struct Tree {
    bytes: Vec<u8>,
    slots: Vec<Slot>,
}

/// Where an entry lies in a tree's bytes. The id follows the name and a NUL byte.
#[derive(Debug)]
struct Slot {
    mode: Mode,
    name: u32,
    name_end: u32,
}

/// Length of an id in bytes.
const ID_LEN: usize = 20;

/// The deepest path that is accepted, in names; it bounds how deep a walk descends.
pub(super) const MAX_DEPTH: usize = 512;

impl Mode {
    fn parse(octal: &[u8]) -> Option<Self> {
        Some(match octal {
            b"40000" => Self::Directory,
            // Early versions of git kept the group's write permission; since then it reads as a plain file.
            b"100644" | b"100664" => Self::File,
            b"100755" => Self::Executable,
            b"120000" => Self::Link,
            b"160000" => Self::Module,
            _ => return None,
        })
    }

    fn octal(self) -> &'static str {
        match self {
            Self::Directory => "40000",
            Self::File => "100644",
            Self::Executable => "100755",
            Self::Link => "120000",
            Self::Module => "160000",
        }
    }
}

impl TreeEntry<'_> {
    /// The entry without its name.
    pub fn node(&self) -> Node {
        Node { mode: self.mode, id: self.id }
    }
}

impl Tree {
    /// Reads a tree object; the error says what is wrong with it.
    pub(super) fn parse(bytes: Vec<u8>) -> Result<Self, &'static str> {
        if u32::try_from(bytes.len()).is_err() {
            return Err("it is too large");
        }
        let mut tree = Self { bytes, slots: Vec::new() };
        let mut at = 0;
        while at < tree.bytes.len() {
            let slot = parse_slot(&tree.bytes, at)?;
            at = slot.name_end as usize + 1 + ID_LEN;
            let last = tree.slots.last().map(|last| tree.entry(last));
            if last.is_some_and(|last| order(&last, &tree.entry(&slot)) != Ordering::Less) {
                return Err("entries are out of order");
            }
            tree.slots.push(slot);
        }
        // A file and a directory of one name need not be neighbours.
        let is_twice = |entry: TreeEntry<'_>| {
            entry.mode == Mode::Directory && tree.position(Mode::File, entry.name).is_some()
        };
        if tree.entries().any(is_twice) {
            return Err("a name is there twice");
        }
        Ok(tree)
    }

    /// The entries in git's order, in which a directory's name counts as if it ended in a slash.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = TreeEntry<'_>> + ExactSizeIterator {
        self.slots.iter().map(|slot| self.entry(slot))
    }

    /// The entry at `position` in that order.
    pub fn get(&self, position: usize) -> Option<TreeEntry<'_>> {
        self.slots.get(position).map(|slot| self.entry(slot))
    }

    /// The position of the first entry that `is_before` does not hold for, if it holds for those before and
    /// for none after.
    pub fn partition_point(&self, is_before: impl Fn(&TreeEntry<'_>) -> bool) -> usize {
        self.slots.partition_point(|slot| is_before(&self.entry(slot)))
    }

    /// The entry called `name`.
    pub fn lookup(&self, name: &[u8]) -> Option<TreeEntry<'_>> {
        let position = self.position(Mode::File, name).or_else(|| self.position(Mode::Directory, name));
        position.and_then(|position| self.get(position))
    }

    /// About how many bytes of memory it takes.
    pub(super) fn weight(&self) -> usize {
        self.bytes.len() + self.slots.len() * size_of::<Slot>()
    }

    /// The position of `name`, as what sorts like `mode`.
    fn position(&self, mode: Mode, name: &[u8]) -> Option<usize> {
        let wanted = TreeEntry { mode, name, id: ObjectId::from_bytes([0; ID_LEN]) };
        self.slots.binary_search_by(|slot| order(&self.entry(slot), &wanted)).ok()
    }

    fn entry(&self, slot: &Slot) -> TreeEntry<'_> {
        let end = slot.name_end as usize;
        let mut id = [0; ID_LEN];
        id.copy_from_slice(&self.bytes[end + 1..end + 1 + ID_LEN]);
        TreeEntry {
            mode: slot.mode,
            name: &self.bytes[slot.name as usize..end],
            id: ObjectId::from_bytes(id),
        }
    }
}

/// Reads the entry that begins at `at` in `bytes`, which are fewer than 4 GiB.
fn parse_slot(bytes: &[u8], at: usize) -> Result<Slot, &'static str> {
    // The longest mode has six digits.
    let space = bytes[at..].iter().take(7).position(|&byte| byte == b' ').ok_or("an entry has no mode")?;
    let mode = Mode::parse(&bytes[at..at + space]).ok_or("an entry has an unknown mode")?;
    let name = at + space + 1;
    let len = bytes[name..].iter().position(|&byte| byte == 0).ok_or("a name does not end")?;
    let name_end = name + len;
    let text = &bytes[name..name_end];
    if matches!(text, b"" | b"." | b"..") || text.contains(&b'/') {
        return Err("a name is empty, '.', '..' or holds a slash");
    }
    if bytes.len() - name_end <= ID_LEN {
        return Err("an id is cut short");
    }
    Ok(Slot { mode, name: name as u32, name_end: name_end as u32 })
}

/// Git's order: a directory sorts as if its name ended in a slash.
pub(super) fn order(left: &TreeEntry<'_>, right: &TreeEntry<'_>) -> Ordering {
    let common = left.name.len().min(right.name.len());
    let end = |entry: &TreeEntry<'_>| match entry.name.get(common) {
        None if entry.mode == Mode::Directory => Some(b'/'),
        next => next.copied(),
    };
    left.name[..common].cmp(&right.name[..common]).then_with(|| end(left).cmp(&end(right)))
}

/// Writes the tree object of `entries`, which are in git's order.
pub(super) fn encode(entries: &[TreeEntry<'_>]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(entries.iter().map(|entry| entry.name.len() + 28).sum());
    for entry in entries {
        bytes.extend_from_slice(entry.mode.octal().as_bytes());
        bytes.push(b' ');
        bytes.extend_from_slice(entry.name);
        bytes.push(0);
        bytes.extend_from_slice(entry.id.as_bytes());
    }
    bytes
}

/// Why `path` must not be written to a tree, if so.
///
/// Beside what cannot be a path, these are the names that git takes for its own directory on some file system
/// (CVE-2014-9390 and after), which every git host refuses, and control characters.
pub(super) fn path_fault(path: &[u8]) -> Option<&'static str> {
    if path.len() > relpath::MAX_LEN || path.split(|&byte| byte == b'/').count() > MAX_DEPTH {
        return Some("it is too long");
    }
    if path.first() == Some(&b'/') {
        return Some("it is absolute");
    }
    path.split(|&byte| byte == b'/').find_map(name_fault)
}

fn name_fault(name: &[u8]) -> Option<&'static str> {
    if matches!(name, b"" | b"." | b"..") {
        return Some("it has an empty, '.' or '..' component");
    }
    if name.iter().any(u8::is_ascii_control) {
        return Some("it has a control character");
    }
    name.split(|&byte| byte == b'\\').any(is_dot_git).then_some("git keeps that name for itself")
}

/// Whether some file system takes `name` for `.git`: NTFS drops trailing dots, spaces and streams and has
/// short names, HFS+ drops invisible characters, both ignore case.
fn is_dot_git(name: &[u8]) -> bool {
    let name = String::from_utf8_lossy(name).to_lowercase();
    let visible = |&c: &char| !matches!(c, '\u{200c}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{206a}'..='\u{206f}' | '\u{feff}');
    let name: String = name.chars().filter(visible).collect();
    let name = name.split(':').next().unwrap_or_default().trim_end_matches([' ', '.']);
    matches!(name, ".git" | "git~1")
}

/// For the fuzz target `tree_names`: reads `bytes` as a tree, whose entries are found by their names and written as they
/// were; returns the names.
#[doc(hidden)]
pub fn fuzz_tree(bytes: &[u8]) -> Vec<Vec<u8>> {
    let Ok(tree) = Tree::parse(bytes.to_vec()) else { return Vec::new() };
    let entries: Vec<_> = tree.entries().collect();
    assert!(entries.iter().all(|entry| tree.lookup(entry.name) == Some(*entry)));
    let again = Tree::parse(encode(&entries));
    assert!(again.is_ok_and(|again| again.entries().eq(entries.iter().copied())));
    entries.iter().map(|entry| entry.name.to_vec()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(mode: Mode, name: &[u8]) -> TreeEntry<'_> {
        TreeEntry { mode, name, id: ObjectId::from_bytes([7; 20]) }
    }

    fn written(entries: &[(Mode, &[u8])]) -> Vec<u8> {
        encode(&entries.iter().map(|&(mode, name)| entry(mode, name)).collect::<Vec<_>>())
    }

    #[test]
    fn a_directory_sorts_as_if_it_ended_in_a_slash() {
        use Mode::{Directory, File};
        let sorted: [(Mode, &[u8]); 5] =
            [(File, b"a"), (File, b"a-b"), (Directory, b"a.d"), (Directory, b"b"), (File, b"b0")];
        assert!(Tree::parse(written(&sorted)).is_ok());
        let mixed: [(Mode, &[u8]); 2] = [(Directory, b"a"), (File, b"a.c")];
        assert_eq!(Tree::parse(written(&mixed)).unwrap_err(), "entries are out of order");
        let mixed: [(Mode, &[u8]); 2] = [(File, b"a.c"), (Directory, b"a")];
        let tree = Tree::parse(written(&mixed)).unwrap();
        assert_eq!(tree.lookup(b"a").unwrap().mode, Directory);
        assert_eq!(tree.lookup(b"a.c").unwrap().mode, File);
        assert!(tree.lookup(b"a.").is_none());
    }

    #[test]
    fn refuses_damaged_trees() {
        use Mode::{Directory, File};
        let names: [&[u8]; 4] = [b"", b".", b"..", b"a/b"];
        for name in names {
            assert!(Tree::parse(written(&[(File, name)])).is_err(), "{name:?}");
        }
        assert_eq!(
            Tree::parse(written(&[(File, b"a"), (File, b"a")])).unwrap_err(),
            "entries are out of order"
        );
        let twice: [(Mode, &[u8]); 3] = [(File, b"a"), (File, b"a-"), (Directory, b"a")];
        assert_eq!(Tree::parse(written(&twice)).unwrap_err(), "a name is there twice");
        let bytes = written(&[(File, b"a")]);
        for end in 1..bytes.len() {
            assert!(Tree::parse(bytes[..end].to_owned()).is_err(), "{end}");
        }
        assert!(Tree::parse([b"040000".as_slice(), &bytes[6..]].concat()).is_err());
    }

    #[test]
    fn refuses_names_that_git_refuses() {
        let bad: [&[u8]; 17] = [
            b"",
            b"/",
            b"/etc",
            b"a//b",
            b"a/",
            b"..",
            b"a/../b",
            b"./a",
            b".git",
            b"a/.GIT/b",
            b".git ",
            b".git..",
            b"GIT~1",
            b"a\nb",
            b"a\x7f",
            b".git::$INDEX_ALLOCATION",
            b"a\\.git",
        ];
        for path in bad {
            assert!(path_fault(path).is_some(), "{:?}", String::from_utf8_lossy(path));
        }
        assert!(path_fault(".g\u{200c}it".as_bytes()).is_some());
        assert!(path_fault(&b"a/".repeat(MAX_DEPTH)).is_some());
        let good: [&[u8]; 7] = [b"a", b"a/b", b".gitignore", b"...", b"git~10", b"\xff", b"a:b"];
        for path in good {
            assert_eq!(path_fault(path), None, "{:?}", String::from_utf8_lossy(path));
        }
    }

    proptest! {
        #[test]
        fn reads_back_what_it_writes(names in proptest::collection::btree_map("[a-c.-]{1,4}", any::<bool>(), 0..20)) {
            let usable = names.iter().filter(|(name, _)| !matches!(name.as_str(), "." | ".."));
            let mode = |directory| if directory { Mode::Directory } else { Mode::File };
            let mut entries: Vec<_> = usable.map(|(name, &dir)| entry(mode(dir), name.as_bytes())).collect();
            entries.sort_by(order);
            let tree = Tree::parse(encode(&entries)).unwrap();
            prop_assert_eq!(tree.entries().collect::<Vec<_>>(), entries.clone());
            for entry in entries {
                prop_assert_eq!(tree.lookup(entry.name), Some(entry));
            }
        }

        #[test]
        fn never_panics_on_damage(mut bytes in proptest::collection::vec(any::<u8>(), 0..80), at in 0usize..60, with: u8) {
            let _ = Tree::parse(bytes);
            bytes = written(&[(Mode::File, b"a"), (Mode::Directory, b"b")]);
            let at = at % bytes.len();
            bytes[at] = with;
            let _ = Tree::parse(bytes);
        }
    }
}
