//! What somebody can do to a backup whose directories he may change while it runs.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use treering::progress::Progress;
use treering::repository::{BackupOptions, Snapshot};

use crate::lab::{self, Lab};
use crate::tree::assert_same;

/// Backs `sources` up again and again, while somebody exchanges the directory `home/data` for a link to `secret`,
/// which lies outside; returns the snapshots.
fn backups_beside_an_exchange(lab: &mut Lab, sources: &[&str], exchanged: &str) -> Vec<Snapshot> {
    for (directory, name) in [("home/data/deep", "own"), ("secret/deep", "hidden")] {
        fs::create_dir_all(lab.path(directory)).unwrap();
        for number in 0..20 {
            fs::write(lab.path(directory).join(format!("{name}{number}")), format!("{name} {number}"))
                .unwrap();
            // The names that a scan finds in one lead to a file in the other.
            fs::write(lab.path(directory).join(number.to_string()), format!("{name} {number}")).unwrap();
        }
    }
    fs::create_dir_all(lab.path("other")).unwrap();
    let link = lab.path("elsewhere/link");
    fs::create_dir_all(link.parent().unwrap()).unwrap();
    symlink(lab.path("secret"), &link).unwrap();
    let exchanged = lab.path(exchanged);
    let is_over = AtomicBool::new(false);
    let paths = sources.iter().map(|source| lab.path(source)).collect::<Vec<_>>();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                renameat_with(CWD, &link, CWD, &exchanged, RenameFlags::EXCHANGE).unwrap();
            }
        });
        let mut snapshots = Vec::new();
        for number in 0..40 {
            lab.reopen();
            let options = BackupOptions {
                // Everything is read each time.
                force: true,
                ..BackupOptions::new(
                    paths.clone(),
                    jiff::Timestamp::now() + jiff::SignedDuration::from_secs(number),
                )
            };
            match lab.repository.backup(&options, &Progress::new()) {
                Ok(report) => snapshots.extend(report.snapshot),
                // The source itself was exchanged, and there is no other.
                Err(error) => assert_eq!(sources.len(), 1, "{error}"),
            }
        }
        is_over.store(true, Ordering::Relaxed);
        snapshots
    })
}

#[test]
fn a_file_with_the_name_of_a_temporary_one_is_a_file() {
    let mut lab = Lab::new();
    let mut child = std::process::Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    let names = [
        format!(".treering-tmp-{}-0", child.id()),
        format!(".treering-tmp-{}-0-0123456789abcdef", child.id()),
    ];
    names.iter().for_each(|name| lab.write(name, "a person's"));
    lab.write("file", "content");
    let snapshot = lab.backup().snapshot.unwrap();
    let target = lab.restore(&snapshot, "restored");
    for _ in 0..2 {
        // Something to do in the directory, so that it is swept.
        fs::write(target.join("file"), "other").unwrap();
        lab.restore(&snapshot, "restored");
        assert_same(&lab.source(), &target);
    }
}

#[test]
fn a_directory_that_is_exchanged_for_a_link_leads_nowhere() {
    for (sources, exchanged) in [
        (&["home"][..], "home/data"),
        (&["home", "other"], "home/data"),
        (&["home/data"], "home/data"),
        (&["home/data", "other"], "home/data"),
        (&["home"], "home/data/deep"),
    ] {
        let mut lab = Lab::new();
        let snapshots = backups_beside_an_exchange(&mut lab, sources, exchanged);
        assert!(!snapshots.is_empty());
        lab.reopen();
        let mut files = 0;
        for snapshot in &snapshots {
            for entry in lab::entries(&lab.repository, snapshot, None).unwrap() {
                let Some(content) = entry.content() else { continue };
                files += 1;
                // `own 7` and `hidden 7` differ in length.
                assert!(content.size < "hidden 0".len() as u64, "{sources:?}: {}", entry.path);
                assert!(!entry.path.to_string().contains("hidden"), "{sources:?}: {}", entry.path);
            }
        }
        assert!(files > 0, "{sources:?}: no backup came across the directory itself");
    }
}
