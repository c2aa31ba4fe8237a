//! Which snapshots a command is about: those of the profile, and `--host`, `--path`, `--tag`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use clap::{Args, ValueHint};
use serde_json::json;
use treering::causes::chain;
use treering::repository::{
    Gap, Repository, RepositoryError, Selected, Selector, Snapshot, SnapshotFilter, SnapshotName,
    SnapshotPath, is_future, source_roots,
};
use treering::schedule::Profile;
use treering::timeline::TimeKey;

use crate::cli::error::CliError;
use crate::cli::local_path::local_path;
use crate::cli::report::{complain, complain_with, local_time, unescape};
use crate::cli::{Session, host_name, report};

macro_rules! snapshot_help {
    () => {
        "\
A snapshot is named by:
  latest, latest~2     the newest, the second before it
  1a2b3c4d             its id, or the beginning of it (of its time key where several have one id)
  2026-11-01           a time: the newest snapshot up to the end of that day, minute or second
  'midnight yesterday', '2 days ago', '2026-11-01 14:00'

With --profile only snapshots of the host and the sources of that profile are looked at. --host replaces \
the host, --path the sources, and --tag narrows the choice. An id names any snapshot. Snapshots that are dated in the future \
are not `latest`."
    };
}

pub(crate) use snapshot_help;

pub const SNAPSHOT_HELP: &str = snapshot_help!();

/// Which snapshots are looked at. Every command that names snapshots or lists them takes these flags.
#[derive(Debug, Clone, Default, Args)]
#[group(id = "filters", multiple = true)]
#[command(next_help_heading = "Which snapshots")]
pub struct FilterArguments {
    /// Only those of this host; can be given again
    #[arg(long, value_name = "HOST")]
    pub host: Vec<String>,
    /// Only those of this directory; given again, of all of them
    #[arg(long, value_name = "DIR", value_hint = ValueHint::AnyPath, value_parser = local_path())]
    pub path: Vec<PathBuf>,
    /// Only those that have all of these tags, separated by commas; can be given again
    #[arg(long, value_name = "TAGS")]
    pub tag: Vec<String>,
}

impl FilterArguments {
    /// What is chosen of `of` by these flags. Each one takes the place of what `of` says about the same thing only.
    fn narrow(&self, mut of: SnapshotFilter) -> SnapshotFilter {
        if !self.host.is_empty() {
            of.hosts = self.host.clone();
        }
        if !self.path.is_empty() {
            of.paths = saved_paths(&self.path);
            of.exactly = false;
        }
        if !self.tag.is_empty() {
            of.tags = self.tag.iter().map(|tags| tag_list(tags)).collect();
        }
        of
    }
}

/// The tags of a list that is separated by commas.
pub fn tag_list(tags: &str) -> Vec<String> {
    tags.split(',').filter(|tag| !tag.is_empty()).map(str::to_owned).collect()
}

/// The snapshots that a backup with `profile` makes. One that names no sources says nothing about paths, and about the
/// host only where it names one.
fn own_snapshots(profile: &Profile) -> SnapshotFilter {
    let has_sources = !profile.sources.is_empty();
    let host = profile.host.clone().or_else(|| has_sources.then(host_name));
    SnapshotFilter {
        hosts: host.into_iter().collect(),
        paths: saved_paths(&profile.sources),
        exactly: has_sources,
        tags: Vec::new(),
    }
}

/// The names that snapshots have for these sources, each once.
fn saved_paths(sources: &[PathBuf]) -> Vec<Vec<u8>> {
    source_roots(sources).into_iter().map(|root| root.into_os_string().into_vec()).collect()
}

impl Session {
    /// The snapshots of the profile, with what `arguments` say instead.
    pub fn filter(&self, arguments: &FilterArguments) -> SnapshotFilter {
        arguments.narrow(own_snapshots(&self.profile))
    }

    /// As [`filter`](Self::filter), for the snapshot that `selector` names. An id is of one snapshot, whatever the
    /// profile, so only what the command line chooses can contradict it.
    fn filter_for(&self, selector: &Selector, arguments: &FilterArguments) -> SnapshotFilter {
        match selector {
            Selector::Id(_) => arguments.narrow(SnapshotFilter::default()),
            _ => self.filter(arguments),
        }
    }

    /// Opens the repository and finds what `text` names in it: a snapshot, and perhaps a path.
    pub fn find(
        &self,
        text: &OsStr,
        arguments: &FilterArguments,
    ) -> Result<(Repository, Snapshot, Option<Vec<u8>>), CliError> {
        let repository = self.open_readable()?;
        self.hold(&repository)?;
        let named = SnapshotPath::parse(text, &self.now)?;
        let (snapshot, path) = self.find_in(&repository, named, arguments)?;
        Ok((repository, snapshot, path))
    }

