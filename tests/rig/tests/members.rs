//! The right disks, and only they: a raw main that nothing finds, partitions on the mapped device, and disks that come late, as
//! copies, under other names or with another size. Needs what `make stage` leaves, in the folder that RIG_PAYLOAD names.

use std::env;

use anyhow::{Context, Result, ensure};
use remap_guardian::sim::disk::{Fault, Persist, SECTOR};
use rig::{Bus, Disk, Vm};

/// The disks in their order on the SCSI bus: name, serial number, MiB.
const DISKS: [(&str, &str, u64); 7] = [
    ("m-main", "m-main", 48),
    ("m-spare", "m-spare", 48),
    ("whole", "whole", 48),
    ("w-spare", "w-spare", 16),
    ("copy", "m-spare", 48),
    ("grown", "m-main", 64),
    ("other", "other", 48),
];

/// Plugs SCSI disks in and out, by their place on the bus; and says which block device is there.
const PLUG: &str = r#"
host=$(basename /sys/bus/virtio/drivers/virtio_scsi/virtio*/host*)
number=${host#host}
at() { ls /sys/class/scsi_device/$number:0:$1:0/device/block; }
case $1 in
out) echo 1 >/sys/class/scsi_device/$number:0:$2:0/device/delete ;;
in) echo "0 $2 0" >/sys/class/scsi_host/$host/scan ;;
at) at $2 && exit ;;
esac
udevadm settle
"#;

/// A shell command that writes an MBR with these partitions, in sectors.
fn partition_table(disk: &str, partitions: &[(u32, u32)]) -> String {
    let mut sector = vec![0; SECTOR];
    sector[440..444].copy_from_slice(&0x1234_5678_u32.to_le_bytes());
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    for (entry, (start, length)) in sector[446..510].chunks_mut(16).zip(partitions) {
        entry[4] = 0x83;
        entry[8..12].copy_from_slice(&start.to_le_bytes());
        entry[12..].copy_from_slice(&length.to_le_bytes());
    }
    let hex: String = sector.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("echo {hex} | xxd -r -p | dd of={disk} conv=nocreat,fsync status=none")
}

const PARTITIONS: [(u32, u32); 3] = [(2048, 32_768), (34_816, 16_384), (51_200, 8192)];

struct Bench {
    vm: Vm,
}

fn bench() -> Result<Bench> {
    let payload = rig::payload()?;
    let disk = |(name, serial, mib): (&str, &str, u64)| Disk::new(name, Bus::Scsi, mib).serial(serial);
    let vm = DISKS.into_iter().fold(Vm::new(), |vm, of| vm.disk(disk(of))).payload(&payload).boot()?;
    let mut bench = Bench { vm };
    bench.vm.put("/usr/local/bin/plug", PLUG)?;
    bench.vm.ok("chmod +x /usr/local/bin/plug")?;
    for name in ["copy", "grown", "other"] {
        bench.plug(false, name)?;
    }
    bench.vm.install()?;
    Ok(bench)
}

fn place(name: &str) -> usize {
    DISKS.iter().position(|(known, ..)| *known == name).unwrap_or_else(|| panic!("no disk {name}"))
}

impl Bench {
    fn plug(&mut self, plugged: bool, name: &str) -> Result<()> {
        self.vm.ok(&format!("bash /usr/local/bin/plug {} {}", if plugged { "in" } else { "out" }, place(name)))?;
        Ok(())
    }

    /// Kernel name of a disk.
    fn name(&mut self, name: &str) -> Result<String> {
        self.vm.ok(&format!("bash /usr/local/bin/plug at {}", place(name)))
    }

    /// What a disk holds.
    fn content(&self, name: &str) -> Result<Vec<u8>> {
        let mut disk = self.vm.sim(name);
        let mut all = vec![0; disk.sectors() as usize * SECTOR];
        disk.read(0, &mut all).with_context(|| name.to_owned())?;
        Ok(all)
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        let mut disk = self.vm.sim(name);
        let size = disk.sectors() as usize * SECTOR;
        disk.write(0, &content[..content.len().min(size)], Persist::Fua)?;
        Ok(())
    }

    /// The kernel name behind a link, empty if there is none.
    fn behind(&mut self, link: &str) -> Result<String> {
        self.vm.ok(&format!("[ ! -e {link} ] || basename $(readlink -f {link})"))
    }

