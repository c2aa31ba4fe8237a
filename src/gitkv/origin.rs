//! The repository that this one is a clone of.
//!
//! A change is made on what the origin has now and pushed; when somebody else was faster, it is made again on
//! what they left.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::atomic;
use crate::digest::Digest;
use crate::layers::ObjectId;
use crate::progress::Progress;
use crate::trust;
use crate::url::Url;

use super::commit::Person;
use super::paths::{BRANCH, HEADS, sync_below};
use super::program::{self, Settings};
use super::remotes::{RemoteHead, turn};
use super::run::run;
use super::transaction::Edit;
use super::{Git, GitError, library, pause, unborn};

/// The name of the remote that a clone came from.
const ORIGIN: &str = "origin";

/// How often a change is made anew when others push at the same time.
const TRIES: u32 = 12;

/// How a cached clone is set up: what comes and goes stays in packs and on the disk, and git never repacks by
/// itself.
const SETTINGS: [&str; 5] =
    ["core.fsync=all", "gc.auto=0", "maintenance.auto=false", "fetch.unpackLimit=1", "pack.window=0"];

/// The repository that a bare clone came from. Its branch of the same name is what counts.
pub(super) struct Origin {
    /// The reference by which the clone knows where the origin's branch is.
    tracking: String,
}

impl Origin {
    /// The origin that `git` is configured to have, if it is.
    pub fn of(git: &Git) -> Result<Option<Self>, GitError> {
        let is_there = git.remotes()?.iter().any(|remote| remote.name == ORIGIN);
        Ok(is_there.then(|| Self { tracking: git.tracking(ORIGIN) }))
    }

    /// Where the origin's branch was when it was last looked at.
    pub fn tip(&self, git: &Git) -> Result<Option<ObjectId>, GitError> {
        let tip = git.reference(&self.tracking)?;
        if tip.is_none() {
            git.expect_no_branch(&self.tracking, &format!("refs/remotes/{ORIGIN}/"))?;
        }
        Ok(tip)
    }

    /// Whether the origin had no branches when it was last looked at.
    pub fn is_empty(&self, git: &Git) -> Result<bool, GitError> {
        Ok(git.branches_below(&format!("refs/remotes/{ORIGIN}/"))?.is_empty())
    }

    /// Fails where the origin, which is at `url` and whose `HEAD` names nothing that is there, has the branch that the
    /// clone has.
    pub fn expect_nothing(&self, git: &Git, url: &Url) -> Result<(), GitError> {
        let branches = git.branches_below(&format!("refs/remotes/{ORIGIN}/"))?;
        match self.tip(git) {
            // It is empty, or that branch is not there either, which whoever uses it is told.
            Ok(None) | Err(GitError::NoBranch { .. }) => Ok(()),
            Err(error) => Err(error),
            Ok(Some(_)) => {
                Err(GitError::NoHead { path: url.to_string().into(), others: branches.join(", ") })
            }
        }
    }

    /// Looks where the origin's branches are, and fetches what they need.
    pub fn fetch(&self, git: &Git) -> Result<(), GitError> {
        git.fetch(ORIGIN)
    }

    /// Commits what `edit` makes of the origin's branch there. `None` when it changes nothing.
    pub fn commit<E: From<GitError>>(
        &self,
        git: &Git,
        who: &Person,
        message: &str,
        edit: &mut Edit<'_, E>,
    ) -> Result<Option<ObjectId>, E> {
        for attempt in 1..=TRIES {
            self.fetch(git)?;
            let tip = self.tip(git)?;
            let mut transaction = git.begin()?;
            let Some(tree) = transaction.edited(tip.as_ref(), edit)? else {
                git.sync_remote(ORIGIN)?;
                return Ok(None);
            };
            let commit = transaction.seal(who, message, tip.into_iter().collect(), tree)?;
            match git.push_commit(ORIGIN, &commit) {
                Ok(_) => {
                    follow(git, tip.as_ref(), &commit)?;
                    transaction.done(commit, tree);
                    return Ok(Some(commit));
                }
                Err(refused) => {
                    self.fetch(git)?;
                    if self.tip(git)? == tip {
                        return Err(refused.into());
                    }
                }
            }
            pause(attempt)?;
        }
        Err(GitError::Contended { reference: self.tracking.clone(), tries: TRIES }.into())
    }
}

