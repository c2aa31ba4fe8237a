//! Other repositories, reached where there is no `git` program.
//!
//! One on this machine is read and written as this one is: [layers](crate::layers) are copied as they are, and its
//! branch moves by compare-and-swap. Its hooks are git's to run; where it has any, a push is refused. One
//! elsewhere is reached by libgit2, which speaks `git:` and `http:`, and `https:` and `ssh:` when this crate was
//! built with the features `git2-https` and `git2-ssh`. It compresses what it pushes.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use git2::{
    AutotagOption, ConfigLevel, Cred, CredentialType, Direction, FetchOptions, PushOptions, RemoteCallbacks,
};
use percent_encoding::percent_decode_str;

use crate::atomic;
use crate::layers::ObjectId;
use crate::progress::Progress;
use crate::url::{Url, redact};

use super::git::from_git2;
use super::paths::HEADS;
use super::remotes::{FETCH, PUSH, PushedFrom, RemoteHead};
use super::run::MAX_SAID;
use super::{Git, GitError};

/// Hooks that a push sets off in the repository that gets it.
const HOOKS: [&str; 6] =
    ["pre-receive", "update", "proc-receive", "post-receive", "post-update", "reference-transaction"];

/// Where a URL leads.
enum Place {
    /// A directory of this machine.
    Here(PathBuf),
    /// Anywhere else.
    Far,
}

/// Fetches the branches of a remote, and what they need.
pub(super) fn fetch(git: &Git, remote: &str, progress: &Progress) -> Result<(), GitError> {
    let Place::Here(path) = place(&url(git, remote)?)? else { return fetch_far(git, remote, progress) };
    let there = open(&path, FETCH, Git::open_with_work_tree)?;
    let branches: Vec<_> =
        there.references()?.into_iter().filter(|(name, _)| name.starts_with(HEADS)).collect();
    let commits: Vec<_> = branches.iter().map(|&(_, id)| id).collect();
    let mut writing = git.fetch_commits(&there, &commits, progress)?;
    follow(git, remote, &branches)?;
    writing.done();
    Ok(())
}

/// Lets the references that follow the branches of `remote` be where these are, durably.
fn follow(git: &Git, remote: &str, branches: &[(String, ObjectId)]) -> Result<(), GitError> {
    let prefix = format!("refs/remotes/{remote}/");
    let followed: Vec<_> = branches
        .iter()
        .filter_map(|(name, id)| Some((format!("{prefix}{}", name.strip_prefix(HEADS)?), *id)))
        .collect();
    for (gone, _) in git.references()?.into_iter().filter(|(name, _)| name.starts_with(&prefix)) {
        if !followed.iter().any(|(name, _)| *name == gone) {
            git.remove_reference(&gone)?;
        }
    }
    for (name, id) in &followed {
        let known = git.reference(name)?;
        if known != Some(*id) {
            git.compare_and_set(name, known.as_ref(), id)?;
        }
    }
    Ok(())
}

/// Moves the branch in a remote to `commit`, if that follows what is there. With `is_there` the branch is not made.
pub(super) fn push(
    git: &Git,
    remote: &str,
    commit: &ObjectId,
    is_there: bool,
    progress: &Progress,
) -> Result<PushedFrom, GitError> {
    let Place::Here(path) = place(&url(git, remote)?)? else {
        return push_far(git, remote, commit, is_there, progress);
    };
    let there = open(&path, PUSH, Git::open)?;
    if let Some(hook) = hook(&there)? {
        return Err(GitError::Hook(hook));
    }
    there.sweep()?;
    let branch = git.branch_in(remote);
    let tip = there.reference(&branch)?;
    let follows = |tip: &ObjectId| match git.read_commit(tip) {
        Err(GitError::Missing(_)) => Ok(false),
        known => known.and_then(|_| git.descends(commit, tip)),
    };
    if tip == Some(*commit) {
        // By somebody who may have been killed, or failed, before it was durable.
        there.sync_reference(&branch).map_err(GitError::when_done)?;
        return Ok(PushedFrom::Commit(*commit));
    }
    if tip.is_none() && is_there {
        return Err(GitError::Remote { action: PUSH, said: gone(&branch) });
    }
    if !tip.as_ref().map_or(Ok(true), follows)? {
        let said = format!("{branch} has commits that are not here; fetch first");
        return Err(GitError::Remote { action: PUSH, said });
    }
    let mut writing = there.copy_commits(git, &[*commit], progress)?;
    there.compare_and_set(&branch, tip.as_ref(), commit)?;
    writing.done();
    Ok(tip.map_or(PushedFrom::Nothing, PushedFrom::Commit))
}

