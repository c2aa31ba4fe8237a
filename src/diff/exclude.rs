//! Which names a scan leaves out: by patterns (see [`pattern`](super::pattern)), by files of patterns in the tree, and
//! by the mark of a cache.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags};

use crate::diff::pattern::{Fault, Meaning, Pattern, PatternError, PatternSet, Space, check_signs};
use crate::relpath::RelPath;

/// What a scan leaves out, beside what [`ScanOptions`](super::ScanOptions) says otherwise.
#[derive(Debug, Clone, Default)]
pub struct Excludes {
    /// Patterns, as in `.gitignore`.
    pub patterns: Vec<Pattern>,
    /// Files with one pattern a line.
    pub files: Vec<PathBuf>,
    /// Name of the files in the tree itself that hold patterns for the directory they stand in.
    pub ignore_file: Option<String>,
    /// Leave out what lies in a directory that is marked as a cache (`CACHEDIR.TAG`, bford.info/cachedir).
    pub caches: bool,
    /// The directory that `~/` at the beginning of a pattern means.
    pub home: Option<PathBuf>,
}

impl Excludes {
    /// The same without files: what stands in them is among the patterns. Each is found to be one, and means the same
    /// wherever it is used.
    ///
    /// Files are read once, so that one may be a pipe, and what is wrong is found before anything is scanned.
    ///
    /// # Errors
    /// A pattern or a file that cannot be used, named.
    pub fn load(&self) -> Result<Self, PatternError> {
        let patterns = self.read_all()?.into_iter().map(|(pattern, _)| pattern).collect();
        Ok(Self { files: Vec::new(), patterns, ..self.clone() })
    }

    /// All patterns, those in files included, and what they mean.
    fn read_all(&self) -> Result<Vec<(Pattern, Meaning)>, PatternError> {
        let mut all = Vec::new();
        for pattern in &self.patterns {
            all.push((pattern.clone(), self.read(pattern)?));
        }
        check_signs(&self.patterns)?;
        for path in &self.files {
            let unusable = |error| PatternError::new(Fault::File(error), Some(path));
            let text = std::fs::read_to_string(path).map_err(unusable)?;
            for (number, line) in lines(&text) {
                let directory = path.parent().map(Path::to_owned);
                let pattern = Pattern { text: line.to_owned(), directory, is_line: true };
                let meaning = self.read(&pattern).map_err(|error| error.in_file(path, Some(number)))?;
                all.push((pattern, meaning));
            }
        }
        Ok(all)
    }

    fn read(&self, pattern: &Pattern) -> Result<Meaning, PatternError> {
        pattern.read(self.home.as_deref(), &[], |path| std::fs::symlink_metadata(path).is_ok())
    }

    /// Refuses patterns that leave nothing of any of `roots`.
    pub(crate) fn check_leaves_some<P: AsRef<Path>>(&self, roots: &[P]) -> Result<(), PatternError> {
        let mut covering = None;
        for root in roots {
            match Rules::new(root.as_ref(), self)?.covering() {
                Some(pattern) => {
                    covering = Some(Fault::Everything { pattern, root: root.as_ref().to_owned() })
                }
                None => return Ok(()),
            }
        }
        covering.map_or(Ok(()), |fault| Err(PatternError::new(fault, None)))
    }

    /// Tells of a path below `root`, and whether it is a directory, whether the patterns leave it or a directory
    /// above it out. It need not be there, so files in the tree and marks of caches have no say.
    pub(crate) fn matcher(
        &self,
        root: &Path,
    ) -> Result<impl Fn(&RelPath, bool) -> bool + use<>, PatternError> {
        let rules = Rules::new(root, self)?;
        let root = root.to_owned();
        Ok(move |path: &RelPath, is_dir| {
            let above = std::iter::successors(path.parent(), RelPath::parent).map(|path| (path, true));
            let mut all = std::iter::once((path.clone(), is_dir)).chain(above);
            let is_excluded = |(path, is_dir): (RelPath, bool)| {
                !path.is_root() && rules.exclude(&root.join(path.as_path()), is_dir).is_some()
            };
            !rules.is_empty() && all.any(is_excluded)
        })
    }
}

