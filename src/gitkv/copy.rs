//! Copying commits from one repository on this machine to another.
//!
//! The objects go into a layer of the repository that gets them, blobs as layers have them, so nothing is
//! compressed or searched for deltas. Each is checked against its name on the way. What the references of that
//! repository reach is not copied; what is there beside, such as a dead writer left it, is no proof that
//! all that it names is there too, and counts for nothing.
//!
//! Of a shallow repository what is there is copied, and the end of its history noted in `shallow`, as git does.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

use crate::layers::{LayerWriter, ObjectId, ObjectKind};
use crate::progress::Progress;

use super::git::{expect_kind, parse_commit, parse_tree};
use super::tree::{MAX_DEPTH, Mode, Tree, TreeEntry};
use super::writers::Writing;
use super::{Git, GitError};

/// Where git notes the commits at which the history of a shallow clone ends, and how much of it is read.
const SHALLOW: &str = "shallow";
const MAX_SHALLOW: u64 = 1 << 22;

impl Git {
    /// Brings commits of `from` here, with all that they name, durably; a history that ends there ends here. A reference
    /// has to be moved to them before what is returned is [done](Writing::done).
    pub(super) fn fetch_commits(
        &self,
        from: &Git,
        commits: &[ObjectId],
        progress: &Progress,
    ) -> Result<Writing, GitError> {
        let (writing, ends) = self.copy(from, commits, from.shallow()?, progress)?;
        if !ends.is_empty() {
            self.turn()?.replace(SHALLOW, |before| {
                let mut lines = String::from_utf8_lossy(before).into_owned();
                ends.iter().for_each(|end| lines += &format!("{end}\n"));
                Ok(Some(lines.into_bytes()))
            })?;
        }
        Ok(writing)
    }

    /// The same, where all that they follow must be in one of the two.
    pub(super) fn copy_commits(
        &self,
        from: &Git,
        commits: &[ObjectId],
        progress: &Progress,
    ) -> Result<Writing, GitError> {
        Ok(self.copy(from, commits, HashSet::new(), progress)?.0)
    }

    /// The same, where the history may end at `ends`. Also where it did.
    fn copy(
        &self,
        from: &Git,
        commits: &[ObjectId],
        ends: HashSet<ObjectId>,
        progress: &Progress,
    ) -> Result<(Writing, Vec<ObjectId>), GitError> {
        let mut writing = Writing::begin(self)?;
        let layer = LayerWriter::create(&self.pack_dir())?;
        let here = self.commits_reached()?;
        let mut copy = Copy { from, layer, copied: HashSet::new(), here, ends, ended: Vec::new(), progress };
        let mut to_do = commits.to_vec();
        while let Some(id) = to_do.pop() {
            if !copy.here.contains(&id) && !copy.copied.contains(&id) {
                copy.commit(&id, &mut to_do)?;
            }
        }
        writing.finish(copy.layer)?;
        Ok((writing, copy.ended))
    }

    /// The commits whose parents are not here since this is a shallow clone.
    fn shallow(&self) -> Result<HashSet<ObjectId>, GitError> {
        let path = self.path().join(SHALLOW);
        let mut text = String::new();
        let read = File::open(&path).and_then(|file| file.take(MAX_SHALLOW).read_to_string(&mut text));
        match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(HashSet::new()),
            read => {
                read.map_err(GitError::io("read", &path))?;
                Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
            }
        }
    }

    /// The commits that a reference reaches.
    fn commits_reached(&self) -> Result<HashSet<ObjectId>, GitError> {
        let mut reached = HashSet::new();
        let mut to_do: Vec<_> = self.references()?.into_iter().map(|(_, id)| id).collect();
        while let Some(id) = to_do.pop() {
            if reached.contains(&id) {
                continue;
            }
            // A tag is of some commit that a branch reaches; if not, that is copied again.
            let (kind, bytes) = match self.read_any(&id) {
                // The history may begin here.
                Err(GitError::Missing(_)) => continue,
                object => object?,
            };
            if kind == ObjectKind::Commit {
                reached.insert(id);
                to_do.extend(parse_commit(&id, &bytes)?.parents);
            }
        }
        Ok(reached)
    }
}

struct Copy<'a> {
    from: &'a Git,
    layer: LayerWriter,
    copied: HashSet<ObjectId>,
    /// Commits that are there already, with all that they name.
    here: HashSet<ObjectId>,
    /// Where the history may end, and where it did.
    ends: HashSet<ObjectId>,
    ended: Vec<ObjectId>,
    progress: &'a Progress,
}

