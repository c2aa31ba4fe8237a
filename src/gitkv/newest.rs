//! The newest commit that the branch was seen at.
//!
//! A file in the repository's private directory names it. It is written when a commit, a merge or a pull of this program has moved the branch, so
//! it tells when the branch was set back since: the file of the reference restored from a copy, or lost in a power failure.
//! It may lag behind where others push, and where a process died; it never names what the branch was not at. Nothing is
//! lost without it, so it is not synced, and what cannot be read of it counts as missing.

use std::fs;
use std::io::Write;

use crate::atomic;
use crate::layers::ObjectId;

use super::{Git, GitError};

/// The name of the file. It holds the id of the commit, a space and the full name of the branch.
const NEWEST: &str = "newest";

/// Bytes of it that are looked at.
const MAX_LEN: u64 = 1 << 16;

impl Git {
    /// Notes that the branch was moved from `before` to `now`. One that was set back before that stays known.
    pub(super) fn note_newest(&self, before: Option<&ObjectId>, now: &ObjectId) {
        let known = self.newest().filter(|known| Some(known) != before);
        let is_set_back =
            |known: ObjectId| before.is_some_and(|before| self.is_set_back(before, &known).unwrap_or(false));
        if !known.is_some_and(is_set_back) {
            let _ = self.write_newest(now);
        }
    }

    fn write_newest(&self, commit: &ObjectId) -> Result<(), GitError> {
        let private = self.private_dir()?;
        let path = private.join(NEWEST);
        let written = atomic::temporary(&private, atomic::MODE).and_then(|mut file| {
            writeln!(file, "{commit} {}", self.branch())?;
            file.persist(&path).map(drop).map_err(|error| error.error)
        });
        written.map_err(GitError::io("write", &path))
    }

    fn newest(&self) -> Option<ObjectId> {
        let path = self.newest_path();
        fs::metadata(&path).ok().filter(|file| file.len() <= MAX_LEN)?;
        let text = fs::read_to_string(&path).ok()?;
        let (id, branch) = text.trim_end().split_once(' ')?;
        id.parse().ok().filter(|_| branch == self.branch())
    }

    /// The file that names the newest commit: whoever removes it takes the branch as it is.
    pub fn newest_path(&self) -> std::path::PathBuf {
        self.path().join(super::paths::PRIVATE).join(NEWEST)
    }

    /// The commit that the branch was at when it was set back to an older state, if it was, and the commit is here.
    pub fn lost_tip(&self) -> Result<Option<ObjectId>, GitError> {
        let Some((newest, head)) = self.newest().zip(self.head()?) else { return Ok(None) };
        match newest == head || self.read_commit(&newest).is_err() || !self.is_set_back(&head, &newest)? {
            true => Ok(None),
            false => Ok(Some(newest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Fixture;

    #[test]
    fn a_branch_that_was_set_back_is_known_also_behind_new_commits() {
        let fixture = Fixture::new();
        let git = fixture.open();
        let first = fixture.commit(&git, &[("a", "1")]);
        let second = fixture.commit(&git, &[("b", "2")]);
        assert_eq!(git.lost_tip().unwrap(), None);
        git.compare_and_set(git.branch(), Some(&second), &first).unwrap();
        assert_eq!(git.lost_tip().unwrap(), Some(second));
        let third = fixture.commit(&git, &[("c", "3")]);
        assert_eq!(git.lost_tip().unwrap(), Some(second));
        git.compare_and_set(git.branch(), Some(&third), &second).unwrap();
        assert_eq!(git.lost_tip().unwrap(), None);
        fixture.commit(&git, &[("d", "4")]);
        assert_eq!(git.lost_tip().unwrap(), None);
        for text in ["", "x", "0000000000000000000000000000000000000000 refs/heads/main"] {
            std::fs::write(git.newest_path(), text).unwrap();
            assert_eq!(git.lost_tip().unwrap(), None);
        }
    }
}
