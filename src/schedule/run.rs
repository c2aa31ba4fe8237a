//! One run of a profile: a new snapshot, and what belongs to it.
//!
//! The order: `run-before`; backup; removal of what is not kept; a push to each remote; `run-after` where all went
//! well, `run-partial` where not everything could be read, else `run-failed`; `run-finally`. What fails before the
//! backup, and the backup itself, end the run; what fails after it does not keep the rest from being tried. Each step
//! is a child process, and so is each hook, by `/bin/sh -c`. A child is given the lock of the repository as its
//! standard input: should this process be killed, the next run waits until that child has ended too.
//!
//! Asked to stop, the running step is asked to stop too, no more steps are made, and only the last hooks run. Asked
//! a second time, whatever runs is killed.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use serde_json::Value;

use super::due::{End, Moment, Status, due_at};
use super::profile::{ConfigFile, Profile};
use super::state::{RepositoryLock, State, StateError};
use crate::signals;

/// The exit status of a command that was done but for some files.
const PARTIAL: i32 = 3;
/// The exit status of a command that was stopped.
const INTERRUPTED: i32 = 130;
/// The longest line that is read of what a step prints. The longest of all lists snapshots, of which this is room
/// for some hundred thousand.
const LONGEST_LINE: u64 = 128 << 20;

/// The wish that a run should stop, shared between it and whoever may have that wish.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<Mutex<Stopping>>);

#[derive(Debug, Default)]
struct Stopping {
    /// How often it was wished.
    times: u32,
    /// The process group of the child that runs now. It is not reaped before it leaves here, so that its number
    /// cannot be that of another.
    child: Option<Pid>,
    /// What wakes the run where it waits for another one.
    waiting: Option<Sender<Waited>>,
}

/// What came of waiting for a repository; `None` where it was wished to stop.
type Waited = Option<Result<Option<RepositoryLock>, StateError>>;

impl Stop {
    /// Not wished yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Wishes it when this process is sent a signal to [stop](signals::on_stop).
    pub fn on_signals(&self) -> io::Result<()> {
        let stop = self.clone();
        signals::on_stop(move || stop.stop())
    }

    /// Wishes it: the first time what runs is asked to stop, then it is killed.
    pub fn stop(&self) {
        let mut stopping = self.stopping();
        stopping.times = stopping.times.saturating_add(1);
        if let Some(child) = stopping.child {
            let signal = if stopping.times == 1 { Signal::TERM } else { Signal::KILL };
            // It may have ended meanwhile.
            let _ = kill_process_group(child, signal);
        }
        if let Some(waiting) = stopping.waiting.take() {
            // It may wait no longer.
            let _ = waiting.send(None);
        }
    }

    /// Waits for the end of the run that uses the repository at `repo`.
    fn wait_for(&self, state: &State, repo: &Path) -> Waited {
        let (wake, woken) = channel();
        {
            let mut stopping = self.stopping();
            if stopping.times > 0 {
                return None;
            }
            stopping.waiting = Some(wake.clone());
        }
        let (state, repo) = (state.clone(), repo.to_owned());
        // Nothing interrupts it; where it is not waited for any more, it ends with the process.
        std::thread::spawn(move || wake.send(Some(state.lock(&repo, true))));
        let outcome = woken.recv().unwrap_or_default();
        self.stopping().waiting = None;
        outcome
    }

    /// How often it was wished.
    fn times(&self) -> u32 {
        self.stopping().times
    }

    fn stopping(&self) -> MutexGuard<'_, Stopping> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts `command`, unless a stop was wished more than `patience` times.
    fn spawn(&self, command: &mut Command, patience: u32) -> io::Result<Option<Child>> {
        let mut stopping = self.stopping();
        if stopping.times > patience {
            return Ok(None);
        }
        // In a group of its own, it does not get the Ctrl-C that this process gets and passes on.
        let child = command.process_group(0).spawn()?;
        stopping.child = Some(Pid::from_child(&child));
        Ok(Some(child))
    }

