//! `remap-guardian spare add`: a second disk joins a set, closed or mounted and in use, takes what the first has no room for, and is
//! there after a reboot; what cannot join is refused and left as it was; and where the daemon is killed on the way, or a header cannot be
//! written, the set is served on. Needs what `make stage` leaves, in the folder that RIG_PAYLOAD names.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use remap_guardian::sim::disk::Fault;
use rig::{Bus, Disk, Vm};
use serde_json::Value;

/// Sectors that are moved by hand at once: the most that may be.
const STEP: u64 = 2048;

/// First sector of a block that goes bad.
const BAD: u64 = 100_000;

struct Trial {
    vm: Vm,
}

#[test]
fn another_spare_joins_and_serves() -> Result<()> {
    let disks = [
        Disk::new("j-main", Bus::Nvme, 64),
        Disk::new("j-one", Bus::Scsi, 8),
        Disk::new("j-two", Bus::Scsi, 16),
        Disk::new("j-large", Bus::Nvme, 16).blocks_of_4096(),
    ];
    let vm = disks.into_iter().fold(Vm::new(), |vm, disk| vm.disk(disk)).payload(&rig::payload()?).boot()?;
    let mut trial = Trial { vm };
    trial.made()?;
    trial.refused()?;
    trial.joins()?;
    trial.serves()?;
    trial.writes(BAD + 800)?;
    trial.whole()?;
    trial.outlives_a_reboot()
}

/// Places where the daemon is killed, and whether the new disk is a spare then.
const STEPS: [(&str, bool); 5] = [
    ("spare prepared", false),
    ("spare announced", true),
    ("spare finished", true),
    ("set at rest", true),
    ("table loaded", true),
];

/// Writes files and reads them from the medium, again and again. What it wrote last is in `/root/files`.
const WRITER: &str = r#"
mkdir -p /root/files
round=0
while [ ! -e /run/stop ]; do
    round=$((round + 1)); n=$((round % 16))
    head -c 196608 /dev/urandom >/root/files/f.$n &&
    dd if=/root/files/f.$n of=/mnt/f.$n bs=4096 oflag=direct conv=notrunc,fsync status=none &&
    dd if=/mnt/f.$n bs=196608 iflag=direct status=none | cmp - /root/files/f.$n || { echo "round $round" >>/run/failed; exit 1; }
    echo $round >/run/round.new && mv /run/round.new /run/round
done
"#;

#[test]
fn a_spare_joins_while_the_set_is_in_use() -> Result<()> {
    let payload = rig::Failpoints::build()?;
    let disks = [Disk::new("j-main", Bus::Nvme, 64), Disk::new("j-one", Bus::Scsi, 8), Disk::new("j-two", Bus::Scsi, 6)];
    let more = (0..=STEPS.len()).map(|number| Disk::new(&format!("j-more{number}"), Bus::Scsi, 4));
    let vm = disks.into_iter().chain(more).fold(Vm::new(), |vm, disk| vm.disk(disk)).payload(payload.folder()).boot()?;
    let mut trial = Trial { vm };
    trial.made()?;
    trial.mounted()?;
    trial.joins_in_use()?;
    trial.serves()?;
    trial.found_after_a_reboot()?;
    trial.header_that_is_not_written()?;
    trial.killed()?;
    trial.found_after_a_reboot()
}

impl Trial {
    fn made(&mut self) -> Result<()> {
        self.vm.install()?;
        // What is moved by hand counts as spent, too.
        self.vm.ok(
            "mkdir -p /etc/remap-guardian/policies/balanced.d &&
            printf '[spending]\\nblocks_per_hour = 100000\\nblocks_per_day = 100000\\n' >/etc/remap-guardian/policies/balanced.d/spending.toml",
        )?;
        let (main, one) = (self.vm.path("j-main"), self.vm.path("j-one"));
        self.vm.ok(&format!(
            "head -c 64M /dev/urandom >/root/wanted && dd if=/root/wanted of={main} bs=1M oflag=direct status=none &&
            systemctl enable --now remap-guardian && remap-guardian create data --main {main} --spare {one} && udevadm settle"
        ))?;
        self.writes(BAD)
    }

