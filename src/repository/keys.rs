//! The keys of an encrypted repository.
//!
//! It has one key pair. The public key stands in the configuration; the private one lies in the tree, in one
//! *slot* for each passphrase or recipient that opens it: `keys/<id>.age`, an age file that holds the line
//! `AGE-SECRET-KEY-1…`. So a new slot opens what was written before it. Removing one changes nothing for
//! whoever opened it once: what he took he has, and the slot remains in the history of git.

use jiff::Timestamp;

use crate::crypt::{self, Credential, CryptError, Identity, Lock, Recipient, SlotKind};
use crate::repository::blobs::{ENCRYPTED, Vault};
use crate::repository::cache::{self, Cache};
use crate::repository::store::person;
use crate::repository::{Config, Repository, RepositoryError};
use crate::timeline::Batch;

/// The directory of the tree that holds the slots.
const KEYS: &str = "keys";

/// Slots that are looked at; somebody else may have made some.
const MAX_SLOTS: usize = 64;

/// Bytes that a slot may have.
const MAX_SLOT: u64 = 64 * 1024;

/// A slot, as far as it can be told without opening it.
#[derive(Debug)]
pub struct KeySlot {
    /// Its name, some hexadecimal digits.
    pub id: String,
    /// What it is locked with, if it can be read.
    pub kind: Result<SlotKind, RepositoryError>,
    /// Whether one of the credentials opens it that were given.
    pub opens: bool,
}

/// Makes the secret key of a new repository, in a slot for each of `locks`.
pub(super) fn create(batch: &mut Batch<'_>, locks: &[Lock]) -> Result<Identity, RepositoryError> {
    let identity = Identity::generate();
    for lock in locks {
        add_slot(batch, &identity, lock)?;
    }
    Ok(identity)
}

fn add_slot(batch: &mut Batch<'_>, identity: &Identity, lock: &Lock) -> Result<String, RepositoryError> {
    let id = format!("{:08x}", getrandom::u32().map_err(RepositoryError::Random)?);
    batch.set(&path(&id), &crypt::lock(identity, lock)?)?;
    Ok(id)
}

fn path(id: &str) -> String {
    format!("{KEYS}/{id}{ENCRYPTED}")
}

/// What the configuration says of encryption.
pub(super) fn vault(config: &Config) -> Result<Option<Vault>, CryptError> {
    let Some(encryption) = &config.encryption else { return Ok(None) };
    Ok(Some(Vault { recipient: encryption.recipient.parse()?, identity: None, cache: None }))
}

impl Repository {
    /// Whom the blobs of the repository are encrypted for; `None` where they are plain.
    pub fn recipient(&self) -> Option<&Recipient> {
        self.vault.as_ref().map(|vault| &vault.recipient)
    }

    /// Whether everything can be read: it is plain, or was unlocked.
    pub fn is_readable(&self) -> bool {
        self.vault.as_ref().is_none_or(|vault| vault.identity.is_some())
    }

    /// Finds the secret key with what one of `credentials` opens: a slot, or all blobs themselves. Without
    /// it, an encrypted repository can be written, pushed and pulled, and nothing in it can be read.
    pub fn unlock(&mut self, credentials: &[Credential]) -> Result<(), RepositoryError> {
        let recipient = self.recipient().ok_or(RepositoryError::NotEncrypted)?.clone();
        let is_it = |identity: &Identity| identity.recipient() == recipient;
        let given = credentials.iter().find_map(|credential| match credential {
            Credential::Identity(identity) if is_it(identity) => Some(identity.clone()),
            _ => None,
        });
        let found = match given {
            Some(identity) => identity,
            None => self.open_slots(credentials)?,
        };
        if !is_it(&found) {
            let (expected, found) = (found.recipient().to_string(), recipient.to_string());
            return Err(RepositoryError::OtherRecipient { expected, found });
        }
        if let Some(vault) = &mut self.vault {
            vault.identity = Some(found);
        }
        Ok(())
    }

    fn open_slots(&self, credentials: &[Credential]) -> Result<Identity, RepositoryError> {
        if credentials.is_empty() {
            return Err(RepositoryError::Encrypted);
        }
        let mut unusable = None;
        for slot in self.slots()? {
            match self.open_slot(&slot, credentials) {
                Ok(Some(identity)) => return Ok(identity),
                Ok(None) => {}
                Err(error) => unusable = Some(error),
            }
        }
        Err(RepositoryError::WrongKey { unusable: unusable.map(Box::new) })
    }

    /// What a slot holds, if one of the credentials opens it.
    fn open_slot(&self, id: &str, credentials: &[Credential]) -> Result<Option<Identity>, RepositoryError> {
        let bytes = self.slot(id)?;
        for credential in credentials {
            match crypt::unlock(&bytes, credential) {
                Err(CryptError::OtherKey) => {}
                opened => {
                    return opened
                        .map(Some)
                        .map_err(|error| RepositoryError::damaged(&path(id))(error.into()));
                }
            }
        }
        Ok(None)
    }

