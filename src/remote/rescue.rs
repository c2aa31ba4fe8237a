//! Bringing back what the newest state of a repository lacks, where nothing opens the repository without it.
//!
//! Whatever describes snapshots is in every remote that the repository was pushed to. Only what is missing is added, by
//! the names of its content; the branch stays where it is. Where the remote does not have the newest commit, the
//! error says how the branch goes back to the newest one that it has.
//!
//! Of a git remote everything is fetched then, data too, since what is below the newest state is not known. Where that
//! can be read, a pull asks for what is missing.

use std::collections::BTreeSet;

use crate::format::CONFIG;
use crate::gitkv::{Git, GitError, Mode, PRIVATE};
use crate::layers::{LayerError, ObjectId};
use crate::progress::Progress;
use crate::trust::{self, Claim};
use crate::url::Url;

use super::bring::LAYERS_AT_ONCE;
use super::head::{Copies, LayerKind};
use super::objects::at_once;
use super::{RemoteError, Remotes, Unfinished};

/// So many objects are asked for by name; where more are missing, everything is.
const MAX_ASKED: usize = 10_000;

impl Remotes {
    /// Whether the newest commit, its tree or the configuration in it is not here. What can be read from a cold remote is
    /// not: nothing opens the repository with that.
    fn is_newest_lost(&self) -> Result<bool, RemoteError> {
        let Some(head) = self.git.head()? else { return Ok(false) };
        let git = Git::open(self.git.path())?;
        let read = || match git.find(&head, CONFIG.as_bytes())? {
            Some(config) => git.read_blob(&config.id).map(drop),
            None => Ok(()),
        };
        match read() {
            Err(error) if is_lost(&error) => Ok(true),
            // It may be what the damaged index tells of.
            Err(_) if !self.git.layers().faults().is_empty() => Ok(true),
            read => Ok(read.map(|()| false)?),
        }
    }

    /// Brings back from a remote what the newest state lacks, until the repository can be opened.
    pub fn rescue(&self, remote: &str, progress: &Progress) -> Result<(), RemoteError> {
        self.expect(remote)?;
        let theirs = match self.is_cold(remote)? {
            true => self.rescue_from_cold(remote, progress)?,
            false => self.rescue_from_git(remote, progress)?,
        };
        self.git.refresh()?;
        match (self.is_newest_lost()?, self.git.head()?) {
            (true, Some(newest)) => Err(RemoteError::NewestLost {
                remote: remote.to_owned(),
                path: self.git.path().to_owned(),
                branch: self.git.branch().to_owned(),
                newest,
                theirs,
            }),
            _ => Ok(()),
        }
    }

    /// Brings all layers of metadata that a cold remote lists and that are not here, or not usable, and those of data that
    /// hold what describes. The commit that it is at.
    fn rescue_from_cold(&self, remote: &str, progress: &Progress) -> Result<ObjectId, RemoteError> {
        let (store, heads) = self.heads_now(remote)?;
        // What cannot be read here cannot tell whose it is; what was seen there before can.
        let known = self.stores.seen(remote)?.map(|(_, head)| head.repository);
        if heads.iter().any(|head| known.as_ref().is_some_and(|known| *known != head.repository)) {
            return Err(RemoteError::OtherRepository(remote.to_owned()));
        }
        let commit = heads.last().map(|head| head.commit);
        let commit = commit.ok_or_else(|| RemoteError::NotPushed(remote.to_owned()))?;
        let _keep = self.git.keep_layers()?;
        let layers = self.git.refresh()?;
        let whole: BTreeSet<&str> =
            layers.layers().filter(|layer| layer.pack_bytes().is_some()).map(|layer| layer.name()).collect();
        let listed = heads.iter().flat_map(|head| &head.layers);
        let wanted = listed
            .clone()
            .filter(|(name, held)| held.kind == LayerKind::Metadata && !whole.contains(name.as_str()));
        at_once(LAYERS_AT_ONCE, &wanted.collect::<Vec<_>>(), |(name, held)| {
            self.bring_layer(remote, &store, name, held, true, progress)
        })?;
        let listed: Copies = listed.map(|(name, held)| (name.clone(), *held)).collect();
        let tips: Vec<_> = self.git.head()?.into_iter().chain([commit]).collect();
        self.bring_described(remote, &store, &listed, &tips, progress)?;
        Ok(commit)
    }

