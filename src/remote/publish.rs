//! Moving the head of a cold remote, so that of two who do it at one time both see it.
//!
//! Heads are never replaced: each is an object of its own, numbered, and the highest number counts. Where the
//! store makes new objects in one step ([`Store::is_exclusive`]), the number alone is the name: who comes
//! second is told that it is taken.
//!
//! Elsewhere the name has random digits too, so that nothing can be replaced at all, and a lock keeps two
//! writers apart. The lock is an object with an owner and an age, and nothing rests on it alone: where it
//! failed, two heads have the same number, both writers find that when they look again, and whoever reads
//! them merges both. So a stale lock, of somebody who died, may be removed by anybody.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use crate::gitkv::Person;
use crate::store::{Error, Item, Name, NameError, Namespace, Store};

use super::RemoteError;
use super::head::Head;

/// Heads that stay. They are small, and tell what was pushed lately.
const KEPT: u64 = 16;

/// Digits of a head's number, so that names sort as numbers do.
const DIGITS: usize = 10;

/// The most heads that are looked at: where none can be removed, each push leaves one.
const MOST_HEADS: usize = 1 << 18;

/// The most locks: each writer has one, and those of the dead go.
const MOST_LOCKS: usize = 1 << 12;

/// The age at which a lock is taken for one of a dead owner. It is held only while a head is written.
const STALE: Duration = Duration::from_secs(600);

/// How often a lock is tried, with pauses of up to half a second.
const LOCK_TRIES: u32 = 120;

/// Why a head was not published.
pub(super) enum PublishError {
    /// Somebody else published; read theirs, and begin again.
    Lost,
    /// The same, and what was to be published may have been read by others.
    Met,
    /// Others hold the lock all the time.
    Locked(Name),
    Store(Error),
    Name(NameError),
}

impl From<NameError> for PublishError {
    fn from(error: NameError) -> Self {
        Self::Name(error)
    }
}

