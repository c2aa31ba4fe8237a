//! Asking a `git:` server which branch `HEAD` of an empty repository names. libgit2 speaks an older protocol, in which
//! nobody can say that.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use percent_encoding::percent_decode_str;

use crate::url::Url;

use super::paths::HEADS;

const PORT: u16 = 9418;
/// How long a server may take for each step.
const PATIENCE: Duration = Duration::from_secs(30);
/// Lines of an answer that are read.
const MOST_LINES: usize = 64;

/// What ends a message.
const FLUSH: &[u8] = b"0000";
/// What comes between a command and its arguments.
const DELIMITER: &[u8] = b"0001";

/// The full name of the branch that `HEAD` of an empty repository at `url` names; `None` where that is no `git:` URL, or
/// the server does not say.
pub(super) fn head(url: &Url) -> Option<String> {
    let (place, path) = place(url.reveal())?;
    ask(&place, &path).unwrap_or_else(|error| {
        tracing::debug!(%error, %url, "nobody says what HEAD names");
        None
    })
}

/// The host, with its port where one is given, and the path there.
fn place(url: &str) -> Option<(String, Vec<u8>)> {
    let (host, path) = url.strip_prefix("git://")?.split_once('/')?;
    // `/~name` is in the home directory of somebody.
    let path = if path.starts_with('~') { path.to_owned() } else { format!("/{path}") };
    let is_plain = |part: &[u8]| !part.contains(&0) && !part.contains(&b'\n');
    let path: Vec<u8> = percent_decode_str(&path).collect();
    (is_plain(host.as_bytes()) && is_plain(&path)).then(|| (host.to_owned(), path))
}

fn ask(place: &str, path: &[u8]) -> io::Result<Option<String>> {
    let (host, port) = match place.rsplit_once(':') {
        // Colons in brackets are of an address.
        Some((host, port)) if !port.contains(']') => (host, port.parse().map_err(io::Error::other)?),
        _ => (place, PORT),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let address = (host, port).to_socket_addrs()?.next().ok_or(io::ErrorKind::NotFound)?;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = [b"git-upload-pack ", path, b"\0host=", place.as_bytes(), b"\0\0version=2\0"].concat();
    talk(&mut stream, &request)
}

/// Protocol 2: the server says what it can do, and is asked where that is enough.
fn talk(stream: &mut (impl Read + Write), request: &[u8]) -> io::Result<Option<String>> {
    stream.write_all(&packet(request))?;
    // An older server begins with something else.
    if line(stream)?.is_none_or(|line| line != "version 2") {
        return Ok(None);
    }
    let says_unborn = |line: &String| {
        line.strip_prefix("ls-refs=").is_some_and(|can| can.split(' ').any(|word| word == "unborn"))
    };
    if !lines(stream)?.iter().any(says_unborn) {
        return Ok(None);
    }
    let arguments = ["symrefs\n", "unborn\n", "ref-prefix HEAD\n"].map(|line| packet(line.as_bytes()));
    let question = [&packet(b"command=ls-refs\n"), DELIMITER, &arguments.concat(), FLUSH].concat();
    stream.write_all(&question)?;
    let told = lines(stream)?;
    let words = told.iter().find_map(|line| line.strip_prefix("unborn HEAD ")).unwrap_or_default();
    let branch = words.split(' ').find_map(|word| word.strip_prefix("symref-target:"));
    let is_branch = |name: &&str| name.starts_with(HEADS) && git2::Reference::is_valid_name(name);
    Ok(branch.filter(is_branch).map(str::to_owned))
}

/// A packet, which begins with its length.
fn packet(bytes: &[u8]) -> Vec<u8> {
    [format!("{:04x}", bytes.len() + 4).as_bytes(), bytes].concat()
}

/// The lines that are left of a message.
fn lines(stream: &mut impl Read) -> io::Result<Vec<String>> {
    let mut lines = Vec::new();
    while let Some(line) = line(stream)? {
        if lines.len() == MOST_LINES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        lines.push(line);
    }
    Ok(lines)
}

/// The next line of a message; `None` at its end.
fn line(stream: &mut impl Read) -> io::Result<Option<String>> {
    let mut head = [0; 4];
    stream.read_exact(&mut head)?;
    let length = str::from_utf8(&head).ok().and_then(|digits| usize::from_str_radix(digits, 16).ok());
    match length {
        Some(0) => Ok(None),
        Some(length @ 4..) => {
            let mut line = vec![0; length - 4];
            stream.read_exact(&mut line)?;
            Ok(Some(String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned()))
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server with that answer, and what it was told.
    struct Server(io::Cursor<Vec<u8>>, Vec<u8>);

    impl Read for Server {
        fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
            self.0.read(bytes)
        }
    }

    impl Write for Server {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn told(messages: &[&[&str]]) -> io::Result<Option<String>> {
        let message = |lines: &&[&str]| {
            let lines: Vec<_> = lines.iter().map(|line| packet(line.as_bytes())).collect();
            [&lines.concat(), FLUSH].concat()
        };
        let answer: Vec<_> = messages.iter().map(message).collect();
        talk(&mut Server(io::Cursor::new(answer.concat()), Vec::new()), b"request")
    }

    #[test]
    fn only_a_server_that_says_so_is_believed() {
        let offered = &["version 2\n", "agent=git/2\n", "ls-refs=unborn\n"][..];
        let says = |line: &str| told(&[offered, &[line]]);
        assert_eq!(
            says("unborn HEAD symref-target:refs/heads/trunk\n").unwrap().unwrap(),
            "refs/heads/trunk"
        );
        for line in [
            "unborn HEAD symref-target:refs/tags/x\n",
            "unborn HEAD symref-target:refs/heads/a..b\n",
            "unborn HEAD\n",
            "HEAD\n",
        ] {
            assert_eq!(says(line).unwrap(), None, "{line}");
        }
        // Older servers, and what is no answer.
        assert_eq!(told(&[&["version 2\n", "ls-refs\n"]]).unwrap(), None);
        assert_eq!(told(&[&["0123 HEAD\0symref\n"]]).unwrap(), None);
        assert_eq!(told(&[&[]]).unwrap(), None);
        assert!(told(&[offered]).is_err());
        assert!(told(&[&["version 2\n"], &["x"; 2 * MOST_LINES]]).is_ok());
        assert!(told(&[&[&["version 2\n"][..], &["x"; 2 * MOST_LINES]].concat()]).is_err());
        for answer in ["", "000", "0003", "zzzz", "fffftoo short"] {
            assert!(talk(&mut Server(io::Cursor::new(answer.into()), Vec::new()), b"").is_err(), "{answer}");
        }
    }

    #[test]
    fn a_url_says_where_to_ask() {
        let of = |url: &str| place(url).map(|(host, path)| (host, String::from_utf8(path).unwrap()));
        assert_eq!(of("git://host/a%20b.git"), Some(("host".into(), "/a b.git".into())));
        assert_eq!(of("git://[::1]:5/~me/x"), Some(("[::1]:5".into(), "~me/x".into())));
        for url in ["git://host", "ssh://host/x", "git://host/a%00b", "/git://host/x"] {
            assert_eq!(of(url), None, "{url}");
        }
    }
}
