//! Patterns that people write to choose names and paths: in flags, profiles, and files.
//!
//! Patterns are those of `.gitignore`, through the crate `ignore`: a pattern without a slash matches a name
//! at any depth, one with a slash is anchored at the root, `!` takes back, the last match wins. Beside that, a
//! pattern means what it would mean to a shell, and what a listing prints can be given back:
//!
//! - An absolute path that lies below the root is taken relative to it, so that `--exclude /home/me/cache` means what it
//!   says; components of it may be patterns, but not the first one. One that leads elsewhere is anchored at the root.
//! - A link on the way to what a path names is followed, also where a source is called by its other name. A link that a
//!   path itself names is meant, unless a slash follows.
//! - `~/` at its beginning is the home directory. `./` and `../` are the directory that the pattern belongs to: that of
//!   the file that it stands in, else the current one.
//! - A path without any of these is anchored at the root, and is also taken from that directory: `backup work -e
//!   work/cache` leaves out `work/cache`.
//! - A name that looks like a pattern, and the escapes that [`printed`](crate::printed) writes, are first of all that name.
//!
//! What cannot match anything is refused, since who wrote it meant something else.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::atomic;
use crate::printed;

/// A pattern, as somebody wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    /// What was written.
    pub text: String,
    /// The directory that `.` means in it: the current one where none is given.
    pub directory: Option<PathBuf>,
    /// Whether it stands in a file of patterns.
    pub is_line: bool,
}

impl<T: Into<String>> From<T> for Pattern {
    fn from(text: T) -> Self {
        Self { text: text.into(), directory: None, is_line: false }
    }
}

impl Pattern {
    /// What it means. `exists` tells whether there is something at an absolute path: then a path that looks like a pattern
    /// is that path. A path without a slash at its beginning may begin in any of `others`, too.
    ///
    /// # Errors
    /// It matches nothing whatever there is.
    pub(crate) fn read(
        &self,
        home: Option<&Path>,
        others: &[&Path],
        exists: impl Fn(&Path) -> bool,
    ) -> Result<Meaning, PatternError> {
        let refused = |fault| PatternError::new(fault, None);
        let (body, is_negated) = split_sign(&self.text);
        let about = || self.text.clone();
        check_not_empty(body).map_err(refused)?;
        if names_home_of_another(body) {
            return Err(refused(Fault::OtherHome(about())));
        }
        let directory = || {
            let directory = self.directory.as_deref().unwrap_or(Path::new("."));
            real_forms(directory).map_err(|error| refused(Fault::File(error)))
        };
        let (origin, bases, rest) = match body.split_once('/').unwrap_or((body, "")) {
            ("~", rest) => {
                let home = home.ok_or_else(|| refused(Fault::NoHome(about())))?;
                (Origin::Expanded, real_forms(home).map_err(|error| refused(Fault::File(error)))?, rest)
            }
            ("." | "..", _) => (Origin::Expanded, directory()?, body),
            ("", rest) => (Origin::Root, vec![PathBuf::from("/")], rest),
            _ if is_path(body) => {
                let others = others.iter().map(|&other| other.to_owned());
                (Origin::Path, directory()?.into_iter().chain(others).collect(), body)
            }
            _ => (Origin::Name, Vec::new(), body),
        };
        let glob = check(body, &self.text);
        let unescaped = printed::unescape(rest.as_bytes());
        let is_printed = unescaped.as_ref().is_some_and(|name| printed::name(name) == rest);
        let literal = unescaped.unwrap_or_else(|| rest.as_bytes().to_vec());
        let mut paths: Vec<PathBuf> = bases.iter().map(|base| join_name(base, &literal)).collect();
        // Else it means the same as a pattern, and links cost a look each.
        let may_be_special = rest != escape(rest);
        if may_be_special {
            for path in paths.clone() {
                push_new(&mut paths, without_links(&path, literal.ends_with(b"/")));
            }
        }
        let is_named = may_be_special && paths.iter().any(|path| exists(path));
        // Of stars and the like it is one of the names that match.
        let is_special = is_named || rest.contains(['[', ']', '{', '}', '\\']) || rest.trim() != rest;
        let mut meaning = Meaning {
            given: about(),
            is_negated,
            is_dir: body.ends_with('/'),
            origin,
            body: None,
            globs: Vec::new(),
            name: is_special.then(|| trim_slash(&literal).to_vec()),
            paths: if is_special { paths } else { Vec::new() },
        };
        match glob {
            // A name that looks like a pattern is first of all a name.
            _ if is_named && origin != Origin::Path => {}
            Err(fault) if !is_named && !is_printed => return Err(refused(fault)),
            Err(_) => {}
            Ok(()) => {
                meaning.body =
                    Some(if origin == Origin::Root { join_pattern("", rest) } else { body.to_owned() });
                let join =
                    |base: &Path, rest: &str| base.to_str().map(|base| join_pattern(&escape(base), rest));
                meaning.globs = bases.iter().filter_map(|base| join(base, rest)).collect();
                // The bases themselves are there without links already.
                for (directory, rest) in bases.iter().filter_map(|base| split_literal(base, rest)) {
                    if let Some(glob) = join(&atomic::resolved(&directory), &rest) {
                        push_new(&mut meaning.globs, glob);
                    }
                }
                if let (true, Some(base)) =
                    (origin == Origin::Expanded && meaning.globs.is_empty(), bases.first())
                {
                    return Err(refused(Fault::NotText(base.clone())));
                }
            }
        }
        Ok(meaning)
    }

