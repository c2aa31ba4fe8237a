//! What only some backends have: quota and permissions, caches, pages, connections, children, certificates.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use treering::store::{
    CacheMode, CachePolicy, Emulation, LocalOptions, MAX_LEVEL, NamespaceOptions, Operation, Options, Reason,
    Retry, Store, StoreUrl,
};

use super::contract::{listed, name, namespace, noise};
use super::options;
use super::s3_server::S3Server;
use super::servers::{RcloneRemote, Server, SshServer, WebDavServer, local_files};

fn create(root: &Path, options: Options) -> Store {
    Store::create(&StoreUrl::file(root).unwrap(), options).unwrap()
}

#[test]
fn an_interrupted_store_leaves_the_old_object_and_nothing_that_is_listed() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path(), options());
    store.store(&name("data/0123"), b"old").unwrap();
    fs::write(dir.path().join("data/.treering-tmp-x.tmp"), b"ne").unwrap();
    assert_eq!(store.load(&name("data/0123")).unwrap(), b"old");
    assert_eq!(listed(&store, "data"), ["data/0123"]);
}

#[test]
fn a_store_whose_maker_was_killed_at_the_first_object_can_be_made_again() {
    for place in [Some(local_files()), SshServer::place(&[])].into_iter().flatten() {
        let make = || Store::create(&place.url, place.options.clone());
        make().unwrap();
        let files = place.server.files();
        fs::create_dir(files.join("config")).unwrap();
        fs::write(files.join("config/.treering-tmp-x.tmp"), b"ne").unwrap();
        make().unwrap();
        for foreign in ["config/notes.tmp", "notes", "x.tmp", "config/deep/.treering-tmp-x.tmp"] {
            let path = files.join(foreign);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, b"foreign").unwrap();
            let error = make().map(drop).unwrap_err();
            assert!(matches!(error.reason(), Reason::NotEmpty), "{foreign}: {error}");
            fs::remove_file(&path).unwrap();
        }
    }
}

#[test]
fn a_store_that_could_not_be_made_leaves_no_directory() {
    let mut rclone = RcloneRemote::place();
    if let Some(place) = &mut rclone {
        // Nothing can be written into a file.
        let limited = ["sh", "-c", "ulimit -f 0; exec \"$@\"", "sh"].map(OsString::from);
        place.options.rclone = limited.into_iter().chain(RcloneRemote::program().unwrap()).collect();
        place.options.retry = Retry { attempts: 1, ..place.options.retry };
    }
    for place in [SshServer::place(&["write"]), rclone].into_iter().flatten() {
        let files = place.server.files();
        let is_there = |path: &Path| path.is_dir();
        let above: Vec<_> = files.ancestors().skip(1).filter(|path| is_there(path)).collect();
        Store::create(&place.url, place.options.clone()).map(drop).unwrap_err();
        assert!(!files.exists(), "{}", place.url);
        assert_eq!(files.ancestors().skip(1).filter(|path| is_there(path)).collect::<Vec<_>>(), above);
        // One that was there stays.
        fs::create_dir_all(files).unwrap();
        Store::create(&place.url, place.options.clone()).map(drop).unwrap_err();
        assert_eq!(fs::read_dir(files).unwrap().count(), 0, "{}", place.url);
    }
}

#[test]
fn the_directories_of_a_new_store_get_the_mode_that_is_asked_for() {
    for place in [Some(local_files()), SshServer::place(&[])].into_iter().flatten() {
        let files = place.server.files();
        let mode = || fs::metadata(files).unwrap().permissions().mode() & 0o777;
        let make = |mode| Store::create(&place.url, Options { mode, ..place.options.clone() }).unwrap();
        fs::create_dir_all(files).unwrap();
        let usual = mode();
        let store = make(0o700);
        assert_eq!(mode(), usual, "what is there keeps its mode: {}", place.url);
        store.destroy(None).unwrap();
        let store = make(0o777);
        assert_eq!(mode(), usual, "{}", place.url);
        store.destroy(None).unwrap();
        let store = make(0o700);
        store.store(&name("data/0123"), b"content").unwrap();
        assert_eq!(mode(), 0o700, "{}", place.url);
    }
}

