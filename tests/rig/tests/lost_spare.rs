//! A spare that has lost its headers is made anew from what the machine knows, and one that is gone does not take a healthy main
//! with it. Needs what `make stage` leaves, in the folder that RIG_PAYLOAD names.

use anyhow::{Result, ensure};
use remap_guardian::sim::disk::{Fault, Persist, SECTOR};
use rig::{Bus, Disk, Output, Vm};

const MAIN: &str = "l-main";
const SPARE: &str = "l-spare";
/// Sectors that move with all their content, and sectors of which one block is lost.
const MOVED: u64 = 800;
const LOST: u64 = 1600;
/// Sectors that move after the image was taken that is put back later.
const SINCE: u64 = 2400;

/// Takes the spare away and brings it back, as a cable does.
const PLUG: &str = r#"
case $1 in
out) echo 1 >/sys/block/$(basename $(readlink -f $2))/device/delete ;;
in) for host in /sys/class/scsi_host/host*; do echo '- - -' >$host/scan; done ;;
esac
udevadm settle
"#;

struct Bench {
    vm: Vm,
    spare: String,
}

#[test]
fn a_spare_that_is_lost() -> Result<()> {
    let disks = [Disk::new(MAIN, Bus::Scsi, 48), Disk::new(SPARE, Bus::Scsi, 16)];
    let mut vm = disks.into_iter().fold(Vm::new(), |vm, disk| vm.disk(disk)).payload(&rig::payload()?).boot()?;
    vm.install()?;
    vm.put("/usr/local/bin/plug", PLUG)?;
    let spare = vm.path(SPARE);
    let mut bench = Bench { vm, spare };
    bench.made()?;
    bench.repaired()?;
    bench.headers_lost()?;
    bench.all_lost()?;
    bench.degraded()?;
    bench.back_again()?;
    bench.dead()?;
    bench.older()?;
    bench.partitions()
}

impl Bench {
    /// A set with a block that was written after it moved, and a block that is lost.
    fn made(&mut self) -> Result<()> {
        let (main, spare) = (self.vm.path(MAIN), self.spare.clone());
        self.vm.sim(MAIN).inject(Fault::unreadable(LOST..LOST + 8));
        self.vm.ok(&format!(
            "head -c 8M /dev/urandom >/root/before && dd if=/root/before of={main} bs=1M oflag=direct status=none seek=1 &&
            systemctl enable --now remap-guardian && remap-guardian create data --main {main} --spare {spare} &&
            remap-guardian remap data {MOVED} --length 16 && remap-guardian remap data {LOST} --length 8"
        ))?;
        self.soon(20, "[ $(remap-guardian history data --json | grep -c '\"remapped\"') -ge 2 ]")?;
        self.vm.ok(&format!(
            "head -c 4096 /dev/urandom >/root/new &&
            dd if=/root/new of=/dev/mapper/data bs=4096 seek={} oflag=direct conv=notrunc status=none",
            MOVED / 8
        ))?;
        self.whole()
    }

    /// The device has what it should have: the new content from the spare, and an error where content is lost.
    fn whole(&mut self) -> Result<()> {
        self.soon(20, "[ -b /dev/mapper/data ] && remap-guardian status data")?;
        let read = |sector: u64| format!("dd if=/dev/mapper/data bs=4096 skip={} count=1 iflag=direct status=none", sector / 8);
        self.vm.ok(&format!("{} | cmp - /root/new", read(MOVED)))?;
        let lost = self.vm.run(&read(LOST))?;
        ensure!(!lost.success(), "a lost block is read: {lost}");
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        self.vm.ok("dmsetup remove --retry data && udevadm settle")?;
        self.soon(20, "! remap-guardian status data")
    }

