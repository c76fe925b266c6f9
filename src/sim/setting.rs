//! What a world begins with, and what goes bad in it.

use super::content;
use super::disk::{Backing, ErrorKind, Fault, Persist, SECTOR, SimDisk};
use super::drive::Drive;
use super::machine::{Machine, Shared};
use super::random::Random;
use crate::actuate::format_spare;
use crate::format::geometry;
use crate::model::{Action, Identity, Millis, Secret, Sectors, SetDescription, SetId, SetName};
use crate::policy::Policy;

/// Something on a drive goes bad: mostly near the beginning, where there is something to be met.
pub(super) fn draw_fault(machine: &mut Machine, drive: usize) -> Fault {
    let logical = machine.shape.logical;
    let (from, to) = match drive {
        0 => (0, machine.shape.main),
        spare => {
            let data = machine.desc.geometry[spare - 1].data;
            (data.start().0, data.end().0)
        }
    };
    let near = if machine.random.chance(2, 3) { (to - from).min(400) } else { to - from };
    let start = (from + machine.random.below(near)) / logical * logical;
    let len = if machine.random.chance(1, 4) { machine.random.within(1, 40) } else { machine.random.within(1, 4) } * logical;
    let sectors = start..(start + len).min(to);
    let fault = match machine.random.below(8) {
        0 | 1 => Fault::unreadable(sectors),
        2 if drive == 0 => Fault::unreadable_for_ever(sectors),
        2..=4 => Fault::unwritable(sectors),
        _ => Fault::dead(sectors),
    };
    if machine.random.chance(1, 3) { fault.reported_as(ErrorKind::Io) } else { fault }
}

/// A drive without faults.
pub(super) fn new_drive(sectors: u64, logical: u32, cached: bool) -> Drive {
    let disk = SimDisk::new(sectors, Backing::Memory).with_block_size(logical);
    Drive::new(if cached { disk.with_volatile_cache() } else { disk })
}

/// The set.
pub(super) fn describe(random: &mut Random, logical: u32, main: u64, spares: &[u64]) -> SetDescription {
    let identity = |serial: String, sectors: u64| Identity {
        serial,
        model: "simulated".into(),
        sectors: Sectors(sectors),
        logical_block: logical,
        physical_block: 4096,
        ..Identity::default()
    };
    let mut secret = [0; 16];
    secret.iter_mut().for_each(|byte| *byte = random.below(256) as u8);
    let members = spares.iter().enumerate().map(|(index, &sectors)| identity(format!("spare{index}"), sectors));
    let mut desc = SetDescription {
        id: SetId(uuid::Uuid::from_u128(u128::from(random.next()))),
        name: SetName::new("simulated").expect("a good name"),
        main: identity("main".into(), main),
        spares: members.collect(),
        secret: Secret(secret),
        geometry: Vec::new(),
        created: Millis(1),
    };
    let block = desc.block();
    desc.geometry = spares.iter().map(|&sectors| geometry(Sectors(sectors), block).expect("large enough")).collect();
    desc
}

/// Main holds write 1 everywhere; the spares are full of something old and are then made spares.
pub(super) fn fill(shared: &Shared) {
    let mut machine = shared.lock();
    let main = content::range(0, machine.shape.main, 1);
    machine.drives[0].write(0, &main, Persist::Fua).expect("a new disk takes everything");
    let life = machine.life;
    let desc = machine.desc.clone();
    for drive in 1..machine.drives.len() {
        let old = vec![0xee; machine.drives[drive].disk.sectors() as usize * SECTOR];
        machine.drives[drive].write(0, &old, Persist::Fua).expect("a new disk takes everything");
    }
    drop(machine);
    for spare in 0..desc.spares.len() {
        let io = super::block::SimIo::open(shared, life, spare + 1);
        format_spare(&io, &desc, spare as u16).expect("a new disk becomes a spare");
    }
}

/// The shipped policy, with room for what happens here.
pub(super) fn policy(reserve_blocks: u64, reads: Action, hold: bool) -> Policy {
    let text = include_str!("../../policies/balanced.toml");
    let mut policy: Policy = toml::from_str(text).expect("the shipped policy is one");
    policy.name = "balanced".into();
    policy.spare.reserve_blocks = reserve_blocks;
    policy.read_error.action = reads;
    policy.read_error.hold = hold;
    // More happens in a run than in a year of a disk.
    policy.spending.blocks_per_hour = 100_000;
    policy.spending.blocks_per_day = 100_000;
    policy.storm.errors_per_minute = 1_000_000;
    policy
}
