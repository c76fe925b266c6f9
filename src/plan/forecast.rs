//! When spare space will be used up, from how fast it went lately. Pure, and silent where it cannot know.

use crate::model::Sectors;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
/// What is longer ago says nothing about the rate of now.
const SPAN_MS: i64 = 7 * DAY_MS;
/// Beyond this a rate of a few days says nothing.
const LONGEST_DAYS: u64 = 3_650;

/// What was spent of a spare within the last days. Times are in ms of any clock that never jumps, and may be negative.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spending {
    /// By hour: when, and how many sectors; less than 0 where more came back.
    hours: VecDeque<(i64, i64)>,
    /// Since when all is known; `None`: nothing is known.
    since: Option<i64>,
}

/// At the rate of the last days a spare will be full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forecast {
    /// So many days were looked at.
    pub of_days: u64,
    /// In about so many days it will be full.
    pub full_in_days: u64,
}

impl std::fmt::Display for Forecast {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let days = |n: u64| if n == 1 { "1 day".to_owned() } else { format!("{n} days") };
        write!(f, "at the rate of the last {} it is full in about {}", days(self.of_days), days(self.full_in_days))
    }
}

impl Spending {
    /// From `since` on everything is told.
    pub fn known_since(&mut self, since: i64) {
        self.since = Some(self.since.map_or(since, |known| known.min(since)));
    }

    /// Sectors were spent, or came back. In any order.
    pub fn add(&mut self, at: i64, sectors: i64) {
        let newest = self.hours.back().map_or(at, |(newest, _)| *newest).max(at);
        let hour = at.div_euclid(HOUR_MS);
        match self.hours.iter_mut().find(|(then, _)| then.div_euclid(HOUR_MS) == hour) {
            Some((_, sum)) => *sum = sum.saturating_add(sectors),
            None => {
                let place = self.hours.partition_point(|(then, _)| *then < at);
                self.hours.insert(place, (at, sectors));
            }
        }
        while self.hours.front().is_some_and(|(then, _)| newest.saturating_sub(*then) > SPAN_MS + HOUR_MS) {
            self.hours.pop_front();
        }
    }

    /// When `free` sectors will be used up. `None` unless a day is known, and something was spent on at least two days of the last
    /// seven: a single bad spot is no rate.
    pub fn forecast(&self, now: i64, free: Sectors) -> Option<Forecast> {
        let span = now.checked_sub(self.since?)?.min(SPAN_MS);
        if span < DAY_MS || free.0 == 0 {
            return None;
        }
        let recent = self.hours.iter().filter(|(at, _)| (0..=span).contains(&now.saturating_sub(*at)));
        let mut days: Vec<i64> =
            recent.clone().filter(|(_, sectors)| *sectors > 0).map(|(at, _)| now.saturating_sub(*at) / DAY_MS).collect();
        days.dedup();
        let spent = recent.fold(0i64, |sum, (_, sectors)| sum.saturating_add(*sectors));
        if days.len() < 2 || spent <= 0 {
            return None;
        }
        let left = u128::from(free.0) * span as u128 / (spent as u128 * DAY_MS as u128);
        let full_in_days = u64::try_from(left).ok().filter(|days| *days <= LONGEST_DAYS)?.max(1);
        Some(Forecast { of_days: ((span + DAY_MS / 2) / DAY_MS) as u64, full_in_days })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spending(since_days: i64, spent: &[(i64, i64)]) -> Spending {
        let mut spending = Spending::default();
        spending.known_since(-since_days * DAY_MS);
        spent.iter().for_each(|(days_ago, sectors)| spending.add(-days_ago * DAY_MS, *sectors));
        spending
    }

    fn forecast(since_days: i64, spent: &[(i64, i64)], free: u64) -> Option<(u64, u64)> {
        let found = spending(since_days, spent).forecast(0, Sectors(free));
        found.map(|forecast| (forecast.of_days, forecast.full_in_days))
    }

    #[test]
    fn a_steady_rate_goes_on() {
        let steady: Vec<(i64, i64)> = (0..30).map(|day| (day, 8)).collect();
        // Today and the seven days before it, of seven days.
        assert_eq!(forecast(30, &steady, 8 * 8 * 40 / 7), Some((7, 39)));
        assert_eq!(forecast(3, &steady, 400), Some((3, 37)), "of what is known");
        assert_eq!(forecast(30, &steady, 1), Some((7, 1)));
        let words = spending(30, &steady).forecast(0, Sectors(8)).unwrap().to_string();
        assert_eq!(words, "at the rate of the last 7 days it is full in about 1 day");
    }

    #[test]
    fn where_nothing_can_be_said_nothing_is() {
        assert_eq!(Spending::default().forecast(0, Sectors(800)), None);
        assert_eq!(forecast(0, &[(0, 80)], 800), None, "not even a day is known");
        assert_eq!(forecast(30, &[(1, 80)], 800), None, "one bad spot is no rate");
        assert_eq!(forecast(30, &[(8, 80), (20, 80)], 800), None, "nothing lately");
        assert_eq!(forecast(30, &[(1, 80), (2, 80), (3, -160)], 800), None, "all of it came back");
        assert_eq!(forecast(30, &[(1, 8), (3, 8)], 0), None, "it is full");
        assert_eq!(forecast(30, &[(1, 8), (3, 8)], 1 << 40), None, "that is too far off to tell");
        let mut unknown = Spending::default();
        (0..5).for_each(|day| unknown.add(-day * DAY_MS, 8));
        assert_eq!(unknown.forecast(0, Sectors(800)), None, "how much more there was is not known");
    }

    proptest! {
        #[test]
        fn any_spending_is_bounded_and_survived(
            spent in prop::collection::vec((any::<i64>(), any::<i64>()), 0..400),
            known in any::<i64>(), now in any::<i64>(), free in any::<u64>(),
        ) {
            let mut spending = Spending::default();
            spending.known_since(known);
            for (at, sectors) in spent {
                spending.add(at / 2, sectors);
            }
            prop_assert!(spending.hours.len() <= 7 * 24 + 3, "{}", spending.hours.len());
            prop_assert!(spending.forecast(now, Sectors(free)).is_none_or(|f| f.full_in_days <= LONGEST_DAYS && f.of_days <= 7));
        }
    }
}
