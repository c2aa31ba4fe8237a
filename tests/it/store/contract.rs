//! The checks. Each gets a place where there is nothing yet.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::thread;

use treering::digest::Digest;
use treering::store::{Algorithm, Name, Namespace, NamespaceOptions, Operation, Reason, Span, Store};

use super::Place;
use crate::tree;

pub fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub fn namespace(text: &str) -> Namespace {
    Namespace::new(text).unwrap()
}

/// Bytes without a pattern.
pub fn noise(size: usize) -> Vec<u8> {
    tree::noise(size, 1)
}

/// Name, size and soft deletion of everything in a namespace, in order.
pub fn listed(store: &Store, space: &str) -> Vec<String> {
    let mut names: Vec<_> =
        store.list_with_deleted(&namespace(space)).map(|item| item.unwrap().name.to_string()).collect();
    names.sort();
    names
}

pub fn an_object_is_stored_replaced_and_deleted(place: &Place) {
    let store = place.create();
    let name = name("data/0123");
    for content in [&noise(100_000)[..], b"x", b"", b"last"] {
        store.store(&name, content).unwrap();
        assert_eq!(store.load(&name).unwrap(), content);
        assert_eq!(store.info(&name).unwrap().size, content.len() as u64);
    }
    assert_eq!(place.open().load(&name).unwrap(), b"last");
    store.delete(&name).unwrap();
    assert!(store.load(&name).unwrap_err().is_not_found());

    let stored = store.figures(Operation::Store);
    assert_eq!((stored.calls, stored.bytes, stored.failures), (4, 100_005, 0));
    assert_eq!(store.figures(Operation::Load).bytes, 100_005);
    assert_eq!(store.figures(Operation::Load).failures, 1);
}

pub fn ranges_are_exact(place: &Place) {
    let store = place.create();
    let (name, content) = (name("data/0123"), noise(10_000));
    store.store(&name, &content).unwrap();
    for (offset, size) in [(0, 1), (0, 10_000), (9_999, 1), (5_000, 5_000), (17, 1_000), (10_000, 0), (3, 0)]
    {
        let bytes = store.load_range(&name, offset, size).unwrap();
        assert_eq!(bytes, content[offset as usize..(offset + size) as usize], "{offset} {size}");
    }
    for (offset, size) in
        [(0, 10_001), (9_999, 2), (10_000, 1), (10_001, 0), (50_000, 10), (u64::MAX, 1), (1, u64::MAX - 1)]
    {
        let error = store.load_range(&name, offset, size).unwrap_err();
        assert!(matches!(error.reason(), Reason::OutOfRange { .. }), "{offset} {size}: {error}");
    }
}

pub fn many_ranges_come_in_their_order(place: &Place) {
    let store = place.create();
    let content = noise(50_000);
    let names = ["data/0123", "data/4567"].map(name);
    for name in &names {
        store.store(name, &content).unwrap();
    }
    let spans: Vec<_> = (0..40)
        .map(|at| Span { name: names[at % 2].clone(), offset: 1_000 * at as u64, size: 10 * at as u64 })
        .collect();
    for (span, bytes) in spans.iter().zip(store.load_many(&spans).unwrap()) {
        let start = span.offset as usize;
        assert_eq!(bytes, content[start..start + span.size as usize]);
    }
    let missing = Span { name: name("data/89ab"), offset: 0, size: 1 };
    assert!(store.load_many(&[spans, vec![missing]].concat()).unwrap_err().is_not_found());
    assert_eq!(store.load_many(&[]).unwrap(), Vec::<Vec<u8>>::new());
}

