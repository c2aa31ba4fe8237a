//! `schedule`: profiles that run by themselves.

use std::fmt;
use std::io::{self, IsTerminal, Write};

use clap::{Args, Subcommand};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use serde_json::{Value, json};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use treering::schedule::{
    Attempt, Daemon, History, InstallError, Installer, Moment, Profile, Profiles, Report, Runner, Status,
    Stop, Terms, due_at, read_crontab, upcoming, write_crontab,
};
use treering::spoken;
use treering::url::redact;

use crate::cli::commands::{Arguments, Command};
use crate::cli::error::{CliError, Exit};
use crate::cli::json::Name;
use crate::cli::profile::is_system;
use crate::cli::report::{self, Align, clock_time, count, duration, local_time, plural, print, size, text};
use crate::cli::{Session, host_name, json};

/// Run the backups of profiles on a schedule
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Profiles are tables in treering.toml, in ~/.config/treering or else in /etc/treering; a key is the name of a flag:

  [default]
  repo = \"/srv/rings\"
  keep-daily = 7

  [profile.home]
  sources = [\"~/work\", \"~/letters\"]
  exclude = \"*.tmp\"
  push = \"origin\"
  schedule = \"daily at 03:00\"
  jitter = \"15 minutes\"
  run-failed = 'echo \"$TREERING_PROFILE: $TREERING_ERROR\" | mail -s backup root'

A schedule is one of: hourly, hourly at :15, daily, daily at 03:00, 15:30, weekdays at 18:00, weekly on mon, thu at 04:00, \
monthly on 1, last at 04:00, yearly, every 15 minutes, or as in a crontab: '*/15 * * * *', '0 3 * * mon-fri', '@daily'.

Either the daemon runs, or timers of systemd do its work, or a crontab:
  treering schedule daemon
  treering schedule install
  treering schedule install --cron")]
pub enum ScheduleCommand {
    /// Show the profiles: their schedule, how their last run went, and when the next is due
    Show(MomentArguments),
    Next(NextArguments),
    Run(RunArguments),
    /// Stay, and run what is due when it is due
    #[command(after_help = "\
SIGHUP reads the profiles again; where they are wrong the old ones stay. SIGTERM and SIGINT stop the runs in order, and \
then the daemon; a second one ends the runs at once.")]
    Daemon,
    Install(InstallArguments),
    Uninstall(InstallArguments),
}

/// The time that is taken for now.
#[derive(Debug, Args)]
pub struct MomentArguments {
    /// Take this time for now, such as 'tomorrow 03:00'
    #[arg(long, value_name = "TIME")]
    pub now: Option<String>,
}

/// Tell what comes next
#[derive(Debug, Args)]
pub struct NextArguments {
    /// How many runs to tell of
    #[arg(short = 'n', long, value_name = "N", default_value_t = 5)]
    pub count: usize,
    #[command(flatten)]
    pub moment: MomentArguments,
}

/// Run what is due now, once
#[derive(Debug, Args)]
#[command(after_help = "\
A run: the hook run-before; the backup; the removal of what is not kept; a push to each remote; then run-after where all \
went well, run-partial (or else run-failed) where not everything could be read, else run-failed; and at last run-finally. Hooks are \
commands of the shell. They find in their environment TREERING_PROFILE, TREERING_CONFIG and TREERING_REPOSITORY, and after the backup TREERING_STATUS (done, partial, failed, interrupted), \
TREERING_SNAPSHOT and TREERING_ERROR.

Example:
  treering -P home schedule run --force")]
pub struct RunArguments {
    /// Run also what is not due: with -P that profile, else all that have a schedule
    #[arg(short, long)]
    pub force: bool,
    /// Where another run of the same repository is under way, wait for its end, instead of leaving the profile for
    /// later
    #[arg(long)]
    pub wait: bool,
    #[command(flatten)]
    pub moment: MomentArguments,
}

/// Let systemd or cron start the runs, or no longer
#[derive(Debug, Args)]
#[command(after_help = "\
Units go to ~/.config/systemd/user, and those of the system, or of profiles in /etc/treering, to /etc/systemd/system. Only \
what was installed before for the same file of profiles is replaced or removed.")]
pub struct InstallArguments {
    /// Units of the system, not of this user
    #[arg(long)]
    pub system: bool,
    /// A line in the crontab of this user, which asks every minute what is due
    #[arg(long, conflicts_with = "system")]
    pub cron: bool,
    /// Change nothing; print what would be written
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// How much of a snapshot's id is shown.
const SHORT_ID: usize = 8;

/// Sends the log to standard error: complaints, and of what runs by itself also how it goes.
pub fn log(arguments: &Arguments) {
    let runs_by_itself =
        matches!(arguments.command, Command::Schedule(ScheduleCommand::Daemon | ScheduleCommand::Run(_)));
    let usual = if runs_by_itself && !arguments.global.quiet { "warn,treering=info" } else { "warn" };
    let filter = EnvFilter::try_from_env("TREERING_LOG").unwrap_or_else(|_| EnvFilter::new(usual));
    let is_terminal = io::stderr().is_terminal();
    let log =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| Redacted).with_ansi(is_terminal);
    // The journal of systemd knows the time by itself.
    match runs_by_itself && std::env::var_os("JOURNAL_STREAM").is_none() {
        true => log.with_target(false).with_timer(LocalTime).init(),
        false => log.with_target(!runs_by_itself).without_time().init(),
    }
}

/// Standard error, without what is secret in the addresses that a line quotes. A line comes at once.
struct Redacted;

impl Write for Redacted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::stderr().write_all(redact(&String::from_utf8_lossy(bytes)).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

struct LocalTime;

impl FormatTime for LocalTime {
    fn format_time(&self, out: &mut Writer<'_>) -> fmt::Result {
        out.write_str(&clock_time(spoken::clock(), &TimeZone::system()))
    }
}

/// Does what `schedule` was asked for.
pub fn run(session: &Session, command: &ScheduleCommand) -> Result<Exit, CliError> {
    if session.names_repository {
        return Err(CliError::RepositoryOfProfiles);
    }
    match command {
        ScheduleCommand::Show(moment) => show(session, moment),
        ScheduleCommand::Next(arguments) => next(session, arguments),
        ScheduleCommand::Run(arguments) => run_profiles(session, arguments),
        ScheduleCommand::Daemon => daemon(session),
        ScheduleCommand::Install(arguments) => install(session, arguments),
        ScheduleCommand::Uninstall(arguments) => uninstall(session, arguments),
    }
}

/// The profiles that are meant: the one that was asked for, else all with a schedule.
fn chosen<'a>(session: &'a Session, profiles: &'a Profiles) -> Vec<&'a Profile> {
    match session.profile.name.is_empty() {
        true => profiles.iter().filter(|profile| profile.schedule.is_some()).collect(),
        false => vec![&session.profile],
    }
}

impl Session {
    fn taken_for_now(&self, arguments: &MomentArguments) -> Result<Zoned, CliError> {
        let given = self.time("--now", arguments.now.as_deref())?;
        Ok(given.map_or_else(|| self.now.clone(), |time| time.to_zoned(self.now.time_zone().clone())))
    }
}

fn show(session: &Session, arguments: &MomentArguments) -> Result<Exit, CliError> {
    let profiles = session.places.profiles()?;
    let state = session.places.state(&profiles)?;
    let now = session.taken_for_now(arguments)?;
    let (zone, host) = (now.time_zone(), host_name());
    let moment = Moment { now: now.timestamp(), zone, since: Timestamp::MIN, host: &host };
    let mut shown = Vec::new();
    for profile in profiles.iter().filter(|profile| [&profile.name, ""].contains(&&*session.profile.name)) {
        let history = state.history(&profile.name)?.unwrap_or_else(|| History::new(moment.now));
        let is_running = profile.repo.as_deref().is_some_and(|repo| state.is_running(repo));
        let next = due_at(profile, &history, &moment);
        shown.push(Shown { profile, history, is_running, next });
    }
    print(|out| {
        if session.json {
            return json::list(out, "profiles", shown.iter().map(Shown::document));
        }
        if shown.is_empty() {
            return writeln!(out, "There are no profiles in {}", profiles.path().display());
        }
        let titles = ["Profile", "Schedule", "Last run", "Result", "Next run"].map(str::to_owned).to_vec();
        let rows: Vec<_> =
            std::iter::once(titles).chain(shown.iter().map(|shown| shown.row(&moment))).collect();
        report::table(out, &[Align::Left; 5], &rows)?;
        for Shown { profile, history, .. } in &shown {
            let error = history.last.as_ref().and_then(|run| run.end.as_ref()?.error.as_ref());
            if let Some(error) = error {
                writeln!(out, "{}: {}", profile.name, text(error))?;
            }
        }
        Ok(())
    })?;
    Ok(Exit::Done)
}

/// A profile as `show` shows it.
struct Shown<'a> {
    profile: &'a Profile,
    history: History,
    /// Whether something runs with its repository.
    is_running: bool,
    next: Option<Timestamp>,
}

impl Shown<'_> {
    fn result(&self) -> &'static str {
        match self.history.last.as_ref().map(|run| run.end.as_ref()) {
            None => "",
            Some(Some(end)) => end.status.name(),
            Some(None) if self.is_running => "running",
            Some(None) => "cut off",
        }
    }

    fn row(&self, moment: &Moment) -> Vec<String> {
        let last = self.history.last.as_ref();
        let time = |time: Timestamp| clock_time(time, moment.zone);
        let id = last.and_then(|run| run.end.as_ref()?.snapshot.as_ref()?.get(..SHORT_ID));
        let next = match self.next {
            Some(next) if next <= moment.now => "now".to_owned(),
            next => next.map_or_else(String::new, time),
        };
        vec![
            self.profile.name.clone(),
            self.profile.schedule.as_ref().map_or_else(String::new, |rule| text(&rule.to_string())),
            last.map_or_else(|| "never".to_owned(), |run| time(run.started)),
            [self.result(), id.unwrap_or_default()].join(" ").trim_end().to_owned(),
            next,
        ]
    }

    fn document(&self) -> Value {
        let last = self.history.last.as_ref();
        let end = last.and_then(|run| run.end.as_ref());
        let time = |time: Option<Timestamp>| time.map(|time| time.to_string());
        let mut document = json!({
            "name": self.profile.name,
            "repository": null,
            "schedule": self.profile.schedule.as_ref().map(ToString::to_string),
            "last": last.map(|run| json!({
                "due": run.due.to_string(),
                "started": run.started.to_string(),
                "ended": time(end.map(|end| end.time)),
                "result": self.result(),
                "snapshot_id": end.and_then(|end| end.snapshot.as_ref()),
                "error": end.and_then(|end| end.error.as_deref()).map(json::cause),
            })),
            "failures": self.history.failures,
            "succeeded": time(self.history.succeeded),
            "next": time(self.next),
        });
        if let Some(repo) = &self.profile.repo {
            json::add_names(&mut document, &Name::of_path("repository", repo));
        }
        document
    }
}

