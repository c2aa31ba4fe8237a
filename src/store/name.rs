//! Names of objects, and where they lie.
//!
//! The rules are those of borgstore, so that either program reads what the other wrote: a key is
//! lower-case ASCII without blanks, and lies `level` directories deep, each named by two characters of
//! the key (`data/01/23/0123…` at level 2). A soft-deleted object has the suffix `.del`. Names that end
//! in `.tmp` (being written) or `.hid` (internal) are nobody's objects.

use std::fmt;
use std::str::FromStr;

/// The suffix of a soft-deleted object.
pub(super) const DELETED: &str = ".del";
/// The suffix of files that are no objects.
const HIDDEN: &str = ".hid";
const RESERVED: [&str; 3] = [DELETED, ".tmp", HIDDEN];
const MAX_LEN: usize = 100;

/// The file at the root of a store by which it is told from other directories. borgstore passes over its name.
pub(super) const MARKER: &str = "treering-store.hid";

/// The deepest nesting: 16 directories of two characters.
pub const MAX_LEVEL: u8 = 16;

/// A set of objects that are configured and listed together: one path component.
///
/// As it is compared whole, `data` never means `data2`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Namespace(Box<str>);

/// The name of an object: `namespace/key`, or `namespace/key.del` for one that is soft-deleted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    namespace: Namespace,
    key: Box<str>,
    deleted: bool,
}

/// Why text is not the name of an object or a namespace.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no name in a store: {problem}")]
pub struct NameError {
    text: String,
    problem: &'static str,
}

/// What a path in a namespace turns out to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Located {
    pub name: Name,
    pub level: u8,
}

fn check(text: &str) -> Result<(), NameError> {
    let problem = if text.is_empty() {
        "it is empty"
    } else if text.len() > MAX_LEN {
        "it is longer than 100 characters"
    } else if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        "only ASCII without blanks is allowed"
    } else if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        "capital letters are not allowed"
    } else if text.contains(['/', '\\']) {
        "slashes are not allowed"
    } else if text == "." || text.contains("..") {
        "it could name another directory"
    } else if RESERVED.iter().any(|suffix| text.ends_with(suffix)) {
        "the suffixes .del, .tmp and .hid are reserved"
    } else {
        return Ok(());
    };
    Err(NameError { text: text.into(), problem })
}

impl Namespace {
    /// Checks `text` and takes it as a namespace.
    pub fn new(text: &str) -> Result<Self, NameError> {
        check(text)?;
        Ok(Self(text.into()))
    }

    /// The object of this namespace whose key is `key`.
    pub fn name(&self, key: &str) -> Result<Name, NameError> {
        check(key)?;
        Ok(Name { namespace: self.clone(), key: key.into(), deleted: false })
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What `path` (below the root of the store) is; `None` when it is no object of this namespace.
    pub(super) fn locate(&self, path: &str) -> Option<Located> {
        let mut parts = path.strip_prefix(self.as_str())?.strip_prefix('/')?.split('/').collect::<Vec<_>>();
        let last = parts.pop()?;
        let (key, deleted) = match last.strip_suffix(DELETED) {
            Some(key) => (key, true),
            None => (last, false),
        };
        let name = Name { deleted, ..self.name(key).ok()? };
        let level = u8::try_from(parts.len()).ok()?;
        (name.path(level).ok()? == path).then_some(Located { name, level })
    }
}

impl Name {
    /// The namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The key, without the suffix of a soft-deleted object.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Whether this names a soft-deleted object.
    pub fn is_deleted(&self) -> bool {
        self.deleted
    }

    /// The name of the soft-deleted object.
    pub fn deleted(&self) -> Self {
        Self { deleted: true, ..self.clone() }
    }

    /// The name of the object that is not deleted.
    pub fn live(&self) -> Self {
        Self { deleted: false, ..self.clone() }
    }