    /// What it means as a line of a file in the tree: as in a `.gitignore` there. A path that begins with `.` or `~` must
    /// lead into one of `spaces`, the directory of the file.
    pub(super) fn read_in_tree(
        &self,
        home: Option<&Path>,
        spaces: &[Space],
    ) -> Result<Meaning, PatternError> {
        let (body, is_negated) = split_sign(&self.text);
        let refused = |fault| PatternError::new(fault, None);
        if matches!(body.split('/').next(), Some("." | ".." | "~")) {
            let meaning = self.read(home, &[], |_| false)?;
            let is_inside = |glob: &String| spaces.iter().any(|space| below(&space.host, glob).is_some());
            return match meaning.globs.iter().any(is_inside) {
                true => Ok(meaning),
                false => Err(refused(Fault::Outside(self.text.clone()))),
            };
        }
        check_not_empty(body).and_then(|()| check(body, &self.text)).map_err(refused)?;
        Ok(Meaning {
            given: self.text.clone(),
            is_negated,
            is_dir: false,
            origin: Origin::Name,
            body: Some(body.to_owned()),
            globs: Vec::new(),
            name: None,
            paths: Vec::new(),
        })
    }
}

/// Refuses patterns of a command line that take back what patterns before them match, where there are none.
///
/// In files they are left alone: the lines of one may have been taken away, or be used with those of another.
pub(crate) fn check_signs(patterns: &[Pattern]) -> Result<(), PatternError> {
    let first = patterns.iter().take_while(|pattern| split_sign(&pattern.text).1);
    match { first }.find(|pattern| !pattern.is_line) {
        Some(pattern) => Err(PatternError::new(Fault::NothingBefore(pattern.text.clone()), None)),
        None => Ok(()),
    }
}

/// The beginning of a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// A slash.
    Root,
    /// `~`, `.` or `..`.
    Expanded,
    /// A name, and a path goes on from there.
    Path,
    /// A name, and that is all.
    Name,
}

/// What a pattern means.
#[derive(Debug, Clone)]
pub(crate) struct Meaning {
    given: String,
    is_negated: bool,
    /// Whether only directories are meant by its name.
    is_dir: bool,
    origin: Origin,
    /// The pattern without its sign.
    body: Option<String>,
    /// Absolute patterns that it may stand for.
    globs: Vec<String>,
    /// What it is as a name, relative to where it begins.
    name: Option<Vec<u8>>,
    /// Absolute paths that it may be.
    paths: Vec<PathBuf>,
}

impl Meaning {
    /// The pattern, as it was given.
    pub fn given(&self) -> &str {
        &self.given
    }

    /// Whether it takes back what others match.
    pub fn is_negated(&self) -> bool {
        self.is_negated
    }

    /// Whether it may match more than one name, at any depth.
    pub fn is_search(&self) -> bool {
        self.origin == Origin::Name
            && self.body.as_ref().is_some_and(|body| body.contains(['*', '?', '[', '{']))
    }

    /// Whether it is a name that may stand at any depth.
    pub fn is_name(&self) -> bool {
        self.origin == Origin::Name
    }

    /// Whether it is a path that leads through `path`, as it is below the root of a set of `spaces`, to something in there.
    pub fn leads_through(&self, spaces: &[Space], path: &Path) -> bool {
        let hosts =
            spaces.iter().filter_map(|space| Some(space.host.join(path.strip_prefix(&space.to).ok()?)));
        let is_through_host = |host: PathBuf| {
            let is_above = |other: &PathBuf| other.starts_with(&host) && *other != host;
            self.globs.iter().any(|glob| leads_through(&host, glob)) || self.paths.iter().any(is_above)
        };
        let is_anchored = matches!(self.origin, Origin::Root | Origin::Path);
        let body = self.body.as_ref().filter(|_| is_anchored);
        body.is_some_and(|body| leads_through(path, body)) || hosts.into_iter().any(is_through_host)
    }
}