    /// Waits until a shell condition holds.
    fn soon(&mut self, seconds: u32, condition: &str) -> Result<()> {
        let wait = format!("for i in {{1..{}}}; do {condition} && exit; sleep 0.2; done >/dev/null 2>&1; exit 1", seconds * 5);
        if !self.vm.run(&wait)?.success() {
            let evidence =
                self.vm.run("remap-guardian status; lsblk; journalctl -n 40 -o cat -u remap-guardian; dmesg | tail -n 15")?;
            anyhow::bail!("not within {seconds} s: {condition}\n{evidence}");
        }
        Ok(())
    }

    /// Runs a command that must end with `status` and say all of `words`; shows it.
    fn says(&mut self, command: &str, status: i32, words: &[&str]) -> Result<Output> {
        let output = self.vm.run(command)?;
        println!("$ {command}\n{}{}", output.stdout, output.stderr);
        ensure!(output.status == status, "{command}: {output}");
        for word in words {
            ensure!(output.stdout.contains(word) || output.stderr.contains(word), "{command} does not say {word:?}: {output}");
        }
        Ok(output)
    }

    fn wipe(&mut self, sectors: std::ops::Range<u64>) -> Result<()> {
        let zero = vec![0; (sectors.end - sectors.start) as usize * SECTOR];
        self.vm.sim(SPARE).write(sectors.start, &zero, Persist::Fua)?;
        Ok(())
    }

    fn wipe_headers(&mut self) -> Result<()> {
        let end = self.vm.sim(SPARE).sectors();
        self.wipe(0..8)?;
        self.wipe(end - 8..end)
    }

    fn repaired(&mut self) -> Result<()> {
        let spare = self.spare.clone();
        let (inspect, repair) = (format!("remap-guardian spare inspect {spare}"), format!("remap-guardian spare repair {spare}"));
        self.says(&inspect, 0, &["it is whole", "data ("])?;
        self.says(&repair, 1, &["systemctl stop remap-guardian"])?;
        self.vm.ok("systemctl stop remap-guardian")?;
        self.says(&format!("{repair} --yes"), 1, &["its set is open as /dev/mapper/data", "dmsetup remove data"])?;
        self.vm.ok("dmsetup remove --retry data && udevadm settle")?;
        self.wipe(0..8)?;
        self.wipe(8..16)?;
        self.says(&inspect, 2, &["would:", "header at the start", "first slot of table block 0"])?;
        self.says(&format!("{repair} </dev/null"), 2, &["would write the header at the start", "nothing was done"])?;
        self.says(&format!("{repair} --yes"), 0, &["repaired, and read back"])?;
        self.says(&inspect, 0, &["it is whole"])?;
        self.vm.ok("systemctl start remap-guardian")?;
        self.whole()?;
        println!("one copy is mended from the other");
        Ok(())
    }

    /// Both headers are gone, the table is there.
    fn headers_lost(&mut self) -> Result<()> {
        let restore = "remap-guardian restore data --from-history";
        self.says(restore, 1, &["“data” is open"])?;
        self.close()?;
        self.says(restore, 1, &["has all its headers"])?;
        self.wipe(0..8)?;
        self.says(restore, 1, &["knows better than history", "spare repair"])?;
        self.wipe_headers()?;
        self.says("remap-guardian restore data", 1, &["none of its spares"])?;
        self.says(&format!("remap-guardian spare inspect {}", self.spare), 1, &["restore NAME --from-history"])?;
        // Somebody else has taken it since.
        self.vm.sim(SPARE).write(7, &[&[0; 502][..], b"SWAPSPACE2"].concat(), Persist::Fua)?;
        self.vm.sim(SPARE).write(2, &[&[1, 0, 0, 0, 255, 0, 0, 0][..], &[0; 504]].concat(), Persist::Fua)?;
        self.says(restore, 1, &["holds swap"])?;
        self.wipe_headers()?;
        self.says(restore, 2, &["would write both headers", "own table and stay", "--yes"])?;
        self.says(&format!("{restore} --yes"), 0, &["had lost both headers", "/dev/mapper/data is open"])?;
        self.whole()?;
        self.says("remap-guardian history data", 0, &["had lost both headers"])?;
        println!("headers came back from what the machine knew");
        Ok(())
    }

