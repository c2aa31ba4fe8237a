//! `forget`, `prune` and `append-only`: what is removed.

use std::collections::HashSet;
use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};
use treering::repository::{
    Group, PruneOptions, PrunePlan, PruneReport, Reason, Repository, Snapshot, SnapshotFilter, SnapshotName,
    apply,
};
use treering::timeline::TimeKey;

use crate::cli::error::{CliError, Exit};
use crate::cli::json::SnapshotObject;
use crate::cli::prune_args::{AppendOnlyCommand, ForgetArguments, PruneArguments, WasteArguments};
use crate::cli::report::{self, Align, plural, print, size, text};
use crate::cli::snapshots::readable;
use crate::cli::{Session, host_name, user_name};

/// Removes snapshots.
pub fn forget(session: &Session, arguments: &ForgetArguments) -> Result<Exit, CliError> {
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

/// What was done or would be, for programs and for people.
struct Said {
    message_type: &'static str,
    document: Value,
    text: String,
}

impl Said {
    fn say(&self, session: &Session) -> Result<(), CliError> {
        session.say(self.message_type, &self.document, &self.text)
    }
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
    let paths = group.paths.iter().flatten().map(|path| String::from_utf8_lossy(path));
    json!({
        "host": group.host,
        "paths": group.paths.is_some().then(|| paths.collect::<Vec<_>>()),
        "tags": group.tags,
        "keep": group.keep.iter().map(|(snapshot, _)| SnapshotObject::new(snapshot)).collect::<Vec<_>>(),
        "remove": group.remove.iter().map(SnapshotObject::new).collect::<Vec<_>>(),
        "reasons": reasons,
        "rules_keep_none": group.is_emptied(),
    })
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
        "ids": removed.iter().map(|name| name.id.to_string()).collect::<Vec<_>>(),
        "keys": removed.iter().map(|name| name.key.to_string()).collect::<Vec<_>>(),
    });
    Said { message_type: "forgotten", document, text }
}

/// Frees what no snapshot needs.
pub fn prune(session: &Session, arguments: &PruneArguments) -> Result<Exit, CliError> {
    let repository = session.open_readable()?;
    let freed = match arguments.dry_run {
        true => plan(session, &repository, &arguments.waste, &[])?,
        false => prune_now(session, &repository, &arguments.waste)?,
    };
    freed.say(session)?;
    Ok(Exit::Done)
}

fn options(session: &Session, waste: &WasteArguments) -> PruneOptions {
    PruneOptions {
        user: user_name(),
        host: host_name(),
        max_unused: waste.max_unused,
        ..PruneOptions::new(session.now.timestamp())
    }
}

/// What would be done if the snapshots of the keys `without` were gone.
fn plan(
    session: &Session,
    repository: &Repository,
    waste: &WasteArguments,
    without: &[TimeKey],
) -> Result<Said, CliError> {
    let without: HashSet<TimeKey> = without.iter().copied().collect();
    let options = options(session, waste);
    let plan = session.watch(|progress| repository.plan_prune(&options, &without, progress))?;
    Ok(Said { message_type: "prune_plan", document: plan_document(&plan), text: plan_text(&plan) })
}

fn prune_now(session: &Session, repository: &Repository, waste: &WasteArguments) -> Result<Said, CliError> {
    let options = options(session, waste);
    let report = session.watch(|progress| repository.prune(&options, progress))?;
    Ok(Said { message_type: "prune", document: report_document(&report), text: report_text(&report) })
}

fn plan_text(plan: &PrunePlan) -> String {
    if plan.is_empty() {
        return format!("Nothing to free: {} of {} are unused", size(plan.bytes_unused), size(plan.bytes));
    }
    format!(
        "Would free about {} of {} and copy {} for that\n  volumes: {}, of which {} are unneeded and {} would be written anew\n  \
         layers: {}, of which {} are unneeded and {} would be written anew\n  {} would stay unused",
        size(plan.bytes_freed),
        size(plan.bytes),
        size(plan.bytes_copied),
        report::count(plan.volumes),
        report::count(plan.volumes_unneeded),
        report::count(plan.volumes_repacked),
        report::count(plan.layers),
        report::count(plan.layers_unneeded),
        report::count(plan.layers_rewritten),
        size(plan.bytes_unused),
    )
}