/// The patterns in a file, each with the number of its line.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = (1..).zip(text.trim_start_matches('\u{feff}').lines());
    lines.filter(|(_, line)| !line.starts_with('#') && !line.trim().is_empty())
}

/// The regular file of that name in a directory, opened for reading; `None` where something else stands there.
fn open_regular(directory: impl AsFd, name: &str) -> Option<io::Result<File>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::openat(directory, name, flags, Mode::empty()) {
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::LOOP | rustix::io::Errno::NXIO) => None,
        Err(error) => Some(Err(error.into())),
        Ok(file) => match rustix::fs::fstat(&file) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile => None,
            stat => Some(stat.map(|_| File::from(file)).map_err(io::Error::from)),
        },
    }
}

/// Something that a scan left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// What, with what lies below it.
    pub path: PathBuf,
    /// Why.
    pub rule: LeftOutRule,
}

/// Why something was left out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LeftOutRule {
    /// A pattern, as it was given.
    #[error("excluded by {0}")]
    Pattern(String),
    /// A pattern in a file in the tree.
    #[error("excluded by {pattern} in {}", .file.display())]
    IgnoreFile {
        /// The pattern.
        pattern: String,
        /// The file.
        file: PathBuf,
    },
    /// What lies in a directory that is marked as a cache.
    #[error("a cache, by its CACHEDIR.TAG")]
    Cache,
    /// What lies in a directory that is on another file system.
    #[error("another file system")]
    FileSystem,
    /// The repository itself.
    #[error("the repository itself")]
    Repository,
    /// What a restore has put there under a temporary name, and not finished.
    #[error("an unfinished file of a restore")]
    Temporary,
}

/// What the first bytes of a `CACHEDIR.TAG` must be.
const CACHE_TAG: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

/// The patterns in force in one directory, those of the directories above it included.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    matchers: Arc<[Arc<FileRules>]>,
    ignore_file: Option<Arc<str>>,
    caches: bool,
    home: Option<Arc<Path>>,
}

/// Patterns of one place.
#[derive(Debug)]
struct FileRules {
    patterns: PatternSet,
    /// The file in the tree that they stand in.
    file: Option<PathBuf>,
}

impl Rules {
    pub(super) fn new(root: &Path, excludes: &Excludes) -> Result<Self, PatternError> {
        let meanings: Vec<_> = excludes.read_all()?.into_iter().map(|(_, meaning)| meaning).collect();
        // Without a slash at its end.
        let root: PathBuf = root.components().collect();
        let patterns = PatternSet::new(&root, &Space::of_root(&root), &meanings)?;
        let own = (!patterns.is_empty()).then(|| Arc::new(FileRules { patterns, file: None }));
        Ok(Self {
            matchers: own.into_iter().collect(),
            ignore_file: excludes.ignore_file.as_deref().map(Arc::from),
            caches: excludes.caches,
            home: excludes.home.as_deref().map(Arc::from),
        })
    }

    /// The pattern that leaves out everything, if one does.
    fn covering(&self) -> Option<String> {
        self.matchers.first()?.patterns.covering.clone()
    }