    /// Everything but the data is gone.
    fn all_lost(&mut self) -> Result<()> {
        self.close()?;
        let remaps = self.vm.ok("remap-guardian history data --json | grep -c '\"remapped\"'")?;
        let inspected = self.vm.ok(&format!("remap-guardian spare inspect {} --json", self.spare))?;
        let inspected: serde_json::Value = serde_json::from_str(&inspected)?;
        let data = inspected["set"]["data_start"].as_u64().unwrap_or_default();
        ensure!(data > 8, "{inspected}");
        self.wipe_headers()?;
        self.wipe(0..data)?;
        let restore = "remap-guardian restore data --from-history";
        self.says(restore, 2, &["0 remaps are in its own table", "blocks of its table are lost", &format!("main {LOST}+8")])?;
        self.says(&format!("{restore} --yes"), 0, &["from the store", "/dev/mapper/data is open"])?;
        self.whole()?;
        self.says(&format!("remap-guardian spare inspect {}", self.spare), 0, &["it is whole", "8 sectors, in"])?;
        println!("{remaps} remaps came back from the store alone");
        Ok(())
    }

    fn read(&self, sector: u64) -> String {
        format!("dd if=/dev/mapper/data bs=4096 skip={} count=1 iflag=direct status=none", sector / 8)
    }

    fn write(&self, sector: u64) -> String {
        format!("dd if=/root/later of=/dev/mapper/data bs=4096 seek={} oflag=direct conv=notrunc status=none", sector / 8)
    }

    /// The spare is gone: what had moved there fails, all else is main's.
    fn degraded(&mut self) -> Result<()> {
        let activate = "remap-guardian activate data --degraded";
        let spare = self.spare.clone();
        self.says(activate, 1, &["“data” is open"])?;
        self.close()?;
        self.says(activate, 1, &["is there and whole", "remap-guardian restore data"])?;
        self.says("remap-guardian activate nosuch --degraded", 1, &["nosuch"])?;
        self.vm.ok(&format!("bash /usr/local/bin/plug out {spare}"))?;
        self.says("remap-guardian restore data", 1, &["is not open"])?;
        self.says(activate, 0, &["DEGRADED", "24 sectors in 2 ranges fail", "read-only"])?;
        for sector in [MOVED, MOVED + 8, LOST] {
            let read = self.read(sector);
            ensure!(!self.vm.run(&read)?.success(), "sector {sector} moved to the spare and is read without it");
        }
        for sector in [0, MOVED - 8, MOVED + 16, LOST - 8, LOST + 8] {
            let read = self.read(sector);
            self.vm.ok(&read)?;
        }
        self.vm.ok("cmp -n 8M <(dd if=/dev/mapper/data bs=1M skip=1 count=8 iflag=direct status=none) /root/before")?;
        self.vm.ok("head -c 4096 /dev/urandom >/root/later")?;
        let write = self.write(8192);
        ensure!(!self.vm.run(&write)?.success(), "a read-only device was written to");
        self.says("remap-guardian status", 2, &["DEGRADED", "open without its spare", "dmsetup remove data"])?;
        self.says("remap-guardian history data", 0, &["DEGRADED", "24 sectors"])?;
        self.says(activate, 1, &["DEGRADED"])?;
        self.says("remap-guardian forget data --yes", 1, &["DEGRADED"])?;
        println!("main is read without its spare, but for what had moved");

        self.vm.ok("dmsetup remove --retry data && udevadm settle")?;
        self.says(&format!("{activate} --read-write"), 0, &["DEGRADED", "writes go to main"])?;
        let (write, moved) = (self.write(8192), self.write(MOVED));
        self.vm.ok(&write)?;
        ensure!(!self.vm.run(&moved)?.success(), "a sector that is on the spare was written without it");
        Ok(())
    }

