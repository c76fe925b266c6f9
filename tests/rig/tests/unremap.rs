//! `remap-guardian unremap`: what a spare serves goes back to main where main takes it, under a load that checks what it reads, and
//! stays back over a reboot; what main does not take, and what is lost, stays on the spare. Needs what `make stage` leaves, in
//! the folder that RIG_PAYLOAD names.

use anyhow::{Context, Result, ensure};
use remap_guardian::sim::disk::Fault;
use rig::{Bus, Disk, Vm};
use serde_json::Value;

/// First sectors of blocks that move to the spare.
const HEALED: u64 = 40_000;
const BAD: u64 = 48_000;
const LOST: u64 = 56_000;

struct Trial {
    vm: Vm,
}

#[test]
fn what_main_takes_again_goes_back() -> Result<()> {
    let disks = [Disk::new("un-main", Bus::Nvme, 64), Disk::new("un-spare", Bus::Scsi, 16)];
    let vm = disks.into_iter().fold(Vm::new(), |vm, disk| vm.disk(disk)).payload(&rig::payload()?).boot()?;
    let mut trial = Trial { vm };
    trial.vm.install()?;
    let (main, spare) = (trial.vm.path("un-main"), trial.vm.path("un-spare"));
    trial.vm.ok(&format!(
        "systemctl enable --now remap-guardian && remap-guardian create data --main {main} --spare {spare} && udevadm settle"
    ))?;
    trial.nothing_to_bring_back()?;
    trial.moves()?;
    trial.stays_where_main_is_bad()?;
    trial.stays_where_sectors_are_lost()?;
    trial.goes_back_under_load()?;
    trial.is_recorded()?;
    trial.is_written_anew()?;
    trial.a_read_waits_for_its_data()?;
    trial.all_of_it()?;
    trial.outlives_a_reboot()
}

impl Trial {
    fn remaps(&mut self) -> Result<Vec<u64>> {
        let status: Value = serde_json::from_str(&self.vm.ok("remap-guardian status data --json")?)?;
        let remaps = status["sets"][0]["status"]["remaps"].as_array().with_context(|| format!("no remaps in {status}"))?;
        Ok(remaps.iter().filter_map(|remap| remap["main"]["start"].as_u64()).collect())
    }

    /// Waits for the entry that ends an un-remap of this block.
    fn told(&mut self, kind: &str, sector: u64) -> Result<Value> {
        let entry = self.vm.ok(&format!(
            "for i in {{1..100}}; do
                remap-guardian history data --json | jq -ce 'select(.kind == \"{kind}\" and .remap.main.start == {sector})' | tail -n 1 | grep . && exit
                sleep 0.2
            done; remap-guardian history data; exit 1"
        ))?;
        Ok(serde_json::from_str(&entry)?)
    }

    /// Fills a block with a letter.
    fn fill(&mut self, sector: u64, letter: char) -> Result<()> {
        self.vm.ok(&format!(
            "head -c 4096 /dev/zero | tr '\\0' {letter} | dd of=/dev/mapper/data bs=4096 seek={} iflag=fullblock oflag=direct status=none",
            sector / 8
        ))?;
        Ok(())
    }

    fn holds(&mut self, sector: u64, letter: char) -> Result<()> {
        let rest = self.vm.ok(&format!(
            "dd if=/dev/mapper/data bs=4096 skip={} count=1 iflag=direct status=none | tr -d {letter} | wc -c",
            sector / 8
        ))?;
        ensure!(rest == "0", "sector {sector} does not read as it was written: {rest} other bytes");
        Ok(())
    }

    fn nothing_to_bring_back(&mut self) -> Result<()> {
        for (arguments, part) in [
            ("data 8", "nothing of sectors 8+1 of “data” is on a spare"),
            ("data --all", "nothing of “data” is on a spare"),
            ("nobody 8", "nobody"),
            ("data", "SECTOR"),
        ] {
            let refused = self.vm.run(&format!("remap-guardian unremap {arguments}"))?;
            ensure!(!refused.success() && refused.stderr.contains(part), "unremap {arguments}: {refused}");
        }
        Ok(())
    }

