//! `completions`: prints what makes a shell complete command lines.

use clap::Args;
use clap_complete::Shell;

use crate::cli::Session;
use crate::cli::commands::command;
use crate::cli::error::{CliError, Exit};
use crate::cli::report::print;

/// Generate shell completions
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  treering completions bash > ~/.local/share/bash-completion/completions/treering")]
pub struct CompletionsArguments {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

/// Prints them.
pub fn run(_: &Session, arguments: &CompletionsArguments) -> Result<Exit, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command(), "treering", &mut script);
    print(|out| out.write_all(&script))?;
    Ok(Exit::Done)
}
