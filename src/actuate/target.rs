//! The client of the kernel target: one owned device, spoken to by device-mapper messages.
//!
//! The device is addressed by its device-mapper UUID, so a rename or a later device of the same name never receives a
//! message that was meant for this one; the instance in each message covers the rest.

use super::target_text::{self as text, BadReply};
use crate::dm::error::errno;
use crate::edge::{ErrorPage, Fence, FenceId, Target, TargetFault, TargetStatus};
use crate::format::table_checksum;
use crate::model::{Extent, Remap, Secret, Sector, SetId, SetName};
use devicemapper::{DM, DevId, DmError, DmFlags, DmName, DmOptions, DmUuid, DmUuidBuf};
use rustix::event::{PollFd, PollFlags, poll};
use std::fmt::Write as _;
use std::time::Duration;

const EPERM: i32 = 1;
const ENOENT: i32 = 2;
const ENXIO: i32 = 6;
const EAGAIN: i32 = 11;
const EBUSY: i32 = 16;
const ETIME: i32 = 62;
const EBADMSG: i32 = 74;
const EOPNOTSUPP: i32 = 95;
const ESTALE: i32 = 116;
const ENOKEY: i32 = 126;

/// What an errno of message `verb` means.
fn fault(verb: &str, errno: i32) -> TargetFault {
    let text = format!("{verb}: {}", std::io::Error::from_raw_os_error(errno));
    match errno {
        EPERM | ESTALE => TargetFault::NotOwner(text),
        ENOENT | ETIME => TargetFault::FenceGone(text),
        EAGAIN | EBUSY => TargetFault::Busy(text),
        ENXIO => TargetFault::Gone(text),
        EBADMSG => TargetFault::Other(format!("{verb}: the table in the kernel is not the one expected; it stays closed")),
        ENOKEY => TargetFault::Other(format!("{verb}: remaps that may hold lost marks need the set's secret first")),
        EOPNOTSUPP => TargetFault::Other(format!("{verb}: the device is not a managed one")),
        _ => TargetFault::Other(text),
    }
}

fn dm_fault(verb: &str, error: &DmError) -> TargetFault {
    match errno(error) {
        Some(errno) => fault(verb, errno),
        None => TargetFault::Other(format!("{verb}: {error}")),
    }
}

impl From<BadReply> for TargetFault {
    fn from(bad: BadReply) -> TargetFault {
        TargetFault::Other(bad.to_string())
    }
}

/// A device-mapper device whose owner is this process, until another one takes it.
pub struct DmTarget {
    dm: DM,
    uuid: DmUuidBuf,
    instance: String,
    token: String,
}

impl DmTarget {
    /// Takes ownership of the device `/dev/mapper/<name>`; a previous owner loses it.
    pub fn own(name: &SetName) -> Result<DmTarget, TargetFault> {
        let dm = context()?;
        let name = DmName::new(name.as_str()).map_err(|error| TargetFault::Other(error.to_string()))?;
        let info = dm.device_info(&DevId::Name(name)).map_err(|error| dm_fault("info", &error))?;
        let uuid = info.uuid().map(ToString::to_string).unwrap_or_default();
        if !uuid.starts_with(text::UUID_PREFIX) {
            return Err(TargetFault::Other(format!("{name} is not a device of remap-guardian")));
        }
        DmTarget::take(dm, &uuid)
    }

    /// Takes ownership of the device of a set, whatever its name.
    pub fn own_set(set: SetId) -> Result<DmTarget, TargetFault> {
        DmTarget::take(context()?, &text::dm_uuid(set))
    }

