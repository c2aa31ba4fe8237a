//! Whatever the program `rclone` reaches, through `rclone serve webdav` on loopback.
//!
//! The server has a random password, given in its environment (a command line could be read by other
//! users), and a port of its own choice. It is started at the first operation that needs it, and again
//! when it has died.
//!
//! It must not outlive us, not even when we are killed. So it is the child of a shell that reads from a
//! pipe to which nobody writes: when this process ends, for whatever reason, the pipe ends, and the shell
//! ends rclone. Both are in a process group of their own, so that an interrupt from the keyboard leaves
//! it to us to end them.
//!
//! Making, checking and removing the place are done by rclone commands, which tell more precisely what is
//! wrong than WebDAV can.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use serde::Deserialize;

use super::backend::{Backend, Content, Entries, Entry, Walk};
use super::error::Reason;
use super::objects::Objects;
use super::url::WebDav;

/// Starts the command that it is given and ends it at the end of its own input. The error output is left
/// to the command alone, so that its end is the end of the command.
const KEEPER: &str = r#"
exec 3<&0
"$@" </dev/null 3<&- &
child=$!
exec 2>/dev/null
trap 'kill "$child"' HUP INT TERM
read -r line <&3
kill "$child"
wait "$child"
"#;

/// Lines of rclone's log that are kept to explain a failure.
const LOG_LINES: usize = 5;
/// rclone's exit status for a directory that is not there.
const DIRECTORY_NOT_FOUND: i32 = 3;

pub(super) struct Rclone {
    program: Vec<OsString>,
    remote: String,
    timeout: Duration,
    server: Mutex<Option<Arc<Server>>>,
}

struct Server {
    objects: Objects,
    log: Arc<Mutex<Log>>,
    _keeper: Keeper,
}

struct Keeper(Child);

impl Drop for Keeper {
    fn drop(&mut self) {
        // The end of its input tells it to end rclone and then itself.
        drop(self.0.stdin.take());
        // A failure would leave a zombie until we end, no more.
        let _ = self.0.wait();
    }
}

/// What rclone wrote to its error output.
#[derive(Default)]
struct Log {
    lines: VecDeque<String>,
    count: usize,
    ended: bool,
}

impl Log {
    fn push(&mut self, line: String) {
        self.count += 1;
        self.lines.push_back(line);
        if self.lines.len() > LOG_LINES {
            self.lines.pop_front();
        }
    }

