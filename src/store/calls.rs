//! How the backend is called: so many at once, again when that can help, counted, and slowed down on request.

use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::error::Reason;
use super::statistics::{Counters, Figures, Operation};
use crate::child::LOOK;
use crate::signals;

/// How often and after which pauses a call that failed temporarily is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// Attempts in all; at least one is made.
    pub attempts: u32,
    /// The pause after the first attempt. Each further one is twice as long as the one before, up to
    /// [`longest_pause`](Self::longest_pause), and shortened by up to a half at random.
    pub first_pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 5, first_pause: Duration::from_millis(500), longest_pause: Duration::from_secs(15) }
    }
}

impl Retry {
    fn pause(&self, attempt: u32) -> Duration {
        let factor = 2_u32.saturating_pow(attempt.saturating_sub(1));
        let longest = self.first_pause.saturating_mul(factor).min(self.longest_pause);
        // Without randomness, no jitter: it only keeps clients from coming back all at once.
        let random = getrandom::u32().unwrap_or(0);
        longest - longest.mul_f64(0.5 * f64::from(random) / f64::from(u32::MAX))
    }
}

/// Makes the backend look slower than it is, to try things out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Emulation {
    /// The least time that a call takes.
    pub latency: Duration,
    /// Content passes at no more than so many bits in a second.
    pub bits_per_second: Option<u64>,
}

impl Emulation {
    fn time(&self, bytes: u64) -> Duration {
        let transfer = match self.bits_per_second {
            None => Duration::ZERO,
            Some(rate) => {
                let nanoseconds = u128::from(bytes) * 8 * 1_000_000_000 / u128::from(rate.max(1));
                Duration::from_nanos(nanoseconds.try_into().unwrap_or(u64::MAX))
            }
        };
        self.latency.saturating_add(transfer)
    }
}

pub(super) struct Calls {
    retry: Retry,
    emulation: Emulation,
    free: Mutex<usize>,
    freed: Condvar,
    pub counters: Counters,
}

/// The right to have one call under way; given back when dropped.
struct Slot<'a>(&'a Calls);

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.freed.notify_one();
    }
}

impl Calls {
    pub fn new(retry: Retry, emulation: Emulation, at_once: usize) -> Self {
        Self {
            retry,
            emulation,
            free: Mutex::new(at_once.max(1)),
            freed: Condvar::new(),
            counters: Counters::default(),
        }
    }

    fn slot(&self) -> Slot<'_> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        *self.freed.wait_while(free, |free| *free == 0).unwrap_or_else(PoisonError::into_inner) -= 1;
        Slot(self)
    }

    /// Makes the call, again as long as it fails temporarily. `attempt` is told which attempt it is, from
    /// 1, and says with its value how many bytes of content passed. An error comes with the number of
    /// attempts.
    pub fn run<T>(
        &self,
        operation: Operation,
        attempt: impl FnMut(u32) -> Result<(T, u64), Reason>,
    ) -> Result<T, (Reason, u32)> {
        self.run_part(operation, true, attempt)
    }

    /// As [`run`](Self::run), for a call in several parts, of which only the first counts as a call and
    /// is slowed down.
    pub fn run_part<T>(
        &self,
        operation: Operation,
        first: bool,
        mut attempt: impl FnMut(u32) -> Result<(T, u64), Reason>,
    ) -> Result<T, (Reason, u32)> {
        let _slot = self.slot();
        let start = Instant::now();
        let mut attempts = 1;
        let result = loop {
            let started = Instant::now();
            let result = attempt(attempts);
            let bytes = result.as_ref().map_or(0, |(_, bytes)| *bytes);
            if first {
                thread::sleep(self.emulation.time(bytes).saturating_sub(started.elapsed()));
            }
            match result {
                Err(reason) if reason.is_temporary() && attempts < self.retry.attempts => {
                    tracing::debug!(%operation, attempts, %reason, "trying again");
                    if !rest(self.retry.pause(attempts)) {
                        break Err(reason);
                    }
                    attempts += 1;
                }
                result => break result,
            }
        };
        self.counters.add(
            operation,
            Figures {
                calls: u64::from(first),
                failures: u64::from(result.is_err()),
                retries: u64::from(attempts - 1),
                time: start.elapsed(),
                bytes: result.as_ref().map_or(0, |(_, bytes)| *bytes),
            },
        );
        match result {
            Ok((value, _)) => Ok(value),
            Err(reason) => Err((reason, attempts)),
        }
    }
}

/// Waits for `pause`, or until this process is to stop. Whether it goes on.
fn rest(pause: Duration) -> bool {
    let start = Instant::now();
    loop {
        if signals::is_stopping() {
            return false;
        }
        match pause.checked_sub(start.elapsed()) {
            Some(left) if !left.is_zero() => thread::sleep(left.min(LOOK)),
            _ => return true,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::*;

    const QUICK: Retry = Retry { attempts: 3, first_pause: Duration::ZERO, longest_pause: Duration::ZERO };

    #[test]
    fn tries_again_only_what_is_temporary_and_counts_it() {
        let calls = Calls::new(QUICK, Emulation::default(), 1);
        let value = calls.run(Operation::Load, |attempt| match attempt {
            3 => Ok(("value", 5)),
            _ => Err(Reason::temporary("busy")),
        });
        assert_eq!(value.unwrap(), "value");
        let failed = calls.run::<()>(Operation::Load, |_| Err(Reason::temporary("busy")));
        assert!(matches!(failed, Err((_, 3))));
        let failed = calls.run::<()>(Operation::Load, |_| Err(Reason::NotFound));
        assert!(matches!(failed, Err((Reason::NotFound, 1))));
        let figures = calls.counters.figures(Operation::Load);
        assert_eq!((figures.calls, figures.failures, figures.retries, figures.bytes), (3, 2, 4, 5));
    }

    #[test]
    fn never_has_more_calls_at_once_than_allowed() {
        let calls =
            Calls::new(QUICK, Emulation { latency: Duration::from_millis(2), ..Emulation::default() }, 3);
        let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..12 {
                scope.spawn(|| {
                    calls.run(Operation::Info, |_| {
                        most.fetch_max(running.fetch_add(1, SeqCst) + 1, SeqCst);
                        thread::sleep(Duration::from_millis(1));
                        running.fetch_sub(1, SeqCst);
                        Ok(((), 0))
                    })
                });
            }
        });
        assert!((1..=3).contains(&most.into_inner()));
    }

    #[test]
    fn pauses_grow_to_a_bound() {
        let retry = Retry { first_pause: Duration::from_secs(1), ..Retry::default() };
        for attempt in 1..200 {
            let pause = retry.pause(attempt);
            let longest =
                retry.first_pause.saturating_mul(2_u32.saturating_pow(attempt - 1)).min(retry.longest_pause);
            assert!(pause <= longest && pause >= longest / 2, "{attempt}: {pause:?}");
        }
    }

    #[test]
    fn emulated_bandwidth_is_in_bits() {
        let emulation = Emulation { latency: Duration::from_millis(1), bits_per_second: Some(8_000) };
        assert_eq!(emulation.time(1_000), Duration::from_millis(1_001));
        assert_eq!(Emulation::default().time(u64::MAX), Duration::ZERO);
    }
}
