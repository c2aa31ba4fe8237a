//! `forget`: removes snapshots.

use std::io::{self, Write};

use clap::Args;
use serde_json::{Value, json};
use treering::repository::{
    Count, Group, GroupBy, Policy, Reason, Snapshot, SnapshotFilter, SnapshotName, Within, apply,
};
use treering::schedule::{self, Profile};
use treering::timeline::TimeKey;

use crate::cli::commands::prune::{Said, WasteArguments, plan, prune_now};
use crate::cli::error::{CliError, Exit};
use crate::cli::filter::{FilterArguments, readable, tag_list};
use crate::cli::json::{self, Names, SnapshotObject};
use crate::cli::report::{self, Align, plural, print, text};
use crate::cli::{Session, host_name, user_name};

/// Remove snapshots, by ID or by retention policy
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Rules apply to each group of snapshots by itself; what any rule keeps is kept. A rule such as --keep-daily 7 keeps the newest \
snapshot of each of the last 7 days that have one. Days and the like are those of the local time zone. What is dated in the future \
is kept, and counts for no rule. A snapshot in which a whole source could not be read takes no place from those that have it: the \
rules also go through these alone. --keep-within and similar rules skip any gap of more than half a year, in which the clock may \
have jumped, unless their own period is longer than the gap. Without --prune, what \
removed snapshots held stays until the next `treering prune`. With --json one object is printed, `forgotten`; with --prune it has \
the report under `prune`, or with --dry-run the plan under `prune_plan`.

Examples:
  treering forget --keep-last 3 --keep-daily 7 --keep-weekly 5 --keep-monthly 12 --prune
  treering forget --keep-within 1m --keep-tag release --dry-run
  treering forget 1a2b3c4d 5e6f7a8b")]
pub struct ForgetArguments {
    /// The snapshots to remove: the beginnings of their ids, latest, or latest~N
    #[arg(value_name = "ID", conflicts_with = "rules")]
    pub ids: Vec<String>,
    /// What the snapshots of a group have in common: any of host, paths, tags
    #[arg(short, long, value_name = "WORDS", default_value = "host,paths")]
    pub group_by: GroupBy,
    /// Let it be that no snapshot of a group is left
    #[arg(long)]
    pub unsafe_allow_remove_all: bool,
    /// Then free the space that they took
    #[arg(long)]
    pub prune: bool,
    #[command(flatten)]
    pub waste: WasteArguments,
    /// Remove nothing; tell what would be removed and why
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    // Last, since their headings hold for what follows.
    #[command(flatten)]
    pub rules: RuleArguments,
    #[command(flatten)]
    pub filters: FilterArguments,
}

/// What is kept.
#[derive(Debug, Clone, Args)]
#[group(id = "rules", multiple = true)]
#[command(next_help_heading = "Rules")]
pub struct RuleArguments {
    /// Keep the newest N, or unlimited
    #[arg(short = 'l', long, value_name = "N", default_value = "0")]
    pub keep_last: Count,
    /// Keep the newest of each of the last N hours that have one
    #[arg(short = 'H', long, value_name = "N", default_value = "0")]
    pub keep_hourly: Count,
    /// The same of days
    #[arg(short = 'd', long, value_name = "N", default_value = "0")]
    pub keep_daily: Count,
    /// The same of weeks
    #[arg(short = 'w', long, value_name = "N", default_value = "0")]
    pub keep_weekly: Count,
    /// The same of months
    #[arg(short = 'm', long, value_name = "N", default_value = "0")]
    pub keep_monthly: Count,
    /// The same of years
    #[arg(short = 'y', long, value_name = "N", default_value = "0")]
    pub keep_yearly: Count,
    /// Keep all within this time before the newest, such as 2d12h or 1y6m
    #[arg(long, value_name = "TIME")]
    pub keep_within: Option<Within>,
    /// Within this time keep the newest of each hour
    #[arg(long, value_name = "TIME")]
    pub keep_within_hourly: Option<Within>,
    /// The same of days
    #[arg(long, value_name = "TIME")]
    pub keep_within_daily: Option<Within>,
    /// The same of weeks
    #[arg(long, value_name = "TIME")]
    pub keep_within_weekly: Option<Within>,
    /// The same of months
    #[arg(long, value_name = "TIME")]
    pub keep_within_monthly: Option<Within>,
    /// The same of years
    #[arg(long, value_name = "TIME")]
    pub keep_within_yearly: Option<Within>,
    /// Keep what has all of these tags, separated by commas; can be given again
    #[arg(long, value_name = "TAGS")]
    pub keep_tag: Vec<String>,
}

impl RuleArguments {
    pub fn policy(&self) -> Policy {
        Policy {
            last: self.keep_last,
            hourly: self.keep_hourly,
            daily: self.keep_daily,
            weekly: self.keep_weekly,
            monthly: self.keep_monthly,
            yearly: self.keep_yearly,
            within: self.keep_within,
            within_hourly: self.keep_within_hourly,
            within_daily: self.keep_within_daily,
            within_weekly: self.keep_within_weekly,
            within_monthly: self.keep_within_monthly,
            within_yearly: self.keep_within_yearly,
            tags: self.keep_tag.iter().map(|tags| tag_list(tags)).collect(),
        }
    }
}

