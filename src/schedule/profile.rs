//! Profiles: what the flags of a backup would say, under a name, in a file.
//!
//! `treering.toml` holds a table `[profile.NAME]` for each, and perhaps a table `[default]` whose keys hold in
//! all of them where they do not say otherwise. Keys are the names of flags. A key that is not known is an error,
//! and so is a value that the flag would not take; both name the line. Reading the text is a pure function: a
//! path that begins with `~/` lies in the home directory that is given, and one that is not absolute lies beside
//! the file.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use jiff::SignedDuration;
use serde::de::value::Error as NoValue;
use serde::de::{Deserializer, Error as _, Visitor};
use serde::{Deserialize, forward_to_deserialize_any};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::rule::Rule;
use crate::store;

/// A longer file is not read.
const LARGEST_FILE: u64 = 1 << 20;

/// Why profiles cannot be read, or one of them not be found.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// The file cannot be read.
    #[error("cannot read the profiles in {}", .path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A key that no profile has.
    #[error("{}:{line}: unknown key {key:?}{}", .path.display(), hint(.meant))]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The line in it, from 1.
        line: usize,
        /// The key.
        key: String,
        /// The key that it looks like.
        meant: Option<String>,
    },
    /// The file is not TOML, or a value is not one that the key can have.
    #[error("{}:{line}: {message}", .path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// The line in it, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// No profile of that name.
    #[error("there is no profile {name:?} in {}{}", .path.display(), hint(.meant))]
    NoProfile {
        /// The file.
        path: PathBuf,
        /// The name.
        name: String,
        /// The name that it looks like.
        meant: Option<String>,
    },
}

fn hint(meant: &Option<String>) -> String {
    meant.as_ref().map_or_else(String::new, |meant| format!(": did you mean {meant:?}?"))
}

/// A length of time in words, such as `15 minutes`; not below zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(try_from = "String")]
pub struct Length(pub SignedDuration);

impl TryFrom<String> for Length {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let length = text.parse().ok().filter(|length: &SignedDuration| !length.is_negative());
        length
            .map(Self)
            .ok_or_else(|| format!("{text:?} is not a length of time: give one such as 15 minutes"))
    }
}

/// A number of snapshots, or all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "expected a number of snapshots, or \"unlimited\"")]
pub enum Count {
    /// So many.
    Number(u32),
    /// All.
    All(Unlimited),
}

/// The word `unlimited`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unlimited {
    /// The word.
    Unlimited,
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::All(Unlimited::Unlimited) => f.write_str("unlimited"),
        }
    }
}

/// A length of time by the calendar, such as `1y6m` or `2d12h`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Within(String);

impl fmt::Display for Within {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Within {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut units = "ymwdh".chars();
        let mut parts = text.split_inclusive(|c: char| !c.is_ascii_digit());
        let is_part = |part: &str| {
            let number = part.trim_end_matches(|c: char| !c.is_ascii_digit());
            let unit = part.strip_prefix(number).unwrap_or_default();
            // Each unit at most once, and the longest first.
            number.parse::<u32>().is_ok() && unit.len() == 1 && units.any(|known| unit.starts_with(known))
        };
        match !text.is_empty() && parts.all(is_part) {
            true => Ok(Self(text)),
            false => Err(format!("{text:?} is not a length of time: give one such as 1y6m or 2d12h")),
        }
    }
}

/// Whether missed runs are made up for; yes where nothing is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct CatchUp(pub bool);

impl Default for CatchUp {
    fn default() -> Self {
        Self(true)
    }
}

