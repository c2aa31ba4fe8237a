//! Room on the disk that is kept for the day when it is full.
//!
//! To remove snapshots and what they needed takes some room itself: for a commit, its index and a reference. So a
//! repository has a file of [`SIZE`] bytes that means nothing. It is given up before anything is removed, and made
//! again afterwards; where it cannot be made, nothing is said, since nothing depends on it until the disk is full.

use std::fs;
use std::io;
use std::path::PathBuf;

use crate::gitkv::PRIVATE;
use crate::repository::Repository;

/// Enough for the commits of `forget` and of a `prune` of some hundred snapshots.
const SIZE: usize = 256 << 10;

/// Its name in the private directory.
const NAME: &str = "reserve";

/// The reserve, given up; dropped, it is made again.
pub(super) struct Reserve {
    path: PathBuf,
}

impl Repository {
    /// Gives the reserve up for as long as what is returned lives.
    pub(super) fn give_up_reserve(&self) -> Reserve {
        let reserve = Reserve { path: self.path().join(PRIVATE).join(NAME) };
        // There may be none, and it is not known yet whether it is needed.
        let _ = fs::remove_file(&reserve.path);
        reserve
    }

    /// Makes the reserve if there is none.
    pub(super) fn keep_reserve(&self) {
        drop(Reserve { path: self.path().join(PRIVATE).join(NAME) });
    }
}

impl Reserve {
    fn make(&self) -> io::Result<()> {
        if fs::metadata(&self.path).is_ok_and(|file| file.len() == SIZE as u64) {
            return Ok(());
        }
        // Random, since some file systems give no room to zeros.
        let mut bytes = vec![0; SIZE];
        getrandom::fill(&mut bytes).map_err(io::Error::other)?;
        // In place: one that was cut short is made anew, and holds no less room until then.
        fs::write(&self.path, bytes)
    }
}

impl Drop for Reserve {
    fn drop(&mut self) {
        let _ = self.make();
    }
}