    fn text(&self) -> String {
        self.lines.iter().map(String::as_str).collect::<Vec<_>>().join("; ")
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What `rclone backend features` prints, as far as it is wanted.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Remote {
    features: Features,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Features {
    can_have_empty_directories: bool,
}

impl Rclone {
    pub fn new(remote: &str, program: &[OsString], timeout: Duration) -> Self {
        Self { program: program.to_vec(), remote: remote.into(), timeout, server: Mutex::new(None) }
    }

    fn arguments(&self, command: &[&str]) -> Vec<OsString> {
        let seconds = format!("{}s", self.timeout.as_secs().max(1));
        let mut arguments = self.program.clone();
        arguments.extend(command.iter().map(OsString::from));
        arguments.extend(
            ["--contimeout", &seconds, "--timeout", &seconds, "--", &self.remote].map(OsString::from),
        );
        arguments
    }

    /// Runs `rclone COMMAND REMOTE` to its end.
    fn run(&self, command: &[&str]) -> Result<Output, Reason> {
        // rclone bounds each wait by itself; this bounds what it does not, and its own retries.
        let limit = self.timeout.saturating_mul(5);
        let mut arguments = self.arguments(command).into_iter();
        let program = arguments.next().ok_or_else(|| Reason::permanent("no rclone program is given"))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let output = runtime.block_on(async {
            let mut command = tokio::process::Command::new(&program);
            command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
            tokio::time::timeout(limit, command.output()).await
        });
        match output {
            Err(_) => Err(Reason::TimedOut(limit)),
            Ok(Err(error)) => {
                let program = program.display();
                Err(Reason::permanent(format!(
                    "the program {program} cannot be started: {error}; is it installed?"
                )))
            }
            Ok(Ok(output)) => Ok(output),
        }
    }

    /// As [`run`](Self::run), for a command that must succeed.
    fn expect(&self, command: &[&str]) -> Result<Vec<u8>, Reason> {
        let output = self.run(command)?;
        match output.status.success() {
            true => Ok(output.stdout),
            false => Err(refusal(&output)),
        }
    }

    fn server(&self) -> Result<Arc<Server>, Reason> {
        let mut server = lock(&self.server);
        if let Some(server) = server.as_ref().filter(|server| !lock(&server.log).ended) {
            return Ok(server.clone());
        }
        Ok(server.insert(Arc::new(self.start()?)).clone())
    }

    fn start(&self) -> Result<Server, Reason> {
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(|error| Reason::permanent(error.to_string()))?;
        let mut password = String::with_capacity(64);
        crate::digest::write_hex(&mut password, &random).map_err(Reason::permanent)?;
        let serve =
            ["serve", "webdav", "--addr", "127.0.0.1:0", "--dir-cache-time", "0s", "--poll-interval", "0s"];
        let mut keeper = Command::new("sh")
            .args(["-c", KEEPER, "sh"])
            .args(self.arguments(&serve))
            .env("RCLONE_USER", "treering")
            .env("RCLONE_PASS", &password)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map(Keeper)?;
        let stderr = keeper.0.stderr.take().ok_or_else(|| Reason::permanent("rclone has no error output"))?;
        let log = Arc::new(Mutex::new(Log::default()));
        let (send, address) = mpsc::channel();
        let reader = log.clone();
        thread::spawn(move || {
            // A line that is not UTF-8 or too long is no reason to stop reading: rclone would block.
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                if let Some(endpoint) = address_in(&line) {
                    // Nobody waits for a second one.
                    let _ = send.send(endpoint);
                }
                lock(&reader).push(line);
            }
            lock(&reader).ended = true;
        });
        let Ok(endpoint) = address.recv_timeout(self.timeout) else {
            let said = lock(&log).text();
            return Err(Reason::permanent(format!("rclone serve webdav did not start: {said}")));
        };
        let place = WebDav {
            endpoint,
            user: Some("treering".into()),
            password: Some(password),
            path: String::new(),
            loopback: true,
        };
        Ok(Server { objects: Objects::webdav(&place, self.timeout)?, log, _keeper: keeper })
    }

    /// Lets the server work, and explains its failure with what rclone logged meanwhile.
    fn served<T>(&self, work: impl FnOnce(&Objects) -> Result<T, Reason>) -> Result<T, Reason> {
        let server = self.server()?;
        let before = lock(&server.log).count;
        work(&server.objects).map_err(|reason| match reason {
            Reason::Failed { temporary, source } => {
                let log = lock(&server.log);
                let temporary = temporary || log.ended;
                match log.count == before {
                    true => Reason::Failed { temporary, source },
                    false => Reason::Failed {
                        temporary,
                        source: format!("{source}; rclone: {}", log.text()).into(),
                    },
                }
            }
            reason => reason,
        })
    }
}

fn refusal(output: &Output) -> Reason {
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim().lines().next_back().unwrap_or_default().to_owned();
    Reason::permanent(format!("rclone ended with {}: {said}", output.status))
}

/// The address that a line of the log says the server has.
fn address_in(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("http://127.0.0.1:")?;
    let port: u16 = rest.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()?;
    Some(format!("http://127.0.0.1:{port}"))
}

impl Backend for Rclone {
    fn create(&self) -> Result<(), Reason> {
        self.expect(&["mkdir"])?;
        match self.expect(&["lsf", "--max-depth", "1"])?.is_empty() {
            true => Ok(()),
            false => Err(Reason::NotEmpty),
        }
    }

    fn check(&self) -> Result<(), Reason> {
        let output = self.run(&["lsf", "--max-depth", "1"])?;
        if output.status.success() {
            return Ok(());
        }
        if output.status.code() != Some(DIRECTORY_NOT_FOUND) {
            return Err(refusal(&output));
        }
        // Some remotes have no directories: there, a store without objects is no directory, and there all
        // the same.
        let features = self.expect(&["backend", "features"])?;
        match serde_json::from_slice::<Remote>(&features) {
            Ok(remote) if !remote.features.can_have_empty_directories => Ok(()),
            _ => Err(Reason::NoStore),
        }
    }

    fn destroy(&self) -> Result<(), Reason> {
        self.check()?;
        self.expect(&["purge"]).map(drop)
    }

    fn list<'a>(&'a self, directory: &str) -> Entries<'a> {
        Box::new(Walk::new(directory, |path: &str| self.served(|objects| objects.read_directory(path))))
    }

    fn load(&self, path: &str, range: Option<Range<u64>>, limit: u64) -> Result<Vec<u8>, Reason> {
        self.served(|objects| objects.load(path, range, limit))
    }

    fn store(&self, path: &str, content: &Content<'_>, new: bool) -> Result<(), Reason> {
        self.served(|objects| objects.store(path, content, new))
    }

    fn info(&self, path: &str) -> Result<Entry, Reason> {
        self.served(|objects| objects.info(path))
    }

    fn delete(&self, path: &str) -> Result<(), Reason> {
        self.served(|objects| objects.delete(path))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), Reason> {
        self.served(|objects| objects.rename(from, to))
    }

    fn is_exclusive(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_address_in_the_log() {
        let old = "2022/09/20 19:41:00 NOTICE: Local file system at /x: WebDav Server started on http://127.0.0.1:38937/";
        let new = "NOTICE: webdav root 'x': WebDav Server started on [http://127.0.0.1:5/]";
        assert_eq!(address_in(old).as_deref(), Some("http://127.0.0.1:38937"));
        assert_eq!(address_in(new).as_deref(), Some("http://127.0.0.1:5"));
        assert_eq!(address_in("http://127.0.0.1:x"), None);
    }
}
