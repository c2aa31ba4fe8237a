//! Encrypted repositories: who can write, who can read, and what nobody can see.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use jiff::Timestamp;
use treering::crypt::{self, Credential, CryptError, Identity, Lock, Passphrase};
use treering::digest::Digest;
use treering::progress::Progress;
use treering::remote::Remotes;
use treering::repository::{
    BackupOptions, BackupReport, CheckOptions, FORMAT_VERSION, Repository, RepositoryError, RestoreOptions,
};
use treering::{cbor, gitkv::Git};

use crate::lab::{self, Lab, run};
use crate::programs;
use crate::tree::{assert_same, everything, noise};

/// The repository as a host sees it that has no key.
fn host(lab: &Lab) -> Repository {
    Repository::open(&lab.path("repo")).unwrap().with_cache(&lab.path("cache")).unwrap()
}

/// A backup by that host.
#[track_caller]
fn backup(lab: &Lab) -> BackupReport {
    let report = host(lab).backup(&lab.options(), &Progress::new()).unwrap();
    assert!(report.problems.is_empty() && report.cache_error.is_none(), "{report:?}");
    report
}

/// Restores the newest snapshot with the key, and compares it with the source.
#[track_caller]
fn assert_latest_restores(lab: &Lab) {
    let snapshot = lab.open().snapshots().unwrap().pop().unwrap();
    let target = lab.path("restored");
    let _ = fs::remove_dir_all(&target);
    assert_same(&lab.source(), &lab.restore(&snapshot, "restored"));
}

fn cache_files(lab: &Lab) -> Vec<PathBuf> {
    let of_repository = fs::read_dir(lab.path("cache")).unwrap().next().unwrap().unwrap().path();
    let mut files: Vec<_> = fs::read_dir(of_repository).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| !path.ends_with("recipient"));
    files.sort();
    files
}

#[test]
fn with_the_key_everything_is_as_in_a_plain_repository() {
    let mut lab = Lab::encrypted();
    everything(&lab.source());
    lab.write("large", noise(3 << 20, 1));
    lab.write("small", "a small text\n".repeat(1000));
    let first = lab.backup().snapshot.unwrap();
    let mut large = noise(3 << 20, 1);
    large[1_000_000..1_000_100].copy_from_slice(&noise(100, 2));
    lab.write("large", &large);
    lab.write("small", "a small text\n".repeat(1000) + "and more\n");
    let report = lab.backup();
    assert_eq!((report.statistics.segments_whole, report.statistics.segments_delta), (0, 2));
    let second = report.snapshot.unwrap();
    assert_eq!(
        lab.repository.find(&treering::repository::Selector::Id(second.short_id())).unwrap().id,
        second.id
    );
    assert_same(&lab.source(), &lab.restore(&second, "restored"));
    let text = lab::cat(&lab.repository, &first, b"small").unwrap();
    assert_eq!(text, "a small text\n".repeat(1000).as_bytes());
    let changes = lab.repository.compare(&first, &second).unwrap().changes;
    assert_eq!(changes.len(), 2);
    lab.check();
    lab.git(&["fsck", "--strict"]);
}

