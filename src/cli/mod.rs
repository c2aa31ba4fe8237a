//! The program: what is written on the command line, done by the library, told to a person or a program.
//!
//! A command reads its arguments, calls the library once, and prints what comes back; how things are done is
//! none of its business. Results go to standard output, progress and complaints to standard error, and the
//! exit status ([`error::Exit`]) tells how it went.

mod bar;
mod cold;
mod commands;
mod error;
mod filter;
mod json;
mod local_path;
mod profile;
mod remotes;
mod report;
mod scan_arguments;
mod secrets;

use std::cell::OnceCell;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use rustix::fs::Mode;
use treering::causes::{chain, has_kind, is_disk_full};
use treering::diff::{ChangeRef, CommonCause, Failure};
use treering::gitkv::{Git, Person, give_to_owners, is_open_to_all, may_change_access};
use treering::layers::LayerSet;
use treering::progress::Progress;
use treering::relpath::RelPath;
use treering::repository::{Hold, Repository, RepositoryError};
use treering::schedule::Profile;
use treering::signals;
use treering::spoken;
use treering::timeline::MAX_CONTENT;
use treering::url::{Url, redact};

use bar::Show;
use commands::{Arguments, Command, Global};
use error::{CliError, Exit};
use local_path::{NotLocal, expect_local};
use profile::Places;
use report::complain;
use secrets::KeyArguments;

/// Does what the command line of this process says.
pub fn run() -> ExitCode {
    let arguments = match Arguments::read() {
        Ok(arguments) => arguments,
        Err(error) => {
            if !error.use_stderr() {
                // Help and version come this way too. Where they cannot be printed nothing else can be.
                let _ = error.print();
                return Exit::Done.into();
            }
            match std::env::args_os().take_while(|word| word != "--").any(|word| word == "--json") {
                true => {
                    report::use_json();
                    report::fail(Exit::Failed, error.render().to_string().trim_end());
                }
                false => {
                    // It may repeat an address in a place where none is expected.
                    let text = error.render().to_string();
                    let safe = redact(&text);
                    match safe == text {
                        true => drop(error.print()),
                        false => drop(io::stderr().write_all(safe.as_bytes())),
                    }
                }
            }
            return Exit::Failed.into();
        }
    };
    commands::log(&arguments);
    treering::trust::install(profile::trust_files());
    if arguments.global.json {
        report::use_json();
    }
    // What runs profiles has runs of its own to stop.
    if !matches!(arguments.command, Command::Schedule(_)) {
        bar::heed_signals();
    }
    let session = match Session::new(arguments.global, &arguments.command) {
        Ok(session) => session,
        Err(error) => return failed(&error, &arguments.command).into(),
    };
    let result = arguments.command.run(&session);
    give_to_owners();
    match result.unwrap_or_else(|error| failed(&error, &arguments.command)) {
        Exit::Done if report::was_incomplete() => Exit::Partial,
        exit => exit,
    }
    .into()
}

/// Tells of layers that cannot be used. A command that does without them is not wholly done.
fn complain_of_layers(layers: &LayerSet) {
    layers.faults().iter().for_each(|fault| report::complain_of_loss(&chain(fault)));
}

/// Tells of a failure of `command`.
fn failed(error: &CliError, command: &Command) -> Exit {
    // Whatever failed because this was to stop was interrupted.
    let exit = if signals::is_stopping() { Exit::Interrupted } else { error.exit() };
    if exit != Exit::Pipe {
        let mut text = chain(error);
        if has_kind(error, &[ErrorKind::ReadOnlyFilesystem]) {
            text += "; remount it read-write, or choose another path";
        }
        if is_disk_full(error) {
            text += way_out_of_full_disk(error, command);
        }
        report::fail(exit, &text);
    }
    exit
}

/// What a person can do where there is no room left.
fn way_out_of_full_disk(error: &CliError, command: &Command) -> &'static str {
    match command {
        // It says so itself.
        _ if matches!(error, CliError::Repository(RepositoryError::NoRoom { .. })) => "",
        Command::Backup(_)
        | Command::Push(_)
        | Command::Pull(_)
        | Command::Layers(_)
        | Command::Remote(_)
        | Command::Key(_)
        | Command::Compression(_)
        | Command::Schedule(_) => {
            "; make room on the disk and try again. If that is the repository's, `treering forget` and \
             `treering prune` may still work: the repository reserves 256 KiB for them"
        }
        _ => "; make room on the disk and try again",
    }
}

/// Makes ready to write to a repository of blobs or keys. One of snapshots is refused: what is written there without a
/// look at them could remove some, also where nothing may be removed, and would not be encrypted. It is called what the
/// person called it, `given`: it may be a clone in the cache.
fn prepare_to_write(git: &Git, given: &Path) -> Result<(), CliError> {
    if Repository::is_at(git.path())? {
        return Err(CliError::SnapshotsThere(Url::from(given.to_string_lossy().as_ref())));
    }
    if git.is_shared() {
        write_for_group();
    }
    Ok(())
}

