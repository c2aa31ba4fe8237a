//! Running the program git.
//!
//! Git runs until it ends, this process is to stop, or it comes to its bounds; then it is ended with all that it started.
//! What it tells of its progress goes to a [`Progress`], and what else it says is kept for the error, within limits and
//! without secrets. Which settings count is said by [`program`](super::program).

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::Pid;

use crate::child::{Running, check, wait_to_hear};
use crate::progress::{Interrupted, Progress};
use crate::url::redact;
use crate::watch::{Bounds, Exceeded, Watch};

use super::GitError;

/// How many bytes are read of what git answers.
pub(super) const MAX_ANSWER: u64 = 1 << 20;

/// How many bytes are kept of what git says.
pub(super) const MAX_SAID: usize = 1 << 16;

/// The signal of Ctrl-C.
const SIGINT: i32 = 2;

/// What the lines begin with in which git tells how far it is, on either side.
const PROGRESS: [&str; 10] = [
    "Enumerating objects:",
    "Counting objects:",
    "Compressing objects:",
    "Writing objects:",
    "Receiving objects:",
    "Unpacking objects:",
    "Resolving deltas:",
    "Checking connectivity:",
    "Delta compression using",
    "Total ",
];

/// Runs git, and returns what it prints as text; see [`answer`].
pub(super) fn ask(
    action: &'static str,
    command: &mut Command,
    bounds: Bounds,
    progress: &Progress,
) -> Result<String, GitError> {
    Ok(String::from_utf8_lossy(&answer(action, command, bounds, progress)?).into_owned())
}

/// Runs git, and returns what it prints, [`MAX_ANSWER`] bytes at most: it is read when git has ended.
pub(super) fn answer(
    action: &'static str,
    command: &mut Command,
    bounds: Bounds,
    progress: &Progress,
) -> Result<Vec<u8>, GitError> {
    let keep = || {
        let file = File::from(memfd_create("git-answer", MemfdFlags::CLOEXEC)?);
        Ok((file.try_clone()?, file))
    };
    let (mut answer, stdout) = keep().map_err(GitError::io("keep the answer of", Path::new("git")))?;
    run_to_end(action, command, stdout.into(), bounds, progress, &mut false)?;
    let mut said = Vec::new();
    answer
        .seek(io::SeekFrom::Start(0))
        .and_then(|_| answer.take(MAX_ANSWER).read_to_end(&mut said))
        .map_err(GitError::io("read the answer of", Path::new("git")))?;
    Ok(said)
}

/// Runs git, which tells of its progress, and of what is wrong. Returns what else it says.
pub(super) fn run(
    action: &'static str,
    command: &mut Command,
    progress: &Progress,
) -> Result<String, GitError> {
    run_to_end(action, command, Stdio::null(), Bounds::default(), progress, &mut false)
}

/// Runs git with that standard output. Sets `is_killed` where git was ended, by this process or by a signal, and may have
/// left files.
pub(super) fn run_to_end(
    action: &'static str,
    command: &mut Command,
    stdout: Stdio,
    bounds: Bounds,
    progress: &Progress,
    is_killed: &mut bool,
) -> Result<String, GitError> {
    let failed = || GitError::io("run", Path::new("git"));
    command.stdout(stdout).stderr(Stdio::piped());
    let mut running = match Running::start(command) {
        Ok(started) => started?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(GitError::NoProgram),
        Err(error) => return Err(failed()(error)),
    };
    let mut watch = Watch::new(Pid::from_child(&running.child), bounds);
    let ended = follow(&mut running, progress, &mut watch);
    let (said, status) = match ended {
        Ok((said, status)) => (Ok(said), Ok(status)),
        Err(error) => (Err(error), running.end()),
    };
    // One that ended by itself was perhaps told to by what it ran, which Ctrl-C reaches as well.
    *is_killed = check(progress).is_err() || status.as_ref().map_or(true, |status| status.code().is_none());
    if let Err(error) = &said
        && let Some(&source) = error.get_ref().and_then(|error| error.downcast_ref::<Exceeded>())
    {
        *is_killed = true;
        return Err(GitError::Ended { action, source });
    }
    let status = status.map_err(failed())?;
    if !status.success() {
        check(progress)?;
    }
    // Ctrl-C reaches git at the same time.
    if status.signal() == Some(SIGINT) {
        return Err(Interrupted.into());
    }
    let said = said.map_err(failed())?;
    match status.success() {
        true => Ok(said),
        false => Err(GitError::Remote { action, said: redact(&without_advice(&said)) }),
    }
}

/// Follows git to its end, and returns what it said and how it ended. An error when it is to stop, or comes to its bounds.
fn follow(running: &mut Running, progress: &Progress, watch: &mut Watch) -> io::Result<(String, ExitStatus)> {
    let said = listen(&mut running.child, progress, watch)?;
    Ok((said, running.wait_within(progress, watch)?))
}

