//! Who may import whom: each module only from floors below its own, and no files in a circle. `docs/design.md` has the
//! picture that the imports make.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

/// The modules, from the lowest floor up. Modules of one floor do not see each other.
const FLOORS: [&[&str]; 7] = [
    &[
        "atomic", "causes", "cbor", "digest", "format", "pipeline", "printed", "progress", "relpath",
        "signals", "spoken", "url", "varint", "watch",
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

/// The source files, each with its path below `src`. The root of the crate only names its modules.
fn sources() -> BTreeMap<PathBuf, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = WalkDir::new(&root).into_iter().map(|entry| entry.unwrap().into_path());
    let files = files.filter(|path| path.extension().is_some_and(|end| end == "rs"));
    let sources = files.map(|path| {
        let source = fs::read_to_string(&path).unwrap();
        (path.strip_prefix(&root).unwrap().to_owned(), source)
    });
    let sources: BTreeMap<_, _> = sources.filter(|(path, _)| path != Path::new("lib.rs")).collect();
    assert!(sources.len() > 40, "only {} files were looked at", sources.len());
    sources
}

#[test]
fn imports_lead_strictly_downward() {
    let found: Vec<_> = sources().iter().flat_map(|(path, source)| faults(path, source)).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// The code of a file without its tests, which may look at anything, and without comments.
fn code(source: &str) -> String {
    let code = source.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// All paths that begin at `path`, which may have groups in braces.
fn spread(path: &str) -> Vec<String> {
    let path = path.trim();
    match path.find('{') {
        Some(open) => {
            let names = names_of_group(&path[open + 1..]);
            names.into_iter().flat_map(spread).map(|rest| format!("{}{rest}", &path[..open])).collect()
        }
        None => vec![path.split([' ', ';', ',', '}']).next().unwrap_or_default().to_owned()],
    }
}

/// The module of a file: its path with no end, of `mod.rs` that of the folder.
fn module_of(path: &Path) -> Vec<String> {
    let mut module: Vec<_> =
        path.with_extension("").iter().map(|name| name.to_string_lossy().into()).collect();
    if path.ends_with("mod.rs") {
        module.pop();
    }
    module
}

/// The paths in `code` that begin at the crate or at a module above, as names from the crate on.
fn absolute(path: &Path, code: &str) -> BTreeSet<Vec<String>> {
    let module = module_of(path);
    let mut found = BTreeSet::new();
    for root in ["crate::", "super::"] {
        for (at, _) in code.match_indices(root) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let ends = code[at..].find([';', '(', ')', '>', '=']).map_or(code.len(), |end| at + end);
            for text in spread(&code[at..ends]) {
                let mut names: Vec<_> = text.split("::").map(str::to_owned).collect();
                let ups = names.iter().take_while(|name| *name == "super").count();
                let from = match ups {
                    0 => Vec::new(),
                    ups => module[..module.len().saturating_sub(ups)].to_vec(),
                };
                let below = names.split_off(ups.max(1));
                found.insert([from, below].concat());
            }
        }
    }
    found
}

/// What each file takes from which others. A folder's `mod.rs` that hands on a name stands for the file that has it, and
/// is no room of its own.
fn arrows(sources: &BTreeMap<PathBuf, String>) -> BTreeMap<&Path, BTreeSet<&Path>> {
    let files: BTreeMap<_, _> = sources.keys().map(|path| (module_of(path), path.as_path())).collect();
    let handed: BTreeMap<_, _> = sources.iter().filter(|(path, _)| path.ends_with("mod.rs")).collect();
    let resolve = |names: &[String]| {
        let (module, path) =
            (1..=names.len()).rev().find_map(|len| Some((len, *files.get(&names[..len])?)))?;
        let name = names.get(module)?;
        let face = handed.get(&path.to_path_buf());
        let Some(face) = face else { return Some(path) };
        let uses = code(face);
        let uses = uses.split("use ").skip(1).filter_map(|rest| rest.split(';').next());
        let has = |text: &str| text.split("::").last().is_some_and(|last| last == name);
        let from = uses.flat_map(spread).find(|text| has(text))?;
        let folder: Vec<_> =
            names[..module].iter().cloned().chain([from.split("::").next()?.to_owned()]).collect();
        files.get(&folder).copied()
    };
    let mut arrows = BTreeMap::new();
    for (path, source) in sources.iter().filter(|(path, _)| !path.ends_with("mod.rs")) {
        let taken = absolute(path, &code(source));
        let others = taken.iter().filter_map(|names| resolve(names)).filter(|other| other != path);
        arrows.insert(path.as_path(), others.filter(|other| !other.ends_with("mod.rs")).collect());
    }
    arrows
}

/// A circle of files that import each other, if there is one.
fn circle<'a>(arrows: &BTreeMap<&'a Path, BTreeSet<&'a Path>>) -> Option<Vec<&'a Path>> {
    fn visit<'a>(
        file: &'a Path,
        arrows: &BTreeMap<&'a Path, BTreeSet<&'a Path>>,
        way: &mut Vec<&'a Path>,
        done: &mut BTreeSet<&'a Path>,
    ) -> Option<Vec<&'a Path>> {
        if let Some(at) = way.iter().position(|before| *before == file) {
            return Some(way[at..].to_vec());
        }
        if !done.insert(file) {
            return None;
        }
        way.push(file);
        let found = arrows.get(file).into_iter().flatten().find_map(|next| visit(next, arrows, way, done));
        way.pop();
        found
    }
    let mut done = BTreeSet::new();
    arrows.keys().find_map(|file| visit(file, arrows, &mut Vec::new(), &mut done))
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let sources = sources();
    let arrows = arrows(&sources);
    assert!(arrows.values().map(BTreeSet::len).sum::<usize>() > 300, "{arrows:#?}");
    if let Some(circle) = circle(&arrows) {
        let names: Vec<_> = circle.iter().map(|path| path.display().to_string()).collect();
        panic!("{} -> {}", names.join(" -> "), names[0]);
    }
}

