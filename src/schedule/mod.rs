//! Profiles, and backups that run by themselves.
//!
//! A [`Profile`] is what the flags of a backup would say, under a name, in a file ([`Profiles`]). Its schedule is
//! a [`Rule`], as in a crontab or in words. What is due is a pure function ([`due_at`]) of profile, [`History`] and
//! time.
//!
//! A run ([`Runner`]) makes one snapshot: hooks, backup, removal of what is not kept, pushes. Each step is a process
//! of its own, and runs of one repository come one after the other. The [`Daemon`] sleeps until something is due
//! and lets a child do it, so it stays small and outlives whatever happens there. What is known of earlier runs is
//! in a [`State`] directory, in files that are replaced whole: a run that is killed is known to have begun. Instead
//! of the daemon, timers of systemd or a crontab can start the runs ([`Installer`]).
//!
//! None of this knows what a repository is: the steps are the program's own commands.

mod calendar;
mod daemon;
mod due;
mod install;
mod profile;
mod rule;
mod run;
mod state;

pub use daemon::{Daemon, DaemonError};
pub use due::{End, History, Moment, Run, Status, due_at, upcoming};
pub use install::{InstallError, Installer, Unit, read_crontab, write_crontab};
pub use profile::{CatchUp, ConfigFile, Count, Length, Profile, ProfileError, Profiles, Unlimited, Within};
pub use rule::{FORMS, Rule, RuleError};
pub use run::{Attempt, Figures, Report, Runner, Stop, Terms};
pub use state::{RepositoryLock, State, StateError};