pub fn what_is_not_there_is_not_found(place: &Place) {
    let store = place.create();
    store.store(&name("data/0123"), b"other").unwrap();
    for missing in ["data/0124", "data/0123.del", "nothing/0123", "data2/0123"].map(name) {
        let errors = [
            store.load(&missing).map(drop),
            store.load_range(&missing, 0, 1).map(drop),
            store.load_range(&missing, 0, 0).map(drop),
            store.load_range(&missing, 7, 0).map(drop),
            store.info(&missing).map(drop),
            store.delete(&missing),
            store.rename(&missing, &name("data/new")),
            store.move_to_level(&missing),
            store.hash(&missing, Algorithm::Sha256).map(drop),
        ];
        for (at, result) in errors.into_iter().enumerate() {
            let error = result.unwrap_err();
            assert!(error.is_not_found(), "{at} {missing}: {error}");
            let text = error.to_string();
            assert!(text.contains(&missing.to_string()) && text.contains(&place.url.to_string()), "{text}");
        }
    }
    assert!(store.soft_delete(&name("data/0124")).unwrap_err().is_not_found());
    assert!(store.undelete(&name("data/0124")).unwrap_err().is_not_found());
    assert_eq!(listed(&store, "nothing"), Vec::<String>::new());
    assert_eq!(listed(&store, "data"), ["data/0123"]);
}

pub fn a_listing_has_every_object_of_its_namespace_once(place: &Place) {
    let mut options = place.options.clone();
    let level = |level| NamespaceOptions { level, ..NamespaceOptions::default() };
    options.namespaces = BTreeMap::from([(namespace("data"), level(1)), (namespace("data2"), level(0))]);
    let store = Store::create(&place.url, options).unwrap();
    let mut expected = Vec::new();
    for at in 0..40 {
        let name = name(&format!("data/{:02x}{at:04}", at % 16));
        store.store(&name, &noise(at)).unwrap();
        expected.push((name.to_string(), at as u64));
    }
    for other in ["data2/0123", "dat/0123", "data2/data"].map(name) {
        store.store(&other, b"other").unwrap();
    }
    expected.sort();
    let mut items: Vec<_> = store
        .list(&namespace("data"))
        .map(|item| item.map(|item| (item.name.to_string(), item.size)).unwrap())
        .collect();
    items.sort();
    assert_eq!(items, expected);
    assert_eq!(listed(&store, "data2"), ["data2/0123", "data2/data"]);
    assert_eq!(store.list(&namespace("data")).take(3).count(), 3);
}

pub fn several_levels_are_read_and_one_is_written(place: &Place) {
    let (old, both) = (name("data/0123456789"), name("data/0123fedcba"));
    let store = place.create();
    store.store(&old, b"old").unwrap();
    store.store(&both, b"old").unwrap();

    let mut options = place.options.clone();
    let levels = NamespaceOptions { level: 2, older_levels: vec![0, 1], ..NamespaceOptions::default() };
    options.namespaces = BTreeMap::from([(namespace("data"), levels.clone())]);
    let store = Store::open(&place.url, options.clone()).unwrap();
    assert_eq!(store.load(&old).unwrap(), b"old");
    assert!(store.store_new(&old, b"new").unwrap_err().is_exists());
    store.store(&both, b"new").unwrap();
    assert_eq!(store.load(&both).unwrap(), b"new");
    assert_eq!(listed(&store, "data"), ["data/0123456789", "data/0123fedcba"]);
    store.move_to_level(&old).unwrap();
    store.move_to_level(&old).unwrap();

    options.namespaces.insert(namespace("data"), NamespaceOptions { older_levels: Vec::new(), ..levels });
    let store = Store::open(&place.url, options).unwrap();
    assert_eq!(store.load(&old).unwrap(), b"old");
    assert_eq!(listed(&store, "data"), ["data/0123456789", "data/0123fedcba"]);
    store.delete(&old).unwrap();

    // Who does not know of the level is told, not given an empty list.
    let mut items = place.open().list(&namespace("data")).map(|item| item.map(drop)).collect::<Vec<_>>();
    let error = items.pop().unwrap().unwrap_err();
    assert!(items.is_empty() && matches!(error.reason(), Reason::Misplaced { level: 2, .. }), "{error}");
}