fn next(session: &Session, arguments: &NextArguments) -> Result<Exit, CliError> {
    let profiles = session.places.profiles()?;
    let now = session.taken_for_now(&arguments.moment)?;
    let host = host_name();
    let moment = Moment { now: now.timestamp(), zone: now.time_zone(), since: Timestamp::MIN, host: &host };
    let mut runs = Vec::new();
    for profile in chosen(session, &profiles) {
        runs.extend(upcoming(profile, &moment).take(arguments.count).map(|time| (time, &profile.name)));
    }
    runs.sort();
    runs.truncate(arguments.count);
    print(|out| {
        if session.json {
            let object =
                |(time, name): &(Timestamp, &String)| json!({ "due": time.to_string(), "profile": name });
            return json::list(out, "runs", runs.iter().map(object));
        }
        let row = |(time, name): &(Timestamp, &String)| vec![clock_time(*time, moment.zone), (*name).clone()];
        report::table(out, &[Align::Left; 2], &runs.iter().map(row).collect::<Vec<_>>())
    })?;
    Ok(Exit::Done)
}

fn run_profiles(session: &Session, arguments: &RunArguments) -> Result<Exit, CliError> {
    let profiles = session.places.profiles()?;
    let chosen = chosen(session, &profiles);
    for profile in &chosen {
        if profile.schedule.is_none() && !arguments.force {
            return Err(CliError::NoSchedule(profile.name.clone()));
        }
        let missing = [(profile.repo.is_none(), "repo"), (profile.sources.is_empty(), "sources")];
        if let Some((_, key)) = missing.into_iter().find(|(is_missing, _)| *is_missing) {
            return Err(CliError::Incomplete(profile.name.clone(), key));
        }
    }
    let runner = Runner {
        program: std::env::current_exe().map_err(CliError::Program)?,
        config: session.places.config()?,
        state: session.places.state(&profiles)?,
        host: host_name(),
        stop: Stop::new(),
    };
    runner.stop.on_signals().map_err(CliError::Signals)?;
    let fixed = match &arguments.moment.now {
        Some(_) => Some(session.taken_for_now(&arguments.moment)?.timestamp()),
        None => None,
    };
    let clock = || fixed.unwrap_or_else(spoken::clock);
    let terms = Terms { force: arguments.force, wait: arguments.wait };
    let mut exit = Exit::Done;
    for profile in chosen {
        let name = &profile.name;
        let mut started = || tracing::info!("{name}: started");
        let attempt = runner.run(profile, terms, session.now.time_zone(), &clock, &mut started)?;
        match &attempt {
            Attempt::Ran(report) => tell(session, name, report)?,
            Attempt::InUse => tracing::info!("{name}: another run of its repository is under way"),
            Attempt::NotDue(Some(next)) if !session.profile.name.is_empty() => {
                tracing::info!("{name}: not due before {}", local_time(*next, session.now.time_zone()));
            }
            Attempt::NotDue(_) | Attempt::Stopped => {}
        }
        let this = exit_of(&attempt, session.profile.name.is_empty());
        exit = if rank(this) > rank(exit) { this } else { exit };
        if this == Exit::Interrupted {
            break;
        }
    }
    Ok(exit)
}

