//! A repository as a key-value store: keys are paths, values are files.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashSet};
use std::path::Path;

use crate::layers::{LayerWriter, ObjectId, ObjectKind};
use crate::url::Url;

use super::commit::{Commit, Person};
use super::edit::TreeEdit;
use super::origin::{self, Origin, cached_clone};
use super::remotes::RemoteHead;
use super::transaction::Edit;
use super::tree::{self, Mode, Node};
use super::{Git, GitError, Walk, shown};

/// The files of the branch of a git repository, as a store of keys and values.
///
/// Keys are paths as git has them: bytes, names separated by `/`. Every change is a commit. A value is looked
/// up in the branch's tree; nothing is checked out.
///
/// An ordinary clone, with a working tree, is changed as a person changes it: a commit on the branch that is
/// checked out, with index and working tree. It is not pushed.
///
/// In a bare clone, the branch is the one of the repository that it came from (`origin`). Each change is made on
/// what that has now and pushed, so a commit is there when the call returns, or nothing has changed; what
/// only the clone's own branch has is not seen. Reading shows what the origin had when it was last asked: by
/// opening, by a commit or by [`refresh`](GitKv::refresh).
///
/// ```
/// use std::io::Write;
/// use treering::gitkv::{GitKv, OpenMode, Person};
///
/// let dir = tempfile::tempdir()?;
/// let kv = GitKv::create(&dir.path().join("repo.git"))?;
/// let who = Person::new("A Writer", "writer@example.org", "2026-11-20T19:55:12Z".parse()?);
///
/// let mut file = kv.file("notes/ring", OpenMode::Write)?;
/// file.write_all(b"hello")?;
/// file.commit(&who)?;
///
/// kv.transaction(&who, "Move the note", |keys| {
///     let note = keys.get("notes/ring")?.unwrap_or_default();
///     keys.remove("notes/ring")?;
///     keys.set("archive/ring", note)
/// })?;
/// assert_eq!(kv.get("archive/ring")?.as_deref(), Some(&b"hello"[..]));
/// assert_eq!(kv.log("archive/ring")?.count(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct GitKv {
    git: Git,
    origin: Option<Origin>,
}

impl GitKv {
    /// Makes a bare repository at `path`, where nothing or an empty directory may be.
    pub fn create(path: &Path) -> Result<Self, GitError> {
        Ok(Self { git: Git::init(path, &[])?, origin: None })
    }

    /// Opens the repository at `path`. A bare one that has a remote called `origin` is a clone of that; an
    /// ordinary clone is what counts itself.
    pub fn open(path: &Path) -> Result<Self, GitError> {
        Self::of(Git::open_with_work_tree(path)?)
    }

    fn of(git: Git) -> Result<Self, GitError> {
        let origin = if git.work_tree.is_none() { Origin::of(&git)? } else { None };
        let kv = Self { origin, git };
        kv.refresh()?;
        Ok(kv)
    }

    /// Opens the repository at any URL that git accepts, by a clone in the directory `cache` that is made
    /// once and fetched to from then on.
    pub fn open_url(url: impl Into<Url>, cache: &Path) -> Result<Self, GitError> {
        let url = url.into();
        let clone = cached_clone(&url, cache)?;
        let mut git = Git::open_with_work_tree(&clone)?;
        // The origin may have chosen another branch since it was last used.
        let head = origin::follow_head(&git, &url)?;
        if matches!(&head, RemoteHead::Branch(branch) if branch != git.branch()) {
            git = Git::open_with_work_tree(&clone)?;
        }
        let mut kv = Self::of(git)?;
        if let (RemoteHead::Nothing, Some(origin)) = (head, &kv.origin) {
            origin.expect_nothing(&kv.git, &url)?;
            if origin.is_empty(&kv.git)? && origin::follow_unborn_head(&kv.git, &url)? {
                kv = Self::of(Git::open_with_work_tree(&clone)?)?;
            }
        }
        match kv.head() {
            Err(GitError::NoBranch { branch, others, .. }) => {
                Err(GitError::NoBranch { path: url.to_string().into(), branch, others })
            }
            _ => Ok(kv),
        }
    }