    /// A block goes bad, and is written.
    fn writes(&mut self, sector: u64) -> Result<()> {
        self.vm.sim("j-main").inject_flushed(Fault::unwritable(sector..sector + 8))?;
        self.vm.ok(&format!(
            "head -c 4096 /dev/urandom >/run/new && dd if=/run/new of=/root/wanted bs=4096 seek={0} conv=notrunc status=none &&
            dd if=/run/new of=/dev/mapper/data bs=4096 seek={0} oflag=direct conv=notrunc status=none",
            sector / 8
        ))?;
        Ok(())
    }

    fn whole(&mut self) -> Result<()> {
        self.vm.ok("dd if=/dev/mapper/data bs=1M iflag=direct status=none | cmp - /root/wanted").map(drop)
    }

    /// How many remaps each spare serves.
    fn on_spares(&mut self) -> Result<[usize; 2]> {
        let status: Value = serde_json::from_str(&self.vm.ok("remap-guardian status data --json")?)?;
        let remaps = status["sets"][0]["status"]["remaps"].as_array().with_context(|| format!("no remaps in {status}"))?;
        Ok([0, 1].map(|spare| remaps.iter().filter(|remap| remap["spare"] == spare).count()))
    }

    fn refused(&mut self) -> Result<()> {
        let (main, two, large) = (self.vm.path("j-main"), self.vm.path("j-two"), self.vm.path("j-large"));
        let add = |disk: &str| format!("remap-guardian spare add data --spare {disk}");
        self.vm.ok("udevadm settle; dmsetup remove --retry data")?;
        let one = self.vm.path("j-one");
        for (disk, part) in [
            (&large, "logical blocks of 4096 bytes"),
            (&one, "belongs to the set"),
            (&main, "main"),
            (&"/dev/nothing".into(), "/dev/nothing"),
        ] {
            let refused = self.vm.run(&add(disk))?;
            ensure!(!refused.success() && refused.stderr.contains(part), "{disk}: {refused}");
        }
        self.vm.ok(&format!("mkfs.ext4 -q {two}"))?;
        let filled = self.vm.run(&add(&two))?;
        ensure!(!filled.success() && filled.stderr.contains("ext4"), "something is on it: {filled}");
        Ok(())
    }

    fn joins(&mut self) -> Result<()> {
        let two = self.vm.path("j-two");
        println!(
            "{}",
            self.vm.ok(&format!("remap-guardian spare add data --spare {two} --overwrite-spare; remap-guardian restore data"))?
        );
        self.vm.ok("for i in {1..100}; do remap-guardian status data --json | jq -e '.sets[0].state == \"open\" and (.sets[0].spares | length) == 2' && exit; sleep 0.2; done; exit 1")?;
        self.vm.ok("remap-guardian history data --json | jq -c 'select(.kind == \"spare_added\")' | grep .")?;
        self.whole()
    }

    /// The first spare fills up, the second one goes on.
    fn serves(&mut self) -> Result<()> {
        for step in 0..9 {
            let sector = 40_000 + step * STEP;
            let before: usize = self.on_spares()?.iter().sum();
            self.vm.run_for(Duration::from_secs(60), &format!(
                "remap-guardian remap data {sector} --length {STEP} && for i in {{1..200}}; do
                    [ $(remap-guardian status data --json | jq '[.sets[0].status.remaps[].main.len] | add') -ge {} ] && break; sleep 0.2
                done",
                8 + (step + 1) * STEP
            ))?;
            let after: usize = self.on_spares()?.iter().sum();
            ensure!(after > before, "step {step}: nothing moved");
        }
        let [one, two] = self.on_spares()?;
        println!("{}\n{one} remaps on the first spare, {two} on the second", self.vm.ok("remap-guardian status data")?);
        ensure!(one > 0 && two > 0, "{one} and {two}");
        Ok(())
    }

