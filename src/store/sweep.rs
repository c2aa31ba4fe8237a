//! What killed processes were writing, where nobody can tell whether the writer of a file still lives.
//!
//! Who has just written into a directory looks it through for files that are a day older than the one just written:
//! both times come from the same clock, whatever it says. A process does that once for each directory, and only for the
//! first few: in a store of several levels each object may lie in a directory of its own. Names are mostly digests,
//! so every directory has its turn.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::backend::{Entry, random};
use super::error::Reason;

/// The time without a further byte after which nobody writes an unfinished file any more.
const DEAD: Duration = Duration::from_secs(24 * 3600);
/// By which a name tells that it may be all that is left of an object: servers remove what a move replaces just before.
pub(super) const ASIDE: &str = "aside-";
/// How many directories a process looks through.
const MOST: usize = 16;

/// The directories that were looked through.
#[derive(Default)]
pub(super) struct Swept(Mutex<HashSet<String>>);

impl Swept {
    /// The directory of `path`, which was just written, if it is to be looked through now.
    pub fn next<'a>(&self, path: &'a str) -> Option<&'a str> {
        let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
        let mut swept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (swept.len() < MOST && swept.insert(directory.to_owned())).then_some(directory)
    }
}

/// Whether who wrote something at `then` is dead `now`.
pub(super) fn is_dead(then: Option<SystemTime>, now: Option<SystemTime>) -> bool {
    then.zip(now).and_then(|(then, now)| now.duration_since(then).ok()).is_some_and(|age| age > DEAD)
}

/// The path under which the object of `path` is written, where it is moved from there.
pub(super) fn beside(path: &str, replaces: bool) -> Result<String, Reason> {
    let sort = if replaces { ASIDE } else { "" };
    Ok(format!("{path}.{sort}{}.tmp", random()?))
}

/// The object that was written at a path of [`beside`], and whether it was to replace one.
fn object_of(path: &str) -> Option<(&str, bool)> {
    let (object, end) = path.strip_suffix(".tmp")?.rsplit_once('.')?;
    let random = end.strip_prefix(ASIDE).unwrap_or(end);
    let is_ours =
        random.len() == 16 && random.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    is_ours.then_some((object, random.len() < end.len()))
}

/// Of the files in the directory of `written`, which was just written, those at paths of [`beside`] whose writers
/// are dead.
pub(super) fn dead<'a>(files: &'a [Entry], written: &str) -> impl Iterator<Item = &'a str> {
    let find = |path: &str| files.iter().find(|file| file.path == path);
    let now = find(written).and_then(|file| file.modified);
    let is_left = move |file: &&Entry| {
        let is_spare = |(object, replaces): (&str, bool)| !replaces || find(object).is_some();
        is_dead(file.modified, now) && object_of(&file.path).is_some_and(is_spare)
    };
    files.iter().filter(is_left).map(|file| file.path.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_directories_are_looked_through_once() {
        let swept = Swept::default();
        assert_eq!(swept.next("treering-store.hid"), Some(""));
        assert_eq!(swept.next("data/0123"), Some("data"));
        assert_eq!(swept.next("data/4567"), None);
        let more = (0..1000).filter(|at| swept.next(&format!("data/{at:04}/{at:04}")).is_some());
        assert_eq!(more.count(), MOST - 2);
    }

    #[test]
    fn only_what_is_written_beside_an_object_is_unfinished() {
        for replaces in [false, true] {
            assert_eq!(object_of(&beside("data/0.1", replaces).unwrap()), Some(("data/0.1", replaces)));
        }
        let digits = "0123456789abcdef";
        for other in [
            format!("data/{digits}.tmp"),
            format!("data/x.{digits}"),
            format!("data/x.{}.tmp", digits.to_uppercase()),
            format!("data/x.{digits}0.tmp"),
            format!("data/x.aside-{}.tmp", &digits[1..]),
            "data/x.tmp".into(),
        ] {
            assert_eq!(object_of(&other), None, "{other}");
        }
    }
}