/// Lets the group read and write what this process makes from now on.
fn write_for_group() {
    let umask = rustix::process::umask(Mode::empty());
    rustix::process::umask(umask - Mode::RWXG);
}

/// What holds for one run of the program, whatever the command.
struct Session {
    /// As the command line says, else the profile, else the environment, else the defaults of the profiles.
    repository: Option<PathBuf>,
    /// What holds in every profile, once it was asked for.
    defaults: OnceCell<Profile>,
    /// Whether the command line says it.
    names_repository: bool,
    places: Places,
    /// The profile that was asked for; one that says nothing where none was.
    profile: Profile,
    now: Zoned,
    key: KeyArguments,
    json: bool,
    quiet: bool,
    verbose: bool,
    /// Whether the command looks for faults itself.
    is_check: bool,
    /// Whether the command writes into a repository, and not only out of it.
    writes: bool,
    /// What a command that only reads keeps from being removed until it ends.
    hold: OnceCell<Hold>,
}

impl Session {
    fn new(global: Global, command: &Command) -> Result<Self, CliError> {
        let Global { repo, key, profile, config, config_text, json, quiet, verbose } = global;
        let places = Places::of_process(config, config_text);
        // An empty variable in the environment asks for nothing.
        let profile = match profile.filter(|name| !name.is_empty()) {
            Some(name) => places.profiles()?.get(&name)?.clone(),
            None => Profile::default(),
        };
        let key = key.filled(&profile);
        let names_repository = repo.is_some();
        let environment = || std::env::var_os("TREERING_REPOSITORY").filter(|path| !path.is_empty());
        let repository = repo.or_else(|| profile.repo.clone()).or_else(|| environment().map(PathBuf::from));
        Ok(Self {
            repository,
            defaults: OnceCell::new(),
            names_repository,
            places,
            profile,
            now: spoken::clock().to_zoned(TimeZone::system()),
            key,
            json,
            quiet,
            verbose,
            is_check: matches!(command, Command::Check(_)),
            writes: command.writes(),
            hold: OnceCell::new(),
        })
    }

    /// Where the repository is or shall be.
    fn repository_path(&self) -> Result<&PathBuf, CliError> {
        let path = match &self.repository {
            Some(path) => path,
            None => self.defaults()?.repo.as_ref().ok_or(CliError::RepositoryNotGiven)?,
        };
        // Not only the command line names it.
        Ok(expect_local(path, NotLocal::Repository)?)
    }

    /// What the profiles have in common. Nothing, where there are none.
    fn defaults(&self) -> Result<&Profile, CliError> {
        if let Some(defaults) = self.defaults.get() {
            return Ok(defaults);
        }
        let defaults = match self.places.profiles() {
            Ok(profiles) => profiles.defaults().clone(),
            Err(CliError::NoConfig(_)) => Profile::default(),
            Err(error) => return Err(error),
        };
        Ok(self.defaults.get_or_init(|| defaults))
    }

    /// What opens the repository. The keys of the defaults are those of the repository that they name.
    fn key(&self) -> Result<KeyArguments, CliError> {
        let key = self.key.clone();
        Ok(if self.repository.is_none() { key.filled(self.defaults()?) } else { key })
    }

    /// Opens the repository. What is encrypted in it cannot be read.
    fn open(&self) -> Result<Repository, CliError> {
        let repository = Repository::open(self.repository_path()?)?;
        if repository.is_shared() && self.writes {
            write_for_group();
        }
        // Nobody else can do what is advised.
        if repository.config().encryption.is_none()
            && may_change_access(repository.path())
            && is_open_to_all(repository.path())
        {
            let path = report::name(repository.path().as_os_str().as_encoded_bytes());
            report::complain(&format!(
                "every user of this host can read the repository {path} and every file in it: run `chmod o= {path}`"
            ));
        }
        cold::attach(&repository)?;
        // What a check finds is in its report.
        if !self.is_check {
            complain_of_layers(&repository.layers());
        }
        Ok(repository)
    }

    /// Opens the repository, to be read; asks for its passphrase where none is given.
    fn open_readable(&self) -> Result<Repository, CliError> {
        let mut repository = self.open()?;
        if !repository.is_readable() {
            repository.unlock(&secrets::given_or_asked(&self.key()?)?)?;
        }
        Ok(repository)
    }

    /// Opens the repository, to be read where a key is given.
    fn open_with_what_is_given(&self) -> Result<Repository, CliError> {
        let mut repository = self.open()?;
        let credentials = if repository.is_readable() { Vec::new() } else { secrets::given(&self.key()?)? };
        if !credentials.is_empty() {
            repository.unlock(&credentials)?;
        }
        Ok(repository)
    }

    /// Keeps everything in `repository` where it is until the command ends: from before a snapshot is looked for
    /// until the last of it was read. For commands that only read.
    fn hold(&self, repository: &Repository) -> Result<(), CliError> {
        if self.hold.get().is_none() {
            let _ = self.hold.set(repository.hold()?);
        }
        Ok(())
    }

