//! What `--json` prints: JSON and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use serde_json::{Map, Value};
use treering::repository::{Repository, Selector};
use treering::timeline;

use crate::commits::commit;
use crate::encryption::{IDENTITY, RECIPIENT};
use crate::lab::{Lab, Outcome, make_pipe};
use crate::programs::are_here;

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
    symlink(name, lab.path("tree/link")).unwrap();
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

/// What `docs/json.md` says of a value.
#[derive(Debug, Clone, PartialEq)]
enum Kind {
    Text,
    Time,
    Name,
    Integer,
    Number,
    Boolean,
    /// Its keys are rows of the same table.
    Object,
    /// Its keys are those of another table.
    Table(String),
}

#[derive(Debug)]
struct Row {
    kind: Kind,
    is_array: bool,
    may_be_null: bool,
    is_optional: bool,
}

/// A table of `docs/json.md`.
#[derive(Debug, Default)]
struct Table {
    /// As its heading says it: a `message_type`, and perhaps of what.
    name: String,
    /// The commands that print it.
    commands: Vec<String>,
    is_of_every_command: bool,
    is_on_standard_error: bool,
    rows: BTreeMap<String, Row>,
}

fn quoted(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn row(cell: &str) -> Row {
    let (text, is_optional) = cell.strip_suffix(", optional").map_or((cell, false), |text| (text, true));
    let (text, may_be_null) = text.strip_suffix(" or null").map_or((text, false), |text| (text, true));
    let (text, is_array) = text.strip_prefix("array of ").map_or((text, false), |text| (text, true));
    let kind = match text {
        "string" => Kind::Text,
        "time" => Kind::Time,
        "name" => Kind::Name,
        "integer" => Kind::Integer,
        "number" => Kind::Number,
        "boolean" => Kind::Boolean,
        "object" => Kind::Object,
        link => Kind::Table(quoted(link).pop().unwrap_or_else(|| panic!("no type: {cell}"))),
    };
    Row { kind, is_array, may_be_null, is_optional }
}

fn tables(page: &str) -> Vec<Table> {
    let mut tables: Vec<Table> = Vec::new();
    for line in page.lines() {
        if let Some(heading) = line.strip_prefix("### ") {
            tables.push(Table { name: heading.replace('`', ""), ..Table::default() });
        }
        let Some(table) = tables.last_mut() else { continue };
        if let Some((_, commands)) = line.split_once("Printed by ") {
            table.is_of_every_command = commands.starts_with("every command");
            table.is_on_standard_error = line.contains("On standard error");
            table.commands = quoted(commands);
        } else if line.starts_with("| `") {
            let cells: Vec<_> = line.split('|').map(str::trim).collect();
            let earlier = table.rows.insert(cells[1].replace('`', ""), row(cells[2]));
            assert!(earlier.is_none(), "{}: {} stands there twice", table.name, cells[1]);
        }
    }
    tables
}

/// The page beside what the program prints.
struct Page {
    tables: Vec<Table>,
    /// What was printed: tables with one of their keys, or with one of the commands that print them.
    seen: BTreeSet<(String, String)>,
    faults: BTreeSet<String>,
}

impl Page {
    fn new() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/json.md");
        Self {
            tables: tables(&fs::read_to_string(path).unwrap()),
            seen: BTreeSet::new(),
            faults: BTreeSet::new(),
        }
    }

    /// Compares a line that `command` printed.
    fn message(&mut self, command: &str, is_on_standard_error: bool, line: &str) {
        let Ok(Value::Object(message)) = serde_json::from_str::<Value>(line) else {
            self.faults.insert(format!("{command} prints no object: {line}"));
            return;
        };
        let kind = message.get("message_type").and_then(Value::as_str).unwrap_or("nothing").to_owned();
        let prints = |documented: &&String| {
            *documented == command
                || documented.starts_with(&format!("{command} --"))
                || command.starts_with(&format!("{documented} "))
        };
        let mut found = None;
        for (at, table) in
            self.tables.iter().enumerate().filter(|(_, table)| table.name.split(' ').next() == Some(&kind))
        {
            if table.is_of_every_command {
                found = Some((at, None));
            } else if let Some(documented) = table.commands.iter().find(prints) {
                found = Some((at, Some(documented.clone())));
            }
        }
        let Some((at, documented)) = found else {
            self.faults.insert(format!("{command} prints {kind}, which the page lacks"));
            return;
        };
        let name = self.tables[at].name.clone();
        if self.tables[at].is_on_standard_error != is_on_standard_error {
            self.faults.insert(format!("{command} prints {kind} elsewhere than the page says"));
        }
        self.seen.extend(documented.map(|documented| (name.clone(), documented)));
        self.object(&name, "", &message);
    }

    /// Compares an object with the rows of a table that begin with `prefix`.
    fn object(&mut self, name: &str, prefix: &str, object: &Map<String, Value>) {
        let Some(at) = self.tables.iter().position(|table| table.name == name) else {
            self.faults.insert(format!("there is no table {name}"));
            return;
        };
        for (key, value) in object {
            if prefix.is_empty() && key == "message_type" {
                continue;
            }
            let path = format!("{prefix}{key}");
            let rows = &self.tables[at].rows;
            let is_name = |stem: &str| rows.get(stem).is_some_and(|row| row.kind == Kind::Name);
            let (path, kind) = match (rows.get(&path), path.strip_suffix("_base64")) {
                (Some(row), _) => (path, row.kind.clone()),
                (None, Some(stem)) if is_name(stem) => (stem.to_owned(), Kind::Text),
                _ => {
                    self.faults.insert(format!("{name}: the page lacks {path}: {value}"));
                    continue;
                }
            };
            let Row { is_array, may_be_null, .. } = rows[&path];
            // Nothing tells its type where there is none.
            if !value.is_null() && value.as_array().is_none_or(|items| !items.is_empty()) {
                self.seen.insert((name.to_owned(), path.clone()));
            }
            match value {
                Value::Null if may_be_null => {}
                Value::Array(items) if is_array => {
                    items.iter().for_each(|item| self.value(name, &format!("{path}[]"), &kind, item));
                }
                value if is_array => {
                    self.faults.insert(format!("{name}: {path} is no array: {value}"));
                }
                value => self.value(name, &path, &kind, value),
            }
        }
        for (path, row) in &self.tables[at].rows {
            let key = path.strip_prefix(prefix).filter(|key| !key.contains(['.', '[']));
            if key.is_some_and(|key| !row.is_optional && !object.contains_key(key)) {
                self.faults.insert(format!("{name}: {path} is not there, and not optional"));
            }
        }
    }

    fn value(&mut self, name: &str, path: &str, kind: &Kind, value: &Value) {
        let is_right = match (kind, value) {
            (Kind::Object, Value::Object(object)) => {
                self.object(name, &format!("{path}."), object);
                true
            }
            (Kind::Table(other), Value::Object(object)) => {
                self.object(other, "", object);
                true
            }
            (Kind::Text | Kind::Name, Value::String(_)) | (Kind::Boolean, Value::Bool(_)) => true,
            (Kind::Time, Value::String(text)) => {
                text.ends_with('Z') && text.parse::<jiff::Timestamp>().is_ok()
            }
            (Kind::Integer, Value::Number(number)) => number.is_u64() || number.is_i64(),
            (Kind::Number, Value::Number(_)) => true,
            _ => false,
        };
        if !is_right {
            self.faults.insert(format!("{name}: {path} is no {kind:?}: {value}"));
        }
    }
}