#[test]
fn a_store_is_found_behind_what_killed_makers_left() {
    let Some(place) = WebDavServer::place() else { return };
    let make = || Store::create(&place.url, place.options.clone());
    let store = make().unwrap();
    for number in 0..4 {
        fs::write(place.server.files().join(format!("treering-store.hid.{number}.tmp")), b"Thi").unwrap();
    }
    make().unwrap();
    store.store(&name("zones/0123"), b"content").unwrap();
    let error = make().map(drop).unwrap_err();
    assert!(matches!(error.reason(), Reason::NotEmpty), "{error}");
}

#[test]
fn a_root_that_is_gone_is_an_error_not_an_empty_store() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let store = create(&root, options());
    fs::remove_dir_all(&root).unwrap();
    let gone = |error: treering::store::Error| matches!(error.reason(), Reason::NoStore);
    assert!(gone(store.load(&name("data/0123")).unwrap_err()));
    assert!(gone(store.list(&namespace("data")).next().unwrap().unwrap_err()));
    assert!(gone(store.store(&name("data/0123"), b"").unwrap_err()));
    assert!(!root.exists());
}

#[test]
fn a_level_that_would_not_be_listed_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let at = |level| NamespaceOptions { level, ..NamespaceOptions::default() };
    let open = |level| {
        let namespaces = BTreeMap::from([(namespace("data"), at(level))]);
        Store::open(&StoreUrl::file(dir.path()).unwrap(), Options { namespaces, ..options() })
    };
    assert!(open(MAX_LEVEL + 1).unwrap_err().to_string().contains("data"));
    let store = open(MAX_LEVEL).unwrap();
    let deep = name(&format!("data/{}", "0".repeat(40)));
    store.store(&deep, b"content").unwrap();
    assert_eq!(listed(&store, "data"), [deep.to_string()]);
}

#[test]
fn a_quota_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let local = LocalOptions { quota: Some(100), ..LocalOptions::default() };
    let store = create(dir.path(), Options { local: local.clone(), ..options() });
    let (one, two) = (name("data/1"), name("data/2"));
    store.store(&one, &[0; 60]).unwrap();
    let error = store.store(&two, &[0; 41]).unwrap_err();
    assert!(matches!(error.reason(), Reason::Quota { limit: 100, used: 60, needed: 41 }), "{error}");
    store.store(&one, &[0; 100]).unwrap();
    store.store(&one, &[0; 10]).unwrap();
    store.store(&two, &[0; 90]).unwrap();
    store.delete(&one).unwrap();
    store.rename(&two, &one).unwrap();

    let reopened = Store::open(store.url(), Options { local, ..options() }).unwrap();
    assert!(reopened.store(&two, &[0; 11]).is_err());
    reopened.store(&two, &[0; 10]).unwrap();
}

#[test]
fn permissions_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path(), options());
    for object in ["add/1", "read/1", "all/1", "none/1"] {
        store.store(&name(object), b"content").unwrap();
    }
    let permissions = [("add", "lw"), ("read", "lr"), ("all", "lrwWD")]
        .map(|(space, letters)| (namespace(space), letters.parse().unwrap()));
    let local = LocalOptions { permissions: BTreeMap::from(permissions), ..LocalOptions::default() };
    let store = Store::open(store.url(), Options { local, ..options() }).unwrap();
    let refused = |result: Result<(), treering::store::Error>| {
        matches!(result.unwrap_err().reason(), Reason::NotPermitted { .. })
    };

    store.store(&name("add/2"), b"new").unwrap();
    assert!(refused(store.store(&name("add/1"), b"other")));
    assert!(refused(store.load(&name("add/1")).map(drop)));
    assert!(refused(store.delete(&name("add/1"))));
    assert!(refused(store.soft_delete(&name("add/1"))));

    store.load(&name("read/1")).unwrap();
    assert!(refused(store.store(&name("read/2"), b"new")));

    store.store(&name("all/1"), b"other").unwrap();
    store.soft_delete(&name("all/1")).unwrap();

    assert!(refused(store.info(&name("none/1")).map(drop)));
    assert!(refused(store.list(&namespace("none")).next().unwrap().map(drop)));
    assert!(refused(store.destroy(None)));
    assert!("lrx".parse::<treering::store::Permissions>().is_err());

    let elsewhere = LocalOptions { quota: Some(1), ..LocalOptions::default() };
    let url = "webdav://127.0.0.1:1/x".parse().unwrap();
    assert!(Store::open(&url, Options { local: elsewhere, ..options() }).is_err());
}

