//! A repository, a tree to back up, and the program to do it with.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::Signal;

/// The program.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_treering");

/// A directory with a `tree` and perhaps a `repo`, removed at the end.
pub struct Lab {
    dir: tempfile::TempDir,
}

/// How a run of the program ended.
#[derive(Debug)]
pub struct Outcome {
    pub status: Option<i32>,
    pub out: String,
    pub err: String,
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { status: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Outcome {
    /// Of what may print anything.
    pub fn lossy(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { status: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Lab {
    /// With a small tree, and no repository.
    pub fn bare() -> Self {
        // The program warns of repositories that everybody can read, as git makes them.
        let dir = tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o700)).tempdir().unwrap();
        let lab = Self { dir };
        lab.write("tree/letters/one", "first letter\n");
        lab.write("tree/letters/two", "second letter\n");
        lab.write("tree/notes", "notes\n");
        lab
    }

    /// With a small tree and an empty repository.
    pub fn new() -> Self {
        let lab = Self::bare();
        lab.ok(["init"]);
        lab
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Writes a file that can be run.
    pub fn write_program(&self, name: &str, text: &str) {
        self.write(name, text);
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// The program, to be run in the directory of this lab with the repository in the environment.
    pub fn command<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(arguments).stdin(Stdio::null());
        self.set_up(&mut command);
        command
    }

    /// The same, started by another program that takes it as its last arguments.
    pub fn by<A: AsRef<OsStr>>(
        &self,
        mut wrapper: Command,
        arguments: impl IntoIterator<Item = A>,
    ) -> Command {
        wrapper.arg(PROGRAM).args(arguments);
        self.set_up(&mut wrapper);
        wrapper
    }

    /// Lets another program run where the program does, and with the same environment.
    pub fn set_up(&self, command: &mut Command) {
        command
            .current_dir(self.dir.path())
            .env("TREERING_REPOSITORY", "repo")
            .env("TZ", "UTC")
            .env("XDG_CACHE_HOME", self.path("cache"))
            .env("XDG_STATE_HOME", self.path("state"))
            .env_remove("TREERING_LOG")
            .env_remove("TREERING_CONFIG")
            .env_remove("TREERING_PROFILE")
            .env_remove("TREERING_PASSWORD")
            .env_remove("TREERING_PASSWORD_FILE")
            .env_remove("TREERING_PASSWORD_COMMAND")
            .env_remove("TREERING_IDENTITY");
    }

    /// Runs the program to its end.
    pub fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Outcome {
        self.command(arguments).output().unwrap().into()
    }

    /// Starts the program at a terminal, by script(1). Where that is missing, the test must end at once: on a
    /// machine of CI it fails here, elsewhere a line says that it is skipped.
    #[track_caller]
    pub fn at_terminal(&self, line: &str, stdin: Stdio) -> Option<Child> {
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--command", &format!("{PROGRAM} {line}"), "/dev/null"]);
        self.set_up(&mut script);
        match script.env("TERM", "xterm").stdin(stdin).stdout(Stdio::piped()).spawn() {
            Ok(child) => Some(child),
            Err(error) => {
                let is_ci = std::env::var_os("CI").is_some_and(|value| value == "true");
                assert!(!is_ci, "cannot run script(1): {error}; install util-linux (Debian: bsdutils)");
                eprintln!("skipped: cannot run script(1): {error}");
                None
            }
        }
    }

    /// As [`run`](Self::run), by somebody whom permissions bind, also where the tests run as root.
    pub fn as_nobody<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Outcome {
        if !rustix::process::geteuid().is_root() {
            return self.run(arguments);
        }
        let mut setpriv = Command::new("setpriv");
        // Still the owner of what is here.
        setpriv.args(["--bounding-set=-all", "--inh-caps=-all"]);
        self.by(setpriv, arguments).stdin(Stdio::null()).output().unwrap().into()
    }

    /// Runs a script in the directory of this lab, in which `$T` is the program, as root who may mount what
    /// nobody else sees. Where that cannot be, the test must end at once; a line says that it is skipped.
    #[track_caller]
    pub fn with_mounts(&self, script: &str) -> Option<Outcome> {
        if !crate::programs::are_here(&["unshare", "mount"]) {
            return None;
        }
        let mut flags = vec!["--mount"];
        if !rustix::process::geteuid().is_root() {
            flags.extend(["--user", "--map-root-user"]);
        }
        // A container may forbid it.
        if !Command::new("unshare").args(&flags).arg("true").status().unwrap().success() {
            eprintln!("skipped: no mount namespace can be made here");
            return None;
        }
        let mut command = Command::new("unshare");
        command.args(&flags).args(["sh", "-euc", script]).env("T", PROGRAM).stdin(Stdio::null());
        self.set_up(&mut command);
        Some(command.output().unwrap().into())
    }

    /// What the program prints when all goes well.
    #[track_caller]
    pub fn ok<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> String {
        let outcome = self.run(arguments);
        assert_eq!((outcome.status, outcome.err.as_str()), (Some(0), ""), "{}", outcome.out);
        outcome.out
    }
}

/// What the files of a small tree hold, by path.
pub fn contents(root: &Path) -> Vec<(PathBuf, String)> {
    let files = walkdir::WalkDir::new(root).sort_by_file_name().into_iter().map(Result::unwrap);
    files
        .filter(|entry| entry.file_type().is_file())
        .map(|entry| {
            let path = entry.path().strip_prefix(root).unwrap().to_owned();
            (path, fs::read_to_string(entry.path()).unwrap())
        })
        .collect()
}

/// What asks the program to stop: SIGINT, or SIGTERM where this process, and so the program, ignores SIGINT. A shell lets
/// what it runs in the background do so.
pub fn interruption() -> Signal {
    match treering::signals::not_ignored(&[Signal::INT.as_raw()]).is_empty() {
        true => Signal::TERM,
        false => Signal::INT,
    }
}

/// The address of a server that answers every request with this status line and header, as long as the process runs.
pub fn answering_server(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || {
                let _ = stream.and_then(|mut stream| {
                    // Some wait for a greeting.
                    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
                    let _ = stream.read(&mut [0; 4096])?;
                    let end = "Content-Length: 0\r\nConnection: close\r\n\r\n";
                    stream.write_all(format!("HTTP/1.1 {answer}\r\n{end}").as_bytes())
                });
            });
        }
    });
    address
}

/// A named pipe, to hold the program where it reads from it.
pub fn make_pipe(path: &Path) {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
}
