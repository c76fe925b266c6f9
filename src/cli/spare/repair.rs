//! `remap-guardian spare repair`.

use super::super::text::{confirm, tame};
use super::inspect::no_spare;
use crate::actuate::activate::{self, ActivateError};
use crate::actuate::{Access, DirectDevice, Examined, NoHeader, examine, repair};
use crate::config::Settings;
use crate::control::Said;
use crate::runtime::{devices, instead_of_a_daemon};
use anyhow::{Context, bail};
use std::path::PathBuf;
use std::process::ExitCode;

/// Options of `spare repair`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Writes over a damaged header from the whole one, and over the slot of a table block that does not count from the one
that does: what counts when the set is opened never changes. The set must be closed, and the daemon stopped. It says
first what it will write and asks; where nobody can be asked it needs --yes.

Exit status: 0 if the spare is whole now, 2 if it is not (nobody said yes, or something is beyond repair), 1 on error.

Examples:
  remap-guardian spare repair /dev/sdc1
  remap-guardian spare repair sdc1.img --yes")]
pub struct Args {
    /// The disk or partition, or a file with its content
    device: PathBuf,
    /// Do it without asking
    #[arg(long)]
    yes: bool,
}

/// Says what is to be done, and does it.
pub fn main(args: &Args, settings: &Settings, json: bool) -> anyhow::Result<ExitCode> {
    let device = args.device.to_string_lossy();
    // Until the end of the process no daemon starts.
    instead_of_a_daemon(&settings.run_dir)?;
    let seen = examine(&DirectDevice::open(&args.device, Access::READ)?);
    mendable(&device, &seen)?;
    let steps = seen.steps();
    let mut lines: Vec<String> = steps.iter().map(|step| format!("{device}: would {}", tame(&step.to_string()))).collect();
    lines.extend(seen.beyond_repair().iter().map(|problem| format!("{device}: beyond repair: {}", tame(problem))));
    if steps.is_empty() {
        lines.push(format!("{device}: there is nothing to write"));
        return said(lines, json, &seen);
    }
    if !json && !args.yes {
        super::super::print_said(&Said { lines: std::mem::take(&mut lines) }, json)?;
    }
    if !args.yes && (json || !confirm("Write this?")?) {
        lines.push("nothing was done; to do it, repeat with --yes".into());
        super::super::print_said(&Said { lines }, json)?;
        return Ok(ExitCode::from(2));
    }
    let io = DirectDevice::open(&args.device, Access::SOLE).context("a member that something else uses is not written to")?;
    its_own_disk(&io, &seen, settings)?;
    // Time has passed since it was asked.
    let again = examine(&io);
    if again.steps() != steps {
        bail!("{device}: what is on it has changed meanwhile\n  next: repeat, and stop what writes to it");
    }
    let after = repair(&io, again).with_context(|| format!("{device}: not everything was written; repeat it"))?;
    lines.push(format!("{device}: repaired, and read back"));
    said(lines, json, &after)
}

fn said(lines: Vec<String>, json: bool, examined: &Examined) -> anyhow::Result<ExitCode> {
    super::super::print_said(&Said { lines }, json)?;
    Ok(if examined.is_whole() { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

/// Something is known from which the rest can be mended, and the set is closed.
fn mendable(device: &str, examined: &Examined) -> anyhow::Result<()> {
    let found = match &examined.header {
        Ok(found) => found,
        Err(NoHeader::Damaged { .. } | NoHeader::NotOurs | NoHeader::Io(_)) if examined.stray.is_some() => {
            bail!(no_spare(device, examined))
        }
        Err(error @ (NoHeader::Damaged { .. } | NoHeader::NotOurs)) => bail!(
            "{device}: {error}, so nothing is there to mend it from\n  next: if it was a spare of a set that this machine \
             knows: remap-guardian restore NAME --from-history"
        ),
        Err(error) => bail!("{device}: {error}"),
    };
    match activate::find_active(found.header.set.id) {
        // Without device-mapper no device is open.
        Ok(None) | Err(ActivateError::NoDeviceMapper(_)) => Ok(()),
        Ok(Some(active)) => {
            bail!("its set is open as /dev/mapper/{0}\n  next: unmount it, then: dmsetup remove {0}; then repeat", active.name)
        }
        Err(error) => Err(error.into()),
    }
}

/// A copy on another disk is not what its header says. A file has no identity.
fn its_own_disk(io: &DirectDevice, examined: &Examined, settings: &Settings) -> anyhow::Result<()> {
    let (Some(devno), Ok(found)) = (io.devno()?, &examined.header) else { return Ok(()) };
    let name = io.path().display();
    let devices = devices(settings).context("the block devices cannot be listed")?;
    let known = devices.into_iter().find(|device| device.devno == devno);
    let known = known.with_context(|| format!("{name} is no disk or partition that can be a member"))?;
    let header = &found.header;
    let matches = header.set.spares[usize::from(header.spare)].matches(&known.identity);
    matches.map_err(|reason| {
        anyhow::anyhow!("{name} carries spare {} of “{}” but is another disk: {reason}", header.spare, header.set.name)
    })
}
