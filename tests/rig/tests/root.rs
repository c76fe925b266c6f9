//! The root file system on a set: an initramfs that the guest makes itself opens it, it heals while it runs, and what is written
//! last at a shutdown is not lost. Needs what `make stage` leaves, in the folder that RIG_PAYLOAD names.

use std::env;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use remap_guardian::sim::disk::Fault;
use rig::{Bus, Disk, Vm};

const MINUTES: Duration = Duration::from_secs(600);

/// Copies the root file system that runs onto the set, without what this machine will not use.
const COPY: &str = r#"
set -e -o pipefail
mkfs.ext4 -q -L sysroot -E nodiscard,lazy_itable_init=1 /dev/mapper/sys
mount /dev/mapper/sys /mnt
tar -c --one-file-system -C / --exclude=./mnt/* --exclude=./boot/* --exclude=./var/lib/remap-guardian/* \
    --exclude=./usr/share/locale --exclude=./usr/include --exclude=./var/lib/apt --exclude=./var/lib/dpkg/info \
    $(cd / && ls -d ./usr/lib/modules/* | grep -v "/$(uname -r)$" | sed 's/^/--exclude=/') . | tar -x -C /mnt
echo '/dev/mapper/sys / ext4 defaults,noatime 0 1' >/mnt/etc/fstab
umount /mnt
"#;

/// A script that makes the initramfs and leaves it on a disk of its own; prints its bytes.
const INITRAMFS: &str = r#"
set -e
echo COMPRESSLEVEL=1 >>/etc/initramfs-tools/conf.d/rig
mkinitramfs -o /run/initrd $(uname -r) >&2
dd if=/run/initrd of=/dev/disk/by-id/virtio-initrd bs=1M conv=fsync,nocreat status=none
stat -c %s /run/initrd
"#;

/// The same with dracut, for the root that runs.
const DRACUT: &str = r#"
set -e
dracut --force --hostonly --gzip --kver $(uname -r) /run/initrd >&2
dd if=/run/initrd of=/dev/disk/by-id/virtio-initrd bs=1M conv=fsync,nocreat status=none
stat -c %s /run/initrd
"#;

struct Machine {
    vm: Vm,
    used: u64,
}

#[test]
fn the_root_file_system_heals() -> Result<()> {
    let payload = rig::payload()?;
    let vm = Vm::new().payload(&payload).disk(Disk::new("sys-main", Bus::Virtio, 1536));
    let vm = vm.disk(Disk::new("sys-spare", Bus::Virtio, 32)).disk(Disk::new("initrd", Bus::Virtio, 96)).boot()?;
    let mut machine = Machine { vm, used: 0 };
    machine.moves_to_a_set()?;
    machine.runs_on_it()?;
    machine.heals()?;
    machine.shuts_down_cleanly()?;
    if env::var_os("RIG_SOAK").is_some() {
        machine.boots_with_dracut()?;
        machine.loses_power()?;
    } else {
        println!("SKIPPED: dracut's initramfs, and a power cut, which make soak does");
    }
    Ok(())
}

impl Machine {
    fn slowly(&mut self, script: &str) -> Result<String> {
        let output = self.vm.run_for(MINUTES, script)?;
        ensure!(output.success(), "failed in the guest: {script}\n{output}");
        Ok(output.stdout)
    }

    fn moves_to_a_set(&mut self) -> Result<()> {
        self.vm.install()?;
        let (main, spare) = (self.vm.path("sys-main"), self.vm.path("sys-spare"));
        self.vm
            .ok(&format!("systemctl enable --now remap-guardian && remap-guardian create sys --main {main} --spare {spare}"))?;
        self.slowly(COPY)?;
        println!("the root file system is copied");

        // The guest's kernel was taken out of it, with what mkinitramfs asks about it.
        self.vm.ok("echo CONFIG_RD_GZIP=y >/boot/config-$(uname -r); echo COMPRESS=gzip >>/etc/initramfs-tools/conf.d/rig")?;
        let module = "/lib/modules/$(uname -r)/updates/dm_remap_v4_real.ko";
        let without = self.vm.run_for(
            MINUTES,
            &format!("mv {module} /run/ && depmod && mkinitramfs -o /run/initrd $(uname -r); s=$?; mv /run/*.ko {module}; depmod; exit $s"),
        )?;
        ensure!(!without.success(), "an initramfs without the module was made: {without}");
        for word in ["no kernel module dm_remap_v4_real for kernel", "Next:"] {
            ensure!(without.stderr.contains(word), "it does not say {word:?}: {without}");
        }
        println!("without the module there is no initramfs:\n{}", without.stderr);

        let bytes = self.boots_from(INITRAMFS)?;
        self.vm.ok("dmsetup remove --retry sys && sync")?;
        self.vm.power_cut(0)?;
        println!("booted from an initramfs of {bytes} bytes");
        Ok(())
    }

    /// From the next boot on: from the initramfs that this script makes. Returns its bytes.
    fn boots_from(&mut self, script: &str) -> Result<usize> {
        let bytes: usize = self.slowly(script)?.parse()?;
        let mut initrd = vec![0; bytes.next_multiple_of(4096)];
        self.vm.sim("initrd").read(0, &mut initrd)?;
        initrd.truncate(bytes);
        self.vm.boot_from(&initrd, "root=/dev/mapper/sys rw")?;
        Ok(bytes)
    }

    fn boots_with_dracut(&mut self) -> Result<()> {
        let module = "/lib/modules/$(uname -r)/updates/dm_remap_v4_real.ko";
        let without = self.vm.run_for(
            MINUTES,
            &format!("mv {module} /run/ && depmod && dracut --force --hostonly /run/initrd; s=$?; mv /run/*.ko {module}; depmod; exit $s"),
        )?;
        ensure!(!without.success(), "dracut made an initramfs without the module: {without}");
        ensure!(format!("{without}").contains("no kernel module dm_remap_v4_real for kernel"), "{without}");

        let bytes = self.boots_from(DRACUT)?;
        self.vm.power_cut(1)?;
        println!("booted from dracut's initramfs of {bytes} bytes");
        self.vm.ok("journalctl -b -o cat | grep -m1 -i dracut")?;
        self.runs_on_it()?;
        self.shuts_down_cleanly()
    }

    fn runs_on_it(&mut self) -> Result<()> {
        ensure!(self.vm.ok("findmnt -no SOURCE /")? == "/dev/mapper/sys", "another root");
        let state = self.vm.run(
            "systemctl is-active remap-guardian && remap-guardian status sys && remap-guardian history sys && ! pgrep -fa ^@remap",
        )?;
        ensure!(state.success() && state.stdout.contains("active"), "{state}");
        let raw = self.vm.ok("basename $(readlink -f /dev/disk/by-id/virtio-sys-main)")?;
        let label = self.vm.ok("readlink -f /dev/disk/by-label/sysroot")?;
        ensure!(label.starts_with("/dev/dm-"), "LABEL=sysroot leads to {label}, the raw main is {raw}");
        println!("{}", state.stdout);
        Ok(())
    }

    fn heals(&mut self) -> Result<()> {
        self.vm.ok("head -c 8M /dev/urandom >/root/file && sync")?;
        self.heals_more()
    }

    /// Blocks of a file on the root file system go bad and are written.
    fn heals_more(&mut self) -> Result<()> {
        let block = self.used;
        self.used += 16;
        let listing = self.vm.ok("filefrag -e -b4096 /root/file | awk -F '[ .:]+' '$2 == 0 { print $5, $7 }'")?;
        let (physical, length) = listing.split_once(' ').context(listing.clone())?;
        let (physical, length): (u64, u64) = (physical.parse()?, length.parse()?);
        ensure!(block + 16 <= length, "the file is in pieces: {listing}");
        let sector = (physical + block) * 8;
        self.vm.sim("sys-main").inject_flushed(Fault::unwritable(sector..sector + 16))?;
        self.vm.ok(&format!(
            "head -c 64K /dev/urandom >/run/new && dd if=/run/new of=/root/file bs=64K seek={} conv=notrunc oflag=direct status=none &&
            echo 3 >/proc/sys/vm/drop_caches &&
            dd if=/root/file bs=64K skip={} count=1 iflag=direct status=none | cmp - /run/new && sha256sum /root/file >/root/sum && sync",
            block / 16,
            block / 16
        ))?;
        let history = self.vm.ok("remap-guardian history sys --json | grep -c '\"remapped\"'")?;
        println!("bad sectors under the root file system have healed: {history} remaps");
        Ok(())
    }

    fn shuts_down_cleanly(&mut self) -> Result<()> {
        // The superblock: what is written when the root file system is made read-only, after all services have ended.
        self.vm.sim("sys-main").inject_flushed(Fault::unwritable(0..8))?;
        let start = Instant::now();
        self.vm.reboot()?;
        println!("shut down and booted again in {} s", start.elapsed().as_secs());
        self.runs_on_it()?;
        let log = self.vm.ok("dmesg | grep EXT4-fs")?;
        ensure!(!log.contains("recovery") && !log.contains("error"), "the shutdown was not clean: {log}");
        let state = self.vm.ok("dumpe2fs -h /dev/mapper/sys 2>/dev/null | grep -i state")?;
        ensure!(state.contains("clean") && !state.contains("error"), "{state}");
        // What the last daemon moved is on the spare, and the service says that it did not write it down itself.
        self.vm
            .ok("remap-guardian status sys | grep 'main 0+8' && remap-guardian history sys | grep 'a run that ended before'")?;
        self.vm.ok("sha256sum -c /root/sum")?;
        self.heals_more()
    }

    fn loses_power(&mut self) -> Result<()> {
        self.vm.power_cut(7)?;
        self.runs_on_it()?;
        self.vm.ok("sha256sum -c /root/sum")?;
        self.heals_more()
    }
}