    /// Waits until a shell condition holds.
    fn soon(&mut self, seconds: u32, condition: &str) -> Result<()> {
        let wait = format!("for i in {{1..{}}}; do {condition} && exit; sleep 0.2; done >/dev/null 2>&1; exit 1", seconds * 5);
        if !self.vm.run(&wait)?.success() {
            let evidence = self.vm.run(
                "remap-guardian status; lsblk; ls -l /dev/disk/by-*; journalctl -n 40 -o cat -u remap-guardian; dmesg | tail -n 15",
            )?;
            anyhow::bail!("not within {seconds} s: {condition}\n{evidence}");
        }
        Ok(())
    }

    /// The set is open and whole.
    fn whole(&mut self) -> Result<()> {
        self.soon(20, "[ -b /dev/mapper/data ] && remap-guardian status data")?;
        self.vm.ok(
            "mount -o ro /dev/mapper/data /mnt && (cd /mnt && sha256sum -c --quiet /root/sums); s=$?; umount /mnt; exit $s",
        )?;
        Ok(())
    }

    /// Closes the set, so that its disks can be played with.
    fn close(&mut self) -> Result<()> {
        self.vm.ok("dmsetup remove --retry data && udevadm settle")?;
        // The daemon looks once a second.
        self.soon(20, "! remap-guardian status data")
    }

    /// The set cannot be opened, and the reason names these.
    fn refused(&mut self, says: &[&str]) -> Result<()> {
        let restore = self.vm.run("remap-guardian restore data")?;
        println!("$ remap-guardian restore data\n{}", restore.stderr);
        ensure!(restore.status == 1, "it was opened: {restore}");
        for word in says {
            ensure!(restore.stderr.contains(word), "it does not say {word:?}: {restore}");
        }
        ensure!(!self.vm.run("ls /dev/mapper/data")?.success(), "a device is there");
        Ok(())
    }
}

/// One guest serves all of this, for a boot costs more than the rest.
#[test]
fn only_the_right_disks() -> Result<()> {
    let mut bench = bench()?;
    bench.shielded_at_once()?;
    bench.partitions()?;
    bench.comes_and_goes()?;
    bench.other_names()?;
    bench.assembled_without_a_write()?;
    bench.copies()?;
    bench.resized()?;
    bench.foreign()?;
    bench.slow()?;
    bench.lifted()
}

impl Bench {
    fn shielded_at_once(&mut self) -> Result<()> {
        let (main, spare) = (self.vm.path("m-main"), self.name("m-spare")?);
        let raw = self.name("m-main")?;
        self.vm.ok(&format!(
            "mkfs.ext4 -q -E nodiscard -L shielded {main} && mount {main} /mnt && head -c 4M /dev/urandom >/mnt/file &&
            (cd /mnt && sha256sum file >/root/sums) && umount /mnt && udevadm settle"
        ))?;
        let by_label = "/dev/disk/by-label/shielded";
        self.soon(20, &format!("[ \"$(readlink -f {by_label})\" = /dev/{raw} ]"))
            .context("udev does not name the file system before")?;
        let by_uuid = self.vm.ok(&format!("echo /dev/disk/by-uuid/$(blkid -s UUID -o value {main})"))?;
        self.vm.ok(&format!(
            "systemctl enable --now remap-guardian && remap-guardian create data --main {main} --spare /dev/{spare}"
        ))?;
        // No settling: it holds as soon as create is done.
        let mapped = self.vm.ok("basename $(readlink -f /dev/mapper/data)")?;
        for link in [by_label, &by_uuid] {
            self.soon(5, &format!("[ $(readlink -f {link}) = /dev/{mapped} ]"))?;
        }
        ensure!(self.behind(&main)? == raw, "the disk has lost the link that names it as a disk");
        let known = self.vm.ok(&format!("udevadm info -q property -n {main}"))?;
        for line in ["REMAP_GUARDIAN_MAIN=data", "SYSTEMD_READY=0", "UDISKS_IGNORE=1", "REMAP_GUARDIAN_REASON=main device of"] {
            ensure!(known.contains(line), "no {line} in\n{known}");
        }
        ensure!(!known.contains("ID_FS_"), "its content is named:\n{known}");
        self.vm.ok("mount LABEL=shielded /mnt && findmnt -no SOURCE /mnt | grep -x /dev/mapper/data && umount /mnt")?;
        self.close()?;
        // As at a boot on which the spare is missing.
        self.vm.ok(&format!("udevadm trigger --settle --action=add /sys/class/block/{raw}"))?;
        for link in [by_label, &by_uuid] {
            ensure!(self.behind(link)?.is_empty(), "{link} leads to the raw main");
        }
        let active = self.vm.run(&format!("systemctl is-active dev-{raw}.device"))?;
        ensure!(!active.success(), "systemd takes the raw main for ready: {active}");
        self.vm.ok("remap-guardian restore data")?;
        self.whole()?;
        println!("the raw main is shielded: {}", known.lines().find(|line| line.contains("REASON")).unwrap_or_default());
        Ok(())
    }

