//! What the tests of this folder share.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::layers::ObjectId;

use super::{Git, Person, Swept, TreeEdit};

/// A new bare repository, which goes with its directory.
pub struct Fixture {
    directory: TempDir,
}

pub fn who() -> Person {
    Person::new("Ann", "ann@example.org", "2026-11-20T19:55:12Z".parse().unwrap())
}

/// Sweeps. A process that another test is just starting may still hold a copy of a lock that is given back
/// already; that passes.
pub fn sweep(git: &Git) -> Swept {
    std::iter::repeat_with(|| git.sweep().unwrap()).find(|swept| !swept.busy).unwrap()
}

impl Fixture {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let fixture = Self { directory };
        Git::init(&fixture.path(), &[("treering.test", "yes")]).unwrap();
        fixture
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("repo.git")
    }

    pub fn open(&self) -> Git {
        Git::open(&self.path()).unwrap()
    }

    /// Sets paths to contents in one commit.
    pub fn commit(&self, git: &Git, files: &[(&str, &str)]) -> ObjectId {
        let mut transaction = git.begin().unwrap();
        let mut edit = TreeEdit::new();
        for (path, content) in files {
            edit.set(path.as_bytes(), transaction.blob(content.as_bytes()).unwrap()).unwrap();
        }
        transaction.commit(&who(), "Set", &edit).unwrap().expect("something changes").commit
    }

    /// What `git` with `arguments` prints, in the repository. Git is what this module is about: without it
    /// the test fails.
    pub fn run(&self, arguments: &[&str]) -> String {
        self.run_at("1800000000 +0000", arguments)
    }

    /// The same, at a given time.
    pub fn run_at(&self, date: &str, arguments: &[&str]) -> String {
        let mut command = Command::new("git");
        command.arg("-C").arg(self.path()).args(arguments);
        for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
            command.env_remove(name);
        }
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
        for role in ["AUTHOR", "COMMITTER"] {
            command
                .env(format!("GIT_{role}_NAME"), "Git")
                .env(format!("GIT_{role}_EMAIL"), "git@example.org");
            command.env(format!("GIT_{role}_DATE"), date);
        }
        let output = command.output().expect("the program git is installed");
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "git {arguments:?}: {complaints}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn fsck(&self) {
        self.run(&["fsck", "--strict", "--full"]);
    }

    /// How many files are in a directory of the repository.
    pub fn files(&self, directory: &str) -> usize {
        fs::read_dir(self.path().join(directory)).unwrap().count()
    }
}
