//! Watching a program that talks to somebody else's, with all that it has started: one that waits for an answer that never comes is
//! told from one that works, and one that works without end, or keeps all that comes, from one that has much to do.
//!
//! All of this is read from `/proc`. Where that does not tell it, nothing is bounded.

use std::env;
use std::fs;
use std::time::{Duration, Instant};

use rustix::process::Pid;

/// How often it is looked, at most. A server on this machine fills some 200 MB meanwhile.
const STEP: Duration = Duration::from_secs(1);

/// What is read and written while nothing happens: less than the sign of life that a server of git gives every five seconds while
/// it packs, which is five bytes.
const DRIBBLE: u64 = 300;

/// The same of ssh, which keeps its connection alive by itself, whatever the server of git does. A slow upload may be in its
/// buffers alone.
const DRIBBLE_OF_SSH: u64 = 64 << 10;

/// The time of the processor that reading such drops takes.
const DRIBBLE_OF_CPU: Duration = Duration::from_secs(1);

/// How many seconds of the processor each MB that was written may take. A pack without deltas takes about a thousandth of that; the
/// rest is for deltas and for slow machines.
const SECONDS_PER_MB: u64 = 4;

/// How much memory git may have beside what it may take at one time. A list of references takes some 300 bytes for each, and one of
/// objects about 100.
const MEMORY: u64 = 1 << 30;

/// The variable that says what git may take at one time, and what it says where it is not set. A list of five million objects takes
/// as much.
pub const ALLOC_LIMIT: (&str, &str) = ("GIT_ALLOC_LIMIT", "512m");

/// What git runs to send what is here.
const PACKER: &[u8] = b"pack-objects";

/// What the names of programs begin with that bring git to another host.
const SSH: [&str; 4] = ["ssh", "plink", "tortoiseplink", "dbclient"];

/// What a program may take.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// How long it may do nothing.
    pub idle: Duration,
    /// How much time of the processor it may use beside what is in proportion to the bytes that it writes, as it does with all that
    /// it receives. `None` for one that works on what is here.
    pub cpu: Option<Duration>,
    /// How many bytes of memory it may have together with all that it has started, beside what files are mapped. What packs what is
    /// here does not count where `cpu` is `None`.
    pub memory: Option<u64>,
}

impl Default for Bounds {
    fn default() -> Self {
        let at_once = env::var(ALLOC_LIMIT.0).ok().and_then(|limit| bytes(&limit)).or(bytes(ALLOC_LIMIT.1));
        // To git, none means any number.
        let memory = at_once.filter(|&limit| limit > 0).map(|limit| limit.saturating_add(MEMORY));
        Self { idle: Duration::from_secs(600), cpu: Some(Duration::from_secs(120)), memory }
    }
}

/// A number as git reads it.
fn bytes(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let digits = text.trim_end_matches(['k', 'm', 'g']);
    let shift = match &text[digits.len()..] {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

impl Bounds {
    /// The same for a program that works on what is here.
    pub fn of_sender(self) -> Self {
        Self { cpu: None, ..self }
    }
}

/// A program has come to one of its bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Exceeded {
    /// It did nothing for that long.
    #[error(
        "nothing came or went for {}, so it was ended: look whether the server works and what it waits for, and try again",
        shown(*.0)
    )]
    Idle(Duration),
    /// It used that much time of the processor.
    #[error(
        "what came takes {} of the processor, which is far more than so few bytes need, so it was ended. If you trust the server, \
         let it store no deltas: set pack.window to 0 in the repository there and run `git repack -adF`", shown(*.0)
    )]
    Cpu(Duration),
    /// It had that many bytes of memory.
    #[error(
        "what came took {} MiB of memory, so it was ended. If you trust the server, and it has that many references or objects, set \
         GIT_ALLOC_LIMIT to more than 512m", .0 >> 20
    )]
    Memory(u64),
}

fn shown(time: Duration) -> String {
    match time.as_secs() {
        seconds if seconds >= 120 => format!("{} minutes", seconds / 60),
        seconds => format!("{seconds} s"),
    }
}

/// A process that runs, or has ended and is not waited for.
#[derive(Debug, Clone)]
pub struct Process {
    /// Its number.
    pub pid: Pid,
    parent: Option<Pid>,
    /// When it began: with the number, it names the process.
    start: u64,
    name: String,
    state: String,
    /// Of itself and of those that it has waited for.
    ticks: u64,
}

