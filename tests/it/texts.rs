//! What the program says is written in its source, and comes out as it is written there.

use std::fs;
use std::path::Path;

use treering::url::redact;
use walkdir::WalkDir;

/// The text literals of `source`, with where each begins. Not those of its tests, which stand last.
fn literals(source: &str) -> Vec<(usize, String)> {
    let source = source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let mut found = Vec::new();
    let mut rest = source;
    while let Some(at) = rest.find(['"', '/', '\'', 'r']) {
        let start = source.len() - rest.len() + at;
        let begins_name = !rest[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        rest = &rest[at..];
        if rest.starts_with("//") {
            rest = &rest[rest.find('\n').unwrap_or(rest.len())..];
        } else if let Some(hashes) = raw(rest).filter(|_| begins_name) {
            let text = &rest[1 + hashes + 1..];
            let len = text.find(&format!("\"{}", "#".repeat(hashes))).unwrap();
            found.push((start, text[..len].to_owned()));
            rest = &text[len + 1 + hashes..];
        } else if rest.starts_with('"') {
            let len = quoted_len(&rest[1..]);
            found.push((start, unescaped(&rest[1..=len])));
            rest = &rest[len + 2..];
        } else if rest.starts_with("'\\") {
            rest = &rest[3 + rest[3..].find('\'').unwrap() + 1..];
        } else if rest.starts_with('\'') {
            // A character, or a lifetime.
            let mut chars = rest.char_indices().skip(2);
            let is_character = chars.next().is_some_and(|(_, c)| c == '\'');
            rest = if is_character {
                &rest[chars.next().map_or(rest.len(), |(at, _)| at)..]
            } else {
                &rest[1..]
            };
        } else {
            rest = &rest[1..];
        }
    }
    found
}

/// How many `#` a raw literal has that begins here.
fn raw(text: &str) -> Option<usize> {
    let after = text.strip_prefix('r')?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    after[hashes..].starts_with('"').then_some(hashes)
}

/// How long a literal is of which this follows the first quote.
fn quoted_len(text: &str) -> usize {
    let mut is_escaped = false;
    let ends = |c: char| {
        let ends = c == '"' && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        ends
    };
    text.find(ends).unwrap()
}

/// A literal as the program has it, as far as it matters here.
fn unescaped(text: &str) -> String {
    let mut lines = text.split("\\\n");
    let mut whole = lines.next().unwrap_or_default().to_owned();
    lines.for_each(|line| whole.push_str(line.trim_start()));
    whole.replace("\\\"", "\"").replace("\\n", "\n")
}

/// Whether a text is help, which is printed as it is: it has examples, or a table of addresses.
fn is_help(text: &str) -> bool {
    text.contains("Example") || text.contains("URLs of")
}

/// What is left in a sentence of the indentation of its source.
const GAP: &str = "        ";

#[test]
fn no_text_of_the_program_is_taken_for_a_secret_or_has_a_gap() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut seen, mut faults) = (0, Vec::new());
    for file in WalkDir::new(sources).into_iter().map(Result::unwrap) {
        let path = file.path();
        if path.extension().is_none_or(|extension| extension != "rs") || path.ends_with("tests.rs") {
            continue;
        }
        let source = fs::read_to_string(path).unwrap();
        for (at, text) in literals(&source) {
            seen += 1;
            let line = source[..at].lines().count();
            // A table is indented, and a sentence is not.
            let has_gap = text.lines().any(|line| !line.starts_with("  ") && line.trim_end().contains(GAP));
            // It is given to rclone.
            let is_shown = text != "http://127.0.0.1:{port}" && !is_help(&text);
            if is_shown && (redact(&text) != text || has_gap) {
                faults.push(format!("{}:{line}: {text:?}", path.display()));
            }
        }
    }
    assert!(seen > 3000, "{seen}");
    assert!(faults.is_empty(), "{faults:#?}");
}
