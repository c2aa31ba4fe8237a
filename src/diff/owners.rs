//! The names of owners.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::diff::acl::{self, Named};
use crate::diff::entry::Entry;

/// Names of the users and groups that own something, or that an ACL names, by number.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owners {
    /// Users.
    pub users: BTreeMap<u32, String>,
    /// Groups.
    pub groups: BTreeMap<u32, String>,
}

impl Owners {
    /// Learns the names of the owners of `entry`, and of those whom its ACLs name, from the system.
    pub fn note(&mut self, entry: &Entry) {
        self.note_one(Named::User(entry.meta.uid));
        self.note_one(Named::Group(entry.meta.gid));
        let xattrs = entry.meta.xattrs.iter().flat_map(|xattrs| xattrs.iter());
        xattrs.flat_map(|(name, value)| acl::names(name, value)).for_each(|named| self.note_one(named));
    }

    fn note_one(&mut self, named: Named) {
        let name = |name: &std::ffi::OsStr| name.to_string_lossy().into_owned();
        let (names, number) = match named {
            Named::User(number) => (&mut self.users, number),
            Named::Group(number) => (&mut self.groups, number),
        };
        names.entry(number).or_insert_with(|| {
            let found = match named {
                Named::User(number) => uzers::get_user_by_uid(number).map(|user| name(user.name())),
                Named::Group(number) => uzers::get_group_by_gid(number).map(|group| name(group.name())),
            };
            found.unwrap_or_default()
        });
    }
}
