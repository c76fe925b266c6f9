//! `remap-guardian spare add`: a second disk joins a set that is closed, takes what the first has no room for, and is there after a
//! reboot; what cannot join is refused and left as it was. Needs what `make stage` leaves, in the folder that RIG_PAYLOAD names.

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
    trial.outlives_a_reboot()
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
        self.vm.sim("j-main").inject(Fault::unwritable(sector..sector + 8));
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
        let open = self.vm.run(&add(&two))?;
        ensure!(!open.success() && open.stderr.contains("open"), "while it is open: {open}");
        self.vm.ok("dmsetup remove data")?;
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
            let sector = 4_000 + step * STEP;
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
        self.writes(BAD + 800)?;
        let [one, two] = self.on_spares()?;
        println!("{}\n{one} remaps on the first spare, {two} on the second", self.vm.ok("remap-guardian status data")?);
        ensure!(one > 0 && two > 0, "{one} and {two}");
        self.whole()
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
}
