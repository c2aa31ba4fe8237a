//! Slots: age files that hold an identity, for whoever has a passphrase or another identity.

use std::fmt;
use std::io::{Read, Write};

use age::scrypt;
use age::secrecy::{ExposeSecret, SecretString};

use super::blob::{MAX_HEADER, begin, header_len, open};
use super::{CryptError, Identity, Recipient};

/// The scrypt work factor of new slots, as `age` has it: 256 MiB, and a second or less.
pub const DEFAULT_WORK_FACTOR: u8 = 18;
/// The greatest scrypt work factor that is tried: 1 GiB.
pub const MAX_WORK_FACTOR: u8 = 20;

/// Bytes that an opened slot may hold: a few lines.
const MAX_CONTENT: u64 = 64 * 1024;

/// A passphrase. It does not show itself.
#[derive(Clone)]
pub struct Passphrase(SecretString);

impl Passphrase {
    /// Takes any text but the empty one.
    pub fn new(text: String) -> Result<Self, CryptError> {
        if text.is_empty() { Err(CryptError::EmptyPassphrase) } else { Ok(Self(text.into())) }
    }

    /// Whether that is the same one.
    pub fn is(&self, other: &Self) -> bool {
        self.0.expose_secret() == other.0.expose_secret()
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase")
    }
}

/// What a slot is locked with.
#[derive(Debug, Clone)]
pub enum Lock {
    /// A passphrase, by scrypt with 2 to the power of `work_factor` rounds; that is held between 1 and
    /// [`MAX_WORK_FACTOR`].
    Passphrase {
        /// The passphrase.
        passphrase: Passphrase,
        /// How much work it takes to try one; [`DEFAULT_WORK_FACTOR`] if there is no reason for another.
        work_factor: u8,
    },
    /// The public key of somebody.
    Recipient(Recipient),
}

/// What a slot can be opened with.
#[derive(Debug, Clone)]
pub enum Credential {
    /// A passphrase.
    Passphrase(Passphrase),
    /// A secret key.
    Identity(Identity),
}

/// What a slot is locked with, as its header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotKind {
    /// A passphrase.
    Passphrase,
    /// Public keys. Whose, an age file does not tell.
    Recipient,
}

/// Puts an identity into a new slot, which is an age file that holds it as a line of text.
pub fn lock(identity: &Identity, lock: &Lock) -> Result<Vec<u8>, CryptError> {
    let mut writer = match lock {
        Lock::Recipient(recipient) => begin(&recipient.0, Vec::new())?,
        Lock::Passphrase { passphrase, work_factor } => {
            let mut recipient = scrypt::Recipient::new(passphrase.0.clone());
            recipient.set_work_factor((*work_factor).clamp(1, MAX_WORK_FACTOR));
            begin(&recipient, Vec::new())?
        }
    };
    let line = identity.to_line();
    writer.write_all(line.expose_secret().as_bytes()).map_err(CryptError::write)?;
    writer.finish()
}

/// What a slot is locked with.
pub fn slot_kind(slot: &[u8]) -> Result<SlotKind, CryptError> {
    let header = header_len(&slot[..slot.len().min(MAX_HEADER)])?;
    let header = &slot[..header.ok_or(CryptError::Damaged("its header does not end"))?];
    let is_scrypt = header.split(|&byte| byte == b'\n').any(|line| line.starts_with(b"-> scrypt "));
    Ok(if is_scrypt { SlotKind::Passphrase } else { SlotKind::Recipient })
}

/// How many rounds of scrypt it takes to try a credential on a slot: none where that is no passphrase, or is not tried.
pub fn rounds(slot: &[u8], credential: &Credential) -> u64 {
    let is_passphrase = matches!(credential, Credential::Passphrase(_));
    let header = &slot[..slot.len().min(MAX_HEADER)];
    let stanza = header.split(|&byte| byte == b'\n').find(|line| line.starts_with(b"-> scrypt "));
    let factor =
        stanza.and_then(|line| std::str::from_utf8(line).ok()?.rsplit(' ').next()?.parse::<u8>().ok());
    match factor.filter(|&factor| is_passphrase && factor <= MAX_WORK_FACTOR) {
        Some(factor) => 1 << factor,
        None => 0,
    }
}