/// A profile: flags that have a name together.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Profile {
    /// What it is called: letters, digits, `.`, `_` and `-`.
    #[serde(skip)]
    pub name: String,
    /// The directory of the file, which relative paths begin at.
    #[serde(skip)]
    pub directory: PathBuf,
    /// The repository.
    pub repo: Option<PathBuf>,
    /// A file whose first line is the passphrase of the repository.
    pub password_file: Option<PathBuf>,
    /// A command of the shell that prints the passphrase.
    pub password_command: Option<String>,
    /// Files with age identities that open the repository.
    #[serde(deserialize_with = "one_or_more")]
    pub identity: Vec<PathBuf>,
    /// The directories and files to save.
    #[serde(deserialize_with = "one_or_more")]
    pub sources: Vec<PathBuf>,
    /// Patterns of what is left out.
    #[serde(deserialize_with = "one_or_more")]
    pub exclude: Vec<String>,
    /// Files with such patterns.
    #[serde(deserialize_with = "one_or_more")]
    pub exclude_file: Vec<PathBuf>,
    /// The name of files in the sources with such patterns.
    pub ignore_file: Option<String>,
    /// Leave out what is marked by a CACHEDIR.TAG.
    pub exclude_caches: bool,
    /// Do not enter other file systems.
    pub one_file_system: bool,
    /// Tags of the snapshots.
    #[serde(deserialize_with = "one_or_more")]
    pub tag: Vec<String>,
    /// The host name of the snapshots.
    pub host: Option<String>,
    /// Remotes to push to after a backup.
    #[serde(deserialize_with = "one_or_more")]
    pub push: Vec<String>,
    /// How many of the latest snapshots are kept.
    pub keep_last: Option<Count>,
    /// For how many hours, days, weeks, months and years that have snapshots the latest is kept.
    pub keep_hourly: Option<Count>,
    /// See [`keep_hourly`](Self::keep_hourly).
    pub keep_daily: Option<Count>,
    /// See [`keep_hourly`](Self::keep_hourly).
    pub keep_weekly: Option<Count>,
    /// See [`keep_hourly`](Self::keep_hourly).
    pub keep_monthly: Option<Count>,
    /// See [`keep_hourly`](Self::keep_hourly).
    pub keep_yearly: Option<Count>,
    /// Every snapshot of this long before the latest is kept.
    pub keep_within: Option<Within>,
    /// Of this long before the latest the newest of each hour, day, week, month and year is kept.
    pub keep_within_hourly: Option<Within>,
    /// See [`keep_within_hourly`](Self::keep_within_hourly).
    pub keep_within_daily: Option<Within>,
    /// See [`keep_within_hourly`](Self::keep_within_hourly).
    pub keep_within_weekly: Option<Within>,
    /// See [`keep_within_hourly`](Self::keep_within_hourly).
    pub keep_within_monthly: Option<Within>,
    /// See [`keep_within_hourly`](Self::keep_within_hourly).
    pub keep_within_yearly: Option<Within>,
    /// Every snapshot with one of these tags is kept.
    #[serde(deserialize_with = "one_or_more")]
    pub keep_tag: Vec<String>,
    /// Remove also the data of snapshots that are not kept.
    pub prune: bool,
    /// Commands of the shell that a run begins with.
    #[serde(deserialize_with = "one_or_more")]
    pub run_before: Vec<String>,
    /// Commands after a run in which all went well.
    #[serde(deserialize_with = "one_or_more")]
    pub run_after: Vec<String>,
    /// Commands after a run that could not read everything; those of [`run_failed`](Self::run_failed) where there are none.
    #[serde(deserialize_with = "one_or_more")]
    pub run_partial: Vec<String>,
    /// Commands after a run that failed or was stopped.
    #[serde(deserialize_with = "one_or_more")]
    pub run_failed: Vec<String>,
    /// Commands at the end of every run.
    #[serde(deserialize_with = "one_or_more")]
    pub run_finally: Vec<String>,
    /// When it runs.
    pub schedule: Option<Rule>,
    /// By how much it may run later, so that not all machines begin at once.
    pub jitter: Length,
    /// Whether a run is made up for that came due while nobody watched.
    pub catch_up: CatchUp,
}

/// `"a"`, or `["a", "b"]`.
fn one_or_more<'de, D: Deserializer<'de>, T: From<String>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a text, or a list of texts")]
    enum OneOrMore {
        One(String),
        More(Vec<String>),
    }
    Ok(match OneOrMore::deserialize(deserializer)? {
        OneOrMore::One(one) => vec![one.into()],
        OneOrMore::More(more) => more.into_iter().map(T::from).collect(),
    })
}

