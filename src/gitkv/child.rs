//! Running git to its end, or until this process or the operation is to stop: then git is asked to end, so that it
//! removes its locks and temporary files, and killed when it does not.

use std::io;
use std::os::fd::AsFd;
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use crate::progress::{Interrupted, Progress};
use crate::signals;

/// How long git may take to end when it is asked to.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often it is looked whether it has, and whether it is to be asked.
pub(super) const LOOK: Duration = Duration::from_millis(50);

/// Whether the operation that `progress` is of goes on.
pub(super) fn check(progress: &Progress) -> Result<(), Interrupted> {
    if signals::is_stopping() { Err(Interrupted) } else { progress.check() }
}

/// A program that was started. Whoever has it looks at [`check`] while it runs.
pub(super) struct Running {
    pub child: Child,
    _known: signals::Child,
}

impl Running {
    /// Starts `command`.
    pub fn start(command: &mut Command) -> io::Result<Result<Self, Interrupted>> {
        match signals::Child::start() {
            Some(known) => Ok(Ok(Self { child: command.spawn()?, _known: known })),
            None => Ok(Err(Interrupted)),
        }
    }

    /// Asks it to end.
    pub fn end(&mut self) -> io::Result<ExitStatus> {
        let _ = rustix::process::kill_process(Pid::from_child(&self.child), Signal::TERM);
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
pub(super) fn wait_to_read(from: &impl AsFd, progress: &Progress) -> io::Result<()> {
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
