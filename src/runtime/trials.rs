//! Reading a member where nobody waits for it, by its set's prober: for scrubs, for maps, and for what a drive calls bad.

use super::actuator::Trial;
use super::priority::Priority;
use crate::actuate::probe::Checked;
use crate::engine::Part;
use crate::model::Sectors;
use std::sync::mpsc::Sender;

/// Why something was not tried to its end.
pub(super) enum Break {
    /// The set is closed, or the daemon ends.
    Closed,
    /// A disk does not answer.
    Away(String),
}

/// Whether it reads.
pub(super) async fn reads(trials: &Sender<Trial>, part: &Part, priority: Priority) -> Result<bool, Break> {
    let (tell, told) = tokio::sync::oneshot::channel();
    trials.send(Trial::Check(part.member, part.at, priority, tell)).map_err(|_| Break::Closed)?;
    match told.await.map_err(|_| Break::Closed)? {
        Checked::Reads => Ok(true),
        Checked::Fails(why) => {
            tracing::debug!(member = %part.member, at = %part.at, why, "it does not read");
            Ok(false)
        }
        Checked::Away(why) => Err(Break::Away(format!("{} does not answer: {why}", part.member))),
    }
}

/// Which blocks of a part do not read, neighbours joined. It is read at once first: mostly all is well.
pub(super) async fn bad_blocks(
    trials: &Sender<Trial>,
    part: &Part,
    block: Sectors,
    priority: Priority,
) -> Result<Vec<Part>, Break> {
    let mut bad = Vec::new();
    if !reads(trials, part, priority).await? {
        for block in part.blocks(block) {
            if !reads(trials, &block, priority).await? {
                add(&mut bad, block);
            }
        }
    }
    Ok(bad)
}

/// How many blocks these are.
pub(super) fn count(bad: &[Part], block: Sectors) -> u64 {
    bad.iter().map(|part| part.main.len().0.div_ceil(block.0)).sum()
}

/// Adds a block; one that follows the last one is joined to it.
pub(super) fn add(bad: &mut Vec<Part>, block: Part) {
    if let Some(last) = bad.last_mut().filter(|last| last.member == block.member) {
        if let (Some(at), Some(main)) = (last.at.join(&block.at), last.main.join(&block.main)) {
            (last.at, last.main) = (at, main);
            return;
        }
    }
    bad.push(block);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Extent, Member, Sector};

    #[test]
    fn neighbours_are_told_of_together() {
        let extent = |start| Extent::new(Sector(start), Sectors(8)).unwrap();
        let mut bad = Vec::new();
        for (member, start) in [(Member::Main, 0), (Member::Main, 8), (Member::Spare(0), 16), (Member::Main, 32)] {
            add(&mut bad, Part { member, at: extent(start), main: extent(start) });
        }
        let found: Vec<_> = bad.iter().map(|part| (part.member, part.main.start().0, part.main.len().0)).collect();
        assert_eq!(found, [(Member::Main, 0, 16), (Member::Spare(0), 16, 8), (Member::Main, 32, 8)]);
    }
}