    /// Where the object lies at nesting level `level`, below the root of the store.
    pub(super) fn path(&self, level: u8) -> Result<String, NameError> {
        let too_short =
            || NameError { text: self.to_string(), problem: "it is too short for the nesting level" };
        let mut path =
            String::with_capacity(self.namespace.0.len() + 3 * usize::from(level) + self.key.len() + 5);
        path.push_str(&self.namespace.0);
        for at in (0..usize::from(level)).map(|level| 2 * level) {
            path.push('/');
            path.push_str(self.key.get(at..at + 2).ok_or_else(too_short)?);
        }
        path.push('/');
        path.push_str(&self.key);
        if self.deleted {
            path.push_str(DELETED);
        }
        Ok(path)
    }
}

/// Whether a store, or borgstore, writes a file at `path`: an object, one that is being written, a marker, or a count.
pub(super) fn is_file_of_store(path: &str) -> bool {
    let is_internal = path.ends_with(".tmp") || path.ends_with(HIDDEN);
    match path.split_once('/') {
        None => is_internal,
        Some((namespace, _)) => {
            Namespace::new(namespace).is_ok_and(|namespace| is_internal || namespace.locate(path).is_some())
        }
    }
}

/// Whether a store has a directory at `path`: a namespace, or a nesting level in one.
pub(super) fn is_directory_of_store(path: &str) -> bool {
    let mut parts = path.split('/');
    parts.next().is_some_and(|namespace| Namespace::new(namespace).is_ok())
        && parts.clone().count() <= usize::from(MAX_LEVEL)
        && parts.all(|part| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_graphic()))
}

impl FromStr for Namespace {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::new(text)
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let problem = "expected NAMESPACE/KEY";
        let (namespace, key) =
            text.split_once('/').ok_or_else(|| NameError { text: text.into(), problem })?;
        let namespace = Namespace::new(namespace)?;
        match key.strip_suffix(DELETED) {
            Some(key) => namespace.name(key).map(|name| name.deleted()),
            None => namespace.name(key),
        }
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}{}", self.namespace, self.key, if self.deleted { DELETED } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn nests_as_borgstore_does() {
        assert_eq!(name("data/0123456789").path(0).unwrap(), "data/0123456789");
        assert_eq!(name("data/0123456789").path(2).unwrap(), "data/01/23/0123456789");
        assert_eq!(name("data/0123456789.del").path(1).unwrap(), "data/01/0123456789.del");
    }

    #[test]
    fn refuses_a_key_too_short_for_its_level() {
        assert!(name("data/012").path(1).is_ok());
        assert!(name("data/012").path(2).is_err());
    }

    #[test]
    fn refuses_what_borgstore_refuses_and_what_could_leave_the_namespace() {
        for key in
            ["", ".", "..", "a..b", "a/b", "a\\b", "a b", "A", "é", "a\n", "a.tmp", "a.hid", "a.del.del"]
        {
            assert!(format!("data/{key}").parse::<Name>().is_err(), "{key:?}");
        }
        assert!("data".parse::<Name>().is_err());
        assert!(format!("data/{}", "a".repeat(101)).parse::<Name>().is_err());
        assert!(Namespace::new("a/b").is_err());
    }

    #[test]
    fn a_namespace_does_not_match_a_longer_one() {
        let data = Namespace::new("data").unwrap();
        assert_eq!(data.locate("data2/0123"), None);
        assert_eq!(data.locate("data/0123"), Some(Located { name: name("data/0123"), level: 0 }));
    }

    #[test]
    fn only_a_path_that_nests_its_own_key_is_an_object() {
        let data = Namespace::new("data").unwrap();
        for path in ["data/ff/0123", "data/01/ff/0123", "data/01/0123.tmp", "data/", "data", "data//0123"] {
            assert_eq!(data.locate(path), None, "{path}");
        }
    }

    #[test]
    fn a_store_is_told_from_other_directories() {
        for path in [
            "data/0123",
            "data/0123.del",
            "data/01/0123",
            "data/01/0123.ab.tmp",
            "data/x.hid",
            "quota.hid",
            MARKER,
            "x.tmp",
        ] {
            assert!(is_file_of_store(path), "{path}");
        }
        for path in
            [".bashrc", "notes", "data/ff/0123", "Documents/letter", "src/cli/main.rs", "data/a b", ""]
        {
            assert!(!is_file_of_store(path), "{path}");
        }
        assert!(["data", "data/01", "data/01/23"].into_iter().all(is_directory_of_store));
        assert!(!["", "Documents", "src/cli", "data/01/234", "a b"].into_iter().any(is_directory_of_store));
    }

    proptest! {
        #[test]
        fn finds_again_what_it_nests(key in "[a-z0-9._%?#+-]{1,40}", level in 0..=3_u8, deleted: bool) {
            let data = Namespace::new("data").unwrap();
            if let Ok(live) = data.name(&key) {
                let name = if deleted { live.deleted() } else { live };
                if let Ok(path) = name.path(level) {
                    prop_assert_eq!(data.locate(&path), Some(Located { name: name.clone(), level }));
                }
                prop_assert_eq!(name.to_string().parse(), Ok(name));
            }
        }

        #[test]
        fn any_text_is_a_name_or_an_error(text: String) {
            let _ = text.parse::<Name>();
            let _ = Namespace::new("data").unwrap().locate(&text);
        }
    }
}
