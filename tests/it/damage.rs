//! What is damaged, crossed with what is done next. Each case says what still works; what does not must say
//! what is wrong.

use std::error::Error;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use jiff::Timestamp;
use treering::digest::Digest;
use treering::gitkv::Git;
use treering::progress::Progress;
use treering::repository::{
    BackupOptions, BackupReport, CheckOptions, MaxUnused, PruneOptions, Repository, RepositoryError,
    RestoreOptions, Selector, Snapshot,
};

use crate::lab::{Lab, run};
use crate::tree::noise;

/// A repository of two snapshots: the file `bad` came with the first, `good` with the second. What is damaged
/// is most often of the first.
struct Scene {
    lab: Lab,
    snapshots: Vec<Snapshot>,
}

impl Scene {
    fn new() -> Self {
        let mut lab = Lab::new();
        lab.write("bad", noise(300_000, 1));
        let first = lab.backup().snapshot.unwrap();
        lab.write("good", noise(300_000, 2));
        let second = lab.backup().snapshot.unwrap();
        Self { lab, snapshots: vec![first, second] }
    }

    /// The path of a blob of the first or second snapshot.
    fn path(&self, kind: &str, number: usize, suffix: &str) -> String {
        let tree = self.lab.git(&["ls-tree", "-r", "--name-only", "HEAD", kind]);
        let key = self.snapshots[number].key.to_string();
        let path = tree.lines().find(|path| path.contains(&key) && path.ends_with(suffix));
        path.unwrap_or_else(|| panic!("{kind} {number} {suffix} in\n{tree}")).to_owned()
    }

    fn volume(&self) -> String {
        self.path("archives", 0, ".tar.gz")
    }

    /// A file of the layer that holds the blob at `path`, made writable.
    fn layer(&self, path: &str, extension: &str) -> PathBuf {
        let id = self.lab.git(&["rev-parse", &format!("HEAD:{path}")]).trim().parse().unwrap();
        let git = Git::open(&self.lab.path("repo")).unwrap();
        let name = git.layers().locate(&id).unwrap().layer.name().to_owned();
        let file = git.pack_dir().join(name).with_extension(extension);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        file
    }

    fn layer_name(&self, path: &str) -> String {
        self.layer(path, "pack").file_stem().unwrap().to_str().unwrap().to_owned()
    }

    fn garbage(&self, path: &str) {
        self.lab.replace(path, Some(b"garbage, for sure"));
    }

    fn truncate(&self, path: &str) {
        let file = fs::File::options().write(true).open(self.layer(path, "pack")).unwrap();
        file.set_len(100).unwrap();
    }
}

/// What restoring a snapshot into an empty directory comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Restored {
    All,
    /// All but the file `bad`, which is not there.
    AllButBad,
    /// Nothing: an error says why.
    Nothing,
}
use Restored::{All, AllButBad, Nothing};

/// Which check finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    AtOnce,
    ByReading,
}

struct Case {
    what: &'static str,
    damage: fn(&Scene),
    /// Whether all snapshots can be listed.
    listed: bool,
    restored: [Restored; 2],
    found: Found,
    /// What errors say, one of these at least.
    names: fn(&Scene) -> Vec<String>,
    /// What the first snapshot comes to after a further backup that reads every file again.
    afterwards: Restored,
}

fn segment() -> String {
    Digest::of(&noise(300_000, 1)).to_string()
}

fn volume_and_segment(scene: &Scene) -> Vec<String> {
    vec![scene.volume().trim_end_matches(".tar.gz").to_owned(), segment()]
}

/// The content of `bad` is damaged, and whatever would show that at once is not.
const CONTENT: Case = Case {
    what: "",
    damage: |_| (),
    listed: true,
    restored: [AllButBad, AllButBad],
    found: Found::ByReading,
    names: volume_and_segment,
    afterwards: All,
};

/// The volume of `bad` is known to be unusable.
const VOLUME: Case = Case { found: Found::AtOnce, ..CONTENT };

/// What can be known of the second snapshot's entries is damaged.
const PAGES: Case = Case { restored: [All, Nothing], ..VOLUME };

