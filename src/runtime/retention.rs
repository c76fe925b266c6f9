//! How long the history is kept: which of its oldest entries are to go. Pure.

use crate::config::Settings;
use crate::model::{Cut, Millis, Stamp};

/// So many of the newest entries stay whatever their age: a clock that is wrong must not empty the history.
const ALWAYS_KEPT: u64 = 1_000;

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

/// A cut, and its reason in words.
pub type Due = (Cut, String);

/// What exceeds the settings. Of its own accord the daemon waits until it is a tenth too much, so that it prunes rarely: each time
/// leaves an entry itself.
pub fn due(settings: &Settings, (first, last): (Stamp, Stamp), now: Millis, at_once: bool) -> Vec<Due> {
    let slack = |limit: u64| if at_once { 0 } else { limit / 10 };
    let mut cuts = Vec::new();
    let entries = settings.history_entries;
    if last.number.saturating_sub(first.number) + 1 > entries + slack(entries) {
        let cut = Cut { upto: last.number - entries, before: Millis(u64::MAX) };
        cuts.push((cut, format!("more than {entries} entries")));
    }
    let age = settings.history_days * DAY_MS;
    let upto = last.number.saturating_sub(ALWAYS_KEPT);
    if first.number <= upto && first.at.0 + age + slack(age) < now.0 {
        cuts.push((Cut { upto, before: Millis(now.0 - age) }, format!("older than {} days", settings.history_days)));
    }
    cuts
}

/// What somebody asks to be pruned: all that is older, or all but the newest.
pub fn asked((_, last): (Stamp, Stamp), before: Option<Millis>, keep: Option<u64>) -> Vec<Due> {
    // Never what is only written while it is done.
    let upto = |keep: u64| last.number.saturating_sub(keep);
    let by_age = before.map(|before| (Cut { upto: upto(0), before }, "on request, by age".to_string()));
    let by_size =
        keep.map(|keep| (Cut { upto: upto(keep), before: Millis(u64::MAX) }, format!("on request, all but the newest {keep}")));
    by_age.into_iter().chain(by_size).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = Millis(2_000 * DAY_MS);

    fn settings() -> Settings {
        Settings { history_days: 100, history_entries: 5_000, ..Settings::default() }
    }

    fn ends(first: u64, first_day: u64, last: u64) -> (Stamp, Stamp) {
        (Stamp { number: first, at: Millis(first_day * DAY_MS) }, Stamp { number: last, at: NOW })
    }

    fn cuts(ends: (Stamp, Stamp), at_once: bool) -> Vec<(u64, u64)> {
        due(&settings(), ends, NOW, at_once).into_iter().map(|(cut, _)| (cut.upto, cut.before.0)).collect()
    }

    #[test]
    fn what_is_within_the_limits_stays() {
        assert_eq!(cuts(ends(1, 1_950, 5_000), true), []);
        assert_eq!(cuts(ends(501, 1_950, 5_500), true), []);
        assert_eq!(cuts(ends(1, 1_950, 5_500), false), [], "a tenth more stays for a while");
        assert_eq!(cuts(ends(1, 1_891, 5_000), false), [], "a tenth older, too");
    }

    #[test]
    fn what_is_too_much_or_too_old_goes_down_to_the_limit() {
        assert_eq!(cuts(ends(1, 1_950, 5_501), false), [(501, u64::MAX)]);
        assert_eq!(cuts(ends(1, 1_950, 5_001), true), [(1, u64::MAX)]);
        assert_eq!(cuts(ends(1, 1_889, 4_000), false), [(3_000, 1_900 * DAY_MS)]);
        assert_eq!(cuts(ends(1, 10, 9_000), false).len(), 2);
    }

    #[test]
    fn a_wrong_clock_does_not_empty_the_history() {
        assert_eq!(cuts(ends(1, 10, 1_000), true), [], "the newest stay whatever their age");
        let stopped = Millis(5);
        assert_eq!(due(&settings(), ends(1, 10, 4_000), stopped, true), []);
    }

    #[test]
    fn on_request_nothing_goes_that_comes_later() {
        let all = |due: Vec<Due>| due.into_iter().map(|(cut, _)| (cut.upto, cut.before.0)).collect::<Vec<_>>();
        assert_eq!(all(asked(ends(1, 10, 70), Some(Millis(u64::MAX)), None)), [(70, u64::MAX)]);
        assert_eq!(all(asked(ends(1, 10, 70), None, Some(20))), [(50, u64::MAX)]);
        assert_eq!(all(asked(ends(1, 10, 70), None, Some(90))), [(0, u64::MAX)]);
    }
}