pub fn a_soft_deletion_can_be_taken_back(place: &Place) {
    let store = place.create();
    let name = name("data/0123");
    store.store(&name, b"content").unwrap();
    store.soft_delete(&name).unwrap();
    assert!(store.load(&name).unwrap_err().is_not_found());
    assert_eq!(store.load(&name.deleted()).unwrap(), b"content");
    assert_eq!(store.list(&namespace("data")).count(), 0);
    assert_eq!(listed(&store, "data"), ["data/0123.del"]);

    store.undelete(&name).unwrap();
    assert_eq!(store.load(&name).unwrap(), b"content");
    assert!(store.load(&name.deleted()).unwrap_err().is_not_found());

    store.soft_delete(&name).unwrap();
    store.store(&name, b"newer").unwrap();
    assert!(store.undelete(&name).unwrap_err().is_exists());
    store.delete(&name.deleted()).unwrap();
    assert_eq!(listed(&store, "data"), ["data/0123"]);
    assert_eq!(store.load(&name).unwrap(), b"newer");
}

pub fn a_move_keeps_the_content_and_refuses_a_name_that_is_taken(place: &Place) {
    let store = place.create();
    let (one, two) = (name("data/0123"), name("other/4567"));
    store.store(&one, b"content").unwrap();
    store.rename(&one, &two).unwrap();
    assert_eq!(store.load(&two).unwrap(), b"content");
    assert!(store.load(&one).unwrap_err().is_not_found());
    store.store(&one, b"one").unwrap();
    assert!(store.rename(&one, &two).unwrap_err().is_exists());
    assert_eq!(
        (store.load(&one).unwrap(), store.load(&two).unwrap()),
        (b"one".to_vec(), b"content".to_vec())
    );
}

/// Whether the server is one of WebDAV: those here look and move in one step, which cannot be tried from outside.
fn is_webdav(place: &Place) -> bool {
    place.url.to_string().starts_with("webdav:")
}

pub fn new_means_new(place: &Place) {
    let store = place.create();
    let taken = name("locks/0123");
    store.store_new(&taken, b"first").unwrap();
    assert!(store.store_new(&taken, b"second").unwrap_err().is_exists());
    assert_eq!(store.load(&taken).unwrap(), b"first");
    if !is_webdav(place) && !store.is_exclusive(&namespace("locks")).unwrap() {
        return;
    }
    assert_eq!(listed(&store, "locks"), ["locks/0123"]);
    for round in 0..5 {
        let name = name(&format!("locks/round{round}"));
        let won: Vec<_> = thread::scope(|scope| {
            let store = &store;
            let racers: Vec<_> = (0..6_u8)
                .map(|racer| {
                    let name = &name;
                    scope.spawn(move || match store.store_new(name, &[racer; 1000]) {
                        Ok(()) => Some(racer),
                        Err(error) if error.is_exists() => None,
                        Err(error) => panic!("{error}"),
                    })
                })
                .collect();
            racers.into_iter().filter_map(|racer| racer.join().unwrap()).collect()
        });
        assert_eq!(won.len(), 1, "round {round}");
        assert_eq!(store.load(&name).unwrap(), [won[0]; 1000]);
    }
}

pub fn any_allowed_key_works(place: &Place) {
    let store = place.create();
    let mut expected = Vec::new();
    for key in
        ["a%41b", "a+b", "a#b?c=d", "a&b;c", "~a'b\"", "a,b:c@d", "{a}[b]", "a.", ".a", "-a", "a<b>|^`"]
    {
        let name = name(&format!("odd/{key}"));
        store.store(&name, key.as_bytes()).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(store.load(&name).unwrap(), key.as_bytes(), "{key}");
        expected.push(name.to_string());
    }
    let long = name(&format!("{}/{}", "n".repeat(60), "k".repeat(60)));
    store.store(&long, b"long").unwrap();
    store.soft_delete(&long).unwrap();
    store.undelete(&long).unwrap();
    assert_eq!(store.load(&long).unwrap(), b"long");
    expected.sort();
    assert_eq!(listed(&store, "odd"), expected);
}