impl Copy<'_> {
    /// Copies a commit and what is new in it; its parents are still `to_do`.
    fn commit(&mut self, id: &ObjectId, to_do: &mut Vec<ObjectId>) -> Result<(), GitError> {
        let commit = parse_commit(id, &self.object(id, ObjectKind::Commit)?)?;
        let mut before = Vec::new();
        for parent in &commit.parents {
            match self.from.read_commit(parent) {
                // A shallow clone ends here. The other side may have it.
                Err(GitError::Missing(_)) if self.here.contains(parent) => {}
                Err(GitError::Missing(_)) if self.ends.contains(id) => self.ended.push(*id),
                found => {
                    before.push(self.from.read_tree(&found?.tree)?);
                    to_do.push(*parent);
                }
            }
        }
        self.tree(&commit.tree, &before, 0)?;
        Ok(())
    }

    /// Copies what a tree has that none of the trees `before`, which stand at the same place in the commit's
    /// parents, has under the same name.
    fn tree(&mut self, id: &ObjectId, before: &[Arc<Tree>], depth: usize) -> Result<(), GitError> {
        if self.copied.contains(id) {
            return Ok(());
        }
        if depth > MAX_DEPTH {
            return Err(GitError::Corrupt { id: *id, kind: "tree", fault: "it is too deep" });
        }
        let tree = parse_tree(id, self.object(id, ObjectKind::Tree)?)?;
        for entry in tree.entries() {
            let was: Vec<TreeEntry<'_>> = before.iter().filter_map(|tree| tree.lookup(entry.name)).collect();
            if entry.mode == Mode::Module || was.iter().any(|was| was.id == entry.id) {
                continue;
            }
            if entry.mode == Mode::Directory {
                let directories = was.iter().filter(|was| was.mode == Mode::Directory);
                let before =
                    directories.map(|was| self.from.read_tree(&was.id)).collect::<Result<Vec<_>, _>>()?;
                self.tree(&entry.id, &before, depth + 1)?;
            } else if !self.copied.contains(&entry.id) {
                let blob = self.object(&entry.id, ObjectKind::Blob)?;
                self.progress.bytes.add(blob.len() as u64);
            }
        }
        Ok(())
    }

    /// Copies an object, and returns its bytes.
    fn object(&mut self, id: &ObjectId, expected: ObjectKind) -> Result<Vec<u8>, GitError> {
        self.progress.check()?;
        let (kind, bytes) = self.from.read_any(id)?;
        expect_kind(id, kind, expected)?;
        self.layer.write(kind, &bytes)?;
        self.copied.insert(*id);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Fixture, sweep};
    use super::*;

    fn copy(from: &Git, to: &Git, commit: ObjectId) -> u64 {
        let progress = Progress::new();
        let before = to.head().unwrap();
        let mut writing = to.copy_commits(from, &[commit], &progress).unwrap();
        to.compare_and_set("refs/heads/main", before.as_ref(), &commit).unwrap();
        writing.done();
        progress.bytes.get()
    }

    #[test]
    fn only_what_is_new_is_copied_and_git_finds_it_whole() {
        let (here, there) = (Fixture::new(), Fixture::new());
        let (from, to) = (here.open(), there.open());
        let first = here.commit(&from, &[("a/1", "one"), ("a/2", "two"), ("b", "three")]);
        assert_eq!(copy(&from, &to, first), 11);
        there.fsck();
        let second = here.commit(&from, &[("a/1", "changed"), ("c/d/e", "deep")]);
        assert_eq!(copy(&from, &to, second), 11);
        assert_eq!(copy(&from, &to, second), 0);
        there.fsck();
        assert_eq!(there.run(&["cat-file", "blob", "main:a/2"]), "two");
        assert_eq!(there.run(&["rev-list", "--count", "main"]).trim(), "2");
        assert_eq!(there.files("objects/pack"), 6, "two layers");
        assert_eq!(sweep(&to), super::super::Swept::default());
    }

    #[test]
    fn what_a_merge_brings_that_is_there_already_is_not_copied_again() {
        let (here, there) = (Fixture::new(), Fixture::new());
        let (from, to) = (here.open(), there.open());
        let base = here.commit(&from, &[("base", "x")]);
        copy(&from, &to, base);
        let theirs = here.commit(&from, &[("theirs/large", "there already")]);
        copy(&from, &to, theirs);
        here.run(&["update-ref", "refs/heads/main", &base.to_string()]);
        here.commit(&from, &[("ours", "new")]);
        here.run(&["update-ref", "refs/heads/theirs", &theirs.to_string()]);
        let tree = here.run(&["merge-tree", "--write-tree", "main", "theirs"]);
        let merged = here.run(&["commit-tree", tree.trim(), "-p", "main", "-p", "theirs", "-m", "Merge"]);
        assert_eq!(copy(&from, &to, merged.trim().parse().unwrap()), 3);
        there.fsck();
    }

    #[test]
    fn what_nothing_names_is_no_proof_that_the_rest_is_there() {
        let (here, there) = (Fixture::new(), Fixture::new());
        let (from, to) = (here.open(), there.open());
        let commit = here.commit(&from, &[("a", "1")]);
        let mut layer = LayerWriter::create(&to.pack_dir()).unwrap();
        let (kind, bytes) = from.read_any(&commit).unwrap();
        layer.write(kind, &bytes).unwrap();
        layer.finish().unwrap();
        copy(&from, &to, commit);
        there.fsck();
    }

    #[test]
    fn a_missing_object_stops_it_and_leaves_nothing_that_stays() {
        let (here, there) = (Fixture::new(), Fixture::new());
        let (from, to) = (here.open(), there.open());
        let nowhere = ObjectId::from_bytes([9; 20]);
        let error = to.copy_commits(&from, &[nowhere], &Progress::new()).err().unwrap();
        assert!(matches!(error, GitError::Missing(id) if id == nowhere));
        assert_eq!(there.files("objects/pack"), 0);
        let stopped = Progress::new();
        stopped.stop();
        let commit = here.commit(&from, &[("a", "1")]);
        let error = to.copy_commits(&from, &[commit], &stopped).err().unwrap();
        assert!(matches!(error, GitError::Interrupted(_)));
    }
}
