//! The keys of an encrypted repository.
//!
//! It has one key pair. The public key stands in the configuration; the private one lies in the tree, in one
//! *slot* for each passphrase or recipient that opens it: `keys/<id>.age`, an age file that holds the line
//! `AGE-SECRET-KEY-1…`. So a new slot opens what was written before it. Removing one changes nothing for
//! whoever opened it once: what he took he has, and the slot remains in the history of git.

use jiff::Timestamp;

use crate::crypt::{self, Credential, CryptError, Identity, Lock, Recipient, SlotKind};
use crate::format::ENCRYPTED;
use crate::format::kind::KEYS;
use crate::gitkv::Person;
use crate::layers::{ObjectId, ObjectKind, object_id};
use crate::repository::blobs::Vault;
use crate::repository::cache::{self, Cache};
use crate::repository::own::Own;
use crate::repository::{Config, Repository, RepositoryError};
use crate::timeline::Batch;

/// Slots that are looked at; somebody else may have made some.
const MAX_SLOTS: usize = 64;

/// Rounds of scrypt, of all slots together, that are tried to open one: as 16 passphrases of the usual strength take. Somebody
/// else may have made slots that take much longer.
const MAX_ROUNDS: u64 = 16 << 18;

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

fn add_slot(
    batch: &mut Batch<'_>,
    identity: &Identity,
    lock: &Lock,
) -> Result<(String, Vec<u8>), RepositoryError> {
    let id = format!("{:08x}", getrandom::u32().map_err(RepositoryError::Random)?);
    let bytes = crypt::lock(identity, lock)?;
    batch.set(&path(&id), &bytes)?;
    Ok((id, bytes))
}

