//! Whom POSIX ACLs name, in the form in which Linux gives them as extended attributes.
//!
//! Guaranteed is only what is read here: a value that is not of that form names nobody, and stays as it is. Linux
//! refuses it when it is set.

use std::collections::HashMap;

/// The names of the attributes.
const NAMES: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];

const VERSION: [u8; 4] = 2u32.to_le_bytes();
const USER: u16 = 2;
const GROUP: u16 = 8;

/// One of those that are named beside owner and group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Named {
    User(u32),
    Group(u32),
}

/// The entries of the attribute `name` if that is an ACL: tag and permissions, and a number.
fn entries<'a>(name: &[u8], value: &'a [u8]) -> &'a [[u8; 8]] {
    let entries = value.strip_prefix(&VERSION).filter(|_| NAMES.contains(&name)).map(<[u8]>::as_chunks);
    match entries {
        Some((entries, [])) => entries,
        _ => &[],
    }
}

fn named([low, high, _, _, number @ ..]: [u8; 8]) -> Option<Named> {
    let number = u32::from_le_bytes(number);
    match u16::from_le_bytes([low, high]) {
        USER => Some(Named::User(number)),
        GROUP => Some(Named::Group(number)),
        _ => None,
    }
}

/// Whom the attribute `name` names, if it is an ACL.
pub(super) fn names(name: &[u8], value: &[u8]) -> impl Iterator<Item = Named> {
    entries(name, value).iter().filter_map(|entry| named(*entry))
}

/// Gives those whom the attribute `name` names the numbers that they have in `users` and `groups`.
pub(super) fn renumber(name: &[u8], value: &mut [u8], users: &HashMap<u32, u32>, groups: &HashMap<u32, u32>) {
    let mut entries = entries(name, value).to_vec();
    for entry in &mut entries {
        let number = match named(*entry) {
            Some(Named::User(number)) => users.get(&number),
            Some(Named::Group(number)) => groups.get(&number),
            None => None,
        };
        if let Some(number) = number {
            entry[4..].copy_from_slice(&number.to_le_bytes());
        }
    }
    // In the order in which `setfacl` writes them, so that what is the same compares equal.
    entries.sort_by_key(|&[low, high, _, _, number @ ..]| {
        (u16::from_le_bytes([low, high]), u32::from_le_bytes(number))
    });
    if !entries.is_empty() {
        value[VERSION.len()..].copy_from_slice(entries.as_flattened());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u32)]) -> Vec<u8> {
        let entry =
            |(tag, number): &(u16, u32)| [&tag.to_le_bytes()[..], &[7, 0], &number.to_le_bytes()].concat();
        [VERSION.to_vec(), entries.iter().flat_map(entry).collect()].concat()
    }

    #[test]
    fn users_and_groups_of_an_acl_get_other_numbers_and_nothing_else_does() {
        let (users, groups) = (HashMap::from([(5, 9), (1, 2)]), HashMap::from([(5, 3)]));
        let before = acl(&[(1, u32::MAX), (2, 5), (2, 6), (4, u32::MAX), (8, 5), (16, 5), (32, u32::MAX)]);
        let after = acl(&[(1, u32::MAX), (2, 6), (2, 9), (4, u32::MAX), (8, 3), (16, 5), (32, u32::MAX)]);
        for name in NAMES {
            let mut value = before.clone();
            renumber(name, &mut value, &users, &groups);
            assert_eq!(value, after);
            let named: Vec<_> = names(name, &before).collect();
            assert_eq!(named, [Named::User(5), Named::User(6), Named::Group(5)]);
        }
        let cut = [&before[..before.len() - 1], b"\x03\0\0\0", b""].map(<[u8]>::to_vec);
        for (name, value) in cut.iter().map(|value| (NAMES[0], value)).chain([(&b"user.x"[..], &before)]) {
            let mut after = value.clone();
            renumber(name, &mut after, &users, &groups);
            assert!(after == *value && names(name, value).next().is_none(), "{value:?}");
        }
    }
}
