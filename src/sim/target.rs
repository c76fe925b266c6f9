//! The daemon's side of the simulated kernel target: messages that may fail, or take effect and still report an error.

use super::drive::Drive;
use super::kernel::Kernel;
use super::machine::{Fate, Shared};
use crate::edge::{ErrorPage, Fence, FenceId, Target, TargetFault, TargetStatus};
use crate::model::{Extent, Remap, Secret, Sector};

#[derive(Clone, Debug)]
pub(super) struct SimTarget {
    shared: Shared,
    life: u64,
    instance: u64,
    token: u64,
}

impl SimTarget {
    /// Takes ownership of the device.
    pub fn own(shared: &Shared, life: u64) -> Result<SimTarget, TargetFault> {
        let owned = shared.act(life, false, |machine, fate| {
            let token = machine.random.next();
            let instance = machine.kernel.as_ref().map(|kernel| kernel.instance);
            if fate != Fate::Fails {
                machine.with_kernel(|kernel, _| kernel.own(token));
            }
            let instance = instance.ok_or_else(|| TargetFault::Gone("ENXIO".into()))?;
            if fate == Fate::Done { Ok((instance, token)) } else { Err(TargetFault::Other("ENOMEM".into())) }
        });
        let (instance, token) = owned.unwrap_or_else(|| Err(over()))?;
        Ok(SimTarget { shared: shared.clone(), life, instance, token })
    }

    /// Something only the owner may do.
    fn change<T>(
        &self,
        what: impl FnOnce() -> String,
        change: impl FnOnce(&mut Kernel, &mut [Drive]) -> Result<T, TargetFault>,
    ) -> Result<T, TargetFault> {
        let answer = self.shared.act(self.life, false, |machine, fate| {
            machine.note(|| format!("{} {fate:?}", what()));
            if fate == Fate::Fails {
                return Err(TargetFault::Other("ENOMEM".into()));
            }
            let (now, instance, token) = (machine.now, self.instance, self.token);
            let answer = machine.with_kernel(|kernel, drives| {
                kernel.now = now;
                kernel.check_owner(instance, token).and_then(|()| change(kernel, drives))
            });
            let (kernel, mapped) = (&machine.kernel, &machine.mapped);
            let known = |remap: &Remap| mapped.iter().any(|old| old.same_place(remap));
            if kernel.as_ref().is_some_and(|kernel| kernel.table.len() != mapped.len() || !kernel.table.values().all(known)) {
                machine.check_kernel();
            }
            let answer = answer.unwrap_or_else(|| Err(TargetFault::Gone("ENXIO".into())));
            if fate == Fate::Done { answer } else { Err(TargetFault::Other("EIO".into())) }
        });
        answer.unwrap_or_else(|| Err(over()))
    }

    fn ask<T>(&self, ask: impl FnOnce(&Kernel) -> T) -> Result<T, TargetFault> {
        let answer = self.shared.act(self.life, false, |machine, fate| {
            if fate != Fate::Done {
                return Err(TargetFault::Other("ENOMEM".into()));
            }
            machine.kernel.as_ref().map(ask).ok_or_else(|| TargetFault::Gone("ENXIO".into()))
        });
        answer.unwrap_or_else(|| Err(over()))
    }
}

fn over() -> TargetFault {
    TargetFault::Other("this run of the daemon is over".into())
}

impl Target for SimTarget {
    fn status(&self) -> Result<TargetStatus, TargetFault> {
        self.ask(Kernel::status)
    }

    fn errors(&self, since: u64) -> Result<ErrorPage, TargetFault> {
        self.ask(|kernel| kernel.errors(since))
    }

    fn dump(&self) -> Result<Vec<Remap>, TargetFault> {
        self.ask(Kernel::dump)
    }

    fn fences(&self) -> Result<Vec<Fence>, TargetFault> {
        self.ask(Kernel::fences)
    }

    fn lease(&self, ms: u64, reads: bool) -> Result<(), TargetFault> {
        self.change(
            || format!("lease {ms}{}", if reads { " reads" } else { "" }),
            |kernel, drives| {
                kernel.lease(drives, ms, reads);
                Ok(())
            },
        )
    }

    fn secret(&self, secret: &Secret) -> Result<(), TargetFault> {
        self.change(|| "secret".into(), |kernel, _| kernel.set_secret(secret))
    }

    fn fence(&self, extent: Extent, ms: u64) -> Result<FenceId, TargetFault> {
        self.change(|| format!("fence {extent}"), |kernel, _| kernel.fence(extent, ms))
    }

    fn seal(&self, fence: FenceId) -> Result<(), TargetFault> {
        self.change(|| format!("seal {fence}"), |kernel, _| kernel.seal(fence))
    }

    fn unfence(&self, fence: FenceId) -> Result<(), TargetFault> {
        self.change(|| format!("unfence {fence}"), |kernel, drives| kernel.unfence(drives, fence))
    }

    fn add_remap(&self, remap: &Remap, fence: Option<FenceId>) -> Result<(), TargetFault> {
        self.change(
            || format!("add_remap {} to spare{} at {} fence {fence:?}", remap.main, remap.spare, remap.at),
            |kernel, drives| kernel.add_remap(drives, remap, fence),
        )
    }

    fn remove_remap(&self, main: Sector, fence: FenceId) -> Result<(), TargetFault> {
        self.change(|| format!("remove_remap {main} fence {fence}"), |kernel, drives| kernel.remove_remap(drives, main, fence))
    }

    fn load(&self, remaps: &[Remap]) -> Result<(), TargetFault> {
        self.change(|| format!("load {} remaps", remaps.len()), |kernel, _| kernel.load(remaps))
    }

    fn ready(&self, remaps: &[Remap]) -> Result<(), TargetFault> {
        self.change(|| "ready".into(), |kernel, drives| kernel.ready(drives, remaps))
    }

    fn retry(&self, extent: Extent) -> Result<u64, TargetFault> {
        self.change(|| format!("retry {extent}"), |kernel, drives| Ok(kernel.retry(drives, extent)))
    }

    fn release(&self, extent: Extent) -> Result<u64, TargetFault> {
        self.change(|| format!("release {extent}"), |kernel, _| Ok(kernel.release(extent)))
    }

    fn release_reads(&self, extent: Extent) -> Result<u64, TargetFault> {
        self.change(|| format!("release {extent} reads"), |kernel, _| Ok(kernel.release_reads(extent)))
    }

    fn flush_begin(&self, n: u8) -> Result<(), TargetFault> {
        self.change(|| format!("flush begin {n}"), |kernel, _| kernel.flush_begin(n))
    }

    fn flush_end(&self, n: u8, failed: bool) -> Result<(), TargetFault> {
        self.change(|| format!("flush ends {n}, failed: {failed}"), |kernel, _| kernel.flush_end(n, failed))
    }
}