fn exit_of(attempt: &Attempt, may_be_left: bool) -> Exit {
    match attempt {
        Attempt::NotDue(_) => Exit::Done,
        Attempt::InUse if may_be_left => Exit::Done,
        Attempt::InUse => Exit::Locked,
        Attempt::Stopped => Exit::Interrupted,
        Attempt::Ran(report) => match report.end.status {
            Status::Done => Exit::Done,
            Status::Partial => Exit::Partial,
            Status::Failed => Exit::Failed,
            Status::Interrupted => Exit::Interrupted,
        },
    }
}

/// Of several runs the gravest counts.
fn rank(exit: Exit) -> usize {
    let order = [Exit::Done, Exit::Partial, Exit::Locked, Exit::Failed, Exit::Interrupted];
    order.iter().position(|one| *one == exit).unwrap_or(0)
}

/// Tells how a run went, in the log and to programs.
fn tell(session: &Session, name: &str, report: &Report) -> Result<(), CliError> {
    let end = &report.end;
    let line = sentence(report, session.now.time_zone());
    match end.status {
        Status::Done => tracing::info!("{name}: {line}"),
        Status::Partial | Status::Interrupted => tracing::warn!("{name}: {line}"),
        Status::Failed => tracing::error!("{name}: {line}"),
    }
    if !session.json {
        return Ok(());
    }
    let figures = &report.figures;
    let document = json!({
        "profile": name,
        "result": end.status.name(),
        "started": report.started.to_string(),
        "ended": end.time.to_string(),
        "snapshot_id": end.snapshot,
        "error": end.error.as_deref().map(json::cause),
        "files_new": figures.files_new,
        "files_changed": figures.files_changed,
        "data_added_packed": figures.bytes_added,
        "error_count": figures.problems,
        "snapshots_removed": figures.removed,
        "bytes_freed": figures.bytes_freed,
        "pushed": figures.pushed,
        "next_try": report.again.map(|time| time.to_string()),
    });
    print(|out| json::message(out, "run", &document))
}