    /// The rules for what stands in `directory`, which is open, and whether a file of patterns there cannot be used;
    /// of that, the patterns that can be used are in force all the same.
    pub(super) fn enter(&self, opened: impl AsFd, directory: &Path) -> (Self, Option<PatternError>) {
        let mut rules = self.clone();
        let Some(name) = &self.ignore_file else { return (rules, None) };
        let path = directory.join(&**name);
        let fault = |source: Fault| Some(PatternError::new(source, Some(&path)));
        let read = open_regular(opened, name).map(|file| io::read_to_string(file?));
        let text = match read {
            None => return (rules, None),
            Some(Err(error)) => return (rules, fault(Fault::File(error))),
            Some(Ok(text)) => text,
        };
        let mut error = None;
        let mut meanings = Vec::new();
        let spaces = Space::of_root(directory);
        for (number, line) in lines(&text) {
            let pattern =
                Pattern { text: line.to_owned(), directory: Some(directory.to_owned()), is_line: true };
            match pattern.read_in_tree(self.home.as_deref(), &spaces) {
                Ok(meaning) => meanings.push(meaning),
                Err(source) => drop(error.get_or_insert(source.in_file(&path, Some(number)))),
            }
        }
        match PatternSet::new(directory, &spaces, &meanings) {
            Ok(patterns) => {
                let own = Arc::new(FileRules { patterns, file: Some(path.clone()) });
                rules.matchers = self.matchers.iter().cloned().chain([own]).collect();
            }
            Err(source) => drop(error.get_or_insert(source.in_file(&path, None))),
        }
        (rules, error)
    }

    /// Why `path` is left out, if it is.
    pub(super) fn exclude(&self, path: &Path, is_dir: bool) -> Option<LeftOutRule> {
        let mut decided = self.matchers.iter().rev();
        let (decision, file) =
            decided.find_map(|rules| Some((rules.patterns.matched(path, is_dir)?, &rules.file)))?;
        let pattern = decision.given.to_owned();
        decision.is_match.then(|| match file {
            Some(file) => LeftOutRule::IgnoreFile { pattern, file: file.clone() },
            None => LeftOutRule::Pattern(pattern),
        })
    }

    /// Whether the directory `opened` is marked as a cache and caches are left out.
    pub(super) fn is_excluded_cache(&self, opened: impl AsFd) -> bool {
        if !self.caches {
            return false;
        }
        let Some(Ok(mut tag)) = open_regular(opened, "CACHEDIR.TAG") else { return false };
        let mut start = [0; CACHE_TAG.len()];
        tag.read_exact(&mut start).is_ok() && start == CACHE_TAG
    }

    /// Whether no rule can leave anything out, so that paths need not be built.
    pub(super) fn is_empty(&self) -> bool {
        self.matchers.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(patterns: &[&str]) -> Rules {
        let patterns = patterns.iter().map(|&pattern| pattern.into()).collect();
        Rules::new(Path::new("/data/tree"), &Excludes { patterns, ..Excludes::default() }).unwrap()
    }

    #[test]
    fn patterns_match_as_in_gitignore() {
        let rules = rules(&["*.o", "!keep.o", "/top", "cache/", "/data/tree/sub/x", "#*#", "with space"]);
        let excluded =
            |path: &str, is_dir| rules.exclude(&Path::new("/data/tree").join(path), is_dir).is_some();
        assert!(excluded("a/b.o", false));
        assert!(!excluded("a/keep.o", false));
        assert!(excluded("top", false));
        assert!(!excluded("a/top", false));
        assert!(excluded("a/cache", true));
        assert!(!excluded("a/cache", false));
        assert!(excluded("sub/x", false));
        assert!(!excluded("other/sub/x", false));
        assert!(excluded("a/#autosave#", false));
        assert!(excluded("a/with space", true));
        assert!(!excluded("a/with", true));
    }

    #[test]
    fn patterns_in_a_file_are_relative_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("patterns");
        std::fs::write(&file, "\u{feff}# comment\n\n./x\r\nw/sub\n*.o\n").unwrap();
        let excludes = Excludes { files: vec![file.clone()], ..Excludes::default() };
        let root = dir.path().join("w");
        let rules = Rules::new(&root, &excludes).unwrap();
        assert_eq!(rules.exclude(&root.join("sub"), true), Some(LeftOutRule::Pattern("w/sub".into())));
        assert_eq!(rules.exclude(&root.join("x"), true), None);
        let rules = Rules::new(dir.path(), &excludes).unwrap();
        assert_eq!(rules.exclude(&dir.path().join("x"), true), Some(LeftOutRule::Pattern("./x".into())));
        assert_eq!(rules.exclude(&root.join("x"), true), None);
        std::fs::write(&file, "[\n").unwrap();
        assert!(excludes.load().unwrap_err().to_string().ends_with(&format!("in {}", file.display())));
    }

