//! What is spent of the spares, for the limits of policy and for the forecast.

use super::Spent;
use super::set::{HOUR, SetState};
use crate::model::Millis;

impl SetState {
    /// What was spent before this session, as history tells; what this session spent comes after it.
    pub(super) fn recall_spent(&mut self, now: Millis, known_ms: u64, mut before: Vec<Spent>) {
        let ago = |ms: u64| now.0 as i64 - ms.min(i64::MAX as u64) as i64;
        self.spares.iter_mut().for_each(|spare| spare.spending.known_since(ago(known_ms)));
        for Spent { spare, ago_ms, sectors } in &before {
            if let Some(spare) = self.spares.get_mut(usize::from(*spare)) {
                spare.spending.add(ago(*ago_ms), *sectors);
            }
        }
        before.retain(|spent| spent.ago_ms < 24 * HOUR);
        before.sort_by_key(|spent| std::cmp::Reverse(spent.ago_ms));
        let since = std::mem::take(&mut self.spent);
        for Spent { ago_ms, sectors, .. } in before {
            let blocks = sectors.unsigned_abs().div_ceil(self.desc.block().0).min(u32::MAX.into()) as i64;
            self.count_spent(Millis(now.0.saturating_sub(ago_ms)), blocks * sectors.signum());
        }
        self.spent.extend(since);
    }

    /// Counts blocks that were spent; or given back, which takes them from those that were spent last.
    pub(super) fn count_spent(&mut self, at: Millis, blocks: i64) {
        if blocks > 0 {
            self.spent.push_back((at, blocks.unsigned_abs()));
        }
        let mut back = if blocks < 0 { blocks.unsigned_abs() } else { 0 };
        while let Some((_, last)) = self.spent.back_mut().filter(|_| back > 0) {
            let taken = back.min(*last);
            (*last, back) = (*last - taken, back - taken);
            if *last == 0 {
                self.spent.pop_back();
            }
        }
    }
}
