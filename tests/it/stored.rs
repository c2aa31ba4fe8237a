//! How many bytes a change costs: only what is new.

use std::fs;

use crate::lab::Lab;
use crate::tree::{assert_same, noise};

/// What a snapshot costs beside its data: records, trees, a page.
const RECORDS: u64 = 8_000;

/// Backs up `before`, changes the source by `change`, backs up again, restores; returns the bytes that the
/// second backup added.
#[track_caller]
fn cost(before: impl Fn(&Lab), change: impl Fn(&Lab)) -> u64 {
    let mut lab = Lab::new();
    before(&lab);
    let first = lab.backup().snapshot.unwrap();
    let copy = lab.keep("copy");
    change(&lab);
    let report = lab.backup();
    let restored = lab.restore(&report.snapshot.unwrap(), "restored");
    assert_same(&lab.source(), &restored);
    assert_same(&copy, &lab.restore(&first, "first"));
    lab.check();
    report.bytes_added
}

fn source_code(lines: std::ops::Range<u32>) -> Vec<u8> {
    let line = |n: u32| {
        format!("    let value_{n} = compute({}, \"{:x}\");\n", n * 7, n.wrapping_mul(2_654_435_761))
    };
    lines.map(line).collect::<String>().into_bytes()
}

#[track_caller]
fn assert_between(cost: u64, least: u64, most: u64) {
    assert!((least..=most).contains(&cost), "{cost} bytes, expected {least} to {most}");
}

#[test]
fn pages_edited_in_place() {
    let cost = cost(
        |lab| lab.write("image", noise(16 << 20, 1)),
        |lab| {
            let mut image = fs::read(lab.source().join("image")).unwrap();
            for page in (0..4096).step_by(100) {
                image[page * 4096..][..4096].copy_from_slice(&noise(4096, page as u64 + 7));
            }
            lab.write("image", image);
        },
    );
    let changed = 41 * 4096;
    assert_between(cost, changed, changed * 11 / 10 + RECORDS);
}

#[test]
fn an_insertion_at_the_front_shifts_nothing() {
    let cost = cost(
        |lab| lab.write("large", noise(16 << 20, 1)),
        |lab| lab.write("large", [noise(1001, 2), noise(16 << 20, 1)].concat()),
    );
    assert_between(cost, 1001, 1001 + 2 * 4096 + RECORDS);
}

#[test]
fn an_append() {
    let cost = cost(
        |lab| lab.write("log", noise(5_000_000, 1)),
        |lab| lab.write("log", [noise(5_000_000, 1), noise(50_000, 2)].concat()),
    );
    assert_between(cost, 50_000, 50_000 + 2 * 4096 + RECORDS);
}

#[test]
fn a_truncation() {
    let cost = cost(|lab| lab.write("log", noise(5_000_000, 1)), |lab| lab.write("log", noise(3_333_333, 1)));
    assert_between(cost, 0, 2 * 4096 + RECORDS);
}

#[test]
fn a_rename_and_a_copy() {
    let cost = cost(
        |lab| lab.write("name", noise(1_000_000, 1)),
        |lab| {
            fs::copy(lab.source().join("name"), lab.source().join("copy")).unwrap();
            fs::rename(lab.source().join("name"), lab.source().join("other")).unwrap();
        },
    );
    assert_between(cost, 0, RECORDS);
}

#[test]
fn a_rename_with_an_edit() {
    let cost = cost(
        |lab| lab.write("name", noise(200_000, 1)),
        |lab| {
            fs::rename(lab.source().join("name"), lab.source().join("other")).unwrap();
            let mut file = fs::File::options().write(true).open(lab.source().join("other")).unwrap();
            use std::io::{Seek, SeekFrom, Write};
            file.seek(SeekFrom::Start(100_000)).unwrap();
            file.write_all(&noise(100, 3)).unwrap();
        },
    );
    assert_between(cost, 100, 1000 + RECORDS);
}

#[test]
fn a_line_changed_in_source_code() {
    let cost = cost(
        |lab| lab.write("code.rs", source_code(0..2000)),
        |lab| {
            let code =
                [source_code(0..1000), b"    // a new line\n".to_vec(), source_code(1001..2000)].concat();
            lab.write("code.rs", code);
        },
    );
    assert_between(cost, 18, 500 + RECORDS);
}

#[test]
fn a_return_to_an_older_state() {
    let mut lab = Lab::new();
    lab.write("file", noise(3_000_000, 1));
    lab.backup();
    lab.write("file", noise(3_000_000, 2));
    lab.backup();
    lab.write("file", noise(3_000_000, 1));
    let report = lab.backup();
    assert_eq!(report.statistics.bytes_volumes, 0);
    assert_between(report.bytes_added, 0, RECORDS);
}

#[test]
fn a_hole_that_is_filled_costs_what_fills_it() {
    use std::io::{Seek, SeekFrom, Write};
    let at = |lab: &Lab, offset: u64, bytes: &[u8]| {
        let path = lab.source().join("sparse");
        let mut file = fs::File::options().write(true).create(true).truncate(false).open(path).unwrap();
        file.seek(SeekFrom::Start(offset)).unwrap();
        file.write_all(bytes).unwrap();
    };
    let cost = cost(
        |lab| {
            at(lab, 0, &noise(4 << 20, 1));
            at(lab, 32 << 20, &noise(4 << 20, 2));
        },
        |lab| {
            at(lab, 16 << 20, &noise(64 << 10, 3));
            at(lab, 33 << 20, &noise(4096, 4));
        },
    );
    let changed = (64 << 10) + 4096;
    assert_between(cost, changed, changed + 3 * 4096 + RECORDS);
}

#[test]
fn chains_of_deltas_end() {
    let mut lab = Lab::new();
    let mut image = noise(1 << 20, 1);
    let mut snapshots = Vec::new();
    for round in 0..40u64 {
        let page = round as usize * 5;
        image[page * 4096..][..4096].copy_from_slice(&noise(4096, round + 100));
        lab.write("image", &image);
        let report = lab.backup();
        snapshots.push((report.snapshot.unwrap(), image.clone(), report.statistics));
    }
    let whole = snapshots.iter().filter(|(.., statistics)| statistics.segments_whole > 0).count();
    assert!((2..=6).contains(&whole), "{whole} of 40 snapshots stored something whole");
    for (number, (snapshot, image, _)) in snapshots.iter().enumerate().step_by(13) {
        let restored = lab.restore(snapshot, &format!("restored{number}"));
        assert!(fs::read(restored.join("image")).unwrap() == *image);
    }
    lab.check();
}
