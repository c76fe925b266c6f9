//! `activate --degraded`: main without its spare, when that is dead or gone. What had moved there fails.

use super::assemble::{self, Candidate, words};
use super::closed::{Done, Known, remembered};
use super::create::free;
use super::daemon::Daemon;
use super::requests::Tell;
use super::storekeeper::Storekeeper;
use super::{forget, inputs, older, partitions};
use crate::actuate::{Access, DirectDevice, SpareTable, degraded};
use crate::config::Settings;
use crate::control::Reason;
use crate::edge::FoundDevice;
use crate::model::{Extent, Remap, SetDescription, SetName, What};

impl Daemon {
    pub(super) fn degrade(&mut self, name: SetName, read_write: bool, tell: Tell) {
        self.with_closed_set(name, tell, move |desc, settings, store| degrade(desc, read_write, settings, store));
    }
}

fn degrade(desc: &SetDescription, read_write: bool, settings: &Settings, store: &Storekeeper) -> Result<Done, Reason> {
    forget::closed(desc)?;
    let devices =
        inputs::devices(settings).map_err(|error| Reason::from(format!("the block devices cannot be listed: {error}")))?;
    let candidates = assemble::discover(&devices);
    let candidate = candidates.get(&desc.id);
    let on_spares = unhealthy(desc, candidate, store)?;
    let main = assemble::find_main(desc, &devices).map_err(|why| Reason::new(why, "without main there is nothing to open"))?;
    free(&main)?;
    let failing = failing(desc, &remembered(desc, store)?, on_spares)?;
    degraded::open(desc, main.devno, &failing, !read_write)
        .map_err(|error| Reason::from(format!("the degraded device could not be made: {error}")))?;
    partitions::follow(desc.id, &desc.name);
    let state = degraded::find(desc.id).map_err(Reason::from)?;
    let state = state.ok_or_else(|| Reason::from("the degraded device has gone again".to_string()))?;
    let missing = missing(desc, candidate);
    let message =
        format!("{state}; {missing}; sectors that moved in the last moment before are not known, and may be old on main");
    let lines =
        vec![format!("/dev/mapper/{} is open on {} ({}) alone", state.name, main.node.display(), words(&desc.main)), message];
    let what = What::Alert { message: lines.join(": ") };
    Ok((lines, Some(what)))
}

/// The ranges of main that the spares which are there still name. Fails if the set could be opened as it should be.
fn unhealthy(desc: &SetDescription, candidate: Option<&Candidate>, store: &Storekeeper) -> Result<Vec<Extent>, Reason> {
    let Some(candidate) = candidate else { return Ok(Vec::new()) };
    if let Some(conflict) = &candidate.conflict {
        return Err(Reason::new(conflict.clone(), "mend that first"));
    }
    let tables = candidate.spares.iter().map(|(index, device)| table(desc, *index, device));
    let tables: Vec<Option<SpareTable>> = tables.collect();
    let sound = tables.iter().all(|table| table.as_ref().is_some_and(|table| table.check().is_ok()));
    if sound && tables.len() == desc.spares.len() && !are_older(desc, &tables, store) {
        let message = format!("every spare of “{}” is there and whole", desc.name);
        return Err(Reason::new(message, format!("remap-guardian restore {}", desc.name)));
    }
    Ok(tables.iter().flatten().flat_map(SpareTable::records).map(|remap| remap.main).collect())
}

/// Whether the set is not opened because its spares are older than what the store knows.
fn are_older(desc: &SetDescription, tables: &[Option<SpareTable>], store: &Storekeeper) -> bool {
    let mut records: Vec<Remap> = tables.iter().flatten().flat_map(SpareTable::remaps).copied().collect();
    records.sort_by_key(|remap| remap.main.start());
    older::judge(store, desc, &records, false).is_err()
}

fn table(desc: &SetDescription, index: u16, device: &FoundDevice) -> Option<SpareTable> {
    let io = DirectDevice::open(&device.node, Access::READ).ok()?;
    SpareTable::open(&io, desc, index).ok()
}

/// Every range of main that is known to have moved, to whichever spare.
fn failing(desc: &SetDescription, known: &Known, on_spares: Vec<Extent>) -> Result<Vec<Extent>, Reason> {
    let mut failing = on_spares;
    for (index, served) in known.served.iter().enumerate() {
        let Some(served) = served else {
            let message = format!("this machine does not know which sectors of “{}” moved to spare {index}", desc.name);
            return Err(Reason::new(message, "without that old content would be read for new: open it where it was used last"));
        };
        failing.extend(served.iter().map(|served| served.main));
    }
    failing.extend(known.told.iter().chain(&known.returning).map(|remap| remap.main));
    Ok(failing)
}

fn missing(desc: &SetDescription, candidate: Option<&Candidate>) -> String {
    let there = |index: usize| candidate.is_some_and(|candidate| candidate.spares.contains_key(&(index as u16)));
    let state = |(index, identity)| {
        let state = if there(index) { "is there" } else { "is missing or unreadable" };
        format!("spare {index} ({}) {state}", words(identity))
    };
    desc.spares.iter().enumerate().map(state).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actuate::spare_table::tests::description;
    use crate::edge::Served;
    use crate::model::{Identity, Remap, RemapFlags, Sector, Sectors};

    fn extent(start: u64) -> Extent {
        Extent::new(Sector(start), Sectors(8)).unwrap()
    }

    fn desc() -> SetDescription {
        SetDescription { spares: vec![Identity::default(); 2], ..description() }
    }

    /// What any of them knows fails; and if the store knows nothing of a spare nobody can say what fails.
    #[test]
    fn what_store_history_or_a_spare_knows_fails() {
        let served = |start| Some(vec![Served { main: extent(start), at: Sector(88) }]);
        let told = Remap { main: extent(80), spare: 0, at: Sector(96), flags: RemapFlags::default(), seq: 1 };
        let known = Known { served: vec![served(16), served(32)], told: vec![told], returning: None };
        let mut all = failing(&desc(), &known, vec![extent(160)]).unwrap();
        all.sort();
        assert_eq!(all, [16, 32, 80, 160].map(extent));
        let unknown = Known { served: vec![served(16), None], told: vec![told], returning: None };
        let refused = failing(&desc(), &unknown, vec![]).unwrap_err();
        assert!(refused.message.contains("spare 1") && refused.hint.is_some(), "{refused}");
    }
}