    /// Finds what is named in `repository`: a snapshot, and perhaps a path.
    pub fn find_in(
        &self,
        repository: &Repository,
        SnapshotPath { selector, path }: SnapshotPath,
        arguments: &FilterArguments,
    ) -> Result<(Snapshot, Option<Vec<u8>>), CliError> {
        let snapshot = self.select(repository, &selector, arguments)?;
        // As a listing prints it, unless there is something of that very name.
        let printed = path.as_deref().and_then(|path| Some((path, unescape(path)?)));
        if let Some((as_is, meant)) = printed
            && matches!(
                repository.view(&snapshot)?.resolve(Some(as_is)),
                Err(RepositoryError::NoPath { .. } | RepositoryError::Unread { .. })
            )
        {
            return Ok((snapshot, Some(meant)));
        }
        Ok((snapshot, path))
    }

    /// The snapshot that `selector` names. Tells what is odd about the times of it and of others.
    pub fn select(
        &self,
        repository: &Repository,
        selector: &Selector,
        arguments: &FilterArguments,
    ) -> Result<Snapshot, CliError> {
        let filter = self.filter_for(selector, arguments);
        let Selected { found, future } = repository.select(selector, &filter, self.now.timestamp())?;
        if let Selector::Before(range) = selector
            && range.first > self.now
        {
            let time = self.local(range.first.timestamp());
            complain(&format!(
                "{time} lies in the future: this is snapshot {} of {}",
                found.name(),
                self.local(found.time())
            ));
        }
        self.warn_of_future(&future, found.key);
        Ok(found)
    }

    /// The snapshot that `text` names, to be removed.
    pub fn to_remove(
        &self,
        repository: &Repository,
        text: &str,
        arguments: &FilterArguments,
    ) -> Result<SnapshotName, CliError> {
        let selector = Selector::parse(text, &self.now).unwrap_or_else(|_| Selector::Id(text.to_owned()));
        let filter = self.filter_for(&selector, arguments);
        let Selected { found, future } = repository.name_of(text, &filter, self.now.timestamp())?;
        self.warn_of_future(&future, found.key);
        Ok(found)
    }

    /// Warns of those of `snapshots` that are dated in the future.
    pub fn warn_of_future_in(&self, snapshots: &[Snapshot]) {
        let is_future = |snapshot: &&Snapshot| is_future(snapshot.time(), self.now.timestamp());
        let future: Vec<SnapshotName> = snapshots.iter().filter(is_future).map(SnapshotName::from).collect();
        let what_follows = match future.len() == snapshots.len() {
            true => "rules keep it, and there is no other for `latest`",
            false => "rules keep it, and `latest` means an earlier one",
        };
        self.warn(&future, what_follows);
    }

    /// Warns of the snapshots `future`, where `latest` was found to mean the one of the key `latest`.
    fn warn_of_future(&self, future: &[SnapshotName], latest: TimeKey) {
        let is_latest = future.iter().any(|name| name.key == latest);
        self.warn(
            future,
            if is_latest { "there is no other for `latest`" } else { "`latest` means an earlier one" },
        );
    }

    /// Warns of the snapshots `future`, which are dated in the future, and says what follows.
    pub fn warn(&self, future: &[SnapshotName], what_follows: &str) {
        let Some(last) = future.last() else { return };
        let others = match future.len() - 1 {
            0 => String::new(),
            others => format!(" (and {others} more)"),
        };
        let id = last.name();
        let text = format!(
            "snapshot {id} is dated {}, in the future{others}: {what_follows}. If the clock is right now, `treering forget {id}` \
             removes it",
            self.local(last.key.time())
        );
        let keys: Vec<String> = future.iter().map(|name| name.key.to_string()).collect();
        complain_with(&text, json!({ "future": keys }));
    }

    /// Warns of a gap that rules with a length of time leave out.
    pub fn warn_of_gap(&self, gap: Gap) {
        let [before, after] = [gap.before, gap.after].map(|key| self.local(key.time()));
        let text = format!(
            "no snapshots between {before} and {after}: the clock may have been wrong, so --keep-within and similar rules \
             skip that gap and keep older snapshots. If the clock is right, they expire as new snapshots are made; \
             `treering forget ID` removes them now"
        );
        let document = json!({ "before": gap.before.to_string(), "after": gap.after.to_string() });
        complain_with(&text, json!({ "gap": document }));
    }

    /// A time as this person's clock shows it.
    pub fn local(&self, time: jiff::Timestamp) -> String {
        local_time(time, self.now.time_zone())
    }
}

/// The snapshots that can be read, oldest first. Complains about the others, without which a command is not wholly done.
pub fn readable(repository: &Repository) -> Result<Vec<Snapshot>, CliError> {
    let (snapshots, unreadable) = repository.readable_snapshots()?;
    unreadable.iter().for_each(|error| report::complain_of_loss(&chain(error)));
    Ok(snapshots)
}
