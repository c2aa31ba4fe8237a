//! Showing how far an operation is, and stopping it when the person asks.
//!
//! A thread looks at the counters while the operation runs. On a terminal it draws a bar on standard error
//! once the operation has taken a second; as JSON it prints a line each second, and one at the end. The first
//! Ctrl-C asks the operation to stop; the second ends the program at once, which loses nothing that was
//! durable. So it is with commands that show no progress: they stop while they run git, and end at once else.

use std::io::IsTerminal;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use treering::progress::Progress;
use treering::signals;

use crate::cli::error::Exit;
use crate::cli::json;
use crate::cli::report;

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    /// Not at all.
    Nothing,
    /// As a bar, where standard error is a terminal.
    Bar,
    /// As lines of JSON on standard output.
    Json,
}

/// Operations shorter than this show no bar.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often a bar is drawn.
const FRAME: Duration = Duration::from_millis(100);
/// How often a line of JSON is printed.
const LINE: Duration = Duration::from_secs(1);

/// A terminal of fewer columns has no room for a bar beside the figures.
const WIDE: u16 = 80;

const TOTAL_UNKNOWN: &str = "{spinner} {wide_msg}  {elapsed}";
const NARROW: &str = "{percent:>3}% {wide_msg}";
const NOTHING_DONE: &str = "{percent:>3}% [{wide_bar}] {msg}";
const UNDER_WAY: &str = "{percent:>3}% [{wide_bar}] {msg}  {binary_bytes_per_sec}  {eta} left";

/// Runs `work`, showing its progress; Ctrl-C asks it to stop.
pub fn watch<R>(show: Show, work: impl FnOnce(&Progress) -> R) -> R {
    let progress = Arc::new(Progress::new());
    running_operation().replace(progress.clone());
    std::thread::scope(|scope| {
        let (running, ended) = channel::<()>();
        let watched = &progress;
        match show {
            Show::Bar if std::io::stderr().is_terminal() => {
                scope.spawn(move || draw(watched, &ended));
            }
            Show::Json => {
                scope.spawn(move || print_lines(watched, &ended));
            }
            _ => {}
        }
        let result = work(&progress);
        // Dropped also where `work` panics, so that the scope does not wait for ever.
        drop(running);
        running_operation().take();
        result
    })
}

/// Waits for `time`; whether the operation still runs after it.
fn runs_after(time: Duration, ended: &Receiver<()>) -> bool {
    ended.recv_timeout(time) == Err(RecvTimeoutError::Timeout)
}

fn draw(progress: &Progress, ended: &Receiver<()>) {
    let start = Instant::now();
    // Fed from the start, so that its rate is true when it is shown.
    let bar = ProgressBar::hidden();
    let mut shown = "";
    while runs_after(FRAME, ended) {
        let (done, total) = (progress.bytes.get(), progress.total_bytes.get());
        // Neither a rate nor an end can be told before anything is done.
        let template = match (total, done) {
            (0, _) => TOTAL_UNKNOWN,
            _ if is_narrow() => NARROW,
            (_, 0) => NOTHING_DONE,
            _ => UNDER_WAY,
        };
        if template != shown {
            let style = ProgressStyle::with_template(template);
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            shown = template;
        }
        if total > 0 {
            bar.set_length(total);
        }
        bar.set_message(message(progress));
        bar.set_position(done);
        if bar.is_hidden() && start.elapsed() >= PATIENCE {
            bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        bar.tick();
    }
    bar.finish_and_clear();
}

fn is_narrow() -> bool {
    rustix::termios::tcgetwinsize(std::io::stderr()).is_ok_and(|size| size.ws_col < WIDE)
}

fn message(progress: &Progress) -> String {
    if progress.check().is_err() {
        return "stopping; Ctrl-C again ends at once".into();
    }
    let (files, bytes) = (report::count(progress.files.get()), report::size(progress.bytes.get()));
    let mut message = match (progress.total_files.get(), progress.total_bytes.get()) {
        // Between repositories no files move.
        (0, 0) if progress.files.get() == 0 => bytes,
        (0, size) if progress.files.get() == 0 => format!("{bytes}/{}", report::size(size)),
        (0, 0) => format!("{files} files  {bytes}"),
        (all, 0) => format!("{files}/{} files  {bytes}", report::count(all)),
        (all, size) => format!("{files}/{} files  {bytes}/{}", report::count(all), report::size(size)),
    };
    if progress.errors.get() > 0 {
        message = format!("{message}  {}", report::plural(progress.errors.get(), "error"));
    }
    message
}

fn print_lines(progress: &Progress, ended: &Receiver<()>) {
    let start = Instant::now();
    let mut runs = true;
    while runs {
        runs = runs_after(LINE, ended);
        // The summary at the end meets the same fault and tells it.
        let _ = json::status(&mut std::io::stdout(), progress, start.elapsed());
    }
}

/// What a signal stops; `None` where nothing is running that can be asked.
static OPERATION: Mutex<Option<Arc<Progress>>> = Mutex::new(None);

fn running_operation() -> MutexGuard<'static, Option<Arc<Progress>>> {
    OPERATION.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on, a signal asks the operation that runs, and the programs that it runs, to stop; where nothing runs that can
/// be asked, and the second time, it ends this program at once.
pub fn heed_signals() {
    let end = || std::process::exit(Exit::Interrupted as i32);
    // Where they cannot be watched, a signal ends the program at once.
    let _ = signals::on_stop(move || {
        if signals::is_stopping() {
            end();
        }
        // Held, so that none begins meanwhile.
        let operation = running_operation();
        signals::stop(|| {
            if operation.is_none() {
                end();
            }
        });
        operation.iter().for_each(|progress| progress.stop());
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_is_one() {
        for template in [TOTAL_UNKNOWN, NARROW, NOTHING_DONE, UNDER_WAY] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }

    #[test]
    fn the_message_tells_what_is_known() {
        let progress = Progress::new();
        progress.bytes.add(2048);
        assert_eq!(message(&progress), "2.0 KiB");
        progress.files.add(3);
        assert_eq!(message(&progress), "3 files  2.0 KiB");
        progress.total_files.add(1000);
        assert_eq!(message(&progress), "3/1,000 files  2.0 KiB");
        progress.total_bytes.add(1 << 30);
        progress.errors.add(1);
        assert_eq!(message(&progress), "3/1,000 files  2.0 KiB/1.0 GiB  1 error");
        progress.stop();
        assert!(message(&progress).starts_with("stopping"));
    }
}
