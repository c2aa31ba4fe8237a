//! Running another program to its end, or until this process or the operation is to stop: then it is asked to end, so that
//! git removes its locks and temporary files, and killed when it does not.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use crate::progress::{Interrupted, Progress};
use crate::signals;
use crate::watch::{self, Watch};

/// How long it may take to end when it is asked to.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often it is looked whether it has, and whether it is to be asked.
pub const LOOK: Duration = Duration::from_millis(50);

/// Whether the operation that `progress` is of goes on.
pub fn check(progress: &Progress) -> Result<(), Interrupted> {
    if signals::is_stopping() { Err(Interrupted) } else { progress.check() }
}

/// A program that was started. Whoever has it looks at [`check`] while it runs.
#[derive(Debug)]
pub struct Running {
    /// The process.
    pub child: Child,
    /// Whether it is a shell that runs what a person gave.
    is_shell: bool,
    _known: signals::Child,
}

impl Running {
    /// Starts `command`.
    pub fn start(command: &mut Command) -> io::Result<Result<Self, Interrupted>> {
        match signals::Child::start() {
            Some(known) => Ok(Ok(Self { child: command.spawn()?, is_shell: false, _known: known })),
            None => Ok(Err(Interrupted)),
        }
    }

    /// As [`start`](Self::start), of a shell that runs other programs.
    pub fn start_shell(command: &mut Command) -> io::Result<Result<Self, Interrupted>> {
        Ok(Self::start(command)?.map(|running| Self { is_shell: true, ..running }))
    }

    /// Waits for its end, and asks it to end when this process is to stop.
    pub fn wait(&mut self) -> io::Result<Result<ExitStatus, Interrupted>> {
        let status = loop {
            if signals::is_stopping() {
                self.end()?;
                return Ok(Err(Interrupted));
            }
            match self.child.try_wait()? {
                Some(status) => break status,
                None => thread::sleep(LOOK),
            }
        };
        // Ctrl-C reaches it at the same time.
        let is_interrupted = status.signal() == Some(Signal::INT.as_raw());
        Ok(if is_interrupted { Err(Interrupted) } else { Ok(status) })
    }

    /// Waits for its end, looking now and then whether it is time to stop, and whether it is within its bounds.
    pub fn wait_within(&mut self, progress: &Progress, watch: &mut Watch) -> io::Result<ExitStatus> {
        // Mostly it is about to end.
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            go_on(progress, watch)?;
            thread::sleep(pause);
            pause = LOOK.min(pause * 2);
        }
    }

    /// Asks it to end, and then what it has started and left.
    pub fn end(&mut self) -> io::Result<ExitStatus> {
        let pid = Pid::from_child(&self.child);
        let below = watch::descendants(pid);
        send(pid, Signal::TERM);
        if self.is_shell {
            // A shell just dies. Git ends what it runs itself, in its own order.
            below.iter().for_each(|process| send(process.pid, Signal::TERM));
        }
        // It may have more to say, and waits until that is read.
        drop((self.child.stderr.take(), self.child.stdout.take()));
        let status = match in_time(|| self.child.try_wait().transpose()) {
            Some(status) => status?,
            None => {
                self.child.kill()?;
                self.child.wait()?
            }
        };
        // Git leaves some of what it runs: ssh that waits for an answer, or what makes objects of deltas.
        let left = || below.iter().filter(|process| !self.is_shell && process.runs());
        left().for_each(|process| send(process.pid, Signal::TERM));
        if in_time(|| left().next().is_none().then_some(())).is_none() {
            left().for_each(|process| send(process.pid, Signal::KILL));
        }
        Ok(status)
    }
}

/// Sends a signal. A process that is gone does not get it.
fn send(pid: Pid, signal: Signal) {
    let _ = rustix::process::kill_process(pid, signal);
}

/// Waits until `look` finds something, but not for longer than it may take to end.
fn in_time<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    for _ in 0..PATIENCE.as_millis() / LOOK.as_millis() {
        if let Some(found) = look() {
            return Some(found);
        }
        thread::sleep(LOOK);
    }
    None
}

/// Whether neither this process nor the operation is to stop, and the program that is watched is within its bounds.
fn go_on(progress: &Progress, watch: &mut Watch) -> io::Result<()> {
    check(progress).map_err(|_| io::Error::from(io::ErrorKind::Interrupted))?;
    watch.look().map_err(io::Error::other)
}

/// Waits until there is something to read, looking now and then whether it is time to stop.
fn wait_to_read(from: &impl AsFd, progress: &Progress) -> io::Result<()> {
    poll_until(from, || check(progress).map_err(|_| io::Error::from(io::ErrorKind::Interrupted)))
}

/// The same, of what a program says that is watched.
pub fn wait_to_hear(from: &impl AsFd, progress: &Progress, watch: &mut Watch) -> io::Result<()> {
    poll_until(from, || go_on(progress, watch))
}

fn poll_until(from: &impl AsFd, mut go_on: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    let timeout = Timespec { tv_sec: 0, tv_nsec: LOOK.subsec_nanos().into() };
    loop {
        go_on()?;
        match poll(&mut [PollFd::new(from, PollFlags::IN)], Some(&timeout)) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Runs a shell, `command`, to its end, and returns how it ended and what it printed. It is not read on when that is more than
/// `limit` bytes.
pub fn output(command: &mut Command, limit: u64) -> io::Result<Result<(ExitStatus, Vec<u8>), Interrupted>> {
    let mut running = match Running::start_shell(command.stdout(Stdio::piped()))? {
        Ok(running) => running,
        Err(interrupted) => return Ok(Err(interrupted)),
    };
    let mut printed = Vec::new();
    if let Some(stdout) = running.child.stdout.take()
        && let Err(error) = read(stdout.take(limit), &mut printed)
    {
        let _ = running.end();
        return Err(error);
    }
    Ok(running.wait()?.map(|status| (status, printed)))
}

/// Reads to the end, or until this process is to stop.
fn read(mut from: io::Take<ChildStdout>, printed: &mut Vec<u8>) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let read = wait_to_read(from.get_ref(), &Progress::new()).and_then(|()| from.read(&mut buffer));
        match read {
            Ok(0) => return Ok(()),
            Ok(len) => printed.extend_from_slice(&buffer[..len]),
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            Err(_) if signals::is_stopping() => return Ok(()),
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufRead;

    use super::*;

    #[test]
    fn what_a_program_has_started_ends_with_it() {
        // What it starts takes no notice of being asked.
        let script = "(trap '' TERM; echo; while :; do sleep 1; done) & exec sleep 600";
        let mut command = Command::new("sh");
        let mut running =
            Running::start(command.args(["-c", script]).stdout(Stdio::piped())).unwrap().unwrap();
        let stdout = running.child.stdout.take().unwrap();
        io::BufReader::new(stdout).read_line(&mut String::new()).unwrap();
        let below = watch::descendants(Pid::from_child(&running.child));
        assert!(below.iter().any(watch::Process::runs));
        running.end().unwrap();
        let stubborn = below.first().unwrap();
        assert!(in_time(|| (!stubborn.runs()).then_some(())).is_some());
    }
}