    fn take(dm: DM, uuid: &str) -> Result<DmTarget, TargetFault> {
        let uuid = DmUuidBuf::new(uuid.into()).map_err(|error| TargetFault::Other(error.to_string()))?;
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).map_err(|error| TargetFault::Other(format!("no random numbers: {error}")))?;
        let instance = status_of(&dm, &uuid)?.instance;
        let token = format!("{:016x}", u64::from_ne_bytes(bytes));
        let target = DmTarget { dm, uuid, instance, token };
        target.send("own", &format!("own {} {}", target.instance, target.token))?;
        Ok(target)
    }

    /// A second handle with the same ownership, for another thread.
    pub fn share(&self) -> Result<DmTarget, TargetFault> {
        let (uuid, instance, token) = (self.uuid.clone(), self.instance.clone(), self.token.clone());
        Ok(DmTarget { dm: context()?, uuid, instance, token })
    }

    /// Makes this handle ready for [`DmTarget::wait`]. To be called before looking: what happens after it ends the wait.
    pub fn arm(&self) -> Result<(), TargetFault> {
        self.dm.arm_poll().map(drop).map_err(|error| dm_fault("arm", &error))
    }

    /// Waits until a device-mapper device has an event, this one or another, or the time has passed.
    pub fn wait(&self, bound: Duration) {
        let mut fds = [PollFd::new(self.dm.file(), PollFlags::IN)];
        let bound = rustix::time::Timespec::try_from(bound).ok();
        // Whatever the answer is, looking is right.
        let _ = poll(&mut fds, bound.as_ref());
    }

    /// The instance this owner belongs to: a new one means that the device was made anew.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// Sends a message as it is. `verb` is for error texts: a message may hold a secret.
    fn send(&self, verb: &'static str, message: &str) -> Result<String, TargetFault> {
        match self.dm.target_msg(&DevId::Uuid(&self.uuid), None, message) {
            Ok((_, reply)) => Ok(reply.unwrap_or_default()),
            Err(error) => Err(dm_fault(verb, &error)),
        }
    }

    /// Sends a message as the owner. Its first word names it in error texts.
    fn command(&self, verb: &'static str, message: &str) -> Result<String, TargetFault> {
        self.send(verb, &format!("as {} {} {message}", self.instance, self.token))
    }

    fn page_of_errors(&self, since: u64) -> Result<ErrorPage, TargetFault> {
        let errors = text::parse_errors(&self.send("errors", &format!("errors {since}"))?)?;
        for line in &errors.unreadable {
            tracing::warn!(device = %*self.uuid, line, "an error record of the target cannot be read");
        }
        Ok(errors.page)
    }

    /// Reads a whole table, or `None` if it changed between pages.
    fn try_dump(&self) -> Result<Option<Vec<Remap>>, TargetFault> {
        let mut first = text::parse_dump(&self.send("dump", "dump 0")?)?;
        let mut remaps = std::mem::take(&mut first.remaps);
        let mut next = first.next;
        while let Some(from) = next {
            if remaps.last().is_some_and(|last| from < last.main.end()) {
                return Err(TargetFault::Other("dump: its pages go backwards".into()));
            }
            let page = text::parse_dump(&self.send("dump", &format!("dump {from}"))?)?;
            if (page.total, page.checksum) != (first.total, first.checksum) {
                return Ok(None);
            }
            if page.remaps.is_empty() && page.next.is_some() {
                return Err(TargetFault::Other("dump: a page is empty".into()));
            }
            remaps.extend(page.remaps);
            next = page.next;
        }
        let whole = remaps.len() as u64 == first.total && table_checksum(&remaps) == first.checksum;
        Ok(whole.then_some(remaps))
    }
}

/// A new device-mapper context.
pub(super) fn context() -> Result<DM, TargetFault> {
    DM::new().map_err(|error| TargetFault::Other(format!("device-mapper cannot be used: {error}")))
}

fn status_of(dm: &DM, uuid: &DmUuid) -> Result<TargetStatus, TargetFault> {
    // Status must not wait for I/O of the device: no flush.
    let options = DmOptions::default().set_flags(DmFlags::DM_NOFLUSH);
    let (_, lines) = dm.table_status(&DevId::Uuid(uuid), options).map_err(|error| dm_fault("status", &error))?;
    match lines.as_slice() {
        [(_, _, kind, params)] if kind == text::TARGET_TYPE => Ok(text::parse_status(params)?),
        _ => Err(TargetFault::Other(format!("status: the table of {uuid} is not one {} target", text::TARGET_TYPE))),
    }
}

/// The counters of a set's device, without owning it.
pub fn peek(set: SetId) -> Result<TargetStatus, TargetFault> {
    let uuid = DmUuidBuf::new(text::dm_uuid(set)).map_err(|error| TargetFault::Other(error.to_string()))?;
    status_of(&context()?, &uuid)
}

impl Target for DmTarget {
    fn status(&self) -> Result<TargetStatus, TargetFault> {
        status_of(&self.dm, &self.uuid)
    }

    fn errors(&self, since: u64) -> Result<ErrorPage, TargetFault> {
        let mut all = self.page_of_errors(since)?;
        // Up to what the first page promised: a storm must not keep us here for ever.
        let mut last = all.records.last().map(|record| record.seq);
        while let Some(seq) = last.filter(|seq| seq.saturating_add(1) < all.next) {
            let page = self.page_of_errors(seq + 1)?;
            if page.oldest > seq + 1 {
                // Overwritten meanwhile. Whoever asks next, from here on, sees the gap.
                all.next = seq + 1;
                break;
            }
            last = page.records.last().map(|record| record.seq).filter(|next| *next > seq);
            let promised = all.next;
            all.records.extend(page.records.into_iter().filter(|record| record.seq > seq && record.seq < promised));
        }
        Ok(all)
    }

    fn dump(&self) -> Result<Vec<Remap>, TargetFault> {
        for _ in 0..5 {
            if let Some(remaps) = self.try_dump()? {
                return Ok(remaps);
            }
        }
        Err(TargetFault::Busy("dump: the table changes while it is read".into()))
    }

