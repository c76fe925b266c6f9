//! The thread that owns the store. Work is done in the order it was given, so history keeps its order.
//!
//! Sets are assembled without it: at boot its directory may be on a file system that is
//! mounted later, perhaps on one of our own devices. Work waits in the queue until the store is open.
//!
//! It may be long until then, or until a disk with the store answers again, and memory is locked. So the queue is bounded: what comes
//! without end, history and questions, is refused when too much waits ([`Storekeeper::try_queue`]). What is left is bounded by itself
//! ([`Storekeeper::queue`]): a request for space waits for its answer before the next, a mark costs an extent that only the store
//! hands out, and the rest comes once for each set that is opened, made or given up.

use crate::edge::Store;
use crate::store::{OpenError, SledStore, set_aside};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;
use tokio::sync::oneshot;

type Job = Box<dyn FnOnce(&dyn Store) + Send>;

enum Order {
    Do(Job),
    End,
}

/// Work that waits at most before more history is refused. With an entry each, this is a few megabytes.
const MOST: usize = 4_096;

/// Why work was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the store does not keep up: {0} things wait for it, its disk may hang")]
pub struct Full(pub usize);

/// How often a store that does not open is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// A handle to the store's thread.
#[derive(Clone)]
pub struct Storekeeper {
    jobs: mpsc::Sender<Order>,
    waiting: Arc<AtomicUsize>,
    trouble: Arc<Mutex<Option<String>>>,
    set_aside: Arc<Mutex<Option<PathBuf>>>,
    open: Arc<AtomicBool>,
}

impl Storekeeper {
    /// Starts the thread for the store at `path`. The directory above it must exist; it is made by the installation.
    pub fn start(path: PathBuf) -> std::io::Result<(Storekeeper, std::thread::JoinHandle<()>)> {
        let (jobs, queue) = mpsc::channel::<Order>();
        // Until it has failed once, what is asked of it waits in the queue.
        let trouble = Arc::new(Mutex::new(None));
        let set_aside = Arc::new(Mutex::new(None));
        let is_open = Arc::new(AtomicBool::new(false));
        let waiting = Arc::new(AtomicUsize::new(0));
        let keeper = Storekeeper {
            jobs,
            waiting: waiting.clone(),
            trouble: trouble.clone(),
            set_aside: set_aside.clone(),
            open: is_open.clone(),
        };
        let thread = std::thread::Builder::new().name("store".into()).spawn(move || {
            let tell = |what: Option<String>| *trouble.lock().unwrap_or_else(PoisonError::into_inner) = what;
            let mut aside = None;
            let store = open(&path, &tell, &mut aside);
            *set_aside.lock().unwrap_or_else(PoisonError::into_inner) = aside;
            tell(None);
            is_open.store(true, Ordering::Release);
            for order in queue {
                match order {
                    Order::Do(job) => job(&store),
                    Order::End => break,
                }
                waiting.fetch_sub(1, Ordering::Relaxed);
            }
        })?;
        Ok((keeper, thread))
    }

    /// Queues work that is bounded by itself. After the thread has ended nothing happens: the daemon is stopping.
    pub fn queue(&self, job: impl FnOnce(&dyn Store) + Send + 'static) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        drop(self.jobs.send(Order::Do(Box::new(job))));
    }

    /// The thread ends when it has done what was queued before this, however long somebody else keeps a handle.
    pub fn end(&self) {
        drop(self.jobs.send(Order::End));
    }

