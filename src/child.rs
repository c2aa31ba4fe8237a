//! Running another program to its end, or until this process or the operation is to stop: then it is asked to end, so that
//! git removes its locks and temporary files, and killed when it does not.

use std::fs;
use std::io::{self, Read};
use std::iter;
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

    /// Asks it to end.
    pub fn end(&mut self) -> io::Result<ExitStatus> {
        let pid = Pid::from_child(&self.child);
        // A shell just dies, and what it runs lives on. Git ends what it runs itself, in its own order.
        let below = if self.is_shell { descendants(pid) } else { Vec::new() };
        for pid in iter::once(pid).chain(below) {
            let _ = rustix::process::kill_process(pid, Signal::TERM);
        }
        // It may have more to say, and waits until that is read.
        drop((self.child.stderr.take(), self.child.stdout.take()));
        for _ in 0..PATIENCE.as_millis() / LOOK.as_millis() {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            thread::sleep(LOOK);
        }
        self.child.kill()?;
        self.child.wait()
    }
}

/// Waits until there is something to read, looking now and then whether it is time to stop.
pub fn wait_to_read(from: &impl AsFd, progress: &Progress) -> io::Result<()> {
    let timeout = Timespec { tv_sec: 0, tv_nsec: LOOK.subsec_nanos().into() };
    loop {
        check(progress).map_err(|_| io::Error::from(io::ErrorKind::Interrupted))?;
        match poll(&mut [PollFd::new(from, PollFlags::IN)], Some(&timeout)) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The processes that `ancestor` and its descendants have started and that have not ended. They have no group of their own,
/// since only the group of the terminal may ask there.
fn descendants(ancestor: Pid) -> Vec<Pid> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let number = |text: Option<&str>| text.and_then(|text| text.parse().ok()).and_then(Pid::from_raw);
        // Behind the name, which may hold anything, are the state and the parent.
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| number(rest.split_whitespace().nth(1)));
        parents.extend(number(entry.file_name().to_str()).zip(parent));
    }
    let mut found = vec![ancestor];
    let mut at = 0;
    while let Some(&above) = found.get(at) {
        found.extend(parents.iter().filter(|(_, parent)| *parent == above).map(|(pid, _)| *pid));
        at += 1;
    }
    found.split_off(1)
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
