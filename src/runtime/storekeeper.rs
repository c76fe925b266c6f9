//! The thread that owns the store. Work is done in the order it was given, so history keeps its order.

use crate::edge::Store;
use std::sync::mpsc;

type Job = Box<dyn FnOnce(&dyn Store) + Send>;

/// A handle to the store's thread.
#[derive(Clone)]
pub struct Storekeeper {
    jobs: mpsc::Sender<Job>,
}

impl Storekeeper {
    /// Starts the thread.
    pub fn start(store: Box<dyn Store>) -> std::io::Result<(Storekeeper, std::thread::JoinHandle<()>)> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let thread = std::thread::Builder::new().name("store".into()).spawn(move || {
            for job in queue {
                job(store.as_ref());
            }
        })?;
        Ok((Storekeeper { jobs }, thread))
    }

    /// Queues work. After the thread has ended nothing happens: the daemon is stopping.
    pub fn queue(&self, job: impl FnOnce(&dyn Store) + Send + 'static) {
        drop(self.jobs.send(Box::new(job)));
    }
}
