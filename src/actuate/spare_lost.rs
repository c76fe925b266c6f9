//! Makes the tables of a closed set say what is known of an [older](super::older) spare, when somebody has decided that there is
//! no other: sectors whose content was on a spare and is not there any more are lost, which is written down where a cure writes it.
//!
//! Every step leaves a set that can be opened, or looked at again: marks are durable before the record that maps them.

use super::older::Older;
use super::salvage::{Refused, write_salvaged};
use super::steps::{OpenSpare, next_seq};
use crate::edge::{BlockIo, Served};
use crate::format::lost_mark;
use crate::model::{Extent, Remap, RemapFlags, Sector, Sectors, SetDescription};
use crate::plan::{pieces, spare_len};

/// Removes the records of what had gone back to main, which has it. Gives how many.
pub fn remove_gone(spares: &mut [OpenSpare], older: &Older) -> Result<usize, String> {
    for remap in &older.gone {
        let seq = next_seq(spares);
        let OpenSpare { io, table } = &mut spares[usize::from(remap.spare)];
        table.remove_record(io.as_ref(), remap, seq).map_err(|error| format!("the record of main {}: {error}", remap.main))?;
    }
    Ok(older.gone.len())
}

/// Maps what the tables lack to sectors of the same spare that hold lost marks, so that it fails until it is written. Gives the remaps.
/// `top` is the highest sequence number that is known of the set.
pub fn mark_lost(desc: &SetDescription, spares: &mut [OpenSpare], older: &Older, top: u64) -> Result<Vec<Remap>, String> {
    for spare in &mut *spares {
        spare.table.raise_seq(top);
    }
    let mut marked = Vec::new();
    for (spare, served) in &older.lacks {
        for main in unserved(served.main, spares) {
            let wanted = Sector(served.at.0 + (main.start().0 - served.main.start().0));
            marked.push(mark(desc, spares, older, *spare, Served { main, at: wanted })?);
        }
    }
    Ok(marked)
}

/// Gives every table block its second copy again.
pub fn mirror(spares: &mut [OpenSpare]) -> Result<(), String> {
    let mut mirrored = spares.iter_mut().map(|OpenSpare { io, table }| table.mirror(io.as_ref()));
    mirrored.try_for_each(|done| done.map_err(|error| format!("the second copy of a table block: {error}")))
}

/// The parts of a range that no record serves; all of it if one serves just it, which is from before it moved and will be replaced.
fn unserved(main: Extent, spares: &[OpenSpare]) -> Vec<Extent> {
    let mut served: Vec<Extent> = spares.iter().flat_map(|spare| spare.table.remaps()).map(|remap| remap.main).collect();
    served.retain(|served| served.overlaps(&main) && *served != main);
    served.sort();
    let (mut parts, mut from) = (Vec::new(), main.start().0);
    for end in served.iter().map(|served| (served.start().0, served.end().0)).chain([(main.end().0, main.end().0)]) {
        let len = end.0.min(main.end().0).saturating_sub(from);
        parts.extend(Extent::new(Sector(from), Sectors(len)).ok());
        from = from.max(end.1);
    }
    parts
}

fn mark(desc: &SetDescription, spares: &mut [OpenSpare], older: &Older, spare: u16, wanted: Served) -> Result<Remap, String> {
    let block = desc.main.logical_block as usize;
    let len = spare_len(wanted.main.len(), desc.block());
    let mut content = vec![0; len.bytes() as usize];
    let logical = Sectors::from_bytes(block as u64);
    for (sector, bytes) in pieces(wanted.main, logical, logical).iter().zip(content.chunks_mut(block)) {
        lost_mark::encode(&desc.secret, sector.start(), bytes);
    }
    let seq = next_seq(spares);
    let OpenSpare { io, table } = &mut spares[usize::from(spare)];
    let data = desc.geometry[usize::from(spare)].data;
    let free_places = (data.start().0..data.end().0).step_by(desc.block().0 as usize).map(Sector);
    let elsewhere = free_places.filter(|at| *at != wanted.at);
    let fits = |at: Sector| Extent::new(at, len).ok().filter(|extent| data.covers(extent) && !table.is_taken(*extent));
    // Where others belong that are still to come, nothing else goes while there is room.
    let reserved = |extent: &Extent| {
        let of = older.lacks.iter().filter(|(of, _)| *of == spare).map(|(_, served)| served);
        of.filter_map(|served| Extent::new(served.at, served.main.len()).ok()).any(|place| place.overlaps(extent))
    };
    let places = fits(wanted.at).into_iter().chain(elsewhere.filter_map(fits).filter(|extent| !reserved(extent)));
    for place in places {
        match write_salvaged(io.as_ref(), place, &content).map(|()| reads_back(io.as_ref(), place, &content)) {
            Ok(true) => {}
            Ok(false) | Err(Refused::Extent(_)) => continue,
            Err(Refused::Other(error)) => return Err(format!("spare {spare}: {error}")),
        }
        let flags = RemapFlags { marked: true };
        let remap = Remap { main: wanted.main, spare, at: place.start(), flags, seq };
        table.commit(io.as_ref(), remap).map_err(|error| format!("the record of main {}: {error}", remap.main))?;
        return Ok(remap);
    }
    Err(format!("spare {spare} has no room for the {len} sectors of main {}", wanted.main))
}

