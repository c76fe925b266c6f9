//! The thread that owns the store. Work is done in the order it was given, so history keeps its order.
//!
//! Sets are assembled without it: at boot its directory may be on a file system that is
//! mounted later, perhaps on one of our own devices. Work waits in the queue until the store is open.

use crate::edge::Store;
use crate::store::{OpenError, SledStore, set_aside};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

type Job = Box<dyn FnOnce(&dyn Store) + Send>;

/// How often a store that does not open is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// A handle to the store's thread.
#[derive(Clone)]
pub struct Storekeeper {
    jobs: mpsc::Sender<Job>,
    trouble: Arc<Mutex<Option<String>>>,
    set_aside: Arc<Mutex<Option<PathBuf>>>,
    open: Arc<AtomicBool>,
}

impl Storekeeper {
    /// Starts the thread for the store at `path`. The directory above it must exist; it is made by the installation.
    pub fn start(path: PathBuf) -> std::io::Result<(Storekeeper, std::thread::JoinHandle<()>)> {
        let (jobs, queue) = mpsc::channel::<Job>();
        // Until it has failed once, what is asked of it waits in the queue.
        let trouble = Arc::new(Mutex::new(None));
        let set_aside = Arc::new(Mutex::new(None));
        let is_open = Arc::new(AtomicBool::new(false));
        let keeper = Storekeeper { jobs, trouble: trouble.clone(), set_aside: set_aside.clone(), open: is_open.clone() };
        let thread = std::thread::Builder::new().name("store".into()).spawn(move || {
            let tell = |what: Option<String>| *trouble.lock().unwrap_or_else(PoisonError::into_inner) = what;
            let mut aside = None;
            let store = open(&path, &tell, &mut aside);
            *set_aside.lock().unwrap_or_else(PoisonError::into_inner) = aside;
            tell(None);
            is_open.store(true, Ordering::Release);
            for job in queue {
                job(&store);
            }
        })?;
        Ok((keeper, thread))
    }

    /// Queues work. After the thread has ended nothing happens: the daemon is stopping.
    pub fn queue(&self, job: impl FnOnce(&dyn Store) + Send + 'static) {
        drop(self.jobs.send(Box::new(job)));
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