    /// Asks the origin what it has now. Does nothing when there is none.
    pub fn refresh(&self) -> Result<(), GitError> {
        match &self.origin {
            Some(origin) => origin.fetch(&self.git),
            None => Ok(()),
        }
    }

    /// The repository below.
    pub fn git(&self) -> &Git {
        &self.git
    }

    /// The latest commit, if there is one.
    pub fn head(&self) -> Result<Option<ObjectId>, GitError> {
        match &self.origin {
            Some(origin) => origin.tip(&self.git),
            None => self.git.head_or_none(),
        }
    }

    /// The keys and values as the commit `commit` recorded them.
    pub fn at(&self, commit: ObjectId) -> KvView<'_> {
        KvView::of(&self.git, Some(commit))
    }

    /// The keys and values as they are now; later commits do not change the view.
    pub fn view(&self) -> Result<KvView<'_>, GitError> {
        Ok(KvView::of(&self.git, self.head()?))
    }

    /// The value of `key` now.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>, GitError> {
        self.view()?.get(key)
    }

    /// The keys now that are `prefix` or lie below it; an empty prefix means all.
    pub fn list(&self, prefix: impl AsRef<[u8]>) -> Result<KvKeys<'_>, GitError> {
        self.view()?.list(prefix)
    }

    /// Removes `key` in a commit of its own. Whether it was there.
    pub fn remove(&self, key: impl AsRef<[u8]>, who: &Person) -> Result<bool, GitError> {
        let key = key.as_ref();
        let message = format!("Remove {}", shown(key));
        let removed = self.transaction(who, &message, |keys| match keys.get(key)? {
            Some(_) => keys.remove(key),
            None => Ok(()),
        })?;
        Ok(removed.is_some())
    }

    /// Makes all changes of `change` in one commit, and returns it; `None` when it changes nothing.
    ///
    /// Everything that `change` reads is of one commit. If the branch moves before its changes are committed,
    /// it is called again with what is there then; so what it does beside the keys happens again too. An
    /// error of its own leaves everything as it was.
    pub fn transaction<E: From<GitError>>(
        &self,
        who: &Person,
        message: &str,
        mut change: impl FnMut(&mut KvTransaction<'_>) -> Result<(), E>,
    ) -> Result<Option<ObjectId>, E> {
        let mut edit = |head: Option<&ObjectId>, layer: &mut LayerWriter| {
            let before = KvView::of(&self.git, head.copied());
            let mut transaction = KvTransaction { before, changes: BTreeMap::new() };
            change(&mut transaction)?;
            Ok(transaction.into_edit(layer)?)
        };
        self.commit(who, message, &mut edit)
    }

    pub(super) fn commit<E: From<GitError>>(
        &self,
        who: &Person,
        message: &str,
        edit: &mut Edit<'_, E>,
    ) -> Result<Option<ObjectId>, E> {
        self.git.sweep()?;
        match &self.origin {
            Some(origin) => origin.commit(&self.git, who, message, edit),
            None => {
                let committed = self.git.begin()?.commit_with(who, message, edit)?;
                Ok(committed.map(|committed| committed.commit))
            }
        }
    }

    /// The commits that changed the value of `key`, or removed it, the latest first.
    ///
    /// Of a history with merges the sides that left the value as it became are not followed further, as `git
    /// log` does.
    pub fn log(&self, key: impl AsRef<[u8]>) -> Result<KvLog<'_>, GitError> {
        let mut log = KvLog {
            git: &self.git,
            key: key.as_ref().to_owned(),
            to_do: BinaryHeap::new(),
            seen: HashSet::new(),
        };
        if let Some(head) = self.head()? {
            log.push(head)?;
        }
        Ok(log)
    }

    /// What a commit says about itself.
    pub fn message(&self, commit: &ObjectId) -> Result<String, GitError> {
        Ok(shown(&self.git.read_commit(commit)?.message))
    }
}

