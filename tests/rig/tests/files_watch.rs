//! `remap-guardian files watch`: a sector under a file goes bad, and it is told at once, as bytes of the file. Needs what
//! `make stage` leaves, in the folder that RIG_PAYLOAD names.

use std::ops::Range;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use remap_guardian::sim::disk::Fault;
use rig::{Bus, Disk, Vm};
use serde_json::Value;

const BLOCK: u64 = 4096;
/// From an error to its line; most of it is the guest's.
const AT_ONCE: Duration = Duration::from_secs(30);
const FILE: &str = "/srv/data/file";

struct Trial {
    vm: Vm,
    /// Where the volume starts on the set, sectors.
    offset: u64,
}

/// One guest serves all of this, for a boot costs more than the rest.
#[test]
fn a_bad_sector_is_told_as_bytes_of_the_file() -> Result<()> {
    let payload = rig::payload()?;
    let disks = [Disk::new("fw-main", Bus::Nvme, 64), Disk::new("fw-spare", Bus::Scsi, 16), Disk::new("fw-other", Bus::Scsi, 32)];
    let vm = disks.into_iter().fold(Vm::new(), |vm, disk| vm.disk(disk)).payload(&payload).boot()?;
    let mut trial = Trial { vm, offset: 0 };
    trial.vm.install()?;
    let (main, spare) = (trial.vm.path("fw-main"), trial.vm.path("fw-spare"));
    trial.vm.ok(&format!(
        "systemctl start remap-guardian && remap-guardian create data --main {main} --spare {spare} && mkdir -p /srv/data"
    ))?;
    trial.mount("/dev/mapper/data")?;
    trial.told_at_once()?;
    trial.file_system_errors()?;
    trial.refusals()?;
    trial.vm.ok("umount /srv/data && dmsetup create volume --table \"0 65536 linear /dev/mapper/data 2048\"")?;
    trial.offset = 2048;
    trial.mount("/dev/mapper/volume")?;
    trial.on_a_volume()
}

impl Trial {
    fn mount(&mut self, device: &str) -> Result<()> {
        self.vm.ok(&format!(
            "udevadm settle && mkfs.ext4 -q -b {BLOCK} -E nodiscard,lazy_itable_init=0 {device} && mount {device} /srv/data &&
            head -c 4M /dev/urandom >{FILE} && sync"
        ))?;
        Ok(())
    }

    /// The sectors of the main disk that hold a block of the file.
    fn sectors(&mut self, block: u64) -> Result<Range<u64>> {
        let listing = self.vm.ok(&format!("sync; filefrag -e -b{BLOCK} {FILE}"))?;
        let number = |text: &str| text.split("..").next().unwrap_or_default().trim().parse::<u64>().ok();
        let found = listing.lines().find_map(|line| {
            let fields: Vec<Option<u64>> = line.split(':').map(number).collect();
            let [Some(_), Some(logical), Some(physical), Some(length), ..] = fields[..] else { return None };
            let at = block.checked_sub(logical).filter(|at| *at < length)?;
            Some((physical + at) * 8)
        });
        let start = self.offset + found.with_context(|| format!("no block {block} in {listing}"))?;
        Ok(start..start + 8)
    }

    fn start(&mut self) -> Result<()> {
        let watch = format!("remap-guardian files watch --json {FILE}");
        self.vm.ok(&format!(
            "rm -f /run/watch*; : >/run/watch; ({watch} >/run/watch 2>/run/watch.err; echo $? >/run/watch.exit) >/dev/null 2>&1 &"
        ))?;
        Ok(())
    }

    fn lines(&mut self) -> Result<Vec<Value>> {
        let text = self.vm.ok("cat /run/watch")?;
        text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
    }

    /// Waits for a line; prints how long it took.
    fn told(&mut self, what: &str, is: impl Fn(&Value) -> bool) -> Result<Value> {
        let began = Instant::now();
        loop {
            let lines = self.lines()?;
            if let Some(line) = lines.iter().find(|line| is(line)) {
                println!("  ✓ {what}, after {} ms: {line}", began.elapsed().as_millis());
                return Ok(line.clone());
            }
            if began.elapsed() > AT_ONCE {
                let evidence = self.vm.run("cat /run/watch.err; remap-guardian history data | tail -n 20; dmesg | tail -n 10")?;
                anyhow::bail!("{what}: not told in {AT_ONCE:?}: {lines:#?}\n{evidence}");
            }
            sleep(Duration::from_millis(100));
        }
    }

