//! Work spread over threads whose results come back in order.
//!
//! One thread produces, several map, the caller's consumes, in the order of production. At most `ahead` items
//! are between production and consumption at any time, which bounds memory whatever one item costs. When the
//! consumer fails, the producer is told by [`Closed`] and the rest is dropped.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Nobody wants further items: the consumer has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the consumer has stopped")]
pub struct Closed;

/// Where the producer puts its items.
pub struct Feed<T, R> {
    work: SyncSender<(T, SyncSender<R>)>,
    order: SyncSender<Receiver<R>>,
}

impl<T, R> Feed<T, R> {
    /// Hands an item to the mapping threads; waits while too many are on the way.
    pub fn send(&self, item: T) -> Result<(), Closed> {
        let (result, receiver) = sync_channel(1);
        self.order.send(receiver).map_err(|_| Closed)?;
        self.work.send((item, result)).map_err(|_| Closed)
    }
}

/// Locks a mutex of threads that a scope holds together.
///
/// A panic in another of them is passed on by the scope; until then the data is used as it stands.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `produce` on a thread, `map` on `threads` threads (at least one), and `consume` here, until all is
/// consumed or `consume` fails.
///
/// ```
/// let mut squares = Vec::new();
/// treering::pipeline::ordered(
///     2,
///     4,
///     |feed| (1..=5).try_for_each(|number| feed.send(number)).unwrap_or_default(),
///     |number| number * number,
///     |square| Ok::<_, ()>(squares.push(square)),
/// )?;
/// assert_eq!(squares, [1, 4, 9, 16, 25]);
/// # Ok::<_, ()>(())
/// ```
pub fn ordered<T: Send, R: Send, E>(
    threads: usize,
    ahead: usize,
    produce: impl FnOnce(Feed<T, R>) + Send,
    map: impl Fn(T) -> R + Sync,
    mut consume: impl FnMut(R) -> Result<(), E>,
) -> Result<(), E> {
    let (work, items) = sync_channel::<(T, SyncSender<R>)>(ahead.max(1));
    let (order, results) = sync_channel(ahead.max(1));
    // Owned by the mapping threads together, so that a producer does not wait for them once all have panicked.
    let items = Arc::new(Mutex::new(items));
    let map = &map;
    std::thread::scope(|scope| {
        scope.spawn(|| produce(Feed { work, order }));
        for _ in 0..threads.max(1) {
            let items = items.clone();
            scope.spawn(move || {
                let next = || lock(&items).recv();
                while let Ok((item, result)) = next() {
                    // Nobody waits for the result once the consumer has failed.
                    let _ = result.send(map(item));
                }
            });
        }
        drop(items);
        // Moved in, so that a failure here drops it and the producer notices.
        let results: Receiver<Receiver<R>> = results;
        // A result that never comes means that a thread panicked; the scope passes that on.
        while let Ok(Ok(result)) = results.recv().map(|receiver| receiver.recv()) {
            consume(result)?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::*;

    #[test]
    fn keeps_order_and_the_bound() {
        let flying = AtomicUsize::new(0);
        let mut seen = Vec::new();
        ordered(
            3,
            5,
            |feed| {
                for number in 0..500u64 {
                    flying.fetch_add(1, SeqCst);
                    feed.send(number).unwrap();
                }
            },
            |number| {
                std::thread::sleep(std::time::Duration::from_micros(number * 7919 % 50));
                number
            },
            |number| {
                assert!(flying.fetch_sub(1, SeqCst) <= 5 + 2);
                seen.push(number);
                Ok::<_, ()>(())
            },
        )
        .unwrap();
        assert!(seen.into_iter().eq(0..500));
    }

    #[test]
    fn a_panic_of_all_mapping_threads_is_passed_on() {
        let panicked = std::panic::catch_unwind(|| {
            ordered(
                1,
                2,
                |feed| while feed.send(()).is_ok() {},
                |()| panic!("as the test wants it"),
                |()| Ok::<_, ()>(()),
            )
        });
        assert!(panicked.is_err());
    }

    #[test]
    fn a_consumer_that_fails_stops_the_producer() {
        let mut told = false;
        let result = ordered(
            2,
            2,
            |feed| told = (0..).find_map(|number| feed.send(number).err()).is_some(),
            |number| number,
            |number| if number == 10 { Err(number) } else { Ok(()) },
        );
        assert_eq!(result, Err(10));
        assert!(told);
    }
}
