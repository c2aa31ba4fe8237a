//! The command line as it is written: flags and their help, nothing resolved yet.
//!
//! Flags are restic's where restic has them.

use std::ffi::OsString;
use std::fmt::Write;
use std::path::PathBuf;

use clap::{ArgGroup, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueHint};
use clap_complete::Shell;
use treering::archive::Codec;
use treering::crypt::Recipient;
use treering::diff::{Excludes, Pattern};

use crate::cli::blob_args::BlobCommand;
use crate::cli::filter::FilterArguments;
use crate::cli::kv_args::KvCommand;
use crate::cli::local_path::{local_path, repository_path};
use crate::cli::prune_args::{AppendOnlyCommand, ForgetArguments, PruneArguments};
use crate::cli::remote_args::{CloneArguments, LayersCommand, PullArguments, PushArguments, RemoteCommand};
use crate::cli::schedule_args::ScheduleCommand;
use crate::cli::store_args::StoreArguments;

/// Back up directories into a plain git repository, and get them back
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

/// What opens an encrypted repository. All that is given is tried.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct KeyArguments {
    /// The passphrase of an encrypted repository is the first line of this file
    #[arg(long, global = true, value_name = "FILE", env = "TREERING_PASSWORD_FILE", hide_env_values = true, value_hint = ValueHint::FilePath, value_parser = local_path())]
    pub password_file: Option<PathBuf>,
    /// The passphrase is what this command prints, run by sh
    #[arg(
        long,
        global = true,
        value_name = "COMMAND",
        env = "TREERING_PASSWORD_COMMAND",
        hide_env_values = true
    )]
    pub password_command: Option<String>,
    /// Open it with the age identities in this file; can be given again
    #[arg(long, global = true, value_name = "FILE", env = "TREERING_IDENTITY", hide_env_values = true, value_hint = ValueHint::FilePath, value_parser = local_path())]
    pub identity: Vec<PathBuf>,
}

/// Who shall be able to open an encrypted repository.
#[derive(Debug, Args)]
pub struct LockArguments {
    /// Let the owner of this age public key open it, age1…; can be given again
    #[arg(long, value_name = "RECIPIENT")]
    pub recipient: Vec<Recipient>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Init(InitArguments),
    Backup(BackupArguments),
    /// List the snapshots
    Snapshots(FilterArguments),
    Ls(LsArguments),
    Diff(DiffArguments),
    Cat(CatArguments),
    Restore(RestoreArguments),
    Check(CheckArguments),
    Forget(Box<ForgetArguments>),
    Prune(PruneArguments),
    #[command(subcommand)]
    AppendOnly(AppendOnlyCommand),
    Compression(CompressionArguments),
    #[command(subcommand)]
    Key(KeyCommand),
    Clone(CloneArguments),
    #[command(subcommand)]
    Layers(LayersCommand),
    #[command(subcommand)]
    Remote(RemoteCommand),
    Push(PushArguments),
    Pull(PullArguments),
    #[command(subcommand)]
    Schedule(ScheduleCommand),
    #[command(subcommand)]
    Blob(BlobCommand),
    #[command(subcommand)]
    Kv(KvCommand),
    Store(Box<StoreArguments>),
    #[command(subcommand)]
    Dir(DirCommand),
    Completions(CompletionsArguments),
}

/// Make a new repository
#[derive(Debug, Args)]
#[command(after_help = "\
An encrypted repository is opened by each passphrase, identity and recipient that is given here; where none is, a passphrase is \
asked for. To back up into it nothing of that is needed.

If the repository exists, `init` changes nothing and exits with status 1. That includes an `init` that was killed right after it \
finished: use that repository. An `init` killed earlier is started over.

Examples:
  treering init
  treering init --encrypt
  age-keygen -o ~/rings.key && treering init --encrypt --identity ~/rings.key")]
pub struct InitArguments {
    /// Encrypt all that it will hold
    #[arg(long)]
    pub encrypt: bool,
    #[command(flatten)]
    pub locks: LockArguments,
    /// How data is compressed: gzip[:1..12], zstd[:1..19] or none
    #[arg(long, value_name = "CODEC", default_value_t)]
    pub compression: Codec,
    /// Let nothing be removed from it; see `treering append-only`
    #[arg(long)]
    pub append_only: bool,
    /// Let the group read and write it too, as `git init --shared` does
    #[arg(long)]
    pub shared: bool,
}

