//! The commands of the program. Each is a file with its arguments, its help and what it does.
//!
//! Flags are restic's where restic has them. Nothing is resolved here yet: what a profile adds is for each command.

mod append_only;
mod backup;
mod blob;
mod cat;
mod check;
mod clone;
mod completions;
mod compression;
mod diff;
mod dir;
mod forget;
mod init;
mod key;
mod kv;
mod layers;
mod ls;
mod prune;
mod pull;
mod push;
mod remote;
mod restore;
mod schedule;
mod snapshots;
mod store;

use std::fmt::Write;
use std::path::PathBuf;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueHint};

use crate::cli::Session;
use crate::cli::error::{CliError, Exit};
use crate::cli::local_path::{local_path, repository_path};
use crate::cli::secrets::KeyArguments;

/// Back up directories incrementally to a git repository, and restore them
#[derive(Debug, Parser)]
#[command(name = "treering", version, after_help = AFTER_HELP)]
pub struct Arguments {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// The repository, instead of `repo` in the defaults of the profiles [env: TREERING_REPOSITORY]
    #[arg(short, long, global = true, value_name = "DIR", value_hint = ValueHint::DirPath, value_parser = repository_path())]
    pub repo: Option<PathBuf>,
    #[command(flatten)]
    pub key: KeyArguments,
    /// Take the repository and other flags from the profile of this name, where the command line does not give
    /// them
    #[arg(
        short = 'P',
        long,
        global = true,
        value_name = "NAME",
        env = "TREERING_PROFILE",
        hide_env_values = true
    )]
    pub profile: Option<String>,
    /// The file with the profiles, instead of treering/treering.toml in ~/.config or /etc
    #[arg(long, global = true, value_name = "FILE", env = "TREERING_CONFIG", hide_env_values = true, value_hint = ValueHint::FilePath, value_parser = local_path())]
    pub config: Option<PathBuf>,
    /// A copy of that file, which the daemon gives its children
    #[arg(long, global = true, value_name = "FILE", hide = true, requires = "config", value_parser = local_path())]
    pub config_text: Option<PathBuf>,
    /// Print JSON instead of text
    #[arg(long, global = true)]
    pub json: bool,
    /// Print only errors and what was asked for
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Name every file that is saved or restored
    #[arg(short, long, global = true)]
    pub verbose: bool,
}

pub use schedule::log;

macro_rules! commands {
    ($($heading:literal: { $($(#[$meta:meta])* $name:ident($module:ident::$arguments:ident),)+ })+) => {
        #[derive(Debug, Subcommand)]
        #[expect(clippy::large_enum_variant, reason = "there is one of it")]
        pub enum Command {
            $($($(#[$meta])* $name($module::$arguments),)+)+
        }

        impl Command {
            /// Does it.
            pub fn run(&self, session: &Session) -> Result<Exit, CliError> {
                match self {
                    $($(Self::$name(arguments) => $module::run(session, arguments),)+)+
                }
            }
        }

        /// The commands by what they are for; [`Command`] cannot say so itself.
        const GROUPS: &[(&str, &[&str])] = &[$(($heading, &[$(stringify!($module)),+])),+];
    };
}

// A command is a file here, a `mod` above and a line in this table.
commands! {
    "Backups": {
        Init(init::InitArguments),
        Backup(backup::BackupArguments),
        Restore(restore::RestoreArguments),
    }
    "Snapshots": {
        Snapshots(snapshots::SnapshotsArguments),
        Ls(ls::LsArguments),
        Diff(diff::DiffArguments),
        Cat(cat::CatArguments),
    }
    "Maintenance": {
        Check(check::CheckArguments),
        Forget(forget::ForgetArguments),
        Prune(prune::PruneArguments),
        #[command(subcommand)]
        AppendOnly(append_only::AppendOnlyCommand),
        Compression(compression::CompressionArguments),
        #[command(subcommand)]
        Key(key::KeyCommand),
    }
    "Remotes": {
        #[command(subcommand)]
        Remote(remote::RemoteCommand),
        Push(push::PushArguments),
        Pull(pull::PullArguments),
        Clone(clone::CloneArguments),
        #[command(subcommand)]
        Layers(layers::LayersCommand),
    }
    "Schedules": {
        #[command(subcommand)]
        Schedule(schedule::ScheduleCommand),
    }
    "Other": {
        Completions(completions::CompletionsArguments),
    }
    "Building blocks, which need no snapshots": {
        #[command(subcommand)]
        Blob(blob::BlobCommand),
        #[command(subcommand)]
        Kv(kv::KvCommand),
        Store(store::StoreArguments),
        #[command(subcommand)]
        Dir(dir::DirCommand),
    }
}

impl Command {
    /// Whether it writes into a repository, and not only out of it.
    pub fn writes(&self) -> bool {
        use Command::{Cat, Check, Diff, Ls, Restore, Snapshots};
        !matches!(self, Cat(_) | Check(_) | Diff(_) | Ls(_) | Restore(_) | Snapshots(_))
    }
}

const AFTER_HELP: &str = "\
Examples:
  export TREERING_REPOSITORY=/srv/rings
  treering init
  treering backup ~/work
  treering snapshots
  treering restore latest --target /tmp/work
  treering restore 'midnight yesterday:letters' --target /tmp/letters

Exit status:
  0    done
  1    failed
  3    done, except for files, snapshots or parts of the repository that could not be read or restored
  10   there is no repository, or no store
  11   the repository is in use
  12   the repository is encrypted, and no key was given that opens it
  130  interrupted";

impl Arguments {
    /// Reads the command line of this process.
    pub fn read() -> Result<Self, clap::Error> {
        let matches = command().try_get_matches()?;
        Self::from_arg_matches(&matches)
    }
}

/// What [`Arguments`] describes, with its commands in groups.
pub fn command() -> clap::Command {
    let command = Arguments::command();
    let mut template = String::from("{about-with-newline}\n{usage-heading} {usage}\n");
    for (heading, names) in GROUPS {
        let _ = write!(template, "\n{heading}:\n");
        for name in *names {
            let name = &name.replace('_', "-");
            let about = command.find_subcommand(name).and_then(clap::Command::get_about);
            let _ = writeln!(template, "  {name:<11} {}", about.cloned().unwrap_or_default());
        }
    }
    template.push_str("\nOptions:\n{options}{after-help}");
    command.help_template(template)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn help_names_every_command_once() {
        let mut named: Vec<_> =
            GROUPS.iter().flat_map(|(_, names)| names.iter().map(|name| name.replace('_', "-"))).collect();
        let command = command();
        let mut all: Vec<_> = command.get_subcommands().map(clap::Command::get_name).collect();
        named.sort_unstable();
        all.sort_unstable();
        assert_eq!(named, all);
    }

    #[test]
    fn global_options_stand_before_or_after_the_command() {
        let read = |line: &str| {
            let matches = command().try_get_matches_from(line.split(' ')).unwrap();
            Arguments::from_arg_matches(&matches).unwrap().global
        };
        for line in ["treering -r /repo --json snapshots", "treering snapshots -r /repo --json"] {
            let global = read(line);
            assert_eq!(global.repo.as_deref(), Some("/repo".as_ref()), "{line}");
            assert!(global.json && !global.quiet, "{line}");
        }
    }
}