/// A directory of the host, and where what it holds lies below the root of a [`PatternSet`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Space {
    pub host: PathBuf,
    pub to: PathBuf,
}

impl Space {
    /// The forms of `root` as the root of a set itself.
    pub fn of_root(root: &Path) -> Vec<Self> {
        let forms = real_forms(root).unwrap_or_else(|_| vec![root.to_owned()]);
        forms.into_iter().map(|host| Self { host, to: PathBuf::new() }).collect()
    }
}

/// Patterns in the order in which they were given.
#[derive(Debug, Clone)]
pub(crate) struct PatternSet {
    matchers: Vec<Matcher>,
    /// Patterns as they were given, by the lines that they were made.
    given: HashMap<String, String>,
    /// The one that matches all there is, where no other takes anything back.
    pub covering: Option<String>,
}

#[derive(Debug, Clone)]
enum Matcher {
    Lines(Gitignore),
    /// A name that is no text, which no pattern of the crate `ignore` can match.
    Name(Name),
}

#[derive(Debug, Clone)]
struct Name {
    given: String,
    is_negated: bool,
    is_dir: bool,
    /// Where; anywhere if it is a single name.
    path: PathBuf,
    is_anywhere: bool,
}

impl Name {
    fn is_match(&self, path: &Path, is_dir: bool) -> bool {
        let found = match self.is_anywhere {
            true => path.file_name() == Some(self.path.as_os_str()),
            false => path == self.path,
        };
        found && (is_dir || !self.is_dir)
    }
}

/// What the last pattern that matches says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Decision<'a> {
    /// Whether it matches; else it takes back what others match.
    pub is_match: bool,
    /// The pattern, as it was given.
    pub given: &'a str,
}

impl PatternSet {
    /// Of paths that begin with `root`.
    pub fn new(root: &Path, spaces: &[Space], patterns: &[Meaning]) -> Result<Self, PatternError> {
        let mut builder = Builder {
            root,
            spaces,
            lines: None,
            set: Self { matchers: Vec::new(), given: HashMap::new(), covering: None },
        };
        patterns.iter().try_for_each(|pattern| builder.add(pattern))?;
        builder.end_lines()?;
        let mut set = builder.set;
        if patterns.iter().any(|pattern| pattern.is_negated) {
            set.covering = None;
        }
        Ok(set)
    }

    pub fn is_empty(&self) -> bool {
        self.matchers.is_empty()
    }

    /// What they say of `path` itself.
    pub fn matched(&self, path: &Path, is_dir: bool) -> Option<Decision<'_>> {
        self.matchers.iter().rev().find_map(|matcher| match matcher {
            Matcher::Lines(lines) => {
                let (glob, is_match) = match lines.matched(path, is_dir) {
                    Match::None => return None,
                    Match::Ignore(glob) => (glob, true),
                    Match::Whitelist(glob) => (glob, false),
                };
                let line = glob.original();
                Some(Decision { is_match, given: self.given.get(line).map_or(line, String::as_str) })
            }
            Matcher::Name(name) => name
                .is_match(path, is_dir)
                .then_some(Decision { is_match: !name.is_negated, given: &name.given }),
        })
    }

    /// What they say of `path`, or else of the innermost directory above it of which they say something.
    pub fn matched_within(&self, path: &Path, is_dir: bool) -> Option<Decision<'_>> {
        if self.is_empty() {
            return None;
        }
        let above = path.ancestors().skip(1).take_while(|above| !above.as_os_str().is_empty());
        self.matched(path, is_dir).or_else(|| above.into_iter().find_map(|above| self.matched(above, true)))
    }
}

/// Makes a [`PatternSet`].
struct Builder<'a> {
    root: &'a Path,
    spaces: &'a [Space],
    lines: Option<GitignoreBuilder>,
    set: PatternSet,
}