impl Profile {
    /// The flags of `forget` that its rules of keeping amount to; empty where it has none.
    pub fn keep_flags(&self) -> Vec<String> {
        let numbers = [
            ("last", self.keep_last),
            ("hourly", self.keep_hourly),
            ("daily", self.keep_daily),
            ("weekly", self.keep_weekly),
            ("monthly", self.keep_monthly),
            ("yearly", self.keep_yearly),
        ];
        let numbers = numbers.into_iter().filter_map(|(name, count)| Some((name, count?.to_string())));
        let withins = [
            ("within", &self.keep_within),
            ("within-hourly", &self.keep_within_hourly),
            ("within-daily", &self.keep_within_daily),
            ("within-weekly", &self.keep_within_weekly),
            ("within-monthly", &self.keep_within_monthly),
            ("within-yearly", &self.keep_within_yearly),
        ];
        let withins =
            withins.into_iter().filter_map(|(name, within)| Some((name, within.as_ref()?.to_string())));
        let tags = self.keep_tag.iter().map(|tag| ("tag", tag.clone()));
        numbers.chain(withins).chain(tags).map(|(name, value)| format!("--keep-{name}={value}")).collect()
    }

    /// What is missing or contradicts itself, seen as a whole.
    fn fault(&self) -> Option<&'static str> {
        let keeps = !self.keep_flags().is_empty();
        match () {
            () if self.schedule.is_some() && self.repo.is_none() => Some("has a schedule, and needs a repo"),
            () if self.schedule.is_some() && self.sources.is_empty() => {
                Some("has a schedule, and needs sources")
            }
            () if self.repo.as_deref().is_some_and(|repo| store::is_url(repo.as_os_str())) => Some(
                "sets repo to a URL or host:path: give a local directory (./host:path for one of that name), and add the other \
                 with `treering remote add`",
            ),
            () if self.prune && !keeps => Some("has prune = true, and needs a key that says what to keep"),
            () => None,
        }
    }

    /// Makes every path absolute.
    fn settle(&mut self, base: &Path, home: Option<&Path>) {
        base.clone_into(&mut self.directory);
        // A URL stays one, to be refused as such, unless it is the name of something here.
        let is_path = |repo: &PathBuf| !store::is_url(repo.as_os_str()) || base.join(repo).exists();
        let repo = self.repo.iter_mut().filter(|repo| is_path(repo));
        let single = repo.chain(&mut self.password_file);
        let paths = single.chain(&mut self.sources).chain(&mut self.exclude_file).chain(&mut self.identity);
        for path in paths {
            *path = match (path.strip_prefix("~"), home) {
                (Ok(rest), Some(home)) => home.join(rest),
                _ => base.join(&*path),
            };
        }
    }
}

/// Where profiles are read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFile {
    /// The file.
    pub path: PathBuf,
    /// A copy of it, to be read in its place.
    pub text: Option<PathBuf>,
}

impl ConfigFile {
    /// The file at `path` itself.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), text: None }
    }

    /// Reads it, and gives its text too; `home` is what `~` means.
    pub fn read(&self, home: Option<&Path>) -> Result<(Profiles, String), ProfileError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| ProfileError::Read { path, source }
        };
        let path = std::path::absolute(&self.path).map_err(failed(&self.path))?;
        let source = self.text.as_ref().unwrap_or(&path);
        let mut text = String::new();
        let file = File::open(source).map_err(failed(source))?;
        file.take(LARGEST_FILE + 1).read_to_string(&mut text).map_err(failed(source))?;
        if text.len() as u64 > LARGEST_FILE {
            return Err(failed(source)(io::ErrorKind::FileTooLarge.into()));
        }
        Ok((Profiles::parse(&text, &path, home)?, text))
    }

    /// The flags that make the program read it.
    pub(super) fn flags(&self) -> impl Iterator<Item = &OsStr> {
        let text = self.text.iter().flat_map(|text| [OsStr::new("--config-text"), text.as_os_str()]);
        [OsStr::new("--config"), self.path.as_os_str()].into_iter().chain(text)
    }
}

