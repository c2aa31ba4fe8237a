//! What `--json` prints: JSON and nothing else.

use std::fs;
use std::os::unix::ffi::OsStrExt;

use serde_json::Value;

use crate::lab::Lab;

#[track_caller]
fn document(lab: &Lab, line: &str) -> Value {
    let out = lab.ok(line.split(' '));
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{line}: {error}: {out}"))
}

fn lines(out: &str) -> Vec<Value> {
    out.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

#[track_caller]
fn is_time(value: &Value) {
    assert!(value.as_str().unwrap().parse::<jiff::Timestamp>().is_ok(), "{value}");
}

#[test]
fn backup_and_restore_print_status_and_summary_lines() {
    let lab = Lab::bare();
    assert_eq!(document(&lab, "init --json")["message_type"], "initialized");
    let messages = lines(&lab.ok(["backup", "tree", "--json", "--tag", "t"]));
    let (summary, statuses) = messages.split_last().unwrap();
    assert!(!statuses.is_empty() && statuses.iter().all(|status| status["message_type"] == "status"));
    assert_eq!(summary["message_type"], "summary");
    assert_eq!(summary["files_new"], 3);
    assert_eq!(summary["total_bytes_processed"], 33);
    assert_eq!(summary["statistics"]["created"], 5);
    is_time(&summary["time"]);

    let restored = lines(&lab.ok(["restore", "latest", "-t", "out", "--json", "--verify"]));
    let summary_line = restored.last().unwrap();
    assert_eq!(summary_line["files_restored"], 3);
    assert_eq!(summary_line["files_verified"], 3);
    assert_eq!(summary_line["snapshot_id"], summary["snapshot_id"]);
}

#[test]
fn quiet_leaves_the_summary_alone_and_verbose_adds_the_changes() {
    let lab = Lab::new();
    let types = |out: &str| -> Vec<String> {
        lines(out).iter().map(|line| line["message_type"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(types(&lab.ok(["backup", "tree", "--json", "-q"])), ["summary"]);
    let out = lab.ok(["restore", "latest", "-t", "out", "--json", "-v"]);
    assert_eq!(types(&out).iter().filter(|kind| *kind == "change").count(), 5);
}

#[test]
fn errors_are_lines_too() {
    let lab = Lab::new();
    lab.write("tree/letters/.leave", "[z-a]\n");
    let outcome = lab.run(["backup", "tree", "--ignore-file", ".leave", "--json"]);
    assert_eq!((outcome.status, outcome.err.as_str()), (Some(3), ""));
    let messages = lines(&outcome.out);
    let error = messages.iter().find(|line| line["message_type"] == "error").unwrap();
    assert!(error["item"].as_str().unwrap().ends_with("/letters"), "{error}");
    assert!(error["error"]["message"].as_str().unwrap().contains("[z-a]"), "{error}");
    assert_eq!(messages.last().unwrap()["error_count"], 1);
}

#[test]
fn listings_are_one_document() {
    let lab = Lab::new();
    assert_eq!(document(&lab, "snapshots --json")["snapshots"], Value::Array(Vec::new()));
    lab.ok(["backup", "tree", "--tag", "a,b", "--host", "alpha"]);
    let snapshots = document(&lab, "snapshots --json");
    let snapshot = &snapshots["snapshots"][0];
    is_time(&snapshot["time"]);
    assert_eq!(snapshot["hostname"], "alpha");
    assert_eq!(snapshot["tags"], serde_json::json!(["a", "b"]));
    assert!(snapshot["id"].as_str().unwrap().starts_with(snapshot["short_id"].as_str().unwrap()));
    assert_eq!(snapshot["summary"]["total_files_processed"], 3);

    let listing = document(&lab, "ls latest:notes --json");
    assert_eq!(listing["snapshot"]["id"], snapshot["id"]);
    let entry = &listing["entries"][0];
    assert_eq!((&entry["type"], &entry["size"]), (&"file".into(), &6.into()));
    is_time(&entry["mtime"]);

    lab.write("tree/notes", "other");
    let diff = document(&lab, "diff latest tree --json");
    assert_eq!(diff["changes"][0]["change"], "updated");
    assert_eq!(diff["statistics"]["updated"], 1);
    assert_eq!(document(&lab, "check --json")["faults"], Value::Array(Vec::new()));
}

#[test]
fn names_that_are_not_text_are_in_base64_too() {
    let lab = Lab::new();
    let name = std::ffi::OsStr::from_bytes(b"\xff");
    fs::create_dir(lab.path("tree").join(name)).unwrap();
    std::os::unix::fs::symlink(name, lab.path("tree/link")).unwrap();
    lab.ok([std::ffi::OsStr::new("backup"), lab.path("tree").join(name).as_os_str()]);
    let snapshots = document(&lab, "snapshots --json");
    assert!(snapshots["snapshots"][0]["paths"][0].as_str().unwrap().ends_with("/\u{fffd}"), "{snapshots}");
    assert!(snapshots["snapshots"][0]["paths_base64"][0].is_string(), "{snapshots}");

    lab.ok(["backup", "tree"]);
    let listing = document(&lab, "ls latest:link --json");
    assert_eq!(listing["entries"][0]["linktarget_base64"], "/w==");
    let changes = lines(&lab.ok(["restore", "latest", "-t", "out", "-n", "--json"]));
    let change = changes.iter().find(|change| change["path"] == "\u{fffd}").unwrap();
    assert_eq!((&change["path_base64"], &change["change"]), (&"/w==".into(), &"created".into()));
}
