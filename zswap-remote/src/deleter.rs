//! The task that deletes objects, a few requests at a time.
//!
//! After a failed request it waits before it makes another, longer after each further failure. The objects of the
//! failed request go back to the end of the queue.

use core::time::Duration;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Instant;

use opendal::Operator;
use opendal::options::ListOptions;
use tokio::task::JoinSet;

use crate::fault;
use crate::name::StoreName;
use crate::queue::Doomed;
use crate::state::Shared;

/// The pause after the first failed request.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The pause after a failed request while the device is being dropped: there is not much time.
const CLOSING_PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(crate) struct Deleter {
    pub(crate) shared: Arc<Shared>,
    pub(crate) operator: Operator,
    /// The most objects of a request.
    pub(crate) batch: usize,
    /// The most requests at a time.
    pub(crate) at_once: usize,
    /// How long a request may take.
    pub(crate) limit: Duration,
    /// Whether the service lists objects, so that forgotten ones can be found.
    pub(crate) lists: bool,
    /// Whether the service has folders, of which the store's is to be deleted at the end.
    pub(crate) folders: bool,
    /// Receives a message when everything is deleted after the device was closed.
    pub(crate) done: SyncSender<()>,
}

impl Deleter {
    /// Deletes until the device is closed and everything is deleted.
    pub(crate) async fn run(self) {
        let mut running = JoinSet::new();
        let (mut pause, mut not_before) = (FIRST_PAUSE, Instant::now());
        loop {
            let now = Instant::now();
            let closing = self.shared.state().closing.is_some();
            if closing {
                not_before = not_before.min(now + CLOSING_PAUSE);
            }
            while now >= not_before && running.len() < self.at_once {
                let doomed = self.shared.state().take_doomed(now, self.batch);
                if doomed.is_empty() {
                    break;
                }
                running.spawn(self.delete(doomed));
            }
            let (waits, due) = {
                let state = self.shared.state();
                let queue = &state.queue;
                let rest = state.closing.as_ref().map_or(0, Vec::len);
                let due = queue.next_due().unwrap_or(now + LONGEST_PAUSE);
                (queue.len() + rest > 0, if now < not_before { not_before } else { due })
            };
            if closing && !waits && running.is_empty() {
                break;
            }
            tokio::select! {
                () = self.shared.woken() => {}
                // With all requests running, only the end of one makes a difference.
                () = tokio::time::sleep_until(due.into()), if waits && running.len() < self.at_once => {}
                Some(ended) = running.join_next() => {
                    // A request that panicked is a failure, too; its objects are forgotten.
                    let succeeded = ended.unwrap_or_else(|_| {
                        self.shared.state().queue.forget(self.batch as u64);
                        false
                    });
                    if succeeded {
                        pause = FIRST_PAUSE;
                    } else {
                        not_before = Instant::now() + pause;
                        pause = (pause * 2).min(LONGEST_PAUSE);
                    }
                }
            }
        }
        if self.lists && self.shared.state().queue.forgotten() > 0 {
            // An error is ignored: `Remote::purge` can do the same later.
            let _ = purge(&self.operator, self.shared.name).await;
        }
        if self.folders && self.shared.state().table.was_used() {
            let _ = self.operator.delete(&format!("{}/", self.shared.name)).await;
        }
        let _ = self.done.send(());
    }

    /// Deletes some objects with one request. The result says whether they are gone. If they are not, they are in the
    /// queue again.
    fn delete(&self, doomed: Vec<Doomed>) -> impl Future<Output = bool> + Send + use<> {
        let (shared, operator, limit) = (self.shared.clone(), self.operator.clone(), self.limit);
        async move {
            let names: Vec<String> =
                doomed.iter().map(|doomed| shared.name.object(doomed.object)).collect();
            let deleted = tokio::time::timeout(limit, operator.delete_iter(names)).await;
            let mut state = shared.state();
            let said = match deleted {
                Ok(Ok(())) => {
                    state.counts.deletes += doomed.len() as u64;
                    state.queue.deleted(&doomed, Instant::now());
                    return true;
                }
                Ok(Err(error)) => fault::shown(&error, &shared.secrets),
                Err(_) => "no answer in time".to_owned(),
            };
            state.counts.delete_failures += 1;
            state.failed("delete", &said);
            state.queue.put_back(&doomed);
            false
        }
    }
}

/// The names that are deleted with one call.
const NAMES_AT_ONCE: usize = 1000;

/// Deletes all objects of a store that the service lists. Returns their number.
pub(crate) async fn purge(operator: &Operator, store: StoreName) -> opendal::Result<u64> {
    let options = ListOptions { recursive: true, ..ListOptions::default() };
    let entries = operator.list_options(&format!("{store}/"), options).await?;
    // A service may list a name twice.
    let names: BTreeSet<String> = entries.iter().map(|entry| entry.path().to_owned()).collect();
    let objects: Vec<String> = names.into_iter().filter(|name| !name.ends_with('/')).collect();
    for some in objects.chunks(NAMES_AT_ONCE) {
        operator.delete_iter(some.to_vec()).await?;
    }
    Ok(objects.len() as u64)
}
