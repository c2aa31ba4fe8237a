//! The program git, run so that a person's own settings do not change what it does.
//!
//! Of the settings of the person and of the system, git gets those that say how to reach another repository and
//! who one is there: [`LET_THROUGH`]. Hooks, signing, `gc`, formats of new repositories and the rest stay out,
//! since what is committed, fetched and pushed here must be the same for everybody. The settings and hooks of a repository
//! itself count where nothing in them can start a program or lead elsewhere, or where the person trusts them; see
//! [`isolate`](super::isolate). The environment is sifted alike.
//!
//! They are handed to git in a file without a name, as its global configuration, so that they rank below the
//! repository's own and no killed process leaves what may be a password.

use std::env;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{MemfdFlags, memfd_create};

use crate::url::Login;
use crate::watch::ALLOC_LIMIT;

use super::GitError;
use super::git_config::{list_settings, listed_settings, write_setting};
use super::isolate::Shadow;

/// What the names of the settings begin with that git gets, in lower case.
const LET_THROUGH: [&[u8]; 9] = [
    b"core.askpass",
    b"core.gitproxy",
    b"core.sshcommand",
    b"credential.",
    b"http.",
    b"protocol.",
    b"safe.",
    b"ssh.",
    b"url.",
];

/// A server that sends less than a byte a second for this long is given up, over HTTP.
const LOW_SPEED: [(&str, &str); 2] = [("GIT_HTTP_LOW_SPEED_LIMIT", "1"), ("GIT_HTTP_LOW_SPEED_TIME", "600")];

/// What the names of the variables begin with that git gets, of those that begin with `GIT_`.
const VARIABLES: [&[u8]; 14] = [
    b"GIT_ALLOC_LIMIT",
    b"GIT_ALLOW_PROTOCOL",
    b"GIT_ASKPASS",
    b"GIT_CURL_VERBOSE",
    b"GIT_EXEC_PATH",
    b"GIT_HTTP_",
    b"GIT_PROTOCOL",
    b"GIT_PROXY_",
    b"GIT_REDACT_COOKIES",
    b"GIT_SSH",
    b"GIT_SSL_",
    b"GIT_TERMINAL_PROMPT",
    b"GIT_TRACE",
    b"GIT_TR2",
];

/// The settings that a person has and git gets.
pub(super) struct Settings {
    /// Configuration in git's format. It has no name, and is inherited by whatever is run. `None` where there
    /// is nothing to say.
    file: Option<File>,
    /// What stands for the repository where not all of its settings count.
    shadow: Option<Shadow>,
}

impl Settings {
    /// Those that count for the repository `git_dir`, or for none.
    pub fn read(git_dir: Option<&Path>) -> Result<Self, GitError> {
        // Whoever runs git will be told that it is missing.
        let Some(listed) = list_settings(git_dir)? else { return Ok(Self { file: None, shadow: None }) };
        let shadow = match git_dir {
            Some(git_dir) => Shadow::of(git_dir, &listed)?,
            None => None,
        };
        let sifted = sift(&listed);
        if sifted.is_empty() {
            return Ok(Self { file: None, shadow });
        }
        let keep = || {
            // Inherited: git and what that runs open it by the name that it has there.
            let mut file = File::from(memfd_create("git-settings", MemfdFlags::empty())?);
            file.write_all(&sifted)?;
            Ok(file)
        };
        let file = keep().map_err(GitError::io("keep the settings of", Path::new("git")))?;
        Ok(Self { file: Some(file), shadow })
    }

    /// The directory that git is to take for the repository `git_dir`.
    pub fn git_dir<'a>(&'a self, git_dir: &'a Path) -> &'a Path {
        self.shadow.as_ref().map_or(git_dir, Shadow::path)
    }

    /// Whether not all settings of the repository count.
    pub fn is_isolated(&self) -> bool {
        self.shadow.is_some()
    }

    /// Git, about to run with these settings, which must live until it does.
    pub fn command(&self) -> Command {
        let mut command = Command::new("git");
        let is_kept = |name: &OsStr| VARIABLES.iter().any(|kept| name.as_encoded_bytes().starts_with(kept));
        for (name, _) in env::vars_os() {
            // Some would name another repository, others change what is done in this one.
            if name.as_encoded_bytes().starts_with(b"GIT_") && !is_kept(&name) {
                command.env_remove(name);
            }
        }
        let file = self.file.as_ref().map(|file| format!("/proc/self/fd/{}", file.as_raw_fd()));
        command.env("GIT_CONFIG_GLOBAL", file.as_deref().unwrap_or("/dev/null"));
        command.env("GIT_CONFIG_NOSYSTEM", "1");
        // What it says is looked at, so it says it in one language.
        command.env("LC_ALL", "C").stdin(Stdio::null());
        // Nothing is done behind the back of what was asked for, and what comes is on the disk before a reference
        // names it, also in a repository that git has set up.
        const SETTINGS: [&str; 4] =
            ["gc.auto=0", "maintenance.auto=false", "core.fsync=all", "fetch.unpackLimit=1"];
        // A few bytes of a delta make an object of any size, which git holds in memory, one for each thread. Large blobs
        // that are none are not held.
        const BOUNDS: [&str; 2] = ["pack.threads=1", "core.bigFileThreshold=64m"];
        command.args(SETTINGS.iter().chain(&BOUNDS).flat_map(|setting| ["-c", setting]));
        command
            .envs([ALLOC_LIMIT].into_iter().chain(LOW_SPEED).filter(|(name, _)| env::var_os(name).is_none()));
        command
    }
}