pub fn a_large_file_is_streamed_and_hashed(place: &Place) {
    let store = place.create();
    let content = noise((17 << 20) + 5);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&content).unwrap();
    let name = name("data/large");
    store.store_file(&name, &file).unwrap();
    assert_eq!(store.info(&name).unwrap().size, content.len() as u64);
    let mut loaded = Vec::new();
    assert_eq!(store.load_to(&name, &mut loaded).unwrap(), content.len() as u64);
    assert!(loaded == content);
    assert_eq!(store.hash(&name, Algorithm::Sha256).unwrap(), Digest::of(&content).to_string());
    assert_eq!(store.hash(&name, Algorithm::Blake3).unwrap(), blake3::hash(&content).to_string());
    store.store_file(&name, &File::open("/dev/null").unwrap()).unwrap();
    assert_eq!(store.load(&name).unwrap(), b"");
}

pub fn a_store_is_made_once_and_destroyed_whole(place: &Place) {
    let store = place.create();
    place.create().store(&name("data/0123"), b"content").unwrap();
    let error = Store::create(&place.url, place.options.clone()).map(drop).unwrap_err();
    assert!(matches!(error.reason(), Reason::NotEmpty), "{error}");
    assert_eq!(store.load(&name("data/0123")).unwrap(), b"content");
    store.destroy(None).unwrap();
    // In an object store there is no place to be gone, only objects.
    match Store::open(&place.url, place.options.clone()) {
        Ok(store) => assert_eq!(listed(&store, "data"), Vec::<String>::new()),
        Err(error) => assert!(matches!(error.reason(), Reason::NoStore), "{error}"),
    }
    assert_eq!(listed(&place.create(), "data"), Vec::<String>::new());
}

pub fn foreign_files_are_not_objects(place: &Place) {
    let store = place.create();
    store.store(&name("data/0123"), b"content").unwrap();
    let files = place.server.files().join("data");
    std::fs::create_dir_all(files.join("FOREIGN/deep")).unwrap();
    for foreign in ["0124.tmp", "quota.hid", "README", "FOREIGN/0123", "FOREIGN/deep/0123", "with blank"] {
        std::fs::write(files.join(foreign), b"foreign").unwrap();
    }
    assert_eq!(listed(&store, "data"), ["data/0123"]);
}

pub fn a_destroyed_store_takes_nothing_along(place: &Place) {
    let url = place.url.to_string();
    if url.starts_with("s3:") || url.starts_with("webdav:") || url.ends_with("//some/store") {
        // There it is the server that meets the links: it shows none.
        return;
    }
    let store = place.create();
    store.store(&name("data/0123"), b"content").unwrap();
    // rclone neither lists links nor follows them: for it, this is a store without any.
    let sees_links = !url.starts_with("rclone:");
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::write(elsewhere.path().join("0124"), b"content").unwrap();
    let data = place.server.files().join("data");
    symlink(elsewhere.path(), data.join("link")).unwrap();
    symlink(&data, data.join("circle")).unwrap();
    assert_eq!(listed(&store, "data"), ["data/0123"]);
    if sees_links {
        assert!(matches!(store.destroy(None).unwrap_err().reason(), Reason::Foreign { .. }));
        assert_eq!(std::fs::read(data.join("link/0124")).unwrap(), b"content");
        std::fs::remove_file(data.join("link")).unwrap();
        std::fs::remove_file(data.join("circle")).unwrap();
        place.open().destroy(None).unwrap();
    } else {
        store.destroy(None).unwrap();
    }
    assert!(!data.exists());
    assert_eq!(std::fs::read(elsewhere.path().join("0124")).unwrap(), b"content");
}

pub fn a_place_that_is_no_store_is_not_destroyed(place: &Place) {
    let store = place.create();
    store.store(&name("data/0123"), b"content").unwrap();
    store.store(&name("data/4567"), b"content").unwrap();
    store.soft_delete(&name("data/4567")).unwrap();
    let files = place.server.files();
    for foreign in ["notes", ".bashrc", "data/README", "data/ff/0123", "Documents/letter", "src/store/mod.rs"]
    {
        let path = files.join(foreign);
        let made = path.ancestors().find(|path| path.parent().is_some_and(Path::exists)).unwrap().to_owned();
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, b"foreign").unwrap();
        let error = place.open().destroy(None).unwrap_err();
        let Reason::Foreign { path: named } = error.reason() else { panic!("{foreign}: {error}") };
        assert!(foreign.starts_with(named.trim_end_matches('/')), "{foreign}: {error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"foreign");
        assert_eq!(listed(&store, "data"), ["data/0123", "data/4567.del"]);
        if made.is_dir() { std::fs::remove_dir_all(made) } else { std::fs::remove_file(made) }.unwrap();
    }
    // What stores write beside objects is no reason to refuse.
    std::fs::write(files.join("data/.treering-tmp-x.tmp"), b"half").unwrap();
    std::fs::write(files.join("data/quota.hid"), b"12").unwrap();
    store.destroy(None).unwrap();
    assert!(!files.join("data/0123").exists());
}