    /// The spare comes back: nobody takes the degraded device for the set's, and after it all is as it was.
    fn back_again(&mut self) -> Result<()> {
        let spare = self.spare.clone();
        let before = self.vm.ok("dmsetup info -c --noheadings -o uuid data; dmsetup table data")?;
        ensure!(before.contains("REMAP-GUARDIAN-DEGRADED-") && before.matches(" error").count() == 2, "{before}");
        self.vm.ok("systemctl restart remap-guardian")?;
        self.soon(10, "remap-guardian status | grep DEGRADED")?;
        self.vm.ok("bash /usr/local/bin/plug in")?;
        self.soon(10, &format!("[ -b {spare} ]"))?;
        self.says("remap-guardian restore data", 1, &["DEGRADED", "dmsetup remove data"])?;
        self.vm.ok("sleep 12")?;
        ensure!(self.vm.ok("dmsetup info -c --noheadings -o uuid data; dmsetup table data")? == before, "it was taken over");
        self.says("remap-guardian status", 2, &["DEGRADED"])?;
        self.vm.ok("dmsetup remove --retry data && udevadm settle && remap-guardian restore data")?;
        self.whole()?;
        let read = self.read(8192);
        self.vm.ok(&format!("{read} | cmp - /root/later"))?;
        self.says(&format!("remap-guardian spare inspect {spare}"), 0, &["it is whole"])?;
        println!("the spare is back, and all is as it was");
        Ok(())
    }

    /// The spare is there, but its table is not, and then it does not answer at all.
    fn dead(&mut self) -> Result<()> {
        let activate = "remap-guardian activate data --degraded";
        self.close()?;
        let table = 8..8 + 33 * 16;
        let mut before = vec![0; (table.end - table.start) as usize * SECTOR];
        self.vm.sim(SPARE).read(table.start, &mut before)?;
        self.wipe(table.clone())?;
        self.says("remap-guardian restore data", 1, &["its table is not sound"])?;
        self.says(activate, 0, &["DEGRADED", "24 sectors in 2 ranges fail", "is there"])?;
        self.vm.ok("dmsetup remove --retry data && udevadm settle")?;
        self.vm.sim(SPARE).write(table.start, &before, Persist::Fua)?;

        let all = self.vm.sim(SPARE).sectors();
        self.vm.sim(SPARE).inject_flushed(Fault::dead(0..all))?;
        self.says("remap-guardian restore data", 1, &["is not open"])?;
        self.says(activate, 0, &["DEGRADED", "24 sectors in 2 ranges fail"])?;
        let (moved, main) = (self.read(MOVED), self.read(MOVED + 16));
        ensure!(!self.vm.run(&moved)?.success(), "a sector that is on a dead spare is read");
        self.vm.ok(&main)?;
        self.vm.ok("dmsetup remove --retry data && udevadm settle")?;
        self.vm.sim(SPARE).repair(0..all);
        self.vm.ok("remap-guardian restore data")?;
        self.whole()?;
        println!("a spare without its table, and a dead one, do not take main with them");
        Ok(())
    }

    fn image(&mut self) -> Result<Vec<u8>> {
        let mut sim = self.vm.sim(SPARE);
        let mut image = vec![0; sim.sectors() as usize * SECTOR];
        sim.read(0, &mut image)?;
        Ok(image)
    }

