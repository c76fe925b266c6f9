//! Runs many seeds of the simulation: `cargo run --release --example soak -- --seeds 100000 --from 0`. `--from N --seeds 1` repeats one.

use clap::Parser;
use remap_guardian::sim::{Coverage, world::run_seed};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

/// Runs many seeds of the simulation.
#[derive(Parser)]
struct Arguments {
    /// How many.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first one.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Stop after so many failures.
    #[arg(long, default_value_t = 1)]
    failures: usize,
    /// Fail if anything that has to be reached was reached less often than this.
    #[arg(long, default_value_t = 0)]
    reached: u64,
    /// Only the sentence for each failure, not the log.
    #[arg(long)]
    brief: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let start = Instant::now();
    let (next, done, failed) = (AtomicU64::new(0), AtomicU64::new(0), AtomicUsize::new(0));
    let coverage = Mutex::new(Coverage::default());
    let work = || {
        let mut mine = Coverage::default();
        while failed.load(Ordering::Relaxed) < arguments.failures {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= arguments.seeds {
                break;
            }
            match run_seed(arguments.from + number) {
                Ok(one) => mine.add(&one),
                Err(failure) => {
                    failed.fetch_add(1, Ordering::Relaxed);
                    if arguments.brief {
                        println!("seed {}: {}", failure.seed, failure.what);
                    } else {
                        println!("{failure}");
                    }
                }
            }
            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
            if done % 10_000 == 0 {
                println!("{done} of {} seeds", arguments.seeds);
            }
        }
        coverage.lock().expect("nobody panics with it").add(&mine);
    };
    std::panic::set_hook(Box::new(|_| {}));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let coverage = coverage.into_inner().expect("nobody panics with it");
    println!("{coverage}");
    let (done, failed) = (done.into_inner(), failed.into_inner());
    println!("{done} seeds, {failed} failed, {:.0} seeds/s", done as f64 / start.elapsed().as_secs_f64());
    let missing = coverage.missing(arguments.reached);
    if !missing.is_empty() {
        println!("reached less than {} times: {missing:?}", arguments.reached);
    }
    if failed == 0 && missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