    fn told_bytes(&mut self, what: &str, event: &str, by: &str, bytes: Range<u64>) -> Result<Value> {
        self.told(what, |line| {
            line["event"] == event
                && line["found_by"] == by
                && line["path"] == FILE
                && line["offset"] == bytes.start
                && line["length"] == bytes.end - bytes.start
        })
    }

    fn read(&mut self, block: u64) -> Result<()> {
        let read = self.vm.run(&format!("dd if={FILE} bs={BLOCK} skip={block} count=1 iflag=direct status=none of=/dev/null"))?;
        ensure!(!read.success(), "block {block} reads");
        Ok(())
    }

    fn told_at_once(&mut self) -> Result<()> {
        let bad = self.sectors(7)?.start;
        self.vm.sim("fw-main").inject(Fault::unreadable(bad + 1..bad + 2));
        self.start()?;
        self.told("the watch begins", |line| line["event"] == "watching" && line["set"] == "data")?;
        self.told_bytes("a sector that was bad before, found by the check", "bad", "check", 7 * BLOCK..8 * BLOCK)?;
        self.told_bytes("the same for the daemon, to the sector", "bad", "daemon", 7 * BLOCK + 512..7 * BLOCK + 1024)?;
        let checked = self.told("the check ends", |line| line["event"] == "checked")?;
        ensure!((&checked["bytes"], &checked["bad"]) == (&Value::from(4 << 20), &Value::from(BLOCK)), "{checked}");

        let bad = self.sectors(500)?.start;
        self.vm.sim("fw-main").inject(Fault::unreadable(bad + 3..bad + 5));
        self.read(500)?;
        self.told_bytes("a sector that goes bad", "bad", "daemon", 500 * BLOCK + 3 * 512..500 * BLOCK + 5 * 512)?;

        let bad = self.sectors(600)?;
        self.vm.sim("fw-main").inject_flushed(Fault::unwritable(bad))?;
        self.vm.ok(&format!("dd if=/dev/urandom of={FILE} bs={BLOCK} seek=600 count=1 oflag=direct conv=notrunc status=none"))?;
        self.told_bytes("a block that is healed", "healed", "daemon", 600 * BLOCK..601 * BLOCK)?;

        self.vm.ok("systemctl stop remap-guardian")?;
        self.told("the daemon goes", |line| line["event"] == "daemon" && line["answers"] == false)?;
        self.vm.ok("systemctl start remap-guardian")?;
        self.told("the daemon is back", |line| line["event"] == "daemon" && line["answers"] == true)?;
        // Another file at the path is followed.
        self.vm.ok(&format!("head -c 2M /dev/urandom >{FILE}.new && mv {FILE}.new {FILE} && sync && sleep 2"))?;
        let bad = self.sectors(100)?.start;
        self.vm.sim("fw-main").inject(Fault::unreadable(bad..bad + 1));
        self.read(100)?;
        self.told_bytes("a replaced file, after a restart of the daemon", "bad", "daemon", 100 * BLOCK..100 * BLOCK + 512)?;

        // Sectors of another file are no concern.
        let count = self.lines()?.len();
        self.vm.ok("head -c 1M /dev/urandom >/srv/data/other && sync")?;
        let text = self.vm.ok("filefrag -e -b512 /srv/data/other | awk -F '[ .:]+' '$2 == 0 { print $5 }'")?;
        let other: u64 = text.trim().parse().with_context(|| text.clone())?;
        self.vm.sim("fw-main").inject(Fault::unreadable(other..other + 1));
        let read = self.vm.run("cat /srv/data/other >/dev/null; echo 3 >/proc/sys/vm/drop_caches; cat /srv/data/other")?;
        ensure!(!read.success(), "the other file reads");
        sleep(Duration::from_secs(2));
        ensure!(self.lines()?.len() == count, "told of another file: {:?}", self.lines()?.last());

        self.vm.ok(&format!("rm {FILE}"))?;
        self.told("the end of the file", |line| line["event"] == "ended")?;
        let exit = self
            .vm
            .ok("for i in {1..100}; do [ -s /run/watch.exit ] && break; sleep 0.1; done; cat /run/watch.exit /run/watch.err")?;
        ensure!(exit.trim() == "0", "exit {exit}");
        Ok(())
    }