    fn wait(&self, child: &mut Child) -> io::Result<ExitStatus> {
        let pid = Pid::from_child(child);
        let ended = loop {
            match waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
                Err(rustix::io::Errno::INTR) => {}
                ended => break ended,
            }
        };
        self.stopping().child = None;
        ended?;
        child.wait()
    }
}

/// What came of the wish to run a profile.
#[derive(Debug)]
pub enum Attempt {
    /// Another run of the repository is under way.
    InUse,
    /// It is not due before this; `None` where it has no schedule.
    NotDue(Option<Timestamp>),
    /// It was wished to stop before it began.
    Stopped,
    /// It ran.
    Ran(Report),
}

/// A run that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// When it began.
    pub started: Timestamp,
    /// How it ended.
    pub end: End,
    /// What it did.
    pub figures: Figures,
    /// When it is made again because it did not come to a good end; `None` also where the profile has no schedule.
    pub again: Option<Timestamp>,
}

/// What a run did, in numbers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Figures {
    /// Files that the snapshot has and its parent had not.
    pub files_new: u64,
    /// Files with other content than in the parent.
    pub files_changed: u64,
    /// Bytes by which the repository grew.
    pub bytes_added: u64,
    /// Files that could not be read.
    pub problems: u64,
    /// Snapshots that were removed.
    pub removed: u64,
    /// Bytes by which the repository shrank with that.
    pub bytes_freed: u64,
    /// The remotes that have everything now.
    pub pushed: Vec<String>,
}

/// Makes runs of profiles.
#[derive(Debug, Clone)]
pub struct Runner {
    /// The program, whose commands the steps are.
    pub program: PathBuf,
    /// The file with the profiles.
    pub config: ConfigFile,
    /// What is known of earlier runs.
    pub state: State,
    /// The name of this machine.
    pub host: String,
    /// The wish to stop.
    pub stop: Stop,
}

/// When a profile runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Terms {
    /// Also if it is not due.
    pub force: bool,
    /// After the end of another run of the repository, instead of not at all.
    pub wait: bool,
}

impl Runner {
    /// Runs `profile` if it is due, calling `started` first. `clock` tells the time.
    pub fn run(
        &self,
        profile: &Profile,
        terms: Terms,
        zone: &TimeZone,
        clock: &dyn Fn() -> Timestamp,
        started: &mut dyn FnMut(),
    ) -> Result<Attempt, StateError> {
        let repo = profile.repo.clone().unwrap_or_default();
        let lock = match self.state.lock(&repo, false)? {
            Some(lock) => lock,
            None if terms.wait => match self.stop.wait_for(&self.state, &repo) {
                Some(lock) => match lock? {
                    Some(lock) => lock,
                    None => return Ok(Attempt::InUse),
                },
                None => return Ok(Attempt::Stopped),
            },
            None => return Ok(Attempt::InUse),
        };
        let now = clock();
        // Read only now: a run that was waited for may have done it.
        let mut history = self.state.meet(&profile.name, now)?;
        let moment = Moment { now, zone, since: Timestamp::MIN, host: &self.host };
        let due = due_at(profile, &history, &moment);
        let is_due = due.is_some_and(|due| due <= now);
        if !is_due && !terms.force {
            return Ok(Attempt::NotDue(due));
        }
        history.begin(due.filter(|_| is_due).unwrap_or(now), now);
        self.state.save(&profile.name, &history)?;
        started();
        let mut run = Running { runner: self, profile, lock: &lock, found: Found::default() };
        let status = run.all();
        let found = run.found;
        let end = End { time: clock(), status, snapshot: found.snapshot, error: found.error };
        history.end(end.clone());
        self.state.save(&profile.name, &history)?;
        let again = due_at(profile, &history, &Moment { now: end.time, ..moment });
        let again = again.filter(|_| !status.is_success());
        Ok(Attempt::Ran(Report { started: now, end, figures: found.figures, again }))
    }
}