    /// An old image of the spare is put back: nothing old is read, not after a reboot either, until somebody decides.
    fn older(&mut self) -> Result<()> {
        let (restore, lacks) = ("remap-guardian restore data", format!("lacks 1 remaps of 8 sectors (main {SINCE}+8)"));
        self.close()?;
        let old = self.image()?;
        self.vm.ok(&format!("{restore} && remap-guardian remap data {SINCE} --length 8"))?;
        self.soon(20, &format!("remap-guardian history data | grep {SINCE}"))?;
        let (write, read) = (self.write(SINCE), self.read(SINCE));
        self.vm.ok(&write)?;
        self.close()?;
        let right = self.image()?;

        self.vm.sim(SPARE).write(0, &old, Persist::Fua)?;
        self.says(restore, 1, &[&lacks, "--missing lost", "--degraded"])?;
        self.vm.ok("! [ -b /dev/mapper/data ]")?;
        self.says("remap-guardian history data", 0, &[&lacks])?;
        self.vm.ok("sync")?;
        self.vm.reboot()?;
        self.soon(30, &format!("remap-guardian status data | grep -F '{lacks}'"))?;
        self.vm.ok("! [ -b /dev/mapper/data ]")?;
        self.says("remap-guardian activate data --degraded", 0, &["DEGRADED", "32 sectors in 3 ranges fail"])?;
        ensure!(!self.vm.run(&read)?.success(), "what an older spare lacks is read from main");
        self.vm.ok("dmsetup remove --retry data && udevadm settle")?;
        println!("an older spare is refused");

        self.vm.sim(SPARE).write(0, &right, Persist::Fua)?;
        let missing = format!("{restore} --missing lost --yes");
        // The daemon looks every few seconds, and may have opened it. What somebody has closed stays closed.
        if self.vm.run(&missing)?.stderr.contains("is open, or") {
            self.close()?;
        }
        self.says(&missing, 1, &["lack nothing"])?;
        self.vm.ok(restore)?;
        self.whole()?;
        self.vm.ok(&format!("{read} | cmp - /root/later"))?;
        println!("with the right one all is as it was");

        self.close()?;
        self.vm.sim(SPARE).write(0, &old, Persist::Fua)?;
        self.says(restore, 1, &[&lacks])?;
        self.says(&format!("{restore} --missing lost"), 2, &["would mark", &format!("main {SINCE}+8"), "--yes"])?;
        self.says(&format!("{restore} --missing lost --yes"), 0, &["8 sectors were marked lost", "/dev/mapper/data is open"])?;
        self.whole()?;
        ensure!(!self.vm.run(&read)?.success(), "what is lost is read");
        self.vm.ok(&format!("{write} && {read} | cmp - /root/later"))?;
        self.says(&format!("remap-guardian spare inspect {}", self.spare), 0, &["it is whole"])?;

        // Nothing was lost: these records are wrong.
        self.close()?;
        self.vm.sim(SPARE).write(0, &old, Persist::Fua)?;
        self.says(&format!("{restore} --missing main --yes"), 0, &["main serves what is missing", "/dev/mapper/data is open"])?;
        self.whole()?;
        self.vm.ok(&read)?;
        println!("what is missing is lost, or main's, as it was decided");
        Ok(())
    }

    /// Partitions on main are there in degraded mode, too.
    fn partitions(&mut self) -> Result<()> {
        // An MBR with one partition of 4 MiB from 1 MiB on.
        let mut sector = vec![0; SECTOR];
        sector[450] = 0x83;
        sector[454..458].copy_from_slice(&2048_u32.to_le_bytes());
        sector[458..462].copy_from_slice(&8192_u32.to_le_bytes());
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        let hex: String = sector.iter().map(|byte| format!("{byte:02x}")).collect();
        self.vm.ok(&format!("echo {hex} | xxd -r -p | dd of=/dev/mapper/data conv=nocreat,fsync status=none"))?;
        self.soon(10, "[ -b /dev/mapper/data1 ]")?;
        self.vm.ok("dmsetup remove --retry data1")?;
        self.close()?;
        let spare = self.spare.clone();
        self.vm.ok(&format!("bash /usr/local/bin/plug out {spare}"))?;
        self.says("remap-guardian activate data --degraded", 0, &["DEGRADED"])?;
        self.vm.ok("cmp -n 3M <(dd if=/dev/mapper/data1 bs=1M iflag=direct status=none) /root/before")?;
        self.vm.ok("dmsetup remove --retry data1 && dmsetup remove --retry data && bash /usr/local/bin/plug in")?;
        self.vm.ok("for i in {1..50}; do remap-guardian restore data && exit; sleep 0.2; done; exit 1")?;
        self.whole()?;
        println!("partitions on main are there without the spare, too");
        Ok(())
    }
}