#[test]
fn a_host_without_the_key_stays_incremental() {
    let lab = Lab::encrypted();
    for number in 0..300 {
        lab.write(&format!("dir{}/file{number}", number % 7), format!("content {number}"));
    }
    let mut large = noise(6 << 20, 1);
    lab.write("large", &large);
    let first = backup(&lab);
    assert_eq!((first.statistics.files_read, first.unread.snapshots), (301, 0));

    let second = backup(&lab);
    assert_eq!((second.statistics.files_read, second.statistics.pages_new), (0, 0));
    assert!(second.bytes_added < 5000, "{} bytes", second.bytes_added);

    for page in [100, 700, 1300] {
        large[page * 4096..(page + 1) * 4096].copy_from_slice(&noise(4096, page as u64));
    }
    lab.write("large", &large);
    fs::rename(lab.source().join("dir1/file1"), lab.source().join("moved")).unwrap();
    let third = backup(&lab);
    let statistics = third.statistics;
    assert_eq!((statistics.files_read, statistics.segments_whole), (2, 0), "{statistics:?}");
    assert!(statistics.segments_delta >= 1 && statistics.bytes_volumes < 20_000, "{statistics:?}");
    assert_eq!(third.parent, second.snapshot.map(|snapshot| snapshot.key.to_string()));
    assert_eq!((third.unread.snapshots, third.unread.volumes), (0, 0));
    assert_eq!(third.damaged, 0, "{:?}", third.first_damage);

    // A forced one cannot check what it relies on, and says so.
    let options = BackupOptions { force: true, ..lab.options() };
    let forced = host(&lab).backup(&options, &Progress::new()).unwrap();
    assert_eq!((forced.damaged, forced.statistics.bytes_volumes), (0, 0), "{:?}", forced.first_damage);
    assert!(forced.unread.segments > 300);
    assert_latest_restores(&lab);
    lab.check();
}

#[test]
fn a_lost_cache_costs_space_and_is_made_again_with_a_key() {
    let lab = Lab::encrypted();
    lab.write("one", noise(500_000, 1));
    let whole = backup(&lab).statistics.segments_whole;
    fs::remove_dir_all(lab.path("cache")).unwrap();
    let lost = backup(&lab);
    assert_eq!((lost.parent.is_none(), lost.unread.snapshots, lost.unread.volumes), (true, 1, 1));
    assert_eq!(lost.statistics.segments_whole, whole);
    assert_latest_restores(&lab);
    let again = backup(&lab);
    assert_eq!((again.statistics.files_read, again.unread.snapshots), (0, 1));

    fs::remove_dir_all(lab.path("cache")).unwrap();
    let with_key = lab.open().with_cache(&lab.path("cache")).unwrap();
    let report = with_key.backup(&lab.options(), &Progress::new()).unwrap();
    assert_eq!((report.statistics.files_read, report.unread.snapshots), (0, 0));
    let mut changed = noise(500_000, 1);
    changed[..100].fill(7);
    lab.write("one", changed);
    let without = backup(&lab);
    assert_eq!((without.unread.snapshots, without.unread.volumes), (0, 0));
    assert_eq!((without.statistics.segments_delta, without.statistics.segments_whole), (1, 0));
    assert_latest_restores(&lab);
    lab.check();
}

