//! Guests with disks that fail on demand.
//!
//! A [`Vm`] is a Debian machine in QEMU: real kernel, real systemd and udev. Its disks are simulated ones, served
//! by this process, which can break them, look at them and cut their power while the guest runs. `setup.sh` makes
//! the guest's root file system once; every `Vm` starts from it afresh.
//!
//! ```no_run
//! use remap_guardian::sim::disk::Fault;
//! use rig::{Bus, Disk, Vm};
//!
//! let mut vm = Vm::new().disk(Disk::new("main", Bus::Nvme, 64)).boot()?;
//! vm.sim("main").inject(Fault::unreadable(800..808));
//! let dd = vm.run(&format!("dd if={} of=/dev/null bs=4k iflag=direct", vm.path("main")))?;
//! assert_ne!(dd.status, 0);
//! # anyhow::Ok(())
//! ```

mod accel;
mod agent;
mod disk;
mod failpoints;
mod guest;
pub mod nbd;
mod prompt;
pub mod scenario;
mod vm;

pub use agent::Output;
pub use disk::{Bus, Disk};
pub use failpoints::Failpoints;
pub use guest::{Guest, Kernel};
pub use vm::{Console, Vm, VmBuilder};

use anyhow::{Context, Result, ensure};
use std::path::PathBuf;

/// The files of the product, as `make stage` leaves them: the folder that RIG_PAYLOAD names.
pub fn payload() -> Result<PathBuf> {
    let folder = std::env::var_os("RIG_PAYLOAD").context("RIG_PAYLOAD is not set: make test, make demo and make shell set it")?;
    let folder = PathBuf::from(folder);
    ensure!(folder.is_dir(), "there is nothing in {}: make stage", folder.display());
    Ok(folder)
}