    /// Asks the store something. There is no answer if the daemon stops before.
    pub fn ask<T: Send + 'static>(&self, question: impl FnOnce(&dyn Store) -> T + Send + 'static) -> oneshot::Receiver<T> {
        let (tell, told) = oneshot::channel();
        self.queue(move |store| drop(tell.send(question(store))));
        told
    }

    /// Queues work of which there may be any amount, unless too much waits already.
    pub fn try_queue(&self, job: impl FnOnce(&dyn Store) + Send + 'static) -> Result<(), Full> {
        self.has_room()?;
        self.queue(job);
        Ok(())
    }

    /// Whether [`Storekeeper::try_queue`] would take more now.
    pub fn has_room(&self) -> Result<(), Full> {
        let waiting = self.waiting.load(Ordering::Relaxed);
        if waiting < MOST { Ok(()) } else { Err(Full(waiting)) }
    }

    /// Where a store that could not be read was moved to in this run. To be asked from a job: then the store is open.
    pub fn was_set_aside(&self) -> Option<PathBuf> {
        self.set_aside.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the store has been opened.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// Why the store could not be opened so far.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn open(path: &Path, tell: &dyn Fn(Option<String>), aside: &mut Option<PathBuf>) -> SledStore {
    let mut said = String::new();
    loop {
        let there = path.parent().is_none_or(Path::is_dir);
        let trouble = match there.then(|| SledStore::open(path)) {
            Some(Ok(store)) => return store,
            // Once: a second store that is unreadable at once says that something else is wrong.
            Some(Err(error @ OpenError::Unreadable { .. })) if aside.is_none() => match set_aside(path, super::daemon::now()) {
                // Never deleted. Registry and allocator come back from the spares.
                Ok(kept) => {
                    tracing::error!("{error}; it was set aside as {} and is made anew from the spares", kept.display());
                    *aside = Some(kept);
                    std::thread::sleep(RETRY);
                    continue;
                }
                Err(failed) => format!("{error}; it could not be set aside: {failed}"),
            },
            Some(Err(error)) => error.to_string(),
            None => format!("{} does not exist (yet)", path.parent().unwrap_or(path).display()),
        };
        if trouble != said {
            tracing::warn!("the store cannot be opened: {trouble}");
        }
        tell(Some(trouble.clone()));
        said = trouble;
        std::thread::sleep(RETRY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Entry, Millis, SetId, SetName, What};

    #[test]
    fn what_waits_for_a_late_file_system_is_bounded_and_done_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let parent = dir.path().join("late");
        let (keeper, thread) = Storekeeper::start(parent.join("store")).unwrap();
        let (done, order) = mpsc::channel();
        let job = |number: usize| {
            let done = done.clone();
            move |store: &dyn Store| {
                let what = What::Restored { remaps: number as u64 };
                let (set, name) = (SetId(uuid::Uuid::nil()), SetName::new("data").unwrap());
                store.append(&Entry { number: 0, at: Millis(1), set, name, what }).unwrap();
                done.send(number).unwrap();
            }
        };
        for number in 0..MOST {
            keeper.try_queue(job(number)).unwrap();
        }
        assert_eq!(keeper.try_queue(job(0)), Err(Full(MOST)));
        // What is bounded by itself is not refused.
        keeper.queue(job(MOST));
        assert_eq!(keeper.has_room(), Err(Full(MOST + 1)));
        assert!(!keeper.is_open() && order.try_recv().is_err());
        std::fs::create_dir(&parent).unwrap();
        drop(done);
        assert_eq!(order.iter().collect::<Vec<_>>(), (0..=MOST).collect::<Vec<_>>());
        keeper.queue(|_| ());
        while keeper.has_room().is_err() {
            std::thread::yield_now();
        }
        drop(keeper);
        thread.join().unwrap();
    }

    #[test]
    fn it_ends_though_somebody_may_ask_later() {
        let dir = tempfile::tempdir().unwrap();
        let (keeper, thread) = Storekeeper::start(dir.path().join("store")).unwrap();
        let (tell, told) = mpsc::channel();
        let later = keeper.clone();
        keeper.queue(move |_| tell.send(()).unwrap());
        keeper.end();
        thread.join().unwrap();
        told.try_recv().expect("what was queued before the end is done");
        assert!(later.ask(|_| ()).blocking_recv().is_err(), "there is no answer any more");
    }
}