impl Process {
    fn read(pid: Pid) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
        // The name may hold anything.
        let (before, after) = stat.rsplit_once(')')?;
        let fields: Vec<_> = after.split_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        Some(Self {
            pid,
            parent: fields.get(1)?.parse().ok().and_then(Pid::from_raw),
            start: number(19)?,
            name: before.split_once('(')?.1.to_owned(),
            state: (*fields.first()?).to_owned(),
            ticks: (11..15).filter_map(number).sum(),
        })
    }

    /// Whether it still runs.
    pub fn runs(&self) -> bool {
        Self::read(self.pid).is_some_and(|now| now.start == self.start && now.state != "Z")
    }

    /// How many bytes it has read, and written.
    fn bytes(&self) -> Option<(u64, u64)> {
        let text = fs::read_to_string(format!("/proc/{}/io", self.pid.as_raw_nonzero())).ok()?;
        let of = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        Some((of("rchar:")?, of("wchar:")?))
    }

    /// How many bytes of memory it has that are no file's.
    fn memory(&self) -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid.as_raw_nonzero())).ok()?;
        let of = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name))?;
            value.trim().strip_suffix("kB")?.trim_end().parse::<u64>().ok()
        };
        Some((of("RssAnon:")? + of("VmSwap:").unwrap_or(0)) << 10)
    }

    /// Whether it packs what is here.
    fn packs(&self) -> bool {
        let line = fs::read(format!("/proc/{}/cmdline", self.pid.as_raw_nonzero())).unwrap_or_default();
        line.split(|&byte| byte == 0).any(|argument| argument == PACKER)
    }
}

/// The processes that `ancestor` and its descendants have started and that have not ended, a parent before its children. They have
/// no group of their own, since only the group of the terminal may ask there.
pub fn descendants(ancestor: Pid) -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
    let mut others: Vec<_> = pids.filter_map(Process::read).collect();
    let mut found: Vec<Process> = Vec::new();
    let (mut at, mut above) = (0, ancestor);
    loop {
        found.extend(others.extract_if(.., |other| other.parent == Some(above)));
        match found.get(at) {
            Some(next) => above = next.pid,
            None => return found,
        }
        at += 1;
    }
}

/// What a program and all that it has started have done.
#[derive(Debug, Clone, Copy, Default)]
struct Done {
    /// Bytes that were read and written by others than ssh.
    bytes: u64,
    /// And by ssh, with what that runs.
    bytes_of_ssh: u64,
    /// Of all, those that were written.
    written: u64,
    cpu: Duration,
    /// Bytes that they have now and that are no file's, and those of whatever packs what is here.
    memory: u64,
    memory_of_packer: u64,
    /// Whether one of them waits for a disk, or was stopped.
    is_held: bool,
}

impl Done {
    fn of(root: Pid) -> Option<Self> {
        let root = Process::read(root)?;
        let own = root.bytes()?;
        let mut done = Self { bytes: own.0 + own.1, written: own.1, ..Self::default() };
        let (mut ticks, mut ssh) = (root.ticks, Vec::new());
        done.is_held = is_held(&root);
        done.memory = root.memory().unwrap_or(0);
        for process in descendants(root.pid) {
            let is_of_ssh = process.parent.is_some_and(|parent| ssh.contains(&parent))
                || SSH.iter().any(|name| process.name.starts_with(name));
            // Another user's, such as one behind sudo, does not tell.
            let (read, written) = process.bytes().unwrap_or_default();
            match is_of_ssh {
                true => done.bytes_of_ssh += read + written,
                false => done.bytes += read + written,
            }
            done.written += written;
            match process.packs() {
                true => done.memory_of_packer += process.memory().unwrap_or(0),
                false => done.memory += process.memory().unwrap_or(0),
            }
            done.is_held |= is_held(&process);
            ticks += process.ticks;
            ssh.extend(is_of_ssh.then_some(process.pid));
        }
        done.cpu =
            Duration::from_secs(ticks) / rustix::param::clock_ticks_per_second().try_into().unwrap_or(100);
        Some(done)
    }

    /// Whether more was done since `before` than what is done while nothing happens.
    fn goes_on(&self, before: &Self) -> bool {
        self.is_held
            || self.bytes.saturating_sub(before.bytes) >= DRIBBLE
            || self.bytes_of_ssh.saturating_sub(before.bytes_of_ssh) >= DRIBBLE_OF_SSH
            || self.cpu.saturating_sub(before.cpu) >= DRIBBLE_OF_CPU
    }
}

fn is_held(process: &Process) -> bool {
    ["D", "T", "t"].contains(&process.state.as_str())
}

/// Watches one program.
#[derive(Debug)]
pub struct Watch {
    root: Pid,
    bounds: Bounds,
    looked: Instant,
    /// What was done when it last went on, and how long that is ago.
    before: Done,
    idle: Duration,
}

impl Watch {
    /// Watches the process `root`, a child of this one.
    pub fn new(root: Pid, bounds: Bounds) -> Self {
        Self { root, bounds, looked: Instant::now(), before: Done::default(), idle: Duration::ZERO }
    }

