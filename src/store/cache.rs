//! A second store, nearer, that holds copies of objects.
//!
//! It never decides: what it cannot do is counted and done without it. It is meant for objects that do not
//! change, for what another client replaces or deletes in the store stays in this cache until it is evicted.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::backend::{Backend, Content};
use super::error::Reason;
use super::name::Namespace;
use super::statistics::CacheCounters;

/// Whether objects of a namespace are kept in the cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CacheMode {
    /// No.
    #[default]
    Off,
    /// What is stored or loaded is copied to the cache, and never read from it.
    Mirror,
    /// What is stored or loaded is copied to the cache, and loaded from it when it is there. The first
    /// load of a range loads the whole object, when that fits.
    WriteThrough,
}

/// What the cache does for a namespace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CachePolicy {
    /// Whether it is used.
    pub mode: CacheMode,
    /// How long after its last use an object may stay.
    pub max_age: Option<Duration>,
    /// How many bytes the objects may have together; those that were not used for longest go first.
    pub max_bytes: Option<u64>,
}

pub(super) struct Cache {
    backend: Box<dyn Backend>,
    spaces: HashMap<Namespace, Space>,
    counters: CacheCounters,
}

struct Space {
    policy: CachePolicy,
    index: Mutex<Index>,
}

/// What the cache holds, in order of last use, as far as this process knows.
#[derive(Default)]
struct Index {
    entries: HashMap<String, (SystemTime, u64)>,
    order: BTreeSet<(SystemTime, String)>,
    total: u64,
}

impl Index {
    fn insert(&mut self, path: &str, size: u64, used: SystemTime) {
        self.remove(path);
        self.entries.insert(path.into(), (used, size));
        self.order.insert((used, path.into()));
        self.total = self.total.saturating_add(size);
    }

    fn touch(&mut self, path: &str, used: SystemTime) {
        if let Some(&(_, size)) = self.entries.get(path) {
            self.insert(path, size, used);
        }
    }

    fn remove(&mut self, path: &str) {
        if let Some((used, size)) = self.entries.remove(path) {
            self.order.remove(&(used, path.to_owned()));
            self.total = self.total.saturating_sub(size);
        }
    }

    /// Takes out what has to go, so that `more` bytes fit.
    fn evict(&mut self, policy: &CachePolicy, now: SystemTime, more: u64) -> Vec<String> {
        let mut evicted = Vec::new();
        while let Some((used, path)) = self.order.first() {
            let age = now.duration_since(*used).unwrap_or_default();
            let old = policy.max_age.is_some_and(|max| age > max);
            let full = policy.max_bytes.is_some_and(|max| self.total.saturating_add(more) > max);
            if !old && !full {
                break;
            }
            let path = path.clone();
            self.remove(&path);
            evicted.push(path);
        }
        evicted
    }
}

impl Cache {
    /// The cache in `backend`, which is made when it is not there. What it holds already is found by
    /// listing it.
    pub fn open(
        backend: Box<dyn Backend>,
        policies: impl Iterator<Item = (Namespace, CachePolicy)>,
    ) -> Result<Self, Reason> {
        match backend.check() {
            Err(Reason::NoStore) => backend.create()?,
            result => result?,
        }
        let mut spaces = HashMap::new();
        for (namespace, policy) in policies.filter(|(_, policy)| policy.mode != CacheMode::Off) {
            let mut index = Index::default();
            for entry in backend.list(namespace.as_str()) {
                let entry = entry?;
                if namespace.locate(&entry.path).is_some() {
                    index.insert(&entry.path, entry.size, entry.modified.unwrap_or(SystemTime::UNIX_EPOCH));
                }
            }
            spaces.insert(namespace, Space { policy, index: Mutex::new(index) });
        }
        let cache = Self { backend, spaces, counters: CacheCounters::default() };
        for space in cache.spaces.values() {
            cache.make_room(space, 0);
        }
        Ok(cache)
    }

    pub fn counters(&self) -> &CacheCounters {
        &self.counters
    }

    /// The policy of `namespace`, when the cache is used for it.
    pub fn policy(&self, namespace: &Namespace) -> Option<CachePolicy> {
        self.spaces.get(namespace).map(|space| space.policy)
    }

    /// The bytes of `range`, or of the whole object, when they are here and may be read from here.
    pub fn load(&self, namespace: &Namespace, path: &str, range: Option<Range<u64>>) -> Option<Vec<u8>> {
        let space =
            self.spaces.get(namespace).filter(|space| space.policy.mode == CacheMode::WriteThrough)?;
        match self.backend.load(path, range, u64::MAX) {
            Ok(bytes) => {
                self.counters.hits.fetch_add(1, Relaxed);
                self.counters.bytes.fetch_add(bytes.len() as u64, Relaxed);
                lock(space).touch(path, SystemTime::now());
                Some(bytes)
            }
            Err(reason) => {
                self.counters.misses.fetch_add(1, Relaxed);
                lock(space).remove(path);
                if !matches!(reason, Reason::NotFound) {
                    self.failed("load", path, &reason);
                }
                None
            }
        }
    }

    /// Keeps a copy.
    pub fn store(&self, namespace: &Namespace, path: &str, content: &Content<'_>) {
        let Some(space) = self.spaces.get(namespace) else { return };
        let size = content.size();
        if space.policy.max_bytes.is_some_and(|max| size > max) {
            return self.delete(namespace, path);
        }
        lock(space).remove(path);
        self.make_room(space, size);
        match self.backend.store(path, content, false) {
            Ok(()) => lock(space).insert(path, size, SystemTime::now()),
            Err(reason) => {
                self.failed("store", path, &reason);
                self.drop_copy(path);
            }
        }
    }

    /// Forgets the object.
    pub fn delete(&self, namespace: &Namespace, path: &str) {
        let Some(space) = self.spaces.get(namespace) else { return };
        lock(space).remove(path);
        self.drop_copy(path);
    }

    fn make_room(&self, space: &Space, more: u64) {
        let evicted = lock(space).evict(&space.policy, SystemTime::now(), more);
        for path in evicted {
            self.drop_copy(&path);
        }
    }

    fn drop_copy(&self, path: &str) {
        match self.backend.delete(path) {
            Ok(()) | Err(Reason::NotFound) => {}
            Err(reason) => self.failed("delete", path, &reason),
        }
    }

    fn failed(&self, operation: &str, path: &str, reason: &Reason) {
        tracing::warn!(operation, path, %reason, "the cache failed");
        self.counters.errors.fetch_add(1, Relaxed);
    }
}

fn lock(space: &Space) -> MutexGuard<'_, Index> {
    space.index.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn evicts_what_was_not_used_for_longest_until_there_is_room() {
        let policy = CachePolicy { max_bytes: Some(100), ..CachePolicy::default() };
        let mut index = Index::default();
        for (second, path) in ["a", "b", "c"].iter().enumerate() {
            index.insert(path, 30, at(second as u64));
        }
        index.touch("a", at(9));
        assert_eq!(index.evict(&policy, at(10), 10), Vec::<String>::new());
        assert_eq!(index.evict(&policy, at(10), 40), ["b"]);
        assert_eq!(index.evict(&policy, at(10), 100), ["c", "a"]);
        assert_eq!(index.total, 0);
    }

    #[test]
    fn evicts_what_is_too_old() {
        let policy = CachePolicy { max_age: Some(Duration::from_secs(5)), ..CachePolicy::default() };
        let mut index = Index::default();
        index.insert("old", 1, at(0));
        index.insert("new", 1, at(4));
        assert_eq!(index.evict(&policy, at(6), 0), ["old"]);
    }
}