impl Builder<'_> {
    fn add(&mut self, meaning: &Meaning) -> Result<(), PatternError> {
        let mut is_placed = false;
        if let (Some(body), Origin::Path | Origin::Name) = (&meaning.body, meaning.origin) {
            self.line(meaning, body)?;
            is_placed = true;
        }
        if let (Some(name), Origin::Path | Origin::Name) = (&meaning.name, meaning.origin) {
            self.name(meaning, Path::new(OsStr::from_bytes(name)), meaning.origin == Origin::Name)?;
            is_placed = true;
        }
        for Space { host, to } in self.spaces {
            let slash = if to.as_os_str().is_empty() { "" } else { "/" };
            let prefix = to.to_str().map(|to| format!("{slash}{}", escape(to)));
            for glob in &meaning.globs {
                let (Some(prefix), Some(part)) = (&prefix, below(host, glob)) else { continue };
                is_placed = true;
                match part {
                    Part::All if prefix.is_empty() => self.cover(meaning)?,
                    Part::All => self.line(meaning, prefix)?,
                    Part::Pattern(rest) => self.line(meaning, &format!("{prefix}{rest}"))?,
                }
            }
            for path in &meaning.paths {
                let Ok(rest) = path.strip_prefix(host) else { continue };
                is_placed = true;
                match rest.as_os_str().is_empty() && to.as_os_str().is_empty() {
                    true => self.cover(meaning)?,
                    false => self.name(meaning, &to.join(rest), false)?,
                }
            }
        }
        if meaning.origin == Origin::Root && !is_placed {
            if let Some(body) = &meaning.body {
                self.line(meaning, body)?;
            }
            if let Some(name) = &meaning.name {
                self.name(meaning, Path::new(OsStr::from_bytes(name)), false)?;
            }
        }
        Ok(())
    }

    /// Adds a pattern that matches all there is.
    fn cover(&mut self, meaning: &Meaning) -> Result<(), PatternError> {
        self.line(meaning, "/*")?;
        self.set.covering = Some(meaning.given.clone());
        Ok(())
    }

    /// Adds a pattern of the crate.
    fn line(&mut self, meaning: &Meaning, body: &str) -> Result<(), PatternError> {
        let sign = if meaning.is_negated { "!" } else { "" };
        // Only in a file is it a comment.
        let comment = if !meaning.is_negated && body.starts_with('#') { "\\" } else { "" };
        let line = format!("{sign}{comment}{body}");
        let root = self.root;
        let lines = self.lines.get_or_insert_with(|| GitignoreBuilder::new(root));
        let unusable = |source| PatternError::new(Fault::of(source, &meaning.given), None);
        lines.add_line(None, &line).map_err(unusable)?;
        self.set.given.insert(line, meaning.given.clone());
        Ok(())
    }

    /// Adds a name.
    fn name(&mut self, meaning: &Meaning, name: &Path, is_anywhere: bool) -> Result<(), PatternError> {
        if let Some(text) = name.to_str() {
            let slash = if is_anywhere { "" } else { "/" };
            let end = if meaning.is_dir { "/" } else { "" };
            return self.line(meaning, &format!("{slash}{}{end}", escape(text)));
        }
        self.end_lines()?;
        self.set.matchers.push(Matcher::Name(Name {
            given: meaning.given.clone(),
            is_negated: meaning.is_negated,
            is_dir: meaning.is_dir,
            path: if is_anywhere { name.to_owned() } else { self.root.join(name) },
            is_anywhere,
        }));
        Ok(())
    }

    /// Ends the lines that one matcher has.
    fn end_lines(&mut self) -> Result<(), PatternError> {
        if let Some(lines) = self.lines.take() {
            let unusable = |source| PatternError::new(Fault::of(source, "all together"), None);
            self.set.matchers.push(Matcher::Lines(lines.build().map_err(unusable)?));
        }
        Ok(())
    }
}

/// What a pattern is without the `!` that takes back, and whether it has one.
fn split_sign(pattern: &str) -> (&str, bool) {
    pattern.strip_prefix('!').map_or((pattern, false), |body| (body, true))
}

/// Whether it is more than a name.
fn is_path(body: &str) -> bool {
    body.trim_end_matches('/').contains('/')
}

fn check_not_empty(body: &str) -> Result<(), Fault> {
    match body.trim_matches([' ', '/']).is_empty() {
        true => Err(Fault::Empty(body.to_owned())),
        false => Ok(()),
    }
}

/// Whether it begins with what a shell takes for the home directory of a user that it names.
fn names_home_of_another(body: &str) -> bool {
    let Some(rest) = body.strip_prefix('~') else { return false };
    let user = rest.split('/').next().unwrap_or_default();
    let is_first = |c: char| c.is_ascii_lowercase() || c == '_';
    user.starts_with(is_first)
        && user.chars().all(|c| is_first(c) || c.is_ascii_digit() || matches!(c, '-' | '.'))
}

