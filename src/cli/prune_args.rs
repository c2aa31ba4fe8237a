//! The command line of `forget`, `prune` and `append-only`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};
use treering::repository::{Count, GroupBy, MaxUnused, Policy, Within};

use crate::cli::filter::{FilterArguments, tag_list};
use crate::cli::local_path::local_path;

/// Remove snapshots, named ones or all that no rule keeps
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Rules apply to each group of snapshots by itself; what any rule keeps is kept. A rule such as --keep-daily 7 keeps the newest \
snapshot of each of the last 7 days that have one. Days and the like are those of the local time zone. What is dated in the future \
is kept, and counts for no rule. A snapshot in which a whole source could not be read takes no place from those that have it: the \
rules also go through these alone. --keep-within and similar rules skip any gap of more than half a year, in which the clock may \
have jumped, unless their own period is longer than the gap. Without --prune, what \
removed snapshots held stays until the next `treering prune`. With --json one object is printed, `forgotten`; with --prune it has \
the report under `prune`, or with --dry-run the plan under `prune_plan`.

Examples:
  treering forget --keep-last 3 --keep-daily 7 --keep-weekly 5 --keep-monthly 12 --prune
  treering forget --keep-within 1m --keep-tag release --dry-run
  treering forget 1a2b3c4d 5e6f7a8b")]
pub struct ForgetArguments {
    /// The snapshots to remove: the beginnings of their ids, latest, or latest~N
    #[arg(value_name = "ID", conflicts_with = "rules")]
    pub ids: Vec<String>,
    /// What the snapshots of a group have in common: any of host, paths, tags
    #[arg(short, long, value_name = "WORDS", default_value = "host,paths")]
    pub group_by: GroupBy,
    /// Let it be that no snapshot of a group is left
    #[arg(long)]
    pub unsafe_allow_remove_all: bool,
    /// Then free the space that they took
    #[arg(long)]
    pub prune: bool,
    #[command(flatten)]
    pub waste: WasteArguments,
    /// Remove nothing; tell what would be removed and why
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    // Last, since their headings hold for what follows.
    #[command(flatten)]
    pub rules: RuleArguments,
    #[command(flatten)]
    pub filters: FilterArguments,
}

/// What is kept.
#[derive(Debug, Clone, Args)]
#[group(id = "rules", multiple = true)]
#[command(next_help_heading = "Rules")]
pub struct RuleArguments {
    /// Keep the newest N, or unlimited
    #[arg(short = 'l', long, value_name = "N", default_value = "0")]
    pub keep_last: Count,
    /// Keep the newest of each of the last N hours that have one
    #[arg(short = 'H', long, value_name = "N", default_value = "0")]
    pub keep_hourly: Count,
    /// The same of days
    #[arg(short = 'd', long, value_name = "N", default_value = "0")]
    pub keep_daily: Count,
    /// The same of weeks
    #[arg(short = 'w', long, value_name = "N", default_value = "0")]
    pub keep_weekly: Count,
    /// The same of months
    #[arg(short = 'm', long, value_name = "N", default_value = "0")]
    pub keep_monthly: Count,
    /// The same of years
    #[arg(short = 'y', long, value_name = "N", default_value = "0")]
    pub keep_yearly: Count,
    /// Keep all within this time before the newest, such as 2d12h or 1y6m
    #[arg(long, value_name = "TIME")]
    pub keep_within: Option<Within>,
    /// Within this time keep the newest of each hour
    #[arg(long, value_name = "TIME")]
    pub keep_within_hourly: Option<Within>,
    /// The same of days
    #[arg(long, value_name = "TIME")]
    pub keep_within_daily: Option<Within>,
    /// The same of weeks
    #[arg(long, value_name = "TIME")]
    pub keep_within_weekly: Option<Within>,
    /// The same of months
    #[arg(long, value_name = "TIME")]
    pub keep_within_monthly: Option<Within>,
    /// The same of years
    #[arg(long, value_name = "TIME")]
    pub keep_within_yearly: Option<Within>,
    /// Keep what has all of these tags, separated by commas; can be given again
    #[arg(long, value_name = "TAGS")]
    pub keep_tag: Vec<String>,
}

impl RuleArguments {
    pub fn policy(&self) -> Policy {
        Policy {
            last: self.keep_last,
            hourly: self.keep_hourly,
            daily: self.keep_daily,
            weekly: self.keep_weekly,
            monthly: self.keep_monthly,
            yearly: self.keep_yearly,
            within: self.keep_within,
            within_hourly: self.keep_within_hourly,
            within_daily: self.keep_within_daily,
            within_weekly: self.keep_within_weekly,
            within_monthly: self.keep_within_monthly,
            within_yearly: self.keep_within_yearly,
            tags: self.keep_tag.iter().map(|tags| tag_list(tags)).collect(),
        }
    }
}

/// How much may stay waste.
#[derive(Debug, Clone, Args)]
pub struct WasteArguments {
    /// How much may stay though nothing needs it, rather than be rewritten: a part (5%), a size (200M) or unlimited
    #[arg(long, value_name = "LIMIT", default_value = "5%")]
    pub max_unused: MaxUnused,
}

/// Free the space that no snapshot needs
#[derive(Debug, Args)]
#[command(after_help = "\
Waits for a running backup some seconds, and backups wait for it. Killed at any instant, it leaves a whole repository and goes \
on the next time. The history of commits is dropped with what it held.")]
pub struct PruneArguments {
    #[command(flatten)]
    pub waste: WasteArguments,
    /// Remove nothing; tell what would be done
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// Let nothing be removed from the repository, or from a remote
#[derive(Debug, Subcommand)]
#[command(after_help = "\
`on` guards this repository against forget, prune, and removals that a pull would bring. A remote is guarded by a hook, where \
treering needs not be installed:

  treering append-only hook | ssh backup@example.org 'cat > rings.git/hooks/pre-receive && chmod +x rings.git/hooks/pre-receive'
  treering append-only hook --install /srv/rings.git")]
pub enum AppendOnlyCommand {
    /// Say whether anything may be removed
    Status,
    /// Let nothing be removed
    On,
    /// Allow removals again
    Off,
    Hook(HookArguments),
}

/// Print the hook for a remote, or install it
#[derive(Debug, Args)]
pub struct HookArguments {
    /// The bare repository to install it in
    #[arg(long, value_name = "REPO", value_hint = ValueHint::DirPath, value_parser = local_path())]
    pub install: Option<PathBuf>,
}