impl From<Error> for PublishError {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl PublishError {
    /// As an error of the cold remote `remote`, for one who does not begin again.
    pub fn of(self, remote: &str) -> RemoteError {
        let remote = remote.to_owned();
        match self {
            Self::Lost | Self::Met => RemoteError::Contended { remote, tries: 1 },
            Self::Locked(lock) => RemoteError::Locked { remote, lock: lock.to_string() },
            Self::Store(error) => RemoteError::store(&remote)(error),
            Self::Name(error) => error.into(),
        }
    }
}

/// The number of the head of that name.
pub(super) fn number(name: &Name) -> Option<u64> {
    let (number, rest) = name.key().split_at_checked(DIGITS)?;
    let is_head = rest.is_empty() || rest.starts_with('.');
    let digits = number.bytes().all(|byte| byte.is_ascii_digit());
    (is_head && digits).then(|| number.parse().ok()).flatten()
}

/// The heads that count, and their number: one, or several where two writers met.
pub(super) fn newest(store: &Store, heads: &Namespace) -> Result<Option<(u64, Vec<Item>)>, Error> {
    Ok(by_number(store, heads)?.pop_last())
}

/// How much higher the number of a head may be than the one before. Each push adds one, and the oldest go first, so
/// there are no gaps but by accident. A head beyond one is somebody's who wants to hide what is pushed after it: there
/// is no number after the highest.
const MAX_GAP: u64 = 1 << 16;

/// From here on no head counts, so that there is always a number for the next one.
const LAST: u64 = 10u64.pow(DIGITS as u32) - 2 * MAX_GAP;

/// All heads that count, by their numbers. What lies beyond a gap does not.
pub(super) fn by_number(store: &Store, heads: &Namespace) -> Result<BTreeMap<u64, Vec<Item>>, Error> {
    let mut found: BTreeMap<u64, Vec<Item>> = BTreeMap::new();
    for item in store.list_within(heads, MOST_HEADS, |item| number(&item.name).is_some())? {
        if let Some(number) = number(&item.name) {
            found.entry(number).or_default().push(item);
        }
    }
    let mut numbers = found.keys().zip(found.keys().skip(1));
    let beyond =
        numbers.find(|(before, number)| *number - *before > MAX_GAP).map_or(LAST, |(_, number)| *number);
    for number in found.split_off(&beyond.min(LAST)).into_keys() {
        tracing::warn!(number, "a head of a cold remote lies far beyond the others, and does not count");
    }
    found.values_mut().for_each(|items| items.sort_by(|one, other| one.name.cmp(&other.name)));
    Ok(found)
}

/// Makes `head` the one with `number`, which follows the highest that was seen.
pub(super) fn publish(
    store: &Store,
    heads: &Namespace,
    locks: &Namespace,
    number: u64,
    head: &Head,
    who: &Person,
) -> Result<(), PublishError> {
    let text = head.encode();
    match store.is_exclusive(locks)? {
        true => publish_new(store, heads, number, text.as_bytes())?,
        false => publish_locked(store, heads, locks, number, text.as_bytes(), who)?,
    }
    forget_old(store, heads, number);
    Ok(())
}

fn publish_new(store: &Store, heads: &Namespace, number: u64, text: &[u8]) -> Result<(), PublishError> {
    let own = heads.name(&format!("{number:0DIGITS$}"))?;
    match store.store_new(&own, text) {
        Err(error) if error.is_exists() => return Err(PublishError::Lost),
        stored => stored?,
    }
    // Heads are removed in the order of their numbers. So where the one before is still there, this number
    // was free because nobody ever had it; else it may have been used and removed since. Who cannot make new
    // objects in one step may have come to the same number by another name.
    let (mut follows, mut is_highest, mut is_alone) = (false, true, true);
    for item in store.list(heads) {
        let name = item?.name;
        let Some(other) = self::number(&name).filter(|_| name != own) else { continue };
        follows |= other + 1 == number;
        is_highest &= other <= number;
        is_alone &= other != number;
    }
    if !follows && !is_highest {
        // If it stays it is old, and goes with the next ones.
        let _ = store.delete(&own);
    }
    if is_alone && (follows || is_highest) { Ok(()) } else { Err(PublishError::Met) }
}

fn publish_locked(
    store: &Store,
    heads: &Namespace,
    locks: &Namespace,
    number: u64,
    text: &[u8],
    who: &Person,
) -> Result<(), PublishError> {
    let lock = Lock::take(store, locks, who)?;
    let is_next = newest(store, heads)?.is_none_or(|(highest, _)| highest < number);
    if !is_next || lock.taken.elapsed() > STALE / 2 {
        return Err(PublishError::Lost);
    }
    let own = heads.name(&format!("{number:0DIGITS$}.{}", random()))?;
    store.store(&own, text)?;
    match newest(store, heads)? {
        Some((_, items)) if items.iter().all(|item| item.name == own) => Ok(()),
        _ => Err(PublishError::Met),
    }
}

/// Removes old heads, the oldest first. That it cannot be done, as where nothing may be removed, is no error.
fn forget_old(store: &Store, heads: &Namespace, number: u64) {
    let old = |name: &Name| self::number(name).is_some_and(|old| old + KEPT <= number);
    let listed = store.list_within(heads, MOST_HEADS, |item| old(&item.name));
    let mut names: Vec<_> = listed.unwrap_or_default().into_iter().map(|item| item.name).collect();
    names.sort();
    for name in names {
        if let Err(error) = store.delete(&name) {
            tracing::debug!(%error, "an old head stays");
            break;
        }
    }
}

/// An object that says that somebody is writing.
struct Lock<'a> {
    store: &'a Store,
    name: Name,
    taken: Instant,
}

