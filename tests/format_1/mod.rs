//! What the fixtures hold, and how they are packed: in format 1 all of it; the store of format 2, from which the first entry of the history
//! was pruned, else the same. Shared by `tests/formats.rs` and `examples/make_fixtures.rs`.

use remap_guardian::edge::Usage;
use remap_guardian::format::geometry;
use remap_guardian::model::{
    Action, Decision, Entry, ErrorClass, Extent, Identity, Millis, Remap, RemapFlags, Secret, Sector, Sectors, SetDescription,
    SetId, SetName, What,
};
use std::io::Result;
use std::path::Path;

/// Sectors of the two spares.
pub const SPARES: [u64; 2] = [4096, 2048 + 5];

/// Generation of the headers.
pub const GENERATION: u64 = 3;

/// The set.
pub fn set() -> SetDescription {
    let member = |serial: &str, model: &str, sectors: u64| Identity {
        serial: serial.into(),
        wwn: format!("naa.5000c500{serial}"),
        model: model.into(),
        partition: String::new(),
        sectors: Sectors(sectors),
        logical_block: 512,
        physical_block: 4096,
    };
    let second = Identity { partition: "6a2c41d0-02".into(), ..member("SPARE1", "Größe 2", SPARES[1]) };
    let mut set = SetDescription {
        id: SetId("6ba7b810-9dad-41d1-80b4-00c04fd430c8".parse().expect("a UUID")),
        name: SetName::new("fixture-1").expect("a name"),
        main: member("MAIN0001", "Old Disk 4000", 7_814_037_168),
        spares: vec![member("SPARE0", "New Disk 1", SPARES[0]), second],
        secret: Secret(*b"sixteen bytes ok"),
        geometry: Vec::new(),
        created: Millis(1_763_700_000_123),
    };
    let layout = |spare: &Identity| geometry(spare.sectors, set.block()).expect("large enough");
    set.geometry = set.spares.iter().map(layout).collect();
    set
}

fn remap(main: u64, len: u64, spare: u16, at: u64, marked: bool, seq: u64) -> Remap {
    let main = Extent::new(Sector(main), Sectors(len)).expect("an extent");
    Remap { main, spare, at: Sector(at), flags: RemapFlags { marked }, seq }
}

/// The remaps that hold, by spare, sorted by main.
pub fn remaps() -> [Vec<Remap>; 2] {
    let zero = vec![remap(8, 8, 0, 96, false, 2), remap(1000, 8, 0, 88, true, 1), remap(7_814_037_160, 8, 0, 4080, true, 6)];
    [zero, vec![remap(64, 16, 1, 64, true, 4)]]
}

/// A remap of spare 0 that was committed as number 3 and removed as number 5.
pub fn removed() -> Remap {
    remap(64, 16, 0, 104, true, 3)
}

/// The next sequence number, by spare.
pub const NEXT_SEQ: [u64; 2] = [7, 5];

/// Sectors of the remap of main 1000 that hold lost marks.
pub const LOST: [u64; 2] = [1002, 1003];

/// A range of spare 0 that is marked bad in the store.
pub fn bad() -> Extent {
    Extent::new(Sector(128), Sectors(8)).expect("an extent")
}

/// Space in the store, by spare.
pub fn usage() -> [Usage; 2] {
    let usage = |free, reserved, in_use, bad| Usage {
        free: Sectors(free),
        reserved: Sectors(reserved),
        in_use: Sectors(in_use),
        bad: Sectors(bad),
    };
    [usage(3944, 24, 24, 8), usage(1968, 0, 16, 0)]
}

/// The history.
pub fn history() -> Vec<Entry> {
    let set = set();
    let rule = |action, reason: &str| Decision { action, rule: "default/medium".into(), reason: reason.into() };
    let block = Extent::new(Sector(1000), Sectors(8)).expect("an extent");
    let all = vec![
        What::Created {
            main: "Old Disk 4000".into(),
            spares: vec!["New Disk 1".into(), "Größe 2".into()],
            capacity: Sectors(5984),
        },
        What::Remapped {
            remap: remaps()[0][1],
            saved: Sectors(6),
            lost: LOST.map(Sector).to_vec(),
            decision: rule(Action::Remap, "a medium error on one block"),
            class: ErrorClass::Medium,
            took_ms: 41,
            evidence: vec!["read failed at 1002".into()],
        },
        What::NotRemapped {
            extent: block,
            decision: rule(Action::Observe, "a storm"),
            reason: "policy".into(),
            evidence: vec![],
        },
        What::Alert { message: "70 % of the spares are used".into() },
    ];
    let entry = |(index, what): (usize, What)| Entry {
        number: index as u64 + 1,
        at: Millis(set.created.0 + index as u64 * 1000),
        set: set.id,
        name: set.name.clone(),
        what,
    };
    all.into_iter().enumerate().map(entry).collect()
}

/// Why its first entry was pruned in the store of format 2, as the history says.
pub const WHY: &str = "to have a fixture";

/// When.
pub const PRUNED_AT: Millis = Millis(1_763_700_099_123);

const BLOCK: usize = 4096;

/// Packs a file: its size, then offset and content of every block that is not zero.
pub fn pack(bytes: &[u8]) -> Vec<u8> {
    let mut packed = (bytes.len() as u64).to_le_bytes().to_vec();
    for (index, block) in bytes.chunks(BLOCK).enumerate() {
        if block.iter().any(|&byte| byte != 0) {
            packed.extend_from_slice(&((index * BLOCK) as u64).to_le_bytes());
            packed.extend_from_slice(block);
            packed.resize(packed.len() + BLOCK - block.len(), 0);
        }
    }
    packed
}

/// Unpacks to a file.
pub fn unpack(packed: &Path, to: &Path) -> Result<()> {
    let packed = std::fs::read(packed)?;
    let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("8 bytes")) as usize;
    let (size, blocks) = packed.split_at(8);
    let mut bytes = vec![0; number(size).next_multiple_of(BLOCK)];
    for block in blocks.chunks(8 + BLOCK) {
        let at = number(&block[..8]);
        bytes[at..at + BLOCK].copy_from_slice(&block[8..]);
    }
    bytes.truncate(number(size));
    std::fs::write(to, bytes)
}