/// What can be known of the first snapshot is damaged.
const RECORD: Case = Case { listed: false, restored: [Nothing, All], afterwards: Nothing, ..VOLUME };

const CASES: &[Case] = &[
    Case {
        what: "a layer of volumes is cut off",
        damage: |scene| scene.truncate(&scene.volume()),
        found: Found::AtOnce,
        names: |scene| [volume_and_segment(scene), vec![scene.layer_name(&scene.volume())]].concat(),
        ..CONTENT
    },
    Case {
        what: "the pack of a layer of volumes is gone",
        damage: |scene| fs::remove_file(scene.layer(&scene.volume(), "pack")).unwrap(),
        found: Found::AtOnce,
        names: |scene| [volume_and_segment(scene), vec![scene.layer_name(&scene.volume())]].concat(),
        ..CONTENT
    },
    Case {
        what: "a byte in a layer of volumes is another",
        damage: |scene| {
            let pack = scene.layer(&scene.volume(), "pack");
            let mut bytes = fs::read(&pack).unwrap();
            bytes[150_000] ^= 1;
            fs::write(&pack, bytes).unwrap();
        },
        ..CONTENT
    },
    Case {
        what: "the index of a layer of volumes is gone",
        damage: |scene| fs::remove_file(scene.layer(&scene.volume(), "idx")).unwrap(),
        found: Found::AtOnce,
        ..CONTENT
    },
    Case {
        what: "a volume is garbage",
        damage: |scene| scene.garbage(&scene.volume()),
        found: Found::AtOnce,
        ..CONTENT
    },
    Case { what: "a volume is gone", damage: |scene| scene.lab.replace(&scene.volume(), None), ..VOLUME },
    Case {
        what: "a volume index is garbage",
        damage: |scene| scene.garbage(&scene.path("archives", 0, ".idx")),
        ..VOLUME
    },
    Case {
        what: "a volume index is gone",
        damage: |scene| scene.lab.replace(&scene.path("archives", 0, ".idx"), None),
        ..VOLUME
    },
    Case {
        what: "signatures are garbage",
        damage: |scene| scene.garbage(&scene.path("signatures", 0, "")),
        restored: [All, All],
        found: Found::ByReading,
        names: |scene| vec![scene.path("signatures", 0, "")],
        ..VOLUME
    },
    Case {
        what: "pages of the first snapshot are garbage",
        damage: |scene| scene.garbage(&scene.path("index", 0, "")),
        names: |scene| vec![scene.path("index", 0, "")],
        listed: true,
        ..RECORD
    },
    Case {
        what: "pages of the second snapshot are garbage",
        damage: |scene| scene.garbage(&scene.path("index", 1, "")),
        names: |scene| vec![scene.path("index", 1, "")],
        ..PAGES
    },
    Case {
        what: "pages of the second snapshot are gone",
        damage: |scene| scene.lab.replace(&scene.path("index", 1, ""), None),
        names: |scene| vec![scene.path("index", 1, "")],
        ..PAGES
    },
    Case {
        what: "the record of the first snapshot is garbage",
        damage: |scene| scene.garbage(&scene.path("snapshots", 0, "")),
        names: |scene| vec![scene.path("snapshots", 0, "")],
        ..RECORD
    },
    Case {
        what: "the layer of the first snapshot's records is cut off",
        damage: |scene| scene.truncate(&scene.path("snapshots", 0, "")),
        restored: [Nothing, AllButBad],
        names: |scene| vec![scene.path("snapshots", 0, ""), scene.snapshots[0].key.to_string(), segment()],
        ..RECORD
    },
];