#[test]
fn of_clients_that_may_only_add_one_adds_and_none_replaces() {
    let dir = tempfile::tempdir().unwrap();
    let permissions = BTreeMap::from([(namespace("add"), "lrw".parse().unwrap())]);
    let local = LocalOptions { permissions, ..LocalOptions::default() };
    let store = create(dir.path(), Options { local, ..options() });
    for round in 0..20 {
        let target = name(&format!("add/{round}"));
        let won: Vec<_> = thread::scope(|scope| {
            let (store, target) = (&store, &target);
            let racers: Vec<_> = (0..4_u8)
                .map(|racer| {
                    scope.spawn(move || match store.store(target, &[racer; 10]) {
                        Ok(()) => Some(racer),
                        Err(error) if matches!(error.reason(), Reason::NotPermitted { .. }) => None,
                        Err(error) => panic!("{error}"),
                    })
                })
                .collect();
            racers.into_iter().filter_map(|racer| racer.join().unwrap()).collect()
        });
        assert_eq!(won.len(), 1, "round {round}");
        assert_eq!(store.load(&target).unwrap(), [won[0]; 10]);
    }
}

#[test]
fn permissions_that_do_not_name_a_namespace_spare_it() {
    let dir = tempfile::tempdir().unwrap();
    create(dir.path(), options()).store(&name("other/1"), b"content").unwrap();
    let permissions = BTreeMap::from([(namespace("data"), "lrwWD".parse().unwrap())]);
    let local = LocalOptions { permissions, ..LocalOptions::default() };
    let store = Store::open(&StoreUrl::file(dir.path()).unwrap(), Options { local, ..options() }).unwrap();
    assert!(matches!(store.destroy(None).unwrap_err().reason(), Reason::NotPermitted { .. }));
    assert!(dir.path().join("other/1").exists());
}

fn cached(dir: &Path, policy: CachePolicy) -> Options {
    let namespaces =
        BTreeMap::from([(namespace("data"), NamespaceOptions { cache: policy, ..Default::default() })]);
    Options { cache: Some(StoreUrl::file(dir.join("cache")).unwrap()), namespaces, ..options() }
}

#[test]
fn a_write_through_cache_answers_loads_within_its_bounds() {
    let dir = tempfile::tempdir().unwrap();
    let policy = CachePolicy { mode: CacheMode::WriteThrough, max_bytes: Some(2500), max_age: None };
    let store = create(&dir.path().join("store"), cached(dir.path(), policy));
    let names = ["data/1", "data/2", "data/3"].map(name);
    for name in &names {
        store.store(name, &noise(1000)).unwrap();
    }
    assert_eq!(store.load(&names[2]).unwrap(), noise(1000));
    assert_eq!(store.load_range(&names[1], 10, 20).unwrap(), noise(1000)[10..30]);
    assert_eq!(store.figures(Operation::Load).calls, 0);
    // The first one was evicted; its range brings it whole, and takes the place of the third.
    assert_eq!(store.load_range(&names[0], 10, 20).unwrap(), noise(1000)[10..30]);
    assert_eq!(store.load(&names[0]).unwrap(), noise(1000));
    assert_eq!(store.figures(Operation::Load).calls, 1);
    store.load(&names[2]).unwrap();
    assert_eq!(store.figures(Operation::Load).calls, 2);
    let figures = store.cache_figures();
    assert_eq!((figures.hits, figures.misses, figures.bytes, figures.errors), (3, 2, 2020, 0));

    store.delete(&names[2]).unwrap();
    assert!(store.load(&names[2]).unwrap_err().is_not_found());
    // What is larger than the cache is not kept, and its ranges are not answered by loading it whole.
    store.store(&name("data/4"), &noise(3000)).unwrap();
    assert_eq!(store.load_range(&name("data/4"), 2000, 10).unwrap(), noise(3000)[2000..2010]);
    assert!(!dir.path().join("cache/data/4").exists());
    // Another namespace is not cached.
    store.store(&name("other/1"), b"x").unwrap();
    assert!(!dir.path().join("cache/other").exists());
}

