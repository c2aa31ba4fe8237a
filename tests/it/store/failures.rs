//! Servers that misbehave, and stores that are configured but broken: a clear error that names the
//! backend and the object, after as many attempts as can help.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
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
}

/// A server of a few lines: for each method a list of answers, of which the last is repeated. Anything
/// else is 404.
struct Script {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
}

impl Script {
    fn start(answers: &[(&str, &[Answer])]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let answers: HashMap<String, Vec<Answer>> =
            answers.iter().map(|(method, answers)| (method.to_string(), answers.to_vec())).collect();
        let (requests, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (seen, stopped) = (requests.clone(), stop.clone());
        let left = Arc::new(Mutex::new(answers));
        thread::spawn(move || {
            for socket in listener.incoming() {
                if stopped.load(SeqCst) {
                    break;
                }
                let (seen, left, stopped) = (seen.clone(), left.clone(), stopped.clone());
                thread::spawn(move || serve(&socket.unwrap(), &seen, &left, &stopped));
            }
        });
        Self { address, requests, stop }
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
    seen.lock().unwrap().push(request);
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
