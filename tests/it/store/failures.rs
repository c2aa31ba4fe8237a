//! Servers that misbehave, and stores that are configured but broken: a clear error that names the
//! backend and the object, after as many attempts as can help.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use treering::store::{Error, NamespaceOptions, Operation, Options, Reason, Store, StoreUrl};

use super::contract::{name, namespace};
use super::options;
use super::s3_server::S3Server;
use super::servers::{RcloneRemote, SshServer, WebDavServer};

/// An answer to one request; the connection is closed behind it.
#[derive(Clone)]
enum Answer {
    /// A status and a body.
    Is(u16, &'static str),
    /// A body that ends after half of the length that the header gave.
    Half(&'static str),
    /// No answer.
    Hangs,
    /// The connection is closed without an answer.
    Drops,
    /// A status, and a body that begins so and goes on with this, again and again, for [`ENDLESS`] bytes.
    Endless(u16, &'static str, &'static str),
    /// A status, and the body that comes of the request.
    Made(u16, fn(&str) -> String),
    /// A redirect to there.
    Sends(u16, &'static str),
}

/// Where a body without end ends after all, so that a test does.
const ENDLESS: usize = 256 << 20;

/// A server of a few lines: for each method a list of answers, of which the last is repeated. Anything
/// else is 404.
struct Script {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    /// Bytes of bodies without end.
    sent: Arc<AtomicUsize>,
}

impl Script {
    fn start(answers: &[(&str, &[Answer])]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let answers: HashMap<String, Vec<Answer>> =
            answers.iter().map(|(method, answers)| (method.to_string(), answers.to_vec())).collect();
        let (requests, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let sent = Arc::new(AtomicUsize::new(0));
        let (seen, stopped, counted) = (requests.clone(), stop.clone(), sent.clone());
        let left = Arc::new(Mutex::new(answers));
        thread::spawn(move || {
            for socket in listener.incoming() {
                if stopped.load(SeqCst) {
                    break;
                }
                let (seen, left) = (seen.clone(), left.clone());
                let (stopped, counted) = (stopped.clone(), counted.clone());
                thread::spawn(move || serve(&socket.unwrap(), &seen, &left, &stopped, &counted));
            }
        });
        Self { address, requests, stop, sent }
    }

    fn s3(&self) -> StoreUrl {
        format!("s3:key:hush@http://{}/bucket/path", self.address).parse().unwrap()
    }

    fn webdav(&self) -> StoreUrl {
        format!("webdav://me:hush@{}/path", self.address).parse().unwrap()
    }

    fn count(&self, method: &str) -> usize {
        self.requests.lock().unwrap().iter().filter(|request| request.starts_with(method)).count()
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        // Wakes the listener.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(
    socket: &TcpStream,
    seen: &Mutex<Vec<String>>,
    left: &Mutex<HashMap<String, Vec<Answer>>>,
    stopped: &AtomicBool,
    sent: &AtomicUsize,
) {
    let mut reader = BufReader::new(socket);
    let mut request = String::new();
    if reader.read_line(&mut request).unwrap_or(0) == 0 {
        return;
    }
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap();
        }
    }
    let _ = reader.take(length).read_to_end(&mut Vec::new());
    let method = request.split(' ').next().unwrap().to_owned();
    seen.lock().unwrap().push(request.clone());
    let answer = {
        let mut left = left.lock().unwrap();
        match left.get_mut(&method) {
            None => Answer::Is(404, ""),
            Some(answers) if answers.len() > 1 => answers.remove(0),
            Some(answers) => answers[0].clone(),
        }
    };
    let mut socket = socket;
    let head = |status: u16, length: usize| {
        let date = "etag: \"x\"\r\nlast-modified: Fri, 20 Nov 2026 21:50:00 GMT";
        format!(
            "HTTP/1.1 {status} Scripted\r\ncontent-length: {length}\r\nconnection: close\r\n{date}\r\n\r\n"
        )
    };
    let _ = match answer {
        Answer::Is(status, body) => write!(socket, "{}{body}", head(status, body.len())),
        Answer::Half(body) => write!(socket, "{}{}", head(206, body.len()), &body[..body.len() / 2]),
        Answer::Drops => Ok(()),
        Answer::Made(status, body) => {
            let body = body(&request);
            write!(socket, "{}{body}", head(status, body.len()))
        }
        Answer::Sends(status, to) => {
            write!(socket, "HTTP/1.1 {status} Scripted\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n")
        }
        Answer::Endless(status, beginning, piece) => {
            let piece = piece.repeat((256 << 10) / piece.len());
            let mut write = || {
                write!(socket, "HTTP/1.1 {status} Scripted\r\nconnection: close\r\n\r\n{beginning}")?;
                while sent.load(SeqCst) < ENDLESS {
                    socket.write_all(piece.as_bytes())?;
                    sent.fetch_add(piece.len(), SeqCst);
                }
                Ok(())
            };
            write()
        }
        Answer::Hangs => {
            while !stopped.load(SeqCst) {
                thread::sleep(Duration::from_millis(10));
            }
            Ok(())
        }
    };
    let _ = socket.shutdown(Shutdown::Both);
}

const EMPTY_BUCKET: &str = "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>";
const A_DIRECTORY: &str = "<D:multistatus xmlns:D=\"DAV:\"><D:response><D:href>/path/</D:href><D:propstat>\
    <D:status>HTTP/1.1 200 OK</D:status><D:prop><D:resourcetype><D:collection/></D:resourcetype>\
    <D:getlastmodified>Fri, 20 Nov 2026 21:50:00 GMT</D:getlastmodified></D:prop></D:propstat></D:response></D:multistatus>";

/// What a load of the bytes 2 to 6 of an object of ten comes to when the server answers it so; and how
/// many requests that took.
fn load_s3(answers: &[Answer], options: Options) -> (Result<Vec<u8>, Error>, usize) {
    load_s3_of("ten bytes.", answers, options)
}

fn load_s3_of(object: &'static str, answers: &[Answer], options: Options) -> (Result<Vec<u8>, Error>, usize) {
    // Opening lists, loading gets.
    let mut script = vec![Answer::Is(200, EMPTY_BUCKET)];
    script.extend_from_slice(answers);
    let server = Script::start(&[("GET", &script), ("HEAD", &[Answer::Is(200, object)])]);
    let store = Store::open(&server.s3(), options).unwrap();
    let loaded = store.load_range(&name("data/0123"), 2, 4);
    (loaded, server.count("GET") - 1)
}

fn expect_clear(error: &Error, words: &[&str]) {
    let text = treering::causes::chain(error);
    for word in ["data/0123", "127.0.0.1"].iter().chain(words) {
        assert!(text.contains(word), "{word:?} is not in {text:?}");
    }
    assert!(!text.contains("hush"), "{text}");
    // A library says it all again.
    assert!(!text.contains("context: {"), "{text}");
}

#[test]
fn what_may_pass_is_tried_again() {
    for trouble in
        [Answer::Is(429, "slow down"), Answer::Is(500, ""), Answer::Is(503, "busy"), Answer::Half("half")]
    {
        let (loaded, requests) = load_s3(&[trouble, Answer::Is(206, "good")], options());
        assert_eq!((loaded.unwrap().as_slice(), requests), (&b"good"[..], 2));
    }
}

#[test]
fn what_does_not_pass_is_a_clear_error_in_the_end() {
    let three = "after 3 attempts";
    let (loaded, requests) = load_s3(&[Answer::Is(429, "slow down")], options());
    expect_clear(&loaded.unwrap_err(), &["429", "slow down", three]);
    assert_eq!(requests, 3);
    let (loaded, _) = load_s3(&[Answer::Is(500, "")], options());
    expect_clear(&loaded.unwrap_err(), &["500", three]);
    let (loaded, requests) = load_s3(&[Answer::Half("half")], options());
    expect_clear(&loaded.unwrap_err(), &[three]);
    assert_eq!(requests, 3);
}

#[test]
fn a_server_that_hangs_is_left_after_the_timeout() {
    let options = Options { timeout: Duration::from_millis(100), ..options() };
    let (loaded, requests) = load_s3(&[Answer::Hangs], options);
    let error = loaded.unwrap_err();
    assert!(matches!(error.reason(), Reason::TimedOut(_)));
    expect_clear(&error, &["no answer", "after 3 attempts"]);
    assert_eq!(requests, 3);
}

#[test]
fn what_cannot_pass_is_not_tried_again() {
    let (loaded, requests) =
        load_s3(&[Answer::Is(403, "<Error><Code>AccessDenied</Code></Error>")], options());
    let error = loaded.unwrap_err();
    assert!(matches!(error.reason(), Reason::Denied(_)));
    expect_clear(&error, &["AccessDenied", "credentials"]);
    assert_eq!(requests, 1);
    let (loaded, requests) = load_s3(&[Answer::Is(404, "<Error><Code>NoSuchKey</Code></Error>")], options());
    let error = loaded.unwrap_err();
    assert!(error.is_not_found());
    expect_clear(&error, &["no such object"]);
    assert_eq!(requests, 1);
}

#[test]
fn a_range_that_is_not_what_was_asked_for_is_refused() {
    let (loaded, requests) = load_s3(&[Answer::Is(206, "too much")], options());
    assert!(matches!(loaded.unwrap_err().reason(), Reason::TooLarge { limit: 4 }));
    assert_eq!(requests, 1);
    let (loaded, _) = load_s3_of("5 byt", &[Answer::Is(206, "few")], options());
    let error = loaded.unwrap_err();
    assert!(matches!(error.reason(), Reason::OutOfRange { offset: 2, size: 4 }), "{error}");
    let (loaded, requests) = load_s3(&[Answer::Is(200, "same")], options());
    expect_clear(&loaded.unwrap_err(), &["the whole object"]);
    assert_eq!(requests, 1);
}

#[test]
fn an_object_that_is_too_large_is_refused_on_the_way() {
    let server =
        Script::start(&[("GET", &[Answer::Is(200, EMPTY_BUCKET), Answer::Is(200, "much too much")])]);
    let store = Store::open(&server.s3(), Options { max_object: 5, ..options() }).unwrap();
    assert!(matches!(store.load(&name("data/0123")).unwrap_err().reason(), Reason::TooLarge { limit: 5 }));
}

#[test]
fn a_lost_answer_to_a_new_object_is_found_out() {
    let lost = [Answer::Is(500, ""), Answer::Is(412, "<Error><Code>PreconditionFailed</Code></Error>")];
    for (held, ours) in [("mine", true), ("else", false), ("longer", false)] {
        let server = Script::start(&[
            ("GET", &[Answer::Is(200, EMPTY_BUCKET), Answer::Is(200, held)]),
            ("PUT", &lost),
        ]);
        let store = Store::open(&server.s3(), options()).unwrap();
        let stored = store.store_new(&name("data/0123"), b"mine");
        match ours {
            true => stored.unwrap(),
            false => assert!(stored.unwrap_err().is_exists(), "{held}"),
        }
        assert_eq!(store.figures(Operation::Store).retries, 1);
    }
}

#[test]
fn a_server_that_ignores_the_condition_is_not_taken_for_exclusive() {
    let server = Script::start(&[
        ("GET", &[Answer::Is(200, EMPTY_BUCKET)]),
        ("PUT", &[Answer::Is(200, "")]),
        ("HEAD", &[Answer::Is(200, "")]),
        ("DELETE", &[Answer::Is(204, "")]),
    ]);
    let store = Store::open(&server.s3(), options()).unwrap();
    assert!(!store.is_exclusive(&namespace("locks")).unwrap());
    assert_eq!((server.count("PUT"), server.count("DELETE")), (2, 1));
}

/// How a move of `data/0123` to `data/4567` goes, and how many objects were deleted, where the server answers
/// to the questions for names and to deletions so.
fn move_s3(questions: &[Answer], deletions: &[Answer]) -> (Result<(), Error>, usize) {
    let copied = Answer::Is(200, "<CopyObjectResult><ETag>\"x\"</ETag></CopyObjectResult>");
    let server = Script::start(&[
        ("GET", &[Answer::Is(200, EMPTY_BUCKET)]),
        ("HEAD", questions),
        ("PUT", &[copied]),
        ("DELETE", deletions),
    ]);
    let store = Store::open(&server.s3(), options()).unwrap();
    (store.rename(&name("data/0123"), &name("data/4567")), server.count("DELETE"))
}

#[test]
fn a_dropped_connection_is_never_taken_for_a_name_that_is_free() {
    let (there, free) = (Answer::Is(200, "body"), Answer::Is(404, ""));
    // Whether the new name is free, the object, what the copy replaces, the object for the copy, the copy; and
    // in the second attempt the object.
    let asked = [&free, &there, &free, &there, &there, &free].map(Answer::clone);
    let then = |more: &[Answer]| [&asked[..], more].concat();
    let lost = [Answer::Drops, Answer::Is(204, "")];
    let (moved, deletions) = move_s3(&then(&[Answer::Drops, free.clone(), there]), &lost);
    moved.unwrap();
    assert_eq!(deletions, 1);
    let (moved, _) = move_s3(&then(&[Answer::Drops]), &lost);
    let error = moved.unwrap_err();
    assert!(!error.is_not_found() && error.reason().is_temporary(), "{error}");

    let there = Answer::Is(207, A_DIRECTORY);
    for trouble in [Answer::Drops, Answer::Is(503, "busy")] {
        let server = Script::start(&[
            // The root; whether the name is free, twice; before the move the file and its directory; after it
            // both names.
            ("PROPFIND", &[there.clone(), trouble, free.clone(), there.clone(), there.clone(), free.clone()]),
            ("PUT", &[Answer::Is(201, "")]),
            ("MKCOL", &[Answer::Is(201, "")]),
            ("MOVE", &[Answer::Is(201, "")]),
        ]);
        let store = Store::open(&server.webdav(), options()).unwrap();
        let error = store.store_new(&name("data/0123"), b"content").unwrap_err();
        // It went on to the move, which this server only pretends.
        assert_eq!(store.figures(Operation::Store).retries, 1);
        expect_clear(&error, &["acknowledged a move"]);
        assert_eq!(server.count("MOVE"), 1);
    }
}

#[test]
fn what_a_server_pretends_costs_no_original() {
    let (there, free) = (Answer::Is(200, "body"), Answer::Is(404, ""));
    let gone = [Answer::Is(204, "")];
    // Nothing was copied; something of another length lies there; what lay there before still does.
    for copy in [[free.clone(), free.clone()], [free.clone(), Answer::Is(200, "longer body")]] {
        let [before, after] = copy;
        let asked = [free.clone(), there.clone(), before, there.clone(), after];
        let (moved, deletions) = move_s3(&asked, &gone);
        assert!(moved.unwrap_err().to_string().contains("acknowledged a copy"));
        assert_eq!(deletions, 0);
    }

    // An object at an older level stays when the newer one was not really stored.
    let server = Script::start(&[
        ("GET", &[Answer::Is(200, EMPTY_BUCKET)]),
        ("HEAD", &[there, free]),
        ("PUT", &[Answer::Is(200, "")]),
        ("DELETE", &gone),
    ]);
    let levels = NamespaceOptions { level: 1, older_levels: vec![0], ..NamespaceOptions::default() };
    let namespaces = [(namespace("data"), levels)].into();
    let store = Store::open(&server.s3(), Options { namespaces, ..options() }).unwrap();
    let error = store.store(&name("data/0123"), b"content").unwrap_err();
    expect_clear(&error, &["acknowledged a store"]);
    assert_eq!((server.count("PUT"), server.count("DELETE")), (1, 0));
}

#[test]
fn a_store_that_hangs_is_not_destroyed_for_ever() {
    let listed = "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>path/data/0123</Key><Size>3</Size>\
         <LastModified>2026-11-20T21:50:00Z</LastModified></Contents></ListBucketResult>";
    let brief = Options { timeout: Duration::from_millis(100), ..options() };
    let (empty, full) = (Answer::Is(200, EMPTY_BUCKET), Answer::Is(200, listed));
    let marked = Answer::Is(200, "");
    for answers in [
        [
            ("HEAD", &[marked.clone()][..]),
            ("GET", &[empty.clone(), Answer::Hangs]),
            ("DELETE", &[Answer::Hangs]),
        ],
        [("HEAD", &[Answer::Hangs]), ("GET", &[Answer::Is(200, EMPTY_BUCKET)]), ("DELETE", &[Answer::Hangs])],
        [("HEAD", &[marked]), ("GET", &[empty, full]), ("DELETE", &[Answer::Hangs])],
    ] {
        let server = Script::start(&answers);
        let error = Store::open(&server.s3(), brief.clone()).unwrap().destroy(None).unwrap_err();
        assert!(matches!(error.reason(), Reason::TimedOut(_)), "{error}");
    }
}

#[test]
fn a_listing_that_breaks_off_is_an_error_or_goes_on() {
    let page = |key: &str, more: bool| {
        let text = format!(
            "<ListBucketResult><IsTruncated>{more}</IsTruncated><NextContinuationToken>t</NextContinuationToken>\
             <Contents><Key>path/data/{key}</Key><Size>3</Size><LastModified>2026-11-20T21:50:00Z</LastModified></Contents>\
             </ListBucketResult>"
        );
        Answer::Is(200, text.leak())
    };
    let list = |answers: &[Answer]| {
        let mut script = vec![Answer::Is(200, EMPTY_BUCKET)];
        script.extend_from_slice(answers);
        let server = Script::start(&[("GET", &script)]);
        let store = Store::open(&server.s3(), options()).unwrap();
        let items: Vec<_> =
            store.list(&namespace("data")).map(|item| item.map(|item| item.name.to_string())).collect();
        let last = server.requests.lock().unwrap().last().unwrap().clone();
        (items, last)
    };

    let (items, last) = list(&[page("aa", true), Answer::Is(503, ""), page("bb", false)]);
    let items: Vec<_> = items.into_iter().map(Result::unwrap).collect();
    assert_eq!(items, ["data/aa", "data/bb"]);
    assert!(last.contains("start-after=path/data/aa"), "{last}");

    for trouble in
        [Answer::Is(500, ""), Answer::Is(403, ""), Answer::Half(EMPTY_BUCKET), Answer::Is(200, "<odd")]
    {
        let (items, _) = list(&[page("aa", true), trouble]);
        assert_eq!(items[0].as_ref().unwrap(), "data/aa");
        assert!(items.len() == 2 && items[1].is_err(), "{items:?}");
        let text = items[1].as_ref().unwrap_err().to_string();
        assert!(text.contains("cannot list data") && text.contains("127.0.0.1"), "{text}");
    }
}

#[test]
fn a_listing_of_what_lies_elsewhere_is_an_error() {
    let elsewhere = "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>a</Key><Size>3</Size>\
         <LastModified>2026-11-20T21:50:00Z</LastModified></Contents></ListBucketResult>";
    let server = Script::start(&[("GET", &[Answer::Is(200, EMPTY_BUCKET), Answer::Is(200, elsewhere)])]);
    let store = Store::open(&server.s3(), options()).unwrap();
    let items: Vec<_> = store.list(&namespace("data")).collect();
    assert!(items.len() == 1 && items[0].is_err(), "{items:?}");
}

/// An object in a listing of S3.
const CONTENTS: &str = "<Contents><Key>path/data/aa</Key><Size>3</Size><LastModified>2026-11-20T21:50:00Z</LastModified></Contents>";

#[test]
fn a_body_without_end_is_not_collected() {
    // What a connection holds on its way counts too.
    const FEW: usize = 64 << 20;
    const PAGE: &str = "<ListBucketResult><IsTruncated>false</IsTruncated>";
    for body in [
        Answer::Endless(500, "", "a"),
        Answer::Endless(403, "", "a"),
        Answer::Endless(404, "", "a"),
        Answer::Endless(200, "", "a"),
        Answer::Endless(200, PAGE, CONTENTS),
    ] {
        let server = Script::start(&[("GET", std::slice::from_ref(&body))]);
        let error = Store::open(&server.s3(), options()).unwrap_err();
        assert!(error.to_string().contains("127.0.0.1"), "{error}");
        assert!(server.sent.load(SeqCst) < FEW, "{error}");

        let body = match body {
            Answer::Endless(200, "", piece) => Answer::Endless(207, "", piece),
            Answer::Endless(200, _, piece) => Answer::Endless(207, "<D:multistatus xmlns:D=\"DAV:\">", piece),
            body => body,
        };
        let server = Script::start(&[("PROPFIND", &[body])]);
        let error = Store::open(&server.webdav(), options()).unwrap_err();
        assert!(error.to_string().contains("127.0.0.1"), "{error}");
        assert!(server.sent.load(SeqCst) < FEW, "{error}");
    }
    let endless = Answer::Endless(200, "", "a");
    let server = Script::start(&[("GET", &[Answer::Is(200, EMPTY_BUCKET), endless])]);
    let store = Store::open(&server.s3(), options()).unwrap();
    let error = store.load_within(&name("data/0123"), 1 << 20).unwrap_err();
    assert!(server.sent.load(SeqCst) < FEW, "{error}");
}

/// A page of S3 with the next token and `contents`; after 5,000 of them it is the last one, so that a test ends.
fn page_after(request: &str, contents: &str) -> String {
    let token = request.split(['?', '&', ' ']).find_map(|part| part.strip_prefix("continuation-token="));
    let next = token.map_or(0, |token| token.parse::<u32>().unwrap()) + 1;
    let more = next < 5000;
    format!(
        "<ListBucketResult><IsTruncated>{more}</IsTruncated>\
         <NextContinuationToken>{next}</NextContinuationToken>{contents}</ListBucketResult>"
    )
}

#[test]
fn pages_that_bring_nothing_new_are_an_error() {
    let empty = Answer::Made(200, |request| page_after(request, ""));
    let server = Script::start(&[("GET", std::slice::from_ref(&empty))]);
    let error = Store::open(&server.s3(), options()).unwrap_err();
    assert!(error.to_string().contains("page after page"), "{error}");
    assert!(server.count("GET") < 2000);

    let circle = Answer::Made(200, |_| {
        format!(
            "<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>same</NextContinuationToken>\
             {CONTENTS}</ListBucketResult>"
        )
    });
    for (pages, requests) in [(empty, 2000), (circle, 5)] {
        let server = Script::start(&[("GET", &[Answer::Is(200, EMPTY_BUCKET), pages])]);
        let store = Store::open(&server.s3(), options()).unwrap();
        let error = store.list(&namespace("data")).take(10_000).find_map(Result::err);
        let error = error.expect("a listing without end");
        assert!(error.to_string().contains("page after page"), "{error}");
        assert!(server.count("GET") < requests, "{error}");
    }
    // Some pages without an object are well.
    let few = Answer::Made(200, |request| match request.contains("continuation-token=100") {
        true => format!("<ListBucketResult><IsTruncated>false</IsTruncated>{CONTENTS}</ListBucketResult>"),
        false => page_after(request, ""),
    });
    let server = Script::start(&[("GET", &[Answer::Is(200, EMPTY_BUCKET), few])]);
    let store = Store::open(&server.s3(), options()).unwrap();
    assert_eq!(super::contract::listed(&store, "data"), ["data/aa"]);
}

#[test]
fn more_objects_than_there_can_be_are_an_error() {
    let pages = Answer::Made(200, |request| page_after(request, CONTENTS));
    let server = Script::start(&[("GET", &[Answer::Is(200, EMPTY_BUCKET), pages])]);
    let store = Store::open(&server.s3(), options()).unwrap();
    let error = store.list_within(&namespace("data"), 10, |_| true).unwrap_err();
    assert!(error.to_string().contains("more than 10 objects"), "{error}");
    assert!(server.count("GET") < 20);
}

fn collection(path: &str, name: &str) -> String {
    format!(
        "<D:response><D:href>{path}{name}</D:href><D:propstat><D:status>HTTP/1.1 200 OK</D:status><D:prop>\
         <D:resourcetype><D:collection/></D:resourcetype>\
         <D:getlastmodified>Fri, 20 Nov 2026 21:50:00 GMT</D:getlastmodified></D:prop></D:propstat></D:response>"
    )
}

#[test]
fn a_collection_that_contains_itself_has_an_end() {
    let deeper = Answer::Made(207, |request| {
        let path = request.split(' ').nth(1).unwrap();
        let below: String = ["", "data/", "a/", "b/"].iter().map(|name| collection(path, name)).collect();
        format!("<D:multistatus xmlns:D=\"DAV:\">{below}</D:multistatus>")
    });
    let server = Script::start(&[("PROPFIND", &[deeper])]);
    let store = Store::open(&server.webdav(), options()).unwrap();
    assert_eq!(super::contract::listed(&store, "data"), Vec::<String>::new());
    assert!(server.count("PROPFIND") < 10, "{}", server.count("PROPFIND"));
}

#[test]
fn a_directory_without_end_over_sftp_is_an_error() {
    let Some(python) = super::servers::find("python3") else { return super::servers::missing("python3") };
    // A server that knows directories only, of names that have 60,000 bytes.
    const SERVER: &str = r#"
import struct, sys
i, o = sys.stdin.buffer, sys.stdout.buffer
def receive():
    head = i.read(4)
    if len(head) < 4: sys.exit()
    return i.read(struct.unpack('>I', head)[0])
def send(kind, body): o.write(struct.pack('>IB', len(body) + 1, kind) + body); o.flush()
def text(s): return struct.pack('>I', len(s)) + s
receive(); send(2, struct.pack('>I', 3))
attributes = struct.pack('>IQI', 5, 1, 0o40755)
listed = 0
while True:
    p = receive(); kind, number = p[0], p[1:5]
    if kind in (7, 8, 17): send(105, number + attributes)
    elif kind == 11: send(102, number + text(b'h'))
    elif kind == 12 and listed < 10000:
        names = [b'%060000d' % (listed + k) for k in range(4)]; listed += 4
        send(104, number + struct.pack('>I', 4) + b''.join(text(n) + text(b'') + attributes for n in names))
    else: send(101, number + struct.pack('>I', 1) + text(b'end') + text(b''))
"#;
    let ssh = vec![python.into(), "-c".into(), SERVER.into()];
    let store = Store::open(&"sftp://host//store".parse().unwrap(), Options { ssh, ..options() }).unwrap();
    let error = store.list(&namespace("data")).find_map(Result::err).expect("a listing without end");
    assert!(error.to_string().contains("does not end"), "{error}");
}

#[test]
fn a_redirect_is_not_followed() {
    for status in [301, 302, 307, 308] {
        let elsewhere = Script::start(&[("GET", &[Answer::Is(200, EMPTY_BUCKET)])]);
        let to = format!("http://{}/bucket", elsewhere.address);
        let server = Script::start(&[("GET", &[Answer::Sends(status, to.clone().leak())])]);
        let error = Store::open(&server.s3(), options()).unwrap_err().to_string();
        assert!(error.contains(&to) && error.contains("redirect"), "{error}");
        assert_eq!((server.count("GET"), elsewhere.count("")), (1, 0));

        let server = Script::start(&[("PROPFIND", &[Answer::Sends(status, to.clone().leak())])]);
        let error = Store::open(&server.webdav(), options()).unwrap_err().to_string();
        assert!(error.contains(&to) && error.contains("redirect"), "{error}");
        assert_eq!((server.count("PROPFIND"), elsewhere.count("")), (1, 0));
    }
    // Servers have no other way to say that a directory stands where an object is looked for.
    let there = Answer::Is(207, A_DIRECTORY);
    let directory = Answer::Sends(301, "http://localhost/path/data/0123/");
    let server = Script::start(&[("PROPFIND", &[there, directory])]);
    let store = Store::open(&server.webdav(), options()).unwrap();
    assert!(store.info(&name("data/0123")).unwrap_err().is_not_found());
}

#[test]
fn an_answer_that_cannot_be_read_is_not_asked_for_again() {
    for garbage in ["garbage", "<ListBucketResult><IsTruncated>maybe", "\u{0}\u{1}"] {
        let server =
            Script::start(&[("GET", &[Answer::Is(200, garbage)]), ("PROPFIND", &[Answer::Is(207, garbage)])]);
        for url in [server.s3(), server.webdav()] {
            let error = Store::open(&url, options()).unwrap_err();
            assert!(!error.reason().is_temporary(), "{error}");
        }
        assert_eq!((server.count("GET"), server.count("PROPFIND")), (1, 1), "{garbage:?}");
    }
}

#[test]
fn webdav_fails_as_clearly() {
    let there = Answer::Is(207, A_DIRECTORY);
    for (trouble, words, requests) in [
        (Answer::Is(429, "slow down"), &["429", "after 3 attempts"][..], 3),
        (Answer::Is(500, "oops"), &["500", "oops", "after 3 attempts"], 3),
        (Answer::Half("half"), &["after 3 attempts"], 3),
        (Answer::Is(401, ""), &["401", "credentials"], 1),
        (Answer::Is(403, "no"), &["permission denied", "no", "credentials"], 1),
        (Answer::Is(404, ""), &["no such object"], 1),
    ] {
        let server = Script::start(&[("PROPFIND", std::slice::from_ref(&there)), ("GET", &[trouble])]);
        let store = Store::open(&server.webdav(), options()).unwrap();
        expect_clear(&store.load_range(&name("data/0123"), 2, 4).unwrap_err(), words);
        assert_eq!(server.count("GET"), requests);
    }
}

#[test]
fn a_program_that_does_not_do_what_it_should_is_a_clear_error() {
    let program = |script: &str| ["sh", "-c", script].map(Into::into).to_vec();
    let brief = Options { timeout: Duration::from_millis(300), ..options() };
    let sftp = |script, words: &[&str]| {
        let options = Options { ssh: program(script), ..brief.clone() };
        let text = Store::open(&"sftp://host/path".parse().unwrap(), options).unwrap_err().to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    };
    sftp("echo 'host is on holiday' >&2", &["sftp://host/path", "host is on holiday", "after 3 attempts"]);
    sftp("exec sleep 60", &["no answer"]);
    sftp("exec cat /dev/zero", &["sftp://host/path"]);
    sftp("exec cat /dev/urandom", &["sftp://host/path"]);
    // A greeting in version 3, then nonsense.
    sftp(r"printf '\0\0\0\5\2\0\0\0\3'; exec cat /dev/zero", &["sftp://host/path"]);

    let rclone = |script| {
        let options = Options { rclone: program(script), ..brief.clone() };
        let text = Store::open(&"rclone:remote:path".parse().unwrap(), options).unwrap_err().to_string();
        assert!(text.contains("rclone:remote:path"), "{text}");
        text
    };
    assert!(rclone("exec sleep 60").contains("did not start"));
    assert!(rclone("echo 'no more today' >&2").contains("no more today"));
    let server = Script::start(&[("POST", &[Answer::Is(200, "{}")])]);
    let odd = format!("echo http://{} >&2; sleep 60", server.address);
    assert!(rclone(&odd).contains("missing field"));
    let server = Script::start(&[("POST", &[Answer::Hangs])]);
    let hangs = format!("echo http://{} >&2; sleep 60", server.address);
    assert!(rclone(&hangs).contains("no answer"));
}

#[test]
fn a_store_that_is_configured_wrongly_fails_to_open() {
    let open = |url: &StoreUrl, options: &Options| {
        Store::open(url, options.clone()).map(drop).unwrap_err().to_string()
    };

    let s3 = S3Server::start();
    let text = open(&s3.url("wrong").parse().unwrap(), &options());
    assert!(text.contains("cannot open") && text.contains("credentials"), "{text}");
    let bucket = format!("s3:{}:x@http://{}/nowhere/path", S3Server::KEY, s3.address)
        .replace(":x@", ":secret/with%25and%40@");
    let text = open(&bucket.parse().unwrap(), &options());
    assert!(text.contains("there is no store"), "{text}");

    let text = open(&"file:///nowhere/at/all".parse().unwrap(), &options());
    assert!(text.contains("file:///nowhere/at/all") && text.contains("there is no store"), "{text}");

    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let text = open(&format!("webdav://{nobody}/path").parse().unwrap(), &options());
    assert!(text.contains(&nobody.to_string()) && text.contains("after 3 attempts"), "{text}");

    let nothing = Options { rclone: vec!["/nowhere/rclone".into()], ..options() };
    let text = open(&"rclone:remote:path".parse().unwrap(), &nothing);
    assert!(text.contains("/nowhere/rclone") && text.contains("installed"), "{text}");

    if let Some(webdav) = WebDavServer::start() {
        let text = open(&webdav.url("wrong"), &options());
        assert!(text.contains("401") && !text.contains("wrong@"), "{text}");
        let text = open(&webdav.url("p%40ss"), &options());
        assert!(text.contains("there is no store"), "{text}");
    }
    if let Some(rclone) = RcloneRemote::program() {
        let text = open(&"rclone:nosuchremote:path".parse().unwrap(), &Options { rclone, ..options() });
        assert!(text.contains("rclone:nosuchremote:path") && text.contains("didn't find"), "{text}");
    }
    if let Some(server) = SshServer::start() {
        let with = |key, known| Options { ssh: server.program(key, known), ..options() };
        let text = open(&server.url(), &with("other", "known_hosts"));
        assert!(text.contains("127.0.0.1") && text.contains("Permission denied (publickey"), "{text}");
        let text = open(&server.url(), &with("user", "nobody"));
        assert!(text.contains("Host key verification failed"), "{text}");
        let text = open(&server.url(), &with("user", "known_hosts"));
        assert!(text.contains("there is no store"), "{text}");
        let nothing = Options { ssh: vec!["/nowhere/ssh".into()], ..options() };
        let text = open(&server.url(), &nothing);
        assert!(text.contains("/nowhere/ssh") && text.contains("installed"), "{text}");
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let nobody = format!("sftp://127.0.0.1:{port}//x").parse().unwrap();
        let text = open(&nobody, &with("user", "known_hosts"));
        assert!(text.contains("refused") && text.contains("after 3 attempts"), "{text}");
    }
}
