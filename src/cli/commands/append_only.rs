//! `append-only`: lets nothing be removed.

use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueHint};
use serde_json::json;

use crate::cli::error::{CliError, Exit};
use crate::cli::local_path::local_path;
use crate::cli::report::{self, print};
use crate::cli::{Session, host_name, user_name};

/// Forbid removing anything from the repository, or from a remote
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

/// What a remote runs to refuse pushes that remove anything.
const HOOK: &str = include_str!("append_only_hook.sh");

/// Lets nothing be removed, or allows it.
pub fn run(session: &Session, command: &AppendOnlyCommand) -> Result<Exit, CliError> {
    let state = |is_on: bool| match is_on {
        true => "The repository is append-only: nothing is removed from it",
        false => "Snapshots may be removed from the repository",
    };
    let say = |is_on: bool| session.say("append_only", &json!({ "append_only": is_on }), state(is_on));
    match command {
        AppendOnlyCommand::Status => say(session.open()?.config().append_only)?,
        AppendOnlyCommand::On | AppendOnlyCommand::Off => {
            let is_on = matches!(command, AppendOnlyCommand::On);
            let now = session.now.timestamp();
            session.open()?.set_append_only(is_on, &user_name(), &host_name(), now)?;
            say(is_on)?;
        }
        AppendOnlyCommand::Hook(arguments) => match &arguments.install {
            None => print(|out| out.write_all(HOOK.as_bytes()))?,
            Some(repository) => {
                install(repository)?;
                let shown = report::name(repository.as_os_str().as_encoded_bytes());
                let said = format!("{shown} refuses pushes that remove anything");
                session.say("installed", &json!({ "hook": "pre-receive" }), &said)?;
            }
        },
    }
    Ok(Exit::Done)
}

/// Makes the hook that of the bare repository at `path`; another one that is there stays.
fn install(path: &Path) -> Result<(), CliError> {
    treering::gitkv::Git::open(path)?;
    let hooks = path.join("hooks");
    fs::create_dir_all(&hooks).map_err(CliError::file("make", &hooks))?;
    let hook = hooks.join("pre-receive");
    match fs::read(&hook) {
        Ok(found) if found != HOOK.as_bytes() => return Err(CliError::HookExists(hook)),
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(CliError::file("read", &hook)(error));
        }
        _ => {}
    }
    let place = || {
        let mut file = treering::atomic::temporary(&hooks, 0o755)?;
        file.write_all(HOOK.as_bytes())?;
        file.as_file().set_permissions(Permissions::from_mode(0o755))?;
        treering::atomic::place(file, &hook)?;
        treering::atomic::sync_dir(&hooks)
    };
    place().map_err(CliError::file("write", &hook))
}
