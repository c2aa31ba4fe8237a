//! Servers of git that do what no server should, and what a remote may not take of whoever asks them.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use sha1::{Digest, Sha1};

use crate::layers::ObjectId;
use crate::progress::Progress;
use crate::watch::{Bounds, Exceeded};

use super::testing::{Fixture, who};
use super::{Git, GitError};

const SHORT: Bounds =
    Bounds { idle: Duration::from_secs(1), cpu: Some(Duration::from_secs(1)), memory: None };

/// Where a server says that a branch is before it is asked for anything.
const TIP: &str = "1111111111111111111111111111111111111111";

type Talk = fn(&mut TcpStream) -> std::io::Result<()>;

/// A repository whose remote `far` talks like that over `git://`, and how often it was called.
fn asking(talk: Talk, bounds: Bounds) -> (Fixture, Git, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("git://{}/x", listener.local_addr().unwrap());
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    thread::spawn(move || {
        for socket in listener.incoming() {
            counted.fetch_add(1, SeqCst);
            thread::spawn(move || {
                let mut socket = socket.unwrap();
                // Whoever asks hangs up when he is ended.
                let _ = packet(&mut socket).and_then(|_| talk(&mut socket));
                let _ = std::io::copy(&mut socket, &mut std::io::sink());
            });
        }
    });
    let fixture = Fixture::new();
    let mut git = fixture.open();
    git.bounds = bounds;
    git.add_remote("far", url).unwrap();
    (fixture, git, calls)
}

/// Reads a packet of git's protocol; an empty one where there is only a mark.
fn packet(socket: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 4];
    socket.read_exact(&mut length)?;
    let length = std::str::from_utf8(&length).ok().and_then(|text| usize::from_str_radix(text, 16).ok());
    let mut bytes = vec![0; length.unwrap_or(0).saturating_sub(4)];
    socket.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn say(socket: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    socket.write_all(&[format!("{:04x}", bytes.len() + 4).as_bytes(), bytes].concat())
}

fn nothing(_: &mut TcpStream) -> std::io::Result<()> {
    Ok(())
}

fn advertise(socket: &mut TcpStream) -> std::io::Result<()> {
    say(socket, format!("{TIP} refs/heads/other\0report-status side-band-64k\n").as_bytes())?;
    socket.write_all(b"0000")
}

/// Advertises, and reads what is wanted.
fn expect_wants(socket: &mut TcpStream) -> std::io::Result<()> {
    advertise(socket)?;
    while !packet(socket)?.starts_with(b"done") {}
    say(socket, b"NAK\n")
}

/// Advertises references without end.
fn advertise_on(socket: &mut TcpStream) -> std::io::Result<()> {
    say(socket, format!("{TIP} refs/heads/other\0report-status side-band-64k\n").as_bytes())?;
    for number in 0u64.. {
        let line = format!("{number:040x} refs/heads/{number:0200}\n");
        say(socket, line.as_bytes())?;
    }
    Ok(())
}

fn dribble(socket: &mut TcpStream) -> std::io::Result<()> {
    socket.write_all(b"fff0")?;
    loop {
        socket.write_all(b"x")?;
        thread::sleep(Duration::from_millis(100));
    }
}

/// Packs for longer than anybody may be silent, tells of it, and fails.
fn pack_long(socket: &mut TcpStream) -> std::io::Result<()> {
    expect_wants(socket)?;
    for number in 0..100 {
        let line = format!("\x02Compressing objects: {number:400}\r");
        say(socket, line.as_bytes())?;
        thread::sleep(Duration::from_millis(100));
    }
    say(socket, b"\x03that was all")
}

/// Sends some hundred deltas of a few bytes, each of which makes 32 MiB.
fn bomb(socket: &mut TcpStream) -> std::io::Result<()> {
    const DELTAS: u16 = 400;
    let base = vec![0; 1 << 16];
    let name = Sha1::digest([format!("blob {}\0", base.len()).as_bytes(), &base].concat());
    let mut pack = [&b"PACK\0\0\0\x02"[..], &(u32::from(DELTAS) + 1).to_be_bytes()].concat();
    entry(&mut pack, 3, &[], &base)?;
    for number in 0..DELTAS {
        let mut delta = Vec::new();
        varint(&mut delta, base.len());
        varint(&mut delta, 512 * base.len() + 2);
        delta.extend([0x80; 512]);
        delta.push(2);
        delta.extend(number.to_be_bytes());
        entry(&mut pack, 7, &name, &delta)?;
    }
    let sum = Sha1::digest(&pack);
    pack.extend(sum);
    assert!(pack.len() < 64 << 10);
    expect_wants(socket)?;
    pack.chunks(60_000).try_for_each(|part| say(socket, &[&[1], part].concat()))?;
    socket.write_all(b"0000")
}

