//! A repository, a tree to back up, and the program to do it with.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;

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

    /// The program, to be run in the directory of this lab with the repository in the environment.
    pub fn command<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_treering"));
        command
            .args(arguments)
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
            .env_remove("TREERING_IDENTITY")
            .stdin(Stdio::null());
        command
    }

    /// Runs the program to its end.
    pub fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Outcome {
        let output = self.command(arguments).output().unwrap();
        Outcome {
            status: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Starts the program at a terminal, by script(1). Where that is missing, the test must end at once: on a
    /// machine of CI it fails here, elsewhere a line says that it is skipped.
    #[track_caller]
    pub fn at_terminal(&self, line: &str, stdin: Stdio) -> Option<Child> {
        let program = format!("{} {line}", env!("CARGO_BIN_EXE_treering"));
        let command = self.command::<&str>([]);
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--command", &program, "/dev/null"]).current_dir(self.path(""));
        script.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?)))).env("TERM", "xterm");
        match script.stdin(stdin).stdout(Stdio::piped()).spawn() {
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
        let own = self.command(arguments);
        let mut command = Command::new("setpriv");
        // Still the owner of what is here.
        command.args(["--bounding-set=-all", "--inh-caps=-all"]);
        command.arg(own.get_program()).args(own.get_args()).current_dir(self.path("")).stdin(Stdio::null());
        command.envs(own.get_envs().filter_map(|(key, value)| Some((key, value?))));
        let output = command.output().unwrap();
        Outcome {
            status: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
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
        let own = self.command::<&str>([]);
        let mut command = Command::new("unshare");
        command.args(&flags).args(["sh", "-euc", script]).current_dir(self.path("")).stdin(Stdio::null());
        command.envs(own.get_envs().filter_map(|(key, value)| Some((key, value?))));
        let output = command.env("T", env!("CARGO_BIN_EXE_treering")).output().unwrap();
        Some(Outcome {
            status: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        })
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

/// A named pipe, to hold the program where it reads from it.
pub fn make_pipe(path: &Path) {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
}