/// Of a branch that was there when the remote was last looked at.
fn gone(branch: &str) -> String {
    format!("{branch} is not there any more; fetch first")
}

/// What `HEAD` of a remote names.
pub(super) fn head(git: &Git, remote: &str) -> Result<RemoteHead, GitError> {
    match place(&url(git, remote)?)? {
        Place::Here(path) => match open(&path, FETCH, Git::open_with_work_tree) {
            Err(GitError::Detached(_) | GitError::DetachedClone(_)) => Ok(RemoteHead::Commit),
            there => Ok(RemoteHead::Branch(there?.branch().to_owned())),
        },
        Place::Far => Ok(default_branch(git, remote)?.map_or(RemoteHead::Nothing, RemoteHead::Branch)),
    }
}

/// Makes a bare clone of `url` at `path`, where nothing is, of which `remote` is the remote.
pub(super) fn clone(url: &Url, remote: &str, path: &Path) -> Result<(), GitError> {
    const CLONE: &str = "clone the repository";
    let place = place(url)?;
    let there = match &place {
        Place::Here(path) => Some(open(path, CLONE, Git::open_with_work_tree)?),
        Place::Far => None,
    };
    let git = Git::init(path, &[])?;
    git.add_remote(remote, url)?;
    let branch = match there {
        Some(there) => Some(there.branch().to_owned()),
        None => default_branch(&git, remote)?,
    };
    if let Some(branch) = branch {
        git.set_head(&branch)?;
    }
    let git = Git::open(path)?;
    let progress = Progress::new();
    fetch(&git, remote, &progress)?;
    match git.reference(&git.tracking(remote))? {
        Some(tip) => git.compare_and_set(git.branch(), None, &tip),
        None => Ok(()),
    }
}

fn url(git: &Git, remote: &str) -> Result<Url, GitError> {
    let found = git.url_of(remote)?;
    let said = || GitError::Remote { action: "find the remote", said: format!("{remote} is not configured") };
    found.ok_or_else(said)
}

/// Where `url` leads, or why nobody here can go there. As git has it, whatever has no scheme and no colon
/// before the first slash is a path.
fn place(url: &Url) -> Result<Place, GitError> {
    let url = url.reveal();
    let needs = |scheme: &str, feature, is_built| match is_built {
        true => Ok(Place::Far),
        false => Err(GitError::NoTransport { scheme: scheme.to_owned(), feature }),
    };
    match url.split_once("://") {
        Some(("file", path)) => {
            let bytes = percent_decode_str(path).collect();
            Ok(Place::Here(PathBuf::from(OsString::from_vec(bytes))))
        }
        Some(("git" | "http", _)) => Ok(Place::Far),
        Some(("https", _)) => needs("https", "git2-https", cfg!(feature = "git2-https")),
        Some((scheme @ ("ssh" | "git+ssh" | "ssh+git"), _)) => {
            needs(scheme, "git2-ssh", cfg!(feature = "git2-ssh"))
        }
        Some((scheme, _)) => {
            let said = format!("{scheme}: is only known to the program git, which is not installed");
            Err(GitError::Remote { action: "reach the remote", said })
        }
        None if url.split('/').next().is_some_and(|first| first.contains(':')) => {
            needs("ssh", "git2-ssh", cfg!(feature = "git2-ssh"))
        }
        None => Ok(Place::Here(url.into())),
    }
}

/// The path that `url` is, if it is one.
pub(super) fn path_of(url: &Url) -> Option<PathBuf> {
    match place(url) {
        Ok(Place::Here(path)) => Some(path),
        _ => None,
    }
}