/// Whether `body` is a pattern; `given` is what was written.
fn check(body: &str, given: &str) -> Result<(), Fault> {
    if has_open_class(body) {
        return Err(Fault::OpenClass(given.to_owned()));
    }
    let backslashes = body.len() - body.trim_end_matches('\\').len();
    if backslashes % 2 == 1 {
        return Err(Fault::Dangling(given.to_owned()));
    }
    let added = GitignoreBuilder::new("/").add_line(None, &format!("/{body}")).map(drop);
    added.map_err(|source| Fault::of(source, given))
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
fn escape(path: &str) -> String {
    let mut pattern = String::with_capacity(path.len());
    for character in path.chars() {
        match character {
            '*' | '?' | '[' | ']' | '{' | '}' | '\\' | '!' | '#' | ' ' => pattern.extend(['\\', character]),
            // At the end of a line it would be taken away, and escapes of it are letters.
            space if space.is_whitespace() => pattern.extend(['[', space, ']']),
            character => pattern.push(character),
        }
    }
    pattern
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

/// The path `rest` below the absolute path `base`, without what means nothing in a path.
fn join_name(base: &Path, rest: &[u8]) -> PathBuf {
    let mut path = base.to_owned();
    for component in rest.split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => drop(path.pop()),
            component => path.push(OsStr::from_bytes(component)),
        }
    }
    path
}

/// `path` as a shell finds it, with no link on the way. A link that it names itself is meant, unless a slash follows.
fn without_links(path: &Path, is_followed: bool) -> PathBuf {
    if is_followed { atomic::resolved(path) } else { atomic::resolved_above(path) }
}

/// The directory below `base` with which the pattern `rest` begins, as far as it is no pattern, and what is left of that.
/// What it ends with is left, too, unless a slash follows. `None` where it begins with no directory.
fn split_literal(base: &Path, rest: &str) -> Option<(PathBuf, String)> {
    let mut directory = base.to_owned();
    let mut at = 0;
    for component in rest.split_inclusive('/') {
        let Some(name) =
            component.strip_suffix('/').filter(|name| !name.contains(['*', '?', '[', '{', '\\']))
        else {
            break;
        };
        directory = join_name(&directory, name.as_bytes());
        at += component.len();
    }
    // Whether a slash follows is still to be seen.
    let rest = if at == rest.len() { "/" } else { &rest[at..] };
    (at > 0).then(|| (directory, rest.to_owned()))
}

fn push_new<T: PartialEq>(all: &mut Vec<T>, new: T) {
    if !all.contains(&new) {
        all.push(new);
    }
}

fn trim_slash(bytes: &[u8]) -> &[u8] {
    bytes.strip_suffix(b"/").unwrap_or(bytes)
}

/// The absolute path of `path`, and the one without links, as far as there is something, if that is another.
fn real_forms(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let absolute: PathBuf = std::path::absolute(path)?.components().collect();
    let real = Some(atomic::resolved(&absolute)).filter(|real| *real != absolute);
    Ok(std::iter::once(absolute).chain(real).collect())
}

/// A part of a directory.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    /// The directory itself, or one above it.
    All,
    /// What matches a pattern that is anchored there.
    Pattern(String),
}

/// What of the absolute `pattern` is below `root`; `None` where it leads elsewhere.
fn below(root: &Path, pattern: &str) -> Option<Part> {
    let pattern = pattern.strip_prefix('/')?;
    let end = if pattern.ends_with('/') { "/" } else { "" };
    let mut parts = pattern.trim_end_matches('/').split('/');
    for (number, name) in names(root).enumerate() {
        match parts.next() {
            None => return Some(Part::All),
            // It may stand for any number of components.
            Some("**") if number > 0 => {
                let parts = std::iter::once("/**").chain(parts).collect::<Vec<_>>();
                return Some(Part::Pattern(parts.join("/") + end));
            }
            Some(part) if number == 0 && part.contains(['*', '?', '[', '{']) => return None,
            Some(part) if is_match(part, name) => {}
            Some(_) => return None,
        }
    }
    let rest = parts.collect::<Vec<_>>().join("/");
    Some(if rest.is_empty() { Part::All } else { Part::Pattern(format!("/{rest}{end}")) })
}

/// Whether `pattern`, which begins where `path` does, may match something below that, but not only that itself.
fn leads_through(path: &Path, pattern: &str) -> bool {
    let mut parts = pattern.split('/').filter(|part| !matches!(*part, "" | "."));
    for name in names(path) {
        match parts.next() {
            // It may stand for any number of components.
            Some("**") => return true,
            Some(part) if part.as_bytes() == name.as_bytes() => {}
            Some(part) if part.contains(['*', '?', '[', '{', '\\']) && is_match(part, name) => {}
            _ => return false,
        }
    }
    parts.next().is_some()
}

/// The names that `path` consists of.
fn names(path: &Path) -> impl Iterator<Item = &OsStr> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name),
        _ => None,
    })
}

/// Whether the pattern of one component matches a name.
fn is_match(part: &str, name: &OsStr) -> bool {
    let mut builder = GitignoreBuilder::new("/");
    let matcher = builder.add_line(None, &format!("/{part}")).and_then(|builder| builder.build());
    matcher.is_ok_and(|matcher| matcher.matched(Path::new("/").join(name), true).is_ignore())
}

