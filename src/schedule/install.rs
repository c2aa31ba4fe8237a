//! Timers of systemd, or a line in a crontab, that start the runs in place of the daemon.
//!
//! Each scheduled profile gets a service and a timer. Every file begins with a line that says which configuration it
//! is of; only files with that line are ever overwritten or removed. In the crontab one line asks every minute what
//! is due; it stands below a comment of the same kind.

use std::fmt::Write as _;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{fs, io};

use super::profile::Profile;
use crate::atomic;

/// What the names of all units begin with.
const PREFIX: &str = "treering-";
/// The directory beside the units in which links start them with the system.
const WANTED: &str = "timers.target.wants";

/// Why units cannot be written or removed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The operating system refused.
    #[error("cannot {action} {}", .path.display())]
    Io {
        /// What was to be done.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file that somebody else wrote.
    #[error("{} is not of these profiles: move it away, or name the profile otherwise", .0.display())]
    Foreign(PathBuf),
    /// The program that keeps crontabs does not do it.
    #[error("cannot change the crontab: is cron installed, and may you use it?")]
    Crontab(#[source] io::Error),
    /// A path that cannot stand in a unit or a crontab.
    #[error("{} cannot be written into a unit or a crontab: use a path of text, without line breaks", .0.display())]
    Path(PathBuf),
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InstallError {
    move |source| InstallError::Io { action, path: path.to_owned(), source }
}

/// What is written for the profiles of one configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installer {
    program: String,
    config: String,
    system: bool,
}

/// A file for systemd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Such as `treering-home.timer`.
    pub name: String,
    /// What stands in it.
    pub text: String,
}

impl Installer {
    /// For the program at `program` and the profiles in `config`, run by the system or for one user.
    pub fn new(program: &Path, config: &Path, system: bool) -> Result<Self, InstallError> {
        let text = |path: &Path| {
            let text = path.to_str().filter(|text| !text.contains(|c: char| c.is_control()));
            text.map(str::to_owned).ok_or_else(|| InstallError::Path(path.to_owned()))
        };
        Ok(Self { program: text(program)?, config: text(config)?, system })
    }

    /// The first line of everything that is written.
    fn mark(&self) -> String {
        format!("# Written by `treering schedule install` for {}; `uninstall` removes it.", self.config)
    }

    /// The service and the timer of `profile`, if it has a schedule.
    pub fn units(&self, profile: &Profile) -> Option<[Unit; 2]> {
        let rule = profile.schedule.as_ref()?;
        let (name, mark) = (&profile.name, self.mark());
        let unit = |kind: &str, text: String| Unit { name: format!("{PREFIX}{name}.{kind}"), text };
        let network = match self.system && !profile.push.is_empty() {
            true => "Wants=network-online.target\nAfter=network-online.target\n",
            false => "",
        };
        let (program, config) = (quoted(&self.program), quoted(&self.config));
        let service = format!(
            "{mark}\n\
             [Unit]\n\
             Description=Backup of the treering profile {name}\n\
             {network}\n\
             [Service]\n\
             Type=oneshot\n\
             ExecStart={program} --config {config} --profile {name} schedule run --force --wait\n\
             # A snapshot was saved, but some files could not be read.\n\
             SuccessExitStatus=3\n\
             # Asks the run to stop in order; it asks its own children.\n\
             KillMode=mixed\n\
             TimeoutStopSec=5min\n\
             Nice=10\n\
             IOSchedulingPriority=7\n"
        );
        let mut timer = format!(
            "{mark}\n[Unit]\nDescription=Backups of the treering profile {name}: {rule}\n\n[Timer]\n"
        );
        for line in rule.timer_lines() {
            let _ = writeln!(timer, "{line}");
        }
        let jitter = profile.jitter.0.as_millis();
        if jitter > 0 {
            let _ = writeln!(timer, "RandomizedDelaySec={jitter}ms\nFixedRandomDelay=true");
        }
        let _ = writeln!(
            timer,
            "Persistent={}\nAccuracySec=1s\n\n[Install]\nWantedBy=timers.target",
            profile.catch_up.0
        );
        Some([unit("service", service), unit("timer", timer)])
    }