/// The repository at `path`, which is said to be missing as git says it. A working tree is no reason not to read
/// from it.
fn open(
    path: &Path,
    action: &'static str,
    how: impl Fn(&Path) -> Result<Git, GitError>,
) -> Result<Git, GitError> {
    how(path).map_err(|error| match error {
        GitError::NotRepository(path) => {
            let said = format!("'{}' does not appear to be a git repository", path.display());
            GitError::Remote { action, said }
        }
        error => error,
    })
}

/// A hook of the repository that a push would set off, if there is one.
fn hook(git: &Git) -> Result<Option<PathBuf>, GitError> {
    let configured = {
        let repository = git.libgit2();
        let config = repository.config().map_err(GitError::git("read the configuration of git"))?;
        // Hooks of this person are not the remote's.
        config.open_level(ConfigLevel::Local).and_then(|config| config.get_path("core.hooksPath")).ok()
    };
    let directory = git.path().join(configured.unwrap_or_else(|| "hooks".into()));
    let is_run = |path: &PathBuf| {
        fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    Ok(HOOKS.map(|name| directory.join(name)).into_iter().find(is_run))
}

/// For `map_err`: what libgit2 says of another repository, unless it was asked to stop.
fn failed(action: &'static str, progress: &Progress) -> impl FnOnce(git2::Error) -> GitError {
    move |error| match progress.check() {
        Err(interrupted) => interrupted.into(),
        Ok(()) => GitError::Remote { action, said: redact(error.message()) },
    }
}

/// One of its own, so that nobody waits for the network to read from `git`.
fn reopen(git: &Git) -> Result<git2::Repository, GitError> {
    git2::Repository::open_bare(git.path()).map_err(GitError::git("open the git repository"))
}

fn fetch_far(git: &Git, remote: &str, progress: &Progress) -> Result<(), GitError> {
    let pack_dir = git.pack_dir();
    let list = || -> Result<BTreeSet<OsString>, GitError> {
        let entries = fs::read_dir(&pack_dir);
        let names = entries.and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect());
        names.map_err(GitError::io("list", &pack_dir))
    };
    let before = list()?;
    let repository = reopen(git)?;
    let mut far = repository.find_remote(remote).map_err(GitError::git("find the remote"))?;
    let mut options = FetchOptions::new();
    options.download_tags(AutotagOption::None).remote_callbacks(callbacks(progress));
    far.download(&[format!("+refs/heads/*:refs/remotes/{remote}/*")], Some(&mut options))
        .map_err(failed(FETCH, progress))?;
    // What the references will name is durable before them.
    let sync = |name: &OsString| File::open(pack_dir.join(name))?.sync_all();
    list()?.difference(&before).try_for_each(sync).map_err(GitError::io("sync what lies in", &pack_dir))?;
    atomic::sync_dir(&pack_dir).map_err(GitError::io("sync", &pack_dir))?;
    let mut branches = Vec::new();
    for head in far.list().map_err(failed(FETCH, progress))? {
        let name = head.name();
        if name.starts_with(HEADS) && git2::Reference::is_valid_name(name) {
            branches.push((name.to_owned(), from_git2(head.oid())?));
        }
    }
    far.disconnect().map_err(failed(FETCH, progress))?;
    follow(git, remote, &branches)
}

fn push_far(
    git: &Git,
    remote: &str,
    commit: &ObjectId,
    is_there: bool,
    progress: &Progress,
) -> Result<PushedFrom, GitError> {
    let branch = git.branch_in(remote);
    let repository = reopen(git)?;
    let mut far = repository.find_remote(remote).map_err(GitError::git("find the remote"))?;
    let (refused, told) = (RefCell::new(None), RefCell::new(Vec::new()));
    let from = Cell::new(PushedFrom::Unknown);
    let pushed = {
        let mut callbacks = callbacks(progress);
        callbacks.push_negotiation(|updates| {
            if let [update] = updates {
                from.set(match update.src() {
                    old if old.is_zero() && is_there => return Err(git2::Error::from_str(&gone(&branch))),
                    old if old.is_zero() => PushedFrom::Nothing,
                    old => from_git2(old).map_or(PushedFrom::Unknown, PushedFrom::Commit),
                });
            }
            Ok(())
        });
        callbacks.push_update_reference(|_, status| {
            *refused.borrow_mut() = status.map(str::to_owned);
            Ok(())
        });
        callbacks.sideband_progress(|text| {
            let mut told = told.borrow_mut();
            let room = MAX_SAID - told.len();
            told.extend_from_slice(&text[..text.len().min(room)]);
            progress.check().is_ok()
        });
        let mut options = PushOptions::new();
        options.remote_callbacks(callbacks);
        far.push(&[format!("{commit}:{branch}")], Some(&mut options))
    };
    pushed.map_err(failed(PUSH, progress))?;
    match refused.into_inner() {
        None => Ok(from.get()),
        Some(refused) => {
            let told = String::from_utf8_lossy(&told.into_inner()).trim().to_owned();
            Err(GitError::Remote { action: PUSH, said: format!("[remote rejected] {refused}\n{told}") })
        }
    }
}

