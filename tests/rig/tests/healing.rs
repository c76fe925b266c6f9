//! The main promise on each kernel of the guest, in turn on NVMe and on SCSI. Needs what `make stage` leaves, in the folder
//! that RIG_PAYLOAD names.

use anyhow::Result;
use rig::scenario::{Scenario, Set};
use rig::{Bus, Guest, payload};

/// Kernels and buses in pairs, so that a guest is not booted for each combination.
#[test]
fn a_bad_disk_heals_on_every_kernel() -> Result<()> {
    let buses = [Set { name: "nvmedata", bus: Bus::Nvme }, Set { name: "scsidata", bus: Bus::Scsi }];
    let kernels = Guest::find()?.kernels()?;
    // With a single kernel both buses share its boot.
    let shares = if kernels.len() > 1 { 1 } else { 2 };
    for (kernel, sets) in kernels.iter().zip(buses.chunks(shares).cycle()) {
        println!("\n--- Linux {} with {:?}", kernel.version, sets);
        Scenario::boot(sets.to_vec(), Some(&kernel.version), &payload()?)?.run()?;
    }
    Ok(())
}

/// What was acknowledged and flushed before a power cut is there after it, cured sectors and lost ones included.
#[test]
fn cures_survive_power_cuts() -> Result<()> {
    let set = Set { name: "data", bus: Bus::Nvme };
    let mut scenario = Scenario::boot(vec![set], None, &payload()?)?;
    scenario.run_with_power_cuts(if std::env::var_os("RIG_SOAK").is_some() { 50 } else { 3 })
}