impl<'a> Lock<'a> {
    fn take(store: &'a Store, locks: &Namespace, who: &Person) -> Result<Self, PublishError> {
        let mut met = None;
        for _ in 0..LOCK_TRIES {
            let name = locks.name(&random())?;
            let owner = format!("owner {} <{}>\ntime {}\n", who.name(), who.mail(), who.time());
            store.store_new(&name, owner.as_bytes())?;
            let lock = Self { store, name, taken: Instant::now() };
            let items = store.list_within(locks, MOST_LOCKS, |_| true)?;
            let own = items.iter().find(|item| item.name == lock.name).and_then(|item| item.modified);
            met = None;
            for other in items.into_iter().filter(|item| item.name != lock.name) {
                // Both by the clock of the store.
                let age = own.zip(other.modified).and_then(|(own, other)| own.duration_since(other).ok());
                match age {
                    Some(age) if age > STALE => {
                        tracing::info!(lock = %other.name, "removing the lock of somebody who died");
                        match store.delete(&other.name) {
                            Err(error) if !error.is_not_found() => return Err(error.into()),
                            _ => {}
                        }
                    }
                    _ => met = Some(other.name),
                }
            }
            if met.is_none() {
                return Ok(lock);
            }
            drop(lock);
            // Random, so that two who met do not meet again.
            thread::sleep(Duration::from_millis(20 + getrandom::u64().unwrap_or_default() % 480));
        }
        Err(met.map_or(PublishError::Lost, PublishError::Locked))
    }
}

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        // One that stays is stale some time later.
        let _ = self.store.delete(&self.name);
    }
}

