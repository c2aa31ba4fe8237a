//! Removing layers from a cold remote that nothing needs any more.
//!
//! Nothing there can be asked to delete an object only if nobody relies on it, and whoever deletes may sleep for
//! days between deciding and doing. So deletion is made safe by names and by heads alone, never by age:
//!
//! 1. **A name is used once.** A layer lies under its own name and the tag of the push that brought it
//!    ([`uploads`](super::uploads)). A head lists such a copy for one of two reasons: that push brought it, which
//!    can be one head only; or a head that this one was made from lists it. Once no head that counts lists a
//!    copy, no later one ever does. Who needs the layer again brings a copy with another tag.
//! 2. **It is called going first.** A head calls going what the heads that it was made from list and it does not,
//!    what they call going and is still there, and what its writer brought and nobody listed.
//! 3. **It is removed** when of the highest number and of the one before there is one head each, and both call it
//!    going. A push that leaves something going publishes the same head once more for that.
//!
//! Why no head that counts, now or later, lists what is removed: say the highest number is H. A head that comes
//! late with a number up to H-1 does not count, for H is there. One that comes late with H was made from the
//! heads with H-1, of which there was one, and that calls the copy going; the push that brought the copy was
//! over or dead when that head was made, so what it may have left under way has a number up to H-1 too. Heads
//! with greater numbers are made from these. This holds where a lock failed and two heads have one number, and
//! where a store is reached in one way that makes new objects in one step and in another that does not.
//!
//! Killed at any instant, the next push of any clone goes on: what is going is in the newest head, until a
//! listing shows that it is gone. Who reads by an older head finds a layer missing, and reads the newest one. A
//! repository that is append-only removes nothing.
//!
//! What cannot be helped: data that lies in a cold remote alone, and that only a snapshot which was not
//! pushed needs, goes when somebody else prunes there. The push of that snapshot says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::gitkv::Person;
use crate::store::{Name, Namespace, Store};

use super::head::{Copies, Head, Held};
use super::objects::{LayerNames, Namespaces, at_once, load_head};
use super::publish::{self, PublishError};
use super::{RemoteError, Remotes};

/// Objects removed at once.
const REMOVED_AT_ONCE: usize = 16;

/// How often a head is published once more while others push.
const TRIES: u32 = 3;

/// What was removed from a cold remote.
#[derive(Debug, Default)]
pub struct Removed {
    /// Layers of which anything was removed.
    pub layers: u64,
    /// Bytes that they took.
    pub bytes: u64,
    /// Why not all of them were; the next push tries again.
    pub failure: Option<Box<RemoteError>>,
}

/// The objects of a layer in a store, and their sizes.
type Objects = Vec<(Name, u64)>;

impl Remotes {
    /// Removes what the newest head of a cold remote calls going, if it is known by now that nobody can need it.
    pub(super) fn remove_going(
        &self,
        remote: &str,
        store: &Store,
        repository: &str,
        who: &Person,
    ) -> Removed {
        let (layers, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
        let remove = || {
            if self.is_append_only(remote)? {
                return Ok(());
            }
            let going = self.settled(remote, store, repository, who)?;
            at_once(REMOVED_AT_ONCE, &going, |objects| {
                let mut is_first = true;
                for (name, size) in objects {
                    match store.delete(name) {
                        Err(error) if error.is_not_found() => continue,
                        deleted => deleted.map_err(RemoteError::store(remote))?,
                    }
                    layers.fetch_add(u64::from(std::mem::take(&mut is_first)), Ordering::Relaxed);
                    bytes.fetch_add(*size, Ordering::Relaxed);
                }
                Ok(())
            })
        };
        let failure = remove().err().map(Box::new);
        Removed { layers: layers.into_inner(), bytes: bytes.into_inner(), failure }
    }

    /// The objects, by layer, that may be removed, with their sizes; an index comes before its pack.
    fn settled(
        &self,
        remote: &str,
        store: &Store,
        repository: &str,
        who: &Person,
    ) -> Result<Vec<Objects>, RemoteError> {
        let names = Namespaces::new()?;
        for _ in 0..TRIES {
            let heads = publish::by_number(store, &names.heads).map_err(RemoteError::store(remote))?;
            let Some((&number, [item])) = heads.last_key_value().map(|(number, items)| (number, &items[..]))
            else {
                // Whoever merges them goes on.
                return Ok(Vec::new());
            };
            let head = load_head(store, remote, repository, item)?;
            let there = still_there(remote, store, &head.going)?;
            if there.is_empty() {
                return Ok(Vec::new());
            }
            let before = match number.checked_sub(1).and_then(|before| heads.get(&before)).map(Vec::as_slice)
            {
                Some([item]) => load_head(store, remote, repository, item)?.going,
                _ => Copies::new(),
            };
            if there.keys().all(|copy| before.contains(copy)) {
                return Ok(there.into_values().collect());
            }
            let seen = self.stores.seen(remote)?.map(|(_, seen)| seen);
            let is_seen = seen.as_ref() == Some(&head);
            let again = Head { previous: Some(head.commit), ..head };
            match publish::publish(store, &names.heads, &names.locks, number + 1, &again, who) {
                // What is in a head that was not pulled counts as not seen.
                Ok(()) if is_seen => self.stores.see(remote, number + 1, &again)?,
                Ok(()) | Err(PublishError::Lost | PublishError::Met) => {}
                Err(error) => return Err(error.of(remote)),
            }
        }
        Ok(Vec::new())
    }
}

/// Which of the layers `going` are still there, at least in part, and the objects of each.
pub(super) fn still_there(
    remote: &str,
    store: &Store,
    going: &Copies,
) -> Result<BTreeMap<(String, Held), Objects>, RemoteError> {
    let mut there = BTreeMap::new();
    let kinds: BTreeSet<_> = going.iter().map(|(_, held)| held.kind).collect();
    let names =
        |copy: &(String, Held)| LayerNames::new(&copy.0, &copy.1).map(|names| [names.index, names.pack]);
    let mut wanted = BTreeSet::new();
    for copy in going {
        wanted.extend(names(copy)?);
    }
    let mut sizes = BTreeMap::new();
    for kind in kinds {
        let most = wanted.len().saturating_mul(2);
        let listed =
            store.list_within(&Namespace::new(kind.name())?, most, |item| wanted.contains(&item.name));
        for item in listed.map_err(RemoteError::store(remote))? {
            sizes.insert(item.name, item.size);
        }
    }
    for copy in going {
        let objects = names(copy)?.into_iter();
        let objects: Vec<_> = objects.filter_map(|name| sizes.remove_entry(&name)).collect();
        if !objects.is_empty() {
            there.insert(copy.clone(), objects);
        }
    }
    Ok(there)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::Timestamp;

    use super::super::head::LayerKind;
    use super::*;
    use crate::gitkv::Git;
    use crate::layers::ObjectId;

    struct Fixture {
        _dir: tempfile::TempDir,
        remotes: Remotes,
        store: Arc<Store>,
    }

    /// A cold remote in which a layer lies.
    fn fixture() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        Git::init(&dir.path().join("repo"), &[]).unwrap();
        let remotes = Remotes::open(&dir.path().join("repo"), 1).unwrap();
        remotes.add("cold", format!("file://{}", dir.path().join("store").display())).unwrap();
        let store = remotes.stores.create("cold").unwrap();
        let names = names();
        store.store(&names.pack, &[7; 100]).unwrap();
        store.store(&names.index, &[7; 10]).unwrap();
        Fixture { _dir: dir, remotes, store }
    }