    fn partitions(&mut self) -> Result<()> {
        let (whole, spare) = (self.name("whole")?, self.name("w-spare")?);
        self.vm.ok(&format!(
            "{} && for i in {{1..50}}; do blockdev --rereadpt /dev/{whole} && break; sleep 0.2; done; udevadm settle && [ -b /dev/{whole}2 ] &&
            mkfs.ext4 -q -E nodiscard -L onpart /dev/{whole}1 && udevadm settle &&
            remap-guardian create disk2 --main /dev/{whole} --spare /dev/{spare} && ls /dev/mapper/disk2p1 /dev/mapper/disk2p2",
            partition_table(&format!("/dev/{whole}"), &PARTITIONS[..2])
        ))?;
        let part = self.vm.ok("basename $(readlink -f /dev/mapper/disk2p1)")?;
        for link in ["/dev/disk/by-label/onpart", "/dev/disk/by-partuuid/12345678-01"] {
            self.soon(5, &format!("[ $(readlink -f {link}) = /dev/{part} ]"))?;
        }
        let known = self.vm.ok(&format!("udevadm info -q property -n /dev/{whole}1"))?;
        ensure!(known.contains("REMAP_GUARDIAN_MAIN=disk2") && known.contains("SYSTEMD_READY=0"), "not shielded:\n{known}");
        ensure!(!self.vm.run(&format!("mount /dev/{whole}1 /mnt"))?.success(), "a partition of the raw main was mounted");

        // Sector 100 of the second partition is bad; it starts behind the first.
        let start = u64::from(PARTITIONS[1].0);
        self.vm.sim("whole").inject_flushed(Fault::unwritable(start + 96..start + 104))?;
        self.vm.ok(
            "head -c 64K /dev/urandom >/run/new && dd if=/run/new of=/dev/mapper/disk2p2 bs=64K oflag=direct status=none &&
            dd if=/dev/mapper/disk2p2 bs=64K count=1 iflag=direct status=none | cmp - /run/new &&
            for i in {1..50}; do remap-guardian history disk2 --json | grep '\"remapped\"' && exit; sleep 0.2; done; exit 1",
        )?;

        self.vm.ok(&partition_table("/dev/mapper/disk2", &PARTITIONS))?;
        self.soon(10, "[ -b /dev/mapper/disk2p3 ]")?;
        self.vm.ok(&partition_table("/dev/mapper/disk2", &PARTITIONS[..2]))?;
        self.soon(10, "[ ! -e /dev/mapper/disk2p3 ]")?;
        ensure!(self.vm.ok("lsblk -no TYPE /dev/mapper/disk2p1")? == "part", "lsblk does not know it for a partition");
        // A daemon that comes again changes nothing.
        self.vm
            .ok("mount /dev/mapper/disk2p1 /mnt && systemctl restart remap-guardian && for i in {1..100}; do remap-guardian status disk2 && exit; sleep 0.2; done; exit 1")?;
        self.vm.ok("touch /mnt/x && umount /mnt")?;
        println!("partitions of a whole-disk main are on the mapped device, and heal");
        Ok(())
    }

    /// A member that comes later opens the set, without a word.
    fn comes_and_goes(&mut self) -> Result<()> {
        for name in ["m-spare", "m-main"] {
            self.close()?;
            self.plug(false, name)?;
            self.refused(&["missing"])?;
            self.plug(true, name)?;
            self.whole().with_context(|| format!("{name} came late"))?;
        }
        println!("a late disk opens its set");
        Ok(())
    }

    /// A disk that is plugged in gets the first name that is free, and a name is free once nobody has the disk that had it open
    /// any more: so the disk with the later name goes in first, and again if somebody was still looking.
    fn other_names(&mut self) -> Result<()> {
        for _ in 0..5 {
            self.close()?;
            let before = self.names()?;
            self.plug(false, "m-main")?;
            self.plug(false, "m-spare")?;
            self.refused(&["missing"]).or_else(|_| self.refused(&["none of its spares"]))?;
            let first = if before.0 < before.1 { ["m-spare", "m-main"] } else { ["m-main", "m-spare"] };
            for name in first {
                self.plug(true, name)?;
            }
            self.whole()?;
            let after = self.names()?;
            if after == (before.1.clone(), before.0.clone()) {
                println!("names are exchanged, roles are not");
                return Ok(());
            }
            println!("the names were not exchanged, once more: {before:?}, then {after:?}");
        }
        anyhow::bail!("the names were never exchanged")
    }