impl ForgetArguments {
    /// With the rules of `profile` where the command line gives none.
    pub fn filled(self, profile: &Profile) -> Result<Self, CliError> {
        if profile.name.is_empty() || !self.ids.is_empty() {
            return Ok(self);
        }
        let rules = if self.rules.policy().is_empty() { RuleArguments::of(profile)? } else { self.rules };
        Ok(Self { rules, prune: self.prune || profile.prune, ..self })
    }
}

impl RuleArguments {
    fn of(profile: &Profile) -> Result<Self, CliError> {
        let count = |count: Option<schedule::Count>| match count {
            None => Count(0),
            Some(schedule::Count::Number(number)) => Count(number),
            Some(schedule::Count::All(_)) => Count::UNLIMITED,
        };
        let within = |within: &Option<schedule::Within>| {
            within.as_ref().map(|within| within.to_string().parse()).transpose()
        };
        Ok(Self {
            keep_last: count(profile.keep_last),
            keep_hourly: count(profile.keep_hourly),
            keep_daily: count(profile.keep_daily),
            keep_weekly: count(profile.keep_weekly),
            keep_monthly: count(profile.keep_monthly),
            keep_yearly: count(profile.keep_yearly),
            keep_within: within(&profile.keep_within)?,
            keep_within_hourly: within(&profile.keep_within_hourly)?,
            keep_within_daily: within(&profile.keep_within_daily)?,
            keep_within_weekly: within(&profile.keep_within_weekly)?,
            keep_within_monthly: within(&profile.keep_within_monthly)?,
            keep_within_yearly: within(&profile.keep_within_yearly)?,
            keep_tag: profile.keep_tag.clone(),
        })
    }
}

/// Removes snapshots.
pub fn run(session: &Session, arguments: &ForgetArguments) -> Result<Exit, CliError> {
    let arguments = &arguments.clone().filled(&session.profile)?;
    let repository = session.open_readable()?;
    let filter = session.filter(&arguments.filters);
    let mut groups = Vec::new();
    let removed: Vec<SnapshotName> = if arguments.ids.is_empty() {
        // Without those that cannot be read, rules keep more of the others and never less.
        let mut snapshots = readable(&repository)?;
        snapshots.retain(|snapshot| filter.matches(snapshot));
        session.warn_of_future_in(&snapshots);
        groups = apply(snapshots, &arguments.rules.policy(), arguments.group_by, &session.now)?;
        groups.iter().filter_map(|group| group.gap).for_each(|gap| session.warn_of_gap(gap));
        let emptied = groups.iter().find(|group| group.is_emptied());
        if let Some(group) = emptied.filter(|_| !arguments.unsafe_allow_remove_all) {
            return Err(CliError::RemovesAll { group: name_of(group), snapshots: group.remove.len() });
        }
        groups.iter().flat_map(|group| group.remove.iter().map(SnapshotName::from)).collect()
    } else {
        let named = arguments.ids.iter().map(|id| session.to_remove(&repository, id, &arguments.filters));
        let mut named = named.collect::<Result<Vec<_>, _>>()?;
        named.sort_unstable_by_key(|name| name.key);
        named.dedup();
        named
    };
    if !session.json && !session.quiet {
        print(|out| match arguments.ids.is_empty() {
            true => tell_groups(session, out, &groups),
            false => tell_named(session, out, &removed),
        })?;
    }
    let keys: Vec<TimeKey> = removed.iter().map(|name| name.key).collect();
    if !arguments.dry_run {
        repository.forget(&keys, &user_name(), &host_name(), session.now.timestamp())?;
    }
    let mut forgotten = forgotten(arguments, &filter, &groups, &removed);
    // A person reads at once what is done already; a program gets one object, also of what was removed before the
    // rest failed.
    let is_one_object = session.json && arguments.prune;
    if !is_one_object {
        forgotten.say(session)?;
    }
    if !arguments.prune {
        return Ok(Exit::Done);
    }
    let freed = match arguments.dry_run {
        true => plan(session, &repository, &arguments.waste, &keys),
        false => prune_now(session, &repository, &arguments.waste),
    };
    if is_one_object {
        if let Ok(freed) = &freed {
            forgotten.document[freed.message_type] = freed.document.clone();
        }
        forgotten.say(session)?;
        return freed.map(|_| Exit::Done);
    }
    freed?.say(session)?;
    Ok(Exit::Done)
}