/// The keys and values of one commit.
#[derive(Clone, Copy)]
pub struct KvView<'a> {
    git: &'a Git,
    root: Option<ObjectId>,
}

impl<'a> KvView<'a> {
    pub(super) fn of(git: &'a Git, root: Option<ObjectId>) -> Self {
        Self { git, root }
    }

    /// The value of `key`.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>, GitError> {
        self.find(key.as_ref())?.map(|id| self.git.read_blob(&id)).transpose()
    }

    /// The keys that are `prefix` or lie below it; an empty prefix means all.
    pub fn list(&self, prefix: impl AsRef<[u8]>) -> Result<KvKeys<'a>, GitError> {
        let walk = self.root.map(|root| self.git.walk(&root, prefix.as_ref())).transpose()?;
        Ok(KvKeys(walk))
    }

    /// The blob that is the value of `key`. A directory is no value.
    pub(super) fn find(&self, key: &[u8]) -> Result<Option<ObjectId>, GitError> {
        let node = self.root.map(|root| self.git.find(&root, key)).transpose()?.flatten();
        Ok(node.filter(is_value).map(|node| node.id))
    }
}

fn is_value(node: &Node) -> bool {
    matches!(node.mode, Mode::File | Mode::Executable | Mode::Link)
}

/// Keys in git's order; made by [`GitKv::list`].
pub struct KvKeys<'a>(Option<Walk<'a>>);

impl Iterator for KvKeys<'_> {
    type Item = Result<Vec<u8>, GitError>;

    fn next(&mut self) -> Option<Self::Item> {
        let is_key = |file: &Result<(_, Node), _>| file.as_ref().map_or(true, |(_, node)| is_value(node));
        self.0.as_mut()?.find(is_key).map(|file| file.map(|(path, _)| path))
    }
}

/// Changes to several keys that become one commit; see [`GitKv::transaction`].
pub struct KvTransaction<'a> {
    before: KvView<'a>,
    /// New values; `None` for keys that go.
    changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl KvTransaction<'_> {
    /// The value of `key`, with the changes that were made so far.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>, GitError> {
        match self.changes.get(key.as_ref()) {
            Some(value) => Ok(value.clone()),
            None => self.before.get(key),
        }
    }

    /// The keys that are `prefix` or lie below it, in the order of their bytes.
    pub fn list(&self, prefix: impl AsRef<[u8]>) -> Result<Vec<Vec<u8>>, GitError> {
        let prefix = prefix.as_ref();
        let is_within = |key: &[u8]| {
            prefix.is_empty()
                || key.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
        };
        let mut keys = self.before.list(prefix)?.collect::<Result<BTreeSet<_>, _>>()?;
        for (key, value) in self.changes.iter().filter(|(key, _)| is_within(key)) {
            match value {
                Some(_) => keys.insert(key.clone()),
                None => keys.remove(key),
            };
        }
        Ok(keys.into_iter().collect())
    }

    /// Sets `key` to `value`.
    pub fn set(&mut self, key: impl AsRef<[u8]>, value: impl Into<Vec<u8>>) -> Result<(), GitError> {
        self.change(key.as_ref(), Some(value.into()))
    }

    /// Leaves no value for `key`.
    pub fn remove(&mut self, key: impl AsRef<[u8]>) -> Result<(), GitError> {
        self.change(key.as_ref(), None)
    }

    fn change(&mut self, key: &[u8], value: Option<Vec<u8>>) -> Result<(), GitError> {
        if let Some(fault) = tree::path_fault(key) {
            return Err(GitError::Path { path: shown(key), fault });
        }
        self.changes.insert(key.to_owned(), value);
        Ok(())
    }

    fn into_edit(self, layer: &mut LayerWriter) -> Result<TreeEdit, GitError> {
        let mut edit = TreeEdit::new();
        // Removals come first, so that a file can take the place of the directory of those that go, and the
        // reverse.
        for (key, _) in self.changes.iter().filter(|(_, value)| value.is_none()) {
            if self.before.find(key)?.is_some() {
                edit.remove(key)?;
            }
        }
        for (key, value) in &self.changes {
            if let Some(value) = value {
                if self.is_emptied(key)? {
                    edit.remove(key)?;
                }
                edit.set(key, layer.write(ObjectKind::Blob, value)?)?;
            }
        }
        Ok(edit)
    }

    /// Whether `key` was the directory of keys that are all removed.
    fn is_emptied(&self, key: &[u8]) -> Result<bool, GitError> {
        if self.before.find(key)?.is_some() {
            return Ok(false);
        }
        let mut below = self.before.list(key)?.peekable();
        let is_there = below.peek().is_some();
        for key in below {
            if self.changes.get(&key?) != Some(&None) {
                return Ok(false);
            }
        }
        Ok(is_there)
    }
}