    fn moves(&mut self) -> Result<()> {
        for sector in [HEALED, BAD, LOST] {
            self.vm.sim("un-main").inject_flushed(Fault::dead(sector..sector + 8))?;
        }
        self.fill(HEALED, 'a')?;
        self.fill(BAD, 'b')?;
        // One sector of a block that does not read: the others are lost.
        self.vm.ok(&format!(
            "head -c 512 /dev/zero | tr '\\0' c | dd of=/dev/mapper/data bs=512 seek={LOST} oflag=direct status=none"
        ))?;
        self.vm.ok("for i in {1..100}; do remap-guardian status data --json | jq -e '.sets[0].status.remaps | length == 3' >/dev/null && exit; sleep 0.2; done; exit 1")?;
        let remaps = self.remaps()?;
        ensure!(remaps == [HEALED, BAD, LOST], "{remaps:?}");
        Ok(())
    }

    fn stays_where_main_is_bad(&mut self) -> Result<()> {
        println!("{}", self.vm.ok(&format!("remap-guardian unremap data {BAD}"))?);
        let entry = self.told("stays_remapped", BAD)?;
        ensure!(entry["reason"].as_str().is_some_and(|reason| reason.starts_with("main does not take it")), "{entry}");
        self.holds(BAD, 'b')
    }

    fn stays_where_sectors_are_lost(&mut self) -> Result<()> {
        self.vm.sim("un-main").repair(LOST..LOST + 8);
        self.vm.ok(&format!("remap-guardian unremap data {LOST}"))?;
        let entry = self.told("stays_remapped", LOST)?;
        ensure!(entry["reason"].as_str().is_some_and(|reason| reason.contains("lost until they are written")), "{entry}");
        let read = self.vm.run(&format!("dd if=/dev/mapper/data of=/dev/null bs=512 skip={} count=1 iflag=direct", LOST + 1))?;
        ensure!(!read.success(), "a lost sector reads: {read}");
        Ok(())
    }