    /// The time that `text`, the value of `option`, means if it is given.
    fn time(&self, option: &'static str, text: Option<&str>) -> Result<Option<Timestamp>, CliError> {
        let time = text.map(|text| spoken::parse(text, &self.now)).transpose();
        time.map_err(|source| CliError::Time { option, source })
    }

    /// Who commits.
    fn who(&self) -> Person {
        let user = user_name();
        Person::new(&user, &format!("{user}@{}", host_name()), self.now.timestamp())
    }

    /// Who commits to a repository of snapshots.
    fn who_in(&self, repository: &Repository) -> Person {
        repository.committer(&user_name(), &host_name(), self.now.timestamp())
    }

    /// Runs `work` with a progress that is shown on a terminal.
    fn watch<R>(&self, work: impl FnOnce(&Progress) -> R) -> R {
        bar::watch(if self.quiet { Show::Nothing } else { Show::Bar }, work)
    }

    /// As [`watch`](Self::watch), of a command that prints lines of JSON: those tell the progress then.
    fn watch_lines<R>(&self, work: impl FnOnce(&Progress) -> R) -> R {
        if self.json && !self.quiet { bar::watch(Show::Json, work) } else { self.watch(work) }
    }

    /// Tells of something that could not be done with `path`: as JSON to `out`, or to the person.
    fn tell(
        &self,
        out: &mut dyn Write,
        during: &'static str,
        path: &Path,
        error: &dyn std::error::Error,
    ) -> io::Result<()> {
        if self.json {
            return json::error(out, during, path, error);
        }
        complain(&chain(error));
        Ok(())
    }

    /// Tells of what could not be done below `target`. What many names failed for is told once.
    fn tell_failures(
        &self,
        out: &mut dyn Write,
        during: &'static str,
        target: &Path,
        failures: &[Failure],
    ) -> io::Result<()> {
        let failed: HashSet<&RelPath> = failures.iter().map(|failure| &failure.path).collect();
        let mut told = HashSet::new();
        let (mut reasons, mut more) = (0, 0);
        for failure in failures {
            let is_told = match failure.common_cause() {
                Some(CommonCause::Missing(above)) => failed.contains(&above),
                Some(cause) => !told.insert(cause),
                None => false,
            };
            match is_told {
                true => more += 1,
                false => {
                    reasons += 1;
                    self.tell(out, during, &target.join(failure.path.as_path()), failure)?;
                }
            }
        }
        match more {
            0 => Ok(()),
            more => self.tell(
                out,
                during,
                target,
                &SameReasons { reasons, names: report::plural(more, "more name") },
            ),
        }
    }

    /// Prints the one thing that there is to say: `value` as JSON, or `text` unless it is to be quiet.
    fn say(
        &self,
        message_type: &'static str,
        value: &impl serde::Serialize,
        text: &str,
    ) -> Result<(), CliError> {
        report::print(|out| match (self.json, self.quiet) {
            (true, _) => json::message(out, message_type, value),
            (false, true) => Ok(()),
            (false, false) => writeln!(out, "{text}"),
        })
    }

    /// Prints `changes` with `--verbose`, and where they are `wanted` also without it; as [`report::changes`] does.
    fn list_changes<'a>(
        &self,
        out: &mut dyn Write,
        base: &Path,
        changes: impl IntoIterator<Item = ChangeRef<'a>>,
        wanted: bool,
    ) -> io::Result<()> {
        match (self.verbose || (wanted && !self.quiet), self.json) {
            (false, _) => Ok(()),
            (true, true) => json::changes(out, changes),
            (true, false) => report::changes(out, base, changes),
        }
    }
}

/// Names that were not brought to their new state, like one before them.
#[derive(Debug, thiserror::Error)]
#[error("for the same {}, {names} could not be restored", if *reasons == 1 { "reason" } else { "reasons" })]
struct SameReasons {
    /// How many were told.
    reasons: usize,
    /// How many more there are, as it is said.
    names: String,
}

fn user_name() -> String {
    let name = uzers::get_current_username().map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| uzers::get_current_uid().to_string())
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Where programs keep what they can do without.
fn cache_directory() -> Option<PathBuf> {
    Some(profile::directory("XDG_CACHE_HOME", ".cache")?.join("treering"))
}

/// The content of a file, or of standard input for `-`; as much as can be a blob or a value.
fn read_input(path: &Path) -> Result<Vec<u8>, CliError> {
    let mut content = Vec::new();
    let mut read =
        |source: &mut dyn Read| match source.take(MAX_CONTENT + 1).read_to_end(&mut content)? as u64 {
            ..=MAX_CONTENT => Ok(()),
            _ => Err(io::Error::from(ErrorKind::FileTooLarge)),
        };
    let read = match path == Path::new("-") {
        true => read(&mut io::stdin().lock()),
        false => File::open(path).and_then(|mut file| read(&mut file)),
    };
    read.map_err(CliError::file("read", path))?;
    Ok(content)
}