    /// Writes the units of `profiles` into `directory`, and the links that start the timers with the system. Returns
    /// the names of the timers.
    pub fn install<'a>(
        &self,
        directory: &Path,
        profiles: impl IntoIterator<Item = &'a Profile>,
    ) -> Result<Vec<String>, InstallError> {
        let units: Vec<Unit> =
            profiles.into_iter().filter_map(|profile| self.units(profile)).flatten().collect();
        for unit in &units {
            let path = directory.join(&unit.name);
            if path.exists() && !self.is_ours(&path)? {
                return Err(InstallError::Foreign(path));
            }
        }
        let wanted = directory.join(WANTED);
        fs::create_dir_all(&wanted).map_err(failed("make", &wanted))?;
        let mut timers = Vec::new();
        for Unit { name, text } in units {
            let path = directory.join(&name);
            atomic::write(&path, text.as_bytes()).map_err(failed("write", &path))?;
            if name.ends_with(".timer") {
                let link = wanted.join(&name);
                match std::os::unix::fs::symlink(Path::new("..").join(&name), &link) {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    linked => linked.map_err(failed("make", &link))?,
                }
                timers.push(name);
            }
        }
        Ok(timers)
    }

    /// The names of the units in `directory` that were written for this configuration, or for its profile `only`.
    pub fn installed(&self, directory: &Path, only: Option<&str>) -> Result<Vec<String>, InstallError> {
        let entries = match fs::read_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed("list", directory))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed("list", directory))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let Some((profile, kind)) = name.strip_prefix(PREFIX).and_then(|rest| rest.rsplit_once('.'))
            else {
                continue;
            };
            let is_meant = only.is_none_or(|only| only == profile) && ["service", "timer"].contains(&kind);
            if is_meant && self.is_ours(&entry.path())? {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Removes the units called `names` from `directory`, and their links.
    pub fn uninstall(&self, directory: &Path, names: &[String]) -> Result<(), InstallError> {
        let remove = |path: PathBuf| match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(failed("remove", &path)),
        };
        for name in names {
            remove(directory.join(WANTED).join(name))?;
            remove(directory.join(name))?;
        }
        Ok(())
    }

    fn is_ours(&self, path: &Path) -> Result<bool, InstallError> {
        let text = fs::read(path).map_err(failed("read", path))?;
        Ok(text.split(|byte| *byte == b'\n').next() == Some(self.mark().as_bytes()))
    }

    /// `crontab`, the text of one, with the line that starts what is due, or without it.
    pub fn crontab(&self, crontab: &str, wanted: bool) -> String {
        let mark = self.mark();
        let mut text = String::new();
        // A carriage return is the user's, and stays.
        let mut lines = crontab.split_terminator('\n');
        while let Some(line) = lines.next() {
            if line == mark {
                // And the line that belongs to it.
                lines.next();
            } else {
                text.push_str(line);
                text.push('\n');
            }
        }
        if wanted {
            // In a crontab a percent sign ends the command.
            let word = |path: &str| format!("'{}'", path.replace('\'', r"'\''")).replace('%', r"\%");
            let (program, config) = (word(&self.program), word(&self.config));
            let _ = writeln!(text, "{mark}\n* * * * * {program} --config {config} --quiet schedule run");
        }
        text
    }
}

/// The crontab of the user; empty where there is none.
pub fn read_crontab() -> Result<String, InstallError> {
    let output =
        Command::new("crontab").arg("-l").stdin(Stdio::null()).output().map_err(InstallError::Crontab)?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    match output.status.success() {
        true => {
            String::from_utf8(output.stdout).map_err(|error| InstallError::Crontab(io::Error::other(error)))
        }
        // Any other failure may hide a crontab that would be overwritten.
        false if complaint.contains("no crontab for") => Ok(String::new()),
        false => Err(InstallError::Crontab(io::Error::other(complaint.trim().to_owned()))),
    }
}

