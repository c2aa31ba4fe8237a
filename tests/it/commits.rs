//! Commits of what the program would never commit.

use std::path::Path;

use jiff::Timestamp;
use treering::gitkv::{Git, Person, Transaction, TreeEdit};

/// Commits a change on the branch of `repository`, whatever it makes of the tree.
pub fn commit(repository: &Path, change: impl FnOnce(&mut Transaction<'_>, &mut TreeEdit)) {
    let git = Git::open(repository).unwrap();
    let mut transaction = git.begin().unwrap();
    let mut edit = TreeEdit::new();
    change(&mut transaction, &mut edit);
    let who = Person::new("tester", "tester@localhost", Timestamp::now());
    transaction.commit(&who, "Make it up", &edit).unwrap();
}
