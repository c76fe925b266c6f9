//! Whether this machine can run guests at full speed.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::guest::Guest;

/// A kernel without a root file system panics within this time where KVM works.
const PATIENCE: Duration = Duration::from_secs(15);

/// QEMU's arguments for the quickest accelerator that works here.
///
/// A `/dev/kvm` that can be opened proves nothing: there are machines on which guests hang under it. So a kernel
/// is booted, once for each boot of this machine.
pub(crate) fn args(guest: &Guest) -> Result<&'static [&'static str]> {
    const KVM: &[&str] = &["-accel", "kvm", "-cpu", "host"];
    const TCG: &[&str] = &["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max"];
    if !Path::new("/dev/kvm").exists() {
        return Ok(TCG);
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let verdict = guest.cache().join(format!("kvm-{}", boot.trim()));
    if !verdict.exists() {
        eprintln!("rig: trying whether KVM works here");
        let works = boots_under(KVM, guest)?;
        eprintln!("rig: {}", if works { "it does" } else { "it does not: guests run emulated" });
        fs::write(&verdict, if works { "works" } else { "fails" })?;
    }
    Ok(if fs::read_to_string(&verdict)? == "works" { KVM } else { TCG })
}

fn boots_under(accel: &[&str], guest: &Guest) -> Result<bool> {
    let mut qemu = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "qemu-system-x86_64", "-nodefaults", "-M", "q35", "-m", "256"])
        .args(["-display", "none", "-no-reboot", "-append", "panic=-1 quiet"])
        .args(accel)
        .arg("-kernel")
        .arg(guest.default_kernel()?.image())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(status) = qemu.try_wait()? {
            return Ok(status.success()); // the panic's reboot, or no permission for /dev/kvm
        }
        thread::sleep(Duration::from_millis(50));
    }
    qemu.kill()?;
    qemu.wait()?;
    Ok(false)
}