impl Command {
    /// Whether it writes into a repository, and not only out of it.
    pub fn writes(&self) -> bool {
        use Command::{Cat, Check, Diff, Ls, Restore, Snapshots};
        !matches!(self, Cat(_) | Check(_) | Diff(_) | Ls(_) | Restore(_) | Snapshots(_))
    }
}

/// Say how data is compressed, or compress what is new in another way
#[derive(Debug, Args)]
#[command(after_help = "\
What is there stays as it is until `prune` repacks it; each volume says how it is compressed.

Example:
  treering compression zstd")]
pub struct CompressionArguments {
    /// gzip[:1..12], zstd[:1..19] or none
    #[arg(value_name = "CODEC")]
    pub codec: Option<Codec>,
}

/// Save directories as a new snapshot
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
What has not changed since the last snapshot of the same directories, or of one that was moved, is not read again, and of what \
has changed only the new bytes are stored. What cannot be read, or is not there while other sources are, is named, the \
rest is saved, and the exit status is 3, also if data of earlier backups is lost or damaged. The repository itself is left out \
where it lies in one of the directories.

A symbolic link is saved as a link, also where it is a source itself; `link/`, with a slash at its end, is the directory that it \
leads to.

Examples:
  treering backup ~/work
  treering backup / -x -e /var/cache -e '*.tmp' --tag weekly
  treering backup -P home
  treering backup ~/work --time '2026-11-01 14:00' --dry-run")]
