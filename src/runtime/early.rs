//! The daemon before the root file system is there, and after everything else has ended at shutdown.
//!
//! In an initramfs [`assemble_once`] opens the sets that are complete and writes nothing: the kernel may yet resume from
//! hibernation, and must find its disks as it left them. When that is decided, an *early* daemon takes over and cures what mounting
//! the root file system meets. It keeps its state in `/run`, and its name begins with `@`, by which systemd knows what it must not
//! end: a root file system that rests on a set is written until the very last. The daemon of the real system takes over from it
//! ([`super::lock`]) with the state in `/var`; at shutdown an early one takes over again.

use super::seen::Seen;
use super::{assemble, inputs, lock, partitions};
use crate::actuate::{activate, target};
use crate::config::Settings;
use crate::edge::Store;
use crate::model::Millis;
use crate::store::SledStore;
use anyhow::Context;
use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Where all early files are. It moves along when the root file system is mounted over the initramfs.
const RUN: &str = "/run";
/// Below [`RUN`]. Early paths are relative, and the process stays in [`RUN`]: absolute ones end with the initramfs.
const STATE: &str = "remap-guardian.early";

/// Opens the sets that are complete, without a daemon and without a write to a disk. Does nothing where a daemon runs. Gives a line
/// for each set that was opened, or why it was not.
pub fn assemble_once(settings: &Settings) -> anyhow::Result<Vec<String>> {
    if lock::is_taken(&settings.run_dir)? {
        return Ok(Vec::new());
    }
    let devices = inputs::devices(settings).context("the block devices cannot be listed")?;
    let found = assemble::discover_and_shield(&devices);
    let seen = Seen::load(&settings.run_dir);
    let mut said = Vec::new();
    for (id, candidate) in &found {
        let name = &candidate.desc.name;
        // What an earlier call has opened is left in peace.
        if target::peek(*id).is_ok_and(|status| status.state == "ACTIVE") {
            continue;
        }
        match assemble::open(candidate, settings, &seen, assemble::Writes::No, &assemble::no_judge) {
            Ok(_) => {
                partitions::follow(*id, name);
                said.push(format!("/dev/mapper/{name} is open"));
            }
            Err(reason) => said.push(format!("“{name}” is not open: {reason}")),
        }
    }
    Ok(said)
}

/// Whether this process is one that systemd spares.
fn is_spared() -> bool {
    std::env::args_os().next().is_some_and(|name| name.as_encoded_bytes().starts_with(b"@"))
}

/// Starts the early daemon in the background, if a set is open; or, in that process, gives its settings.
pub fn begin(settings: Settings) -> anyhow::Result<Option<Settings>> {
    if is_spared() {
        // Not in the session of the script that started it.
        rustix::process::setsid().context("setsid")?;
        std::env::set_current_dir(RUN).context(RUN)?;
        return Ok(Some(Settings { state_dir: STATE.into(), run_dir: "remap-guardian".into(), ..settings }));
    }
    if activate::all_active().map_or(true, |active| active.is_empty()) {
        return Ok(None);
    }
    let state = Path::new(RUN).join(STATE);
    DirBuilder::new().recursive(true).mode(0o700).create(&state).with_context(|| state.display().to_string())?;
    // Nobody else will read what it says.
    let log = File::options().write(true).open("/dev/kmsg").map_or_else(|_| Stdio::null(), Stdio::from);
    let mut command = Command::new("/proc/self/exe");
    command.arg0("@remap-guardian").args(["run", "--early"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command.spawn().context("the early daemon cannot be started")?;
    Ok(None)
}

/// Moves the history that an early daemon wrote into the store. To be called while no early daemon runs. What cannot be moved stays
/// for the next start, and then comes twice rather than not at all.
pub fn take_history(store: &dyn Store) {
    let state = Path::new(RUN).join(STATE);
    let path = state.join("store");
    if !path.exists() {
        return;
    }
    if let Err(error) = move_history(&path, store) {
        tracing::warn!("history from before the root file system stays in {}: {error}", path.display());
        return;
    }
    if let Err(error) = std::fs::remove_dir_all(&state) {
        tracing::debug!(%error, "{} stays", state.display());
    }
}

fn move_history(from: &Path, store: &dyn Store) -> anyhow::Result<()> {
    let early = SledStore::open(from)?;
    for entry in early.history(None, Millis(0), usize::MAX)? {
        store.append(&entry)?;
    }
    // Its own record of what was on its way back to main, if that one did not come to an end.
    for set in early.sets()? {
        if let (Some(remap), None) = (early.returning(set.id)?, store.returning(set.id)?) {
            store.set_returning(set.id, Some(&remap))?;
        }
    }
    Ok(store.flush()?)
}