/// The floors from the top down, a line a module with what it takes from floors that are not the lowest.
fn picture() -> String {
    let sources = sources();
    let mut below: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, source) in &sources {
        let module = module_of(path)[0].clone();
        let names = imports(&code(source)).into_iter().map(|(_, name)| name);
        let others = names.filter(|name| *name != module && floor(name).is_some_and(|floor| floor > 0));
        let others: Vec<_> = others.collect();
        below.entry(module).or_default().extend(others);
    }
    let mut text = String::new();
    for (number, modules) in FLOORS.iter().enumerate().rev() {
        if number == 0 {
            text += &format!("1  {}\n", modules.join(" "));
            continue;
        }
        for (at, module) in modules.iter().enumerate() {
            let floor = if at == 0 { (number + 1).to_string() } else { " ".into() };
            let others = below.get(*module).into_iter().flatten().cloned().collect::<Vec<_>>();
            text += format!("{floor}  {module:<10}  {}", others.join(" ")).trim_end();
            text.push('\n');
        }
    }
    text
}

#[test]
fn the_picture_in_the_documents_is_that_of_the_imports() {
    let design = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/design.md")).unwrap();
    let picture = picture();
    assert!(design.contains(&picture), "docs/design.md lacks\n{picture}");
}

#[test]
fn circles_are_found_whatever_way_names_take() {
    let sources = |files: &[(&str, &str)]| -> BTreeMap<PathBuf, String> {
        files.iter().map(|(path, source)| (path.into(), (*source).to_owned())).collect()
    };
    let found = |files: &[(&str, &str)]| circle(&arrows(&sources(files))).map(|circle| circle.len());
    let face = ("a/mod.rs", "mod x;\npub use x::{One, two};\nmod y;");
    assert_eq!(found(&[face, ("a/x.rs", "use super::y::Y;"), ("a/y.rs", "use super::x::X;")]), Some(2));
    assert_eq!(
        found(&[face, ("a/x.rs", "use super::y::{self, Y};"), ("a/y.rs", "use crate::a::{Z, One};")]),
        Some(2)
    );
    assert_eq!(
        found(&[face, ("a/x.rs", "fn f() { super::y::f() }"), ("a/y.rs", "use super::two;")]),
        Some(2)
    );
    assert_eq!(found(&[face, ("a/x.rs", "use super::y::Y;"), ("a/y.rs", "use super::Defined;")]), None);
    let tests = "#[cfg(test)]\nmod tests {\n    use super::super::x::X;\n}";
    assert_eq!(found(&[face, ("a/x.rs", "use super::y::Y;"), ("a/y.rs", tests)]), None);
    let three =
        [("a.rs", "use crate::b::B;"), ("b.rs", "use crate::c::C;"), ("c.rs", "use crate::{a::A, d};")];
    assert_eq!(found(&three), Some(3));
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
