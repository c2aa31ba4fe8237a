//! What is wrong with a directory that is most of a git repository.
//!
//! A power failure leaves empty files, and a person may damage one. Nobody may then be told that there is no repository, or
//! to make another one in its place; nor may what is bare be taken for an ordinary clone since its `config` is gone. One that was begun and not finished is told apart.

use std::fs;
use std::path::Path;

use super::GitError;

/// What a repository is made of, at least.
const PARTS: [&str; 4] = ["HEAD", "config", "refs", "objects"];

/// How many of them may be lost in what still counts as a repository.
const MOST_LOST: usize = 2;

/// How the file `HEAD` begins, and how long it is at most.
const SYMBOLIC: &[u8] = b"ref: refs/";
const MAX_HEAD: u64 = 4096;

/// Where a repository is made, in the directory where it is to be.
pub(super) const UNFINISHED: &str = ".treering-tmp-new";

/// What is wrong with the repository at `path`, if it is one of which a part is lost or damaged.
pub(super) fn fault(path: &Path) -> Option<GitError> {
    let lost: Vec<_> = PARTS.into_iter().filter(|part| !is_there(path, part)).collect();
    if lost.len() > MOST_LOST {
        return None;
    }
    let of = |part, state| {
        Some(GitError::Part { path: path.to_owned(), part, state, way_out: way_out(path, part, state) })
    };
    if let Some(part) = lost.first() {
        return of(part, "missing or empty");
    }
    if !is_head(path) {
        return of("HEAD", DAMAGED);
    }
    match git2::Config::open(&path.join("config")) {
        Ok(_) => None,
        Err(_) => of("config", DAMAGED),
    }
}

/// The same for a repository that git opens, but not as what it is: without its configuration it is not known to be bare.
pub(super) fn unconfigured(path: &Path) -> Option<GitError> {
    if is_there(path, "config") { None } else { fault(path) }
}

/// Whether a repository was begun at `path` and not finished.
pub(super) fn is_unfinished(path: &Path) -> bool {
    path.join(UNFINISHED).is_dir() && !path.join("HEAD").exists()
}

const DAMAGED: &str = "damaged";

fn is_there(path: &Path, part: &str) -> bool {
    match part {
        "HEAD" | "config" => fs::metadata(path.join(part)).is_ok_and(|file| file.is_file() && file.len() > 0),
        part => path.join(part).is_dir(),
    }
}

/// Whether the file `HEAD` names a branch or a commit.
fn is_head(path: &Path) -> bool {
    let path = path.join("HEAD");
    let is_short = fs::metadata(&path).is_ok_and(|file| file.len() <= MAX_HEAD);
    let head = if is_short { fs::read(&path).unwrap_or_default() } else { Vec::new() };
    let is_commit =
        || head.trim_ascii_end().len() == 40 && head.trim_ascii_end().iter().all(u8::is_ascii_hexdigit);
    head.starts_with(SYMBOLIC) || is_commit()
}

fn way_out(path: &Path, part: &str, state: &str) -> String {
    let path = path.display();
    match part {
        "config" if state == DAMAGED => format!(
            "put {path}/config right, or remove it, and `git config --file {path}/config core.bare true` makes one; remotes that it \
             named are to be added again"
        ),
        "config" => format!("`git config --file {path}/config core.bare true` makes it readable again"),
        "HEAD" => format!("write `ref: refs/heads/main` to {path}/HEAD"),
        part => format!("bring it back to {path}/{part} from a copy, or clone a remote"),
    }
}