fn varint(out: &mut Vec<u8>, mut number: usize) {
    while number > 0x7f {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn entry(pack: &mut Vec<u8>, kind: u8, base: &[u8], data: &[u8]) -> std::io::Result<()> {
    let more = if data.len() > 0xf { 0x80 } else { 0 };
    pack.push(more | kind << 4 | data.len() as u8 & 0xf);
    if data.len() > 0xf {
        varint(pack, data.len() >> 4);
    }
    pack.extend(base);
    let mut deflate = ZlibEncoder::new(Vec::new(), Compression::best());
    deflate.write_all(data)?;
    pack.extend(deflate.finish()?);
    Ok(())
}

fn is_idle<T>(result: &Result<T, GitError>) -> bool {
    matches!(result, Err(GitError::Ended { source: Exceeded::Idle(_), .. }))
}

#[test]
fn a_server_that_answers_nothing_holds_nobody_up() {
    let (fixture, git, calls) = asking(nothing, SHORT);
    let commit = fixture.commit(&git, &[("key", "value")]);
    assert!(is_idle(&git.fetch("far")));
    assert!(is_idle(&git.fetch_objects("far", &[TIP.parse().unwrap()], &Progress::new())));
    assert!(is_idle(&git.remote_head("far", &Progress::new())));
    assert!(is_idle(&git.named_by_head("far")));
    assert!(is_idle(&git.push_commit("far", &commit)));
    assert!(is_idle(&git.replace_commit("far", &commit, &commit, &Progress::new())));
    let before = calls.load(SeqCst);
    assert!(is_idle(&git.push("far", &who())));
    assert_eq!(calls.load(SeqCst), before + 1, "it is not asked once more");
}

#[test]
fn a_server_that_goes_silent_on_the_way_holds_nobody_up() {
    let (fixture, git, _) = asking(advertise, SHORT);
    let commit = fixture.commit(&git, &[("key", "value")]);
    assert!(is_idle(&git.fetch("far")));
    assert!(is_idle(&git.push_commit("far", &commit)));
}

#[test]
fn a_server_that_dribbles_holds_nobody_up() {
    let (_fixture, git, _) = asking(dribble, SHORT);
    assert!(is_idle(&git.fetch("far")));
}

#[test]
fn a_server_that_has_references_without_end_takes_no_memory_without_end() {
    let little =
        Bounds { idle: Duration::from_secs(4), cpu: Some(Duration::from_secs(600)), memory: Some(32 << 20) };
    let (fixture, git, _) = asking(advertise_on, little);
    let commit = fixture.commit(&git, &[("key", "value")]);
    let is_ended = |result: Result<(), GitError>| {
        matches!(result, Err(GitError::Ended { source: Exceeded::Memory(_), .. }))
    };
    assert!(is_ended(git.fetch("far")));
    assert!(is_ended(git.remote_head("far", &Progress::new()).map(drop)));
    assert!(is_ended(git.push_commit("far", &commit).map(drop)));
    assert!(Bounds::default().memory.is_some());
}

#[test]
fn a_server_that_tells_of_its_work_is_waited_for() {
    let patient = Bounds { idle: Duration::from_secs(4), ..Bounds::default() };
    let (_fixture, git, _) = asking(pack_long, patient);
    let said = git.fetch("far").unwrap_err();
    assert!(matches!(&said, GitError::Remote { said, .. } if said.contains("that was all")), "{said:?}");
}

#[test]
fn small_deltas_that_make_large_objects_end_and_leave_nothing() {
    let patient = Bounds { idle: Duration::from_secs(4), ..SHORT };
    let (fixture, git, _) = asking(bomb, patient);
    let result = git.fetch("far");
    assert!(matches!(result, Err(GitError::Ended { source: Exceeded::Cpu(_), .. })), "{result:?}");
    assert_eq!(fixture.files("objects/pack"), 0);
    let tip: ObjectId = TIP.parse().unwrap();
    assert!(matches!(git.read_commit(&tip), Err(GitError::Missing(_))));
}