    #[test]
    fn the_line_that_is_wrong_is_named_and_none_that_looks_like_it() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["\n!\n", "#[\n!#["] {
            let file = dir.path().join("patterns");
            std::fs::write(&file, text).unwrap();
            let excludes = Excludes { files: vec![file], ..Excludes::default() };
            let error = excludes.load().unwrap_err().to_string();
            assert!(error.contains("the pattern of line 2 in "), "{text:?}: {error}");
            let in_tree = Excludes { ignore_file: Some("patterns".into()), ..Excludes::default() };
            let rules = Rules::new(dir.path(), &in_tree).unwrap();
            let (_, error) = rules.enter(File::open(dir.path()).unwrap(), dir.path());
            let error = error.unwrap().to_string();
            assert!(error.contains("the pattern of line 2 in "), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_pattern_belongs_to_its_directory_and_not_to_the_current_one() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("w");
        for text in ["w/cache", "./w/cache", "../x/../w/cache"] {
            let directory = match text.starts_with("..") {
                true => root.clone(),
                false => dir.path().to_owned(),
            };
            std::fs::create_dir_all(&root).unwrap();
            let pattern = Pattern { text: text.into(), directory: Some(directory), is_line: false };
            let excludes = Excludes { patterns: vec![pattern], ..Excludes::default() };
            let rules = Rules::new(&root, &excludes).unwrap();
            assert_eq!(rules.exclude(&root.join("cache"), true), Some(LeftOutRule::Pattern(text.into())));
        }
    }

    #[test]
    fn what_leaves_nothing_is_refused() {
        let check = |patterns: &[&str], roots: &[&str]| {
            let patterns = patterns.iter().map(|&pattern| pattern.into()).collect();
            Excludes { patterns, ..Excludes::default() }.check_leaves_some(roots)
        };
        let error = check(&["*.o", "/data"], &["/data/tree"]).unwrap_err();
        assert!(std::error::Error::source(&error).unwrap().to_string().contains("everything in /data/tree"));
        check(&["/data/tree/"], &["/data/tree"]).unwrap_err();
        check(&["/data/*"], &["/data/tree", "/data/more"]).unwrap_err();
        check(&["/data/tree"], &["/data/tree", "/data/more"]).unwrap();
        check(&["/data/tree", "!/data/tree/keep"], &["/data/tree"]).unwrap();
        check(&["/data/tree/*"], &["/data/tree"]).unwrap();
        check(&["*"], &["/data/tree"]).unwrap();
        check(&[], &["/data/tree"]).unwrap();
    }

    #[test]
    fn a_file_in_the_tree_means_its_own_directory_and_tells_what_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let enter = |text: &str| {
            std::fs::write(dir.path().join(".skip"), text).unwrap();
            let home = Some(dir.path().to_owned());
            let excludes = Excludes { ignore_file: Some(".skip".into()), home, ..Excludes::default() };
            let opened = File::open(dir.path()).unwrap();
            Rules::new(dir.path(), &excludes).unwrap().enter(&opened, dir.path())
        };
        for line in ["./x", "/x", "x", "x/", "~/x", "[x]"] {
            let (rules, error) = enter(line);
            assert!(error.is_none(), "{line}: {error:?}");
            let expected = LeftOutRule::IgnoreFile { pattern: line.into(), file: dir.path().join(".skip") };
            assert_eq!(rules.exclude(&dir.path().join("x"), true), Some(expected), "{line}");
        }
        for line in ["[", "a[b", "x\\", "../x", "/", "!"] {
            let (rules, error) = enter(&format!("# a comment\n{line}\ny\n"));
            let error = error.unwrap_or_else(|| panic!("{line}"));
            let file = dir.path().join(".skip");
            let expected = format!("cannot use the pattern of line 2 in {}", file.display());
            assert_eq!(error.to_string(), expected, "{line}");
            assert!(rules.exclude(&dir.path().join("y"), false).is_some(), "{line}");
        }
    }
}