fn sentence(report: &Report, zone: &TimeZone) -> String {
    let Report { end, figures, .. } = report;
    let mut parts = Vec::new();
    if let Some(id) = end.snapshot.as_ref().and_then(|id| id.get(..SHORT_ID)) {
        parts.push(format!("snapshot {id}"));
        let (new, changed) = (count(figures.files_new), count(figures.files_changed));
        parts.push(format!("{new} new and {changed} changed files"));
        parts.push(format!("{} added", size(figures.bytes_added)));
    }
    if figures.problems > 0 {
        parts.push(format!("{} not read", plural(figures.problems, "file")));
    }
    if figures.removed > 0 {
        parts.push(format!("{} removed", plural(figures.removed, "snapshot")));
    }
    if figures.bytes_freed > 0 {
        parts.push(format!("{} freed", size(figures.bytes_freed)));
    }
    if !figures.pushed.is_empty() {
        parts.push(format!("pushed to {}", figures.pushed.join(" and ")));
    }
    let took = std::time::Duration::try_from(end.time.duration_since(report.started)).unwrap_or_default();
    parts.push(duration(took));
    let (verb, parts) = (end.status.name(), parts.join(", "));
    match (&end.error, report.again) {
        (None, _) => format!("{verb}: {parts}"),
        (Some(error), None) => format!("{verb}: {error} ({parts})"),
        (Some(error), Some(again)) => {
            format!("{verb}: {error} ({parts}); again at {}", local_time(again, zone))
        }
    }
}