    /// What ext4 meets itself comes into history, also on a mount that came after the daemon; and no mark keeps it mounted.
    fn file_system_errors(&mut self) -> Result<()> {
        for at in ["/srv/data", "/mnt"] {
            // The daemon lets go of what is no longer mounted, and follows what is.
            self.vm.ok(&format!(
                "daemon=/proc/$(systemctl show -P MainPID remap-guardian); umount /srv/data /mnt 2>/dev/null
                for i in {{1..100}}; do grep -qs '^fanotify sdev' $daemon/fdinfo/* || break; sleep 0.2; done
                mount /dev/mapper/data {at} && for i in {{1..100}}; do grep -qs '^fanotify sdev' $daemon/fdinfo/* && exit; sleep 0.2; done; exit 1"
            ))?;
            self.vm.ok("echo really >/sys/fs/ext4/$(basename $(readlink -f /dev/mapper/data))/trigger_fs_error")?;
            let told = format!("the file system at {at} met an error: Structure needs cleaning");
            let found = self.vm.run(&format!(
                "for i in {{1..20}}; do remap-guardian history data | grep '{told}' && exit; sleep 0.5; done; exit 1"
            ))?;
            let log = self.vm.ok("remap-guardian history data; journalctl -u remap-guardian -o cat | tail -n 20")?;
            ensure!(found.success(), "{at}: {found}\n{log}");
        }
        self.vm.ok("umount /mnt && fsck.ext4 -fp /dev/mapper/data; test $? -le 1 && mount /dev/mapper/data /srv/data")?;
        println!("  ✓ what a file system meets itself is told");
        Ok(())
    }

    fn refusals(&mut self) -> Result<()> {
        let other = self.vm.path("fw-other");
        self.vm.ok(&format!(
            "mkfifo /srv/data/fifo; head -c 64k /dev/urandom >/run/tmpfs; head -c 64k /dev/urandom >/root/plain; cp /root/plain {FILE}
            dmsetup create striped --table \"0 65536 striped 1 128 {other} 0\" && udevadm settle &&
            mkfs.ext4 -q /dev/mapper/striped && mount /dev/mapper/striped /mnt && cp /root/plain /mnt/file && sync"
        ))?;
        for (arguments, says) in [
            ("/srv/data/nosuch", "/srv/data/nosuch: No such file"),
            ("/srv/data", "/srv/data: not a regular file"),
            ("/srv/data/fifo", "/srv/data/fifo: not a regular file"),
            ("/run/tmpfs", "/run/tmpfs: its file system (tmpfs) is on no block device"),
            ("/root/plain", "/root/plain: its file system is on /dev/vda"),
            ("/mnt/file", "/dev/mapper/striped (a “striped” volume)"),
            ("", "<PATH>"),
        ] {
            let output = self.vm.run(&format!("timeout 20 remap-guardian files watch {arguments}"))?;
            ensure!(output.status != 0 && output.status != 124, "{arguments}: {output}");
            ensure!(output.stderr.contains(says) && output.stdout.is_empty(), "{arguments}: {output}");
        }
        self.vm.ok("systemctl stop remap-guardian")?;
        let output = self.vm.run(&format!("timeout 20 remap-guardian files watch {FILE}"))?;
        ensure!(output.stderr.contains("not running"), "{output}");
        self.vm.ok("systemctl start remap-guardian; umount /mnt; udevadm settle; dmsetup remove --retry striped")?;
        println!("  ✓ files that are on no set are refused by name");
        Ok(())
    }

    fn on_a_volume(&mut self) -> Result<()> {
        let bad = self.sectors(9)?.start;
        self.vm.sim("fw-main").inject(Fault::unreadable(bad..bad + 1));
        self.start()?;
        self.told_bytes("on a linear volume", "bad", "check", 9 * BLOCK..10 * BLOCK)?;
        self.told_bytes("on a linear volume, to the sector", "bad", "daemon", 9 * BLOCK..9 * BLOCK + 512)?;
        self.vm.ok("pkill -x -f 'remap-guardian files watch --json .*'")?;
        let text = self.vm.run(&format!(
            "remap-guardian files watch {FILE} >/run/text 2>&1 & for i in {{1..200}}; do grep -q 'cannot be read' /run/text && break; sleep 0.2; done; kill $!; cat /run/text"
        ))?;
        println!("$ remap-guardian files watch {FILE}\n{text}");
        for part in [
            "watching /srv/data/file: 4194304 bytes",
            "BAD     /srv/data/file: bytes 36864 to 40959",
            "4096 of them cannot be read",
        ] {
            ensure!(text.stdout.contains(part), "no {part:?} in {text}");
        }
        Ok(())
    }
}
