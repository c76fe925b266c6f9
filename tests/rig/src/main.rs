//! Boots a guest and shows that it lives.
use rig::{Bus, Disk, Vm};
fn main() -> anyhow::Result<()> {
    let t = std::time::Instant::now();
    let mut vm = Vm::new();
    if let Some(k) = std::env::args().nth(1) { vm = vm.kernel(&k); }
    let mut vm = vm
        .disk(Disk::new("nvmemain", Bus::Nvme, 64)).disk(Disk::new("scsimain", Bus::Scsi, 64))
        .disk(Disk::new("atamain", Bus::Ata, 64)).disk(Disk::new("vmain", Bus::Virtio, 64)).boot()?;
    eprintln!("booted {:?}", t.elapsed());
    for c in ["uname -a; systemctl is-system-running; systemctl --failed --no-legend; lsblk -o NAME,SIZE,SERIAL,WWN,TRAN,LOG-SEC,PHY-SEC; ls -l /dev/disk/by-id", "systemd-analyze; systemd-analyze blame | head -20; systemd-analyze critical-chain", "cat /sys/block/*/queue/write_cache"] {
        println!("{}", vm.run(c)?);
    }
    eprintln!("{:?}", t.elapsed());
    vm.reboot()?;
    eprintln!("rebooted {:?}", t.elapsed());
    vm.power_cut(3)?;
    eprintln!("power cut {:?}", t.elapsed());
    println!("{}", vm.run("journalctl --list-boots; uptime")?);
    Ok(())
}
