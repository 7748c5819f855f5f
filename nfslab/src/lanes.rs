//! Counters that several threads count at without writing to each other's memory: each has a lane of its own.
//!
//! A thread that is alone in its lane need not even count in one step, which costs a call as much as twenty other
//! instructions. There are seven such lanes, for the first threads that count; all later ones share the eighth.

use std::array;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU64, AtomicUsize};

const LANES: usize = 8;
/// The lane of those that have none of their own.
const SHARED: usize = LANES - 1;

/// What each thread counts at, with room beside it, so that none shares its memory with that of another.
#[derive(Debug)]
pub struct Lanes<T>([Lane<T>; LANES]);

#[derive(Debug, Default)]
#[repr(align(128))]
struct Lane<T>(T);

impl<T: Default> Default for Lanes<T> {
    fn default() -> Self {
        Lanes(array::from_fn(|_| Lane::default()))
    }
}

impl<T> Lanes<T> {
    /// Adds one to a counter of this thread's lane.
    #[inline]
    pub fn add_one(&self, counter: impl FnOnce(&T) -> Option<&AtomicU64>) {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static PLACE: usize = NEXT.fetch_add(1, Relaxed).min(SHARED);
        }
        let place = PLACE.with(|place| *place);
        if let Some(Lane(lane)) = self.0.get(place)
            && let Some(counter) = counter(lane)
        {
            if place == SHARED {
                counter.fetch_add(1, Relaxed);
            } else {
                counter.store(counter.load(Relaxed).wrapping_add(1), Relaxed);
            }
        }
    }

    /// What all threads have counted.
    pub fn sum(&self, figure: impl Fn(&T) -> u64) -> u64 {
        self.0.iter().map(|Lane(lane)| figure(lane)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_however_many_threads_count() {
        const EACH: u64 = 10_000;
        let lanes = Lanes::<AtomicU64>::default();
        std::thread::scope(|threads| {
            for _ in 0..3 * LANES {
                threads.spawn(|| (0..EACH).for_each(|_| lanes.add_one(|count| Some(count))));
            }
        });
        assert_eq!(lanes.sum(|count| count.load(Relaxed)), 3 * LANES as u64 * EACH);
    }
}
