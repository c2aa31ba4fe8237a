//! Objects by name: `treering store`.

use std::io::Write;
use std::process::Stdio;

use serde_json::Value;

use crate::lab::{Lab, Outcome};

/// A lab whose store is a directory of it, with what precedes the command.
struct Shop {
    lab: Lab,
    url: String,
}

impl Shop {
    fn new() -> Self {
        let shop = Self::nothing();
        shop.ok("create");
        shop
    }

    fn nothing() -> Self {
        let lab = Lab::bare();
        let url = format!("file://{}", lab.path("shop").display());
        Self { lab, url }
    }

    fn run(&self, line: &str) -> Outcome {
        self.lab.run(["store", "--url", &self.url].into_iter().chain(line.split(' ')))
    }

    #[track_caller]
    fn ok(&self, line: &str) -> String {
        let outcome = self.run(line);
        assert_eq!((outcome.status, outcome.err.as_str()), (Some(0), ""), "{line}: {}", outcome.out);
        outcome.out
    }

    #[track_caller]
    fn fails(&self, line: &str) -> String {
        let outcome = self.run(line);
        assert_eq!((outcome.status, outcome.out.as_str()), (Some(1), ""), "{line}: {}", outcome.err);
        outcome.err
    }
}

#[test]
fn what_is_stored_is_loaded_whole_and_in_part() {
    let shop = Shop::new();
    assert_eq!(shop.ok("store data/one tree/letters/one"), "");
    assert_eq!(shop.ok("load data/one"), "first letter\n");
    assert_eq!(shop.ok("load data/one --offset 6 --size 6"), "letter");
    assert_eq!(shop.ok("load data/one --size 5"), "first");
    assert!(shop.fails("load data/one --offset 6 --size 60").contains("data/one"));
    assert!(shop.fails("load data/two").contains("cannot look at data/two: there is no such object"));
    assert_eq!(shop.ok("hash data/one"), format!("{}  data/one\n", hash_of(&shop.lab, "tree/letters/one")));
}

/// What `sha256sum` says of a file.
fn hash_of(lab: &Lab, file: &str) -> String {
    let output = std::process::Command::new("sha256sum").arg(lab.path(file)).output().unwrap();
    String::from_utf8(output.stdout).unwrap()[..64].to_owned()
}

