//! Time-indexed blobs, and keys and values, beside the programs that they come from.
//!
//! Run with `TREERING_PYTHON` naming a Python that has gitblobts and gitkv, it times them too, on the same machine in the same
//! run; without it, itself alone. Each figure is the median of some rounds. What treering adds is durable when the clock stops;
//! gitblobts and gitkv sync nothing.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use treering::gitkv::{GitKv, OpenMode, Person};
use treering::timeline::{Blobs, Codec, Layout};

#[path = "../tests/it/python.rs"]
mod python;

const ROUNDS: u32 = 21;
const BLOBS: i64 = 100_000;
const KEYS: u32 = 10_000;

/// What is timed, under the name that `beside_originals.py` gives it, and what is to be reached.
const GOALS: [(&str, &str, &str); 5] = [
    ("add 500", "500 blobs of 1 kB in one call", "50 times as fast"),
    ("add 1", "one blob with a commit", "5 times as fast"),
    ("range", "100 of 100,000 blobs by time", "under 20 ms"),
    ("range flat", "the same in a repository of gitblobts", ""),
    ("kv put", "one of 10,000 keys set", "20 times as fast"),
];

fn main() {
    // As every bench is also run by `cargo test --benches`, which does not ask for figures.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let ours = treering(dir.path());
    let originals = originals(dir.path());
    println!("{:<40} {:>10} {:>10} {:>7}  to be reached", "", "treering", "original", "times");
    for (name, what, goal) in GOALS {
        let ours = ours[name];
        // In a repository of its own gitblobts has but one way to find a range.
        let original = originals.get(if name == "range flat" { "range" } else { name });
        let (shown, times) = match original {
            Some(original) => {
                (milliseconds(*original), format!("{:.1}", original.as_secs_f64() / ours.as_secs_f64()))
            }
            None => ("-".into(), "-".into()),
        };
        println!("{what:<40} {:>10} {shown:>10} {times:>7}  {goal}", milliseconds(ours));
    }
}

fn treering(dir: &Path) -> HashMap<&'static str, Duration> {
    let mut figures = HashMap::new();
    let blobs = Blobs::create(&dir.join("ours.git"), Codec::default()).unwrap();
    let content = |number: i64| format!("{number:04}").repeat(256);
    let median = |run: &mut dyn FnMut(i64)| {
        let mut rounds: Vec<_> = (0..i64::from(ROUNDS))
            .map(|round| {
                let start = Instant::now();
                run(round);
                start.elapsed()
            })
            .collect();
        rounds.sort_unstable();
        rounds[rounds.len() / 2]
    };

    let add = &mut |round| drop(blobs.add(content(round).as_bytes(), second(round), &who()).unwrap());
    figures.insert("add 1", median(add));
    let add_many = &mut |round| {
        let blobs_of_round =
            (round * 500..(round + 1) * 500).map(|number| (second(number), content(number % 500)));
        blobs.add_many(blobs_of_round, &who()).unwrap();
    };
    figures.insert("add 500", median(add_many));

    let dated = Blobs::create(&dir.join("dated.git"), Codec::default()).unwrap();
    let flat = flat(&dir.join("many.git"));
    // 200 blobs a day in the one, and a blob a second in the other, as beside_originals.py expects it.
    for (name, blobs, step) in [("range", dated, 432), ("range flat", flat, 1)] {
        // A layer for each thousand blobs.
        for first in (1..BLOBS).step_by(1000) {
            let thousand = (first..first + 1000).map(|number| (second(number * step), content(number % 500)));
            blobs.add_many(thousand, &who()).unwrap();
        }
        let path = blobs.timeline().git().path().to_owned();
        let range = &mut |round: i64| {
            let (from, to) = (50_000 + round, 50_099 + round);
            // Opened anew, so that nothing is found in memory.
            let blobs = Blobs::open(&path, Codec::default()).unwrap();
            let found = blobs.range(second(from * step), second(to * step)).unwrap();
            assert_eq!(found.collect::<Result<Vec<_>, _>>().unwrap().len(), 100);
        };
        figures.insert(name, median(range));
    }

    let path = dir.join("kv.git");
    init_bare(&path);
    let kv = GitKv::open(&path).unwrap();
    kv.transaction(&who(), "Set all keys", |keys| {
        (0..KEYS).try_for_each(|key| {
            keys.set(format!("{:03}/{:04}", key % 100, key / 100), format!("value {key}\n"))
        })
    })
    .unwrap();
    let put = &mut |round| {
        // Opened anew, as gitkv does it.
        let kv = GitKv::open(&path).unwrap();
        let mut file = kv.file(format!("005/{round:04}"), OpenMode::Write).unwrap();
        std::io::Write::write_all(&mut file, format!("other value {round}\n").as_bytes()).unwrap();
        file.commit(&who()).unwrap().expect("it is another value");
    };
    figures.insert("kv put", median(put));
    figures
}

/// A repository that a blob of time 0 makes one of gitblobts.
fn flat(path: &Path) -> Blobs {
    let kv = GitKv::create(path).unwrap();
    kv.transaction(&who(), "Begin", |keys| keys.set("BQ==.AQ==", "0")).unwrap();
    let blobs = Blobs::open(path, Codec::default()).unwrap();
    assert_eq!(blobs.layout().unwrap(), Layout::Gitblobts);
    blobs
}

/// What the originals take, or nothing where they are not installed.
fn originals(dir: &Path) -> HashMap<String, Duration> {
    Blobs::create(&dir.join("blobs.git"), Codec::default()).unwrap();
    let script = include_str!("beside_originals.py");
    let figures = python::run("gitblobts", script, &[dir.as_os_str()]).unwrap_or_default();
    let figure = |line: &str| {
        let (name, seconds) = line.split_once('\t').expect("a name, a tabulator and seconds");
        (name.to_owned(), Duration::from_secs_f64(seconds.parse().expect("seconds")))
    };
    figures.lines().map(figure).collect()
}

/// An empty bare repository on the branch that gitkv pushes to.
fn init_bare(path: &Path) {
    fs::create_dir(path).unwrap();
    let init = Command::new("git").args(["init", "-q", "--bare", "-b", "master"]).arg(path).status();
    assert!(init.expect("git runs").success());
}

fn who() -> Person {
    Person::new("Ann", "ann@example.org", Timestamp::UNIX_EPOCH)
}

fn second(number: i64) -> Timestamp {
    Timestamp::from_second(number).unwrap()
}

fn milliseconds(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1000.0)
}
