//! The command line of `schedule` as it is written.

use clap::{Args, Subcommand};

/// Run the backups of profiles by themselves
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Profiles are tables in treering.toml, in ~/.config/treering or else in /etc/treering; a key is the name of a flag:

  [default]
  repo = \"/srv/rings\"
  keep-daily = 7

  [profile.home]
  sources = [\"~/work\", \"~/letters\"]
  exclude = \"*.tmp\"
  push = \"origin\"
  schedule = \"daily at 03:00\"
  jitter = \"15 minutes\"
  run-failed = 'echo \"$TREERING_PROFILE: $TREERING_ERROR\" | mail -s backup root'

A schedule is one of: hourly, hourly at :15, daily, daily at 03:00, 15:30, weekdays at 18:00, weekly on mon, thu at 04:00, \
monthly on 1, last at 04:00, yearly, every 15 minutes, or as in a crontab: '*/15 * * * *', '0 3 * * mon-fri', '@daily'.

Either the daemon runs, or timers of systemd do its work, or a crontab:
  treering schedule daemon
  treering schedule install
  treering schedule install --cron")]
pub enum ScheduleCommand {
    /// Show the profiles: their schedule, how their last run went, and when the next is due
    Show(MomentArguments),
    Next(NextArguments),
    Run(RunArguments),
    /// Stay, and run what is due when it is due
    #[command(after_help = "\
SIGHUP reads the profiles again; where they are wrong the old ones stay. SIGTERM and SIGINT stop the runs in order, and \
then the daemon; a second one ends the runs at once.")]
    Daemon,
    Install(InstallArguments),
    Uninstall(InstallArguments),
}

/// The time that is taken for now.
#[derive(Debug, Args)]
pub struct MomentArguments {
    /// Take this time for now, such as 'tomorrow 03:00'
    #[arg(long, value_name = "TIME")]
    pub now: Option<String>,
}

/// Tell what comes next
#[derive(Debug, Args)]
pub struct NextArguments {
    /// How many runs to tell of
    #[arg(short = 'n', long, value_name = "N", default_value_t = 5)]
    pub count: usize,
    #[command(flatten)]
    pub moment: MomentArguments,
}

/// Run what is due now, once
#[derive(Debug, Args)]
#[command(after_help = "\
A run: the hook run-before; the backup; the removal of what is not kept; a push to each remote; then run-after where all \
went well, run-partial (or else run-failed) where not everything could be read, else run-failed; and at last run-finally. Hooks are \
commands of the shell. They find in their environment TREERING_PROFILE, TREERING_CONFIG and TREERING_REPOSITORY, and after the backup TREERING_STATUS (done, partial, failed, interrupted), \
TREERING_SNAPSHOT and TREERING_ERROR.

Example:
  treering -P home schedule run --force")]
pub struct RunArguments {
    /// Run also what is not due: with -P that profile, else all that have a schedule
    #[arg(short, long)]
    pub force: bool,
    /// Where another run of the same repository is under way, wait for its end, instead of leaving the profile for
    /// later
    #[arg(long)]
    pub wait: bool,
    #[command(flatten)]
    pub moment: MomentArguments,
}

/// Let systemd or cron start the runs, or no longer
#[derive(Debug, Args)]
#[command(after_help = "\
Units go to ~/.config/systemd/user, and those of the system, or of profiles in /etc/treering, to /etc/systemd/system. Only \
what was installed before for the same file of profiles is replaced or removed.")]
pub struct InstallArguments {
    /// Units of the system, not of this user
    #[arg(long)]
    pub system: bool,
    /// A line in the crontab of this user, which asks every minute what is due
    #[arg(long, conflicts_with = "system")]
    pub cron: bool,
    /// Change nothing; print what would be written
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}
