//! Boots a guest and shows that it lives.
use rig::{Bus, Disk, Vm};
fn main() -> anyhow::Result<()> {
    let mut vm = Vm::new().disk(Disk::new("nv", Bus::Nvme, 16)).disk(Disk::new("sc", Bus::Scsi, 16)).boot()?;
    for name in ["nv", "sc"] {
        let p = vm.path(name);
        vm.ok(&format!("dd if=/dev/urandom of={p} bs=4096 seek=1 count=1 oflag=direct status=none conv=fsync"))?;
        println!(
            "{}",
            vm.run(&format!(
                "xxd -l 32 -s 4096 {p}; cat /sys/block/*/queue/write_cache /sys/block/*/queue/fua; ls -l {p}; lsblk"
            ))?
        );
        let mut b = [0; 512];
        println!("sim {:?} {:x?}", vm.sim(name).read(8, &mut b), &b[..16]);
    }
    vm.power_cut(0)?;
    for name in ["nv", "sc"] {
        let p = vm.path(name);
        println!("{}", vm.run(&format!("xxd -l 32 -s 4096 {p};  ls -l {p}; lsblk"))?);
        let mut b = [0; 512];
        println!("sim {:?} {:x?}", vm.sim(name).read(8, &mut b), &b[..16]);
    }
    Ok(())
}
