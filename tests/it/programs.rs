//! The programs of others that some tests need.

use std::io::Write;
use std::path::PathBuf;

/// Where a program is installed.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|file| file.is_file())
}

/// Whether all of `programs` are installed. Where one is missing, the test must end at once: on a machine of
/// CI it fails here, elsewhere a line says that it is skipped.
#[track_caller]
pub fn are_here(programs: &[&str]) -> bool {
    let missing: Vec<_> = programs.iter().filter(|program| find(program).is_none()).collect();
    if missing.is_empty() {
        return true;
    }
    let message = format!("{} needs programs that are not installed: {missing:?}", test_name());
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{message}");
    // Not by `eprintln`, which is shown for failures alone.
    let _ = writeln!(std::io::stderr(), "skipped: {message}");
    false
}

fn test_name() -> String {
    std::thread::current().name().unwrap_or("a test").to_owned()
}