/// The history of a key, the latest commit first; made by [`GitKv::log`].
pub struct KvLog<'a> {
    git: &'a Git,
    key: Vec<u8>,
    /// Commits to look at, by their time.
    to_do: BinaryHeap<(i64, Reverse<usize>, ObjectId)>,
    seen: HashSet<ObjectId>,
}

impl KvLog<'_> {
    fn push(&mut self, id: ObjectId) -> Result<(), GitError> {
        if self.seen.insert(id) {
            let time = self.git.read_commit(&id)?.committer.time().as_second();
            // Of commits of one second those that were found first come first: they are the children.
            self.to_do.push((time, Reverse(self.seen.len()), id));
        }
        Ok(())
    }

    fn step(&mut self) -> Result<Option<(ObjectId, Commit)>, GitError> {
        while let Some((_, _, id)) = self.to_do.pop() {
            let commit = self.git.read_commit(&id)?;
            let value = |root: ObjectId| KvView::of(self.git, Some(root)).find(&self.key);
            let here = value(commit.tree)?;
            let mut same = None;
            for parent in &commit.parents {
                if value(*parent)? == here {
                    same = Some(*parent);
                    break;
                }
            }
            if let Some(parent) = same {
                self.push(parent)?;
                continue;
            }
            for parent in &commit.parents {
                self.push(*parent)?;
            }
            if here.is_some() || !commit.parents.is_empty() {
                return Ok(Some((id, commit)));
            }
        }
        Ok(None)
    }
}

