//! The threads that carry calls.
//!
//! Each has a runtime of its own. A caller's connection stays on one thread, as do its calls and the connections to providers that
//! they use: no call waits for another thread to wake up, and what it touches stays in one processor's cache. With a queue that several
//! threads share, handing calls from one to the other cost more than most of what is done for them. What happens beside calls (reports,
//! leases, probes) is on the runtime of whoever starts these.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// A sidecar shares its pod's CPUs with the app.
const WORKERS: usize = 2;
/// On each worker something is due so often: sooner than the time-outs of calls, hardly any of which ever comes to pass. A runtime wakes
/// itself up, by a write to an eventfd and a wait that returns at once, when a timer is set that is due before all others. Without this
/// one, each time-out of a call that is alone on its worker was.
const HEARTBEAT: Duration = Duration::from_secs(5);

thread_local! {
    static NUMBER: usize = {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        THREADS.fetch_add(1, Ordering::Relaxed)
    };
}

/// The number of this thread among those that ever asked. There are three that carry calls or what is beside them; tests have more.
pub fn this_thread() -> usize {
    NUMBER.with(|number| *number)
}

/// Threads that end, with all that is still on them, when this is dropped.
pub struct Workers(Vec<Worker>);

struct Worker {
    runtime: Handle,
    /// As many as connections, and one.
    connections: Arc<()>,
    /// The worker goes on until this is dropped.
    running: Option<oneshot::Sender<Infallible>>,
    thread: Option<JoinHandle<()>>,
}

impl Workers {
    /// # Errors
    /// When the system has no room for another thread.
    pub fn start() -> io::Result<Workers> {
        (0..WORKERS).map(Worker::start).collect::<io::Result<_>>().map(Workers)
    }

    /// Serves a connection on the worker that has the fewest.
    pub fn spawn(&self, connection: impl Future<Output = ()> + Send + 'static) {
        let least = self.0.iter().min_by_key(|worker| Arc::strong_count(&worker.connections));
        let Some(worker) = least else { return };
        let counted = Arc::clone(&worker.connections);
        worker.runtime.spawn(async move {
            connection.await;
            drop(counted);
        });
    }
}

impl Worker {
    fn start(number: usize) -> io::Result<Worker> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (handle, (running, mut ended)) = (runtime.handle().clone(), oneshot::channel::<Infallible>());
        let thread = std::thread::Builder::new().name(format!("calls-{number}")).spawn(move || {
            runtime.block_on(async {
                let mut heartbeat = tokio::time::interval(HEARTBEAT);
                loop {
                    tokio::select! {
                        _ = &mut ended => return,
                        _ = heartbeat.tick() => {}
                    }
                }
            });
        })?;
        Ok(Worker { runtime: handle, connections: Arc::default(), running: Some(running), thread: Some(thread) })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.running.take());
        // One that panicked has nothing left to end.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_shared_out_evenly_and_each_stays_on_its_thread() {
        let workers = Workers::start().unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let (go, gone) = tokio::sync::watch::channel(());
        for _ in 0..2 * WORKERS {
            let (tell, mut gone) = (tell.clone(), gone.clone());
            workers.spawn(async move {
                let began_on = std::thread::current().id();
                gone.changed().await.unwrap();
                tell.send((began_on, std::thread::current().id())).unwrap();
            });
        }
        assert!(workers.0.iter().all(|worker| Arc::strong_count(&worker.connections) == 3));
        go.send(()).unwrap();
        let threads: Vec<_> = told.iter().take(2 * WORKERS).collect();
        assert!(threads.iter().all(|(began_on, went_on)| began_on == went_on));
        for (thread, _) in &threads {
            assert_eq!(threads.iter().filter(|(other, _)| other == thread).count(), 2);
        }
    }

    #[test]
    fn what_is_still_under_way_ends_with_its_worker() {
        let (held, dropped) = oneshot::channel::<Infallible>();
        let workers = Workers::start().unwrap();
        workers.spawn(async move {
            std::future::pending::<()>().await;
            drop(held);
        });
        drop(workers);
        assert!(dropped.blocking_recv().is_err());
    }
}