/// Follows what git says to its end, and returns it without its progress. An error as of [`follow`].
fn listen(child: &mut Child, progress: &Progress, watch: &mut Watch) -> io::Result<String> {
    let Some(mut stderr) = child.stderr.take() else { return Ok(String::new()) };
    let (mut said, mut line, mut transferred) = (String::new(), Vec::new(), 0);
    let mut end = |line: &mut Vec<u8>, terminator: &str| {
        let text = String::from_utf8_lossy(line);
        if !is_progress(&text) {
            said.push_str(&text);
            said.push_str(terminator);
        } else if let Some(now) = bytes_transferred(&text) {
            progress.bytes.add(now.saturating_sub(transferred));
            transferred = transferred.max(now);
        }
        line.clear();
        said.truncate(said.floor_char_boundary(MAX_SAID));
    };
    let mut buffer = [0; 4096];
    loop {
        wait_to_hear(&stderr, progress, watch)?;
        let len = match stderr.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        for &byte in &buffer[..len] {
            match byte {
                b'\r' => end(&mut line, ""),
                b'\n' => end(&mut line, "\n"),
                byte if line.len() < MAX_SAID => line.push(byte),
                _ => {}
            }
        }
    }
    end(&mut line, "");
    Ok(said.trim().to_owned())
}

/// What git says, without its advice to the person who would have run it.
fn without_advice(said: &str) -> String {
    let is_advice = |line: &&str| line.trim_start_matches("remote: ").starts_with("hint:");
    let lines: Vec<_> = said.lines().filter(|line| !is_advice(line)).collect();
    lines.join("\n").replace(" (you should pull first)", "")
}

fn is_progress(line: &str) -> bool {
    let line = line.strip_prefix("remote: ").unwrap_or(line);
    PROGRESS.iter().any(|begin| line.starts_with(begin))
}

/// How many bytes came or went, of a line such as `Writing objects:  50% (1/2), 3.21 MiB | 1.00 MiB/s`.
fn bytes_transferred(line: &str) -> Option<u64> {
    let rest =
        ["Writing objects:", "Receiving objects:"].iter().find_map(|begin| line.strip_prefix(begin))?;
    let (number, unit) = rest.split(", ").nth(1)?.split(" | ").next()?.split_once(' ')?;
    let shift = ["bytes", "KiB", "MiB", "GiB"].iter().position(|&known| known == unit.trim())? * 10;
    Some((number.parse::<f64>().ok()? * (1u64 << shift) as f64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_told_from_what_is_wrong() {
        let mut git = Command::new("sh");
        let script = "printf 'remote: Counting objects: 100%% (3/3)\\r'\n\
            printf 'Writing objects:  50%% (1/2), 1.00 KiB | 9.00 MiB/s\\r' >&2\n\
            printf 'Writing objects: 100%% (2/2), 2.50 KiB | 9.00 MiB/s, done.\\n' >&2\n\
            printf 'Total 2 (delta 0), reused 2 (delta 0)\\nremote: the disk is full\\nfatal: no' >&2\n\
            exit 1";
        let progress = Progress::new();
        let error = run("try", git.args(["-c", script]), &progress).unwrap_err();
        assert_eq!(progress.bytes.get(), 2560);
        assert!(
            matches!(&error, GitError::Remote { said, .. } if said == "remote: the disk is full\nfatal: no"),
            "{error}"
        );
    }

    #[test]
    fn bytes_are_read_in_every_unit_and_nothing_else_is() {
        let of = |rest: &str| bytes_transferred(&format!("Receiving objects:  10% (1/10){rest}"));
        assert_eq!(of(", 12 bytes | 1.00 KiB/s"), Some(12));
        assert_eq!(of(", 1.50 MiB | 1.00 KiB/s, done."), Some(3 << 19));
        assert_eq!(of(", 2.00 GiB"), Some(2 << 30));
        for nothing in ["", ", done.", ", x MiB", ", 1.00 parsecs | y", ", 7"] {
            assert_eq!(of(nothing), None, "{nothing}");
        }
        assert_eq!(bytes_transferred("Resolving deltas: 1% (1/2), 3.00 MiB"), None);
    }

    #[test]
    fn advice_that_fits_nobody_is_left_out() {
        let said = "remote: error: denying non-fast-forward refs/heads/main (you should pull first)\n\
            hint: Updates were rejected\nremote: hint: more\n ! [remote rejected] main -> main";
        let rest =
            "remote: error: denying non-fast-forward refs/heads/main\n ! [remote rejected] main -> main";
        assert_eq!(without_advice(said), rest);
    }

    #[test]
    fn what_is_to_stop_is_ended() {
        let progress = Progress::new();
        progress.stop();
        let error = run("try", Command::new("sh").args(["-c", "echo >&2; exec sleep 100"]), &progress);
        assert!(matches!(error, Err(GitError::Interrupted(_))));
    }

    #[test]
    fn a_program_that_is_not_there_is_told_apart() {
        let missing = run("try", &mut Command::new("/nowhere/git"), &Progress::new());
        assert!(matches!(missing, Err(GitError::NoProgram)));
    }
}