fn default_branch(git: &Git, remote: &str) -> Result<Option<String>, GitError> {
    let progress = Progress::new();
    let repository = reopen(git)?;
    let mut far = repository.find_remote(remote).map_err(GitError::git("find the remote"))?;
    let connection = far.connect_auth(Direction::Fetch, Some(callbacks(&progress)), None);
    let branch = connection.map_err(failed(FETCH, &progress))?.default_branch();
    // An empty repository need not say.
    Ok(branch.ok().and_then(|branch| branch.as_str().ok().map(str::to_owned)))
}

/// What libgit2 asks and tells on the way.
fn callbacks(progress: &Progress) -> RemoteCallbacks<'_> {
    let mut callbacks = RemoteCallbacks::new();
    let mut received = 0;
    callbacks.transfer_progress(move |transfer| {
        let now = transfer.received_bytes() as u64;
        progress.bytes.add(now.saturating_sub(received));
        received = now;
        progress.check().is_ok()
    });
    let mut sent = 0;
    callbacks.push_transfer_progress(move |_, _, bytes| {
        progress.bytes.add((bytes as u64).saturating_sub(sent));
        sent = bytes as u64;
    });
    let mut asked = 0;
    callbacks.credentials(move |url, user, kinds| {
        asked += 1;
        credentials(url, user, kinds, asked)
    });
    callbacks
}

/// Who asks for the first time gets what the ssh agent or a credential helper has. Another time means that it
/// was not right.
fn credentials(
    url: &str,
    user: Option<&str>,
    kinds: CredentialType,
    asked: u32,
) -> Result<Cred, git2::Error> {
    let denied = || git2::Error::from_str("authentication failed");
    if kinds.contains(CredentialType::USERNAME) {
        return Cred::username(user.unwrap_or("git"));
    }
    if asked > 2 {
        return Err(denied());
    }
    if kinds.contains(CredentialType::SSH_KEY) {
        return Cred::ssh_key_from_agent(user.unwrap_or("git"));
    }
    helper(url, user, kinds).unwrap_or_else(|| Err(denied()))
}

/// What a credential helper has.
#[cfg(any(feature = "git2-https", feature = "git2-ssh"))]
fn helper(url: &str, user: Option<&str>, kinds: CredentialType) -> Option<Result<Cred, git2::Error>> {
    // Helpers are programs: those that the person has, and none of the repository.
    let config = git2::Config::open_default().ok()?;
    kinds.contains(CredentialType::USER_PASS_PLAINTEXT).then(|| Cred::credential_helper(&config, url, user))
}

