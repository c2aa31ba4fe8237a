//! The original Python packages, to be compared with.

use std::ffi::OsStr;
use std::process::Command;

/// The Python that `TREERING_PYTHON` names, which has `package` from PyPI, about to run `script` with
/// `arguments`. `None` when there is no such Python; on a build machine (`CI=true`) that is a failure.
pub fn command(package: &str, script: &str, arguments: &[&OsStr]) -> Option<Command> {
    let Some(python) = std::env::var_os("TREERING_PYTHON") else {
        let is_ci = std::env::var_os("CI").is_some_and(|value| value == "true");
        assert!(!is_ci, "set TREERING_PYTHON to a Python that has the package {package}");
        eprintln!("skipped: TREERING_PYTHON names no Python that has the package {package}");
        return None;
    };
    let mut command = Command::new(python);
    command.arg("-c").arg(script).args(arguments);
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
    // Since version 2.33 git asks for this when it is to merge what it pulls; gitkv is older.
    command.envs([
        ("GIT_CONFIG_COUNT", "1"),
        ("GIT_CONFIG_KEY_0", "pull.rebase"),
        ("GIT_CONFIG_VALUE_0", "false"),
    ]);
    for role in ["AUTHOR", "COMMITTER"] {
        command
            .env(format!("GIT_{role}_NAME"), "Python")
            .env(format!("GIT_{role}_EMAIL"), "python@example.org");
    }
    Some(command)
}

/// Runs such a script and returns what it prints.
pub fn run(package: &str, script: &str, arguments: &[&OsStr]) -> Option<String> {
    let output = command(package, script, arguments)?.output().expect("the Python of TREERING_PYTHON runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).expect("the script prints text"))
}
