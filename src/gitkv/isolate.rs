//! Settings and hooks of a repository that can start programs, and how git runs without them.
//!
//! Git obeys the configuration of a repository: it runs `core.sshCommand`, credential helpers, transports of other
//! programs and hooks, and goes where `url.….insteadOf` leads. In a repository that was copied from somewhere they are
//! somebody else's. So unless the person trusts them ([`trust`](crate::trust)), git runs in a [`Shadow`]: a directory of
//! our own with links to the objects and references of the repository, and of its settings those alone that are
//! [known to be harmless](is_harmless). Nothing is forbidden by name: what is not known does not count.
//!
//! A repository that has no other settings and no hooks of those that git would run here is used as it is.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use tempfile::TempDir;

use crate::atomic;
use crate::digest::Digest;
use crate::trust::{self, Claim};
use crate::url::Url;

use super::GitError;
use super::git_config::{list_settings, listed_settings, write_setting};

/// What the names of harmless settings begin with, in lower case.
const SECTIONS: [&[u8]; 20] = [
    b"advice.",
    b"branch.",
    b"color.",
    b"commitgraph.",
    b"extensions.",
    b"feature.",
    b"gc.",
    b"index.",
    b"init.",
    b"maintenance.",
    b"pack.",
    b"pull.",
    b"push.",
    b"rebase.",
    b"receive.",
    b"repack.",
    b"transfer.",
    b"treering.",
    b"uploadpack.allow",
    b"user.",
];

/// Harmless settings of sections that have others.
const NAMES: [&[u8]; 27] = [
    b"core.abbrev",
    b"core.autocrlf",
    b"core.bare",
    b"core.bigfilethreshold",
    b"core.checkstat",
    b"core.commitgraph",
    b"core.compression",
    b"core.deltabasecachelimit",
    b"core.eol",
    b"core.filemode",
    b"core.fsync",
    b"core.fsyncmethod",
    b"core.hidedotfiles",
    b"core.ignorecase",
    b"core.logallrefupdates",
    b"core.loosecompression",
    b"core.multipackindex",
    b"core.packedgitlimit",
    b"core.packedgitwindowsize",
    b"core.precomposeunicode",
    b"core.quotepath",
    b"core.repositoryformatversion",
    b"core.safecrlf",
    b"core.sharedrepository",
    b"core.symlinks",
    b"core.trustctime",
    b"fetch.unpacklimit",
];

/// Settings of a remote that only say what is fetched and pushed.
const OF_REMOTES: [&[u8]; 7] =
    [b"fetch", b"mirror", b"prune", b"push", b"skipdefaultupdate", b"skipfetchall", b"tagopt"];

/// Hooks that git runs here when it fetches and pushes.
const HOOKS: [&str; 2] = ["pre-push", "reference-transaction"];

/// What of a repository stays as it is, by links.
const LINKED: [&str; 4] = ["objects", "refs", "packed-refs", "shallow"];

/// What stands for a repository whose settings do not all count. It is removed when dropped.
#[derive(Debug)]
pub(super) struct Shadow(TempDir);

/// What of a repository counts only if it is trusted.
#[derive(Default)]
struct Suspicious {
    /// All of it, to be told from anything else.
    text: Vec<u8>,
    /// What it is called.
    names: Vec<String>,
}

