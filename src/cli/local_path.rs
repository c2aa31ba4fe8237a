//! Paths on this machine, as they are given on the command line.
//!
//! Other tools take a URL where this one takes a path. Taken for a path it would become a directory of that name
//! somewhere below the current one, and nobody would miss what was meant. So whatever looks like a URL is refused where
//! the command line is parsed, unless something of that name is there, or it is written with a `./` before it.

use std::path::{Path, PathBuf};

use clap::builder::{PathBufValueParser, TypedValueParser};
use treering::store::is_url;
use treering::url::Url;

/// What was given looks like a URL.
#[derive(Debug, thiserror::Error)]
pub enum NotLocal {
    #[error(
        "it looks like a URL, but a local path is needed here: write ./NAME for a local file of that name"
    )]
    Path,
    #[error(
        "{0} looks like a URL or a place on another host, and the repository is a directory here: make one, and copy it there \
         with `treering remote add NAME URL` and `treering push`; if it is a directory here, put ./ before its name"
    )]
    Repository(Url),
}

/// Takes the path of a file or directory.
pub fn local_path() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| expect_local(path, |_| NotLocal::Path))
}

/// Takes the path of a repository.
pub fn repository_path() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| expect_local(path, NotLocal::Repository))
}

/// Refuses what looks like a URL, if nothing of that name is there.
pub fn expect_local<P: AsRef<Path>>(path: P, refusal: impl FnOnce(Url) -> NotLocal) -> Result<P, NotLocal> {
    let given = path.as_ref();
    match is_url(given.as_os_str()) && !given.exists() {
        true => Err(refusal(Url::from(given.to_string_lossy().into_owned()))),
        false => Ok(path),
    }
}

#[cfg(test)]
mod tests {
    use std::any::TypeId;
    use std::ffi::OsString;

    use clap::builder::ValueHint;
    use clap::{Arg, Command};

    use crate::cli::commands::command;

    /// Calls `visit` with each argument that is a path, and the words that lead to its command.
    fn paths_below(command: &Command, words: &[&str], visit: &mut dyn FnMut(&Command, &[&str], &Arg)) {
        for argument in command.get_arguments() {
            let hint = argument.get_value_hint();
            let is_path = argument.get_value_parser().type_id() == TypeId::of::<std::path::PathBuf>()
                || matches!(hint, ValueHint::FilePath | ValueHint::DirPath | ValueHint::AnyPath);
            if is_path {
                visit(command, words, argument);
            }
        }
        for below in command.get_subcommands() {
            paths_below(below, &[words, &[below.get_name()]].concat(), visit);
        }
    }

    #[test]
    fn no_command_takes_a_url_for_a_path() {
        let mut seen = 0;
        let mut faults = Vec::new();
        let mut root = command();
        root.build();
        paths_below(&root, &["treering"], &mut |parent, words, argument| {
            let name = format!("{} [{}]", words.join(" "), argument.get_id());
            // The repository of `kv` is a path or a URL.
            if words[1..].starts_with(&["kv"]) && argument.get_id() == "url" {
                return;
            }
            seen += 1;
            for url in ["s3:bucket/path", "sftp://host/path", "me@host:path", "host:/path", "file:///path"] {
                // The values before it may have to be names of objects.
                let is_refused = ["x", "data/x"].iter().any(|filler| {
                    let mut line: Vec<OsString> = words.iter().map(Into::into).collect();
                    match (argument.get_long(), argument.get_short()) {
                        (Some(long), _) => line.push(format!("--{long}={url}").into()),
                        (None, Some(short)) => line.push(format!("-{short}{url}").into()),
                        (None, None) => {
                            let before = parent
                                .get_positionals()
                                .take_while(|other| other.get_id() != argument.get_id());
                            line.extend(before.map(|_| OsString::from(filler)));
                            line.push(url.into());
                        }
                    }
                    let result = command().try_get_matches_from(line);
                    result.is_err_and(|error| error.to_string().contains("looks like a URL"))
                });
                if !is_refused {
                    faults.push(format!("{name} takes {url}"));
                }
            }
        });
        assert!(seen > 20, "only {seen}");
        assert!(faults.is_empty(), "{faults:#?}");
    }
}