/// What a run found out so far.
#[derive(Default)]
struct Found {
    snapshot: Option<String>,
    error: Option<String>,
    figures: Figures,
    /// Whether a step could not read all that it should.
    is_partial: bool,
    /// Whether all snapshots stay because the rules keep none.
    is_kept: bool,
    /// The snapshots dated in the future of which a step has warned.
    warned_of: Option<Value>,
}

impl Found {
    /// What made the run partial, in words.
    fn unread(&self) -> String {
        match self.figures.problems {
            0 if self.is_kept => "the rules of the profile keep no snapshot, so none is removed".to_owned(),
            0 => "not everything could be read: see the log".to_owned(),
            1 => "1 file could not be read".to_owned(),
            problems => format!("{problems} files could not be read"),
        }
    }
}

struct Running<'a> {
    runner: &'a Runner,
    profile: &'a Profile,
    lock: &'a RepositoryLock,
    found: Found,
}

/// Why a step is not done.
enum StepError {
    /// Somebody wished to stop.
    Stopped,
    Failed(String),
}

impl Running<'_> {
    fn all(&mut self) -> Status {
        let mut result = self.steps();
        let profile = self.profile;
        match self.status(&result) {
            Status::Done => result = self.hooks("run-after", &profile.run_after, Status::Done),
            // Whoever asks to be told of failures wants to know of this too.
            Status::Partial if profile.run_partial.is_empty() => {
                self.last_hooks("run-failed", &profile.run_failed, Status::Partial);
            }
            Status::Partial => self.last_hooks("run-partial", &profile.run_partial, Status::Partial),
            Status::Failed | Status::Interrupted => {}
        }
        let status = self.status(&result);
        if !status.is_success() {
            self.last_hooks("run-failed", &profile.run_failed, status);
        }
        self.last_hooks("run-finally", &profile.run_finally, status);
        status
    }

    /// How well it went so far. Also takes down why it did not.
    fn status(&mut self, result: &Result<(), StepError>) -> Status {
        let stopped = self.runner.stop.times() > 0;
        match result {
            Ok(()) if self.found.is_partial => Status::Partial,
            Ok(()) => Status::Done,
            Err(_) if stopped => {
                self.found.error = Some("interrupted".to_owned());
                Status::Interrupted
            }
            Err(StepError::Stopped) => Status::Interrupted,
            Err(StepError::Failed(error)) => {
                self.found.error = Some(error.clone());
                Status::Failed
            }
        }
    }

    fn steps(&mut self) -> Result<(), StepError> {
        let profile = self.profile;
        self.hooks("run-before", &profile.run_before, Status::Done)?;
        let messages = self.step("backup", &["backup", "--no-push"])?;
        let saved = messages.into_iter().find(|message| message["message_type"] == "summary");
        let saved = saved.unwrap_or_default();
        let number = |key: &str| saved[key].as_u64().unwrap_or(0);
        self.found.figures.files_new = number("files_new");
        self.found.figures.files_changed = number("files_changed");
        self.found.figures.bytes_added = number("data_added_packed");
        self.found.figures.problems = number("error_count");
        self.found.snapshot = saved["snapshot_id"].as_str().map(str::to_owned);
        let mut result = Ok(());
        let keep = profile.keep_flags();
        if !keep.is_empty() {
            result = first(result, self.forget(&keep, &saved));
        }
        for remote in &profile.push {
            let pushed = self.step("push", &["push", remote]);
            if pushed.is_ok() {
                self.found.figures.pushed.push(remote.clone());
            }
            result = first(result, pushed.map(drop));
        }
        result
    }

    /// Removes what the profile does not keep of snapshots like the one that was `saved`. Snapshots of other
    /// directories or hosts are the business of other profiles.
    fn forget(&mut self, keep: &[String], saved: &Value) -> Result<(), StepError> {
        // Whether anything would be left is asked below, since what this run has saved stays.
        let mut arguments = vec!["forget", "--dry-run", "--group-by=host,paths", "--unsafe-allow-remove-all"];
        arguments.extend(keep.iter().map(String::as_str));
        let alike = |group: &&Value| {
            ["hostname", "paths", "paths_base64"].into_iter().all(|key| group.get(key) == saved.get(key))
        };
        let documents = self.step("forget", &arguments)?;
        let groups = documents.iter().filter_map(|document| document["groups"].as_array()).flatten();
        let groups: Vec<_> = groups.filter(alike).collect();
        let removed = groups.iter().filter_map(|group| group["remove"].as_array()).flatten();
        // By their keys, since records of equal content have one id. Whatever the rules and the clock say, what this
        // run has saved stays.
        let keys = removed.filter_map(|snapshot| snapshot["key"].as_str());
        let keys: Vec<_> = keys.filter(|key| saved["snapshot_key"] != **key).collect();
        if keys.is_empty() {
            return Ok(());
        }
        if groups.iter().any(|group| group["rules_keep_none"] == true) {
            tracing::warn!(
                "{}: the rules of the profile keep none of {} earlier snapshots, so nothing is removed: add a rule to it that \
                 keeps some, such as keep-last = 1",
                self.profile.name,
                keys.len()
            );
            self.found.is_partial = true;
            self.found.is_kept = true;
            return Ok(());
        }
        let flags = if self.profile.prune { ["forget", "--prune"].as_slice() } else { &["forget"] };
        let messages = self.step("forget", &[flags, keys.as_slice()].concat())?;
        self.found.figures.removed = keys.len() as u64;
        self.found.figures.bytes_freed =
            messages.iter().filter_map(|message| message["prune"]["bytes_freed"].as_u64()).sum();
        Ok(())
    }

    /// Makes a step by a command of the program, and gives the JSON that it prints.
    fn step(&mut self, name: &str, arguments: &[&str]) -> Result<Vec<Value>, StepError> {
        let Runner { program, config, .. } = self.runner;
        let mut command = Command::new(program);
        command.args(config.flags()).args(["--profile", &self.profile.name, "--json", "--quiet"]);
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        let failed = |error: io::Error| StepError::Failed(format!("{name} cannot be run: {error}"));
        command.stdin(self.lock.0.try_clone().map_err(failed)?);
        let child = self.runner.stop.spawn(&mut command, 0).map_err(failed)?;
        let mut child = child.ok_or(StepError::Stopped)?;
        let profile = &self.profile.name;
        let warned_of = &mut self.found.warned_of;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let (messages, complaint) = std::thread::scope(|scope| {
            let complaints = scope.spawn(|| {
                let mut last = None;
                for_each_line(err, |line| {
                    // Each step warns of them, and a run need say it only once.
                    let mut object = serde_json::from_str::<Value>(line).ok();
                    let future = object.as_mut().and_then(|object| Some(object.get_mut("future")?.take()));
                    if future.is_some() && *warned_of == future {
                        return;
                    }
                    *warned_of = future.or(warned_of.take());
                    if let Some(earlier) = last.replace(complaint(line, object.as_ref())) {
                        tracing::warn!("{profile}: {earlier}");
                    }
                });
                last
            });
            let mut messages = Vec::new();
            for_each_line(out, |line| match serde_json::from_str::<Value>(line) {
                Ok(message) if message["message_type"] == "error" => {
                    let text = message["error"]["message"].as_str().unwrap_or(line);
                    tracing::warn!("{profile}: {text}");
                }
                Ok(message) => messages.push(message),
                Err(_) => tracing::warn!("{profile}: {line}"),
            });
            (messages, complaints.join().unwrap_or_default())
        });
        let status = self.runner.stop.wait(&mut child).map_err(failed)?;
        if let Some(code @ (0 | PARTIAL)) = status.code() {
            self.found.is_partial |= code == PARTIAL;
            if let Some(complaint) = complaint {
                tracing::warn!("{profile}: {complaint}");
            }
            return Ok(messages);
        }
        if status.code() == Some(INTERRUPTED) {
            return Err(StepError::Failed(format!("{name} was interrupted")));
        }
        Err(StepError::Failed(complaint.unwrap_or_else(|| format!("{name} {}", how(status)))))
    }

    fn hooks(&mut self, name: &str, commands: &[String], status: Status) -> Result<(), StepError> {
        commands.iter().try_for_each(|command| self.hook(name, command, status, 0))
    }

    /// Runs hooks whose failure changes nothing any more, even when the run was stopped.
    fn last_hooks(&mut self, name: &str, commands: &[String], status: Status) {
        for command in commands {
            match self.hook(name, command, status, 1) {
                Err(StepError::Failed(error)) => tracing::warn!("{}: {error}", self.profile.name),
                Err(StepError::Stopped) | Ok(()) => {}
            }
        }
    }

    fn hook(&mut self, name: &str, shell: &str, status: Status, patience: u32) -> Result<(), StepError> {
        let failed = |error: io::Error| StepError::Failed(format!("{name} cannot be run: {error}"));
        let mut command = Command::new("/bin/sh");
        command.args(["-c", shell]).stdin(Stdio::null());
        // Standard output is for what the program itself has to say.
        command.stdout(io::stderr());
        command.env("TREERING_PROFILE", &self.profile.name);
        command.envs(self.profile.repo.as_ref().map(|repo| ("TREERING_REPOSITORY", repo)));
        // The program takes the profile from the environment, so it must find it.
        command.envs(std::path::absolute(&self.runner.config.path).map(|path| ("TREERING_CONFIG", path)));
        if name != "run-before" {
            command.env("TREERING_STATUS", status.name());
            command.env("TREERING_SNAPSHOT", self.found.snapshot.as_deref().unwrap_or_default());
            let error = match status {
                Status::Partial => self.found.unread(),
                _ => self.found.error.clone().unwrap_or_default(),
            };
            command.env("TREERING_ERROR", error);
        }
        let child = self.runner.stop.spawn(&mut command, patience).map_err(failed)?;
        let status = self.runner.stop.wait(&mut child.ok_or(StepError::Stopped)?).map_err(failed)?;
        match status.success() {
            true => Ok(()),
            false => Err(StepError::Failed(format!("{name} {}: {shell}", how(status)))),
        }
    }
}