fn text(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Restores the first or second snapshot, found by its time, and says how that went; errors must hold one of
/// `names`.
#[track_caller]
fn restore(scene: &Scene, number: usize, names: &[String]) -> Restored {
    let named = |text: String| assert!(names.iter().any(|name| text.contains(name)), "{text}\n{names:?}");
    let repository = Repository::open(&scene.lab.path("repo")).unwrap();
    let target = tempfile::tempdir().unwrap();
    let key = scene.snapshots[number].key.to_string();
    let restored = repository.find(&Selector::Id(key)).and_then(|snapshot| {
        repository.restore(&snapshot, &RestoreOptions::new(target.path()), &Progress::new())
    });
    let failures = match restored {
        Ok(report) => report.applied.failures,
        Err(error) => {
            named(text(&error));
            return Nothing;
        }
    };
    let has = |name: &str, seed| {
        fs::read(target.path().join(name)).is_ok_and(|bytes| bytes == noise(300_000, seed))
    };
    assert!(number == 0 || has("good", 2), "what is not affected is restored");
    if failures.is_empty() {
        assert!(has("bad", 1));
        return All;
    }
    assert_eq!(failures.iter().map(|failure| failure.path.to_string()).collect::<Vec<_>>(), ["bad"]);
    named(text(&failures[0]));
    assert!(!target.path().join("bad").exists());
    AllButBad
}

/// Whether a check finds something that one of `names` names.
#[track_caller]
fn is_found(scene: &Scene, read_data: bool, names: &[String]) -> bool {
    let repository = Repository::open(&scene.lab.path("repo")).unwrap();
    let options = CheckOptions { read_data, ..CheckOptions::default() };
    let faults = repository.check(&options, &Progress::new()).unwrap().faults;
    let shown: Vec<_> = faults.iter().map(ToString::to_string).collect();
    assert!(faults.is_empty() || names.iter().any(|name| shown.join("\n").contains(name)), "{shown:#?}");
    !faults.is_empty()
}

#[track_caller]
fn try_out(case: &Case) {
    let mut scene = Scene::new();
    let names = (case.names)(&scene);
    (case.damage)(&scene);
    scene.lab.reopen();
    let (snapshots, unreadable) = scene.lab.repository.readable_snapshots().unwrap();
    assert_eq!((snapshots.len(), unreadable.len()), if case.listed { (2, 0) } else { (1, 1) });
    assert!(unreadable.iter().all(|error| text(error).contains(&names[0])), "{unreadable:?}");
    assert_eq!(scene.lab.repository.snapshots().is_ok(), case.listed);
    if case.restored.contains(&Nothing) {
        let options = PruneOptions::new(Timestamp::now());
        let refused = scene.lab.repository.prune(&options, &Progress::new()).unwrap_err();
        assert!(matches!(refused, RepositoryError::UnknownNeeds { .. }), "{refused}");
        assert!(names.iter().any(|name| text(&refused).contains(name)), "{}", text(&refused));
    }
    for number in [0, 1] {
        assert_eq!(restore(&scene, number, &names), case.restored[number], "snapshot {number}");
    }
    assert_eq!(is_found(&scene, false, &names), case.found == Found::AtOnce);
    assert!(is_found(&scene, true, &names));

    scene.lab.write("new", "after the damage");
    let report = scene.lab.backup();
    let options = RestoreOptions::new(scene.lab.path("newest"));
    scene.lab.restore_with(&report.snapshot.unwrap(), &options);
    assert_eq!(fs::read(scene.lab.path("newest/new")).unwrap(), b"after the damage");
    assert_eq!(fs::read(scene.lab.path("newest/good")).unwrap(), noise(300_000, 2));
    let force = BackupOptions { force: true, ..scene.lab.options() };
    scene.lab.repository.backup(&force, &Progress::new()).unwrap();
    assert_eq!(restore(&scene, 0, &names), case.afterwards, "after another backup");
}

#[test]
fn what_is_not_damaged_still_works() {
    let mut failed = Vec::new();
    for case in CASES {
        if std::panic::catch_unwind(|| try_out(case)).is_err() {
            failed.push(case.what);
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn a_backup_stores_again_what_was_lost_though_no_file_changed() {
    let mut scene = Scene::new();
    // What hangs on the lost segment is lost with it, wherever it lies.
    let mut grown = noise(300_000, 1);
    grown[150_000] ^= 1;
    scene.lab.write("bad", &grown);
    let delta = scene.lab.backup();
    assert!(delta.statistics.segments_delta > 0, "{:?}", delta.statistics);
    scene.truncate(&scene.volume());
    scene.lab.reopen();
    let report = scene.lab.backup();
    assert_eq!((report.lost.len(), report.statistics.files_read), (1, 1), "{:?}", report.lost);
    assert_eq!((report.not_opened, report.statistics.files_unmodified), (1, 2));
    assert!(report.changes().is_empty());
    assert!(report.statistics.segments_whole > 0, "{:?}", report.statistics);
    let restored = scene.lab.restore(&report.snapshot.unwrap(), "restored");
    assert_eq!(fs::read(restored.join("bad")).unwrap(), grown);
    scene.lab.reopen();
    let again = scene.lab.backup();
    assert_eq!((again.lost.len(), again.statistics.files_read), (1, 0), "it is there now");
}

/// Changes four bytes of a pack, in the middle of what it holds of a volume.
fn damage_pack(scene: &Scene, volume: &str) {
    let pack = scene.layer(volume, "pack");
    let mut bytes = fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 4].iter_mut().for_each(|byte| *byte ^= 0x5a);
    fs::write(&pack, bytes).unwrap();
}

impl Scene {
    /// A backup that reads every file again.
    fn force(&mut self) -> BackupReport {
        self.lab.reopen();
        let options = BackupOptions { force: true, ..self.lab.options() };
        self.lab.repository.backup(&options, &Progress::new()).unwrap()
    }

    fn restored(&self, snapshot: &Snapshot) -> Vec<(String, Vec<u8>)> {
        let target = tempfile::tempdir().unwrap();
        let report = self.lab.restore_with(snapshot, &RestoreOptions::new(target.path()));
        assert!(report.applied.failures.is_empty(), "{:?}", report.applied.failures);
        let mut files = Vec::new();
        for file in fs::read_dir(target.path()).unwrap() {
            let file = file.unwrap();
            files.push((file.file_name().into_string().unwrap(), fs::read(file.path()).unwrap()));
        }
        files.sort();
        files
    }
}

#[test]
fn a_forced_backup_stores_again_whatever_it_cannot_read() {
    let mut scene = Scene::new();
    damage_pack(&scene, &scene.volume());
    let report = scene.force();
    assert_eq!((report.damaged, report.statistics.segments_whole), (1, 1), "{:?}", report.first_damage);
    let first = text(report.first_damage.as_ref().unwrap());
    assert!(volume_and_segment(&scene).iter().any(|name| first.contains(name)), "{first}");
    let files = [("bad".to_owned(), noise(300_000, 1)), ("good".to_owned(), noise(300_000, 2))];
    let snapshot = report.snapshot.unwrap();
    assert_eq!(scene.restored(&snapshot), files);
    assert_eq!(scene.restored(&scene.snapshots[1]), files, "earlier snapshots are whole again too");

    // It is the sound copy that is kept, and nothing is stored a third time.
    scene.lab.reopen();
    let options = PruneOptions { max_unused: MaxUnused::Percent(0.0), ..PruneOptions::new(Timestamp::now()) };
    scene.lab.repository.prune(&options, &Progress::new()).unwrap();
    scene.lab.reopen();
    scene.lab.check();
    let again = scene.force();
    assert_eq!((again.damaged, again.statistics.bytes_volumes), (0, 0));
    assert_eq!(scene.restored(&snapshot), files);
}

#[test]
fn a_forced_backup_makes_no_delta_of_what_is_damaged() {
    let mut scene = Scene::new();
    damage_pack(&scene, &scene.volume());
    let mut grown = noise(300_000, 1);
    grown[100] ^= 1;
    scene.lab.write("bad", &grown);
    let report = scene.force();
    assert!(report.damaged > 0);
    assert_eq!((report.statistics.segments_whole, report.statistics.segments_delta), (1, 0));
    assert_eq!(scene.restored(&report.snapshot.unwrap())[0].1, grown);
}

#[test]
fn what_a_backup_wanted_to_compare_with_and_could_not_read_is_told() {
    let mut lab = Lab::new();
    lab.write("small", noise(100_000, 3));
    let first = lab.backup().snapshot.unwrap();
    let mut scene = Scene { lab, snapshots: vec![first] };
    damage_pack(&scene, &scene.volume());
    let mut changed = noise(100_000, 3);
    changed[7] ^= 1;
    scene.lab.write("small", &changed);
    let report = scene.lab.backup();
    assert_eq!(report.damaged, 1);
    assert!(text(report.first_damage.as_ref().unwrap()).contains("archives/"));
    assert_eq!(scene.restored(&report.snapshot.unwrap()), [("small".to_owned(), changed)]);
}

#[test]
fn a_bad_page_hides_no_other_and_affects_whatever_shares_it() {
    let mut lab = Lab::new();
    for number in 0..1500 {
        lab.write(&format!("{number:04}"), format!("content {number}"));
    }
    let first = lab.backup().snapshot.unwrap();
    lab.write("1499", "other content");
    let second = lab.backup().snapshot.unwrap();
    let mut scene = Scene { lab, snapshots: vec![first, second] };
    let path = scene.path("index", 0, "");
    let mut bytes = scene.lab.git_bytes(&["cat-file", "blob", &format!("HEAD:{path}")]);
    let pages = scene.snapshots[0].record.pages.pages().unwrap();
    assert!(pages.len() > 3, "{pages:?}");
    // Neither has its checksum any more.
    for page in &pages[..2] {
        bytes[(page.offset + u64::from(page.len)) as usize - 5] ^= 0xff;
    }
    scene.lab.replace(&path, Some(&bytes));
    scene.lab.reopen();
    let report = scene.lab.repository.check(&CheckOptions::default(), &Progress::new()).unwrap();
    assert_eq!(report.faults.len(), 1, "one blob is damaged: {:#?}", report.faults);
    let mut affected: Vec<_> = scene.snapshots.iter().map(Snapshot::short_id).collect();
    affected.sort();
    assert!(report.faults.iter().all(|fault| fault.affects == affected), "{:#?}", report.faults);
    let shared = pages.len() as u64;
    assert!(report.pages > shared, "{} pages, {shared} of the first snapshot", report.pages);
    let sound: u64 = pages[2..].iter().map(|page| u64::from(page.entries)).sum();
    assert!(report.segments >= sound, "{} segments of {sound} files in sound pages", report.segments);
}

/// What happens to the repository as a whole: it does not open, and says why.
#[track_caller]
fn refused(damage: impl Fn(&Scene) -> String) -> Scene {
    let scene = Scene::new();
    let name = damage(&scene);
    let Err(error) = Repository::open(&scene.lab.path("repo")) else { panic!("it opens") };
    assert!(text(&error).contains(&name), "{}\n{name}", text(&error));
    scene
}

#[test]
fn without_its_configuration_a_repository_is_not_opened() {
    refused(|scene| {
        scene.garbage("config.cbor");
        "config.cbor is damaged".into()
    });
    refused(|scene| {
        scene.lab.replace("config.cbor", None);
        "config.cbor is damaged or missing".into()
    });
}

#[test]
fn a_branch_that_leads_nowhere_is_told() {
    let nowhere = "0123456789012345678901234567890123456789";
    refused(|scene| {
        fs::write(scene.lab.path("repo/refs/heads/main"), format!("{nowhere}\n")).unwrap();
        nowhere.into()
    });
    refused(|scene| {
        let pack = scene.layer(&scene.path("snapshots", 1, ""), "pack");
        let name = pack.file_stem().unwrap().to_str().unwrap().to_owned();
        fs::write(pack, "cut off").unwrap();
        name
    });
}

#[test]
fn the_damaged_index_of_a_layer_is_named_and_made_again_by_git() {
    for damage in [&b"garbage"[..], b""] {
        // Nothing is known without the configuration, and only some contents without a volume.
        let mut scene = refused(|scene| {
            let index = scene.layer("config.cbor", "idx");
            fs::write(&index, damage).unwrap();
            index.to_str().unwrap().into()
        });
        let index = scene.layer(&scene.volume(), "idx");
        fs::write(&index, damage).unwrap();
        for pack in fs::read_dir(scene.lab.path("repo/objects/pack")).unwrap() {
            let pack = pack.unwrap().path();
            if pack.extension().is_some_and(|end| end == "pack") {
                let index = pack.with_extension("idx");
                if fs::read(&index).unwrap() == damage {
                    fs::remove_file(&index).unwrap();
                    run(Command::new("git").arg("index-pack").arg(&pack));
                }
            }
        }
        scene.lab.reopen();
        scene.lab.check();
        assert_eq!(restore(&scene, 1, &[]), All);
    }
}
