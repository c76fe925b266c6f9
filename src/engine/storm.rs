//! The breaker: errors that say nothing about the medium, so many at once that no error is believed to be the medium's (S7).

use super::set::MINUTE;
use crate::model::Millis;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Errors of the last minute, by second.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Storm {
    seconds: VecDeque<(u64, u64)>,
    under_way: Option<UnderWay>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct UnderWay {
    since: Millis,
    last: Millis,
    errors: u64,
}

/// What has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// A storm has begun, after so many errors.
    Began(u64),
    /// It is over.
    Ended {
        /// How many errors it had.
        errors: u64,
        /// How long it lasted, ms.
        lasted: u64,
    },
}

impl Storm {
    /// Counts errors; `limit` of them within a minute are a storm.
    pub(super) fn count(&mut self, now: Millis, errors: u64, limit: u64) -> Option<Change> {
        if errors == 0 {
            return None;
        }
        if let Some(storm) = &mut self.under_way {
            (storm.last, storm.errors) = (now, storm.errors + errors);
            return None;
        }
        let second = now.0 / 1000;
        match self.seconds.back_mut() {
            Some((last, count)) if *last == second => *count += errors,
            _ => self.seconds.push_back((second, errors)),
        }
        while self.seconds.front().is_some_and(|(at, _)| (at + 60) * 1000 <= now.0) {
            self.seconds.pop_front();
        }
        let errors = self.seconds.iter().map(|(_, count)| count).sum();
        if errors < limit {
            return None;
        }
        self.seconds.clear();
        self.under_way = Some(UnderWay { since: now, last: now, errors });
        Some(Change::Began(errors))
    }

    /// Ends a storm whose last error is a minute old.
    pub(super) fn tick(&mut self, now: Millis) -> Option<Change> {
        let storm = self.under_way.take_if(|storm| storm.last.0 + MINUTE <= now.0)?;
        Some(Change::Ended { errors: storm.errors, lasted: storm.last.0 - storm.since.0 })
    }

    /// Whether one that was written down can have been like that at `now`.
    pub(super) fn is_sound(&self, now: Millis) -> bool {
        let small = |count: u64| count <= u64::from(u32::MAX);
        self.seconds.iter().all(|&(at, count)| at <= now.0 / 1000 && small(count))
            && self.under_way.as_ref().is_none_or(|storm| storm.since <= storm.last && storm.last <= now && small(storm.errors))
    }

    /// How many errors the storm that is under way has had; 0 if none is.
    pub(super) fn errors(&self) -> u64 {
        self.under_way.as_ref().map_or(0, |storm| storm.errors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_with_many_and_ends_with_a_quiet_minute() {
        let mut storm = Storm::default();
        for second in 0..200 {
            assert_eq!(storm.count(Millis(second * 7_000), 1, 10), None, "nine in a minute are none");
        }
        let start = 2_000_000;
        assert_eq!(storm.count(Millis(start), 4, 10), None);
        assert_eq!(storm.count(Millis(start + 400), 5, 10), None);
        assert_eq!(storm.count(Millis(start + 59_000), 1, 10), Some(Change::Began(10)));
        assert_eq!((storm.errors(), storm.count(Millis(start + 100_000), 3, 10)), (10, None));
        assert_eq!(storm.tick(Millis(start + 159_999)), None);
        assert_eq!(storm.tick(Millis(start + 160_000)), Some(Change::Ended { errors: 13, lasted: 41_000 }));
        assert_eq!((storm.errors(), storm.tick(Millis(start + 500_000))), (0, None));
    }
}
