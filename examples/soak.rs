//! Runs many seeds of the simulation: `cargo run --release --example soak -- --seeds 100000 --from 0`.

use clap::Parser;
use remap_guardian::sim::{Coverage, world::run_seed};
use std::process::ExitCode;
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
    /// Only the sentence for each failure, not the log.
    #[arg(long)]
    brief: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let start = Instant::now();
    let mut coverage = Coverage::default();
    let mut failed = 0;
    let mut done = 0;
    std::panic::set_hook(Box::new(|_| {}));
    for seed in arguments.from..arguments.from + arguments.seeds {
        done += 1;
        match run_seed(seed) {
            Ok(one) => coverage.add(&one),
            Err(failure) if arguments.brief => {
                failed += 1;
                println!("seed {}: {}", failure.seed, failure.what);
            }
            Err(failure) => {
                failed += 1;
                println!("{failure}");
            }
        }
        if failed >= arguments.failures {
            break;
        }
    }
    println!("{coverage}");
    println!("{done} seeds, {failed} failed, {:.0} seeds/s", done as f64 / start.elapsed().as_secs_f64());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