/// All profiles of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profiles {
    path: PathBuf,
    defaults: Profile,
    profiles: BTreeMap<String, Profile>,
}

impl Profiles {
    /// Reads `text`, the content of the file at `path`.
    pub fn parse(text: &str, path: &Path, home: Option<&Path>) -> Result<Self, ProfileError> {
        let reader = Reader { text, path };
        let mut root = DeTable::parse(text).map_err(|error| reader.wrong(error))?.into_inner();
        let defaults =
            root.remove("default").map(|table| reader.table(table)).transpose()?.unwrap_or_default();
        let named = root.remove("profile").map(|table| reader.table(table)).transpose()?.unwrap_or_default();
        if let Some(key) = root.keys().next() {
            return Err(reader.unknown(key.span().start, key.get_ref(), &["default", "profile"]));
        }
        let base = path.parent().unwrap_or(Path::new("/"));
        // Also where there is no profile, the defaults must be right.
        let mut without_profile = reader.profile(defaults.clone())?;
        without_profile.settle(base, home);
        let mut profiles = BTreeMap::new();
        for (name, table) in named {
            let at = name.span().start;
            let name = name.into_inner().into_owned();
            if !is_name(&name) {
                let message =
                    format!("{name:?} cannot name a profile: use letters, digits, '.', '_' and '-'");
                return Err(reader.at(at, message));
            }
            let mut all = defaults.clone();
            for (key, value) in reader.table(table)? {
                // An equal key in the map would keep the place of the default.
                all.remove(&key);
                all.insert(key, value);
            }
            let mut profile = reader.profile(all)?;
            profile.name.clone_from(&name);
            profile.settle(base, home);
            if let Some(fault) = profile.fault() {
                return Err(reader.at(at, format!("profile {name} {fault}")));
            }
            profiles.insert(name, profile);
        }
        Ok(Self { path: path.to_owned(), defaults: without_profile, profiles })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What holds where no profile says otherwise; a profile without a name.
    pub fn defaults(&self) -> &Profile {
        &self.defaults
    }

    /// The profile called `name`.
    pub fn get(&self, name: &str) -> Result<&Profile, ProfileError> {
        self.profiles.get(name).ok_or_else(|| ProfileError::NoProfile {
            path: self.path.clone(),
            name: name.to_owned(),
            meant: similar(name, self.profiles.keys().map(String::as_str)),
        })
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Profile> {
        self.profiles.values()
    }
}

/// Whether `name` can also be a part of the names of files and of units of systemd.
fn is_name(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    (1..=64).contains(&name.len()) && name.chars().all(is_plain) && !name.starts_with(['.', '-'])
}

/// The one of `known` that `word` was probably meant to be.
fn similar<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    /// Below it two words only happen to share letters.
    const ALIKE: f64 = 0.8;
    let rated = known.map(|known| (strsim::jaro_winkler(word, known), known));
    let best = rated.max_by(|one, other| one.0.total_cmp(&other.0))?;
    (best.0 > ALIKE).then(|| best.1.to_owned())
}

/// What an error needs to tell where it is.
struct Reader<'a> {
    text: &'a str,
    path: &'a Path,
}