#[test]
fn a_mirror_has_what_was_stored_and_loaded_and_answers_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let policy = CachePolicy { mode: CacheMode::Mirror, ..CachePolicy::default() };
    let store = create(&dir.path().join("store"), cached(dir.path(), policy));
    store.store(&name("data/1"), b"content").unwrap();
    assert_eq!(fs::read(dir.path().join("cache/data/1")).unwrap(), b"content");
    store.load(&name("data/1")).unwrap();
    assert_eq!((store.figures(Operation::Load).calls, store.cache_figures().hits), (1, 0));
}

#[test]
fn a_cache_is_taken_up_again_and_rid_of_what_is_old() {
    let dir = tempfile::tempdir().unwrap();
    let policy = CachePolicy { mode: CacheMode::WriteThrough, ..CachePolicy::default() };
    let store = create(&dir.path().join("store"), cached(dir.path(), policy));
    store.store(&name("data/1"), b"content").unwrap();
    let again = Store::open(store.url(), cached(dir.path(), policy)).unwrap();
    again.load(&name("data/1")).unwrap();
    assert_eq!(again.cache_figures().hits, 1);
    let brief = CachePolicy { max_age: Some(Duration::ZERO), ..policy };
    let again = Store::open(store.url(), cached(dir.path(), brief)).unwrap();
    again.load(&name("data/1")).unwrap();
    assert_eq!(again.cache_figures().hits, 0);
}

#[test]
fn a_broken_cache_does_not_fail_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let policy = CachePolicy { mode: CacheMode::WriteThrough, ..CachePolicy::default() };
    let store = create(&dir.path().join("store"), cached(dir.path(), policy));
    fs::remove_dir_all(dir.path().join("cache")).unwrap();
    store.store(&name("data/1"), b"content").unwrap();
    assert_eq!(store.load(&name("data/1")).unwrap(), b"content");
    assert!(store.cache_figures().errors > 0);
}

#[test]
fn emulation_slows_down() {
    let dir = tempfile::tempdir().unwrap();
    let emulation = Emulation { latency: Duration::from_millis(20), bits_per_second: Some(800_000) };
    let store = create(dir.path(), Options { emulation, ..options() });
    store.store(&name("data/1"), &[0; 5_000]).unwrap();
    assert!(store.figures(Operation::Store).time >= Duration::from_millis(70));
    assert!(store.figures(Operation::Open).time >= Duration::from_millis(20));
}

#[test]
fn a_listing_of_s3_has_more_than_one_page() {
    let server = S3Server::start();
    let store = Store::create(&server.url(S3Server::SECRET).parse().unwrap(), options()).unwrap();
    let names: Vec<_> = (0..1_050).map(|at| name(&format!("data/{at:04}"))).collect();
    thread::scope(|scope| {
        for part in names.chunks(150) {
            let store = &store;
            scope.spawn(move || part.iter().for_each(|name| store.store(name, b"x").unwrap()));
        }
    });
    let mut listed: Vec<_> = store.list(&namespace("data")).map(|item| item.unwrap().name).collect();
    listed.sort();
    assert!(listed == names);
}

/// The processes of `program` that have `text` among their arguments.
fn processes(program: &str, text: &str) -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let of_program = processes.filter(|process| {
        let arguments = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments);
        arguments.starts_with(program) && arguments.contains(text)
    });
    of_program.map(|process| process.file_name().into_string().unwrap()).collect()
}

/// Whether a process has `text` among its arguments.
fn runs(text: &str) -> bool {
    !processes("", text).is_empty()
}