/// Without https there is nobody to give a password to.
#[cfg(not(any(feature = "git2-https", feature = "git2-ssh")))]
fn helper(_: &str, _: Option<&str>, _: CredentialType) -> Option<Result<Cred, git2::Error>> {
    None
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Fixture, who};
    use super::*;

    fn path(url: &str) -> PathBuf {
        match place(&Url::from(url)).unwrap() {
            Place::Here(path) => path,
            Place::Far => panic!("{url} is a path"),
        }
    }

    #[test]
    fn urls_lead_where_git_says() {
        for (url, there) in [
            ("/a/b", "/a/b"),
            ("a/b:c", "a/b:c"),
            ("file:///a%20b", "/a b"),
            ("--upload-pack=x", "--upload-pack=x"),
        ] {
            assert_eq!(path(url), Path::new(there));
        }
        for url in ["git://example.org/x", "http://example.org/x"] {
            assert!(matches!(place(&Url::from(url)), Ok(Place::Far)), "{url}");
        }
        for (url, scheme, is_built) in [
            ("https://example.org/x", "https", cfg!(feature = "git2-https")),
            ("ssh://example.org/x", "ssh", cfg!(feature = "git2-ssh")),
            ("git+ssh://example.org/x", "git+ssh", cfg!(feature = "git2-ssh")),
            ("git@example.org:x", "ssh", cfg!(feature = "git2-ssh")),
        ] {
            match place(&Url::from(url)) {
                Ok(Place::Far) => assert!(is_built, "{url}"),
                Err(GitError::NoTransport { scheme: found, .. }) => {
                    assert_eq!((found.as_str(), is_built), (scheme, false));
                }
                _ => panic!("{url}"),
            }
        }
        assert!(matches!(
            place(&Url::from("ext::sh -c x")),
            Err(GitError::NoTransport { .. }) | Ok(Place::Far)
        ));
        assert!(matches!(place(&Url::from("gopher://x")), Err(GitError::Remote { .. })));
    }

    #[test]
    fn branches_come_move_and_go_as_they_do_there() {
        let (here, there) = (Fixture::new(), Fixture::new());
        let (git, far) = (here.open(), there.open());
        git.add_remote("far", there.path().to_str().unwrap()).unwrap();
        let fetch = || fetch(&git, "far", &Progress::new()).unwrap();
        let tracked = |branch: &str| git.reference(&format!("refs/remotes/far/{branch}")).unwrap();
        fetch();
        let first = there.commit(&far, &[("a", "1")]);
        let second = there.commit(&far, &[("a", "2")]);
        there.run(&["branch", "side/one", &first.to_string()]);
        fetch();
        assert_eq!((tracked("main"), tracked("side/one")), (Some(second), Some(first)));
        there.run(&["update-ref", "refs/heads/main", &first.to_string()]);
        there.run(&["branch", "-D", "side/one"]);
        fetch();
        assert_eq!((tracked("main"), tracked("side/one")), (Some(first), None));
        here.fsck();
    }

    #[test]
    fn what_fails_behind_a_push_is_said_of_a_push_that_is_done() {
        let (here, there) = (Fixture::new(), Fixture::new());
        let (git, far) = (here.open(), there.open());
        git.add_remote("far", there.path().to_str().unwrap()).unwrap();
        let first = here.commit(&git, &[("a", "1")]);
        // No file can take the place of a directory that holds one.
        let obstruct = |path: PathBuf| {
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("x.lock"), "").unwrap();
        };
        obstruct(here.path().join("refs/remotes/far/main"));
        let failed = git.push_commit("far", &first).unwrap_err();
        assert!(matches!(failed, GitError::Unsynced { .. }), "{failed}");
        assert_eq!(far.head().unwrap(), Some(first));
        obstruct(there.path().join("refs/heads/other"));
        git.follow_branch("far", "refs/heads/other").unwrap();
        let failed = push(&git, "far", &first, false, &Progress::new()).unwrap_err();
        assert!(matches!(failed, GitError::Io { .. }), "{failed}");
    }

    #[test]
    fn a_push_only_follows() {
        let (here, there) = (Fixture::new(), Fixture::new());
        let (git, far) = (here.open(), there.open());
        git.add_remote("far", there.path().to_str().unwrap()).unwrap();
        let push = |commit: &ObjectId| push(&git, "far", commit, false, &Progress::new());
        let first = here.commit(&git, &[("a", "1")]);
        push(&first).unwrap();
        push(&first).unwrap();
        assert_eq!(far.head().unwrap(), Some(first));
        let theirs = there.commit(&far, &[("b", "2")]);
        let ours = here.commit(&git, &[("c", "3")]);
        let refused = push(&ours).unwrap_err();
        assert!(matches!(refused, GitError::Remote { .. }), "{refused}");
        assert_eq!(far.head().unwrap(), Some(theirs));
        fetch(&git, "far", &Progress::new()).unwrap();
        assert!(push(&ours).is_err(), "known, but not followed");
        git.pull("far", &who()).unwrap();
        push(&git.head().unwrap().unwrap()).unwrap();
        assert_eq!(there.run(&["ls-tree", "--name-only", "main"]), "a\nb\nc\n");
        there.fsck();
    }
}
