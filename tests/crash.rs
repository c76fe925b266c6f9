//! The simulation, over a fixed number of seeds. `SIM_SEEDS` and `SIM_FROM` choose others; `examples/soak.rs` runs many more.
//! `SIM_REACHED` is how often whatever has to be met must be met: once, where there are seeds enough for that.

use remap_guardian::sim::{Coverage, world::run_seed};

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

#[test]
fn no_crash_breaks_a_promise() {
    let (from, seeds) = (number("SIM_FROM", 0), number("SIM_SEEDS", 300));
    let threads = std::thread::available_parallelism().map_or(2, usize::from) as u64;
    let workers: Vec<_> = (0..threads)
        .map(|thread| {
            std::thread::spawn(move || {
                let mut coverage = Coverage::default();
                for seed in (from + thread..from + seeds).step_by(threads as usize) {
                    match run_seed(seed) {
                        Ok(one) => coverage.add(&one),
                        Err(failure) => panic!("{failure}"),
                    }
                }
                coverage
            })
        })
        .collect();
    let mut coverage = Coverage::default();
    for worker in workers {
        coverage.add(&worker.join().expect("a seed broke a promise, see above"));
    }
    println!("{coverage}");
    let times = number("SIM_REACHED", u64::from(seeds >= 300));
    let missed = coverage.missing(times);
    assert!(missed.is_empty(), "these were reached less than {times} times: {missed:?}");
}

#[test]
fn a_seed_gives_the_same_run_again() {
    for seed in 0..4 {
        let (one, two) = (run_seed(seed), run_seed(seed));
        assert_eq!(one.unwrap(), two.unwrap());
    }
}