#[test]
fn standard_input_is_an_object() {
    let shop = Shop::new();
    let mut child = shop
        .lab
        .command(["store", "--url", &shop.url, "store", "data/piped", "--new"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"21 degrees").unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(shop.ok("load data/piped"), "21 degrees");
    assert!(shop.fails("store data/piped tree/notes --new").contains("data/piped"));
    assert_eq!(shop.ok("load data/piped"), "21 degrees");
}

#[test]
fn deletion_is_taken_back_or_final() {
    let shop = Shop::new();
    shop.ok("store data/one tree/letters/one");
    shop.ok("delete --soft data/one");
    shop.fails("load data/one");
    assert_eq!(shop.ok("list data"), "");
    assert!(shop.ok("list data --deleted").ends_with("  data/one.del\n"));
    assert!(shop.ok("stats data").contains("1 soft-deleted"));
    shop.ok("undelete data/one");
    shop.ok("move data/one data/two");
    assert_eq!(shop.ok("load data/two"), "first letter\n");
    shop.ok("delete data/two");
    assert_eq!(shop.ok("list data --deleted"), "");
}

#[test]
fn objects_at_an_older_level_are_found_and_moved() {
    let shop = Shop::new();
    shop.ok("store data/0123abcd tree/notes");
    assert!(shop.lab.path("shop/data/0123abcd").is_file());
    assert!(shop.fails("--levels data=2 load data/0123abcd").contains("data/0123abcd"));
    assert_eq!(shop.ok("--levels data=2,0 load data/0123abcd"), "notes\n");
    shop.ok("--levels data=2,0 move data/0123abcd");
    assert!(shop.lab.path("shop/data/01/23/0123abcd").is_file());
    assert_eq!(shop.ok("--levels data=2 load data/0123abcd"), "notes\n");
    let text = shop.fails("list data");
    assert!(text.contains("level"), "{text}");
}

#[test]
fn json_tells_of_objects_and_calls() {
    let shop = Shop::new();
    shop.ok("store data/one tree/notes");
    let listed: Value = serde_json::from_str(&shop.ok("list data --json")).unwrap();
    assert_eq!((&listed["name"], &listed["size"]), (&"data/one".into(), &6.into()));
    let outcome = shop.run("--statistics load data/one --json");
    assert_eq!(outcome.out, "notes\n");
    let calls: Vec<Value> = outcome.err.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let load = calls.iter().find(|calls| calls["operation"] == "load").unwrap();
    assert_eq!((&load["calls"], &load["bytes"]), (&1.into(), &6.into()));
}

#[test]
fn a_slow_backend_is_emulated() {
    let shop = Shop::new();
    let mut command =
        shop.lab.command(["store", "--url", &shop.url, "--statistics", "--json", "list", "data"]);
    let output = command.env("TREERING_STORE_LATENCY", "20000").output().unwrap();
    let calls = String::from_utf8(output.stderr).unwrap();
    let calls: Vec<Value> = calls.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(calls.iter().all(|calls| calls["total_duration"].as_f64().unwrap() >= 0.02), "{calls:?}");
}

#[test]
fn permissions_and_quotas_bound_what_is_done() {
    let shop = Shop::new();
    assert!(shop.fails("--allow data=lr store data/one tree/notes").contains("data/one"));
    assert!(shop.fails("--quota 5 store data/one tree/notes").contains("data/one"));
    shop.ok("--allow data=w --quota 6 store data/one tree/notes");
    assert!(shop.fails("--allow data=lrw delete data/one").contains("data/one"));
}

#[test]
fn a_cache_keeps_copies() {
    let shop = Shop::new();
    let cache = format!("--cache file://{} --cached data=write-through ", shop.lab.path("near").display());
    shop.lab.ok(["store", "--url", &format!("file://{}", shop.lab.path("near").display()), "create"]);
    shop.ok(&format!("{cache}store data/one tree/notes"));
    assert!(shop.lab.path("near/data/one").is_file());
    assert_eq!(shop.ok(&format!("{cache}load data/one")), "notes\n");
}

#[test]
fn a_store_is_made_once_and_removed_on_purpose() {
    let shop = Shop::nothing();
    let nothing = shop.run("list data");
    assert!(nothing.status == Some(10) && nothing.err.contains("shop"), "it is not there yet: {nothing:?}");
    assert_eq!(shop.ok("create"), format!("Made the store {}\n", shop.url));
    shop.ok("store data/one tree/notes");
    shop.fails("create");
    assert_eq!(shop.run("destroy").status, Some(1), "not without --force");
    assert!(shop.lab.path("shop/data/one").is_file());
    shop.ok("destroy --force");
    assert!(!shop.lab.path("shop").exists());
}

#[test]
fn what_is_no_store_is_not_removed_even_by_force() {
    let shop = Shop::nothing();
    shop.lab.write("shop/notes", "somebody's notes");
    let text = shop.fails("destroy --force");
    assert!(text.contains("notes"), "{text}");
    assert!(shop.lab.path("shop/notes").is_file());
}

#[test]
fn a_store_without_a_marker_is_removed_by_its_name() {
    let shop = Shop::nothing();
    // A store of another program, or somebody's directory: it cannot be told.
    shop.lab.write("shop/data/one", "content");
    let text = shop.fails("destroy --force");
    assert!(text.contains("--confirm shop"), "{text}");
    assert!(shop.fails("destroy --force --confirm tree").contains("\"shop\""));
    assert!(shop.lab.path("shop/data/one").is_file());
    shop.ok("destroy --force --confirm shop");
    assert!(!shop.lab.path("shop").exists());
}

#[test]
fn every_directory_on_the_way_to_a_store_is_synced() {
    if !crate::programs::are_here(&["strace"]) {
        return;
    }
    let shop = Shop::nothing();
    let base = std::fs::canonicalize(shop.lab.path("")).unwrap();
    let url = format!("file://{}/a/b/shop", base.display());
    let synced = |arguments: &[&str]| {
        let program = shop.lab.command(["store", "--url", &url].iter().chain(arguments));
        let trace = shop.lab.path("trace");
        let mut strace = std::process::Command::new("strace");
        strace.args(["-f", "-y", "-e", "trace=fsync", "-o"]).arg(&trace).arg(program.get_program());
        strace.args(program.get_args()).current_dir(&base);
        let ended = strace.output().unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        let (trace, base) = (std::fs::read_to_string(trace).unwrap(), base.clone());
        move |path: &str| trace.contains(&format!("<{}{path}>", base.display()))
    };
    let created = synced(&["create"]);
    assert!(["", "/a", "/a/b"].into_iter().all(created));
    // Also a directory that another process made and may not have synced.
    std::fs::create_dir(shop.lab.path("a/b/shop/data")).unwrap();
    let stored = synced(&["store", "data/one", "tree/notes"]);
    assert!(stored("/a/b/shop") && stored("/a/b/shop/data"));
}
