//! What depends on who is there: terminals, pipes, and people who press Ctrl-C.
//!
//! The program is held where it reads its exclude patterns from a pipe, so nothing here depends on how fast
//! the machine is.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::lab::{Lab, interruption, make_pipe};

/// Longer than an operation must take before it shows a bar.
const LONG: Duration = Duration::from_millis(1500);

const HELD_BACKUP: [&str; 4] = ["backup", "tree", "--exclude-file", "pipe"];

/// Waits until `child` reads from the pipe, and so is in the midst of its work; returns the end that holds it
/// there.
fn held(lab: &Lab, child: &mut Child) -> File {
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    loop {
        // Without a reader this fails at once.
        if let Ok(pipe) = OpenOptions::new().write(true).custom_flags(nonblock).open(lab.path("pipe")) {
            return pipe;
        }
        assert_eq!(child.try_wait().unwrap(), None, "it ended before it read the pipe");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn interrupt(child: &Child) {
    // It may have ended.
    let _ = kill_process(Pid::from_child(child), interruption());
}

#[test]
fn a_terminal_shows_progress_and_then_the_summary() {
    let lab = Lab::new();
    make_pipe(&lab.path("pipe"));
    let Some(mut child) = lab.at_terminal(&HELD_BACKUP.join(" "), Stdio::null()) else { return };
    let pipe = held(&lab, &mut child);
    std::thread::sleep(LONG);
    drop(pipe);
    let output = child.wait_with_output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{shown}");
    let (bar, summary) = shown.split_once("Saved snapshot").unwrap_or_else(|| panic!("{shown}"));
    assert!(bar.contains(" 0 B  "), "{shown}");
    assert!(summary.contains("changes  5 created"), "{shown}");
}

#[test]
fn nothing_moves_where_there_is_no_terminal() {
    let lab = Lab::new();
    make_pipe(&lab.path("pipe"));
    let mut child = lab.command(HELD_BACKUP).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pipe = held(&lab, &mut child);
    std::thread::sleep(LONG);
    drop(pipe);
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    assert!(output.stdout.starts_with(b"Saved snapshot "));
}

#[test]
fn signals_that_were_to_be_ignored_stay_ignored() {
    let lab = Lab::new();
    make_pipe(&lab.path("pipe"));
    // As nohup does, and a shell for what it runs in the background.
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "trap '' HUP INT; exec \"$@\"", "sh"]);
    let mut command = lab.by(shell, HELD_BACKUP);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pipe = held(&lab, &mut child);
    for signal in [Signal::HUP, Signal::INT] {
        kill_process(Pid::from_child(&child), signal).unwrap();
    }
    drop(pipe);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(output.stdout.starts_with(b"Saved snapshot "), "{output:?}");
}

#[test]
fn a_second_interruption_ends_at_once() {
    let lab = Lab::new();
    make_pipe(&lab.path("pipe"));
    let mut child = lab.command(HELD_BACKUP).stdout(Stdio::null()).spawn().unwrap();
    let _pipe = held(&lab, &mut child);
    // Signals that come faster than they are taken are one.
    let status = loop {
        interrupt(&child);
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(status.code(), Some(130));
}

#[test]
fn an_interruption_stops_in_order_and_says_so() {
    let lab = Lab::new();
    make_pipe(&lab.path("pipe"));
    let mut child = lab.command(HELD_BACKUP).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pipe = held(&lab, &mut child);
    interrupt(&child);
    // The signal is taken by a thread of its own, of which nothing can be seen from here.
    std::thread::sleep(LONG);
    drop(pipe);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "treering: interrupted\n");
    assert!(lab.ok(["snapshots"]).starts_with("There are no snapshots"));
    lab.ok(["backup", "tree"]);
}

#[test]
fn commands_that_move_layers_stop_on_one_interruption() {
    let lab = Lab::new();
    lab.ok(["backup", "tree"]);
    let url = format!("file://{}", lab.path("store").display());
    lab.ok(["remote", "add", "cold", &url]);
    lab.ok(["push", "cold"]);
    lab.write("tree/more", "another layer");
    lab.ok(["backup", "tree"]);
    for arguments in
        [&["layers", "evict"][..], &["push", "cold"], &["pull", "cold"], &["clone", "--cold", &url, "clone"]]
    {
        let mut command = lab.command(arguments);
        // Each takes several calls of the store.
        command.env("TREERING_STORE_LATENCY", "1000000").stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        std::thread::sleep(LONG);
        interrupt(&child);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{arguments:?}: {output:?}");
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "treering: interrupted\n", "{arguments:?}");
    }
    lab.ok(["check", "--read-data"]);
    lab.ok(["push", "cold"]);
}

#[test]
fn output_that_nobody_reads_ends_quietly() {
    let lab = Lab::new();
    // More than a pipe holds, so that the program meets the end whenever it comes.
    lab.write("tree/large", &"0123456789\n".repeat(100_000));
    for number in 0..1000 {
        lab.write(&format!("tree/{number:0200}"), "");
    }
    lab.ok(["backup", "tree"]);
    for line in ["cat latest:large", "ls latest", "ls latest --long", "ls latest --json"] {
        let mut child =
            lab.command(line.split(' ')).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdout.take().unwrap().read_exact(&mut [0; 10]).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(141), &b""[..]), "{line}");
    }
}