    /// Whether it is within its bounds. To be called often while it runs; only now and then is there something to do.
    pub fn look(&mut self) -> Result<(), Exceeded> {
        let step = STEP.min(self.bounds.idle / 4);
        let passed = self.looked.elapsed();
        if passed < step {
            return Ok(());
        }
        self.looked = Instant::now();
        // While this process was stopped, nobody knows.
        self.idle += passed.min(step * 2);
        let Some(done) = Done::of(self.root) else {
            self.idle = Duration::ZERO;
            return Ok(());
        };
        if self.bounds.cpu.is_some_and(|most| {
            done.cpu > most + Duration::from_millis((done.written >> 10).saturating_mul(SECONDS_PER_MB))
        }) {
            return Err(Exceeded::Cpu(done.cpu));
        }
        let packer = if self.bounds.cpu.is_some() { done.memory_of_packer } else { 0 };
        let memory = done.memory + packer;
        if self.bounds.memory.is_some_and(|most| memory > most) {
            return Err(Exceeded::Memory(memory));
        }
        if done.goes_on(&self.before) {
            (self.before, self.idle) = (done, Duration::ZERO);
        }
        match self.idle >= self.bounds.idle {
            true => Err(Exceeded::Idle(self.bounds.idle)),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};
    use std::thread;

    use super::*;

    const BOUNDS: Bounds = Bounds { idle: Duration::from_secs(1), cpu: None, memory: None };

    /// A shell that runs `script`, and is ended with the test.
    struct Shell(Child);

    impl Shell {
        fn start(script: &str) -> (Self, Pid) {
            let shell = Command::new("sh").args(["-c", script]).stdout(Stdio::null()).spawn().unwrap();
            let pid = Pid::from_child(&shell);
            (Self(shell), pid)
        }
    }

    impl Drop for Shell {
        fn drop(&mut self) {
            for process in descendants(Pid::from_child(&self.0)) {
                let _ = rustix::process::kill_process(process.pid, rustix::process::Signal::KILL);
            }
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// What comes of watching until `enough` looks found something to have been done.
    fn watch(root: Pid, bounds: Bounds, enough: usize) -> Result<(), Exceeded> {
        let (mut watch, mut times) = (Watch::new(root, bounds), 0);
        while times < enough {
            let before = watch.before;
            watch.look()?;
            times += usize::from(watch.before.bytes != before.bytes);
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    #[test]
    fn who_does_nothing_is_told_from_who_works_below() {
        let (_shell, idle) = Shell::start("sleep 600 & wait");
        assert_eq!(watch(idle, BOUNDS, usize::MAX), Err(Exceeded::Idle(BOUNDS.idle)));
        let script = "(while :; do head -c 1000 /dev/zero; sleep 0.1; done) & wait";
        let (_shell, busy) = Shell::start(script);
        let patient = Bounds { idle: Duration::from_secs(8), ..BOUNDS };
        assert_eq!(watch(busy, patient, 4), Ok(()));
    }

    #[test]
    fn the_processor_is_counted_also_of_those_that_have_ended() {
        let script = "while :; do sh -c 'i=0; while [ $i -lt 50000 ]; do i=$((i+1)); done'; done";
        let (_shell, busy) = Shell::start(script);
        let bounds = Bounds { idle: Duration::from_secs(4), cpu: Some(Duration::from_millis(500)), ..BOUNDS };
        assert!(matches!(watch(busy, bounds, usize::MAX), Err(Exceeded::Cpu(_))));
    }

    #[test]
    fn the_memory_is_counted_of_all_that_was_started_but_not_of_who_packs_what_is_here() {
        let receiver = Bounds { cpu: Some(Duration::from_secs(600)), memory: Some(32 << 20), ..BOUNDS };
        let holding = |name: &str, bounds| {
            let script = format!("(head -c 64M /dev/zero; exec sleep 600) | tail -c 64M - {name} & wait");
            let (_shell, root) = Shell::start(&script);
            watch(root, bounds, usize::MAX)
        };
        let took_all = |result| matches!(result, Err(Exceeded::Memory(bytes)) if bytes > 32 << 20);
        assert!(took_all(holding("other", receiver)));
        assert!(took_all(holding("other", receiver.of_sender())));
        assert!(took_all(holding("pack-objects", receiver)));
        assert_eq!(holding("pack-objects", receiver.of_sender()), Err(Exceeded::Idle(BOUNDS.idle)));
    }

    #[test]
    fn sizes_are_read_as_git_reads_them() {
        for (text, expected) in
            [("512m", Some(512 << 20)), ("1G", Some(1 << 30)), ("7", Some(7)), ("0", Some(0))]
        {
            assert_eq!(bytes(text), expected, "{text}");
        }
        for text in ["", "m", "1kk", "x", "99999999999g"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }

    #[test]
    fn signs_of_life_of_ssh_are_none_of_git_and_an_upload_is() {
        let quiet = Done::default();
        for (bytes, bytes_of_ssh, goes_on) in
            [(0, 8 << 10, false), (299, 0, false), (600, 0, true), (0, 600 << 10, true)]
        {
            assert_eq!(Done { bytes, bytes_of_ssh, ..quiet }.goes_on(&quiet), goes_on, "{bytes}");
        }
        assert!(Done { is_held: true, ..quiet }.goes_on(&quiet));
    }

    #[test]
    fn a_process_that_has_ended_does_not_run() {
        let (mut shell, pid) = Shell::start("exec sleep 600");
        let process = Process::read(pid).unwrap();
        assert!(process.runs());
        shell.0.kill().unwrap();
        shell.0.wait().unwrap();
        assert!(!process.runs());
    }
}
