//! Which names a scan leaves out.
//!
//! Patterns are those of `.gitignore`, through the crate `ignore`: a pattern without a slash matches a name
//! at any depth, one with a slash is anchored at the root, `!` takes back, the last match wins. Beside that, a
//! pattern means what it would mean to a shell:
//!
//! - An absolute one that lies below the root being scanned is taken relative to it, so that `--exclude /home/me/cache`
//!   means what it says; components of it may be patterns, but not the first one.
//! - `~/` at its beginning is the home directory. `./` and `../` are the current directory and the one above; in a file
//!   of patterns, those of the file.
//! - One with a slash in it that begins with the path of the root from the current directory is taken relative to the
//!   root, as well as anchored there: `backup work -e work/cache` leaves out `work/cache`.
//!
//! What cannot match anything is refused, since who wrote it meant something else.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use rustix::fs::{FileType, Mode, OFlags};

use crate::relpath::RelPath;

/// What a scan leaves out, beside what [`ScanOptions`](super::ScanOptions) says otherwise.
#[derive(Debug, Clone, Default)]
pub struct Excludes {
    /// Patterns, as in `.gitignore`.
    pub patterns: Vec<String>,
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
    pub fn load(&self) -> Result<Self, ExcludeError> {
        let mut loaded = Self { files: Vec::new(), patterns: Vec::new(), ..self.clone() };
        for pattern in &self.patterns {
            loaded.patterns.push(self.resolve(pattern, Path::new("."), None)?);
        }
        for path in &self.files {
            let unusable =
                |error| ExcludeError { from: Some(path.clone()), source: Fault::File(error).into() };
            let text = std::fs::read_to_string(path).map_err(unusable)?;
            let directory = path.parent().unwrap_or(Path::new(""));
            for line in text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
                loaded.patterns.push(self.resolve(line, directory, Some(path))?);
            }
        }
        Ok(loaded)
    }

    /// Tells of a path below `root`, and whether it is a directory, whether the patterns leave it or a directory
    /// above it out. It need not be there, so files in the tree and marks of caches have no say.
    pub(crate) fn matcher(
        &self,
        root: &Path,
    ) -> Result<impl Fn(&RelPath, bool) -> bool + use<>, ExcludeError> {
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

    /// A pattern in which the beginning of a path stands for itself; `directory` is what `.` means.
    fn resolve(&self, pattern: &str, directory: &Path, from: Option<&Path>) -> Result<String, ExcludeError> {
        let refused = |source: Fault| ExcludeError { from: from.map(Path::to_owned), source: source.into() };
        let about = || pattern.to_owned();
        let (sign, body) = split_sign(pattern);
        if body.trim_matches([' ', '/']).is_empty() {
            return Err(refused(Fault::Empty(about())));
        }
        if has_open_class(body) {
            return Err(refused(Fault::OpenClass(about())));
        }
        let absolute = |base: &Path, rest: &str| {
            let base = std::path::absolute(base).map_err(|error| refused(Fault::File(error)))?;
            let base = base.to_str().ok_or_else(|| refused(Fault::NotText(base.clone())))?;
            Ok(join_pattern(&escape(base), rest))
        };
        let body = match body.split_once('/').unwrap_or((body, "")) {
            ("~", rest) => {
                let home = self.home.as_deref().ok_or_else(|| refused(Fault::NoHome(about())))?;
                absolute(home, rest)?
            }
            ("." | "..", _) => absolute(directory, body)?,
            ("", _) => join_pattern("", body),
            _ => body.to_owned(),
        };
        let resolved = format!("{sign}{body}");
        add(&mut GitignoreBuilder::new("/"), &resolved).map_err(|source| refused(Fault::Glob(source)))?;
        Ok(resolved)
    }
}

/// The `!` that takes back, and what it is before.
pub fn split_sign(pattern: &str) -> (&str, &str) {
    pattern.split_at(usize::from(pattern.starts_with('!')))
}

