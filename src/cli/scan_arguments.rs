//! What of a directory a command looks at.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use treering::diff::{Excludes, Pattern};
use treering::schedule::Profile;

use crate::cli::local_path::local_path;
use crate::cli::profile::{home, or};

/// What of a directory is looked at.
#[derive(Debug, Clone, Args)]
pub struct ScanArguments {
    /// Leave out what matches, a pattern as in .gitignore, or a path that begins with /, ./, ../ or ~/ or as `ls` prints
    /// it; can be given again
    #[arg(short, long, value_name = "GLOB")]
    pub exclude: Vec<String>,
    /// The directory that these patterns begin at, if it is not the current one
    #[arg(skip)]
    pub directory: Option<PathBuf>,
    /// Leave out what matches a pattern in a file, one a line; ./ is the directory of that file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, value_parser = local_path())]
    pub exclude_file: Vec<PathBuf>,
    /// Obey the patterns in files of this name, such as .gitignore, in the directories themselves
    #[arg(long, value_name = "NAME")]
    pub ignore_file: Option<String>,
    /// Leave out what lies in a directory marked by a CACHEDIR.TAG
    #[arg(long)]
    pub exclude_caches: bool,
    /// Do not enter other file systems
    #[arg(short = 'x', long)]
    pub one_file_system: bool,
}

impl ScanArguments {
    pub fn excludes(&self) -> Excludes {
        let pattern = |text: &String| Pattern { directory: self.directory.clone(), ..Pattern::from(text) };
        Excludes {
            patterns: self.exclude.iter().map(pattern).collect(),
            files: self.exclude_file.clone(),
            ignore_file: self.ignore_file.clone(),
            caches: self.exclude_caches,
            home: home(),
        }
    }
}

impl ScanArguments {
    pub fn filled(self, profile: &Profile) -> Self {
        let is_own = !self.exclude.is_empty();
        Self {
            exclude: or(self.exclude, &profile.exclude),
            directory: (!is_own).then(|| profile.directory.clone()),
            exclude_file: or(self.exclude_file, &profile.exclude_file),
            ignore_file: self.ignore_file.or_else(|| profile.ignore_file.clone()),
            exclude_caches: self.exclude_caches || profile.exclude_caches,
            one_file_system: self.one_file_system || profile.one_file_system,
        }
    }
}