impl<'a> Reader<'a> {
    fn table(&self, value: Spanned<DeValue<'a>>) -> Result<DeTable<'a>, ProfileError> {
        let at = value.span().start;
        match value.into_inner() {
            DeValue::Table(table) => Ok(table),
            _ => Err(self.at(at, "a table is expected here, such as [profile.home]".into())),
        }
    }

    fn profile(&self, table: DeTable<'a>) -> Result<Profile, ProfileError> {
        let known = keys();
        if let Some(key) = table.keys().find(|key| !known.contains(&&**key.get_ref())) {
            return Err(self.unknown(key.span().start, key.get_ref(), known));
        }
        // Nothing spans the keys, since some come from the defaults.
        let table = toml::de::Deserializer::from(Spanned::new(0..0, table));
        Profile::deserialize(table).map_err(|error| self.wrong(error))
    }

    fn unknown(&self, at: usize, key: &str, known: &[&str]) -> ProfileError {
        ProfileError::UnknownKey {
            path: self.path.to_owned(),
            line: self.line(at),
            key: key.to_owned(),
            meant: similar(key, known.iter().copied()),
        }
    }

    fn wrong(&self, error: toml::de::Error) -> ProfileError {
        let message = error.message().trim_end().replace('\n', ", ");
        self.at(error.span().map_or(0, |span| span.start), message)
    }

    fn at(&self, at: usize, message: String) -> ProfileError {
        ProfileError::Wrong { path: self.path.to_owned(), line: self.line(at), message }
    }

    fn line(&self, at: usize) -> usize {
        self.text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
    }
}

/// The keys that a profile can have, which `serde` tells whoever reads one.
fn keys() -> &'static [&'static str] {
    struct Asked<'a>(&'a mut &'static [&'static str]);
    impl<'de> Deserializer<'de> for Asked<'_> {
        type Error = NoValue;

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, NoValue> {
            *self.0 = fields;
            Err(NoValue::custom("only asked"))
        }

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, NoValue> {
            Err(NoValue::custom("a profile is a table"))
        }

        forward_to_deserialize_any! {
            bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
            newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }
    let mut keys: &'static [&'static str] = &[];
    // It fails always: nothing is there to be read.
    let _ = Profile::deserialize(Asked(&mut keys));
    keys
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::causes::chain;

    fn parse(text: &str) -> Result<Profiles, ProfileError> {
        Profiles::parse(text, Path::new("/etc/treering/treering.toml"), Some(Path::new("/home/me")))
    }

    #[track_caller]
    fn fails(text: &str, message: &str) {
        let error = chain(&parse(text).expect_err(text));
        let expected = format!("/etc/treering/treering.toml:{message}");
        assert!(error.starts_with(&expected) && error.lines().count() == 1, "{error}\nnot {expected}");
    }

    #[test]
    fn a_profile_has_what_it_says_and_what_the_defaults_say() {
        let text = r#"
            [default]
            repo = "/srv/rings"
            tag = "all"
            keep-daily = 7
            one-file-system = true

            [profile.home]
            sources = ["~/work", "letters", "/srv"]
            tag = ["a", "b"]
            schedule = "daily at 03:00"
            jitter = "15 minutes"
            catch-up = false
            keep-tag = "k"
            keep-last = "unlimited"
            keep-within = "1y2d12h"

            [profile."x.y-z_1"]
            repo = "~"
            password-file = "~/secret"
            identity = "key"
        "#;
        let profiles = parse(text).unwrap();
        let home = profiles.get("home").unwrap();
        assert_eq!(home.name, "home");
        assert_eq!(home.repo.as_deref(), Some(Path::new("/srv/rings")));
        assert_eq!(home.sources, ["/home/me/work", "/etc/treering/letters", "/srv"].map(PathBuf::from));
        assert_eq!(home.tag, ["a", "b"]);
        assert_eq!(
            home.keep_flags(),
            ["--keep-last=unlimited", "--keep-daily=7", "--keep-within=1y2d12h", "--keep-tag=k"]
        );
        assert_eq!(home.schedule.as_ref().unwrap().to_string(), "daily at 03:00");
        assert_eq!(home.jitter.0, SignedDuration::from_mins(15));
        assert!(home.one_file_system && !home.catch_up.0);
        let other = profiles.get("x.y-z_1").unwrap();
        assert_eq!(
            (other.repo.as_deref(), other.tag.as_slice()),
            (Some(Path::new("/home/me")), &["all".into()][..])
        );
        assert_eq!(other.password_file.as_deref(), Some(Path::new("/home/me/secret")));
        assert_eq!(other.identity, [PathBuf::from("/etc/treering/key")]);
        assert!(other.catch_up.0 && other.sources.is_empty());
        assert_eq!(profiles.iter().count(), 2);
        let defaults = profiles.defaults();
        assert_eq!((defaults.name.as_str(), defaults.repo.as_deref()), ("", Some(Path::new("/srv/rings"))));
        assert_eq!(parse("").unwrap().iter().count(), 0);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        fails("[profile.a]\n\nexlude = 'x'", "3: unknown key \"exlude\": did you mean \"exclude\"?");
        fails("[default]\nkeep_daily = 7", "2: unknown key \"keep_daily\": did you mean \"keep-daily\"?");
        fails("[default]\nname = 'x'", "2: unknown key \"name\"");
        fails("[profiles.a]", "1: unknown key \"profiles\": did you mean \"profile\"?");
        fails("\nrepo = '/x'", "2: unknown key \"repo\"");
        fails("profile = 3", "1: a table is expected here");
        fails("[profile]\na = 3", "2: a table is expected here");
        for count in ["'x'", "-1", "1.5", "4294967296", "[1]"] {
            fails(
                &format!("[profile.a]\nkeep-daily = {count}"),
                "2: expected a number of snapshots, or \"unlimited\"",
            );
        }
        for within in ["", "5", "d", "3d1y", "1d1d", "1s", "-1d", "1 d", "1dd", "99999999999d"] {
            let message = format!("2: {within:?} is not a length of time");
            fails(&format!("[profile.a]\nkeep-within = '{within}'"), &message);
        }
        fails("[profile.a]\ntag = [1]", "2: expected a text, or a list of texts");
        fails("[profile.a]\nrepo = '/r'\nschedule = 'soon'", "3: \"soon\" is not a schedule");
        fails("[profile.a]\njitter = '-5 minutes'", "2: \"-5 minutes\" is not a length of time");
        fails("[profile.a]\n[profile.a]", "2: duplicate key");
        fails("[profile.a]\nrepo = ", "2: ");
        fails(
            "[default]\nschedule = 'daily'\n[profile.a]\nsources = '/x'",
            "3: profile a has a schedule, and needs a repo",
        );
        fails(
            "[profile.a]\nschedule = 'daily'\nrepo = '/x'",
            "1: profile a has a schedule, and needs sources",
        );
        fails("[profile.a]\nprune = true", "1: profile a has prune = true");
        fails(
            "[default]\nrepo = 's3:host/bucket'\n[profile.a]",
            "3: profile a sets repo to a URL or host:path",
        );
        fails("[default]\nrepo = 'host:rings'\n[profile.a]", "3: profile a sets repo to a URL or host:path");
        for name in ["a b", "", ".a", "-a", "a/b", "ä"] {
            fails(&format!("[profile.\"{name}\"]"), &format!("1: {name:?} cannot name a profile"));
        }
    }

    #[test]
    fn a_profile_that_is_not_there_is_told_with_the_one_that_is_meant() {
        let profiles = parse("[profile.letters]\n[profile.work]").unwrap();
        let error = profiles.get("leters").unwrap_err().to_string();
        assert!(error.ends_with("treering.toml: did you mean \"letters\"?"), "{error}");
        assert!(!profiles.get("music").unwrap_err().to_string().contains("mean"));
    }

    #[test]
    fn every_key_is_one_that_serde_knows() {
        let keys = keys();
        assert!(keys.len() > 20 && keys.contains(&"run-before") && !keys.contains(&"name"), "{keys:?}");
    }

    #[test]
    fn a_copy_is_read_in_the_place_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let (path, copy) = (dir.path().join("treering.toml"), dir.path().join("copy"));
        std::fs::write(&path, "[profile.a").unwrap();
        std::fs::write(&copy, "[profile.a]\nrepo = 'r'").unwrap();
        assert!(ConfigFile::new(&path).read(None).is_err());
        let (profiles, _) = ConfigFile { path: path.clone(), text: Some(copy) }.read(None).unwrap();
        assert_eq!(profiles.path(), path);
        assert_eq!(profiles.get("a").unwrap().repo, Some(dir.path().join("r")));
        let error = chain(&ConfigFile::new(&dir.path().join("none")).read(None).unwrap_err());
        assert!(error.contains("none: No such file"), "{error}");
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC*|(\\[(default|profile|profile\\.[a-z\"]{1,3})\\]|[a-z-]{1,9} = ([0-9]+|\"[a-z ]*\"|true)|\n){0,9}") {
            let _ = parse(&text);
        }
    }
}