/// Makes the branch of a clone the one that `HEAD` of its origin, which is at `url`, names, for who opens it next. What it
/// names.
pub(super) fn follow_head(git: &Git, url: &Url) -> Result<RemoteHead, GitError> {
    let head = git.named_by_head(ORIGIN)?;
    match &head {
        RemoteHead::Branch(branch) if branch != git.branch() => {
            git.libgit2().set_head(branch).map_err(GitError::git("set HEAD"))?;
        }
        RemoteHead::Commit => return Err(GitError::Detached(url.to_string().into())),
        RemoteHead::Branch(_) | RemoteHead::Nothing => {}
    }
    Ok(head)
}

/// Makes the branch of a clone the one that `HEAD` of its origin, which is at `url` and empty, names, where the server says
/// so, for who opens it next. Whether it is another one now.
pub(super) fn follow_unborn_head(git: &Git, url: &Url) -> Result<bool, GitError> {
    match unborn_head(url)? {
        Some(branch) if branch != git.branch() => {
            git.set_head(&branch)?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// The branch that `HEAD` of the empty repository at `url` names. Of git's commands only a clone asks for that; it leaves
/// a name of ours where the server does not say.
fn unborn_head(url: &Url) -> Result<Option<String>, GitError> {
    const UNTOLD: &str = "treering-untold";
    let dir = atomic::private_dir("treering-").map_err(GitError::io("write to", &std::env::temp_dir()))?;
    let path = dir.path().join("clone");
    let settings = Settings::read(None)?;
    let mut command = settings.command();
    match clone_to(url, &mut command, UNTOLD, &[], &path) {
        Err(GitError::NoProgram) => Ok(unborn::head(url)),
        cloned => {
            cloned?;
            let clone =
                git2::Repository::open_bare(&path).map_err(GitError::git("open the git repository"))?;
            let head = clone.find_reference("HEAD").map_err(GitError::git("read HEAD"))?;
            let branch = head.symbolic_target().ok().flatten().map(str::to_owned);
            Ok(branch.filter(|branch| branch.strip_prefix(HEADS).is_some_and(|name| name != UNTOLD)))
        }
    }
}

/// Lets git make a bare clone of `url` at `path`, with these settings. Its branch is `default` where the other side does
/// not say.
fn clone_to(
    url: &Url,
    command: &mut Command,
    default: &str,
    settings: &[&str],
    path: &Path,
) -> Result<(), GitError> {
    let given = url.for_git().map_err(|reason| GitError::Address { url: url.clone(), reason })?;
    command.args(["-c", &format!("init.defaultBranch={default}")]);
    command.args(["clone", "--quiet", "--bare", "--no-tags"]);
    command.args(settings.iter().flat_map(|setting| ["-c", setting]));
    if let Some(login) = &given.login {
        program::log_in(command, &given.address, login);
    }
    command.args(["--", &given.address]).arg(path);
    match run("clone the repository", command, &Progress::new()) {
        Err(GitError::Remote { action, said }) => Err(GitError::Remote { action, said: url.redact(&said) }),
        cloned => cloned.map(drop),
    }
}

/// The clone's own branch goes from `tip` to `commit`, if it was there.
fn follow(git: &Git, tip: Option<&ObjectId>, commit: &ObjectId) -> Result<(), GitError> {
    match git.compare_and_set(git.branch(), tip, commit) {
        Err(GitError::Moved { .. }) => Ok(()),
        followed => followed,
    }
}

/// The bare clone of `url` in the directory `cache`, made if it is not there. Processes take turns.
pub(super) fn cached_clone(url: &Url, cache: &Path) -> Result<PathBuf, GitError> {
    // A path means the same from every directory.
    let url = match fs::canonicalize(url.reveal()) {
        Ok(path) => Url::from(path.to_string_lossy().into_owned()),
        Err(_) => url.clone(),
    };
    // Said of a path in the words of every other command.
    if let Some(path) = library::path_of(&url)
        && let Err(
            error @ (GitError::NotRepository(_) | GitError::Format { .. } | GitError::FormatVersion { .. }),
        ) = Git::open_with_work_tree(&path)
    {
        return Err(error);
    }
    // The person gives it, now and whenever the clone is used.
    trust::say(&url);
    let given = url.for_git().map_err(|reason| GitError::Address { url: url.clone(), reason })?;
    let mut name = Digest::of(url.reveal().as_bytes()).to_string();
    name.truncate(32);
    atomic::make_dirs_with(cache, 0o700).map_err(GitError::io("make", cache))?;
    let at = |extension: &str| cache.join(format!("{name}.{extension}"));
    let (clone, unfinished, lock) = (at("git"), at("new"), at("lock"));
    let turn = turn(&lock, &Progress::new())?;
    if clone.exists() {
        attach(&clone)?;
        return Ok(clone);
    }
    // Whoever has the turn owns what a killed process left.
    match fs::remove_dir_all(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(GitError::io("remove", &unfinished)(error));
        }
        _ => {}
    }
    let settings = Settings::read(None)?;
    let mut command = settings.command();
    // A git that outlives this process keeps the turn.
    command.stdin(turn.try_clone().map_err(GitError::io("use", &lock))?);
    let default = BRANCH.strip_prefix(HEADS).unwrap_or(BRANCH);
    match clone_to(&url, &mut command, default, &SETTINGS, &unfinished) {
        Err(GitError::NoProgram) => library::clone(&url, ORIGIN, &unfinished)?,
        cloned => cloned?,
    }
    if given.login.is_some() {
        // Git was not told all of it.
        let git = Git::open(&unfinished)?;
        git.configure(|config| config.set_str(&format!("remote.{ORIGIN}.url"), url.reveal()))?;
    }
    attach(&unfinished)?;
    sync_below(&unfinished).map_err(GitError::io("sync", &unfinished))?;
    fs::rename(&unfinished, &clone).map_err(GitError::io("move", &unfinished))?;
    atomic::sync_dir(cache).map_err(GitError::io("sync", cache))?;
    Ok(clone)
}

/// Points `HEAD` of a clone, which names a commit where that of its origin did, to a branch: it follows the origin's at
/// each use.
fn attach(clone: &Path) -> Result<(), GitError> {
    let is_detached = fs::read(clone.join("HEAD")).is_ok_and(|head| !head.starts_with(b"ref:"));
    if is_detached {
        let set = git2::Repository::open_bare(clone).and_then(|clone| clone.set_head(BRANCH));
        set.map_err(GitError::git("set HEAD"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    use super::super::testing::{Fixture, sweep, who};
    use super::super::{GitKv, OpenMode};
    use super::*;

    fn open(origin: &Fixture, cache: &Path) -> GitKv {
        GitKv::open_url(origin.path().to_str().unwrap(), cache).unwrap()
    }

    fn put(kv: &GitKv, key: &str, value: &str) -> Result<Option<ObjectId>, GitError> {
        let mut file = kv.file(key, OpenMode::Write)?;
        file.write_all(value.as_bytes()).unwrap();
        file.commit(&who())
    }

    #[test]
    fn what_one_clone_commits_another_reads() {
        let (origin, cache) = (Fixture::new(), tempfile::tempdir().unwrap());
        let (here, there) = (cache.path().join("here"), cache.path().join("there"));
        let (a, b) = (open(&origin, &here), open(&origin, &there));
        assert_eq!(a.get("key").unwrap(), None);
        put(&a, "key", "1").unwrap().unwrap();
        assert_eq!(origin.run(&["cat-file", "blob", "main:key"]), "1");
        assert_eq!(b.get("key").unwrap(), None);
        b.refresh().unwrap();
        assert_eq!(b.get("key").unwrap().unwrap(), b"1");
        put(&b, "key", "2").unwrap().unwrap();
        put(&a, "other", "3").unwrap().unwrap();
        assert_eq!(origin.run(&["ls-tree", "--name-only", "main"]), "key\nother\n");
        assert_eq!(a.get("key").unwrap().unwrap(), b"2");
        assert_eq!(a.log("key").unwrap().count(), 2);
        drop(a);
        let clones = || fs::read_dir(&here).unwrap().count();
        assert_eq!(clones(), 2, "a clone and a lock file");
        assert_eq!(open(&origin, &here).get("other").unwrap().unwrap(), b"3");
        assert_eq!(clones(), 2, "it is not cloned again");
        origin.fsck();
    }

    #[test]
    fn a_bare_clone_is_pushed_from_too() {
        let (origin, dir) = (Fixture::new(), tempfile::tempdir().unwrap());
        origin.commit(&origin.open(), &[("key", "1")]);
        let clone = dir.path().join("clone.git");
        origin.run(&["clone", "-q", "--bare", ".", clone.to_str().unwrap()]);
        let kv = GitKv::open(&clone).unwrap();
        put(&kv, "key", "2").unwrap().unwrap();
        assert_eq!(origin.run(&["cat-file", "blob", "main:key"]), "2");
        assert_eq!(kv.git().head().unwrap(), kv.head().unwrap(), "its own branch goes along");
    }

    #[test]
    fn clones_that_push_at_one_time_all_land() {
        let (origin, cache) = (Fixture::new(), tempfile::tempdir().unwrap());
        std::thread::scope(|scope| {
            for writer in 0..3 {
                let (origin, cache) = (&origin, cache.path());
                scope.spawn(move || {
                    let kv = open(origin, &cache.join((writer % 2).to_string()));
                    for number in 0..2 {
                        put(&kv, &format!("{writer}/{number}"), "x").unwrap();
                    }
                });
            }
        });
        assert_eq!(origin.run(&["ls-tree", "-r", "--name-only", "main"]).lines().count(), 6);
    }

    #[test]
    fn lines_are_merged_with_the_origin_and_a_conflict_loses_neither_side() {
        let (origin, cache) = (Fixture::new(), tempfile::tempdir().unwrap());
        let there = origin.open();
        origin.commit(&there, &[("key", "1\n2\n3\n")]);
        let kv = open(&origin, cache.path());
        let mut file = kv.file("key", OpenMode::Update).unwrap();
        file.write_all(b"I").unwrap();
        origin.commit(&there, &[("key", "1\n2\nIII\n")]);
        file.commit(&who()).unwrap().unwrap();
        assert_eq!(origin.run(&["cat-file", "blob", "main:key"]), "I\n2\nIII\n");
        file.write_all(b"!").unwrap();
        origin.commit(&there, &[("key", "one\n2\nIII\n")]);
        let head = there.head().unwrap();
        assert!(matches!(file.commit(&who()), Err(GitError::Conflict(key)) if key == "key"));
        assert_eq!(there.head().unwrap(), head);
    }

    #[test]
    fn a_push_that_is_refused_says_why_and_changes_nothing() {
        let (origin, cache) = (Fixture::new(), tempfile::tempdir().unwrap());
        let kv = open(&origin, cache.path());
        put(&kv, "key", "1").unwrap();
        let before = kv.head().unwrap();
        let hooks = origin.path().join("hooks");
        fs::create_dir_all(&hooks).unwrap();
        fs::write(hooks.join("pre-receive"), "#!/bin/sh\necho 'not on a Sunday' >&2\nexit 1\n").unwrap();
        fs::set_permissions(hooks.join("pre-receive"), fs::Permissions::from_mode(0o755)).unwrap();
        let error = put(&kv, "key", "2").unwrap_err();
        assert!(error.to_string().contains("not on a Sunday"), "{error}");
        assert_eq!((kv.head().unwrap(), kv.git().head().unwrap()), (before, before));
        fs::remove_file(hooks.join("pre-receive")).unwrap();
        put(&kv, "key", "2").unwrap().unwrap();
        assert_eq!(sweep(kv.git()), super::super::Swept::default(), "the commit before swept");
    }

    #[test]
    fn an_origin_that_is_not_there_is_an_error() {
        let cache = tempfile::tempdir().unwrap();
        for url in ["/nowhere/at/all.git", "--upload-pack=touch", "file:///nowhere"] {
            let error = GitKv::open_url(url, cache.path()).err().unwrap();
            assert!(matches!(error, GitError::NotRepository(_)), "{url}: {error}");
        }
        assert!(
            fs::read_dir(cache.path()).unwrap().all(|entry| {
                entry.unwrap().path().extension().is_some_and(|extension| extension == "lock")
            })
        );
    }
}