/// The first failure of two results.
fn first(one: Result<(), StepError>, two: Result<(), StepError>) -> Result<(), StepError> {
    if one.is_err() { one } else { two }
}

/// How a child ended, for people.
fn how(status: ExitStatus) -> String {
    let mut text = String::new();
    let _ = match (status.code(), status.signal()) {
        (Some(code), _) => write!(text, "failed with exit status {code}"),
        (None, Some(signal)) => write!(text, "was ended by signal {signal}"),
        (None, None) => write!(text, "failed"),
    };
    text
}

/// The message in a line that a step printed to standard error, which is JSON, `object`, or text.
fn complaint(line: &str, object: Option<&Value>) -> String {
    let message = object.and_then(|object| object["message"].as_str());
    message.unwrap_or_else(|| line.strip_prefix("treering: ").unwrap_or(line)).to_owned()
}

/// Calls `take` with each line; what is too long for one is cut.
fn for_each_line(source: Option<impl Read>, mut take: impl FnMut(&str)) {
    let Some(source) = source else { return };
    let mut source = BufReader::new(source);
    let mut line = Vec::new();
    loop {
        line.clear();
        // A pipe that cannot be read has ended.
        match (&mut source).take(LONGEST_LINE).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => take(String::from_utf8_lossy(&line).trim_end()),
        }
    }
}