pub struct BackupArguments {
    /// The directories or files to save; a profile can name them instead
    #[arg(value_name = "DIR", value_hint = ValueHint::AnyPath, value_parser = local_path())]
    pub sources: Vec<PathBuf>,
    #[command(flatten)]
    pub scan: ScanArguments,
    /// Mark the snapshot; can be given again
    #[arg(long, value_name = "TAG", value_delimiter = ',')]
    pub tag: Vec<String>,
    /// The time that the snapshot bears instead of now, such as '2 days ago' or '2026-11-01 14:00'
    #[arg(long)]
    pub time: Option<String>,
    /// The host name that the snapshot bears instead of this one's
    #[arg(short = 'H', long)]
    pub host: Option<String>,
    /// Read every file again, even where nothing seems to have changed, and what is stored of it
    #[arg(short, long)]
    pub force: bool,
    /// Then push to a remote: this one, or the one that `push` alone would choose
    #[arg(long, value_name = "REMOTE", num_args = 0..=1, require_equals = true, conflicts_with = "dry_run")]
    pub push: Option<Option<String>>,
    /// Do not push, though the profile says so
    #[arg(long, conflicts_with = "push")]
    pub no_push: bool,
    /// Save nothing; sum up what would be saved, and with -v name every change
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

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

/// The directory that `~` means.
pub fn home() -> Option<PathBuf> {
    std::env::home_dir().filter(|home| home.is_absolute())
}

/// List what a snapshot holds
#[derive(Debug, Args)]
#[command(after_help = SNAPSHOT_HELP)]
pub struct LsArguments {
    /// The snapshot, and a path in it
    #[arg(value_name = "SNAP[:PATH]")]
    pub snapshot: OsString,
    /// Show mode, owner, size and time, as `ls -l` does
    #[arg(short, long)]
    pub long: bool,
    #[command(flatten)]
    pub filters: FilterArguments,
}

/// Show what differs between two snapshots, or a snapshot and a directory
#[derive(Debug, Args)]
#[command(after_help = DIFF_HELP)]
pub struct DiffArguments {
    /// The snapshot to begin with, and a path in it
    #[arg(value_name = "SNAP[:PATH]")]
    pub old: OsString,
    /// The snapshot or directory to compare it with; a directory that could be taken for a snapshot is
    /// written ./DIR
    #[arg(value_name = "SNAP[:PATH]|DIR")]
    pub new: OsString,
    /// Of a directory, read every file, even where size, times and inode are those of the snapshot
    #[arg(short, long)]
    pub force: bool,
    #[command(flatten)]
    pub scan: ScanArguments,
    #[command(flatten)]
    pub filters: FilterArguments,
}

/// Write a file of a snapshot to standard output
#[derive(Debug, Args)]
#[command(after_help = SNAPSHOT_HELP)]
pub struct CatArguments {
    /// The snapshot, and the path of the file in it
    #[arg(value_name = "SNAP:PATH")]
    pub file: OsString,
    #[command(flatten)]
    pub filters: FilterArguments,
}

/// Bring a directory to the state of a snapshot
#[derive(Debug, Args)]
#[command(after_help = RESTORE_HELP)]
#[command(group = ArgGroup::new("where").args(["target", "in_place"]).required(true))]
pub struct RestoreArguments {
    /// The snapshot, and a path in it
    #[arg(value_name = "SNAP[:PATH]")]
    pub snapshot: OsString,
    /// Where to; it may hold something already
    #[arg(short, long, value_name = "DIR", value_hint = ValueHint::DirPath, value_parser = local_path())]
    pub target: Option<PathBuf>,
    /// Restore each source to where it was when it was backed up
    #[arg(long)]
    pub in_place: bool,
    /// Restore only what matches, a pattern as in .gitignore, or a path as `ls` prints it; can be given again
    #[arg(short, long, value_name = "GLOB")]
    pub include: Vec<String>,
    /// Leave out what matches; can be given again
    #[arg(short, long, value_name = "GLOB")]
    pub exclude: Vec<String>,
    /// Delete what the snapshot does not hold, below what is restored
    #[arg(long)]
    pub delete: bool,
    /// Delete without asking
    #[arg(short, long)]
    pub yes: bool,
    /// Put the content of a directory directly into /, if --target says so
    #[arg(long)]
    pub force: bool,
    /// Restore owners and ACL entries by number, even if this system has a user of the same name
    #[arg(long)]
    pub numeric_ids: bool,
    /// Change nothing; tell what would be done
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Read everything again afterwards and compare it with the snapshot
    #[arg(long)]
    pub verify: bool,
    #[command(flatten)]
    pub filters: FilterArguments,
}

/// Look for damage in the repository
#[derive(Debug, Args)]
pub struct CheckArguments {
    /// Read and check all data, not only what describes it
    #[arg(long)]
    pub read_data: bool,
}

/// Change what opens an encrypted repository
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Whoever opened a repository once can go on to read it, and what is written to it later, though his key was removed: to keep \
him out, make a new one.

Examples:
  treering key list
  treering key add --recipient age1…
  treering key remove 1a2b3c4d")]
pub enum KeyCommand {
    /// List them
    List,
    Add(KeyAddArguments),
    Remove(KeyRemoveArguments),
}

/// Add passphrases or recipients, asking for a passphrase where none is given
#[derive(Debug, Args)]
pub struct KeyAddArguments {
    #[command(flatten)]
    pub locks: LockArguments,
    /// The new passphrase is the first line of this file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, value_parser = local_path())]
    pub new_password_file: Option<PathBuf>,
    /// The new passphrase is what this command prints, run by sh
    #[arg(long, value_name = "COMMAND")]
    pub new_password_command: Option<String>,
}

/// Remove one; another that stays must be given
#[derive(Debug, Args)]
pub struct KeyRemoveArguments {
    /// Its id, or the beginning of it
    #[arg(value_name = "ID")]
    pub id: String,
}

/// Index, compare and patch directories, with no repository
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Keep an index of the state that a copy of the directory has; later write down the difference to it, carry the two files over, \
and apply them to the copy.

Example:
  treering dir index tree -o tree.index
  cp -a tree copy; echo more >> tree/file
  treering dir diff tree.index tree -o tree.diff --data tree.tar.gz
  treering dir apply copy tree.diff tree.tar.gz")]
pub enum DirCommand {
    Index(DirIndexArguments),
    Diff(DirDiffArguments),
    Apply(DirApplyArguments),
}

/// Write down the state of a directory
#[derive(Debug, Args)]
pub struct DirIndexArguments {
    /// The directory
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath, value_parser = local_path())]
    pub directory: PathBuf,
    /// The index to write
    #[arg(short, long, value_name = "INDEX", value_hint = ValueHint::FilePath, value_parser = local_path())]
    pub output: PathBuf,
    #[command(flatten)]
    pub scan: ScanArguments,
}

/// Write down how a directory differs from an earlier state
#[derive(Debug, Args)]
pub struct DirDiffArguments {
    /// The index of the earlier state
    #[arg(value_name = "OLD_INDEX", value_hint = ValueHint::FilePath, value_parser = local_path())]
    pub index: PathBuf,
    /// The directory
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath, value_parser = local_path())]
    pub directory: PathBuf,
    /// The difference to write
    #[arg(short, long, value_name = "DIFF", value_hint = ValueHint::FilePath, value_parser = local_path())]
    pub output: PathBuf,
    /// The archive to write, with the new data
    #[arg(long, value_name = "ARCHIVE.tar.gz", value_hint = ValueHint::FilePath, value_parser = local_path())]
    pub data: PathBuf,
    #[command(flatten)]
    pub scan: ScanArguments,
}