    /// The kernel names of main and spare.
    fn names(&mut self) -> Result<(String, String)> {
        Ok((self.name("m-main")?, self.name("m-spare")?))
    }

    /// What an initramfs does before a resume from hibernation is decided upon: the set opens, and no disk is written.
    fn assembled_without_a_write(&mut self) -> Result<()> {
        self.close()?;
        self.vm.ok("systemctl stop remap-guardian && sync")?;
        let before = (self.content("m-main")?, self.content("m-spare")?);
        let said = self.vm.ok("remap-guardian assemble && remap-guardian assemble")?;
        ensure!(said == "remap-guardian: /dev/mapper/data is open", "{said}");
        self.vm.ok("udevadm settle; dd if=/dev/mapper/data of=/dev/null bs=1M status=none")?;
        ensure!(before == (self.content("m-main")?, self.content("m-spare")?), "assembling wrote to a disk");

        // The early daemon takes over, and the service from it, with what it wrote down.
        let early = "$(cat /run/remap-guardian.lock)";
        self.vm.ok(&format!(
            "remap-guardian run --early && for i in {{1..50}}; do remap-guardian status data && break; sleep 0.2; done &&
            tr '\\0' ' ' </proc/{early}/cmdline | grep '^@remap-guardian' && remap-guardian remap data 800 &&
            for i in {{1..50}}; do remap-guardian history data --json | grep '\"remapped\"' && break; sleep 0.2; done"
        ))?;
        self.vm.ok(&format!("p={early}; systemctl start remap-guardian && [ ! -e /proc/$p ]"))?;
        self.soon(10, "[ ! -e /run/remap-guardian.early ]")?;
        self.whole()?;
        let history = self.vm.ok("remap-guardian history data")?;
        ensure!(history.contains("800"), "what the early daemon did is not in the history:\n{history}");
        println!("assembled without a write, served early, handed over");
        Ok(())
    }

    fn copies(&mut self) -> Result<()> {
        self.close()?;
        self.write("copy", &self.content("m-spare")?)?;
        self.plug(true, "copy")?;
        self.refused(&["both claim to be spare 0", "detach the copy"])?;
        self.plug(false, "copy")?;
        self.whole().context("the copy is gone")?;
        println!("a copy is not taken for the spare, nor the spare for a copy");
        Ok(())
    }

    fn resized(&mut self) -> Result<()> {
        self.close()?;
        self.write("grown", &self.content("m-main")?)?;
        self.plug(false, "m-main")?;
        self.plug(true, "grown")?;
        self.refused(&["is not the main device any more", "sectors"])?;
        ensure!(self.behind("/dev/disk/by-label/shielded")?.is_empty(), "a main that has grown is found by its label");
        self.plug(false, "grown")?;
        self.plug(true, "m-main")?;
        self.whole().context("the disk of the right size is back")?;
        println!("a disk of another size is not opened, and stays shielded");
        Ok(())
    }

    fn foreign(&mut self) -> Result<()> {
        self.close()?;
        let ours = self.content("m-spare")?;
        // Copied to a disk with another serial number, and used in the place of the spare.
        self.write("other", &ours)?;
        self.plug(false, "m-spare")?;
        self.plug(true, "other")?;
        self.refused(&["is another disk", "serial number"])?;
        self.plug(false, "other")?;
        // A spare of another set in its place.
        let theirs = self.content("w-spare")?;
        self.write("m-spare", &theirs)?;
        self.plug(true, "m-spare")?;
        self.refused(&["none of its spares is attached"])?;
        self.vm.ok("remap-guardian status disk2 && touch /dev/mapper/disk2")?;
        self.plug(false, "m-spare")?;
        // Main and spare have changed places: what is on each does not belong there.
        let main = self.content("m-main")?;
        self.plug(false, "m-main")?;
        self.write("m-main", &ours)?;
        self.write("m-spare", &main)?;
        self.plug(true, "m-main")?;
        self.plug(true, "m-spare")?;
        self.refused(&["is another disk"])?;
        for (name, content) in [("m-main", &main), ("m-spare", &ours)] {
            self.plug(false, name)?;
            self.write(name, content)?;
            self.plug(true, name)?;
        }
        self.whole().context("all is in its place again")?;
        println!("foreign and exchanged content is refused");
        Ok(())
    }