    fn outlives_a_reboot(&mut self) -> Result<()> {
        let before = self.on_spares()?;
        self.vm.ok("sync")?;
        self.vm.reboot()?;
        self.vm.ok("for i in {1..100}; do remap-guardian status data --json | jq -e '.sets[0].state == \"open\"' && exit; sleep 0.2; done; exit 1")?;
        let after = self.on_spares()?;
        ensure!(before == after, "{before:?} before, {after:?} after");
        self.whole()?;
        // Without the new one the set stays closed: what it serves would be read from main.
        self.vm.ok("sync")?;
        self.vm.attach("j-two", false);
        self.vm.power_cut(1)?;
        self.vm.ok(
            "for i in {1..100}; do remap-guardian status data | grep 'spare 1 .* is missing' && exit; sleep 0.2; done; exit 1",
        )?;
        self.vm.ok("! [ -b /dev/mapper/data ]")?;
        self.vm.attach("j-two", true);
        self.vm.power_cut(2)?;
        self.vm.ok("for i in {1..100}; do remap-guardian status data --json | jq -e '.sets[0].state == \"open\"' && exit; sleep 0.2; done; exit 1")?;
        self.whole()
    }

    fn mounted(&mut self) -> Result<()> {
        self.vm.put("/root/writer", WRITER)?;
        self.vm.ok("mkfs.ext4 -q -b 4096 /dev/mapper/data && mount /dev/mapper/data /mnt")?;
        self.begin_writing()
    }

    fn begin_writing(&mut self) -> Result<()> {
        self.vm.ok("rm -f /run/stop; systemd-run -q --unit writer bash /root/writer")?;
        self.goes_on()
    }

    /// Each file is written once more and read back, and nobody has seen an error.
    fn goes_on(&mut self) -> Result<()> {
        let done = self.vm.run_for(
            Duration::from_secs(400),
            "from=$(cat /run/round || echo 0); while [ $(cat /run/round || echo 0) -lt $((from + 18)) ]; do [ ! -e /run/failed ] || exit 1; sleep 0.2; done",
        )?;
        ensure!(done.success(), "the writer: {done}\n{}", self.evidence());
        let wrong = self.vm.run(
            "cat /run/failed; systemctl is-active -q writer || echo it has ended; dmesg | grep -E 'EXT4-fs (error|warning)|I/O error, dev dm-|on dev dm-'; :",
        )?;
        ensure!(wrong.stdout.trim().is_empty(), "the writer: {wrong}\n{}", self.evidence());
        Ok(())
    }

    fn evidence(&mut self) -> String {
        let all = "remap-guardian status data; remap-guardian history data | tail -n 20; dmsetup table data; dmsetup status data; \
            journalctl -u remap-guardian -u writer -n 60 -o cat; dmesg | tail -n 30";
        self.vm.run(all).map_or_else(|error| error.to_string(), |out| out.to_string())
    }

    /// How many spares the kernel's table has.
    fn live(&mut self) -> Result<usize> {
        Ok(1 + self.vm.ok("dmsetup table data | grep -ow spare | wc -l")?.trim().parse::<usize>()?)
    }

    fn is_open_with(&mut self, spares: usize) -> Result<()> {
        let open = self.vm.run(&format!(
            "for i in {{1..200}}; do
                remap-guardian status data --json | jq -e '.sets[0].state == \"open\" and (.sets[0].status.spares | length) == {spares}' && exit; sleep 0.2
            done; exit 1"
        ))?;
        let live = self.live()?;
        ensure!(open.success() && live == spares, "not open with {spares} spares, the kernel has {live}: {}", self.evidence());
        Ok(())
    }

    fn joins_in_use(&mut self) -> Result<()> {
        let two = self.vm.path("j-two");
        let starts = "for n in {0..15}; do filefrag -b512 -v /mnt/f.$n | awk '$1 == \"0:\" { print $4 + 0 }'; done";
        let starts = self.vm.ok(starts)?;
        // Of each file a block: writes fail while it joins, before and after.
        for start in starts.lines() {
            let sector: u64 = start.trim().parse().context("where a file is")?;
            self.vm.sim("j-main").inject_flushed(Fault::unwritable(sector..sector + 8))?;
        }
        println!("{}", self.vm.ok(&format!("remap-guardian spare add data --spare {two}"))?);
        self.is_open_with(2)?;
        self.goes_on()?;
        self.vm.ok("remap-guardian history data --json | jq -c 'select(.kind == \"spare_added\")' | grep .")?;
        let alerts =
            self.vm.ok("remap-guardian history data --json | jq -c 'select(.kind == \"alert\" or .kind == \"not_restored\")'")?;
        ensure!(alerts.trim().is_empty(), "alerts: {alerts}");
        let moved: usize = self.on_spares()?.iter().sum();
        ensure!(moved == 1 + 16, "{moved} remaps: {}", self.evidence());
        Ok(())
    }