#[test]
fn a_damaged_cache_is_noticed_and_what_is_left_of_it_used() {
    let lab = Lab::encrypted();
    lab.write("one", noise(500_000, 1));
    lab.write("two", "a text\n".repeat(50));
    backup(&lab);
    let kept = lab.path("kept");
    run(Command::new("cp").arg("-a").arg(lab.path("cache")).arg(&kept));
    let files = cache_files(&lab);
    assert_eq!(files.len(), 4, "a record, pages, a volume index and signatures");
    let mut without_record = 0;
    for (number, file) in files.iter().enumerate() {
        fs::remove_dir_all(lab.path("cache")).unwrap();
        run(Command::new("cp").arg("-a").arg(&kept).arg(lab.path("cache")));
        let mut bytes = fs::read(file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(file, bytes).unwrap();
        lab.write("two", format!("another text {number}\n").repeat(50));
        let report = backup(&lab);
        // This cache knows the first backup at most. Where the record or the pages of that are lost, its volume
        // is still known, so nothing is stored again.
        let later = number as u64;
        if report.parent.is_none() {
            assert_eq!((report.unread.snapshots, report.unread.volumes), (later + 1, later), "which is told");
            without_record += 1;
            assert_eq!(report.statistics.segments_whole, 1, "only the new text");
        }
        assert_latest_restores(&lab);
    }
    assert_eq!(without_record, 2);
    lab.check();
}

#[test]
fn without_a_key_nothing_can_be_read() {
    let mut lab = Lab::encrypted();
    lab.write("file", "content");
    let snapshot = lab.backup().snapshot.unwrap();
    backup(&lab);
    let locked = Repository::open(&lab.path("repo")).unwrap();
    assert!(!locked.is_readable());
    let is_refused = |error: RepositoryError| assert!(matches!(error, RepositoryError::Encrypted), "{error}");
    is_refused(locked.snapshots().unwrap_err());
    is_refused(lab::entries(&locked, &snapshot, None).unwrap_err());
    is_refused(lab::cat(&locked, &snapshot, b"file").unwrap_err());
    let options = RestoreOptions::new(lab.path("out"));
    is_refused(locked.restore(&snapshot, &options, &Progress::new()).unwrap_err());
    is_refused(
        locked.add_key(&Lock::Recipient(Identity::generate().recipient()), Timestamp::now()).unwrap_err(),
    );
    assert_eq!(locked.count_snapshots().unwrap(), 2);

    let mut locked = locked;
    is_refused(locked.unlock(&[]).unwrap_err());
    for wrong in [
        Credential::Identity(Identity::generate()),
        Credential::Passphrase(Passphrase::new("guess".into()).unwrap()),
    ] {
        let error = locked.unlock(&[wrong]).unwrap_err();
        assert!(matches!(error, RepositoryError::WrongKey { .. }), "{error}");
    }
}

#[test]
fn a_check_without_the_key_finds_what_can_be_found() {
    let mut lab = Lab::encrypted();
    lab.write("file", noise(300_000, 1));
    lab.backup();
    let check = || {
        let options = CheckOptions { read_data: true, ..CheckOptions::default() };
        let locked = Repository::open(&lab.path("repo")).unwrap();
        locked.check(&options, &Progress::new()).unwrap()
    };
    let sound = check();
    assert_eq!((sound.snapshots, sound.volumes, sound.unread), (1, 1, 5));
    assert!(sound.layers > 0 && sound.faults.is_empty(), "{:?}", sound.faults);
    let tree = lab.git(&["ls-tree", "-r", "--name-only", "HEAD"]);
    for path in tree.lines().filter(|path| *path != "config.cbor") {
        let before = lab.git_bytes(&["show", &format!("HEAD:{path}")]);
        lab.replace(path, Some(b"not an age file"));
        assert!(!check().faults.is_empty(), "{path}");
        lab.replace(path, Some(&before));
    }
    assert!(check().faults.is_empty());
    let volume = tree.lines().find(|path| path.ends_with(".tar.gz.age")).unwrap();
    let before = lab.git_bytes(&["show", &format!("HEAD:{volume}")]);
    let mut changed = before.clone();
    changed[100_000] ^= 1;
    lab.replace(volume, Some(&changed));
    let with_key =
        lab.open().check(&CheckOptions { read_data: true, ..CheckOptions::default() }, &Progress::new());
    assert!(!with_key.unwrap().faults.is_empty(), "the key finds what was changed inside");
    lab.replace(volume, None);
    assert!(!check().faults.is_empty());
}

#[test]
fn keys_are_added_and_removed_and_open_what_was_written_before() {
    let mut lab = Lab::encrypted();
    lab.write("file", "content");
    let snapshot = lab.backup().snapshot.unwrap();
    let now = Timestamp::now();
    let first = lab.repository.keys(&[]).unwrap().remove(0).id;
    let (friend, owner) = (Identity::generate(), lab.identity.clone().unwrap());
    let passphrase = Passphrase::new("open sesame".into()).unwrap();
    let by = |identity: &Identity| vec![Credential::Identity(identity.clone())];
    let refused = lab.repository.remove_key(&first, &by(&owner), now).unwrap_err();
    assert!(matches!(refused, RepositoryError::LastKey(_)), "{refused}");

    let lock = Lock::Passphrase { passphrase: passphrase.clone(), work_factor: 4 };
    let second = lab.repository.add_key(&lock, now).unwrap();
    lab.repository.add_key(&Lock::Recipient(friend.recipient()), now).unwrap();
    let opens = |credential: Credential| {
        let mut repository = Repository::open(&lab.path("repo")).unwrap();
        repository.unlock(&[credential])?;
        lab::cat(&repository, &snapshot, b"file")
    };
    assert_eq!(opens(Credential::Passphrase(passphrase.clone())).unwrap(), b"content");
    assert_eq!(opens(Credential::Identity(friend.clone())).unwrap(), b"content");

    let refused = lab.repository.remove_key(&first, &by(&owner), now).unwrap_err();
    assert!(matches!(refused, RepositoryError::OnlyKey(_)), "{refused}");
    let refused = lab.repository.remove_key(&first, &by(&Identity::generate()), now).unwrap_err();
    assert!(matches!(refused, RepositoryError::WrongKey { .. }), "{refused}");
    for none in ["", "zz"] {
        let refused = lab.repository.remove_key(none, &by(&friend), now).unwrap_err();
        assert!(matches!(refused, RepositoryError::NoKeySlot(_)), "{refused}");
    }
    assert_eq!(lab.repository.remove_key(&first, &by(&friend), now).unwrap(), first);
    assert!(matches!(opens(Credential::Identity(owner)), Err(RepositoryError::WrongKey { .. })));
    let keys = lab.repository.keys(&by(&friend)).unwrap();
    assert_eq!(keys.iter().filter(|slot| slot.opens).count(), 1);
    assert!(keys.iter().any(|slot| slot.id == second && !slot.opens));
}

#[test]
fn a_configuration_that_names_another_recipient_is_refused() {
    let mut lab = Lab::encrypted();
    lab.write("file", "content");
    backup(&lab);
    let plain = Lab::new();
    let mut other = lab.repository.config().clone();
    other.encryption.as_mut().unwrap().recipient = Identity::generate().recipient().to_string();
    let mut none = plain.repository.config().clone();
    none.id.clone_from(&other.id);
    for (config, is_encrypted) in [(other, true), (none, false)] {
        lab.replace("config.cbor", Some(&cbor::to_vec(&config).unwrap()));
        let mut repository = Repository::open(&lab.path("repo")).unwrap();
        if is_encrypted {
            let owner = Credential::Identity(lab.identity.clone().unwrap());
            let refused = repository.unlock(&[owner]).unwrap_err();
            assert!(matches!(refused, RepositoryError::OtherRecipient { .. }), "{refused}");
        }
        let refused = repository.with_cache(&lab.path("cache")).err().unwrap();
        assert!(matches!(refused, RepositoryError::OtherRecipient { .. }), "{refused}");
    }
    lab.replace("config.cbor", Some(&cbor::to_vec(lab.repository.config()).unwrap()));
    lab.reopen();
    backup(&lab);
}

/// Everything that can be seen of a directory with a git repository: names and bytes of files, and all
/// objects, inflated.
fn visible(repository: &Path) -> Vec<u8> {
    let mut seen = Vec::new();
    for entry in walkdir::WalkDir::new(repository) {
        let entry = entry.unwrap();
        seen.extend(entry.path().strip_prefix(repository).unwrap().as_os_str().as_encoded_bytes());
        seen.push(b'\n');
        if entry.file_type().is_file() {
            seen.extend(fs::read(entry.path()).unwrap());
        }
    }
    for args in [
        &["cat-file", "--batch", "--batch-all-objects"][..],
        &["for-each-ref"],
        &["log", "--all", "--format=raw"],
    ] {
        let mut git = Command::new("git");
        let output = git.arg("-C").arg(repository).args(args).stderr(Stdio::null()).output().unwrap();
        assert!(output.status.success());
        seen.extend(output.stdout);
    }
    seen
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// Fills the source with words that nobody may see, and returns these and the hashes of what is there.
fn plant(lab: &Lab) -> Vec<Vec<u8>> {
    let words = [
        "plantedname",
        "planteddir",
        "plantedtext",
        "plantedtarget",
        "plantedhost",
        "planteduser",
        "plantedtag",
    ];
    let mut secrets: Vec<Vec<u8>> = words.iter().map(|word| word.as_bytes().to_vec()).collect();
    let contents = [b"plantedtext and more of it\n".repeat(40), noise(5_000, 3), noise(700_000, 4)];
    for (number, content) in contents.iter().enumerate() {
        lab.write(&format!("planteddir{number}/plantedname{number}"), content);
        let digest = Digest::of(content);
        secrets.extend([
            digest.to_string().into_bytes(),
            digest.as_bytes().to_vec(),
            content[..64.min(content.len())].to_vec(),
        ]);
    }
    let _ = symlink("plantedtarget", lab.source().join("link"));
    secrets.push(lab.source().to_str().unwrap().as_bytes().to_vec());
    secrets
}

#[test]
fn no_name_content_or_hash_can_be_seen() {
    if !programs::are_here(&["git"]) {
        return;
    }
    let see = |lab: &Lab| {
        let secrets = plant(lab);
        for round in 0..2 {
            let options = BackupOptions {
                host: "plantedhost".into(),
                user: "planteduser".into(),
                tags: vec!["plantedtag".into()],
                ..lab.options()
            };
            host(lab).backup(&options, &Progress::new()).unwrap();
            lab.write("planteddir0/plantedname0", format!("plantedtext, changed {round}\n").repeat(40));
        }
        let hub = lab.path("hub.git");
        run(Command::new("git").args(["init", "--quiet", "--bare"]).arg(&hub));
        let repository = host(lab);
        let who = repository.committer("planteduser", "plantedhost", Timestamp::now());
        let remotes = Remotes::open(repository.path(), FORMAT_VERSION).unwrap();
        remotes.add("hub", hub.to_str().unwrap()).unwrap();
        remotes.push("hub", &who).unwrap();
        let here = visible(&lab.path("repo"));
        let there = visible(&hub);
        let secrets_seen = |seen: &[u8]| secrets.iter().filter(|secret| contains(seen, secret)).count();
        (secrets_seen(&here), secrets_seen(&there))
    };
    assert_eq!(see(&Lab::encrypted()), (0, 0));
    // That the search finds what is to be found in a plain repository, where pages and texts are compressed.
    let (here, there) = see(&Lab::new());
    assert!(here >= 6 && there >= 6, "{here}, {there}");
}

#[test]
fn clones_merge_without_a_key() {
    let mut lab = Lab::encrypted();
    lab.write("here", "of here");
    lab.backup();
    let hub = lab.path("hub.git");
    Git::init(&hub, &[]).unwrap();
    let remotes = Remotes::open(&lab.path("repo"), FORMAT_VERSION).unwrap();
    remotes.add("hub", hub.to_str().unwrap()).unwrap();
    let who = lab.repository.committer("", "", Timestamp::now());
    remotes.push("hub", &who).unwrap();
    let clone = lab.path("clone");
    Remotes::clone_from(hub.to_str().unwrap(), &clone, FORMAT_VERSION).unwrap();
    let other = Repository::open(&clone).unwrap().with_cache(&lab.path("cache-of-clone")).unwrap();
    lab.write("there", "of there");
    let report = other.backup(&lab.options(), &Progress::new()).unwrap();
    assert_eq!((report.unread.snapshots, report.parent.is_none()), (1, true));
    Remotes::open(&clone, FORMAT_VERSION).unwrap().push("origin", &who).unwrap();
    let friend = Identity::generate();
    lab.reopen();
    let added = lab.repository.add_key(&Lock::Recipient(friend.recipient()), Timestamp::now()).unwrap();
    lab.backup();
    remotes.pull("hub", &who).unwrap();
    lab.reopen();
    assert_eq!(lab.repository.snapshots().unwrap().len(), 3);
    assert!(lab.repository.keys(&[]).unwrap().iter().any(|slot| slot.id == added));
    assert_same(&lab.source(), &lab.restore(&report.snapshot.unwrap(), "restored"));
    lab.check();
}

/// Runs a program with this as its input, and returns its output.
#[track_caller]
fn filter(command: &mut Command, input: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input).unwrap());
        child.wait_with_output().unwrap()
    });
    assert!(output.status.success(), "{command:?}");
    output.stdout
}

