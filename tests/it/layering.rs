//! Who may import whom: each module only from floors below its own.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use walkdir::WalkDir;

/// The modules, from the lowest floor up. Modules of one floor do not see each other.
const FLOORS: [&[&str]; 7] = [
    &[
        "atomic", "causes", "cbor", "digest", "pipeline", "printed", "progress", "relpath", "signals",
        "spoken", "url", "varint", "watch",
    ],
    &["child"],
    &["archive", "crypt", "delta", "layers", "removals", "store", "trust"],
    &["config", "diff", "gitkv"],
    &["timeline"],
    &["remote", "repository", "schedule"],
    &["cli", "main"],
];

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

/// What leads to the root of the crate: in the library, in the program, and by climbing out of a folder.
const ROOTS: [&str; 3] = ["crate::", "treering::", "super::super::"];

/// The names that `source` takes from the root of the crate, each with the path to that root.
fn imports(source: &str) -> BTreeSet<(&'static str, String)> {
    let code: Vec<_> = source.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let code = code.join("\n");
    let mut found = BTreeSet::new();
    for root in ROOTS {
        for (at, _) in code.match_indices(root) {
            let is_part = |c: char| c.is_alphanumeric() || c == '_';
            if !code[..at].ends_with(is_part) {
                let path = code[at + root.len()..].trim_start_matches("super::");
                let names = match path.strip_prefix('{') {
                    Some(group) => names_of_group(group),
                    None => vec![path],
                };
                let first = |name: &str| name.split(|c| !is_part(c)).next().unwrap_or_default().to_owned();
                found.extend(names.into_iter().map(|name| (root, first(name))));
            }
        }
    }
    found
}

/// The paths in a `use` group, up to the brace that ends it.
fn names_of_group(group: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            ',' | '}' if depth == 0 => {
                names.push(group[start..at].trim());
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    // A comma may stand after the last one.
    names.retain(|name| !name.is_empty());
    names
}

/// What is wrong with the imports of the file at `path` below `src`.
fn faults(path: &Path, source: &str) -> Vec<String> {
    let module = path.iter().next().and_then(|first| Path::new(first).file_stem()?.to_str());
    let module = module.unwrap_or_default();
    let shown = path.display();
    let Some(own) = floor(module) else {
        return vec![format!("{shown}: {module} is on no floor; give it one in tests/it/layering.rs")];
    };
    let fault = |(root, name): (&str, String)| match floor(&name) {
        _ if name == module => None,
        Some(floor) if floor < own => None,
        Some(_) => Some(format!("{shown}: {module} imports {name}, which is not below it")),
        // From within a folder it may be a neighbour there.
        None if root == "super::super::" => None,
        None => Some(format!("{shown}: what follows {root} is no module on a floor: {name:?}")),
    };
    imports(source).into_iter().filter_map(fault).collect()
}

#[test]
fn imports_lead_strictly_downward() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = 0;
    let mut found = Vec::new();
    for entry in WalkDir::new(&root) {
        let entry = entry.unwrap();
        let path = entry.path().strip_prefix(&root).unwrap();
        // The root of the crate only names its modules.
        if path.extension().is_none_or(|end| end != "rs") || path == Path::new("lib.rs") {
            continue;
        }
        files += 1;
        found.extend(faults(path, &fs::read_to_string(entry.path()).unwrap()));
    }
    assert!(files > 40, "only {files} files were looked at");
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn what_leads_upward_sideways_or_nowhere_is_found() {
    let count = |path: &str, source: &str| faults(Path::new(path), source).len();
    assert_eq!(count("timeline/key.rs", "use crate::gitkv::Git;\nuse crate::timeline::path;"), 0);
    assert_eq!(count("gitkv/git.rs", "use crate::timeline::TimeKey;"), 1, "upward");
    assert_eq!(count("gitkv/git.rs", "fn f() { crate::diff::compare() }"), 1, "sideways");
    assert_eq!(count("gitkv/git.rs", "use crate::{atomic, layers::{A, B},\n    timeline::TimeKey,\n};"), 1);
    assert_eq!(count("gitkv/git.rs", "use super::super::{timeline, refs};"), 1);
    assert_eq!(count("gitkv/git.rs", "use crate::*;"), 1);
    assert_eq!(count("gitkv/git.rs", "use crate::misc::thing;"), 1);
    assert_eq!(count("misc.rs", ""), 1, "an unknown module");
    assert_eq!(count("main.rs", "use treering::repository::Repository;"), 0);
    assert_eq!(count("gitkv/git.rs", "//! [`x`](crate::repository)"), 0, "documentation may point anywhere");
}