fn plan_document(plan: &PrunePlan) -> Value {
    json!({
        "snapshots": plan.snapshots,
        "blobs_unneeded": plan.blobs_unneeded,
        "volumes": plan.volumes,
        "volumes_unneeded": plan.volumes_unneeded,
        "volumes_repacked": plan.volumes_repacked,
        "layers": plan.layers,
        "layers_unneeded": plan.layers_unneeded,
        "layers_rewritten": plan.layers_rewritten,
        "bytes": plan.bytes,
        "bytes_freed": plan.bytes_freed,
        "bytes_copied": plan.bytes_copied,
        "bytes_unused": plan.bytes_unused,
    })
}

fn report_text(report: &PruneReport) -> String {
    let leftovers = report::leftovers(&report.swept).map_or_else(String::new, |text| format!("\n  {text}"));
    if report.plan.is_empty() {
        return plan_text(&report.plan) + &leftovers;
    }
    format!(
        "Freed {} of {}: removed {} and wrote {}{leftovers}",
        size(report.bytes_freed),
        size(report.plan.bytes),
        plural(report.layers_removed, "layer"),
        report::count(report.layers.len() as u64),
    )
}

fn report_document(report: &PruneReport) -> Value {
    let layers: Vec<&str> = report.layers.iter().map(|layer| layer.name.as_str()).collect();
    json!({
        "plan": plan_document(&report.plan),
        "layers_removed": report.layers_removed,
        "layers_written": layers,
        "volumes_written": report.volumes_written,
        "bytes": report.bytes,
        "bytes_freed": report.bytes_freed,
        "leftovers_removed": report.swept.files + report.swept.layers,
        "leftover_bytes": report.swept.bytes,
    })
}

/// What a remote runs to refuse pushes that remove anything.
const HOOK: &str = include_str!("append_only_hook.sh");

/// Lets nothing be removed, or allows it.
pub fn append_only(session: &Session, command: &AppendOnlyCommand) -> Result<Exit, CliError> {
    let state = |is_on: bool| match is_on {
        true => "The repository is append-only: nothing is removed from it",
        false => "Snapshots may be removed from the repository",
    };
    let say = |is_on: bool| session.say("append_only", &json!({ "append_only": is_on }), state(is_on));
    match command {
        AppendOnlyCommand::Status => say(session.open()?.config().append_only)?,
        AppendOnlyCommand::On | AppendOnlyCommand::Off => {
            let is_on = matches!(command, AppendOnlyCommand::On);
            let now = session.now.timestamp();
            session.open()?.set_append_only(is_on, &user_name(), &host_name(), now)?;
            say(is_on)?;
        }
        AppendOnlyCommand::Hook(arguments) => match &arguments.install {
            None => print(|out| out.write_all(HOOK.as_bytes()))?,
            Some(repository) => {
                install(repository)?;
                let shown = report::name(repository.as_os_str().as_encoded_bytes());
                let said = format!("{shown} refuses pushes that remove anything");
                session.say("installed", &json!({ "hook": "pre-receive" }), &said)?;
            }
        },
    }
    Ok(Exit::Done)
}

/// Makes the hook that of the bare repository at `path`; another one that is there stays.
fn install(path: &Path) -> Result<(), CliError> {
    treering::gitkv::Git::open(path)?;
    let hooks = path.join("hooks");
    fs::create_dir_all(&hooks).map_err(CliError::file("make", &hooks))?;
    let hook = hooks.join("pre-receive");
    match fs::read(&hook) {
        Ok(found) if found != HOOK.as_bytes() => return Err(CliError::HookExists(hook)),
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(CliError::file("read", &hook)(error));
        }
        _ => {}
    }
    let place = || {
        let mut file = treering::atomic::temporary(&hooks, 0o755)?;
        file.write_all(HOOK.as_bytes())?;
        file.as_file().set_permissions(Permissions::from_mode(0o755))?;
        treering::atomic::place(file, &hook)?;
        treering::atomic::sync_dir(&hooks)
    };
    place().map_err(CliError::file("write", &hook))
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

    #[test]
    fn a_plan_with_nothing_to_do_says_so() {
        let plan = PrunePlan { bytes: 2048, ..PrunePlan::default() };
        assert_eq!(plan_text(&plan), "Nothing to free: 0 B of 2.0 KiB are unused");
    }
}