impl Iterator for KvLog<'_> {
    type Item = Result<(ObjectId, Commit), GitError>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step().transpose();
        if matches!(step, Some(Err(_))) {
            self.to_do.clear();
        }
        step
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Fixture, who};
    use super::*;

    fn set(kv: &GitKv, key: &str, value: &str) -> ObjectId {
        let change = |keys: &mut KvTransaction<'_>| keys.set(key, value);
        kv.transaction(&who(), &format!("Set {key}"), change).unwrap().unwrap()
    }

    fn keys(keys: impl IntoIterator<Item = Vec<u8>>) -> Vec<String> {
        keys.into_iter().map(|key| String::from_utf8(key).unwrap()).collect()
    }

    #[test]
    fn a_transaction_is_one_commit_that_sees_its_own_changes() {
        let fixture = Fixture::new();
        let kv = GitKv::open(&fixture.path()).unwrap();
        set(&kv, "a/1", "one");
        set(&kv, "b", "two");
        let commit = kv.transaction(&who(), "All", |tx| {
            assert_eq!(tx.get("a/1")?.unwrap(), b"one");
            tx.remove("a/1")?;
            tx.remove("nothing")?;
            assert_eq!(tx.get("a/1")?, None);
            tx.set("a", "file now")?;
            tx.set("c/2", "three")?;
            assert_eq!(keys(tx.list("")?), ["a", "b", "c/2"]);
            assert_eq!(keys(tx.list("c")?), ["c/2"]);
            Ok::<_, GitError>(())
        });
        assert_eq!(fixture.run(&["rev-list", "--count", "main"]).trim(), "3");
        assert_eq!(kv.head().unwrap(), commit.unwrap());
        assert_eq!(kv.get("a").unwrap().unwrap(), b"file now");
        assert_eq!(kv.get("a/1").unwrap(), None);
        assert_eq!(keys(kv.list("").unwrap().map(Result::unwrap)), ["a", "b", "c/2"]);
        fixture.fsck();
    }

    #[test]
    fn an_error_in_a_transaction_changes_nothing() {
        let fixture = Fixture::new();
        let kv = GitKv::open(&fixture.path()).unwrap();
        set(&kv, "a", "1");
        let refused = kv.transaction(&who(), "Never", |tx| {
            tx.set("a", "2")?;
            tx.set("../a", "3")
        });
        assert!(matches!(refused, Err(GitError::Path { .. })));
        assert_eq!(kv.get("a").unwrap().unwrap(), b"1");
        assert_eq!(fixture.run(&["rev-list", "--count", "main"]).trim(), "1");
    }

    #[test]
    fn transactions_at_one_time_all_count() {
        let fixture = Fixture::new();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let kv = GitKv::open(&fixture.path()).unwrap();
                    for _ in 0..4 {
                        let count = |tx: &mut KvTransaction<'_>| {
                            let count = tx.get("count")?.map_or(0, |value| value[0]);
                            tx.set("count", [count + 1])
                        };
                        kv.transaction(&who(), "Count", count).unwrap();
                    }
                });
            }
        });
        let kv = GitKv::open(&fixture.path()).unwrap();
        assert_eq!(kv.get("count").unwrap().unwrap(), [12]);
    }

    #[test]
    fn removes_and_remembers() {
        let fixture = Fixture::new();
        let kv = GitKv::open(&fixture.path()).unwrap();
        let first = set(&kv, "a", "1");
        let other = set(&kv, "b", "1");
        let second = set(&kv, "a", "2");
        assert!(kv.remove("a", &who()).unwrap());
        assert!(!kv.remove("a", &who()).unwrap());
        let removed = kv.head().unwrap().unwrap();
        let log = |key: &str| kv.log(key).unwrap().map(|commit| commit.unwrap().0).collect::<Vec<_>>();
        assert_eq!(log("a"), [removed, second, first]);
        assert_eq!(log("b"), [other]);
        assert_eq!(log("c"), []);
        assert_eq!(kv.at(first).get("a").unwrap().unwrap(), b"1");
        assert_eq!(kv.at(second).get("a").unwrap().unwrap(), b"2");
        assert_eq!(kv.at(removed).get("a").unwrap(), None);
        assert_eq!(kv.message(&removed).unwrap(), "Remove a\n");
    }

    #[test]
    fn the_log_is_the_one_of_git_over_merges() {
        let fixture = Fixture::new();
        let kv = GitKv::open(&fixture.path()).unwrap();
        set(&kv, "a", "1");
        let tree = |name: &str| fixture.run(&["rev-parse", &format!("{name}^{{tree}}")]).trim().to_owned();
        let commit = |tree: &str, parents: &[&str], seconds: u32| {
            let date = format!("{} +0000", 1_800_000_000 + seconds);
            let parents = parents.iter().flat_map(|parent| ["-p", parent]);
            let arguments: Vec<_> = ["commit-tree", "-m", "x", tree].into_iter().chain(parents).collect();
            fixture.run_at(&date, &arguments).trim().to_owned()
        };
        let root = fixture.run(&["rev-parse", "main"]).trim().to_owned();
        let one = tree("main");
        set(&kv, "a", "2");
        let two = tree("main");
        let (left, right) = (commit(&two, &[&root], 10), commit(&one, &[&root], 20));
        let again = commit(&two, &[&right], 30);
        let merge = commit(&two, &[&right, &left], 40);
        let both = commit(&one, &[&merge, &again], 50);
        fixture.run(&["update-ref", "refs/heads/main", &both]);
        let expected = fixture.run(&["log", "--format=%H", "--", "a"]);
        let log: Vec<_> = kv.log("a").unwrap().map(|commit| commit.unwrap().0.to_string()).collect();
        assert_eq!(log, expected.lines().collect::<Vec<_>>());
    }
}
