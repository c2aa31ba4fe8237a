//! Who on this host may read and write a repository.
//!
//! A repository is made for its owner alone: nobody else gets into its directory, whatever the files in it would let
//! him do. One that is shared is for its group too, as `git init --shared=group` makes it: `core.sharedRepository` says
//! so, to git as well, its directories hand their group on, and whoever writes lets the group write. That is for a
//! program to do, since the umask belongs to the process: see [`Git::is_shared`].

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use walkdir::WalkDir;

use super::Git;

/// The setting of git, and its value for groups.
const SETTING: (&str, &str) = ("core.sharedRepository", "group");

/// Who may read and write a new repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Access {
    /// Whoever makes it.
    #[default]
    Owner,
    /// The group of its directory too.
    Group,
}

impl Access {
    /// The mode of the directory of a repository.
    pub(crate) fn mode(self) -> u32 {
        match self {
            Self::Owner => 0o700,
            Self::Group => 0o2770,
        }
    }

    /// The setting that a new repository has.
    pub(crate) fn settings(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Owner => &[],
            Self::Group => &[SETTING],
        }
    }

    /// Gives what was made below `path` to whom it is for.
    pub(crate) fn grant(self, path: &Path) -> io::Result<()> {
        if self == Self::Owner {
            return Ok(());
        }
        for entry in WalkDir::new(path) {
            let entry = entry?;
            let mode = entry.metadata()?.permissions().mode() & 0o7777;
            let granted = match entry.file_type().is_dir() {
                true => self.mode(),
                // What the owner may, the group may.
                false => mode | (mode & 0o600) >> 3,
            };
            fs::set_permissions(entry.path(), Permissions::from_mode(granted))?;
        }
        Ok(())
    }
}

impl Git {
    /// Whether the group is to read and write what is written here: a program that writes takes the bits of the group
    /// out of its umask first.
    pub fn is_shared(&self) -> bool {
        let setting = self.libgit2().config().and_then(|config| config.get_string(SETTING.0));
        // As git has it: words, the numbers that older versions wrote, and modes.
        setting.is_ok_and(|value| match value.to_ascii_lowercase().as_str() {
            "group" | "true" | "1" | "all" | "world" | "everybody" | "2" => true,
            mode => u32::from_str_radix(mode, 8).is_ok_and(|mode| mode > 7 && mode & 0o060 == 0o060),
        })
    }
}

/// Whether everybody on this host gets to the files of the repository at `path`: into it, and into all directories
/// above it.
///
/// Whether this process may change that is [`may_change_access`].
pub fn is_open_to_all(path: &Path) -> bool {
    let Ok(path) = path.canonicalize() else { return false };
    path.ancestors().all(|path| fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o001 != 0))
}

/// Whether this process may say who gets into the directory at `path`: its owner's may, and root's.
pub fn may_change_access(path: &Path) -> bool {
    let user = rustix::process::geteuid();
    user.is_root() || fs::metadata(path).is_ok_and(|found| found.uid() == user.as_raw())
}
