//! The process that waits, and starts what is due.
//!
//! It sleeps in one `poll`: on a timer that is set to the next due time by the clock on the wall (and that fires also
//! when that clock is set), on signals, and on the ends of its children. Nothing else wakes it. A run is a child, the
//! command `schedule run`, which takes down by itself how it went; so the daemon holds nothing that a kill could
//! lose, and when it is killed and started again, a run that goes on meanwhile is waited for.
//!
//! SIGHUP reads the profiles again; where they are wrong, the old ones stay, for the children too. SIGTERM and
//! SIGINT ask the runs to stop, wait for them, and end; a second one has them killed.

use std::collections::HashMap;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::Timespec;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level::pipe;

use super::due::{History, Moment, Run, due_at, pause};
use super::profile::{ConfigFile, Profile, ProfileError, Profiles};
use super::state::{State, StateError};
use crate::causes::chain;
use crate::signals::not_ignored;
use crate::spoken::clock;

/// Why the daemon cannot work.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The profiles are wrong from the start.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// The state cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The operating system refused something without which nothing can be waited for.
    #[error("cannot {action}")]
    Io {
        /// What was to be done.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
}

fn failed<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> DaemonError {
    move |source| DaemonError::Io { action, source: source.into() }
}

/// What starts the runs of profiles when they are due.
#[derive(Debug)]
pub struct Daemon {
    program: PathBuf,
    config: ConfigFile,
    home: Option<PathBuf>,
    host: String,
    state: State,
    profiles: Profiles,
    since: Timestamp,
    running: Vec<Running>,
    /// Runs that were started and did not even begin: how often in a row, and when to try again.
    held: HashMap<String, (u32, Timestamp)>,
}

#[derive(Debug)]
struct Running {
    name: String,
    repo: Option<PathBuf>,
    child: Child,
    /// Becomes readable when the child ends.
    ended: OwnedFd,
    /// The last run before.
    before: Option<Run>,
}

impl Daemon {
    /// For the profiles in the file `config`, of which `home` is the home directory; it keeps what it knows below
    /// `state`. `program` is what `schedule run` is a command of, and `host` the name of this machine.
    pub fn new(
        program: PathBuf,
        config: &Path,
        home: Option<PathBuf>,
        host: String,
        state: &Path,
    ) -> Result<Self, DaemonError> {
        let config = ConfigFile::new(config);
        let (profiles, text) = config.read(home.as_deref())?;
        let state = State::new(state, profiles.path());
        let config = ConfigFile { path: profiles.path().to_owned(), text: Some(state.keep_config(&text)?) };
        let since = clock();
        let (running, held) = Default::default();
        Ok(Self { program, config, home, host, state, profiles, since, running, held })
    }

