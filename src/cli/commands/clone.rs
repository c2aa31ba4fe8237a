//! `clone`: a repository from a remote.

use std::path::PathBuf;
use std::time::Instant;

use clap::{Args, ValueHint};
use serde::Serialize;
use treering::remote::Remotes;
use treering::repository::{FORMAT_VERSION, Repository, RepositoryId};
use treering::url::Url;

use crate::cli::error::{CliError, Exit};
use crate::cli::json::{self, Name};
use crate::cli::local_path::repository_path;
use crate::cli::report::{self, duration, plural, print};
use crate::cli::{Session, cold};

/// Clone a repository from a remote
#[derive(Debug, Args)]
#[command(after_help = "\
The clone is a repository like any other; the one it came from is its remote `origin`.

Examples:
  treering clone backup@example.org:rings.git /srv/rings
  treering clone --cold s3:/bucket/rings /srv/rings")]
pub struct CloneArguments {
    /// Bring only what describes the snapshots, and read content from the cold remote where it is needed
    #[arg(long)]
    pub cold: bool,
    /// Where the repository is: a path, any URL that git takes, or that of a cold remote
    #[arg(value_name = "URL")]
    pub url: Url,
    /// The directory to make
    #[arg(value_name = "REPO", value_hint = ValueHint::DirPath, value_parser = repository_path())]
    pub path: PathBuf,
}

/// Makes a clone.
pub fn run(session: &Session, arguments: &CloneArguments) -> Result<Exit, CliError> {
    let start = Instant::now();
    let CloneArguments { cold: is_cold, url, path } = arguments;
    let options = cold::options()?;
    session.watch(|progress| match is_cold {
        true => Remotes::clone_cold_watched(url, path, FORMAT_VERSION, &options, progress),
        false => Remotes::clone_watched(url, path, FORMAT_VERSION, &options, progress),
    })?;
    let repository = Repository::open(&arguments.path)?;
    // Whoever clones a remote takes it for his own as it is now; what others add later is another thing.
    repository.trust_what_is_here()?;
    let snapshots = repository.count_snapshots()?;
    let path = arguments.path.as_os_str().as_encoded_bytes();
    print(|out| {
        if session.json {
            let cloned = Cloned {
                repository: Name { key: "repository", bytes: path },
                id: repository.config().id,
                snapshots_count: snapshots,
                total_duration: start.elapsed().as_secs_f64(),
            };
            return json::message(out, "cloned", &cloned);
        }
        if session.quiet {
            return Ok(());
        }
        let (path, took) = (report::name(path), duration(start.elapsed()));
        writeln!(out, "Cloned {} to {path} in {took}", plural(snapshots, "snapshot"))
    })?;
    Ok(Exit::Done)
}

/// The line that `clone --json` prints.
#[derive(Serialize)]
struct Cloned<'a> {
    #[serde(flatten)]
    repository: Name<'a>,
    id: RepositoryId,
    snapshots_count: u64,
    total_duration: f64,
}