/// Whether a `[` is not closed. The crate takes that for the character itself.
fn has_open_class(pattern: &str) -> bool {
    let mut rest = pattern.chars();
    while let Some(character) = rest.next() {
        match character {
            '\\' => drop(rest.next()),
            '[' => {
                let class = rest.as_str();
                let class = class.strip_prefix(['!', '^']).unwrap_or(class);
                // At its beginning a bracket stands for itself.
                let start = class.chars().next().map_or(0, char::len_utf8);
                let Some(end) = class.get(start..).and_then(|class| class.find(']')) else { return true };
                rest = class[start + end + 1..].chars();
            }
            _ => {}
        }
    }
    false
}

/// A pattern that matches `path` and nothing else.
pub fn escape(path: &str) -> String {
    let special = |character| matches!(character, '*' | '?' | '[' | ']' | '{' | '}' | '\\' | '!' | '#' | ' ');
    path.chars()
        .flat_map(|character| special(character).then_some('\\').into_iter().chain([character]))
        .collect()
}

/// The pattern `rest` below the absolute pattern `base`, without what means nothing in a path.
fn join_pattern(base: &str, rest: &str) -> String {
    let mut components: Vec<&str> = base.split('/').filter(|component| !component.is_empty()).collect();
    for component in rest.split('/') {
        match component {
            "" | "." => {}
            ".." => drop(components.pop()),
            component => components.push(component),
        }
    }
    let end = if rest.ends_with('/') { "/" } else { "" };
    format!("/{}{end}", components.join("/"))
}

/// What of the path `pattern` is below `root`, as a pattern that is anchored there; `None` where it leads elsewhere. All
/// of `root` is meant where nothing is left.
pub fn below(root: &Path, pattern: &str) -> Option<String> {
    let mut parts = pattern.split('/');
    let names = root.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name),
        _ => None,
    });
    for (number, name) in names.enumerate() {
        match parts.next()? {
            // It may stand for any number of components.
            "**" if number > 0 => {
                return Some(std::iter::once("/**").chain(parts).collect::<Vec<_>>().join("/"));
            }
            part if number == 0 && part.contains(['*', '?', '[', '{']) => return None,
            part if is_match(part, name) => {}
            _ => return None,
        }
    }
    let rest = parts.collect::<Vec<_>>().join("/");
    Some(format!("/{}", if rest.trim_matches('/').is_empty() { "*" } else { &rest }))
}

/// Whether the pattern of one component matches a name.
fn is_match(part: &str, name: &OsStr) -> bool {
    let mut builder = GitignoreBuilder::new("/");
    let matcher = builder.add_line(None, &format!("/{part}")).and_then(|builder| builder.build());
    matcher.is_ok_and(|matcher| matcher.matched(Path::new("/").join(name), true).is_ignore())
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

fn add(builder: &mut GitignoreBuilder, pattern: &str) -> Result<(), ignore::Error> {
    // Only in a file is it a comment.
    let comment = if pattern.starts_with('#') { "\\" } else { "" };
    builder.add_line(None, &format!("{comment}{pattern}")).map(drop)
}

/// A pattern that cannot be used, or a file of patterns that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the exclude patterns{}", .from.as_ref().map(|path| format!(" in {}", path.display())).unwrap_or_default())]
pub struct ExcludeError {
    from: Option<PathBuf>,
    source: Box<Fault>,
}

/// What is wrong with a pattern.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Glob(#[from] ignore::Error),
    #[error(transparent)]
    File(io::Error),
    #[error("{0:?} matches nothing: leave it out, or give the pattern that was meant")]
    Empty(String),
    #[error("{0:?} has a [ that is not closed: close it, or write \\[ for the character itself")]
    OpenClass(String),
    #[error("{0:?} needs a home directory, and none is known: set HOME, or write the path in full")]
    NoHome(String),
    #[error("{} is not UTF-8, and patterns are: go elsewhere, or write it with * and ?", .0.display())]
    NotText(PathBuf),
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
    matchers: Arc<[Arc<Gitignore>]>,
    /// Patterns as they were given, by what is matched.
    given: Arc<HashMap<String, String>>,
    ignore_file: Option<Arc<str>>,
    caches: bool,
}