/// Commands whose second word is one of their own.
const GROUPS: [&str; 9] =
    ["append-only", "blob", "dir", "key", "kv", "layers", "remote", "schedule", "store"];

/// What a line runs: its first words, without flags.
fn command_of(line: &str) -> String {
    let words: Vec<_> = line.split(' ').filter(|word| !word.starts_with('-')).collect();
    let len = if GROUPS.contains(&words[0]) { 2 } else { 1 };
    words[..len].join(" ")
}

/// A lab with all that commands need to find, and the page that they are compared with.
struct Reader {
    lab: Lab,
    page: Page,
}

impl Reader {
    fn run(&self, line: &str) -> Outcome {
        let mut command = self.lab.command(line.split(' ').chain(["--json"]));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = [self.lab.path("bin")].into_iter().chain(std::env::split_paths(&path));
        let path = std::env::join_paths(path).unwrap();
        command.env("HOME", self.lab.path("")).env("XDG_CONFIG_HOME", self.lab.path("config"));
        command.env("PATH", path).env("TREERING_CONFIG", self.lab.path("treering.toml"));
        command.env("TREERING_STORE", format!("file://{}", self.lab.path("shop").display()));
        command.env("EDITOR", "date >>").env_remove("VISUAL");
        if line.starts_with("schedule") {
            // It is text.
            command.env("TREERING_LOG", "off");
        }
        command.output().unwrap().into()
    }

