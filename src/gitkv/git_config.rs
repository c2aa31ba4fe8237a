//! The configuration of git, as git lists it and as its files have it.
//!
//! A setting that was listed and is written comes out of git as it went in, whatever bytes are in it. A list that is too
//! long is an error: what is cut off could be anything.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::progress::Progress;
use crate::watch::Bounds;

use super::GitError;
use super::run::{MAX_ANSWER, answer};

/// All settings that count for the repository `git_dir`, or for none, as git lists them; `None` without the program git.
pub(super) fn list_settings(git_dir: Option<&Path>) -> Result<Option<Vec<u8>>, GitError> {
    let mut git = Command::new("git");
    // A repository around the working directory is not meant.
    git.arg("--git-dir").arg(git_dir.unwrap_or_else(|| Path::new("/dev/null")));
    git.args(["config", "--list", "--includes", "--show-scope", "--null"]);
    git.env_remove("GIT_CONFIG").stdin(Stdio::null());
    const LIST: &str = "read the settings of git";
    match answer(LIST, &mut git, Bounds::default(), &Progress::new()) {
        Err(GitError::NoProgram) => Ok(None),
        Ok(listed) if listed.len() as u64 >= MAX_ANSWER => {
            // What is cut off could be anything.
            Err(GitError::Remote { action: LIST, said: "they are too many".into() })
        }
        listed => listed.map(Some),
    }
}

/// What `git config --list --show-scope --null` prints: the scope, name and value of each setting. One without a value
/// means yes.
pub(super) fn listed_settings(listed: &[u8]) -> impl Iterator<Item = (&[u8], &[u8], Option<&[u8]>)> {
    let mut fields = listed.split(|&byte| byte == 0);
    std::iter::from_fn(move || Some((fields.next()?, fields.next()?))).map(|(scope, setting)| {
        match setting.iter().position(|&byte| byte == b'\n') {
            Some(end) => (scope, &setting[..end], Some(&setting[end + 1..])),
            None => (scope, setting, None),
        }
    })
}

/// Appends a setting as git's configuration files have it. Without a value it is a bare name, which means yes.
pub(super) fn write_setting(out: &mut Vec<u8>, name: &[u8], value: Option<&[u8]>) {
    let last = name.iter().rposition(|&byte| byte == b'.').unwrap_or(name.len());
    let (above, key) = (&name[..last], name.get(last + 1..).unwrap_or_default());
    let (section, subsection) = match above.iter().position(|&byte| byte == b'.') {
        Some(dot) => (&above[..dot], Some(&above[dot + 1..])),
        None => (above, None),
    };
    out.push(b'[');
    out.extend_from_slice(section);
    if let Some(subsection) = subsection {
        out.extend_from_slice(b" \"");
        for &byte in subsection {
            out.extend_from_slice(if matches!(byte, b'"' | b'\\') { b"\\" } else { b"" });
            out.push(byte);
        }
        out.push(b'"');
    }
    out.extend_from_slice(b"]\n\t");
    out.extend_from_slice(key);
    if let Some(value) = value {
        out.extend_from_slice(b" = \"");
        for &byte in value {
            match byte {
                b'\n' => out.extend_from_slice(b"\\n"),
                b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
                byte => out.push(byte),
            }
        }
        out.push(b'"');
    }
    out.push(b'\n');
}