impl Rules {
    pub(super) fn new(root: &Path, excludes: &Excludes) -> Result<Self, ExcludeError> {
        let unusable = |source: ignore::Error| ExcludeError { from: None, source: Box::new(source.into()) };
        let loaded = excludes.load()?;
        // Without a slash at its end.
        let root: &Path = &root.components().collect::<PathBuf>();
        let current = std::path::absolute(".").unwrap_or_default();
        let from_here = std::path::absolute(root).ok();
        let from_here = from_here.as_deref().and_then(|root| root.strip_prefix(&current).ok());
        let mut builder = GitignoreBuilder::new(root);
        let mut given = HashMap::new();
        let mut add = |line: String, pattern: &str| {
            add(&mut builder, &line).map_err(unusable)?;
            given.insert(line, pattern.to_owned());
            Ok(())
        };
        for pattern in &loaded.patterns {
            let (sign, body) = split_sign(pattern);
            let below = |root: &Path, body| below(root, body).map(|below| format!("{sign}{below}"));
            match body.strip_prefix('/') {
                Some(path) => add(below(root, path).unwrap_or_else(|| pattern.clone()), pattern)?,
                None => {
                    add(pattern.clone(), pattern)?;
                    let is_path = body.trim_end_matches('/').contains('/');
                    let here = from_here.filter(|root| !root.as_os_str().is_empty() && is_path);
                    if let Some(line) = here.and_then(|root| below(root, body)) {
                        add(line, pattern)?;
                    }
                }
            }
        }
        let matcher = builder.build().map_err(unusable)?;
        Ok(Self {
            matchers: if matcher.is_empty() { Arc::default() } else { Arc::new([Arc::new(matcher)]) },
            given: Arc::new(given),
            ignore_file: excludes.ignore_file.as_deref().map(Arc::from),
            caches: excludes.caches,
        })
    }

    /// The rules for what stands in `directory`, which is open, and whether a file of patterns there cannot be used;
    /// of that, the patterns that can be used are in force all the same.
    pub(super) fn enter(&self, opened: impl AsFd, directory: &Path) -> (Self, Option<ExcludeError>) {
        let mut rules = self.clone();
        let Some(name) = &self.ignore_file else { return (rules, None) };
        let path = directory.join(&**name);
        let fault = |source: Fault| Some(ExcludeError { from: Some(path.clone()), source: source.into() });
        let read = open_regular(opened, name).map(|file| io::read_to_string(file?));
        let text = match read {
            None => return (rules, None),
            Some(Err(error)) => return (rules, fault(Fault::File(error))),
            Some(Ok(text)) => text,
        };
        let mut builder = GitignoreBuilder::new(directory);
        let mut error = None;
        for line in text.trim_start_matches('\u{feff}').lines() {
            if let Err(source) = builder.add_line(Some(path.clone()), line) {
                error.get_or_insert(source);
            }
        }
        match builder.build() {
            Ok(matcher) => {
                rules.matchers = self.matchers.iter().cloned().chain([Arc::new(matcher)]).collect()
            }
            Err(source) => error = Some(source),
        }
        (rules, error.and_then(|source| fault(source.into())))
    }

