//! What released versions wrote is still listed, restored and extended.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use treering::cbor;
use treering::crypt::{Credential, Identity, Lock, Passphrase};
use treering::delta::SegmentParams;
use treering::diff::{Entry, Kind};
use treering::digest::Digest;
use treering::progress::Progress;
use treering::repository::{
    BackupOptions, CheckOptions, Config, FORMAT_VERSION, Repository, RestoreOptions, Snapshot,
};
use treering::{DiffData, DiffIndex, DirIndex, apply_diff};

use crate::lab::{self, Lab, run};
use crate::tree::{assert_same, is_root, noise, unlock};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// The directories below `fixtures/format`.
fn formats() -> Vec<PathBuf> {
    let entries = fs::read_dir(fixtures().join("format")).unwrap();
    let mut formats: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    formats.sort();
    formats
}

/// A fixture whose repository was unpacked into a temporary directory.
struct Unpacked {
    dir: tempfile::TempDir,
    fixture: PathBuf,
    repository: Repository,
}

impl Unpacked {
    fn new(fixture: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let packed = fs::File::open(fixture.join("repository.tar")).unwrap();
        tar::Archive::new(packed).unpack(dir.path()).unwrap();
        let mut repository = Repository::open(&dir.path().join("repo")).unwrap();
        if let Ok(text) = fs::read_to_string(fixture.join("identity.txt")) {
            let identity = Identity::parse_file(&text).unwrap().remove(0);
            let passphrase = Passphrase::new("the passphrase of the fixture".into()).unwrap();
            repository.unlock(&[Credential::Passphrase(passphrase)]).unwrap();
            repository.unlock(&[Credential::Identity(identity)]).unwrap();
        }
        Self { dir, fixture: fixture.to_owned(), repository }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What is written down of snapshot `number`, counted from 1.
    fn written_down(&self, number: usize) -> String {
        fs::read_to_string(self.fixture.join(format!("{number}.txt"))).unwrap()
    }

    #[track_caller]
    fn restore(&self, snapshot: &Snapshot, to: &str) -> PathBuf {
        let target = self.path(to);
        let mut options = RestoreOptions { verify: true, ..RestoreOptions::new(&target) };
        if !takes_attributes(self.dir.path()) {
            options.exclude.push("coloured".into());
        }
        let report = self.repository.restore(snapshot, &options, &Progress::new()).unwrap();
        assert!(report.applied.failures.is_empty(), "{:?}", report.applied.failures);
        // Nobody but root can give files away.
        assert!(report.mismatches.is_empty() || !is_root(), "{:?}", report.mismatches);
        target
    }
}

impl Drop for Unpacked {
    fn drop(&mut self) {
        unlock(self.dir.path());
    }
}

fn takes_attributes(dir: &Path) -> bool {
    let probe = dir.join("probe");
    fs::write(&probe, "").unwrap();
    let takes = xattr::set(&probe, "user.probe", b"x").is_ok();
    fs::remove_file(&probe).unwrap();
    takes
}

/// What a snapshot holds, a line an entry.
fn describe(repository: &Repository, snapshot: &Snapshot) -> String {
    let mut text = String::new();
    for entry in lab::entries(repository, snapshot, None).unwrap() {
        let Entry { path, kind, meta } = &entry;
        let what = match kind {
            Kind::File(content) => {
                let bytes = lab::cat(repository, snapshot, path.as_bytes()).unwrap();
                let linked = if content.link.is_some() { " linked" } else { "" };
                format!("file {} {} holes {:?}{linked}", content.size, Digest::of(&bytes), content.holes())
            }
            Kind::Symlink(target) => format!("link to {}", target.escape_ascii()),
            other => format!("{other:?}").to_lowercase(),
        };
        let path = path.as_bytes().escape_ascii();
        let owner = format!("{}:{}", meta.uid, meta.gid);
        let time = format!("{}.{:09}", meta.mtime.seconds, meta.mtime.nanos);
        write!(text, "\"{path}\" {what} {:o} {owner} {time}", meta.mode).unwrap();
        for (name, value) in meta.xattrs.iter().flat_map(|xattrs| xattrs.iter()) {
            write!(text, " {}={}", name.escape_ascii(), value.escape_ascii()).unwrap();
        }
        text.push('\n');
    }
    text
}

#[test]
fn every_fixture_is_in_the_list() {
    let list = fs::read_to_string(fixtures().join("README.md")).unwrap();
    let formats = formats();
    for fixture in &formats {
        let name = fixture.file_name().unwrap().to_str().unwrap();
        assert!(list.contains(&format!("| `format/{name}` |")), "fixtures/README.md does not list {name}");
    }
    let newest = format!("v{FORMAT_VERSION}");
    assert!(formats.iter().any(|fixture| fixture.ends_with(&newest)), "there is no fixture of {newest}");
}

#[test]
fn repositories_of_every_format_are_listed_and_restored() {
    for fixture in formats() {
        let unpacked = Unpacked::new(&fixture);
        let snapshots = unpacked.repository.snapshots().unwrap();
        assert_eq!(snapshots.len(), 4);
        for (number, snapshot) in (1..).zip(&snapshots) {
            let written_down = unpacked.written_down(number);
            assert_eq!(describe(&unpacked.repository, snapshot), written_down, "snapshot {number}");
            let restored = unpacked.restore(snapshot, &format!("restored{number}"));
            for entry in DirIndex::scan(&restored).unwrap().entries {
                let Some(content) = entry.content() else { continue };
                let bytes = fs::read(restored.join(entry.path.as_path())).unwrap();
                let what = format!("file {} {} ", content.size, Digest::of(&bytes));
                assert!(written_down.contains(&what), "{} of snapshot {number}: {what}", entry.path);
            }
        }
        let options = CheckOptions { read_data: true, ..CheckOptions::default() };
        let report = unpacked.repository.check(&options, &Progress::new()).unwrap();
        assert!(report.faults.is_empty(), "{:?}", report.faults);
    }
}

#[test]
fn repositories_of_every_format_are_extended() {
    for fixture in formats() {
        let unpacked = Unpacked::new(&fixture);
        let snapshots = unpacked.repository.snapshots().unwrap();
        let source = unpacked.restore(&snapshots[3], "source");
        let many = source.join("many");
        let mut bytes = fs::read(&many).unwrap();
        bytes[30_000..30_100].copy_from_slice(&noise(100, 99));
        fs::write(&many, bytes).unwrap();
        let options = BackupOptions::new(vec![source.clone()], jiff::Timestamp::now());
        let report = unpacked.repository.backup(&options, &Progress::new()).unwrap();
        assert_eq!(report.parent, Some(snapshots[3].key.to_string()));
        assert!(report.statistics.bytes_volumes < 1500, "a delta against what is there already");
        assert_eq!(unpacked.repository.recipient().is_some(), fixture.join("identity.txt").exists());
        assert_same(&source, &unpacked.restore(&report.snapshot.unwrap(), "restored"));
        assert_eq!(describe(&unpacked.repository, &snapshots[0]), unpacked.written_down(1));
    }
}

#[test]
fn differences_of_every_format_are_applied() {
    let mut with_differences = formats();
    with_differences.retain(|fixture| fixture.join("changes.diff").exists());
    assert!(!with_differences.is_empty());
    for fixture in with_differences {
        let unpacked = Unpacked::new(&fixture);
        let snapshots = unpacked.repository.snapshots().unwrap();
        let replica = unpacked.restore(&snapshots[0], "replica");
        let old = DirIndex::from_file(fixture.join("old.index")).unwrap();
        assert_eq!(old.entries.len(), unpacked.written_down(1).lines().count());
        assert!(!old.signatures.is_empty());
        for index in ["beside", "missing"] {
            let archive = unpacked.path(&format!("{index}.tar.gz"));
            fs::copy(fixture.join("changes.tar.gz"), &archive).unwrap();
            if index == "beside" {
                let beside = unpacked.path("beside.tar.gz.idx");
                fs::copy(fixture.join("changes.tar.gz.idx"), beside).unwrap();
            }
            let replica = match index {
                "beside" => replica.clone(),
                _ => unpacked.restore(&snapshots[0], "other-replica"),
            };
            let diff = DiffIndex::from_file(fixture.join("changes.diff")).unwrap();
            let report = apply_diff(&replica, &diff, &DiffData::open(&archive, &diff).unwrap()).unwrap();
            assert!(report.failures.is_empty(), "{:?}", report.failures);
            assert_same(&unpacked.restore(&snapshots[3], &format!("last-{index}")), &replica);
        }
    }
}

/// Every time in the fixture, so that it depends on no clock.
fn settle(root: &Path) {
    for (number, entry) in (0..).zip(walkdir::WalkDir::new(root).contents_first(true).sort_by_file_name()) {
        let entry = entry.unwrap();
        let time = rustix::fs::Timespec { tv_sec: 1_700_000_000 + number, tv_nsec: 123_456_789 };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(rustix::fs::CWD, entry.path(), &times, flags).unwrap();
    }
}

fn lines(changed: usize) -> String {
    (0..200)
        .map(|n| if n == changed { "another line\n".into() } else { format!("line {n} of a text\n") })
        .collect()
}

/// Brings the source of the fixture to the state of snapshot `number`.
fn change(source: &Path, number: usize) {
    use std::os::unix::fs::{FileExt, chown, symlink};
    let path = |name: &str| source.join(name);
    let write = |name: &str, bytes: &[u8]| fs::write(path(name), bytes).unwrap();
    let many = noise(60_000, 1);
    match number {
        1 => {
            fs::create_dir_all(path("dir/empty")).unwrap();
            write("dir/blank", b"");
            write("dir/text", lines(200).as_bytes());
            write("many", &many);
            write("moves", &noise(5000, 2));
            write("coloured", b"see the attribute");
            xattr::set(path("coloured"), "user.colour", b"green\0").unwrap();
            write("owned", b"by a number");
            chown(path("owned"), Some(1234), Some(4321)).unwrap();
            fs::hard_link(path("dir/text"), path("linked")).unwrap();
            symlink("dir/text", path("symlink")).unwrap();
            write("goes", b"away");
            fs::write(source.join(OsStr::from_bytes(b"not \xff utf-8\n")), "odd").unwrap();
            let fifo = rustix::fs::FileType::Fifo;
            rustix::fs::mknodat(rustix::fs::CWD, path("fifo"), fifo, rustix::fs::Mode::RUSR, 0).unwrap();
            let sparse = fs::File::create(path("sparse")).unwrap();
            sparse.write_all_at(&noise(4096, 3), 1 << 20).unwrap();
            sparse.set_len(4 << 20).unwrap();
        }
        2 => {
            write("dir/text", lines(77).as_bytes());
            let mut edited = many;
            edited[20_000..20_050].copy_from_slice(&noise(50, 4));
            write("many", &edited);
            fs::rename(path("moves"), path("dir/moved")).unwrap();
            fs::remove_file(path("goes")).unwrap();
        }
        3 => {
            write("many", &[many, noise(3000, 5)].concat());
            let sparse = fs::File::options().write(true).open(path("sparse")).unwrap();
            sparse.write_all_at(&noise(4096, 6), 2 << 20).unwrap();
            fs::remove_file(path("linked")).unwrap();
            write("linked", lines(78).as_bytes());
            fs::hard_link(path("many"), path("dir/many")).unwrap();
        }
        _ => {
            write("many", &many);
            fs::set_permissions(path("dir"), fs::Permissions::from_mode(0o2750)).unwrap();
            fs::set_permissions(path("owned"), fs::Permissions::from_mode(0o4711)).unwrap();
        }
    }
    settle(source);
}

#[test]
#[ignore = "writes into fixtures/"]
fn make_the_fixture_of_this_format() {
    let fixture = fixtures().join(format!("format/v{FORMAT_VERSION}"));
    let _ = fs::remove_dir_all(&fixture);
    let lab = fill(Lab::new(), &fixture);
    let old = DirIndex::from_file(fixture.join("old.index")).unwrap();
    let diff = DiffIndex::compute(&old, &DirIndex::scan(lab.source()).unwrap());
    DiffData::create_archive(fixture.join("changes.tar.gz"), &diff).unwrap();
    diff.to_file(fixture.join("changes.diff")).unwrap();
    open_to_all(&fixture);
}

#[test]
#[ignore = "writes into fixtures/"]
fn make_the_encrypted_fixture_of_this_format() {
    let fixture = fixtures().join(format!("format/v{FORMAT_VERSION}-encrypted"));
    let _ = fs::remove_dir_all(&fixture);
    fs::create_dir_all(&fixture).unwrap();
    let key = fixture.join("identity.txt");
    run(Command::new("age-keygen").arg("-o").arg(&key));
    let mut lab = Lab::encrypted();
    let now = jiff::Timestamp::now();
    let owner = Identity::parse_file(&fs::read_to_string(&key).unwrap()).unwrap().remove(0);
    let old = lab.repository.keys(&[]).unwrap().remove(0).id;
    lab.repository.add_key(&Lock::Recipient(owner.recipient()), now).unwrap();
    let passphrase = Passphrase::new("the passphrase of the fixture".into()).unwrap();
    lab.repository.add_key(&Lock::Passphrase { passphrase, work_factor: 10 }, now).unwrap();
    lab.repository.remove_key(&old, &[Credential::Identity(owner.clone())], now).unwrap();
    lab.identity = Some(owner);
    fill(lab, &fixture);
    fs::remove_file(fixture.join("old.index")).unwrap();
    open_to_all(&fixture);
}

/// Makes the snapshots of a fixture in the repository of `lab`, and writes down what is in them.
fn fill(mut lab: Lab, fixture: &Path) -> Lab {
    assert!(is_root(), "the fixture holds files of other owners: run this as root");
    fs::create_dir_all(fixture).unwrap();
    let segments = SegmentParams::new(2 << 10, 8 << 10, 32 << 10).unwrap();
    let config = Config { segments, ..lab.repository.config().clone() };
    lab.replace("config.cbor", Some(&cbor::to_vec(&config).unwrap()));
    for number in 1..=4 {
        change(&lab.source(), number);
        if number == 1 {
            DirIndex::scan(lab.source()).unwrap().to_file(fixture.join("old.index")).unwrap();
        }
        let time = UNIX_EPOCH + Duration::from_secs(1_700_000_000 + 86_400 * number as u64);
        let options = BackupOptions { time: time.try_into().unwrap(), ..lab.options() };
        lab.reopen();
        let report = lab.repository.backup(&options, &Progress::new()).unwrap();
        let described = describe(&lab.repository, &report.snapshot.unwrap());
        fs::write(fixture.join(format!("{number}.txt")), described).unwrap();
    }
    let mut packed = tar::Builder::new(fs::File::create(fixture.join("repository.tar")).unwrap());
    packed.append_dir_all("repo", lab.path("repo")).unwrap();
    packed.finish().unwrap();
    lab
}

/// As git will check them out.
fn open_to_all(fixture: &Path) {
    for file in fs::read_dir(fixture).unwrap() {
        fs::set_permissions(file.unwrap().path(), fs::Permissions::from_mode(0o644)).unwrap();
    }
}
