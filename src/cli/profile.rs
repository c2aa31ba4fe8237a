//! Profiles: where they are, and the flags that they stand for.

use std::path::{Path, PathBuf};

use treering::schedule::{ConfigFile, Profile, Profiles, State};
use treering::trust;
use uzers::os::unix::UserExt;

use crate::cli::Session;
use crate::cli::error::CliError;
use crate::cli::secrets::KeyArguments;

/// What the files of this program are called in the directories for such files.
const OWN: &str = "treering";

/// The file with the profiles.
const FILE: &str = "treering.toml";

/// The place of that file for the whole system.
const SYSTEM_FILE: &str = "/etc/treering/treering.toml";

/// Where the system remembers what ran.
const SYSTEM_STATE: &str = "/var/lib/treering";

/// Where it stands what of other people's repositories is trusted, below a directory of [`OWN`].
const TRUSTED: &str = "trusted";

/// The directory that the environment names by `variable`, else the one that is `below_home`.
pub fn directory(variable: &str, below_home: &str) -> Option<PathBuf> {
    // An empty or relative name would be one below whatever directory this is run in.
    let set = std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    set.or_else(|| Some(home()?.join(below_home)))
}

fn state_directory() -> Option<PathBuf> {
    directory("XDG_STATE_HOME", ".local/state")
}

/// Where it stands what is trusted: the person's file, also where `HOME` is another one, as under cron; that of whoever
/// ran sudo; and the system's.
pub fn trust_files() -> trust::Files {
    let below = |state: PathBuf| state.join(OWN).join(TRUSTED);
    let home_of = |uid| uzers::get_user_by_uid(uid).map(|user| below(user.home_dir().join(".local/state")));
    let written = state_directory().map(below);
    let own = uzers::get_effective_uid();
    let sudo = std::env::var("SUDO_UID").ok().and_then(|uid| uid.parse().ok()).filter(|_| own == 0);
    let mut read: Vec<_> = written.clone().into_iter().collect();
    read.extend(home_of(own));
    read.extend(sudo.and_then(home_of));
    read.push(Path::new(SYSTEM_STATE).join(TRUSTED));
    // Each is read once, and warned of once; their order does not matter.
    read.sort_unstable();
    read.dedup();
    trust::Files { read, written, also_owned_by: sudo }
}

/// Where this process finds its files.
#[derive(Debug)]
pub struct Places {
    given: Option<ConfigFile>,
    home: Option<PathBuf>,
    configuration: Option<PathBuf>,
    state: Option<PathBuf>,
}

impl Places {
    /// By the environment, with the profiles in `config` if it is given, as they stand in `text`.
    pub fn of_process(config: Option<PathBuf>, text: Option<PathBuf>) -> Self {
        Self {
            given: config.map(|path| ConfigFile { path, text }),
            home: home(),
            configuration: directory("XDG_CONFIG_HOME", ".config"),
            state: state_directory(),
        }
    }

    /// The file with the profiles: the one that was given, else the user's, else the system's.
    pub fn config(&self) -> Result<ConfigFile, CliError> {
        if let Some(given) = &self.given {
            return Ok(given.clone());
        }
        let own = self.configuration.as_ref().map(|directory| directory.join(OWN).join(FILE));
        let places = own.iter().map(PathBuf::as_path).chain([Path::new(SYSTEM_FILE)]);
        let found = places.into_iter().find(|path| path.exists()).map(ConfigFile::new);
        found.ok_or_else(|| CliError::NoConfig(own.unwrap_or_else(|| SYSTEM_FILE.into())))
    }

    pub fn profiles(&self) -> Result<Profiles, CliError> {
        Ok(self.config()?.read(self.home())?.0)
    }

    pub fn home(&self) -> Option<&Path> {
        self.home.as_deref()
    }

    /// The directory that remembers what ran of the profiles in the file `config`.
    pub fn state_root(&self, config: &Path) -> Result<PathBuf, CliError> {
        if is_system(config) {
            return Ok(SYSTEM_STATE.into());
        }
        let state =
            self.state.as_ref().ok_or(CliError::NoHome { place: "the place for what is remembered" })?;
        Ok(state.join(OWN))
    }

    pub fn state(&self, profiles: &Profiles) -> Result<State, CliError> {
        Ok(State::new(&self.state_root(profiles.path())?, profiles.path()))
    }

    /// Where systemd looks for units.
    pub fn units(&self, system: bool) -> Result<PathBuf, CliError> {
        if system {
            return Ok("/etc/systemd/system".into());
        }
        let directory =
            self.configuration.as_ref().ok_or(CliError::NoHome { place: "the place for units" })?;
        Ok(directory.join("systemd/user"))
    }
}

/// Whether the profiles in the file `config` are those of the system.
pub fn is_system(config: &Path) -> bool {
    config == Path::new(SYSTEM_FILE)
}

impl Session {
    /// The remotes that are meant by `name`, or by the profile where no name is given; `None` is the one that the
    /// repository would choose.
    pub fn remotes<'a>(&'a self, name: Option<&'a str>) -> Vec<Option<&'a str>> {
        if name.is_some() || self.profile.push.is_empty() {
            return vec![name];
        }
        self.profile.push.iter().map(|name| Some(name.as_str())).collect()
    }
}

/// What the command line says, or else the profile.
pub fn or<T: Clone>(said: Vec<T>, profile: &[T]) -> Vec<T> {
    if said.is_empty() { profile.to_vec() } else { said }
}

impl KeyArguments {
    /// With the keys of `profile` where neither the command line nor the environment gives any.
    pub fn filled(self, profile: &Profile) -> Self {
        if self.password_file.is_some() || self.password_command.is_some() || !self.identity.is_empty() {
            return self;
        }
        Self {
            password_file: profile.password_file.clone(),
            password_command: profile.password_command.clone(),
            identity: profile.identity.clone(),
        }
    }
}

/// The directory that `~` means.
pub fn home() -> Option<PathBuf> {
    std::env::home_dir().filter(|home| home.is_absolute())
}