/// The identity that a slot holds, if the credential opens it. A credential of the wrong kind costs nothing,
/// and does not open it.
pub fn unlock(slot: &[u8], credential: &Credential) -> Result<Identity, CryptError> {
    let reader = match (credential, slot_kind(slot)?) {
        (Credential::Identity(identity), SlotKind::Recipient) => open(&identity.0, slot)?,
        (Credential::Passphrase(passphrase), SlotKind::Passphrase) => {
            let mut identity = scrypt::Identity::new(passphrase.0.clone());
            identity.set_max_work_factor(MAX_WORK_FACTOR);
            open(&identity, slot)?
        }
        _ => return Err(CryptError::OtherKey),
    };
    let mut text = String::new();
    reader.take(MAX_CONTENT).read_to_string(&mut text).map_err(CryptError::Read)?;
    // Of several the first: `lock` writes one.
    let identities = Identity::parse_file(SecretString::from(text).expose_secret())?;
    identities.into_iter().next().ok_or(CryptError::Identity)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::new(text.into()).unwrap()
    }

    fn locked_by(text: &str) -> Lock {
        Lock::Passphrase { passphrase: passphrase(text), work_factor: 4 }
    }

    #[test]
    fn a_slot_opens_for_what_locked_it_alone() {
        let (identity, friend) = (Identity::generate(), Identity::generate());
        let slots = [locked_by("open sesame"), Lock::Recipient(friend.recipient())]
            .map(|with| lock(&identity, &with).unwrap());
        assert_eq!(
            slots.each_ref().map(|slot| slot_kind(slot).unwrap()),
            [SlotKind::Passphrase, SlotKind::Recipient]
        );
        let right = [Credential::Passphrase(passphrase("open sesame")), Credential::Identity(friend)];
        let wrong =
            [Credential::Passphrase(passphrase("open barley")), Credential::Identity(identity.clone())];
        for (number, slot) in slots.iter().enumerate() {
            let opened = unlock(slot, &right[number]).unwrap();
            assert_eq!(opened.recipient(), identity.recipient());
            for credential in [&right[1 - number], &wrong[0], &wrong[1]] {
                assert!(matches!(unlock(slot, credential), Err(CryptError::OtherKey)), "{credential:?}");
            }
        }
    }

    #[test]
    fn a_slot_that_costs_too_much_is_not_tried() {
        let slot = lock(&Identity::generate(), &locked_by("x")).unwrap();
        assert_eq!(rounds(&slot, &Credential::Passphrase(passphrase("x"))), 16);
        assert_eq!(rounds(&slot, &Credential::Identity(Identity::generate())), 0);
        let end_of_line = slot.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(1).unwrap().0;
        for (work, refused) in [("21", 21), ("30", 30), ("63", 63)] {
            let mut costly = slot.clone();
            costly.splice(end_of_line - 1..end_of_line, work.bytes());
            assert_eq!(rounds(&costly, &Credential::Passphrase(passphrase("x"))), 0);
            let opened = unlock(&costly, &Credential::Passphrase(passphrase("x")));
            assert!(matches!(opened, Err(CryptError::Work(found)) if found == refused), "{opened:?}");
        }
    }

    #[test]
    fn nothing_secret_shows_itself() {
        let identity = Identity::generate();
        let secret = identity.to_line();
        let shown = format!(
            "{identity:?} {:?} {:?}",
            Credential::Identity(identity.clone()),
            locked_by("open sesame"),
        );
        assert!(!shown.contains(secret.expose_secret().trim()) && !shown.contains("sesame"), "{shown}");
        assert!(matches!(Passphrase::new(String::new()), Err(CryptError::EmptyPassphrase)));
    }

    #[test]
    fn files_of_identities_have_comments() {
        let identity = Identity::generate();
        let line = identity.to_line();
        let text =
            format!("# created: today\n# public key: {}\n\n  {}", identity.recipient(), line.expose_secret());
        assert_eq!(Identity::parse_file(&text).unwrap()[0].recipient(), identity.recipient());
        for text in ["", "# nothing\n", "age-encryption.org/v1\n-> scrypt x 18\n"] {
            assert!(matches!(Identity::parse_file(text), Err(CryptError::Identity)), "{text}");
        }
        for text in ["", "age1", "AGE-SECRET-KEY-1", &format!("{}x", identity.recipient())] {
            assert!(matches!(text.parse::<Recipient>(), Err(CryptError::Recipient { .. })), "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn a_damaged_slot_is_an_error(at: prop::sample::Index, flip in 1u8.., cut: bool) {
            let friend = Identity::generate();
            let mut slot = lock(&Identity::generate(), &Lock::Recipient(friend.recipient())).unwrap();
            let at = at.index(slot.len());
            if cut { slot.truncate(at) } else { slot[at] ^= flip }
            prop_assert!(unlock(&slot, &Credential::Identity(friend)).is_err());
            prop_assert!(unlock(&slot, &Credential::Passphrase(passphrase("x"))).is_err());
        }
    }
}