    /// Runs the program, which shall end with `status`, and compares all that it prints.
    #[track_caller]
    fn ends(&mut self, status: i32, line: &str) -> Vec<Value> {
        let outcome = self.run(line);
        self.compare(status, line, outcome)
    }

    /// As [`ok`](Self::ok), of what prints content as it is.
    #[track_caller]
    fn prints(&mut self, line: &str, content: &str) {
        let mut outcome = self.run(line);
        assert_eq!(std::mem::take(&mut outcome.out), content, "{line}: {outcome:?}");
        self.compare(0, line, outcome);
    }

    #[track_caller]
    fn compare(&mut self, status: i32, line: &str, outcome: Outcome) -> Vec<Value> {
        assert_eq!(outcome.status, Some(status), "{line}: {outcome:?}");
        for (is_on_standard_error, text) in [(false, &outcome.out), (true, &outcome.err)] {
            for text in text.lines() {
                self.page.message(&command_of(line), is_on_standard_error, text);
            }
        }
        lines(&outcome.out)
    }

    #[track_caller]
    fn ok(&mut self, line: &str) -> Vec<Value> {
        self.ends(0, line)
    }

    /// Makes a repository of git.
    fn hub(&self, name: &str) {
        let git = Command::new("git").args(["init", "-q", "--bare"]).arg(self.lab.path(name)).status();
        assert!(git.expect("the program git is installed").success());
    }

    fn backups(&mut self) {
        self.ok("init");
        self.ends(1, "ls latest");
        self.lab.write("tree/letters/.leave", "[z-a]\n");
        self.ends(3, "backup tree --ignore-file .leave -v -e notes");
        fs::remove_file(self.lab.path("tree/letters/.leave")).unwrap();
        fs::create_dir(self.lab.path("tree").join(std::ffi::OsStr::from_bytes(b"\xff"))).unwrap();
        symlink("letters", self.lab.path("tree/link")).unwrap();
        make_pipe(&self.lab.path("tree/pipe"));
        self.ok("backup tree tree/link -n -v");
        self.ok("backup tree -v");
        self.ok("snapshots");
        self.ok("ls latest");
        self.ok("restore latest -t out -v --verify");
        self.ok("restore latest -t out -n");
        self.ok("restore latest:letters -t out -n -i one -i nothing");

        fs::rename(self.lab.path("tree/letters/two"), self.lab.path("tree/three")).unwrap();
        self.lab.write("tree/notes", "other\n");
        self.ok("diff latest tree");
        let mode = |mode| {
            fs::set_permissions(self.lab.path("tree/notes"), fs::Permissions::from_mode(mode)).unwrap();
        };
        mode(0);
        let outcome = self.lab.as_nobody(["diff", "latest", "tree", "--json"]);
        mode(0o644);
        self.compare(3, "diff", outcome);
        self.ok("check --read-data");

        self.ok("backup tree/link/ tree/link -q");
        for number in 0..100 {
            self.lab.write(&format!("mount/{number}"), "x");
        }
        self.ok("backup mount -q --tag t");
        fs::remove_dir_all(self.lab.path("mount")).unwrap();
        fs::create_dir(self.lab.path("mount")).unwrap();
        self.ok("backup mount -q --tag t");
    }

