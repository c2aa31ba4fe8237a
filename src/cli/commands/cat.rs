//! `cat`: prints a file of a snapshot.

use std::ffi::OsString;
use std::io::{self, BufRead, Write};

use clap::Args;
use treering::repository::RepositoryError;

use crate::cli::Session;
use crate::cli::error::{CliError, Exit};
use crate::cli::filter::{FilterArguments, SNAPSHOT_HELP};

/// Print a file from a snapshot
#[derive(Debug, Args)]
#[command(after_help = SNAPSHOT_HELP)]
pub struct CatArguments {
    /// The snapshot, and the path of the file in it
    #[arg(value_name = "SNAP:PATH")]
    pub file: OsString,
    #[command(flatten)]
    pub filters: FilterArguments,
}

/// Writes the content of a file to standard output.
pub fn run(session: &Session, arguments: &CatArguments) -> Result<Exit, CliError> {
    let (repository, snapshot, path) = session.find(&arguments.file, &arguments.filters)?;
    let path = path.ok_or(CliError::PathNotGiven)?;
    let view = repository.view(&snapshot)?;
    let path = view.resolve(Some(&path))?;
    let entry = view
        .entry(&path)?
        .ok_or_else(|| RepositoryError::NotFile(view.display_path(&path).display().to_string()))?;
    let mut file = view.open(&entry)?;
    let mut out = io::stdout().lock();
    loop {
        let bytes = file.next_bytes()?;
        let read = bytes.len();
        if read == 0 {
            break;
        }
        out.write_all(bytes).map_err(CliError::Output)?;
        file.consume(read);
    }
    out.flush().map_err(CliError::Output)?;
    Ok(Exit::Done)
}
