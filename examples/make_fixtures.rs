//! Writes fixtures in the formats of this version: `cargo run --example make_fixtures -- DIRECTORY`. That of `tests/fixtures/format-1`
//! was written when the store had format 1, and stays.

#[path = "../tests/format_1/mod.rs"]
#[allow(dead_code)]
mod format_1;

use format_1::{GENERATION, LOST, SPARES};
use remap_guardian::actuate::{Access, DirectDevice, SpareTable, format_spare, write_headers};
use remap_guardian::edge::{BlockIo, ExtentState, Store};
use remap_guardian::format::lost_mark;
use remap_guardian::model::{Cut, Millis, Remap, Sector, Sectors};
use remap_guardian::store::SledStore;
use std::path::{Path, PathBuf};

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn main() -> Outcome {
    let to = PathBuf::from(std::env::args().nth(1).ok_or("name a directory")?);
    std::fs::create_dir_all(&to)?;
    let scratch = to.join("scratch");
    std::fs::create_dir(&scratch)?;
    spares(&to, &scratch)?;
    store(&to, &scratch)?;
    std::fs::remove_dir_all(&scratch)?;
    Ok(())
}

fn spares(to: &Path, scratch: &Path) -> Outcome {
    let set = format_1::set();
    let mut tables = Vec::new();
    for (spare, sectors) in (0u16..).zip(SPARES) {
        let image = scratch.join(format!("spare{spare}"));
        std::fs::File::create(&image)?.set_len(sectors * 512)?;
        let io = DirectDevice::open(&image, Access::WRITE)?;
        format_spare(&io, &set, spare)?;
        write_headers(&io, &set, spare, GENERATION)?;
        tables.push((SpareTable::open(&io, &set, spare)?, io));
    }
    let mut commits: Vec<Remap> = format_1::remaps().concat();
    commits.push(format_1::removed());
    commits.sort_by_key(|remap| remap.seq);
    for remap in commits {
        if remap.seq == 6 {
            let (table, io) = &mut tables[0];
            table.remove(io, format_1::removed().main.start(), 5)?;
        }
        let (table, io) = &mut tables[usize::from(remap.spare)];
        table.commit(io, remap)?;
    }
    for (table, io) in &mut tables {
        table.mirror(io)?;
    }
    let (table, io) = &tables[0];
    for lost in LOST {
        let remap = table.find(Sector(lost)).ok_or("not remapped")?;
        let mut block = [0; 512];
        lost_mark::encode(&set.secret, Sector(lost), &mut block);
        io.write_durable(Sector(remap.at.0 + lost - remap.main.start().0), &block)?;
    }
    for spare in 0..tables.len() {
        let bytes = std::fs::read(scratch.join(format!("spare{spare}")))?;
        std::fs::write(to.join(format!("spare{spare}.packed")), format_1::pack(&bytes))?;
    }
    Ok(())
}

fn store(to: &Path, scratch: &Path) -> Outcome {
    let set = format_1::set();
    let path = scratch.join("store");
    let store = SledStore::open(&path)?;
    store.put_set(&set)?;
    for (spare, live) in (0u16..).zip(format_1::remaps()) {
        store.rebuild(set.id, spare, set.geometry[usize::from(spare)].data, &live)?;
    }
    store.reserve(set.id, 0, Sectors(24), Sectors(8))?;
    let bad = store.reserve(set.id, 0, Sectors(8), Sectors(8))?;
    assert_eq!(bad, [format_1::bad()]);
    store.mark(set.id, 0, format_1::bad(), ExtentState::Bad)?;
    for entry in format_1::history() {
        store.append(&entry)?;
    }
    store.prune(Cut { upto: 1, before: Millis(u64::MAX) }, 9, format_1::WHY, format_1::PRUNED_AT)?;
    store.flush()?;
    drop(store);
    let packed = to.join("store.packed");
    std::fs::create_dir_all(&packed)?;
    for file in std::fs::read_dir(&path)? {
        let file = file?;
        if file.file_type()?.is_file() {
            std::fs::write(packed.join(file.file_name()), format_1::pack(&std::fs::read(file.path())?))?;
        }
    }
    Ok(())
}
