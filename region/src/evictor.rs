//! The background evictor: a thread that evicts before the limit is reached, so that faults need not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::served::Served;
use crate::signals;

/// Rounds in a row without a freed page after which the thread waits for the next fault.
const MOST_IDLE: u32 = 64;
/// The pause after that: if every page is pinned, each fault wakes the thread in vain.
const PAUSE: Duration = Duration::from_millis(2);

/// The thread. Dropping this ends it, and waits for it.
#[derive(Debug)]
pub(crate) struct Evictor {
    region: Arc<Served>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Evictor {
    /// # Errors
    /// The system's error if it cannot start a thread.
    pub(crate) fn start(region: &Arc<Served>) -> std::io::Result<Evictor> {
        let stop = Arc::new(AtomicBool::new(false));
        let (served, stopped) = (region.clone(), stop.clone());
        let blocked = signals::block_for_a_thread();
        let name = "region-evictor".to_owned();
        let thread = std::thread::Builder::new().name(name).spawn(move || run(&served, &stopped));
        drop(blocked);
        Ok(Evictor { region: region.clone(), stop, thread: Some(thread?) })
    }
}

fn run(region: &Served, stop: &AtomicBool) {
    let engine = &region.engine;
    let mut idle = 0;
    loop {
        engine.room.kick.clear();
        // SeqCst: set before the kick that wakes this thread.
        if stop.load(Ordering::SeqCst) {
            return;
        }
        if !engine.room.is_near() || idle > MOST_IDLE {
            if idle > MOST_IDLE {
                std::thread::sleep(PAUSE);
            }
            idle = 0;
            engine.room.kick.sleep();
            continue;
        }
        let mut stage = region.stage();
        let done = engine.evict(stage.buffers(0).room, false);
        idle = if done.freed > 0 { 0 } else { idle + 1 };
    }
}

impl Drop for Evictor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.region.engine.room.kick.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