    /// A disk that takes its time to answer is waited for.
    fn slow(&mut self) -> Result<()> {
        self.close()?;
        self.plug(false, "m-spare")?;
        self.refused(&["missing"]).or_else(|_| self.refused(&["none of its spares"]))?;
        self.vm.sim("m-spare").inject(Fault::slow(0..64, std::time::Duration::from_secs(3)));
        self.plug(true, "m-spare")?;
        self.soon(60, "[ -b /dev/mapper/data ] && remap-guardian status data")?;
        self.vm.sim("m-spare").repair(0..64);
        self.whole()?;
        println!("a slow spare is waited for");
        Ok(())
    }

    fn lifted(&mut self) -> Result<()> {
        self.close()?;
        self.vm.ok("remap-guardian forget data --yes")?;
        let raw = self.name("m-main")?;
        self.soon(5, &format!("[ $(readlink -f /dev/disk/by-label/shielded) = /dev/{raw} ]"))?;
        let list = self.vm.ok("cat /etc/remap-guardian/mains.toml")?;
        ensure!(!list.contains("\"data\"") && list.contains("\"disk2\""), "{list}");
        println!("what is forgotten is a plain disk again");
        Ok(())
    }
}

/// The same disks at another boot: with a spare that comes after the mounts were due, and in another machine that has never
/// seen them. Each needs a boot of its own.
#[test]
fn a_set_is_back_before_its_mounts() -> Result<()> {
    if env::var_os("RIG_SOAK").is_none() {
        println!("SKIPPED: late disks at boot and another machine, which make soak does");
        return Ok(());
    }
    let payload = rig::payload()?;
    // NVMe is found late, below; virtio-blk at once.
    let vm = Vm::new().disk(Disk::new("b-main", Bus::Virtio, 48)).disk(Disk::new("b-spare", Bus::Nvme, 16));
    let mut bench = Bench { vm: vm.payload(&payload).boot()? };
    bench.vm.install()?;
    let (main, spare) = (bench.vm.path("b-main"), bench.vm.path("b-spare"));
    // The first mount has no “nofail”: the boot waits for it.
    bench.vm.ok(&format!(
        "systemctl enable --now remap-guardian && remap-guardian create data --main {main} --spare {spare} &&
        mkfs.ext4 -q -E nodiscard /dev/mapper/data && mkdir -p /srv/data &&
        echo '/dev/mapper/data /srv/data ext4 x-systemd.device-timeout=60s 0 2' >>/etc/fstab && systemctl daemon-reload &&
        mount /srv/data && head -c 8M /dev/urandom >/srv/data/file && sha256sum /srv/data/file >/root/sums && sync &&
        remap-guardian remap data 8192 --length 8 && sleep 3 && remap-guardian history data --json | grep '\"remapped\"'"
    ))?;
    bench.vm.put("/etc/modprobe.d/late.conf", "blacklist nvme")?;
    let late = "[Unit]\nDefaultDependencies=no\n[Service]\nType=simple\nExecStart=/bin/sh -c 'sleep 15; exec modprobe nvme'\n[Install]\nWantedBy=sysinit.target";
    bench.vm.put("/etc/systemd/system/late.service", late)?;
    bench.vm.ok("systemctl enable -q late.service && sync")?;
    bench.vm.reboot()?;
    let state = bench.vm.run("findmnt /srv/data && sha256sum -c /root/sums && ! systemctl --failed --no-legend | grep .")?;
    ensure!(state.success(), "a spare that came 15 s late: {state}");
    let order = bench.vm.ok("journalctl -b -o short-monotonic | grep -E 'late.service|Mounted srv-data|healing|nvme0'")?;
    println!("a late spare, and a mount without nofail:\n{order}");

    bench.vm.ok("cp /root/sums /srv/data/sums && sync && umount /srv/data")?;
    bench.vm.move_disks()?;
    ensure!(bench.behind("/dev/mapper/data")?.is_empty(), "this machine is not new");
    bench.vm.install()?;
    bench.vm.ok("systemctl enable --now remap-guardian")?;
    bench.soon(20, "[ -b /dev/mapper/data ] && remap-guardian status data | grep 'main 8192+8'")?;
    bench.vm.ok("mkdir -p /srv/data && mount /dev/mapper/data /srv/data && sha256sum -c /srv/data/sums")?;
    let shielded = bench.vm.ok(&format!("cat /etc/remap-guardian/mains.toml; udevadm info -q property -n {main}"))?;
    ensure!(shielded.contains("REMAP_GUARDIAN_MAIN=data"), "{shielded}");
    println!("another machine opens the set from its disks alone");
    Ok(())
}
