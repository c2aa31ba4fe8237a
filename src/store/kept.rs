//! A child process that does not outlive this one.
//!
//! Not even when this one is killed. So it is the child of a shell that reads from a pipe to which nobody
//! writes: when this process ends, for whatever reason, the pipe ends, and the shell ends the child. Both
//! are in a process group of their own, so that an interrupt from the keyboard leaves it to us to end
//! them.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::error::Reason;
use super::net::shorten;
use crate::child::LOOK;
use crate::progress::Interrupted;
use crate::signals;

/// Starts the command that it is given, and ends it at the end of its own input, with whatever that has
/// started: all are one process group. The error output is left to the command alone, so that its end is
/// the end of the command.
const KEEPER: &str = r#"
exec 3<&0
"$@" </dev/null 3<&- &
exec 2>/dev/null
trap '' HUP INT TERM
read -r line <&3
kill -TERM 0
wait
"#;

/// The most bytes of a line; a longer one counts as several.
const LINE: u64 = 64 << 10;

/// Lines of what it says that are kept to explain a failure.
const LINES: usize = 5;

/// The process; it is ended when this is dropped.
pub(super) struct Kept {
    shell: Child,
    log: Arc<Mutex<Log>>,
}

/// What the process wrote to its error output.
#[derive(Default)]
struct Log {
    last: VecDeque<String>,
    count: usize,
}

impl Kept {
    /// Starts the program, and waits until it says a line in which `find` finds what is wanted.
    pub fn start<T: Send + 'static>(
        command: &[OsString],
        environment: &[(&str, &str)],
        find: impl Fn(&str) -> Option<T> + Send + 'static,
        timeout: Duration,
    ) -> Result<(Self, T), Reason> {
        let shell = Command::new("sh")
            .args(["-c", KEEPER, "sh"])
            .args(command)
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|error| {
                Reason::permanent(format!("sh, which keeps the program, does not start: {error}"))
            })?;
        let mut kept = Self { shell, log: Arc::default() };
        let stderr = kept.shell.stderr.take().ok_or_else(|| Reason::permanent("sh has no error output"))?;
        let (send, found) = mpsc::channel();
        let log = kept.log.clone();
        thread::spawn(move || {
            // To its end: the program would wait for a reader.
            let (mut stderr, mut line) = (BufReader::new(stderr), Vec::new());
            while let Ok(1..) = stderr.by_ref().take(LINE).read_until(b'\n', &mut line) {
                let line = shorten(&String::from_utf8_lossy(&std::mem::take(&mut line)));
                let wanted = find(&line);
                let mut log = lock(&log);
                log.count += 1;
                log.last.push_back(line);
                if log.last.len() > LINES {
                    log.last.pop_front();
                }
                if let Some(wanted) = wanted {
                    // Nobody waits for a second one.
                    let _ = send.send(wanted);
                }
            }
        });
        let deadline = Instant::now() + timeout;
        let wanted = loop {
            match found.recv_timeout(LOOK) {
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {
                    if signals::is_stopping() {
                        return Err(Reason::permanent(Interrupted));
                    }
                }
                wanted => break wanted,
            }
        };
        match wanted {
            Ok(wanted) => Ok((kept, wanted)),
            Err(_) => {
                let (said, program) = (kept.said(), command.join(" ".as_ref()));
                let program = program.display();
                Err(Reason::permanent(format!("{program} did not start: {said}; is it installed?")))
            }
        }
    }

    /// How many lines it has said.
    pub fn lines(&self) -> usize {
        lock(&self.log).count
    }

    /// The last lines that it has said.
    pub fn said(&self) -> String {
        lock(&self.log).last.iter().map(String::as_str).collect::<Vec<_>>().join("; ")
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // The end of its input tells the shell to end the program and then itself.
        drop(self.shell.stdin.take());
        // A failure would leave a zombie until we end, no more.
        let _ = self.shell.wait();
    }
}

fn lock(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}