    /// With a record and data that are damaged.
    fn damage(&mut self) {
        self.ok("init -r broken");
        self.ok("backup tree -r broken -q");
        let broken = self.lab.path("broken");
        let snapshot = Repository::open(&broken).unwrap().find(&Selector::Latest(0)).unwrap();
        let record = timeline::path("snapshots", &snapshot.key, ".cbor");
        commit(&broken, |transaction, edit| {
            edit.set(record.as_bytes(), transaction.blob(b"no record\n").unwrap()).unwrap();
        });
        self.ends(3, "backup tree -r broken -q");
        let layers = self.ok("layers list -r broken");
        let layers = layers[0]["layers"].as_array().unwrap().iter();
        for layer in layers.filter(|layer| layer["type"] == "data") {
            let name = layer["name"].as_str().unwrap();
            fs::remove_file(broken.join("objects/pack").join(name).with_extension("pack")).unwrap();
        }
        self.ends(1, "check -r broken --read-data");
    }

    fn maintenance(&mut self) {
        self.ok("backup tree -q --time 2001-01-01");
        self.ok("forget --keep-within 30d -n");
        self.ok("backup tree -q --time 2200-01-01");
        self.ok("snapshots");
        self.ok("forget --keep-last 1 -n --prune");
        self.ok("forget --keep-last 1 --prune");
        self.ok("forget --keep-last 1 --group-by host,tags -n");
        self.ok("forget latest -n");
        self.ok("prune -n");
        self.ok("prune");
        for line in ["append-only on", "append-only status", "append-only off", "compression zstd"] {
            self.ok(line);
        }
    }

    fn remotes(&mut self) {
        self.hub("hub.git");
        self.ok("append-only hook --install hub.git");
        self.ok("remote add hub hub.git");
        let store = format!("file://{}", self.lab.path("cold").display());
        self.ok(&format!("remote add cold {store}"));
        for line in ["remote list", "remote removals hub", "push hub", "pull hub"] {
            self.ok(line);
        }
        self.ok("clone hub.git clone");
        self.ok("backup tree -q --push=cold");
        self.ok("layers list");
        let stored = walkdir::WalkDir::new(self.lab.path("cold/data")).into_iter().map(Result::unwrap);
        let stored = stored.filter(|entry| entry.file_type().is_file()).map(walkdir::DirEntry::into_path);
        let stored: Vec<_> = stored.map(|path| (fs::read(&path).unwrap(), path)).collect();
        for (bytes, path) in &stored {
            fs::write(path, vec![0; bytes.len()]).unwrap();
        }
        self.ends(1, "layers evict");
        for (bytes, path) in &stored {
            fs::write(path, bytes).unwrap();
        }
        for line in ["layers evict", "layers fetch", "layers evict"] {
            self.ok(line);
        }
        fs::rename(self.lab.path("cold"), self.lab.path("away")).unwrap();
        self.ends(1, "check --read-data");
        self.ends(1, "layers fetch");
        fs::rename(self.lab.path("away"), self.lab.path("cold")).unwrap();
        self.ok("layers fetch");
        self.ok("layers merge");
        let copied =
            Command::new("cp").arg("-a").args(["repo", "copied"].map(|name| self.lab.path(name))).status();
        assert!(copied.unwrap().success());
        let mut git = Command::new("git");
        git.arg("-C").arg(self.lab.path("copied")).args(["config", "core.sshCommand", "false"]);
        assert!(git.status().unwrap().success());
        self.ok("remote trust -r copied");
        self.ok("remote remove hub");
    }