    fn slot(&self, id: &str) -> Result<Vec<u8>, RepositoryError> {
        let blob = self.blob(&path(id))?;
        let damaged =
            |error: Box<dyn std::error::Error + Send + Sync>| RepositoryError::damaged(&blob.path)(error);
        match self.timeline.git().blob_size(&blob.id) {
            Ok(..=MAX_SLOT) => self.timeline.read(&blob.id).map_err(|error| damaged(error.into())),
            Ok(len) => Err(damaged(format!("it has {len} bytes").into())),
            Err(error) => Err(damaged(error.into())),
        }
    }

    /// The ids of the slots.
    fn slots(&self) -> Result<Vec<String>, RepositoryError> {
        let git = self.timeline.git();
        let Some(head) = git.head().map_err(crate::timeline::TimelineError::from)? else {
            return Ok(Vec::new());
        };
        let mut ids = Vec::new();
        for file in
            git.walk(&head, KEYS.as_bytes()).map_err(crate::timeline::TimelineError::from)?.take(MAX_SLOTS)
        {
            let (path, _) = file.map_err(crate::timeline::TimelineError::from)?;
            let name = String::from_utf8(path).ok();
            let id = name
                .as_deref()
                .and_then(|name| name.strip_prefix(KEYS)?.strip_prefix('/')?.strip_suffix(ENCRYPTED));
            ids.extend(id.map(str::to_owned));
        }
        Ok(ids)
    }

    /// The slots, and which of them one of `credentials` opens.
    pub fn keys(&self, credentials: &[Credential]) -> Result<Vec<KeySlot>, RepositoryError> {
        self.recipient().ok_or(RepositoryError::NotEncrypted)?;
        let _hold = self.hold()?;
        let slot = |id: String| {
            let kind = self.slot(&id).and_then(|bytes| {
                crypt::slot_kind(&bytes).map_err(|error| RepositoryError::damaged(&path(&id))(error.into()))
            });
            let opens = matches!(self.open_slot(&id, credentials), Ok(Some(_)));
            KeySlot { id, kind, opens }
        };
        Ok(self.slots()?.into_iter().map(slot).collect())
    }

    /// Adds a slot, and returns its id. The repository must have been unlocked.
    pub fn add_key(&self, lock: &Lock, time: Timestamp) -> Result<String, RepositoryError> {
        let vault = self.vault.as_ref().ok_or(RepositoryError::NotEncrypted)?;
        let identity = vault.identity.as_ref().ok_or(RepositoryError::Encrypted)?;
        let mut batch = self.timeline.begin()?;
        let id = add_slot(&mut batch, identity, lock)?;
        batch.commit(&self.committer("", "", time), "Add a key")?;
        Ok(id)
    }

    /// Removes the slot whose id begins with `id`. One of `credentials` must open another slot, so that
    /// nobody locks himself out.
    pub fn remove_key(
        &self,
        id: &str,
        credentials: &[Credential],
        time: Timestamp,
    ) -> Result<String, RepositoryError> {
        self.recipient().ok_or(RepositoryError::NotEncrypted)?;
        let (meant, others): (Vec<_>, Vec<_>) =
            self.slots()?.into_iter().partition(|slot| slot.starts_with(id));
        let [meant] =
            <[String; 1]>::try_from(meant).map_err(|_| RepositoryError::NoKeySlot(id.to_owned()))?;
        if others.is_empty() {
            return Err(RepositoryError::LastKey(meant));
        }
        if credentials.is_empty() {
            return Err(RepositoryError::Encrypted);
        }
        let opens = |slot: &String| matches!(self.open_slot(slot, credentials), Ok(Some(_)));
        if !others.iter().any(opens) {
            let is_only = opens(&meant);
            return Err(match is_only {
                true => RepositoryError::OnlyKey(meant),
                false => RepositoryError::WrongKey { unusable: None },
            });
        }
        let mut batch = self.timeline.begin()?;
        batch.remove(&path(&meant))?;
        batch.commit(&self.committer("", "", time), "Remove a key")?;
        Ok(meant)
    }

    /// Lets a backup without the key remember what it wrote, below the directory `caches`. Fails where the
    /// configuration does not name the recipient that it named when this cache was begun.
    pub fn with_cache(mut self, caches: &std::path::Path) -> Result<Self, RepositoryError> {
        let dir = caches.join(&self.config.id);
        let found = self.recipient().map(ToString::to_string);
        if let Some(expected) = cache::pinned(&dir)
            && found.as_deref() != Some(&expected)
        {
            let found = found.unwrap_or_else(|| "nobody".into());
            return Err(RepositoryError::OtherRecipient { expected, found });
        }
        if let Some(vault) = &mut self.vault {
            vault.cache = Some(Cache::new(dir, &vault.recipient));
        }
        Ok(self)
    }

    /// Who commits: that user, or, in an encrypted repository, nobody in particular.
    pub fn committer(&self, user: &str, host: &str, time: Timestamp) -> crate::gitkv::Person {
        match self.vault {
            None => person(user, host, time),
            Some(_) => person("treering", "localhost", time),
        }
    }
}
