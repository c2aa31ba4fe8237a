//! Paths below a root, as bytes.
//!
//! A [`RelPath`] that exists is safe to join to a directory: it is relative, has no empty, `.` or
//! `..` component and no NUL byte. It does not promise that no component is a symbolic link on the
//! disk; who writes through it must look. Paths order component by component, which is the order of
//! a depth-first walk that visits names sorted by their bytes.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A relative path; the empty one is the root itself.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct RelPath(Box<[u8]>);

/// Longest path that is accepted, in bytes: well above what a kernel takes in one call, and a bound for what
/// a hostile index can ask for.
pub const MAX_LEN: usize = 16 * 1024;

/// Why bytes are not a path below a root.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RelPathError {
    /// It begins with a slash.
    #[error("path {0:?} is absolute")]
    Absolute(String),
    /// A component is empty, `.` or `..`.
    #[error("path {0:?} has an empty, '.' or '..' component")]
    Component(String),
    /// It holds a NUL byte.
    #[error("path {0:?} holds a NUL byte")]
    Nul(String),
    /// It is longer than [`MAX_LEN`].
    #[error("path of {0} bytes is too long")]
    TooLong(usize),
}

impl RelPath {
    /// Checks `bytes` and takes them as a path.
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Result<Self, RelPathError> {
        let bytes = bytes.into();
        let shown = || String::from_utf8_lossy(&bytes).into_owned();
        if bytes.len() > MAX_LEN {
            return Err(RelPathError::TooLong(bytes.len()));
        }
        if bytes.is_empty() {
            return Ok(Self(bytes));
        }
        if bytes[0] == b'/' {
            return Err(RelPathError::Absolute(shown()));
        }
        if bytes.contains(&0) {
            return Err(RelPathError::Nul(shown()));
        }
        if bytes.split(|&byte| byte == b'/').any(|name| matches!(name, b"" | b"." | b"..")) {
            return Err(RelPathError::Component(shown()));
        }
        Ok(Self(bytes))
    }

    /// The root itself.
    pub fn root() -> Self {
        Self::default()
    }

    /// Whether this is the root itself.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes, components separated by `/`.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As a path to join to a directory.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// The path of `name` in this directory.
    pub fn join(&self, name: &[u8]) -> Result<Self, RelPathError> {
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.len());
        bytes.extend_from_slice(&self.0);
        if !bytes.is_empty() && !name.is_empty() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);
        Self::new(bytes)
    }

    /// The directory that holds this; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        let end = self.0.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
        Some(Self(self.0[..end].into()))
    }

    /// The last component; empty for the root.
    pub fn name(&self) -> &[u8] {
        self.0.rsplit(|&byte| byte == b'/').next().unwrap_or_default()
    }

    /// Whether both lie in one directory.
    pub fn is_beside(&self, other: &Self) -> bool {
        let above = |path: &Self| path.0.len() - path.name().len();
        self.0[..above(self)] == other.0[..above(other)]
    }

    /// Whether this is `other` or lies below it.
    pub fn is_within(&self, other: &Self) -> bool {
        self.bytes_below(other).is_some()
    }

    /// The path relative to `base`; `None` when it does not lie within it.
    pub fn strip_prefix(&self, base: &Self) -> Option<Self> {
        self.bytes_below(base).map(|rest| Self(rest.into()))
    }

    fn bytes_below(&self, base: &Self) -> Option<&[u8]> {
        if base.is_root() {
            return Some(&self.0);
        }
        match self.0.strip_prefix(&*base.0)? {
            [] => Some(&[]),
            [b'/', rest @ ..] => Some(rest),
            _ => None,
        }
    }
}

impl Ord for RelPath {
    fn cmp(&self, other: &Self) -> Ordering {
        compare(&self.0, &other.0)
    }
}

impl PartialOrd for RelPath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Component order: a slash sorts before every other byte, so what lies below `a` follows `a` at once.
fn compare(left: &[u8], right: &[u8]) -> Ordering {
    let common = left.iter().zip(right).position(|(a, b)| a != b);
    match common {
        None => left.len().cmp(&right.len()),
        Some(at) => match (left[at], right[at]) {
            (b'/', _) => Ordering::Less,
            (_, b'/') => Ordering::Greater,
            (a, b) => a.cmp(&b),
        },
    }
}

impl Borrow<[u8]> for RelPath {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.as_path().to_string_lossy())
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_path(), f)
    }
}

impl Serialize for RelPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for RelPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = RelPath;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the bytes of a relative path")
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<RelPath, E> {
                RelPath::new(bytes).map_err(E::custom)
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn refuses_what_could_leave_the_root() {
        for text in ["/", "/etc", "..", "a/..", "../a", "a//b", "a/", ".", "./a", "a/./b", "a\0b"] {
            assert!(RelPath::new(text.as_bytes()).is_err(), "{text:?}");
        }
        assert!(RelPath::new(vec![b'a'; MAX_LEN + 1]).is_err());
    }

    #[test]
    fn takes_any_other_bytes() {
        for bytes in [&b"a"[..], b"a/b", b"...", b"..a", b"\xff/\n", b""] {
            assert_eq!(RelPath::new(bytes).unwrap().as_bytes(), bytes);
        }
    }

    #[test]
    fn orders_as_a_depth_first_walk() {
        let walk = ["", "a", "a/b", "a/b/c", "a/b-", "a-b", "a-b/x", "ab"].map(path);
        assert!(walk.is_sorted());
    }

    #[test]
    fn takes_apart_what_it_joins() {
        let joined = path("a/b").join(b"c").unwrap();
        assert_eq!(joined, path("a/b/c"));
        assert_eq!(joined.parent(), Some(path("a/b")));
        assert_eq!(joined.name(), b"c");
        assert_eq!(path("a").parent(), Some(RelPath::root()));
        assert_eq!(RelPath::root().parent(), None);
        assert_eq!(joined.strip_prefix(&path("a")), Some(path("b/c")));
        assert_eq!(path("ab").strip_prefix(&path("a")), None);
        assert!(path("a").join(b"..").is_err());
        assert!(path("a").join(b"").is_ok());
    }
}