    fn keys(&mut self) {
        self.lab.write("key.txt", IDENTITY);
        self.lab.write("pass", "open sesame\n");
        self.ok(&format!("init -r locked --encrypt --recipient {RECIPIENT}"));
        let added = self.ok("key add -r locked --identity key.txt --new-password-file pass");
        self.ok("key list -r locked --identity key.txt");
        let id = added[0]["id"].as_str().unwrap();
        self.ok(&format!("key remove {id} -r locked --identity key.txt"));
        self.ends(12, "ls latest -r locked");
    }

    fn schedules(&mut self) {
        let script = "#!/bin/sh\ncd \"$(dirname \"$0\")\"\n\
            case $1 in -l) test -e table || exit 1; cat table;; -) cat > table;; esac\n";
        self.lab.write_program("bin/crontab", script);
        self.lab.write("bin/table", "");
        self.lab.write(
            "treering.toml",
            "[default]\nrepo = 'rings'\nsources = 'tree'\nschedule = 'daily'\n[profile.a]\npush = 'hub'\n[profile.b]\nrun-before = 'false'\n",
        );
        self.hub("rings.git");
        self.ok("init -r rings");
        self.ok("remote add hub rings.git -r rings");
        for line in ["schedule show", "schedule next", "schedule run -P a --force"] {
            self.ok(line);
        }
        self.ends(1, "schedule run -P b --force");
        for line in ["show", "install", "uninstall", "install --cron", "uninstall --cron"] {
            self.ok(&format!("schedule {line}"));
        }
    }

    fn building_blocks(&mut self) {
        let blobs = ["init", "key blob.key", "add tree/notes", "list", "get --output got"];
        for line in blobs {
            self.ok(&format!("blob {line} -r blobs"));
        }
        self.hub("blobs.git");
        self.hub("kv.git");
        for line in ["remote add hub blobs.git", "blob push hub", "blob pull hub"] {
            self.ok(&format!("{line} -r blobs"));
        }
        for line in [
            "put kv.git a tree/notes",
            "put kv.git a tree/notes",
            "edit kv.git a",
            "list kv.git",
            "log kv.git a",
            "rm kv.git a",
        ] {
            self.ok(&format!("kv {line}"));
        }
        let cache = format!("--cache=file://{} --cached=data=write-through", self.lab.path("near").display());
        for line in [
            "create",
            "store data/one tree/notes",
            "list data",
            "info data/one",
            "hash data/one",
            "stats data",
        ] {
            self.ok(&format!("store {line}"));
        }
        let near = format!("store --url=file://{} create", self.lab.path("near").display());
        self.ok(&near);
        self.ok(&format!("store --statistics {cache} store data/two tree/three"));
        self.ok(&format!("store --statistics {cache} list data"));
        self.prints(&format!("store --statistics {cache} load data/two"), "second letter\n");
        self.ok("store destroy --force");
        self.ends(10, "store list data");
        for line in
            ["index copy -o index", "diff index tree -v -o diff --data data", "apply copy diff data -v"]
        {
            self.ok(&format!("dir {line}"));
        }
    }
}

#[test]
fn what_is_printed_is_what_the_page_says() {
    if rustix::process::geteuid().is_root() && !are_here(&["setpriv"]) {
        return;
    }
    let mut reader = Reader { lab: Lab::bare(), page: Page::new() };
    // For all but the profiles.
    reader.lab.write("treering.toml", "");
    fs::create_dir(reader.lab.path("copy")).unwrap();
    reader.backups();
    reader.damage();
    reader.maintenance();
    reader.remotes();
    reader.keys();
    reader.schedules();
    reader.building_blocks();

    let Page { tables, seen, mut faults } = reader.page;
    for table in &tables {
        for documented in table.rows.keys().chain(&table.commands) {
            if !seen.contains(&(table.name.clone(), documented.clone())) {
                faults.insert(format!("{}: no command printed {documented}", table.name));
            }
        }
    }
    assert!(faults.is_empty(), "docs/json.md:\n{}", faults.into_iter().collect::<Vec<_>>().join("\n"));
}