    fn fences(&self) -> Result<Vec<Fence>, TargetFault> {
        Ok(text::parse_fences(&self.send("fences", "fences")?)?)
    }

    fn lease(&self, ms: u64, reads: bool) -> Result<(), TargetFault> {
        let lease = |reads: &str| self.command("lease", &format!("lease {ms}{reads}")).map(drop);
        match lease(if reads { " reads" } else { "" }) {
            // A module from before an upgrade. Writes must not pay for that.
            Err(TargetFault::Other(refusal)) if reads => {
                lease("")?;
                static TOLD: std::sync::Once = std::sync::Once::new();
                TOLD.call_once(|| tracing::warn!(%refusal, "the kernel module is older than this daemon: reads are not held until it is loaded anew"));
                Ok(())
            }
            answer => answer,
        }
    }

    fn secret(&self, secret: &Secret) -> Result<(), TargetFault> {
        let mut message = String::with_capacity(40);
        message.push_str("secret ");
        for byte in secret.0 {
            let _ = write!(message, "{byte:02x}");
        }
        self.command("secret", &message).map(drop)
    }

    fn fence(&self, extent: Extent, ms: u64) -> Result<FenceId, TargetFault> {
        let reply = self.command("fence", &format!("fence {} {} {ms}", extent.start(), extent.len()))?;
        Ok(text::parse_fence_id(&reply)?)
    }

    fn seal(&self, fence: FenceId) -> Result<(), TargetFault> {
        self.command("seal", &format!("seal {fence}")).map(drop)
    }

    fn unfence(&self, fence: FenceId) -> Result<(), TargetFault> {
        self.command("unfence", &format!("unfence {fence}")).map(drop)
    }

    fn add_remap(&self, remap: &Remap, fence: Option<FenceId>) -> Result<(), TargetFault> {
        self.command("add_remap", &text::add_message(remap, fence)).map(drop)
    }

    fn remove_remap(&self, main: Sector, fence: FenceId) -> Result<(), TargetFault> {
        self.command("remove_remap", &format!("remove_remap {main} fence={fence}")).map(drop)
    }

    fn load(&self, remaps: &[Remap]) -> Result<(), TargetFault> {
        // Each message is all or nothing; the whole is settled by `ready`, which compares count and checksum.
        text::load_messages(remaps).iter().try_for_each(|message| self.command("load", message).map(drop))
    }

    fn ready(&self, remaps: &[Remap]) -> Result<(), TargetFault> {
        self.command("ready", &text::ready_message(remaps)).map(drop)
    }

    fn retry(&self, extent: Extent) -> Result<u64, TargetFault> {
        let reply = self.command("retry", &format!("retry {} {}", extent.start(), extent.len()))?;
        Ok(text::parse_count("retry", &reply)?)
    }

    fn release(&self, extent: Extent) -> Result<u64, TargetFault> {
        let reply = self.command("release", &format!("release {} {}", extent.start(), extent.len()))?;
        Ok(text::parse_count("release", &reply)?)
    }

    fn release_reads(&self, extent: Extent) -> Result<u64, TargetFault> {
        let reply = self.command("release", &format!("release {} {} reads", extent.start(), extent.len()))?;
        Ok(text::parse_count("release", &reply)?)
    }

    fn flush_begin(&self, n: u8) -> Result<(), TargetFault> {
        self.command("flush", &format!("flush begin {n}")).map(drop)
    }

    fn flush_end(&self, n: u8, failed: bool) -> Result<(), TargetFault> {
        let end = if failed { "failed" } else { "done" };
        self.command("flush", &format!("flush {end} {n}")).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_errno_has_one_meaning() {
        for (errno, good) in [
            (EPERM, matches!(fault("x", EPERM), TargetFault::NotOwner(_))),
            (ESTALE, matches!(fault("x", ESTALE), TargetFault::NotOwner(_))),
            (ENOENT, matches!(fault("x", ENOENT), TargetFault::FenceGone(_))),
            (ETIME, matches!(fault("x", ETIME), TargetFault::FenceGone(_))),
            (EAGAIN, matches!(fault("x", EAGAIN), TargetFault::Busy(_))),
            (EBUSY, matches!(fault("x", EBUSY), TargetFault::Busy(_))),
            (ENXIO, matches!(fault("x", ENXIO), TargetFault::Gone(_))),
            (EBADMSG, matches!(fault("x", EBADMSG), TargetFault::Other(_))),
            (22, matches!(fault("x", 22), TargetFault::Other(_))),
        ] {
            assert!(good, "errno {errno}");
        }
    }

    #[test]
    fn the_target_can_move_to_its_thread() {
        fn is_send<T: Send>() {}
        is_send::<DmTarget>();
    }
}