    fn found_after_a_reboot(&mut self) -> Result<()> {
        self.goes_on()?;
        let before = (self.on_spares()?, self.live()?);
        self.vm.ok("touch /run/stop; while systemctl is-active -q writer; do sleep 0.1; done; [ ! -e /run/failed ] && umount /mnt && sync")?;
        self.vm.reboot()?;
        self.is_open_with(before.1)?;
        let after = (self.on_spares()?, self.live()?);
        ensure!(before == after, "{before:?} before, {after:?} after");
        self.vm.ok("mount /dev/mapper/data /mnt && for n in {0..15}; do cmp /mnt/f.$n /root/files/f.$n || exit 1; done")?;
        println!("after a reboot: {after:?}, and every file is as it was written");
        self.begin_writing()
    }

    /// The old spare's header cannot be written: the set is served on, also by the next daemon, and the command can be repeated.
    fn header_that_is_not_written(&mut self) -> Result<()> {
        let add = format!("remap-guardian spare add data --spare {}", self.vm.path(&format!("j-more{}", STEPS.len())));
        self.vm.sim("j-one").inject_flushed(Fault::unwritable(0..8))?;
        let failed = self.vm.run(&add)?;
        ensure!(!failed.success() && failed.stderr.contains("headers were not all written"), "{failed}");
        self.is_open_with(2)?;
        self.vm.ok("systemctl restart remap-guardian")?;
        self.is_open_with(2)?;
        self.vm.ok("remap-guardian history data --json | jq -c 'select(.kind == \"alert\")' | grep 'spare 2 is not used'")?;
        self.goes_on()?;
        self.vm.sim("j-one").repair(0..8);
        println!("{}", self.vm.ok(&add)?);
        self.is_open_with(3)?;
        self.goes_on()
    }

    /// The daemon is killed on the way; the next one goes on.
    fn killed(&mut self) -> Result<()> {
        self.vm.ok("systemctl stop remap-guardian && cp --remove-destination /usr/sbin/remap-guardian-failpoints /usr/sbin/remap-guardian &&
            systemctl start remap-guardian && for i in {1..100}; do remap-guardian status data >/dev/null && exit; sleep 0.1; done; exit 1")?;
        for (number, (step, is_spare)) in STEPS.into_iter().enumerate() {
            let before = self.live()?;
            let add = format!("remap-guardian spare add data --spare {}", self.vm.path(&format!("j-more{number}")));
            let killed = self.vm.run(&format!("echo '{step}' >/run/remap-guardian.die; {add}"))?;
            ensure!(!killed.success() && killed.stderr.contains("ended early"), "{step}: {killed}");
            let back = "for i in {1..200}; do [ ! -e /run/remap-guardian.die ] && remap-guardian status data && exit; sleep 0.1; done; exit 1";
            let back = self.vm.run(back)?;
            ensure!(back.success(), "{step}: no daemon came back: {}", self.evidence());
            self.is_open_with(before + usize::from(is_spare)).with_context(|| format!("killed at “{step}”"))?;
            if !is_spare {
                self.vm.ok(&format!("{add} --overwrite-spare"))?;
                self.is_open_with(before + 1)?;
            }
            self.goes_on().with_context(|| format!("killed at “{step}”"))?;
            println!("killed at “{step}”: {} spares, the writer goes on", before + 1);
        }
        let kills: usize = self.vm.ok("journalctl -u remap-guardian -o cat | grep -c 'status=9/KILL'")?.trim().parse()?;
        ensure!(kills >= STEPS.len(), "only {kills} kills");
        Ok(())
    }
}