    /// A writer counts in the block and reads each number back, while it goes to main and to the spare again and again.
    fn goes_back_under_load(&mut self) -> Result<()> {
        self.vm.sim("un-main").repair(HEALED..HEALED + 8);
        self.vm.put(
            "/tmp/load",
            &format!(
                "n=0
                while [ -e /run/load ]; do
                    n=$((n + 1))
                    printf '%04096d' $n | dd of=/dev/mapper/data bs=4096 seek={0} iflag=fullblock oflag=direct status=none || {{ echo write $n; exit 1; }}
                    got=$(dd if=/dev/mapper/data bs=4096 skip={0} count=1 iflag=direct status=none) || {{ echo read $n; exit 1; }}
                    [ $((10#$got)) = $n ] || {{ echo \"wrote $n, read $((10#$got))\"; exit 1; }}
                done
                echo $n numbers\n",
                HEALED / 8
            ),
        )?;
        self.vm
            .ok("touch /run/load; systemd-run --quiet --unit=load --property=StandardOutput=file:/run/load.out bash /tmp/load")?;
        for _ in 0..5 {
            self.vm.ok(&format!(
                "is() {{ for i in {{1..100}}; do remap-guardian status data --json | jq -e \"$1(.sets[0].status.remaps[]; .main.start $2 {HEALED})\" >/dev/null && return; sleep 0.1; done; exit 1; }}
                remap-guardian unremap data {HEALED} && is all '!=' && remap-guardian remap data {HEALED} && is any '=='"
            ))?;
        }
        let load = self
            .vm
            .ok("rm /run/load; for i in {1..300}; do systemctl is-active -q load || break; sleep 0.1; done; cat /run/load.out")?;
        println!("{load}");
        ensure!(load.ends_with("numbers"), "the load saw: {load}");
        self.fill(HEALED, 'd')
    }

    /// A cure and its way back are recorded; another policy would have done nothing.
    fn is_recorded(&mut self) -> Result<()> {
        let sector = 80_000;
        self.vm.sim("un-main").inject_flushed(Fault::unwritable(sector..sector + 8))?;
        self.vm.ok("systemd-run --quiet --unit=record remap-guardian record --output /root/trace.jsonl; for i in {1..300}; do [ -s /root/trace.jsonl ] && exit; sleep 0.1; done; exit 1")?;
        self.fill(sector, 'r')?;
        self.vm.sim("un-main").repair(sector..sector + 8);
        self.vm.ok(&format!("remap-guardian unremap data {sector}"))?;
        self.told("unremapped", sector)?;
        self.vm.ok("sleep 1; systemctl kill -s INT record; for i in {1..300}; do systemctl is-active -q record || exit 0; sleep 0.1; done; exit 1")?;
        let balanced = self.vm.ok("remap-guardian simulate --policy balanced --trace /root/trace.jsonl")?;
        let observe: Value =
            serde_json::from_str(&self.vm.ok("remap-guardian simulate --policy observe --trace /root/trace.jsonl --json")?)?;
        println!("{balanced}\n{observe}");
        ensure!(balanced.contains("spare spent: 1 blocks then, 1 under “balanced”"), "{balanced}");
        ensure!(observe["spent"] == serde_json::json!({"then": 1, "now": 0}), "{observe}");
        // The key of lost marks stays on the spares.
        self.vm.ok(r#"! grep -oE '"secret":\[[0-9,]*\]' /root/trace.jsonl | grep -vE '\[0(,0)*\]'"#).map(drop)
    }

    /// A block that failed to read, and reads when it is tried again, is written anew where that is the policy.
    fn is_written_anew(&mut self) -> Result<()> {
        let sector = 88_000;
        self.fill(sector, 'w')?;
        // What is in the drive's cache reads.
        self.vm.ok("sync /dev/mapper/data")?;
        self.vm.ok(
            "mkdir -p /etc/remap-guardian/policies && printf '[read_error]\naction = \"rewrite\"\n' >/etc/remap-guardian/policies/balanced.toml &&
            remap-guardian policy reload && remap-guardian policy show balanced | grep -q rewrite && systemctl kill -s STOP remap-guardian",
        )?;
        // It is weak for one read only.
        self.vm.sim("un-main").inject(Fault::unreadable(sector + 3..sector + 4));
        let read = self
            .vm
            .run(&format!("dd if=/dev/mapper/data bs=4096 skip={} count=1 iflag=direct of=/dev/null status=none", sector / 8))?;
        self.vm.sim("un-main").repair(sector..sector + 8);
        self.vm.ok("systemctl kill -s CONT remap-guardian")?;
        ensure!(!read.success(), "a bad sector reads: {read}");
        let back = self.told("unremapped", sector)?;
        println!("{back}\n{}", self.vm.ok("remap-guardian history data | tail -n 5")?);
        ensure!(back["decision"]["rule"].as_str().is_some_and(|rule| rule.contains("read_error.action")), "{back}");
        ensure!(!self.remaps()?.contains(&sector), "it stays on the spare");
        self.holds(sector, 'w')?;
        let on_main = self.vm.path("un-main");
        let rest = format!("dd if={on_main} bs=4096 skip={} count=1 iflag=direct status=none | tr -d w | wc -c", sector / 8);
        ensure!(self.vm.ok(&rest)? == "0", "main does not have it");
        self.vm.ok("rm /etc/remap-guardian/policies/balanced.toml && remap-guardian policy reload").map(drop)
    }

    /// Where the policy holds reads, one that failed gets its data if its sectors read when they are tried again, and else its error.
    fn a_read_waits_for_its_data(&mut self) -> Result<()> {
        let (weak, dead) = (96_000, 104_000);
        self.fill(weak, 'r')?;
        self.fill(dead, 'x')?;
        self.vm.ok("sync /dev/mapper/data")?;
        self.vm.ok("printf '[read_error]\naction = \"rewrite\"\nhold = true\n' >/etc/remap-guardian/policies/balanced.toml &&
            remap-guardian policy reload && sleep 2 && systemctl kill -s STOP remap-guardian")?;
        self.vm.sim("un-main").inject(Fault::unreadable(weak + 3..weak + 4));
        self.vm.ok(&format!(
            "dd if=/dev/mapper/data of=/run/got bs=4096 skip={} count=1 iflag=direct status=none >/dev/null 2>/run/dd & echo $! >/run/dd.pid
            for i in {{1..20}}; do [ \"$(dmsetup status data | cut -d' ' -f10)\" = 1 ] && exit; sleep 0.1; done
            dmsetup status data; cat /run/dd; exit 1",
            weak / 8
        ))?;
        self.vm.sim("un-main").repair(weak..weak + 8);
        self.vm.ok("systemctl kill -s CONT remap-guardian")?;
        let rest = self.vm.ok("for i in {1..100}; do [ -e /proc/$(cat /run/dd.pid) ] || break; sleep 0.1; done
            [ ! -s /run/dd ] || { cat /run/dd; exit 1; }
            wc -c </run/got; tr -d r </run/got | wc -c")?;
        ensure!(rest.split_whitespace().collect::<Vec<_>>() == ["4096", "0"], "the read that waited got {rest}");
        let back = self.told("unremapped", weak)?;
        println!("{back}\n{}", self.vm.ok("remap-guardian history data | tail -n 5")?);
        // What nobody can read fails as soon as that is known, and not at the bound of the hold.
        self.vm.sim("un-main").inject(Fault::unreadable_for_ever(dead + 3..dead + 4));
        let read = self.vm.run(&format!(
            "timeout 9 dd if=/dev/mapper/data of=/run/got bs=4096 skip={} count=1 iflag=direct status=none; result=$?
            [ $(stat -c %s /run/got) = 0 ] || exit 99; exit $result",
            dead / 8
        ))?;
        ensure!(read.status == 1, "a dead sector: {read}");
        self.vm.ok("rm /etc/remap-guardian/policies/balanced.toml && remap-guardian policy reload")?;
        // It reads again once it is written, from the spare or from main.
        self.fill(dead, 'y')?;
        self.holds(dead, 'y')?;
        self.vm.sim("un-main").repair(dead..dead + 8);
        Ok(())
    }

    fn all_of_it(&mut self) -> Result<()> {
        // The lost sectors are written, so nothing keeps the block any more; and the disk heals.
        self.fill(LOST, 'e')?;
        self.vm.sim("un-main").repair(BAD..BAD + 8);
        println!("{}", self.vm.ok("remap-guardian unremap data --all")?);
        for sector in [HEALED, BAD, LOST] {
            self.told("unremapped", sector)?;
        }
        let left = self.vm.ok("for i in {1..50}; do remap-guardian status data --json | jq -c '.sets[0].status.remaps' | grep -x '\\[\\]' && exit; sleep 0.1; done; exit 1")?;
        let spare = self.vm.path("un-spare");
        println!(
            "{left}\n{}",
            self.vm
                .ok(&format!("remap-guardian history data; remap-guardian status data; remap-guardian spare inspect {spare}"))?
        );
        self.the_letters()
    }

    fn the_letters(&mut self) -> Result<()> {
        self.holds(HEALED, 'd')?;
        self.holds(BAD, 'b')?;
        self.holds(LOST, 'e')
    }

    fn outlives_a_reboot(&mut self) -> Result<()> {
        self.vm.ok("sync")?;
        self.vm.reboot()?;
        self.vm.ok("for i in {1..100}; do remap-guardian status data --json | jq -e '.sets[0].state == \"open\"' && exit; sleep 0.2; done; exit 1")?;
        let remaps = self.remaps()?;
        ensure!(remaps.is_empty(), "came back: {remaps:?}");
        let alerts = self.vm.run("remap-guardian history data --json | jq -c 'select(.kind == \"alert\")' | grep .")?;
        ensure!(!alerts.success(), "{alerts}");
        self.the_letters()
    }
}