/// A pattern that cannot be used, or a file of patterns that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {}{}", which(*.line), .from.as_ref().map(|path| format!(" in {}", path.display())).unwrap_or_default())]
pub struct PatternError {
    from: Option<PathBuf>,
    /// The number of its line there, from 1 on.
    line: Option<usize>,
    source: Box<Fault>,
}

impl PatternError {
    pub(super) fn new(fault: Fault, from: Option<&Path>) -> Self {
        Self { from: from.map(Path::to_owned), line: None, source: fault.into() }
    }

    /// The same of a pattern that stands in the file `from`, in that line if one is to blame.
    pub(super) fn in_file(self, from: &Path, line: Option<usize>) -> Self {
        Self { from: Some(from.to_owned()), line, ..self }
    }
}

fn which(line: Option<usize>) -> String {
    line.map_or_else(|| "a pattern".to_owned(), |line| format!("the pattern of line {line}"))
}

/// What is wrong with a pattern.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("{0:?} is not a pattern: {1}")]
    Glob(String, String),
    #[error(transparent)]
    File(std::io::Error),
    #[error("{0:?} matches nothing: leave it out, or give the pattern that was meant")]
    Empty(String),
    #[error(
        "{0:?} takes back what a pattern before it matches, and there is none: leave it out, or write \\! for a name that begins so"
    )]
    NothingBefore(String),
    #[error("{0:?} has a [ that is not closed: close it, or write \\[ for the character itself")]
    OpenClass(String),
    #[error(
        "{0:?} ends with a \\ that escapes nothing: leave it out, or write \\\\ for the character itself"
    )]
    Dangling(String),
    #[error("{0:?} needs a home directory, and none is known: set HOME, or write the path in full")]
    NoHome(String),
    #[error(
        "{0:?} begins with the home directory of a user: write the path in full, or \\~ for a name that begins so"
    )]
    OtherHome(String),
    #[error("{0:?} leads out of the directory of the file that it stands in, where it cannot match anything")]
    Outside(String),
    #[error("{pattern:?} leaves out everything in {}: leave out one of the two", .root.display())]
    Everything { pattern: String, root: PathBuf },
    #[error("{} is not UTF-8, and patterns are: go elsewhere, or write it with * and ?", .0.display())]
    NotText(PathBuf),
}