    /// Why `path` is left out, if it is.
    pub(super) fn exclude(&self, path: &Path, is_dir: bool) -> Option<LeftOutRule> {
        let decided = self.matchers.iter().rev().map(|matcher| matcher.matched(path, is_dir));
        let ignore::Match::Ignore(glob) = decided.into_iter().find(|found| !found.is_none())? else {
            return None;
        };
        let line = glob.original();
        Some(match glob.from() {
            Some(file) => LeftOutRule::IgnoreFile { pattern: line.to_owned(), file: file.to_owned() },
            None => LeftOutRule::Pattern(self.given.get(line).map_or(line, String::as_str).to_owned()),
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
        let patterns = patterns.iter().map(ToString::to_string).collect();
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
    fn a_pattern_that_is_none_is_named() {
        let excludes = Excludes { patterns: vec!["[z-a]".into()], ..Excludes::default() };
        let error = Rules::new(Path::new("/data"), &excludes).unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("[z-a]"), "{source}");
        for pattern in ["", "  ", "/", "//", "!", "!/", "[", "a[b", "[!]", "x\\", "{a", "~/x"] {
            let excludes = Excludes { patterns: vec![pattern.into()], ..Excludes::default() };
            let error = excludes.load().unwrap_err();
            assert!(std::error::Error::source(&error).is_some(), "{pattern}");
        }
        let fine = ["\\[", "[]]", "[!]]x", "[[]", "a b", "[a-z]*"].map(str::to_owned).to_vec();
        Excludes { patterns: fine, ..Excludes::default() }.load().unwrap();
    }

    fn resolved(pattern: &str) -> String {
        let home = Some(PathBuf::from("/home/m*e"));
        let excludes = Excludes { patterns: vec![pattern.into()], home, ..Excludes::default() };
        excludes.load().unwrap().patterns.concat()
    }

    #[test]
    fn the_beginning_of_a_path_means_what_it_means_to_a_shell() {
        assert_eq!(resolved("~/x/"), "/home/m\\*e/x/");
        assert_eq!(resolved("!~/x*"), "!/home/m\\*e/x*");
        assert_eq!(resolved("//a/./b/../*.c"), "/a/*.c");
        let current = escape(std::env::current_dir().unwrap().to_str().unwrap());
        assert_eq!(resolved("./x"), format!("{current}/x"));
        assert_eq!(resolved("."), current);
        assert_eq!(resolved("../x"), format!("{}/x", current.rsplit_once('/').unwrap().0));
        for pattern in ["*.o", "a/b", "~", ".cache", "..x", "~x/y"] {
            assert_eq!(resolved(pattern), if pattern == "~" { "/home/m\\*e" } else { pattern });
        }
    }

    #[test]
    fn patterns_in_a_file_are_relative_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("patterns");
        std::fs::write(&file, "# comment\n\n./x\n*.o\n").unwrap();
        let excludes = Excludes { files: vec![file.clone()], ..Excludes::default() };
        let here = escape(dir.path().to_str().unwrap());
        assert_eq!(excludes.load().unwrap().patterns, [format!("{here}/x"), "*.o".into()]);
        std::fs::write(&file, "[\n").unwrap();
        assert!(excludes.load().unwrap_err().to_string().ends_with(&format!("in {}", file.display())));
    }

    #[test]
    fn paths_that_lead_into_the_root_are_taken_there() {
        let cases = [
            ("/data/tree/sub/x", Some("/sub/x")),
            ("/data/*/sub/", Some("/sub/")),
            ("/data/**/x", Some("/**/x")),
            ("/data/tree", Some("/*")),
            ("/data/tree/", Some("/*")),
            ("/data/tree2/x", None),
            ("/data", None),
            ("/*/*/x", None),
            ("/other/tree/x", None),
        ];
        for (pattern, expected) in cases {
            assert_eq!(below(Path::new("/data/tree"), &pattern[1..]).as_deref(), expected, "{pattern}");
        }
        assert_eq!(below(Path::new("/"), "a/b").as_deref(), Some("/a/b"));
    }

    #[test]
    fn a_path_from_the_current_directory_is_taken_into_a_root_that_it_leads_to() {
        let current = std::env::current_dir().unwrap();
        let root = current.join("work");
        let excludes = Excludes { patterns: vec!["work/tmp".into(), "work/".into()], ..Excludes::default() };
        let rules = Rules::new(&root, &excludes).unwrap();
        let by = |path: &str| rules.exclude(&root.join(path), true);
        assert_eq!(by("tmp"), Some(LeftOutRule::Pattern("work/tmp".into())));
        assert_eq!(by("work/tmp"), Some(LeftOutRule::Pattern("work/tmp".into())));
        assert_eq!(by("a/work"), Some(LeftOutRule::Pattern("work/".into())));
        assert_eq!(by("a/tmp"), None);
    }
}