/// Makes `text` the crontab of the user.
pub fn write_crontab(text: &str) -> Result<(), InstallError> {
    let write = || {
        let mut child =
            Command::new("crontab").arg("-").stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(text.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        match output.status.success() {
            true => Ok(()),
            false => Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
        }
    };
    write().map_err(InstallError::Crontab)
}

/// A word of `ExecStart`, see systemd.service(5).
fn quoted(text: &str) -> String {
    let escaped = text.replace('\\', r"\\").replace('"', r#"\""#).replace('%', "%%").replace('$', "$$");
    format!("\"{escaped}\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Profiles;

    fn installer() -> Installer {
        Installer::new(Path::new("/usr/bin/treering"), Path::new("/etc/treering/treering.toml"), true)
            .unwrap()
    }

    fn profiles(text: &str) -> Profiles {
        let text = format!("[default]\nrepo = '/r'\nsources = '/s'\nschedule = 'daily at 03:00'\n{text}");
        Profiles::parse(&text, Path::new("/etc/treering/treering.toml"), None).unwrap()
    }

    #[test]
    fn what_is_special_to_systemd_is_escaped() {
        assert_eq!(quoted(r#"/a b/100%/"$x\y"#), r#""/a b/100%%/\"$$x\\y""#);
        let path = Path::new("/a\nExecStart=/bin/false");
        assert!(matches!(Installer::new(path, path, false), Err(InstallError::Path(_))));
    }

    #[test]
    fn exactly_what_was_installed_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("treering-mine.timer"), "[Timer]\n").unwrap();
        fs::write(path("other.service"), installer().mark()).unwrap();
        let files = || {
            let files = walkdir::WalkDir::new(dir.path()).sort_by_file_name().into_iter().map(Result::unwrap);
            let files = files.filter(|entry| !entry.file_type().is_dir());
            files.map(|entry| entry.file_name().to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let before = files();
        let two = profiles("jitter = '90s'\n[profile.a]\n[profile.b]\ncatch-up = false\npush = 'origin'");
        let timers = installer().install(dir.path(), two.iter()).unwrap();
        assert_eq!(timers, ["treering-a.timer", "treering-b.timer"]);
        assert_eq!(installer().install(dir.path(), two.iter()).unwrap(), timers, "again");
        let timer = fs::read_to_string(path("timers.target.wants/treering-b.timer")).unwrap();
        assert!(timer.contains("\nOnCalendar=*-*-* 03:00:00\nRandomizedDelaySec=90000ms\n"), "{timer}");
        assert!(timer.contains("\nPersistent=false\n"), "{timer}");
        let service = fs::read_to_string(path("treering-b.service")).unwrap();
        assert!(service.contains("network-online.target"), "{service}");
        let elsewhere = Installer::new(Path::new("/t"), Path::new("/home/me/treering.toml"), true).unwrap();
        assert!(elsewhere.installed(dir.path(), None).unwrap().is_empty());
        assert!(matches!(elsewhere.install(dir.path(), two.iter()), Err(InstallError::Foreign(_))));
        let of_a = installer().installed(dir.path(), Some("a")).unwrap();
        assert_eq!(of_a, ["treering-a.service", "treering-a.timer"]);
        installer().uninstall(dir.path(), &of_a).unwrap();
        installer().uninstall(dir.path(), &installer().installed(dir.path(), None).unwrap()).unwrap();
        assert_eq!(files(), before);
        assert!(installer().installed(&path("none"), None).unwrap().is_empty());
    }

    #[test]
    fn a_unit_of_somebody_else_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("treering-a.timer"), "[Timer]\n").unwrap();
        let result = installer().install(dir.path(), profiles("[profile.a]").iter());
        assert!(matches!(result, Err(InstallError::Foreign(_))), "{result:?}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_crontab_keeps_what_others_wrote() {
        let own = "MAILTO=me\n# mine\n0 1 * * * true\n";
        let installer = Installer::new(Path::new("/opt/it's/100%"), Path::new("/x.toml"), false).unwrap();
        let with = installer.crontab(own, true);
        assert!(with.starts_with(own), "{with}");
        let line = r"* * * * * '/opt/it'\''s/100\%' --config '/x.toml' --quiet schedule run";
        assert!(with.lines().any(|one| one == line), "{with}");
        assert_eq!(installer.crontab(&with, true), with, "again");
        assert_eq!(installer.crontab(&with, false), own);
        assert_eq!(installer.crontab("", false), "");
        let other_ends = "MAILTO=me\r\n0 1 * * * true\r\n";
        assert_eq!(installer.crontab(&installer.crontab(other_ends, true), false), other_ends);
    }
}
