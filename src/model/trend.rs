//! How a drive's counters go on: which samples are kept, and when a trend turns bad. Pure.

use super::{Counter, Millis};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a drive counted at one time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// When, Unix ms.
    pub at: Millis,
    /// Its counters, as far as it told them.
    pub counts: BTreeMap<Counter, u64>,
}

/// When self-tests of a drive were last started, Unix ms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestTimes {
    /// Short ones.
    #[serde(default)]
    pub short: Option<Millis>,
    /// Long ones.
    #[serde(default)]
    pub long: Option<Millis>,
}

/// A self-test that a drive does by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TestKind {
    /// Minutes: electronics, mechanics, a part of the surface.
    Short,
    /// Hours: the whole surface.
    Long,
}

impl TestKind {
    /// As smartctl calls it.
    pub fn word(self) -> &'static str {
        match self {
            TestKind::Short => "short",
            TestKind::Long => "long",
        }
    }
}

impl TestTimes {
    /// Which test is to be started now, if `short` and `long` are the days between two; 0 is never. A time that is still to come
    /// was written by a clock that was wrong.
    pub fn due(&self, now: Millis, short: u64, long: u64) -> Option<TestKind> {
        let is_due = |days: u64, last: Option<Millis>| {
            days > 0 && last.is_none_or(|last| last > now || now.0 - last.0 >= days.saturating_mul(DAY_MS))
        };
        if is_due(long, self.long) {
            return Some(TestKind::Long);
        }
        is_due(short, self.short).then_some(TestKind::Short)
    }

    /// After a test was started. A long one does what a short one does, too.
    pub fn started(self, kind: TestKind, at: Millis) -> TestTimes {
        match kind {
            TestKind::Short => TestTimes { short: Some(at), ..self },
            TestKind::Long => TestTimes { short: Some(at), long: Some(at) },
        }
    }
}

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
/// The span of a trend.
pub const WEEK_MS: u64 = 7 * DAY_MS;
/// Samples kept of one drive: an hour's each for a week, a day's each for two years. Counted, not dated: a clock that is wrong
/// for a while must not empty them.
pub const MOST_SAMPLES: usize = 7 * 24 + 1 + 2 * 366;

/// Which of a drive's samples need not be kept, from the times of all, in order. Of an hour of the week before the newest, and of
/// each earlier day, the last one stays.
pub fn superfluous(times: &[Millis]) -> Vec<Millis> {
    let Some(newest) = times.last() else { return Vec::new() };
    let bucket = |at: &Millis| {
        let span = if newest.0 - at.0.min(newest.0) < WEEK_MS { HOUR_MS } else { DAY_MS };
        (span, at.0 / span)
    };
    let (mut gone, mut kept): (Vec<_>, Vec<_>) = (Vec::new(), Vec::new());
    for (i, at) in times.iter().enumerate() {
        let is_last = times.get(i + 1).is_none_or(|next| bucket(next) != bucket(at));
        if is_last { &mut kept } else { &mut gone }.push(*at);
    }
    gone.extend(&kept[..kept.len().saturating_sub(MOST_SAMPLES)]);
    gone
}

/// How far a counter has come within a week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Growth {
    /// The counter.
    pub counter: Counter,
    /// Then.
    pub from: u64,
    /// When that was, Unix ms.
    pub since: Millis,
    /// Now.
    pub to: u64,
}

impl Growth {
    /// Since then.
    pub fn grown(&self) -> u64 {
        self.to.saturating_sub(self.from)
    }
}

/// The counters whose growth within a week has just reached `limit`: it had not at the sample before. `samples` are in order.
pub fn turned_bad(samples: &[Sample], limit: u64) -> Vec<Growth> {
    let Some(last) = samples.len().checked_sub(1).filter(|_| limit > 0) else { return Vec::new() };
    let turned = |(counter, _): &(Counter, &str)| {
        let now = growth(&samples[..=last], *counter).filter(|growth| growth.grown() >= limit)?;
        let before = growth(&samples[..last], *counter)?;
        (before.grown() < limit).then_some(now)
    };
    Counter::ALL.iter().filter(|(counter, _)| counter.tells_of_failing()).filter_map(turned).collect()
}