impl Shadow {
    /// For the repository `git_dir`, of which `listed` are the settings that count for it as
    /// `git config --list --show-scope --null` prints them. `None` where all of them may count.
    pub fn of(git_dir: &Path, listed: &[u8]) -> Result<Option<Self>, GitError> {
        let suspicious = Suspicious::of(git_dir, listed)?;
        if suspicious.text.is_empty() || trust::is_trusted(git_dir, Claim::Settings(&suspicious.text)) {
            return Ok(None);
        }
        let path = git_dir.display();
        tracing::warn!(
            "{} in the repository {path} could start programs or lead elsewhere, and so do not count: if they are yours, say so with \
             `treering -r {path} remote trust`",
            suspicious.names.join(", ")
        );
        let make = || -> io::Result<Self> {
            let shadow = atomic::private_dir("treering-git-")?;
            let mut config = Vec::new();
            for (name, value) in own(listed).filter(|&(name, value)| is_harmless(name, value)) {
                write_setting(&mut config, name, value);
            }
            fs::write(shadow.path().join("config"), config)?;
            fs::set_permissions(shadow.path().join("config"), fs::Permissions::from_mode(0o600))?;
            fs::copy(git_dir.join("HEAD"), shadow.path().join("HEAD"))?;
            let git_dir = fs::canonicalize(git_dir)?;
            // Git would make a missing directory of logs here; in one that is linked it makes its files there.
            let logs = git_dir.join("logs").is_dir().then_some("logs");
            LINKED
                .into_iter()
                .chain(logs)
                .try_for_each(|name| symlink(git_dir.join(name), shadow.path().join(name)))?;
            Ok(Self(shadow))
        };
        make().map(Some).map_err(GitError::io("make a stand-in for", git_dir))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Suspicious {
    fn of(git_dir: &Path, listed: &[u8]) -> Result<Self, GitError> {
        let mut found = Self::default();
        for (name, value) in own(listed).filter(|&(name, value)| !is_harmless(name, value)) {
            found.add(&String::from_utf8_lossy(name), value.unwrap_or(b"\0"));
        }
        for (name, path) in HOOKS.map(|name| (name, git_dir.join("hooks").join(name))) {
            let is_run = |found: fs::Metadata| found.is_file() && found.permissions().mode() & 0o111 != 0;
            if !fs::metadata(&path).is_ok_and(is_run) {
                continue;
            }
            // What cannot be read cannot be trusted for long.
            let content = fs::read(&path).map_err(GitError::io("read", &path))?;
            found.add(&format!("the hook {name}"), Digest::of(&content).as_bytes());
        }
        Ok(found)
    }

    fn add(&mut self, name: &str, value: &[u8]) {
        for part in [name.as_bytes(), value] {
            self.text.extend_from_slice(&(part.len() as u64).to_be_bytes());
            self.text.extend_from_slice(part);
        }
        if !self.names.iter().any(|known| known == name) {
            self.names.push(name.to_owned());
        }
    }
}

/// The settings of the repository itself, of all that are listed.
fn own(listed: &[u8]) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
    listed_settings(listed)
        .filter(|(scope, ..)| matches!(*scope, b"local" | b"worktree"))
        .map(|(_, name, value)| (name, value))
}

/// Whether a setting can neither start a program nor lead elsewhere than where it says. Names are in lower case but
/// for their middle part, as git lists them.
fn is_harmless(name: &[u8], value: Option<&[u8]>) -> bool {
    // The only setting of its section that is a command.
    if name == b"gc.recentobjectshook" {
        return false;
    }
    if SECTIONS.iter().any(|section| name.starts_with(section)) || NAMES.contains(&name) {
        return true;
    }
    // Of others git would fetch by itself what is missing.
    if name == b"remote.treering.promisor" {
        return true;
    }
    let Some(rest) = name.strip_prefix(b"remote.") else { return false };
    let key = rest.rsplit(|&byte| byte == b'.').next().unwrap_or_default();
    match key {
        // It is looked at when it is used.
        b"url" => true,
        b"pushurl" => {
            let url = value.map(|value| Url::from(String::from_utf8_lossy(value).into_owned()));
            url.is_some_and(|url| {
                url.for_git().is_ok_and(|given| !given.starts_program && given.login.is_none())
            })
        }
        key => OF_REMOTES.contains(&key),
    }
}

/// Trusts the settings and hooks of the repository `git_dir` as they are now. What they are called; none where all of
/// them count for everybody.
pub(super) fn trust_all(git_dir: &Path) -> Result<Vec<String>, GitError> {
    let Some(listed) = list_settings(Some(git_dir))? else { return Ok(Vec::new()) };
    let suspicious = Suspicious::of(git_dir, &listed)?;
    if !suspicious.text.is_empty() {
        trust::remember(git_dir, Claim::Settings(&suspicious.text))
            .map_err(GitError::io("remember the trust in", git_dir))?;
    }
    Ok(suspicious.names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_starts_a_program_or_leads_elsewhere_is_not_harmless() {
        for name in [
            "core.sshcommand",
            "core.fsmonitor",
            "core.hookspath",
            "core.gitproxy",
            "core.askpass",
            "core.alternaterefscommand",
            "core.editor",
            "core.worktree",
            "core.attributesfile",
            "credential.helper",
            "credential.https://x.helper",
            "diff.x.command",
            "filter.x.smudge",
            "http.proxy",
            "include.path",
            "includeif.gitdir:/.path",
            "protocol.ext.allow",
            "remote.origin.uploadpack",
            "remote.origin.receivepack",
            "remote.origin.proxy",
            "remote.origin.vcs",
            "remote.origin.promisor",
            "remote.treering.vcs",
            "uploadpack.packobjectshook",
            "url.ext::x.insteadof",
            "ssh.variant",
            "gpg.program",
            "gc.recentobjectshook",
            "unheard.of",
        ] {
            assert!(!is_harmless(name.as_bytes(), Some(b"x")), "{name}");
        }
        for name in
            ["core.bare", "remote.a.b.url", "remote.origin.fetch", "gc.auto", "remote.treering.promisor"]
        {
            assert!(is_harmless(name.as_bytes(), Some(b"x")), "{name}");
        }
        assert!(is_harmless(b"remote.a.pushurl", Some(b"/x")));
        assert!(!is_harmless(b"remote.a.pushurl", Some(b"ext::sh -c x")));
    }

    #[test]
    fn what_this_program_writes_is_harmless() {
        let fixture = super::super::testing::Fixture::new();
        fixture.open().add_remote("origin", "/x").unwrap();
        let listed = list_settings(Some(&fixture.path())).unwrap().unwrap();
        assert!(own(&listed).count() > 10);
        let path = fixture.path();
        assert!(Suspicious::of(&path, &listed).unwrap().names.is_empty());
    }
}