/// Bring a directory from the earlier state to the new one
#[derive(Debug, Args)]
pub struct DirApplyArguments {
    /// The directory, in the earlier state
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath, value_parser = local_path())]
    pub directory: PathBuf,
    /// The difference
    #[arg(value_name = "DIFF", value_hint = ValueHint::FilePath, value_parser = local_path())]
    pub diff: PathBuf,
    /// The archive that was written with it
    #[arg(value_name = "ARCHIVE.tar.gz", value_hint = ValueHint::FilePath, value_parser = local_path())]
    pub archive: PathBuf,
    /// Restore owners and ACL entries by number, even if this system has a user of the same name
    #[arg(long)]
    pub numeric_ids: bool,
}

/// Print completions for a shell, to be loaded by it
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  treering completions bash > ~/.local/share/bash-completion/completions/treering")]
pub struct CompletionsArguments {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

macro_rules! snapshot_help {
    () => {
        "\
A snapshot is named by:
  latest, latest~2     the newest, the second before it
  1a2b3c4d             its id, or the beginning of it (of its time key where several have one id)
  2026-11-01           a time: the newest snapshot up to the end of that day, minute or second
  'midnight yesterday', '2 days ago', '2026-11-01 14:00'

With --profile only snapshots of the host and the sources of that profile are looked at. --host replaces \
the host, --path the sources, and --tag narrows the choice. An id names any snapshot. Snapshots that are dated in the future \
are not `latest`."
    };
}

const SNAPSHOT_HELP: &str = snapshot_help!();

const DIFF_HELP: &str = concat!(
    "\
Each difference is a line:
  +  created
  M  updated: the content is another
  U  only the metadata is another: mode, owner, time or extended attributes
  R  renamed: OLD -> NEW
  -  deleted

SNAP:PATH compares only that path. Given for one of two snapshots, it applies to both. Of a directory, files are read only where size, times or inode differ from the snapshot, as in a backup; --force reads all. What \
is left out by --exclude and its like, or by -x, is compared on neither side. What cannot be read is named, and the exit \
status is then 3.

",
    snapshot_help!()
);

const RESTORE_HELP: &str = concat!(
    "\
Only what differs is written, and each file is checked before it takes its place. A snapshot of one directory becomes the \
content of the target; one of several goes below the target, each under its own absolute path; SNAP:PATH restores what lies \
at that path. The report names each source and where it was put. --in-place puts each source back to where it was.
It follows symbolic links above a source, but not the source itself: if a link has replaced the source, the link is replaced and \
its target is not touched.

A target that exists keeps its owner, mode and time, unless it is the directory that was backed up. With --include, so do \
the directories that are there already, unless a pattern matches them.

--delete shows what it would delete and asks; where there is no terminal to ask at, it needs --yes. It never deletes on a \
mounted file system that the backup did not enter (-x), nor what the backup could not read.

Root restores owners: by name where this system has a user or group of that name, otherwise by number. So are the users and \
groups that ACLs name. On a rescue system, \
whose names may have other numbers, use --numeric-ids. Other users keep what they restore, and the report says how many \
names lack something.

Examples:
  treering restore latest --target /tmp/work
  treering restore latest --in-place --include '*.conf'
  treering restore 'midnight yesterday:letters' --target ~/letters --delete --dry-run

",
    snapshot_help!()
);

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

/// The commands by what they are for; [`Command`] cannot say so itself.
const GROUPS: [(&str, &[&str]); 7] = [
    ("Save and get back", &["init", "backup", "restore"]),
    ("Look into snapshots", &["snapshots", "ls", "cat", "diff"]),
    ("Keep the repository", &["check", "forget", "prune", "append-only", "compression", "key"]),
    ("Keep it elsewhere too", &["remote", "push", "pull", "clone", "layers"]),
    ("Let it run by itself", &["schedule"]),
    ("Building blocks", &["blob", "kv", "store", "dir"]),
    ("Beside", &["completions"]),
];

impl Arguments {
    /// Reads the command line of this process.
    pub fn read() -> Result<Self, clap::Error> {
        let matches = command().try_get_matches()?;
        Self::from_arg_matches(&matches)
    }
}

/// What makes `shell` complete the command line.
pub fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "treering", &mut script);
    script
}

/// What [`Arguments`] describes, with its commands in groups.
pub fn command() -> clap::Command {
    let command = Arguments::command();
    let mut template = String::from("{about-with-newline}\n{usage-heading} {usage}\n");
    for (heading, names) in GROUPS {
        let _ = write!(template, "\n{heading}:\n");
        for name in names {
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
        let mut named: Vec<_> = GROUPS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
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
