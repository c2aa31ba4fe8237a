//! Listing: what of a backend's files is an object, and which.

use std::time::SystemTime;

use super::Store;
use super::backend::{Entries, Entry};
use super::error::{Error, Reason};
use super::name::{Name, Namespace};
use super::statistics::Operation;

/// An object, without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its name.
    pub name: Name,
    /// Bytes of content.
    pub size: u64,
    /// When it was stored, by the clock of the backend, when that tells.
    pub modified: Option<SystemTime>,
}

/// The objects of a namespace, as they come.
pub struct Items<'a> {
    store: &'a Store,
    entries: Entries<'a>,
    namespace: Namespace,
    deleted: bool,
    first: bool,
    over: bool,
}

impl<'a> Items<'a> {
    pub(super) fn new(store: &'a Store, namespace: &Namespace, deleted: bool) -> Self {
        Self {
            store,
            entries: store.backend.list(namespace.as_str()),
            namespace: namespace.clone(),
            deleted,
            first: true,
            over: false,
        }
    }

    /// What the entry is: not an object at all, one that is not wanted, or an item.
    fn item(&self, entry: Entry) -> Result<Option<Item>, Reason> {
        let Some(located) = self.namespace.locate(&entry.path) else { return Ok(None) };
        let known = match self.store.namespaces.get(&self.namespace) {
            None => located.level == 0,
            Some(options) => options.level == located.level || options.older_levels.contains(&located.level),
        };
        if !known {
            return Err(Reason::Misplaced { path: entry.path, level: located.level });
        }
        let wanted = self.deleted || !located.name.is_deleted();
        Ok(wanted.then_some(Item { name: located.name, size: entry.size, modified: entry.modified }))
    }

    fn step(&mut self) -> Result<Option<Item>, (Reason, u32)> {
        loop {
            let first = std::mem::replace(&mut self.first, false);
            let entry = self.store.calls.run_part(Operation::List, first, |_| {
                self.entries.next().transpose().map(|entry| (entry, 0))
            })?;
            let Some(entry) = entry else { return Ok(None) };
            if let Some(item) = self.item(entry).map_err(|reason| (reason, 1))? {
                return Ok(Some(item));
            }
        }
    }
}

impl Iterator for Items<'_> {
    type Item = Result<Item, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let step = self.step().map_err(|(reason, attempts)| {
            Error::new(&self.store.url, Operation::List, Some(self.namespace.to_string()), reason)
                .after(attempts)
        });
        self.over = !matches!(step, Ok(Some(_)));
        step.transpose()
    }
}