/// What the snapshots of a group have in common, in words.
fn name_of(group: &Group) -> String {
    let host = group.host.iter().map(|host| format!("host {}", text(host)));
    let paths = group
        .paths
        .iter()
        .map(|paths| paths.iter().map(|path| report::name(path)).collect::<Vec<_>>().join(", "));
    let tags = group.tags.iter().map(|tags| format!("tags {}", text(&tags.join(","))));
    let parts: Vec<String> = host.chain(paths).chain(tags).collect();
    if parts.is_empty() { "all snapshots".into() } else { parts.join(", ") }
}

fn tell_groups(session: &Session, out: &mut dyn Write, groups: &[Group]) -> io::Result<()> {
    for group in groups {
        let row = |word: &str, snapshot: &Snapshot, why: String| {
            let time = session.local(snapshot.time());
            let tags = text(&snapshot.record.tags.join(","));
            (snapshot.key, vec![word.to_owned(), snapshot.name(), time, tags, why])
        };
        let kept = group.keep.iter().map(|(snapshot, reasons)| row("keep", snapshot, why(reasons)));
        let removed = group.remove.iter().map(|snapshot| row("remove", snapshot, "no rule keeps it".into()));
        let mut rows: Vec<_> = kept.chain(removed).collect();
        rows.sort_by(|(one, _), (other, _)| other.cmp(one));
        let rows: Vec<_> = rows.into_iter().map(|(_, row)| row).collect();
        writeln!(out, "{}: keep {}, remove {}", name_of(group), group.keep.len(), group.remove.len())?;
        report::table(out, &[Align::Left; 5], &rows)?;
    }
    Ok(())
}

fn tell_named(session: &Session, out: &mut dyn Write, removed: &[SnapshotName]) -> io::Result<()> {
    let row = |name: &SnapshotName| vec!["remove".to_owned(), name.name(), session.local(name.key.time())];
    report::table(out, &[Align::Left; 3], &removed.iter().map(row).collect::<Vec<_>>())
}

fn why(reasons: &[Reason]) -> String {
    let reasons: Vec<String> = reasons.iter().map(|reason| text(&reason.to_string())).collect();
    reasons.join(", ")
}

/// As restic prints it.
fn document(group: &Group) -> Value {
    let reasons: Vec<Value> = group
        .keep
        .iter()
        .map(|(snapshot, reasons)| {
            let matches: Vec<String> = reasons.iter().map(ToString::to_string).collect();
            json!({ "snapshot": SnapshotObject::new(snapshot), "matches": matches })
        })
        .collect();
    let mut document = json!({
        "hostname": group.host,
        "paths": null,
        "tags": group.tags,
        "keep": group.keep.iter().map(|(snapshot, _)| SnapshotObject::new(snapshot)).collect::<Vec<_>>(),
        "remove": group.remove.iter().map(SnapshotObject::new).collect::<Vec<_>>(),
        "reasons": reasons,
        "rules_keep_none": group.is_emptied(),
    });
    if let Some(paths) = &group.paths {
        json::add_names(&mut document, &Names::of_paths(paths));
    }
    document
}

fn forgotten(
    arguments: &ForgetArguments,
    filter: &SnapshotFilter,
    groups: &[Group],
    removed: &[SnapshotName],
) -> Said {
    let snapshots = plural(removed.len() as u64, "snapshot");
    let text = match (arguments.dry_run, removed.is_empty()) {
        _ if arguments.ids.is_empty() && groups.is_empty() => match filter.is_empty() {
            true => "There are no snapshots yet: nothing to remove".to_owned(),
            false => format!("There is no snapshot{}: nothing to remove", report::text(&filter.to_string())),
        },
        (true, _) => format!("Would remove {snapshots}"),
        (false, true) => "Removed no snapshot".to_owned(),
        (false, false) if arguments.prune => format!("Removed {snapshots}"),
        (false, false) => {
            let they = if removed.len() == 1 { "it" } else { "they" };
            format!("Removed {snapshots}: `treering prune` frees the space {they} took")
        }
    };
    let document = json!({
        "dry_run": arguments.dry_run,
        "groups": groups.iter().map(document).collect::<Vec<_>>(),
        "snapshot_ids": removed.iter().map(|name| name.id.to_string()).collect::<Vec<_>>(),
        "snapshot_keys": removed.iter().map(|name| name.key.to_string()).collect::<Vec<_>>(),
    });
    Said { message_type: "forgotten", document, text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_called_by_what_it_has_in_common() {
        let group = |host: Option<&str>, paths: Option<Vec<Vec<u8>>>, tags: Option<Vec<String>>| Group {
            host: host.map(str::to_owned),
            paths,
            tags,
            keep: Vec::new(),
            remove: Vec::new(),
            gap: None,
        };
        assert_eq!(name_of(&group(None, None, None)), "all snapshots");
        let paths = Some(vec![b"/a".to_vec(), b"/b".to_vec()]);
        assert_eq!(name_of(&group(Some("h"), paths, None)), "host h, /a, /b");
        assert_eq!(name_of(&group(None, None, Some(vec!["x".into(), "y".into()]))), "tags x,y");
    }
}