pub fn what_has_no_marker_is_destroyed_by_its_name_alone(place: &Place) {
    let name = place.url.name().to_owned();
    assert_eq!(place.server.files().file_name().unwrap().to_str(), Some(name.as_str()));
    let object = self::name("data/0123");
    for is_marked in [true, false] {
        let store = place.create();
        store.store(&object, b"content").unwrap();
        let marker = place.server.files().join("treering-store.hid");
        assert!(marker.is_file());
        if !is_marked {
            std::fs::remove_file(marker).unwrap();
            let error = place.open().destroy(None).unwrap_err();
            assert!(matches!(error.reason(), Reason::Unmarked { .. }), "{error}");
            assert!(error.to_string().contains(&name), "{error}");
        }
        for wrong in ["", "other", "/"] {
            let error = place.open().destroy(Some(wrong)).unwrap_err();
            assert!(matches!(error.reason(), Reason::Misnamed { .. }), "{error}");
        }
        assert_eq!(store.load(&object).unwrap(), b"content");
        store.destroy(Some(&name)).unwrap();
        assert!(!place.server.files().join("data/0123").exists());
    }
    // A directory that is not even a store is not destroyed by its name, either.
    place.create();
    let files = place.server.files();
    std::fs::remove_file(files.join("treering-store.hid")).unwrap();
    std::fs::create_dir_all(files.join("data")).unwrap();
    std::fs::write(files.join("data/Letter"), b"foreign").unwrap();
    for confirmed in [None, Some(name.as_str())] {
        let error = place.open().destroy(confirmed).unwrap_err();
        assert!(matches!(error.reason(), Reason::Foreign { .. }), "{error}");
    }
    assert_eq!(std::fs::read(files.join("data/Letter")).unwrap(), b"foreign");
}

pub fn of_clients_that_move_to_one_name_one_succeeds(place: &Place) {
    let store = place.create();
    let is_s3 = place.url.to_string().starts_with("s3:");
    if !is_webdav(place) && (is_s3 || !store.is_exclusive(&namespace("data")).unwrap()) {
        return;
    }
    for round in 0..5 {
        let target = name(&format!("data/round{round}"));
        let won: Vec<_> = thread::scope(|scope| {
            let (store, target) = (&store, &target);
            let racers: Vec<_> = (0..4_u8)
                .map(|racer| {
                    scope.spawn(move || {
                        let own = name(&format!("data/racer{racer}"));
                        store.store(&own, &[racer; 100]).unwrap();
                        match store.rename(&own, target) {
                            Ok(()) => Some(racer),
                            Err(error) if error.is_exists() => {
                                assert_eq!(store.load(&own).unwrap(), [racer; 100]);
                                None
                            }
                            Err(error) => panic!("{error}"),
                        }
                    })
                })
                .collect();
            racers.into_iter().filter_map(|racer| racer.join().unwrap()).collect()
        });
        assert_eq!(won.len(), 1, "round {round}");
        assert_eq!(store.load(&target).unwrap(), [won[0]; 100]);
    }
}

pub fn files_have_the_mode_that_the_umask_leaves(place: &Place) {
    let store = place.create();
    store.store(&name("data/0123"), b"content").unwrap();
    store.store_new(&name("data/4567"), b"content").unwrap();
    let data = place.server.files().join("data");
    let plain = File::create(data.join("plain")).unwrap().metadata().unwrap().mode();
    for file in ["0123", "4567"] {
        assert_eq!(std::fs::metadata(data.join(file)).unwrap().mode(), plain, "{file}");
    }
}
