//! What must hold at every moment between the spares' tables, as they are on the medium, and the kernel's.

use super::block::OnMedium;
use super::machine::Machine;
use crate::actuate::SpareTable;
use crate::model::{Remap, Sector};

impl Machine {
    /// After a write to a spare: if it was to the table, the tables on the medium must be sound, and still have what is live.
    pub fn check_tables(&mut self, drive: usize, at: Sector) {
        if drive > 0 && at < self.desc.geometry[drive - 1].data.start() {
            let Some(kernel) = &self.kernel else { return };
            let back = self.back.iter().filter(|(_, fence)| kernel.is_sealed_by(*fence)).map(|(remap, _)| *remap);
            self.may_go.extend(back);
            self.check_kernel();
        }
    }

    /// S3 and S6: everything in the kernel is recorded on the medium of a spare, and no two records share sectors.
    pub fn check_kernel(&mut self) {
        let Some(kernel) = &self.kernel else { return };
        let live: Vec<Remap> = kernel.table.values().copied().collect();
        let recorded = match self.recorded() {
            Ok(recorded) => recorded,
            Err(problem) => return self.violated(problem),
        };
        for remap in &live {
            let goes = || self.may_go.iter().any(|going| going.same_place(remap));
            match recorded.iter().find(|record| record.same_place(remap)) {
                // Nothing reaches the old place of a move whose record is there, nor what has gone back: its range is sealed.
                None if kernel.is_sealed(remap.main) && (goes() || recorded.iter().any(|record| record.main == remap.main)) => {}
                None => return self.violated(format!("S3: main {} is mapped and no medium records it", remap.main)),
                Some(record) if record.flags.marked && !remap.flags.marked => {
                    return self.violated(format!("main {} may hold lost marks and is not flagged", remap.main));
                }
                Some(_) => {}
            }
        }
        let stands = |old: &Remap| recorded.iter().any(|r| r.same_place(old) || (r.main == old.main && r.seq > old.seq));
        let (gone, stay): (Vec<Remap>, Vec<Remap>) = std::mem::take(&mut self.mapped).into_iter().partition(|old| !stands(old));
        self.mapped = stay;
        for old in gone {
            if !self.may_go.iter().any(|going| going.same_place(&old)) {
                return self.violated(format!("the remap of main {} was live and is not recorded any more", old.main));
            }
            if live.iter().any(|live| live.same_place(&old)) {
                self.mapped.push(old);
                continue;
            }
            self.coverage.count("remap", "went back to main");
            self.left.push(old);
            let disk = &self.drives[0].disk;
            let bad = (old.main.start().0..old.main.end().0).filter(|at| disk.is_faulty(*at..at + 1, false)).collect();
            self.unreadable(bad);
        }
        for remap in live {
            if self.mapped.iter().any(|old| old.same_place(&remap)) {
                continue;
            }
            let (left, stay) = std::mem::take(&mut self.mapped).into_iter().partition(|old| old.main == remap.main);
            self.mapped = stay;
            self.left.extend::<Vec<Remap>>(left);
            self.mapped.push(remap);
            self.spare_unreadable(&remap);
        }
        let kernel = self.kernel.as_ref().expect("it was there");
        self.may_go.retain(|going| kernel.is_sealed(going.main) && self.mapped.iter().any(|old| old.same_place(going)));
    }

    /// The remaps that the media record.
    pub fn recorded(&self) -> Result<Vec<Remap>, String> {
        let mut all: Vec<Remap> = Vec::new();
        for spare in 0..self.desc.spares.len() {
            let table = SpareTable::open(&OnMedium::of(self, spare), &self.desc, spare as u16)
                .map_err(|error| format!("the table of spare{spare} cannot be read: {error}"))?;
            table.check().map_err(|problem| format!("S6: the table of spare{spare} is not sound: {problem}"))?;
            all.extend(table.remaps());
        }
        all.sort_by_key(|remap| remap.main);
        match all.windows(2).find(|pair| pair[0].main.overlaps(&pair[1].main)) {
            Some(pair) => Err(format!("S6: main {} and {} are recorded on two spares", pair[0].main, pair[1].main)),
            None => Ok(all),
        }
    }
}