fn expect_end(text: &str) {
    let start = Instant::now();
    while runs(text) {
        assert!(start.elapsed() < Duration::from_secs(20), "rclone is still there");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_path_over_sftp_is_absolute_only_with_two_slashes() {
    let Some(server) = SshServer::start() else { return };
    let options = Options { ssh: server.program("user", "known_hosts"), ..options() };
    let store = Store::create(&server.url_of("relative/store"), options).unwrap();
    store.store(&name("data/0123"), b"content").unwrap();
    let directory = server.files().parent().unwrap().parent().unwrap();
    assert_eq!(fs::read(directory.join("relative/store/data/0123")).unwrap(), b"content");
    store.destroy(None).unwrap();
    assert!(!directory.join("relative/store").exists());
}

#[test]
fn what_killed_processes_were_writing_over_sftp_goes_after_a_day() {
    for place in
        [SshServer::place(&[]), SshServer::place(&["posix-rename", "hardlink"])].into_iter().flatten()
    {
        let open = || Store::open(&place.url, place.options.clone()).unwrap();
        Store::create(&place.url, place.options.clone()).unwrap().store(&name("data/0123"), b"old").unwrap();
        let data = place.server.files().join("data");
        let unfinished = |name: &str, hours: u64| {
            let path = data.join(format!(".treering-tmp-{name}.tmp"));
            let file = fs::File::create(&path).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(hours * 3600)).unwrap();
            path
        };
        let dead = unfinished("dead", 25);
        // Somebody may go on with the one, and the other may be all that is left of an object.
        let kept = [unfinished("alive", 23), unfinished("aside-one", 25)];
        fs::create_dir(data.join(".treering-tmp-directory.tmp")).unwrap();
        let store = open();
        store.load(&name("data/0123")).unwrap();
        assert!(dead.exists(), "who only reads removes nothing");
        store.store(&name("data/0123"), b"new").unwrap();
        assert!(!dead.exists());
        assert!(kept.iter().all(|path| path.exists()) && data.join(".treering-tmp-directory.tmp").exists());
        assert_eq!(store.load(&name("data/0123")).unwrap(), b"new");
    }
}

#[test]
fn what_killed_processes_were_writing_over_webdav_and_rclone_goes_after_a_day() {
    for place in [WebDavServer::place(), RcloneRemote::place()].into_iter().flatten() {
        let open = || Store::open(&place.url, place.options.clone()).unwrap();
        Store::create(&place.url, place.options.clone()).unwrap().store(&name("data/0123"), b"old").unwrap();
        let data = place.server.files().join("data");
        let unfinished = |name: &str, hours: u64| {
            let path = data.join(format!("{name}.tmp"));
            let file = fs::File::create(&path).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(hours * 3600)).unwrap();
            path
        };
        let dead = ["0123.0000000000000000", "4567.0000000000000000", "0123.aside-0000000000000000"];
        let dead = dead.map(|name| unfinished(name, 25));
        // Somebody may go on with the first, the second may be all that is left of an object, and others are others'.
        let kept = [("0123.1111111111111111", 23), ("4567.aside-1111111111111111", 25), ("0123", 25)];
        let kept = kept.map(|(name, hours)| unfinished(name, hours));
        let store = open();
        store.load(&name("data/0123")).unwrap();
        assert!(dead.iter().all(|path| path.exists()), "who only reads removes nothing");
        store.store(&name("data/0123"), b"new").unwrap();
        let left: Vec<_> = dead.iter().filter(|path| path.exists()).collect();
        assert!(left.is_empty(), "{}: {left:?}", place.url);
        assert!(kept.iter().all(|path| path.exists()), "{}", place.url);
        assert_eq!(store.load(&name("data/0123")).unwrap(), b"new");
        assert_eq!(listed(&store, "data"), ["data/0123"]);
    }
}

#[test]
fn a_connection_that_is_lost_or_hangs_is_made_again() {
    let Some(server) = SshServer::start() else { return };
    let ssh = server.program("user", "known_hosts");
    let directory = server.files().parent().unwrap().parent().unwrap().display().to_string();
    let options = Options { ssh, timeout: Duration::from_secs(2), ..options() };
    let store = Store::create(&server.url(), options).unwrap();
    store.store(&name("data/0123"), b"content").unwrap();
    for signal in ["-KILL", "-STOP"] {
        let clients = processes("ssh\0", &directory);
        assert_eq!(clients.len(), 1);
        assert!(Command::new("kill").arg(signal).args(clients).status().unwrap().success());
        assert_eq!(store.load(&name("data/0123")).unwrap(), b"content", "{signal}");
        store.store(&name("data/0123"), b"content").unwrap();
    }
    assert_eq!(store.figures(Operation::Load).retries, 2);
}