#[test]
fn the_program_age_opens_what_is_written_here() {
    if !programs::are_here(&["age", "age-keygen", "tar"]) {
        return;
    }
    let mut lab = Lab::encrypted();
    let key = lab.path("key.txt");
    run(Command::new("age-keygen").arg("-o").arg(&key));
    let friend = Identity::parse_file(&fs::read_to_string(&key).unwrap()).unwrap().remove(0);
    lab.write("file", noise(300_000, 1));
    lab.backup();
    let slot = lab.repository.add_key(&Lock::Recipient(friend.recipient()), Timestamp::now()).unwrap();
    let slot = lab.git_bytes(&["show", &format!("HEAD:keys/{slot}.age")]);
    let opened = filter(Command::new("age").arg("-d").arg("-i").arg(&key), &slot);
    let secret = lab.path("secret.txt");
    fs::write(&secret, opened).unwrap();
    let tree = lab.git(&["ls-tree", "-r", "--name-only", "HEAD", "archives/"]);
    let volume = tree.lines().find(|path| path.ends_with(".tar.gz.age")).unwrap();
    let volume = lab.git_bytes(&["show", &format!("HEAD:{volume}")]);
    let volume = filter(Command::new("age").arg("-d").arg("-i").arg(&secret), &volume);
    let names = filter(Command::new("tar").arg("tz"), &volume);
    let expected = format!("created/{}\n", Digest::of(&noise(300_000, 1)));
    assert_eq!(String::from_utf8(names).unwrap(), expected);
}

