//! Which names a scan leaves out.
//!
//! Patterns are those of `.gitignore`, through the crate `ignore`: a pattern without a slash matches a name
//! at any depth, one with a slash is anchored at the root, `!` takes back, the last match wins. An absolute
//! pattern that lies below the root being scanned is taken relative to it, so that `--exclude /home/me/cache`
//! means what it says.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ignore::gitignore::{Gitignore, GitignoreBuilder};

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
}

impl Excludes {
    /// The same without files: what stands in them is among the patterns. Each is found to be one.
    ///
    /// Files are read once, so that one may be a pipe, and what is wrong is found before anything is scanned.
    ///
    /// # Errors
    /// A pattern or a file that cannot be used, named.
    pub fn load(&self) -> Result<Self, ExcludeError> {
        let mut builder = GitignoreBuilder::new("/");
        let mut loaded = Self { files: Vec::new(), ..self.clone() };
        for pattern in &self.patterns {
            add(&mut builder, pattern, None)?;
        }
        for path in &self.files {
            let text = std::fs::read_to_string(path).map_err(|error| ExcludeError {
                from: Some(path.clone()),
                source: ignore::Error::Io(error),
            })?;
            for line in text.lines().filter(|line| !line.starts_with('#')) {
                add(&mut builder, line, Some(path))?;
                loaded.patterns.push(line.to_owned());
            }
        }
        builder.build().map_err(|source| ExcludeError { from: None, source })?;
        Ok(loaded)
    }
}

fn add(builder: &mut GitignoreBuilder, pattern: &str, from: Option<&Path>) -> Result<(), ExcludeError> {
    // Only in a file is it a comment.
    let comment = if pattern.starts_with('#') { "\\" } else { "" };
    let added = builder.add_line(None, &format!("{comment}{pattern}"));
    added.map(drop).map_err(|source| ExcludeError { from: from.map(Path::to_owned), source })
}

/// A pattern that cannot be used, or a file of patterns that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the exclude patterns{}", .from.as_ref().map(|path| format!(" in {}", path.display())).unwrap_or_default())]
pub struct ExcludeError {
    from: Option<PathBuf>,
    source: ignore::Error,
}

/// What the first bytes of a `CACHEDIR.TAG` must be.
const CACHE_TAG: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

/// The patterns in force in one directory, those of the directories above it included.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    matchers: Arc<[Arc<Gitignore>]>,
    ignore_file: Option<Arc<str>>,
    caches: bool,
}

impl Rules {
    pub(super) fn new(root: &Path, excludes: &Excludes) -> Result<Self, ExcludeError> {
        let loaded = excludes.load()?;
        // Without a slash at its end.
        let root: &Path = &root.components().collect::<PathBuf>();
        let mut builder = GitignoreBuilder::new(root);
        for pattern in &loaded.patterns {
            add(&mut builder, &relative_pattern(root, pattern), None)?;
        }
        let matcher = builder.build().map_err(|source| ExcludeError { from: None, source })?;
        Ok(Self {
            matchers: if matcher.is_empty() { Arc::default() } else { Arc::new([Arc::new(matcher)]) },
            ignore_file: excludes.ignore_file.as_deref().map(Arc::from),
            caches: excludes.caches,
        })
    }

    /// The rules for what stands in `directory`, and whether that is a cache of which only the tag is kept.
    ///
    /// A pattern file in the tree that cannot be used is an error of that directory; its patterns that can be
    /// used are in force all the same.
    pub(super) fn enter(&self, directory: &Path) -> (Self, Option<ExcludeError>) {
        let mut rules = self.clone();
        let Some(name) = &self.ignore_file else { return (rules, None) };
        let path = directory.join(&**name);
        if !path.symlink_metadata().is_ok_and(|meta| meta.is_file()) {
            return (rules, None);
        }
        let mut builder = GitignoreBuilder::new(directory);
        let mut error = builder.add(&path);
        match builder.build() {
            Ok(matcher) => {
                rules.matchers = self.matchers.iter().cloned().chain([Arc::new(matcher)]).collect()
            }
            Err(source) => error = Some(source),
        }
        (rules, error.map(|source| ExcludeError { from: Some(path), source }))
    }

    /// Whether `path` is left out.
    pub(super) fn exclude(&self, path: &Path, is_dir: bool) -> bool {
        let decided = self.matchers.iter().rev().map(|matcher| matcher.matched(path, is_dir));
        decided.into_iter().find(|found| !found.is_none()).is_some_and(|found| found.is_ignore())
    }

    /// Whether `directory` is marked as a cache and caches are left out.
    pub(super) fn is_excluded_cache(&self, directory: &Path) -> bool {
        use std::io::Read;
        if !self.caches {
            return false;
        }
        let tag = directory.join("CACHEDIR.TAG");
        if !tag.symlink_metadata().is_ok_and(|meta| meta.is_file()) {
            return false;
        }
        let mut start = [0; CACHE_TAG.len()];
        let read = std::fs::File::open(tag).and_then(|mut file| file.read_exact(&mut start));
        read.is_ok() && start == CACHE_TAG
    }

    /// Whether no rule can leave anything out, so that paths need not be built.
    pub(super) fn is_empty(&self) -> bool {
        self.matchers.is_empty()
    }
}

fn relative_pattern(root: &Path, pattern: &str) -> String {
    let (sign, rest) = match pattern.strip_prefix('!') {
        Some(rest) => ("!", rest),
        None => ("", pattern),
    };
    match root.to_str().and_then(|root| rest.strip_prefix(root)) {
        Some(below) if below.starts_with('/') => format!("{sign}{below}"),
        _ => pattern.to_owned(),
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
        let excluded = |path: &str, is_dir| rules.exclude(&Path::new("/data/tree").join(path), is_dir);
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
    }
}