    /// Starts what is due, when it is due, until it is asked to stop.
    pub fn run(mut self) -> Result<(), DaemonError> {
        // Also where it was to be ignored: it ends nothing here, which is all that nohup asks for.
        let mut hangup = signals(&[SIGHUP])?;
        let mut stop = signals(&not_ignored(&[SIGTERM, SIGINT]))?;
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Realtime, flags).map_err(failed("make a timer"))?;
        self.tell_what_is_watched();
        let mut is_stopping = false;
        while !(is_stopping && self.running.is_empty()) {
            let next = if is_stopping { None } else { self.start_due() };
            set(&timer, next).map_err(failed("set a timer"))?;
            self.sleep(&[timer.as_fd(), hangup.as_fd(), stop.as_fd()])?;
            // How often the timer fired, or that the clock was set: either way everything is looked at again.
            let _ = rustix::io::read(&timer, &mut [0; 8]);
            self.reap();
            if drain(&mut hangup) {
                self.reload();
            }
            if drain(&mut stop) {
                self.stop_runs(is_stopping);
                is_stopping = true;
            }
        }
        tracing::info!("stopped");
        Ok(())
    }

    fn sleep(&self, fds: &[std::os::fd::BorrowedFd<'_>]) -> Result<(), DaemonError> {
        let ends = self.running.iter().map(|running| running.ended.as_fd());
        let all = fds.iter().copied().chain(ends);
        let mut all: Vec<_> = all.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        match poll(&mut all, None) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(failed("wait for something to do")(error)),
        }
    }

    /// Starts what is due and whose repository is not in use; returns when something is due next.
    fn start_due(&mut self) -> Option<Timestamp> {
        let (now, zone) = (clock(), TimeZone::system());
        let moment = Moment { now, zone: &zone, since: self.since, host: &self.host };
        let mut due = Vec::new();
        for profile in self.profiles.iter().filter(|profile| !self.is_running(profile)) {
            let (time, before) = match self.state.meet(&profile.name, now) {
                Ok(history) => (due_at(profile, &history, &moment), history.last),
                Err(error) => {
                    tracing::error!("{}: {}", profile.name, chain(&error));
                    (profile.schedule.as_ref().and_then(|_| now.checked_add(pause(u32::MAX)).ok()), None)
                }
            };
            let held = self.held.get(&profile.name).map(|(_, until)| *until);
            due.extend(time.map(|time| (held.map_or(time, |held| held.max(time)), profile.clone(), before)));
        }
        due.sort_by(|one, two| (one.0, &one.1.name).cmp(&(two.0, &two.1.name)));
        let later = due.partition_point(|(time, ..)| *time <= now);
        let next = due.get(later).map(|(time, ..)| *time);
        due.truncate(later);
        let mut next_held = None;
        for (_, profile, before) in due {
            let is_in_use = self.running.iter().any(|running| running.repo == profile.repo);
            if !is_in_use && let Err(error) = self.start(&profile, before) {
                tracing::error!("{}: cannot start {}: {error}", profile.name, self.program.display());
                let until = self.hold(&profile.name);
                next_held = next_held.into_iter().chain(until).min();
            }
        }
        next.into_iter().chain(next_held).min()
    }

    fn is_running(&self, profile: &Profile) -> bool {
        self.running.iter().any(|running| running.name == profile.name)
    }

    fn start(&mut self, profile: &Profile, before: Option<Run>) -> io::Result<()> {
        let mut command = Command::new(&self.program);
        command
            .args(self.config.flags())
            .arg("--profile")
            .arg(&profile.name)
            .args(["schedule", "run", "--wait"]);
        // Asked to stop by the daemon, and not at the same time by a terminal.
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = command.spawn()?;
        match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
            Ok(ended) => {
                let (name, repo) = (profile.name.clone(), profile.repo.clone());
                self.running.push(Running { name, repo, child, ended, before });
                Ok(())
            }
            Err(error) => {
                // What cannot be waited for must not run.
                child.kill()?;
                child.wait()?;
                Err(error.into())
            }
        }
    }

    fn reap(&mut self) {
        let is_over = |running: &mut Running| !matches!(running.child.try_wait(), Ok(None));
        let over: Vec<_> = self.running.extract_if(.., is_over).collect();
        for Running { name, before, .. } in over {
            // It says itself how it went. One that did not even begin would be due at once, again and again.
            match self.state.history(&name) {
                Ok(Some(history)) if history.last != before => {
                    self.held.remove(&name);
                    self.tell_if_cut_off(&name, &history);
                }
                _ => drop(self.hold(&name)),
            }
        }
    }

    /// A run that was killed could not say so itself.
    fn tell_if_cut_off(&self, name: &str, history: &History) {
        if history.last.as_ref().is_none_or(|run| run.end.is_some()) {
            return;
        }
        let zone = TimeZone::system();
        let moment = Moment { now: clock(), zone: &zone, since: self.since, host: &self.host };
        let again = self.profiles.get(name).ok().and_then(|profile| due_at(profile, history, &moment));
        let again =
            again.map(|again| again.to_zoned(zone).strftime("; again at %Y-%m-%d %H:%M:%S").to_string());
        tracing::error!("{name}: the run was cut off{}", again.unwrap_or_default());
    }

    /// Lets `name` be for a while; returns until when.
    fn hold(&mut self, name: &str) -> Option<Timestamp> {
        let times = self.held.get(name).map_or(1, |(times, _)| times.saturating_add(1));
        let until = clock().checked_add(pause(times)).ok()?;
        self.held.insert(name.to_owned(), (times, until));
        Some(until)
    }

    fn reload(&mut self) {
        let read = || -> Result<_, DaemonError> {
            let (profiles, text) = ConfigFile::new(&self.config.path).read(self.home.as_deref())?;
            self.state.keep_config(&text)?;
            Ok(profiles)
        };
        match read() {
            Ok(profiles) => {
                self.profiles = profiles;
                self.held.clear();
                self.tell_what_is_watched();
            }
            Err(error) => tracing::error!("the old profiles stay: {}", chain(&error)),
        }
    }

    fn tell_what_is_watched(&self) {
        let names: Vec<_> = self.profiles.iter().filter(|profile| profile.schedule.is_some()).collect();
        let path = self.profiles.path().display();
        match names.as_slice() {
            [] => tracing::warn!("no profile in {path} has a schedule"),
            names => {
                let names: Vec<_> = names.iter().map(|profile| profile.name.as_str()).collect();
                tracing::info!("waiting for {} of {path}", names.join(", "));
            }
        }
    }

    fn stop_runs(&self, again: bool) {
        if !self.running.is_empty() {
            let names: Vec<_> = self.running.iter().map(|running| running.name.as_str()).collect();
            let verb = if again { "killing" } else { "stopping" };
            tracing::info!("{verb} {}", names.join(", "));
        }
        for running in &self.running {
            // It may have ended by itself; it is not reaped yet, so nobody else has its number.
            let _ = kill_process(Pid::from_child(&running.child), Signal::TERM);
        }
    }
}

/// What becomes readable when one of `signals` comes.
fn signals(signals: &[i32]) -> Result<UnixStream, DaemonError> {
    let (read, write) = UnixStream::pair().map_err(failed("make a socket"))?;
    read.set_nonblocking(true).map_err(failed("set up a socket"))?;
    for signal in signals {
        let write = write.try_clone().map_err(failed("copy a socket"))?;
        pipe::register(*signal, write).map_err(failed("wait for signals"))?;
    }
    Ok(read)
}

/// Whether anything came.
fn drain(stream: &mut UnixStream) -> bool {
    matches!(stream.read(&mut [0; 64]), Ok(1..))
}

/// Lets `timer` fire at `time`, and when the clock is set before that.
fn set(timer: &OwnedFd, time: Option<Timestamp>) -> rustix::io::Result<()> {
    let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
    let time = time
        .map_or(zero, |time| Timespec { tv_sec: time.as_second(), tv_nsec: time.subsec_nanosecond().into() });
    let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
    timerfd_settime(timer, flags, &Itimerspec { it_interval: zero, it_value: time }).map(drop)
}