fn daemon(session: &Session) -> Result<Exit, CliError> {
    if !session.profile.name.is_empty() {
        return Err(CliError::AllProfiles("the daemon"));
    }
    let config = session.places.config()?;
    let program = std::env::current_exe().map_err(CliError::Program)?;
    let home = session.places.home().map(Into::into);
    let state = session.places.state_root(&config.path)?;
    Daemon::new(program, &config.path, home, host_name(), &state)?.run()?;
    Ok(Exit::Done)
}

fn install(session: &Session, arguments: &InstallArguments) -> Result<Exit, CliError> {
    let profiles = session.places.profiles()?;
    let target = Target::of(session, arguments)?;
    if arguments.cron {
        return target.change_crontab(session, arguments.dry_run, true);
    }
    let chosen = chosen(session, &profiles);
    if let Some(unscheduled) = chosen.iter().find(|profile| profile.schedule.is_none()) {
        return Err(CliError::NoSchedule(unscheduled.name.clone()));
    }
    let directory = session.places.units(target.system)?;
    if arguments.dry_run {
        print(|out| {
            for unit in chosen.iter().filter_map(|profile| target.installer.units(profile)).flatten() {
                writeln!(out, "==> {} <==\n{}", directory.join(unit.name).display(), unit.text)?;
            }
            Ok(())
        })?;
        return Ok(Exit::Done);
    }
    let timers = target.installer.install(&directory, chosen)?;
    target.tell_of_timers(session, "Installed", &timers)
}

fn uninstall(session: &Session, arguments: &InstallArguments) -> Result<Exit, CliError> {
    let target = Target::of(session, arguments)?;
    if arguments.cron {
        return target.change_crontab(session, arguments.dry_run, false);
    }
    let directory = session.places.units(target.system)?;
    let only = Some(session.profile.name.as_str()).filter(|name| !name.is_empty());
    let installed = target.installer.installed(&directory, only)?;
    if arguments.dry_run {
        print(|out| {
            installed.iter().try_for_each(|name| writeln!(out, "{}", directory.join(name).display()))
        })?;
        return Ok(Exit::Done);
    }
    target.installer.uninstall(&directory, &installed)?;
    let timers: Vec<_> = installed.into_iter().filter(|name| name.ends_with(".timer")).collect();
    target.tell_of_timers(session, "Removed", &timers)
}

/// What `install` and `uninstall` work on.
struct Target {
    installer: Installer,
    /// Whether systemd runs it for the system.
    system: bool,
}

impl Target {
    fn of(session: &Session, arguments: &InstallArguments) -> Result<Self, CliError> {
        // Also where the file is gone, what it installed can be removed.
        let config = session.places.config()?.path;
        let config = std::path::absolute(&config).map_err(CliError::file("find", &config))?;
        let program = std::env::current_exe().map_err(CliError::Program)?;
        let system = arguments.system || (is_system(&config) && !arguments.cron);
        Ok(Self { installer: Installer::new(&program, &config, system)?, system })
    }

    /// Tells what was done, and what systemd must be told.
    fn tell_of_timers(&self, session: &Session, verb: &str, timers: &[String]) -> Result<Exit, CliError> {
        let systemctl = if self.system { "systemctl" } else { "systemctl --user" };
        let (reload, names) = (format!("{systemctl} daemon-reload"), timers.join(" "));
        let commands = match (timers, verb) {
            ([], _) => String::new(),
            (_, "Installed") => format!("\nNow: {reload} && {systemctl} start {names}"),
            _ => format!("\nNow: {systemctl} stop {names} && {reload}"),
        };
        let said = format!("{verb} {}{commands}", plural(timers.len() as u64, "timer"));
        session.say("timers", &json!({ "timers": timers }), &said)?;
        Ok(Exit::Done)
    }

    fn change_crontab(&self, session: &Session, dry_run: bool, wanted: bool) -> Result<Exit, CliError> {
        if !session.profile.name.is_empty() {
            return Err(CliError::AllProfiles("a crontab"));
        }
        let old = match read_crontab() {
            // The line may be wanted for another place.
            Err(InstallError::Crontab(error)) if dry_run && error.kind() == io::ErrorKind::NotFound => {
                String::new()
            }
            old => old?,
        };
        let new = self.installer.crontab(&old, wanted);
        if dry_run {
            print(|out| out.write_all(new.as_bytes()))?;
            return Ok(Exit::Done);
        }
        if new != old {
            write_crontab(&new)?;
        }
        let said =
            if wanted { "The crontab asks every minute what is due" } else { "The crontab asks no longer" };
        session.say("crontab", &json!({ "installed": wanted }), said)?;
        Ok(Exit::Done)
    }
}
