//! The rig itself: what its disks are told to do is what a guest sees.

use anyhow::{Result, ensure};
use remap_guardian::sim::disk::Fault;
use rig::{Bus, Disk, Output, Vm};

const BUSES: [(&str, Bus); 4] = [("nv", Bus::Nvme), ("sc", Bus::Scsi), ("at", Bus::Ata), ("vi", Bus::Virtio)];

fn read(vm: &mut Vm, disk: &str, sector: u64) -> Result<Output> {
    let path = vm.path(disk);
    vm.run(&format!(
        "dd if={path} bs=4096 skip={} count=1 iflag=direct status=none | sha256sum; exit ${{PIPESTATUS[0]}}",
        sector / 8
    ))
}

fn write(vm: &mut Vm, disk: &str, sector: u64, options: &str) -> Result<Output> {
    let path = vm.path(disk);
    vm.run(&format!(
        "dd if=/dev/urandom of={path} bs=4096 seek={} count=1 oflag=direct conv=nocreat{options} status=none",
        sector / 8
    ))
}

/// One guest serves all of this, for a boot costs more than the rest.
#[test]
fn a_guest_meets_its_disks_faults() -> Result<()> {
    let attach = |vm: rig::VmBuilder, (name, bus)| vm.disk(Disk::new(name, bus, 16).fault(Fault::unreadable(800..808)));
    let mut vm = BUSES.into_iter().fold(Vm::new(), attach).disk(Disk::new("big", Bus::Scsi, 16).blocks_of_4096()).boot()?;
    ensure!(vm.ok("systemctl is-system-running")? == "running");

    for (name, bus) in BUSES {
        bad_sectors(&mut vm, name, bus)?;
        vm.ok("udevadm settle")?;
        vm.sim(name).set_gone(true);
        ensure!(!read(&mut vm, name, 0)?.success(), "{name}: a disk that is gone was read");
        vm.sim(name).set_gone(false);
        ensure!(read(&mut vm, name, 0)?.success(), "{name}: the disk did not come back");
    }
    let (nv, sc, big) = (vm.path("nv"), vm.path("sc"), vm.path("big"));
    let names = vm.ok(&format!("udevadm info -q property -n {nv}; udevadm info -q property -n {sc}"))?;
    ensure!(names.contains("ID_SERIAL_SHORT=nv") && names.contains("ID_WWN=0x5"), "disks without identity:\n{names}");
    ensure!(vm.ok(&format!("blockdev --getss {big}"))? == "4096");

    power_cuts(&mut vm)?;
    vm.ok("echo kept >/root/kept && sync")?;
    vm.reboot()?;
    ensure!(vm.ok("cat /root/kept")? == "kept", "a reboot lost the root disk's content");
    Ok(())
}

fn bad_sectors(vm: &mut Vm, name: &str, bus: Bus) -> Result<()> {
    let complaint = if bus == Bus::Nvme { "critical medium error" } else { "I/O error" };
    let mut log = String::new();
    // The kernel prints ten such lines in five seconds, of all disks.
    for _ in 0..3 {
        vm.run("dmesg -C")?;
        ensure!(!read(vm, name, 800)?.success(), "{name}: a bad sector was read");
        log = vm.ok("dmesg")?;
        if log.contains(complaint) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(5_500));
    }
    ensure!(log.contains(complaint), "{name}: no {complaint:?} in the kernel's log:\n{log}");
    ensure!(read(vm, name, 792)?.success() && read(vm, name, 808)?.success(), "{name}: a good sector failed");
    let healed = write(vm, name, 800, ",fsync")?;
    ensure!(healed.success() && read(vm, name, 800)?.success(), "{name}: writing did not heal: {healed}");

    let before = read(vm, name, 1600)?;
    vm.sim(name).inject(Fault::unwritable(1600..1608));
    ensure!(!write(vm, name, 1600, "")?.success(), "{name}: a bad sector was written");
    ensure!(read(vm, name, 1600)? == before, "{name}: a failed write changed the sector");
    vm.sim(name).repair(1600..1608);
    Ok(())
}

fn power_cuts(vm: &mut Vm) -> Result<()> {
    let mut lost = 0;
    for seed in 0..2 {
        for (name, _) in BUSES {
            ensure!(write(vm, name, 8, ",fsync")?.success());
        }
        let flushed = BUSES.map(|(name, _)| read(vm, name, 8).map(|o| o.stdout));
        let mut cached = Vec::new();
        for (name, _) in BUSES {
            ensure!(write(vm, name, 16, "")?.success());
            cached.push(read(vm, name, 16)?.stdout);
        }
        vm.power_cut(seed)?;
        for (((name, _), flushed), cached) in BUSES.into_iter().zip(flushed).zip(cached) {
            ensure!(read(vm, name, 8)?.stdout == flushed?, "{name}: a power cut lost a flushed write");
            lost += u32::from(read(vm, name, 16)?.stdout != cached);
        }
    }
    ensure!(lost > 0, "no power cut lost anything");
    Ok(())
}