/// One of the keys, and whether no other writer of a remote has made it.
struct Slot {
    id: String,
    is_own: bool,
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
        let mut rounds = MAX_ROUNDS;
        for slot in self.by_cost(self.slots()?, credentials) {
            match self.open_slot(&slot, credentials, &mut rounds) {
                Ok(Some(identity)) => return Ok(identity),
                Ok(None) => {}
                Err(error) => unusable = Some(error),
            }
        }
        Err(RepositoryError::WrongKey { unusable: unusable.map(Box::new) })
    }

    /// The slots in the order in which they are to be tried: those first that take the least, since costly ones may have
    /// been made to use up all rounds; and before them those that no other writer of a remote has made.
    fn by_cost(
        &self,
        mut slots: Vec<Slot>,
        credentials: &[Credential],
    ) -> impl Iterator<Item = String> + use<> {
        slots.sort_by_cached_key(|slot| {
            let cost =
                |bytes: Vec<u8>| credentials.iter().map(|credential| crypt::rounds(&bytes, credential)).sum();
            (!slot.is_own, self.slot(&slot.id).map_or(0u64, cost))
        });
        slots.into_iter().map(|slot| slot.id)
    }

    /// What a slot holds, if one of the credentials opens it.
    ///
    /// Takes no more rounds of scrypt than `rounds` has left.
    fn open_slot(
        &self,
        id: &str,
        credentials: &[Credential],
        rounds: &mut u64,
    ) -> Result<Option<Identity>, RepositoryError> {
        let bytes = self.slot(id)?;
        for credential in credentials {
            let left = rounds.checked_sub(crypt::rounds(&bytes, credential));
            *rounds = left.ok_or_else(|| RepositoryError::KeyTooCostly(id.to_owned()))?;
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
        let read = self.timeline.git().read_blob_within(&blob.id, MAX_SLOT);
        read.map_err(|error| RepositoryError::damaged(&blob.path)(error.into()))
    }

    /// The ids of the slots.
    fn slots(&self) -> Result<Vec<Slot>, RepositoryError> {
        let files = self.key_files()?;
        let own = match files.len() {
            0 | 1 => Own::default(),
            // It only says which are tried first.
            _ => self.own().unwrap_or_else(|_| Own::nothing()),
        };
        let slot = |(path, key): (String, ObjectId)| {
            let id = path.strip_prefix(KEYS)?.strip_prefix('/')?.strip_suffix(ENCRYPTED)?.to_owned();
            Some(Slot { is_own: own.wrote(&path, &key), id })
        };
        let mut slots: Vec<Slot> = files.into_iter().filter_map(slot).collect();
        if slots.len() > MAX_SLOTS {
            // Stable, so that each part stays in order.
            slots.sort_by_key(|slot| !slot.is_own);
            slots.truncate(MAX_SLOTS);
        }
        Ok(slots)
    }

    /// The paths and ids of the files among which the slots are.
    pub(super) fn key_files(&self) -> Result<Vec<(String, ObjectId)>, RepositoryError> {
        let git = self.timeline.git();
        let Some(head) = git.head()? else { return Ok(Vec::new()) };
        let files = git.files_in(&head, KEYS.as_bytes())?.into_iter();
        Ok(files.filter_map(|(path, node)| Some((String::from_utf8(path).ok()?, node.id))).collect())
    }

    /// The slots, and which of them one of `credentials` opens.
    pub fn keys(&self, credentials: &[Credential]) -> Result<Vec<KeySlot>, RepositoryError> {
        self.recipient().ok_or(RepositoryError::NotEncrypted)?;
        let _hold = self.hold()?;
        let slots = self.slots()?;
        let mut ids: Vec<String> = slots.iter().map(|slot| slot.id.clone()).collect();
        ids.sort_unstable();
        let mut rounds = MAX_ROUNDS;
        let mut opening: Vec<String> = self.by_cost(slots, credentials).collect();
        opening.retain(|id| matches!(self.open_slot(id, credentials, &mut rounds), Ok(Some(_))));
        let slot = |id: String| {
            let kind = self.slot(&id).and_then(|bytes| {
                crypt::slot_kind(&bytes).map_err(|error| RepositoryError::damaged(&path(&id))(error.into()))
            });
            KeySlot { opens: opening.contains(&id), id, kind }
        };
        Ok(ids.into_iter().map(slot).collect())
    }

    /// Adds a slot, and returns its id. The repository must have been unlocked.
    pub fn add_key(&self, lock: &Lock, time: Timestamp) -> Result<String, RepositoryError> {
        let vault = self.vault.as_ref().ok_or(RepositoryError::NotEncrypted)?;
        let identity = vault.identity.as_ref().ok_or(RepositoryError::Encrypted)?;
        let mut batch = self.timeline.begin()?;
        let (id, bytes) = add_slot(&mut batch, identity, lock)?;
        self.note_own(&path(&id), || object_id(ObjectKind::Blob, &bytes));
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
            self.slots()?.into_iter().partition(|slot| slot.id.starts_with(id));
        let [Slot { id: meant, .. }] =
            <[Slot; 1]>::try_from(meant).map_err(|_| RepositoryError::NoKeySlot(id.to_owned()))?;
        if others.is_empty() {
            return Err(RepositoryError::LastKey(meant));
        }
        if credentials.is_empty() {
            return Err(RepositoryError::Encrypted);
        }
        let mut rounds = MAX_ROUNDS;
        let mut opens = |slot: &String| matches!(self.open_slot(slot, credentials, &mut rounds), Ok(Some(_)));
        if !self.by_cost(others, credentials).any(|slot| opens(&slot)) {
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
        let dir = caches.join(self.config.id.to_string());
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
            None => Person::on_host(user, host, time),
            Some(_) => Person::on_host("treering", "localhost", time),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypt::Passphrase;
    use crate::repository::InitOptions;

    fn passphrase() -> Passphrase {
        Passphrase::new("open sesame".into()).unwrap()
    }

    fn lock(work_factor: u8) -> Lock {
        Lock::Passphrase { passphrase: passphrase(), work_factor }
    }

    /// A repository with two keys that the passphrase opens.
    fn repository() -> (tempfile::TempDir, Repository) {
        let dir = tempfile::tempdir().unwrap();
        let options = InitOptions { locks: vec![lock(3), lock(2)], ..InitOptions::new(Timestamp::now()) };
        let repository = Repository::init(&dir.path().join("repo"), &options).unwrap();
        (dir, repository)
    }

    #[test]
    fn costly_keys_keep_nobody_from_the_right_ones() {
        let (_dir, repository) = repository();
        let right = [Credential::Passphrase(passphrase())];
        let own: Vec<String> = repository.slots().unwrap().into_iter().map(|slot| slot.id).collect();
        // They count as tried though they cannot be, which takes a test no time.
        let costly = b"age-encryption.org/v1\n-> scrypt c2FsdA 20\n";
        let forged: Vec<_> = (0..4).map(|number| format!("{number:08x}")).collect();
        let mut batch = repository.timeline.begin().unwrap();
        for id in &forged {
            batch.set(&path(id), costly).unwrap();
        }
        batch.commit(&Person::on_host("", "", Timestamp::now()), "Add keys").unwrap();
        assert_eq!(crypt::rounds(costly, &right[0]) * forged.len() as u64, MAX_ROUNDS);
        let keys = repository.keys(&right).unwrap();
        let listed: Vec<_> = keys.into_iter().map(|slot| (slot.id, slot.opens)).collect();
        let of = |ids: &[String], opens| ids.iter().map(|id| (id.clone(), opens)).collect::<Vec<_>>();
        assert_eq!(listed, [of(&forged, false), of(&own, true)].concat());
        assert_eq!(repository.remove_key(&own[0], &right, Timestamp::now()).unwrap(), own[0]);
    }

    #[test]
    fn keys_open_though_nobody_knows_which_are_own() {
        let (_dir, mut repository) = repository();
        let own = repository.path().join(crate::gitkv::PRIVATE).join("own");
        std::fs::remove_file(&own).unwrap();
        std::fs::create_dir(&own).unwrap();
        assert!(matches!(repository.own(), Err(RepositoryError::Own { .. })));
        repository.unlock(&[Credential::Passphrase(passphrase())]).unwrap();
    }

    #[test]
    fn keys_that_take_too_long_are_not_tried() {
        let (_dir, mut repository) = repository();
        let right = [Credential::Passphrase(passphrase())];
        let wrong = [Credential::Passphrase(Passphrase::new("open barley".into()).unwrap())];
        let [one, other] = &repository.slots().unwrap()[..] else { panic!("there are two") };
        let mut rounds = 20;
        for slot in [one, other] {
            assert!(repository.open_slot(&slot.id, &wrong, &mut rounds).unwrap().is_none());
        }
        assert_eq!(rounds, 20 - 8 - 4);
        let opened = repository.open_slot(&one.id, &right, &mut 3);
        assert!(matches!(opened, Err(RepositoryError::KeyTooCostly(id)) if id == one.id));
        repository.unlock(&right).unwrap();
        // Of 64 keys, with the right one among those that take the least.
        let mut batch = repository.timeline.begin().unwrap();
        for number in 0..62 {
            let slot = crypt::lock(&Identity::generate(), &lock(1)).unwrap();
            let at = slot.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(1).unwrap().0;
            let costly = [&slot[..at - 1], b"20", &slot[at..]].concat();
            batch.set(&path(&format!("{number:08x}")), &costly).unwrap();
        }
        batch.commit(&Person::on_host("", "", Timestamp::now()), "Add keys").unwrap();
        assert_eq!(repository.slots().unwrap().len(), MAX_SLOTS);
        repository.unlock(&right).unwrap();
    }
}