fn reads_back(io: &dyn BlockIo, place: Extent, content: &[u8]) -> bool {
    let mut read = vec![0; content.len()];
    io.read(place.start(), &mut read).is_ok() && read == content
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actuate::reconcile::open_tables;
    use crate::actuate::spare_table::tests::{description, new_spare, remap};
    use crate::actuate::test_disk::TestDisk;

    fn opened(disk: TestDisk) -> Vec<OpenSpare> {
        open_tables(&description(), vec![("spare0".into(), Box::new(disk))]).unwrap().0
    }

    fn lacks(remaps: &[Remap]) -> Older {
        let lacks = remaps.iter().map(|remap| (remap.spare, Served { main: remap.main, at: remap.at })).collect();
        Older { lacks, gone: Vec::new() }
    }

    fn is_lost(spares: &[OpenSpare], remap: &Remap) -> bool {
        let (desc, mut block) = (description(), vec![0; 512]);
        (0..remap.main.len().0).all(|n| {
            spares[0].io.read(Sector(remap.at.0 + n), &mut block).unwrap();
            lost_mark::is_lost(&desc.secret, Sector(remap.main.start().0 + n), &block)
        })
    }

    #[test]
    fn what_is_missing_is_lost_where_it_was_if_that_is_free() {
        let (kept, missing, taken) = (remap(9, 0, 1), remap(3, 1, 2), Remap { main: remap(30, 5, 3).main, ..remap(9, 0, 3) });
        let (disk, mut table) = new_spare();
        table.commit(&disk, kept).unwrap();
        let mut spares = opened(disk);
        let older = lacks(&[missing, taken]);
        let marked = mark_lost(&description(), &mut spares, &older, 70).unwrap();
        assert!(marked[0].same_place(&missing) && marked[1].main == taken.main && marked[1].at != taken.at, "{marked:?}");
        assert!(marked.iter().all(|remap| remap.flags.marked && remap.seq > 70 && is_lost(&spares, remap)), "{marked:?}");
        mirror(&mut spares).unwrap();
        assert_eq!(spares[0].table.remaps().count(), 3);
        assert_eq!(spares[0].table.single(), 0);
    }

    #[test]
    fn a_record_from_before_a_move_is_replaced_and_what_another_serves_stays() {
        let before = remap(9, 0, 1);
        let (disk, mut table) = new_spare();
        table.commit(&disk, before).unwrap();
        let mut spares = opened(disk);
        let moved = Remap { at: remap(9, 4, 1).at, seq: 8, ..before };
        let marked = mark_lost(&description(), &mut spares, &lacks(&[moved]), 8).unwrap();
        assert_eq!(spares[0].table.remaps().copied().collect::<Vec<_>>(), marked);
        assert!(marked[0].same_place(&moved) && is_lost(&spares, &marked[0]));
        // A wider range than that.
        let wide = Extent::new(Sector(before.main.start().0 - 8), Sectors(24)).unwrap();
        let older = Older { lacks: vec![(0, Served { main: wide, at: remap(0, 6, 1).at })], gone: Vec::new() };
        let parts: Vec<Extent> = mark_lost(&description(), &mut spares, &older, 8).unwrap().iter().map(|r| r.main).collect();
        let part = |start| Extent::new(Sector(start), Sectors(8)).unwrap();
        assert_eq!(parts, [part(wide.start().0), part(wide.start().0 + 16)]);
    }

    #[test]
    fn a_record_of_what_had_gone_back_goes() {
        let (stays, goes) = (remap(9, 0, 1), remap(3, 1, 2));
        let (disk, mut table) = new_spare();
        [stays, goes].iter().for_each(|remap| table.commit(&disk, *remap).unwrap());
        let mut spares = opened(disk);
        assert_eq!(remove_gone(&mut spares, &Older { lacks: Vec::new(), gone: vec![goes] }), Ok(1));
        assert_eq!(spares[0].table.remaps().copied().collect::<Vec<_>>(), [stays]);
    }
}
