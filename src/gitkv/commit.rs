//! Commit objects.

use jiff::Timestamp;

use crate::layers::ObjectId;

/// Who did something, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    name: String,
    mail: String,
    time: Timestamp,
}

/// What a line in the message of a commit begins with that pruning made, before the id of the commit that it replaced.
const REPLACES: &str = "replaces ";

/// A commit object, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// The tree that it records.
    pub tree: ObjectId,
    /// The commits that it follows.
    pub parents: Vec<ObjectId>,
    /// Who made the change.
    pub author: Person,
    /// Who recorded it.
    pub committer: Person,
    /// What they say about it; git does not promise that it is UTF-8.
    pub message: Vec<u8>,
}

impl Person {
    /// Someone who acts at `time`. What git cannot record in a name is dropped: angle brackets and control
    /// characters, the part of the time below a second, and times before 1970, which count as 1970.
    pub fn new(name: &str, mail: &str, time: Timestamp) -> Self {
        let clean = |text: &str| {
            let usable = |c: &char| !matches!(c, '<' | '>') && !c.is_control();
            text.chars().filter(usable).collect::<String>().trim().to_owned()
        };
        let time = Timestamp::from_second(time.as_second().max(0)).unwrap_or(Timestamp::UNIX_EPOCH);
        Self { name: clean(name), mail: clean(mail), time }
    }

    /// A user of a host who acts at `time`.
    pub fn on_host(user: &str, host: &str, time: Timestamp) -> Self {
        Self::new(user, &format!("{user}@{host}"), time)
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The mail address.
    pub fn mail(&self) -> &str {
        &self.mail
    }

    /// When, to the second.
    pub fn time(&self) -> Timestamp {
        self.time
    }

    pub(super) fn encode(&self) -> String {
        format!("{} <{}> {} +0000", self.name, self.mail, self.time.as_second())
    }

    fn parse(line: &[u8]) -> Option<Self> {
        let line = String::from_utf8_lossy(line);
        // The last angle bracket ends the address; a time zone follows the seconds, which need none.
        let (who, when) = line.rsplit_once('>')?;
        let (name, mail) = who.split_once('<')?;
        let time = Timestamp::from_second(when.split_whitespace().next()?.parse().ok()?).ok()?;
        Some(Self { name: name.trim().to_owned(), mail: mail.to_owned(), time })
    }
}

impl Commit {
    /// The message of a commit that takes the place of `before` and its history, and begins with the line `title`.
    pub fn message_of_replacing(title: &str, before: &ObjectId) -> String {
        format!("{title}\n\n{REPLACES}{before}\n")
    }

    /// The commit that pruning replaced by this one, if it says so.
    pub fn replaced(&self) -> Option<ObjectId> {
        let text = std::str::from_utf8(&self.message).ok()?;
        text.lines().find_map(|line| line.strip_prefix(REPLACES)?.parse().ok())
    }

    /// The bytes of the commit object. A message is ended with a newline, as git does.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut text = format!("tree {}\n", self.tree);
        for parent in &self.parents {
            text += &format!("parent {parent}\n");
        }
        text += &format!("author {}\ncommitter {}\n\n", self.author.encode(), self.committer.encode());
        let mut bytes = text.into_bytes();
        bytes.extend(self.message.iter().filter(|&&byte| byte != 0));
        if !bytes.ends_with(b"\n") {
            bytes.push(b'\n');
        }
        bytes
    }

    /// Reads a commit object; headers that are not in [`Commit`] are skipped.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        let mut rest = bytes;
        let mut line = || -> Option<&[u8]> {
            let end = rest.iter().position(|&byte| byte == b'\n')?;
            let line = &rest[..end];
            rest = &rest[end + 1..];
            Some(line)
        };
        let id = |hex: &[u8]| std::str::from_utf8(hex).ok()?.parse().ok();
        let person = |line: Option<&[u8]>, key: &[u8]| Person::parse(line?.strip_prefix(key)?);

        let tree = line().and_then(|line| id(line.strip_prefix(b"tree ")?)).ok_or("it names no tree")?;
        let mut parents = Vec::new();
        let mut next = line();
        while let Some(parent) = next.and_then(|line| line.strip_prefix(b"parent ")) {
            parents.push(id(parent).ok_or("it names a parent that is no commit")?);
            next = line();
        }
        let author = person(next, b"author ").ok_or("it names no author")?;
        let committer = person(line(), b"committer ").ok_or("it names no committer")?;
        while !line().ok_or("it has no message")?.is_empty() {}
        Ok(Self { tree, parents, author, committer, message: rest.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn commit(message: &str) -> Commit {
        let who = |name| Person::new(name, "a@example.org", "2026-11-20T19:55:12.5Z".parse().unwrap());
        Commit {
            tree: ObjectId::from_bytes([1; 20]),
            parents: vec![ObjectId::from_bytes([2; 20]), ObjectId::from_bytes([3; 20])],
            author: who("Ann"),
            committer: who("Carl"),
            message: message.as_bytes().to_owned(),
        }
    }

    #[test]
    fn a_commit_says_what_it_replaces() {
        let id = ObjectId::from_bytes([7; 20]);
        assert_eq!(commit(&Commit::message_of_replacing("Prune", &id)).replaced(), Some(id));
        assert_eq!(commit("Prune\n\nreplaces x\n").replaced(), None);
        assert_eq!(Commit { message: b"\xff".to_vec(), ..commit("") }.replaced(), None);
    }

    #[test]
    fn reads_back_what_it_writes() {
        let commit = commit("Say it\n\nAnd why\n");
        assert_eq!(Commit::parse(&commit.encode()), Ok(commit));
    }

    #[test]
    fn a_person_cannot_forge_a_line() {
        let forged = Person::new("A\nparent x", "<b>", Timestamp::from_second(-5).unwrap());
        assert_eq!(forged.encode(), "Aparent x <b> 0 +0000");
    }

    #[test]
    fn skips_headers_that_it_does_not_know() {
        let text = "tree 0101010101010101010101010101010101010101\nauthor A <a> 5 +0200\ncommitter <> 6 -0000\n\
            gpgsig -----BEGIN\n \n -----END\nencoding latin1\n\nm\n\nn";
        let commit = Commit::parse(text.as_bytes()).unwrap();
        assert_eq!(commit.message, b"m\n\nn");
        assert_eq!(commit.author.time().as_second(), 5);
        assert_eq!(commit.committer.name(), "");
    }

    #[test]
    fn refuses_what_is_cut_short() {
        let bytes = commit("m").encode();
        let header = bytes.len() - b"m\n".len();
        for end in 0..header {
            assert!(Commit::parse(&bytes[..end]).is_err(), "{end}");
        }
    }

    proptest! {
        #[test]
        fn never_panics_on_damage(at: usize, with: u8) {
            let mut bytes = commit("m").encode();
            let at = at % bytes.len();
            bytes[at] = with;
            let _ = Commit::parse(&bytes);
        }
    }
}
