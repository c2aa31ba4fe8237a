//! The real borgstore and this crate on one directory: either reads what the other wrote.
//!
//! The interpreter is `TREERING_PYTHON`, else `python3`; it must be able to import borgstore, which is
//! on PyPI.

use std::collections::BTreeMap;
use std::env;
use std::path::Path;
use std::process::Command;

use treering::digest::Digest;
use treering::store::{Algorithm, NamespaceOptions, Options, Reason, Store, StoreUrl};

use super::contract::{listed, name, namespace, noise};
use super::options;
use super::servers::missing;

/// Runs `code` with `store` open on `root`: `flat` at level 0, `nested` at level 2, `moved` from level 1
/// to 3.
fn borgstore(root: &Path, code: &str) -> Option<String> {
    let python = env::var_os("TREERING_PYTHON").unwrap_or_else(|| "python3".into());
    let has = Command::new(&python).args(["-c", "import borgstore"]).output();
    if !has.is_ok_and(|output| output.status.success()) {
        missing("borgstore (set TREERING_PYTHON to an interpreter that can import it)");
        return None;
    }
    let prelude = "import sys
from borgstore.store import Store
config = {'flat/': {'levels': [0]}, 'nested/': {'levels': [2]}, 'moved/': {'levels': [1, 3]}}
store = Store('file://' + sys.argv[1], config=config)
noise = open(sys.argv[2], 'rb').read()
def names(space, deleted=False):
    return sorted(info.name for info in store.list(space, deleted=deleted))
";
    let content = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(content.path(), noise(5000)).unwrap();
    let output = Command::new(&python)
        .args(["-c", &format!("{prelude}{code}")])
        .args([root, content.path()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

fn levels() -> Options {
    let at = |level, older: &[u8]| NamespaceOptions {
        level,
        older_levels: older.to_vec(),
        ..NamespaceOptions::default()
    };
    let namespaces = BTreeMap::from([
        (namespace("flat"), at(0, &[])),
        (namespace("nested"), at(2, &[])),
        (namespace("moved"), at(3, &[1])),
    ]);
    Options { namespaces, ..options() }
}

#[test]
fn this_crate_reads_what_borgstore_wrote() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let written = borgstore(
        &root,
        "store.create()
with store:
    store.store('flat/one', b'1')
    store.store('nested/0123456789', noise)
    store.store('nested/fedcba9876', b'deleted')
    store.move('nested/fedcba9876', delete=True)
    store.set_levels({'moved/': [1]})
    store.store('moved/0123456789', b'old level')
",
    );
    if written.is_none() {
        return;
    }
    let store = Store::open(&StoreUrl::file(&root).unwrap(), levels()).unwrap();
    assert_eq!(listed(&store, "flat"), ["flat/one"]);
    assert_eq!(listed(&store, "nested"), ["nested/0123456789", "nested/fedcba9876.del"]);
    let nested = name("nested/0123456789");
    assert_eq!(store.load(&nested).unwrap(), noise(5000));
    assert_eq!(store.load_range(&nested, 100, 50).unwrap(), noise(5000)[100..150]);
    assert_eq!(store.hash(&nested, Algorithm::Sha256).unwrap(), Digest::of(&noise(5000)).to_string());
    store.undelete(&name("nested/fedcba9876")).unwrap();
    assert_eq!(store.load(&name("nested/fedcba9876")).unwrap(), b"deleted");
    let moved = name("moved/0123456789");
    assert_eq!(store.load(&moved).unwrap(), b"old level");
    store.move_to_level(&moved).unwrap();

    let seen = borgstore(
        &root,
        "with store:
    print(names('nested'), names('nested', deleted=True), store.find('moved/0123456789'), store.load('moved/0123456789'))
",
    );
    let expected = "['0123456789', 'fedcba9876'] [] moved/01/23/45/0123456789 b'old level'\n";
    assert_eq!(seen.unwrap(), expected);

    // It has no marker, and becomes none of ours by being used.
    let error = Store::open(&StoreUrl::file(&root).unwrap(), levels()).unwrap().destroy(None).unwrap_err();
    assert!(matches!(error.reason(), Reason::Unmarked { .. }), "{error}");
    store.destroy(Some("store")).unwrap();
    assert!(!root.exists());
}

#[test]
fn borgstore_takes_a_marked_store_for_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let url = StoreUrl::file(&root).unwrap();
    let store = Store::create(&url, levels()).unwrap();
    store.store(&name("flat/one"), b"1").unwrap();
    let marker = std::fs::read_to_string(root.join("treering-store.hid")).unwrap();
    assert!(marker.contains("made by treering"), "{marker}");
    let seen = borgstore(
        &root,
        "from borgstore.backends.errors import BackendAlreadyExists
from borgstore.backends.posixfs import get_file_backend
try:
    store.create()
except BackendAlreadyExists:
    print('there')
with store:
    print(names('flat'), [info.name for info in store.backend.list('')])
quota = Store(backend=get_file_backend('file://' + sys.argv[1], quota=1000), config=config)
with quota:
    quota.store('flat/two', b'2')
",
    );
    let Some(seen) = seen else { return };
    assert_eq!(seen, "there\n['one'] ['flat']\n");
    assert_eq!(std::fs::read_to_string(root.join("treering-store.hid")).unwrap(), marker);
    // With borgstore's count beside it.
    assert_eq!(listed(&store, "flat"), ["flat/one", "flat/two"]);
    borgstore(&root, "store.destroy()\n");
    assert!(!root.exists());
    Store::create(&url, levels()).unwrap().destroy(None).unwrap();
    assert!(!root.exists());
}

#[test]
fn borgstore_reads_what_this_crate_wrote() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let url = StoreUrl::file(&root).unwrap();
    let store = Store::create(&url, levels()).unwrap();
    store.store(&name("flat/one"), b"1").unwrap();
    store.store(&name("nested/0123456789"), &noise(5000)).unwrap();
    store.store(&name("nested/fedcba9876"), b"deleted").unwrap();
    store.soft_delete(&name("nested/fedcba9876")).unwrap();
    let moved = NamespaceOptions { level: 1, ..NamespaceOptions::default() };
    let older = Options { namespaces: BTreeMap::from([(namespace("moved"), moved)]), ..options() };
    Store::open(&url, older).unwrap().store(&name("moved/0123456789"), b"old level").unwrap();
    // What an interrupted store leaves.
    std::fs::write(root.join("flat/.treering-tmp-abc123.tmp"), b"half").unwrap();

    let seen = borgstore(
        &root,
        "with store:
    print(names('flat'), names('nested'), names('nested', deleted=True))
    print(store.load('nested/0123456789') == noise)
    print(store.load('nested/0123456789', offset=100, size=50) == noise[100:150])
    print(store.load('nested/fedcba9876', deleted=True), store.hash('flat/one'))
    store.move('nested/fedcba9876', undelete=True)
    store.move('moved/0123456789', change_level=True)
    store.store('nested/0123456789', b'replaced')
",
    );
    let Some(seen) = seen else { return };
    let hash = Digest::of(b"1");
    assert_eq!(seen, format!("['one'] ['0123456789'] ['fedcba9876']\nTrue\nTrue\nb'deleted' {hash}\n"));
    assert_eq!(store.load(&name("nested/fedcba9876")).unwrap(), b"deleted");
    assert_eq!(store.load(&name("nested/0123456789")).unwrap(), b"replaced");
    assert_eq!(store.load(&name("moved/0123456789")).unwrap(), b"old level");
    assert!(root.join("moved/01/23/45/0123456789").is_file());
}