    /// Brings what the newest tree here lacks of that which it has in common with the branch of a git remote, as that was
    /// fetched last: git takes it to be here.
    pub(super) fn bring_lost_from_git(&self, remote: &str, progress: &Progress) -> Result<(), RemoteError> {
        let (ours, theirs) = (self.git.head()?, self.git.reference(&self.git.tracking(remote))?);
        let (Some(ours), Some(theirs)) = (ours, theirs) else { return Ok(()) };
        let tree =
            |commit: &ObjectId| Ok::<_, RemoteError>((self.git.read_commit(commit)?.tree, Mode::Directory));
        let layers = self.git.refresh()?;
        // What is damaged cannot be brought beside itself, and keeps nobody from pulling.
        let Ok(mut missing) = self.missing(&layers, [tree(&ours)?]) else { return Ok(()) };
        // Of a repository that borrows objects they are elsewhere.
        missing.retain(|id| matches!(self.git.blob_size(id), Err(error) if is_lost(&error)));
        if missing.is_empty() {
            return Ok(());
        }
        if let Ok(there) = self.git.reachable(vec![tree(&theirs)?]) {
            missing.retain(|id| there.contains(id));
        }
        let missing: Vec<_> = missing.into_iter().collect();
        if missing.is_empty() {
            return Ok(());
        }
        let scratch = self.scratch()?;
        let (beside, _) = self.repository_beside(&scratch, remote)?;
        // A host that gives away branches only gives all of them.
        if missing.len() > MAX_ASKED || beside.fetch_objects(remote, &missing, progress).is_err() {
            progress.check().map_err(GitError::from)?;
            beside.fetch_with(remote, progress).map_err(RemoteError::of(remote))?;
        }
        let _keep = self.git.keep_layers()?;
        Ok(self.git.take_packs(&beside)?)
    }

    fn scratch(&self) -> Result<Unfinished, RemoteError> {
        let private = self.git.path().join(PRIVATE);
        Unfinished::begin(&private).map_err(RemoteError::io("write to", &private))
    }

    /// A new repository with the same remote, which is at the address that is returned.
    fn repository_beside(&self, scratch: &Unfinished, remote: &str) -> Result<(Git, Url), RemoteError> {
        let beside = Git::init(&scratch.dir.path().join("fetched"), &[])?;
        let url = self.git.url_of(remote)?.ok_or_else(|| RemoteError::Unknown(remote.to_owned()))?;
        // What is trusted here is trusted in what is made of it.
        if trust::is_trusted(self.git.path(), Claim::Address(&url)) {
            trust::say(&url);
        }
        beside.add_remote(remote, &url)?;
        Ok((beside, url))
    }

    /// Fetches a git remote into a repository beside, and takes its packs. The commit that it is at.
    fn rescue_from_git(&self, remote: &str, progress: &Progress) -> Result<ObjectId, RemoteError> {
        let scratch = self.scratch()?;
        let (beside, url) = self.repository_beside(&scratch, remote)?;
        beside.fetch_with(remote, progress).map_err(RemoteError::of(remote))?;
        let commit = beside.reference(&self.git.tracking(remote))?;
        let commit = commit.ok_or(RemoteError::Empty(url))?;
        if beside.find(&commit, CONFIG.as_bytes())?.is_none() {
            return Err(RemoteError::NotTreering(remote.to_owned()));
        }
        let _keep = self.git.keep_layers()?;
        self.git.take_packs(&beside)?;
        Ok(commit)
    }
}

/// Whether something is not here, as an error says.
fn is_lost(error: &GitError) -> bool {
    matches!(error, GitError::Missing(_) | GitError::Layer(LayerError::Missing { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_of_what_is_empty_or_whole() {
        let dir = tempfile::tempdir().unwrap();
        let git = Git::init(&dir.path().join("repo"), &[]).unwrap();
        let remotes = Remotes::open(git.path(), 1).unwrap();
        assert!(!remotes.is_newest_lost().unwrap());
        assert!(matches!(remotes.rescue("nobody", &Progress::new()), Err(RemoteError::Unknown(_))));
        assert!(std::fs::read_dir(git.pack_dir()).unwrap().next().is_none());
    }
}
