//! History for people: each entry as one sentence, the same in the log and on the command line.

use super::{ErrorClass, Remap, ScrubSummary, Sector, Sectors, What};

impl What {
    /// What happened, in one sentence.
    pub fn sentence(&self) -> String {
        match self {
            What::Created { main, spares, capacity } => {
                format!("created: {main} protected by {} of spare space on {}", capacity.human(), spares.join(", "))
            }
            What::SpareAdded { disk, spare, capacity } => {
                format!("{disk} became spare {spare}: {} more of spare space", capacity.human())
            }
            What::Restored { remaps } => format!("opened with {remaps} remaps"),
            What::Adopted { remaps, mended } if mended.is_empty() => {
                format!("the daemon took over the open device, {remaps} remaps")
            }
            What::Adopted { remaps, mended } => {
                format!("the daemon took over the open device, {remaps} remaps; {} differences mended", mended.len())
            }
            What::NotRestored { reason } => format!("NOT opened: {reason}"),
            What::Forgotten { wiped } if wiped.is_empty() => "forgotten on request: none of its spares was attached".into(),
            What::Forgotten { wiped } => format!("forgotten on request: no spares any more: {}", wiped.join(", ")),
            What::Remapped { remap, saved, lost, class, took_ms, decision, .. } => {
                let kept = kept(remap, *saved, lost);
                let cause = match class {
                    ErrorClass::Other => "on request".into(),
                    _ if decision.rule.ends_with("/read_error.action") => "because it did not read".into(),
                    class => format!("after a failed write ({class})"),
                };
                format!(
                    "healed: sectors {} moved to spare {} at {} {cause}, in {took_ms} ms; {kept}",
                    remap.main, remap.spare, remap.at
                )
            }
            What::Relocated { remap, from, saved, lost, took_ms, .. } => {
                let kept = kept(remap, *saved, lost);
                format!(
                    "healed: sectors {} moved on spare {} from {from}, which failed, to {} in {took_ms} ms; {kept}",
                    remap.main, remap.spare, remap.at
                )
            }
            What::Unremapped { remap, took_ms, .. } => {
                let (main, spare) = (remap.main, remap.spare);
                format!("sectors {main} went back from spare {spare} to main in {took_ms} ms; their space on the spare is free")
            }
            What::StaysRemapped { remap, reason, .. } => {
                format!("sectors {} stay on spare {}: {reason}", remap.main, remap.spare)
            }
            What::NotRemapped { extent, reason, .. } => format!("NOT healed: sectors {extent}: {reason}"),
            What::Error { member, op, extent, class, .. } => {
                let at = extent.map(|extent| format!(" of sectors {extent}")).unwrap_or_default();
                format!("{op}{at} failed on {member} ({class})")
            }
            What::Smart { member, change } => format!("SMART of {member}: {change}"),
            What::Trend { member, growth, .. } => {
                let (words, advice) = (growth.counter.words(), growth.counter.advice());
                format!("SMART of {member}: {words} grow fast, {} → {} within a week; {advice}", growth.from, growth.to)
            }
            What::FileSystem { at, error, count, inode } => {
                let about = inode.map(|inode| format!(", inode {inode}")).unwrap_or_default();
                let more = if *count > 1 { format!("; {count} errors in all") } else { String::new() };
                format!("the file system at {at} met an error: {error}{about}{more}; unmount it and have it checked (fsck)")
            }
            What::Pruned { entries, first, last, reason, broken } => {
                let broken = if broken.is_empty() { String::new() } else { format!("; BROKEN were {broken:?}") };
                format!("{entries} entries of the history from {} to {} pruned: {reason}{broken}", first.number, last.number)
            }
            What::Scrubbed(ScrubSummary { read, bad_blocks, took_ms, stopped }) => {
                let ended = if *stopped { "scrub stopped on request" } else { "scrubbed" };
                let found = match bad_blocks {
                    0 => "everything reads".to_string(),
                    bad => format!("{bad} blocks do NOT read"),
                };
                format!("{ended}: {} read in {} s, {found}", read.human(), took_ms / 1000)
            }
            What::Alert { message } => format!("ALERT: {message}"),
        }
    }
}

/// What became of the content of a block that moved.
fn kept(remap: &Remap, saved: Sectors, lost: &[Sector]) -> String {
    let brought = remap.main.len().0.saturating_sub(saved.0 + lost.len() as u64);
    match (saved.0, lost.len(), brought) {
        (_, 0, 0) => "everything on it was saved".to_string(),
        (0, 0, _) => "the write brought all of it".to_string(),
        (saved, 0, _) => format!("the write brought some of it, the other {saved} sectors were saved"),
        (saved, lost, _) => format!("{saved} sectors were saved, {lost} were lost"),
    }
}
