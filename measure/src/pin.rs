//! Pins a turn to the processor where it started.
//!
//! A thread that migrates finds cold caches on its new processor, and the store may have to make new
//! contexts there. Both would count as the store's cost. The next turn starts wherever the system likes. So a
//! processor that is busy with something else spoils only one turn.

/// Keeps the calling thread on one processor until this value is dropped. Does nothing if the system has no
/// call for this, or refuses it.
///
/// ```
/// use measure::{Pinned, Processors};
///
/// let processors = Processors::allowed();
/// let pinned = Pinned::to_nth(&processors, 0);
/// // Measure here.
/// drop(pinned);
/// ```
#[derive(Debug)]
pub struct Pinned {
    #[cfg(target_os = "linux")]
    before: Option<rustix::thread::CpuSet>,
}

/// The processors that this program may run on.
///
/// Read them on a thread that is not pinned: a pinned thread, and the threads that it starts, may run on only
/// one.
#[derive(Clone, Debug)]
pub struct Processors(Vec<usize>);

impl Processors {
    /// Returns the processors allowed to the calling thread; none if the system does not report them.
    pub fn allowed() -> Self {
        #[cfg(target_os = "linux")]
        let processors = {
            let allowed = rustix::thread::sched_getaffinity(None).unwrap_or_default();
            (0..rustix::thread::CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).collect()
        };
        #[cfg(not(target_os = "linux"))]
        let processors = Vec::new();
        Processors(processors)
    }
}

#[cfg(target_os = "linux")]
impl Pinned {
    /// Pins the calling thread to the processor that it runs on.
    pub fn here() -> Self {
        Self::to(rustix::thread::sched_getcpu())
    }

    /// Pins the calling thread to the `n`-th of `processors`, modulo their number. Does nothing if
    /// `processors` is empty.
    pub fn to_nth(processors: &Processors, n: usize) -> Self {
        let nth = processors.0.get(n % processors.0.len().max(1));
        nth.map_or(Pinned { before: None }, |&cpu| Self::to(cpu))
    }

    fn to(cpu: usize) -> Self {
        use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

        if cpu >= CpuSet::MAX_CPU {
            return Pinned { before: None };
        }
        let mut here = CpuSet::new();
        here.set(cpu);
        let before = sched_getaffinity(None).ok();
        Pinned { before: before.filter(|_| sched_setaffinity(None, &here).is_ok()) }
    }
}

#[cfg(not(target_os = "linux"))]
impl Pinned {
    /// Pins nothing: this system has no such call.
    pub fn here() -> Self {
        Pinned {}
    }

    /// Pins nothing: this system has no such call.
    pub fn to_nth(_processors: &Processors, _n: usize) -> Self {
        Pinned {}
    }
}

#[cfg(target_os = "linux")]
impl Drop for Pinned {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // If this fails, the thread stays pinned but still measures correctly.
            let _ = rustix::thread::sched_setaffinity(None, before);
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use rustix::thread::sched_getaffinity;

    #[test]
    fn one_processor_while_it_lives_and_all_of_them_again() {
        let before = sched_getaffinity(None).unwrap();
        let pinned = Pinned::here();
        if pinned.before.is_some() {
            assert_eq!(sched_getaffinity(None).unwrap().count(), 1);
        }
        drop(pinned);
        assert_eq!(sched_getaffinity(None).unwrap(), before);
    }

    #[test]
    fn lanes_get_processors_of_their_own_as_long_as_there_are_some() {
        let before = sched_getaffinity(None).unwrap();
        let processors = Processors::allowed();
        let held = |n| {
            let pinned = Pinned::to_nth(&processors, n);
            pinned.before.is_some().then(|| sched_getaffinity(None).unwrap())
        };
        let count = before.count() as usize;
        if let (Some(first), Some(around)) = (held(0), held(count)) {
            assert_eq!(first, around);
            assert!(count < 2 || held(1) != Some(first));
        }
    }
}