fn random() -> String {
    format!("{:016x}", getrandom::u64().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use jiff::Timestamp;

    use crate::layers::ObjectId;
    use crate::store::{Options, StoreUrl};

    use super::*;

    struct Fixture {
        _dir: tempfile::TempDir,
        store: Store,
        heads: Namespace,
        locks: Namespace,
    }

    fn fixture() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let store =
            Store::create(&StoreUrl::file(dir.path().join("store")).unwrap(), Options::default()).unwrap();
        let namespace = |text| Namespace::new(text).unwrap();
        Fixture { _dir: dir, store, heads: namespace("heads"), locks: namespace("locks") }
    }

    fn who() -> Person {
        Person::new("Ann", "ann@example.org", Timestamp::UNIX_EPOCH)
    }

    fn head(id: u8) -> Head {
        let commit = ObjectId::from_bytes([id; 20]);
        let (layers, going) = Default::default();
        Head { repository: "r".into(), commit, previous: None, layers, going }
    }

    fn names(fixture: &Fixture) -> Vec<String> {
        let mut names: Vec<_> =
            fixture.store.list(&fixture.heads).map(|item| item.unwrap().name.key().to_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_head_far_beyond_the_others_hides_none() {
        let f = fixture();
        let publish = |number, id| publish(&f.store, &f.heads, &f.locks, number, &head(id), &who());
        let highest = || newest(&f.store, &f.heads).unwrap().map(|(number, _)| number);
        assert!(publish(1, 1).is_ok());
        for far in ["9999999999", "9999900000", "0000900000"] {
            f.store.store(&f.heads.name(far).unwrap(), b"far").unwrap();
        }
        for number in 2..40 {
            assert!(publish(number, 1).is_ok());
            assert_eq!(highest(), Some(number));
        }
        // Where there is nothing else, there is still a number for the next one.
        for name in names(&f).iter().filter(|name| !name.starts_with("9999")) {
            f.store.delete(&f.heads.name(name).unwrap()).unwrap();
        }
        assert_eq!(highest(), None);
    }

    #[test]
    fn a_number_is_given_once() {
        let f = fixture();
        let publish = |number, id| publish(&f.store, &f.heads, &f.locks, number, &head(id), &who());
        assert!(publish(1, 1).is_ok());
        assert!(matches!(publish(1, 2), Err(PublishError::Lost)));
        assert!(publish(2, 2).is_ok());
        assert_eq!(names(&f), ["0000000001", "0000000002"]);
        assert_eq!(newest(&f.store, &f.heads).unwrap().unwrap().0, 2);
    }

    #[test]
    fn old_heads_go_and_their_numbers_stay_taken() {
        let f = fixture();
        let publish = |number| publish(&f.store, &f.heads, &f.locks, number, &head(1), &who());
        (1..=KEPT + 3).for_each(|number| assert!(publish(number).is_ok()));
        assert_eq!(names(&f).len() as u64, KEPT);
        assert!(matches!(publish(2), Err(PublishError::Met)), "a writer who slept through all of them");
        assert_eq!(names(&f).len() as u64, KEPT);
    }

    #[test]
    fn the_lock_lets_one_publish_and_tells_the_others() {
        let f = fixture();
        let won = AtomicUsize::new(0);
        thread::scope(|scope| {
            for id in 0..4 {
                let (f, won) = (&f, &won);
                scope.spawn(move || {
                    let text = head(id).encode();
                    match publish_locked(&f.store, &f.heads, &f.locks, 1, text.as_bytes(), &who()) {
                        Ok(()) => drop(won.fetch_add(1, SeqCst)),
                        Err(PublishError::Lost) => {}
                        Err(_) => panic!("it failed otherwise"),
                    }
                });
            }
        });
        assert_eq!((won.into_inner(), names(&f).len()), (1, 1));
        assert_eq!(f.store.list(&f.locks).count(), 0);
    }

    #[test]
    fn where_a_lock_failed_both_heads_are_there_and_both_writers_know() {
        let f = fixture();
        let first = f.heads.name("0000000001.aaaa").unwrap();
        f.store.store(&first, b"theirs").unwrap();
        // As one would who looked before that was there.
        let own = f.heads.name("0000000001.bbbb").unwrap();
        f.store.store(&own, b"ours").unwrap();
        let (number, items) = newest(&f.store, &f.heads).unwrap().unwrap();
        assert_eq!((number, items.len()), (1, 2));
        let lost = publish_locked(&f.store, &f.heads, &f.locks, 1, b"late", &who());
        assert!(matches!(lost, Err(PublishError::Lost)));
        assert!(publish_locked(&f.store, &f.heads, &f.locks, 2, b"merged", &who()).is_ok());
        assert_eq!(newest(&f.store, &f.heads).unwrap().unwrap().1.len(), 1);
    }

    #[test]
    fn who_is_told_that_a_name_is_new_finds_the_head_of_one_who_is_not() {
        let f = fixture();
        f.store.store(&f.heads.name("0000000001.aaaa").unwrap(), b"theirs").unwrap();
        let publish = |number| publish(&f.store, &f.heads, &f.locks, number, &head(1), &who());
        assert!(matches!(publish(1), Err(PublishError::Met)));
        assert_eq!(newest(&f.store, &f.heads).unwrap().unwrap().1.len(), 2, "both count");
        assert!(publish(2).is_ok());
    }

    #[test]
    fn the_lock_of_a_dead_owner_is_removed_and_no_other() {
        let f = fixture();
        let path = |key: &str| f._dir.path().join("store/locks").join(key);
        f.store.store(&f.locks.name("dead").unwrap(), b"owner x\n").unwrap();
        let long_ago = std::time::SystemTime::now() - 2 * STALE;
        std::fs::File::options().write(true).open(path("dead")).unwrap().set_modified(long_ago).unwrap();
        assert!(publish_locked(&f.store, &f.heads, &f.locks, 1, b"text", &who()).is_ok());
        assert!(!path("dead").exists());

        f.store.store(&f.locks.name("alive").unwrap(), b"owner x\n").unwrap();
        thread::scope(|scope| {
            let waiting =
                scope.spawn(|| publish_locked(&f.store, &f.heads, &f.locks, 2, b"text", &who()).is_ok());
            thread::sleep(Duration::from_millis(50));
            assert!(path("alive").exists() && !waiting.is_finished());
            f.store.delete(&f.locks.name("alive").unwrap()).unwrap();
            assert!(waiting.join().unwrap());
        });
    }
}