impl Fault {
    fn of(error: ignore::Error, given: &str) -> Self {
        let reason = match error {
            ignore::Error::Glob { err, .. } => err,
            error => error.to_string(),
        };
        Self::Glob(given.to_owned(), reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pattern: &str) -> Result<Meaning, PatternError> {
        Pattern::from(pattern).read(Some(Path::new("/home/m*e")), &[], |_| false)
    }

    #[test]
    fn what_matches_nothing_is_named_and_told_apart() {
        let cases = [
            ("", "matches nothing"),
            ("  ", "matches nothing"),
            ("/", "matches nothing"),
            ("//", "matches nothing"),
            ("!", "matches nothing"),
            ("!/", "matches nothing"),
            ("[", "not closed"),
            ("a[b", "not closed"),
            ("[!]", "not closed"),
            ("x\\", "escapes nothing"),
            ("/a/x\\\\\\", "escapes nothing"),
            ("{a", "unclosed alternate"),
            ("[z-a]", "invalid range"),
            ("~root/x", "home directory of a user"),
            ("~root", "home directory of a user"),
        ];
        for (pattern, reason) in cases {
            let error = read(pattern).unwrap_err();
            let source = std::error::Error::source(&error).unwrap().to_string();
            assert!(source.contains(reason), "{pattern}: {source}");
            assert!(
                pattern.trim().is_empty()
                    || source.contains(&format!("{:?}", pattern.trim_start_matches('!')))
                    || source.contains(&format!("{pattern:?}")),
                "{pattern}: {source}"
            );
        }
        assert!(Pattern::from("~/x").read(None, &[], |_| false).is_err());
        for fine in [
            "\\[",
            "[]]",
            "[!]]x",
            "[[]",
            "a b",
            "[a-z]*",
            "~$doc",
            "~*",
            "\\~root",
            "*~",
            "~WRL1.tmp",
            "x\\\\",
        ] {
            read(fine).unwrap();
        }
    }

    fn resolved(pattern: &str) -> String {
        let meaning = read(pattern).unwrap();
        meaning.globs.first().or(meaning.body.as_ref()).unwrap().clone()
    }

    #[test]
    fn the_beginning_of_a_path_means_what_it_means_to_a_shell() {
        assert_eq!(resolved("~/x/"), "/home/m\\*e/x/");
        assert_eq!(resolved("!~/x*"), "/home/m\\*e/x*");
        assert_eq!(resolved("~"), "/home/m\\*e");
        assert_eq!(resolved("//a/./b/../*.c"), "/a/*.c");
        let current = escape(std::env::current_dir().unwrap().to_str().unwrap());
        assert_eq!(resolved("./x"), format!("{current}/x"));
        assert_eq!(resolved("a/x"), format!("{current}/a/x"));
        assert_eq!(resolved("."), current);
        assert_eq!(resolved("../x"), format!("{}/x", current.rsplit_once('/').unwrap().0));
        for pattern in ["*.o", ".cache", "..x", "~$x"] {
            assert_eq!(resolved(pattern), pattern);
        }
    }

    #[test]
    fn a_link_on_the_way_is_followed_and_one_that_is_named_is_meant() {
        let dir = tempfile::tempdir().unwrap();
        let host = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(host.join("tree/a[1] b/deep")).unwrap();
        std::os::unix::fs::symlink("tree/a[1] b", host.join("way")).unwrap();
        std::os::unix::fs::symlink("a[1] b", host.join("tree/inner")).unwrap();
        let at = host.to_str().unwrap();
        let matched = |pattern: &str| {
            let meaning = Pattern { text: pattern.to_owned(), directory: Some(host.clone()), is_line: false };
            let meaning = meaning.read(Some(&host), &[], |path| path.symlink_metadata().is_ok()).unwrap();
            let space = Space { host: host.join("tree"), to: PathBuf::new() };
            let set = PatternSet::new(Path::new(""), &[space], &[meaning]).unwrap();
            ["a[1] b/deep/x", "a[1] b", "inner"]
                .map(|path| set.matched_within(Path::new(path), path.ends_with('b')).is_some())
        };
        for begin in [at, "~", ".", &format!("{at}/tree/..")] {
            for (rest, expected) in [
                ("way/deep/x", [true, false, false]),
                ("way/deep/*", [true, false, false]),
                ("way/*/x", [true, false, false]),
                ("way/deep", [true, false, false]),
                ("tree/inner/deep", [true, false, false]),
                ("way/", [true, true, false]),
                ("way", [false; 3]),
                ("tree/inner", [false, false, true]),
                ("tree/inner/", [true, true, false]),
                ("way/other", [false; 3]),
            ] {
                let pattern = format!("{begin}/{rest}");
                assert_eq!(matched(&pattern), expected, "{pattern}");
            }
        }
    }

    #[test]
    fn paths_that_lead_into_the_root_are_taken_there() {
        let part = |pattern: &str| Some(Part::Pattern(pattern.to_owned()));
        let cases = [
            ("/data/tree/sub/x", part("/sub/x")),
            ("/data/*/sub/", part("/sub/")),
            ("/data/**/x", part("/**/x")),
            ("/data/tree", Some(Part::All)),
            ("/data/tree/", Some(Part::All)),
            ("/data", Some(Part::All)),
            ("/data/", Some(Part::All)),
            ("/data/tree/*", part("/*")),
            ("/data/tree2/x", None),
            ("/*/*/x", None),
            ("/other/tree/x", None),
        ];
        for (pattern, expected) in cases {
            assert_eq!(below(Path::new("/data/tree"), pattern), expected, "{pattern}");
        }
        assert_eq!(below(Path::new("/"), "/a/b"), part("/a/b"));
    }

    #[test]
    fn a_path_may_lead_through_a_directory_that_cannot_be_looked_into() {
        let spaces = [
            Space { host: "/data/tree".into(), to: PathBuf::new() },
            Space { host: "/more".into(), to: "m".into() },
        ];
        let through =
            |pattern: &str, path: &str| read(pattern).unwrap().leads_through(&spaces, Path::new(path));
        for pattern in [
            "closed/x",
            "/closed/x",
            "/data/tree/closed/x",
            "cl*/x",
            "**/x",
            "/data/*/closed/x*/y",
            "closed/a\\x01b",
        ] {
            assert!(through(pattern, "closed"), "{pattern}");
            assert!(
                through(pattern, "closed/x") == (pattern.contains("**") || pattern.ends_with("/y")),
                "{pattern}"
            );
        }
        assert!(through("/more/x", "m") && through("/more/a/b", "m/a"));
        for pattern in
            ["closed", "/closed/", "other/closed/x", "/data/tree/closed", "x", "*", "/data/closed/x"]
        {
            assert!(!through(pattern, "closed"), "{pattern}");
        }
        assert!(read("*.o").unwrap().is_search() && !read("o").unwrap().is_search());
    }

    fn set(patterns: &[&str]) -> PatternSet {
        let meanings: Vec<_> = patterns.iter().map(|pattern| read(pattern).unwrap()).collect();
        let space = |host: &str, to: &str| Space { host: host.into(), to: to.into() };
        PatternSet::new(Path::new(""), &[space("/data/tree", ""), space("/more", "m")], &meanings).unwrap()
    }

    #[test]
    fn what_a_listing_prints_is_matched_to_the_byte() {
        let names: [&[u8]; 12] = [
            b"plain",
            b"a\xffb",
            b"line\nbreak",
            b"tab\t",
            b"\x1b[31m",
            b"back\\slash",
            b"nl\n",
            b"a b ",
            b"a[1]",
            b"{x}",
            b"!bang",
            b"#hash",
        ];
        for name in names {
            let path = [b"sub/", name].concat();
            let at = |bytes: &[u8]| Path::new(OsStr::from_bytes(bytes)).to_owned();
            for directory in ["/data/tree/sub", "/sub", "sub"] {
                let set = set(&[&format!("{directory}/{}", printed::name(name))]);
                let is_match =
                    |path: &[u8]| set.matched(&at(path), false).is_some_and(|found| found.is_match);
                assert!(is_match(&path), "{directory} {}", printed::name(name));
                assert!(
                    !is_match(b"sub/other")
                        && !is_match(b"sub/a\xfeb")
                        && !is_match(&[&path[..], b"x"].concat())
                );
            }
            let negated = set(&["*", &format!("!/data/tree/sub/{}", printed::name(name))]);
            assert!(!negated.matched(&at(&path), false).unwrap().is_match);
            assert!(negated.matched(Path::new("sub/other"), false).unwrap().is_match);
            if name != b"!bang" {
                let anywhere = set(&[&printed::name(name)]);
                assert!(anywhere.matched(&at(&path), false).is_some(), "{}", printed::name(name));
                assert!(anywhere.matched_within(&at(&[&path[..], b"/below"].concat()), false).is_some());
            }
        }
    }

    #[test]
    fn what_takes_back_nothing_is_refused_unless_it_stands_in_a_file() {
        let line = |text: &str| Pattern { is_line: true, ..Pattern::from(text) };
        let check = |patterns: &[Pattern]| check_signs(patterns);
        check(&["a".into(), "!b".into(), "!c".into()]).unwrap();
        check(&["\\!a".into()]).unwrap();
        check(&[line("!a"), line("b")]).unwrap();
        check(&[]).unwrap();
        for patterns in [&["!a"][..], &["!a", "b"]] {
            let patterns: Vec<_> = patterns.iter().map(|&text| Pattern::from(text)).collect();
            let error = crate::causes::chain(&check(&patterns).unwrap_err());
            assert!(error.contains("\"!a\" takes back") && error.contains(r"write \! for"), "{error}");
        }
        check(&[line("!a"), "!b".into()]).unwrap_err();
        let set = set(&["\\!a"]);
        assert!(set.matched(Path::new("sub/!a"), false).unwrap().is_match);
        assert!(set.matched(Path::new("sub/a"), false).is_none());
    }

    #[test]
    fn a_name_that_looks_like_a_pattern_is_first_of_all_a_name() {
        let pattern = Pattern::from("/data/tree/a[1]");
        for (exists, other) in [(true, false), (false, true)] {
            let meaning =
                pattern.read(None, &[], |path| exists && path == Path::new("/data/tree/a[1]")).unwrap();
            let space = Space { host: "/data/tree".into(), to: PathBuf::new() };
            let set = PatternSet::new(Path::new(""), &[space], &[meaning]).unwrap();
            assert!(set.matched(Path::new("a[1]"), false).is_some());
            assert_eq!(set.matched(Path::new("a1"), false).is_some(), other);
        }
        Pattern::from("/data/a[").read(None, &[], |_| true).unwrap();
        Pattern::from("/data/a[").read(None, &[], |_| false).unwrap_err();
    }

    #[test]
    fn each_space_has_its_place() {
        let set = set(&["/more/x", "/more", "/data/tree/y", "z/"]);
        for (path, is_dir, given) in [
            ("m/x", false, Some("/more/x")),
            ("m", true, Some("/more")),
            ("y", false, Some("/data/tree/y")),
            ("m/z", true, Some("z/")),
            ("m/z", false, None),
            ("x", false, None),
        ] {
            assert_eq!(set.matched(Path::new(path), is_dir).map(|found| found.given), given, "{path}");
        }
        assert_eq!(set.matched_within(Path::new("m/deep/er"), false).map(|found| found.given), Some("/more"));
        assert_eq!(set.covering, None);
    }
}