/// What git asks for a login: it prints what is in the environment, where no other user looks.
const HELPER: &str = "!f() { if test \"$1\" = get; then \
    printf 'username=%s\\npassword=%s\\n' \"$TREERING_GIT_USER\" \"$TREERING_GIT_PASSWORD\"; fi; }; f";

/// Lets git, about to run, be who `login` says at `address`. A URL with the login in it would be seen in the arguments of
/// what git runs.
pub(super) fn log_in(command: &mut Command, address: &str, login: &Login) {
    let host = address.split_once("://").map_or(address, |(scheme, rest)| {
        let end = rest.find('/').unwrap_or(rest.len());
        &address[..scheme.len() + 3 + end]
    });
    let mut settings = vec![(format!("credential.{host}.username"), login.user.as_str())];
    if let Some(password) = &login.password {
        // Other helpers know nothing of this login, and are not to keep it.
        settings.extend(["", HELPER].map(|helper| (format!("credential.{host}.helper"), helper)));
        command.env("TREERING_GIT_USER", &login.user).env("TREERING_GIT_PASSWORD", password);
    }
    command.env("GIT_CONFIG_COUNT", settings.len().to_string());
    for (number, (key, value)) in settings.iter().enumerate() {
        command.env(format!("GIT_CONFIG_KEY_{number}"), key).env(format!("GIT_CONFIG_VALUE_{number}"), value);
    }
}

/// Of the settings that are listed, those that git gets, as a file of settings.
fn sift(listed: &[u8]) -> Vec<u8> {
    let mut sifted = Vec::new();
    // Those of the repository git reads by itself.
    let others =
        listed_settings(listed).filter(|(scope, ..)| matches!(*scope, b"system" | b"global" | b"command"));
    for (_, name, value) in others {
        if LET_THROUGH.iter().any(|prefix| name.starts_with(prefix)) {
            write_setting(&mut sifted, name, value);
        }
    }
    sifted
}

#[cfg(test)]
mod tests {
    use super::super::testing::Fixture;
    use super::*;

    #[test]
    fn settings_come_out_as_they_went_in() {
        let listed = b"system\0credential.helper\n\0global\0credential.https://a.b/x\"y\\z.c.username\nann\0\
            global\0core.hookspath\n/hooks\0global\0gc.auto\n1\0local\0http.proxy\nhere\0\
            command\0http.proxy\n a\tb;#\"\\\nnext \0global\0http.sslverify\0";
        let sifted = sift(listed);
        let fixture = Fixture::new();
        let file = fixture.path().join("sifted");
        std::fs::write(&file, &sifted).unwrap();
        let read = fixture.run(&["config", "--file", file.to_str().unwrap(), "--list", "--null"]);
        let expected = "credential.helper\n\0credential.https://a.b/x\"y\\z.c.username\nann\0\
            http.proxy\n a\tb;#\"\\\nnext \0http.sslverify\0";
        assert_eq!(read, expected);
    }

    #[test]
    fn a_login_goes_to_git_by_the_environment() {
        let url = crate::url::Url::from("https://me:p%20w'\"$x@example.org:8443/x.git").for_git().unwrap();
        let settings = Settings { file: None, shadow: None };
        let asked = |request: &str| {
            let mut git = settings.command();
            log_in(&mut git, &url.address, url.login.as_ref().unwrap());
            git.args(["credential", "fill"]).stdin(Stdio::piped()).stdout(Stdio::piped());
            git.env("GIT_TERMINAL_PROMPT", "0").env("GIT_ASKPASS", "false").stderr(Stdio::null());
            let mut git = git.spawn().unwrap();
            git.stdin.take().unwrap().write_all(request.as_bytes()).unwrap();
            String::from_utf8(git.wait_with_output().unwrap().stdout).unwrap()
        };
        let said = asked("protocol=https\nhost=example.org:8443\n\n");
        assert!(said.contains("username=me\npassword=p w'\"$x\n"), "{said}");
        assert!(!asked("protocol=https\nhost=example.com\n\n").contains("password"));
    }

    #[test]
    fn git_runs_with_what_was_let_through_and_so_does_what_it_runs() {
        let fixture = Fixture::new();
        fixture.run(&["config", "http.proxy", "http://here"]);
        let settings = || Settings::read(Some(&fixture.path())).unwrap();
        let mut found = settings();
        let written = "[http]\n\tproxy = \"http://there\"\n[url \"a:\"]\n\tinsteadof = \"b:\"\n";
        let mut file = File::from(memfd_create("git-settings", MemfdFlags::empty()).unwrap());
        file.write_all(written.as_bytes()).unwrap();
        found.file = Some(file);
        let mut git = found.command();
        git.args(["-c", "alias.x=!git config --get-regexp '^(http|url|core.hookspath)'", "--git-dir"]);
        let output = git.arg(fixture.path()).arg("x").output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(said, "http.proxy http://there\nurl.a:.insteadof b:\nhttp.proxy http://here\n");
    }
}