/// The rclone program, with an argument by which its process can be found.
fn named(name: &str) -> Option<Vec<OsString>> {
    let mut program = RcloneRemote::program()?;
    program.extend(["--user-agent".into(), name.into()]);
    Some(program)
}

#[test]
fn rclone_is_started_again_when_it_has_died() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store").display().to_string();
    let Some(rclone) = named(&root) else { return };
    let url: StoreUrl = format!("rclone::local:{root}").parse().unwrap();
    let store = Store::create(&url, Options { rclone, ..options() }).unwrap();
    store.store(&name("data/0123"), b"content").unwrap();
    let servers: Vec<_> = processes("", &root)
        .into_iter()
        .filter(|process| {
            fs::read_link(format!("/proc/{process}/exe")).is_ok_and(|exe| exe.ends_with("rclone"))
        })
        .collect();
    assert_eq!(servers.len(), 1);
    assert!(Command::new("kill").arg("-KILL").args(servers).status().unwrap().success());
    assert_eq!(store.load(&name("data/0123")).unwrap(), b"content");
}

/// Uses the store at the URL, when a test below starts this binary again and gives one.
#[test]
fn the_client_of_a_test() {
    let Ok(url) = std::env::var("TREERING_TEST_TLS_URL") else { return };
    let store = Store::create(&url.parse().unwrap(), options()).unwrap();
    store.store(&name("data/0123"), b"content").unwrap();
    assert_eq!(store.load(&name("data/0123")).unwrap(), b"content");
}

#[test]
fn a_server_is_believed_only_with_a_certificate_that_is_trusted() {
    let Some((server, certificate)) = WebDavServer::start_tls() else { return };
    let url = format!("webdavs://me:p%40ss@127.0.0.1:{}/some/path", server.port);
    let error = Store::create(&url.parse().unwrap(), options()).unwrap_err().to_string();
    assert!(error.contains("certificate"), "{error}");
    // The trusted certificates are those of the process, so it takes another one.
    let client = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::specifics::the_client_of_a_test"])
        .env("TREERING_TEST_TLS_URL", &url)
        .env("SSL_CERT_FILE", certificate)
        .output()
        .unwrap();
    assert!(client.status.success(), "{}", String::from_utf8_lossy(&client.stdout));
    assert_eq!(fs::read(server.files().join("data/0123")).unwrap(), b"content");
}

/// Serves until it is killed, when a test below starts this binary again and asks for it.
#[test]
fn the_child_of_a_test() {
    let Ok(root) = std::env::var("TREERING_TEST_RCLONE_CHILD") else { return };
    let url: StoreUrl = format!("rclone::local:{root}").parse().unwrap();
    let rclone = named(&root).unwrap();
    let store = Store::create(&url, Options { rclone, ..options() }).unwrap();
    store.store(&name("data/0123"), b"content").unwrap();
    fs::write(format!("{root}.ready"), b"").unwrap();
    thread::sleep(Duration::from_secs(60));
}

#[test]
fn rclone_ends_with_the_store_and_with_a_process_that_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("first").display().to_string();
    let Some(rclone) = named(&root) else { return };
    let url: StoreUrl = format!("rclone::local:{root}").parse().unwrap();
    let store = Store::create(&url, Options { rclone, ..options() }).unwrap();
    store.store(&name("data/0123"), b"content").unwrap();
    assert!(runs(&root));
    drop(store);
    expect_end(&root);

    let root = dir.path().join("second").display().to_string();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::specifics::the_child_of_a_test", "--nocapture"])
        .env("TREERING_TEST_RCLONE_CHILD", &root)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while !Path::new(&format!("{root}.ready")).exists() {
        assert!(start.elapsed() < Duration::from_secs(30) && child.try_wait().unwrap().is_none());
        thread::sleep(Duration::from_millis(20));
    }
    assert!(runs(&root));
    child.kill().unwrap();
    child.wait().unwrap();
    expect_end(&root);
}