    fn copy() -> (String, Held) {
        let held = Held { kind: LayerKind::Data, pack_bytes: 100, index_bytes: 10, objects: 1, tag: 5 };
        (format!("pack-{}", "a".repeat(40)), held)
    }

    fn names() -> LayerNames {
        LayerNames::new(&copy().0, &copy().1).unwrap()
    }

    impl Fixture {
        /// Puts a head there that lists the layer or calls it going.
        fn head(&self, key: &str, lists: bool) {
            let (name, held) = copy();
            let (mut layers, mut going) = (BTreeMap::new(), Copies::new());
            match lists {
                true => drop(layers.insert(name, held)),
                false => drop(going.insert((name, held))),
            }
            let commit = ObjectId::from_bytes([1; 20]);
            let head = Head { repository: "r".into(), commit, previous: None, layers, going };
            let name = Namespaces::new().unwrap().heads.name(key).unwrap();
            self.store.store(&name, head.encode().as_bytes()).unwrap();
        }

        /// What was removed, in bytes, and the highest number then.
        fn remove(&self) -> (u64, u64) {
            let who = Person::new("Ann", "ann@example.org", Timestamp::UNIX_EPOCH);
            let removed = self.remotes.remove_going("cold", &self.store, "r", &who);
            assert!(removed.failure.is_none(), "{:?}", removed.failure);
            let heads = publish::by_number(&self.store, &Namespaces::new().unwrap().heads).unwrap();
            assert_eq!(self.store.info(&names().pack).is_ok(), removed.bytes == 0);
            (removed.bytes, *heads.last_key_value().unwrap().0)
        }
    }

    #[test]
    fn it_is_removed_when_two_heads_said_so_one_after_the_other() {
        let f = fixture();
        f.head("0000000001", true);
        assert_eq!(f.remove(), (0, 1), "it is listed");
        f.head("0000000002", false);
        assert_eq!(f.remove(), (110, 3), "it was said again first");
        let f = fixture();
        f.head("0000000001", false);
        f.head("0000000002", false);
        assert_eq!(f.remove(), (110, 2));
    }

    #[test]
    fn it_stays_where_two_writers_met_until_that_is_two_heads_ago() {
        let f = fixture();
        f.head("0000000001", false);
        f.head("0000000002.aaaa", false);
        f.head("0000000002.bbbb", true);
        assert_eq!(f.remove(), (0, 2), "one lists it");
        f.head("0000000003.cccc", false);
        assert_eq!(f.remove(), (110, 4));
        let f = fixture();
        f.head("0000000002.aaaa", false);
        f.head("0000000002.bbbb", true);
        f.head("0000000003", true);
        assert_eq!(f.remove(), (0, 3), "who merged them lists it");
    }

    #[test]
    fn a_head_that_somebody_publishes_meanwhile_counts() {
        let f = fixture();
        f.head("0000000001", true);
        f.head("0000000002", false);
        // As by one who began before that.
        f.head("0000000003", true);
        assert_eq!(f.remove(), (0, 3));
    }

    #[test]
    fn half_a_layer_goes_too_and_what_is_gone_costs_no_head() {
        let f = fixture();
        f.head("0000000001", true);
        f.head("0000000002", false);
        f.store.delete(&names().index).unwrap();
        assert_eq!(f.remove(), (100, 3));
        f.head("0000000004", false);
        let who = Person::new("Ann", "ann@example.org", Timestamp::UNIX_EPOCH);
        assert_eq!(f.remotes.remove_going("cold", &f.store, "r", &who).layers, 0);
        assert!(publish::newest(&f.store, &Namespaces::new().unwrap().heads).unwrap().unwrap().0 == 4);
    }
}