#[test]
fn what_the_program_age_writes_is_read_here() {
    if !programs::are_here(&["age"]) {
        return;
    }
    let (identity, friend) = (Identity::generate(), Identity::generate());
    let content = noise(200_000, 1);
    let recipients = [identity.recipient().to_string(), friend.recipient().to_string()];
    let file = filter(Command::new("age").args(["-r", &recipients[0], "-r", &recipients[1]]), &content);
    for identity in [&identity, &friend] {
        assert_eq!(crypt::decrypt(identity, &file).unwrap(), content);
        let fetch = |offset: u64, len: u64| Ok(file[offset as usize..][..len as usize].to_vec());
        let range = crypt::decrypt_range(identity, file.len() as u64, 65_530, 70_000, fetch).unwrap();
        assert_eq!(range, content[65_530..135_530]);
    }
    assert!(matches!(crypt::decrypt(&Identity::generate(), &file), Err(CryptError::OtherKey)));
    // A key that somebody made with age.
    let mut lab = Lab::encrypted();
    lab.write("file", "content");
    lab.backup();
    let mut opened = Vec::new();
    let tree = lab.git(&["ls-tree", "-r", "--name-only", "HEAD", "keys/"]);
    let slot = lab.git_bytes(&["show", &format!("HEAD:{}", tree.trim())]);
    let owner = lab.identity.clone().unwrap();
    std::io::Read::read_to_end(&mut crypt::decrypting(&owner, &slot[..]).unwrap(), &mut opened).unwrap();
    let armless = filter(Command::new("age").args(["-r", &recipients[1]]), &opened);
    lab.replace("keys/00000000.age", Some(&armless));
    let mut repository = Repository::open(&lab.path("repo")).unwrap();
    repository.unlock(&[Credential::Identity(friend)]).unwrap();
    assert_eq!(repository.snapshots().unwrap().len(), 1);
}