/// From the first sample of the week before the last one.
fn growth(samples: &[Sample], counter: Counter) -> Option<Growth> {
    let last = samples.last()?;
    let to = *last.counts.get(&counter)?;
    let week = samples.iter().filter(|sample| sample.at <= last.at && last.at.0 - sample.at.0 <= WEEK_MS);
    let (since, from) = week.filter_map(|sample| Some((sample.at, *sample.counts.get(&counter)?))).next()?;
    Some(Growth { counter, from, since, to })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn samples(counts: &[(u64, u64)]) -> Vec<Sample> {
        let sample = |&(hours, n): &(u64, u64)| Sample {
            at: Millis(hours * HOUR_MS),
            counts: [(Counter::PendingSectors, n), (Counter::Wear, n)].into(),
        };
        counts.iter().map(sample).collect()
    }

    #[test]
    fn a_trend_is_told_when_it_turns_bad_and_not_again_while_it_is() {
        let told = |counts: &[(u64, u64)]| turned_bad(&samples(counts), 10).len();
        assert_eq!(told(&[(0, 500)]), 0, "what it was before is not known");
        assert_eq!(told(&[(0, 5), (1, 14)]), 0);
        assert_eq!(told(&[(0, 5), (1, 14), (2, 15)]), 1);
        assert_eq!(told(&[(0, 5), (1, 14), (2, 15), (3, 30)]), 0, "it was told");
        assert_eq!(told(&[(0, 5), (100, 9), (200, 15)]), 0, "5 was more than a week ago");
        assert_eq!(told(&[(0, 50), (1, 5), (2, 55)]), 0, "no more than at the beginning of the week");
        assert_eq!(turned_bad(&samples(&[(0, 5), (1, 500)]), 0), [], "0 is never");
        let growth = turned_bad(&samples(&[(0, 5), (1, 5), (2, 500)]), 10)[0];
        let expected = Growth { counter: Counter::PendingSectors, from: 5, since: Millis(0), to: 500 };
        assert_eq!((growth, growth.grown()), (expected, 495), "wear alone says nothing");
    }

    #[test]
    fn a_test_is_due_when_its_days_have_passed() {
        let day = |n: u64| Millis(n * DAY_MS);
        let never = TestTimes::default();
        assert_eq!(never.due(day(100), 0, 0), None);
        assert_eq!(never.due(day(100), 7, 0), Some(TestKind::Short));
        assert_eq!(never.due(day(100), 7, 90), Some(TestKind::Long), "the more thorough one first");
        let long = never.started(TestKind::Long, day(100));
        assert_eq!((long.due(day(106), 7, 90), long.due(day(107), 7, 90)), (None, Some(TestKind::Short)));
        let both = long.started(TestKind::Short, day(107));
        assert_eq!((both.due(day(113), 7, 90), both.due(day(190), 7, 90)), (None, Some(TestKind::Long)));
        assert_eq!(both.due(day(99), 7, 0), Some(TestKind::Short), "a clock that was ahead does not stop them for years");
    }

    #[test]
    fn samples_thin_out_with_age() {
        // Two an hour for three years.
        let mut kept: Vec<Millis> = Vec::new();
        for half in 0..3 * 365 * 48 {
            kept.push(Millis(half * HOUR_MS / 2));
            let gone = superfluous(&kept);
            kept.retain(|at| !gone.contains(at));
        }
        assert!((MOST_SAMPLES - 2..=MOST_SAMPLES).contains(&kept.len()), "{}", kept.len());
        let newest = kept.last().unwrap().0;
        let recent = kept.iter().filter(|at| newest - at.0 < WEEK_MS).count();
        assert!((168..=169).contains(&recent), "{recent}");
        assert!(newest - kept[0].0 > 2 * 365 * DAY_MS);
        let by_day = kept.windows(2).filter(|pair| newest - pair[1].0 > WEEK_MS + DAY_MS);
        assert!(by_day.map(|pair| pair[1].0 - pair[0].0).all(|apart| apart == DAY_MS));
    }

    proptest! {
        #[test]
        fn the_newest_sample_always_stays(mut times in prop::collection::vec(any::<u64>(), 1..50)) {
            times.sort();
            times.dedup();
            let times: Vec<Millis> = times.into_iter().map(Millis).collect();
            let gone = superfluous(&times);
            prop_assert!(!gone.contains(times.last().unwrap()));
            prop_assert!(gone.iter().all(|at| times.contains(at)));
        }
    }
}
