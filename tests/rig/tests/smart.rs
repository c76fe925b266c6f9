//! SMART in a guest: the real smartctl on QEMU's ATA, SCSI and NVMe disks, and a self-test that the daemon starts on the ATA one. Then a
//! *stand-in* for smartctl, first in PATH, says of a disk what no disk of QEMU says: places that it calls bad, of which one does not
//! read; a counter that grows; nonsense. Needs what `make stage` leaves, in the folder that RIG_PAYLOAD names.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use remap_guardian::sim::disk::Fault;
use rig::{Bus, Disk, Vm};
use serde_json::{Value, json};

/// A sector that does not read, and one that does.
const BAD: u64 = 20_003;
const GOOD: u64 = 30_000;

/// The stand-in: what a file says, for readings of the disk that it is for; the real one for everything else.
const STAND_IN: &str = r#"#!/bin/sh
disk=$(readlink -f DISK)
case "$*" in
*" -x "*"-- $disk") cat /run/stand-in.json; exit "$(cat /run/stand-in.status)" ;;
esac
exec /usr/sbin/smartctl "$@"
"#;

struct Trial {
    vm: Vm,
}

#[test]
fn what_disks_say_of_themselves_is_read_kept_and_tried() -> Result<()> {
    let disks = [
        Disk::new("sm-ata", Bus::Ata, 64),
        Disk::new("sm-scsi", Bus::Scsi, 16),
        Disk::new("sm-nvme", Bus::Nvme, 64),
        Disk::new("sm-more", Bus::Scsi, 16),
    ];
    let vm = disks.into_iter().fold(Vm::new(), |vm, disk| vm.disk(disk)).payload(&rig::payload()?).boot()?;
    let mut trial = Trial { vm };
    trial.vm.install()?;
    let [ata, scsi, nvme, more] = ["sm-ata", "sm-scsi", "sm-nvme", "sm-more"].map(|name| trial.vm.path(name));
    trial.vm.ok(&format!(
        "systemctl enable --now remap-guardian && remap-guardian create data --main {ata} --spare {scsi} &&
        remap-guardian create other --main {nvme} --spare {more} && udevadm settle"
    ))?;
    trial.real_disks_are_read()?;
    trial.a_self_test_is_started(&ata)?;
    trial.what_does_not_read_is_told(&ata)?;
    trial.a_trend_turns_bad()?;
    trial.nonsense_is_refused()?;
    trial.a_flush_that_the_driver_repeats_is_told()
}

impl Trial {
    /// The disks of a report.
    fn disks(&mut self) -> Result<Vec<Value>> {
        let report: Value = serde_json::from_str(&self.vm.ok("remap-guardian smart --json")?)?;
        report["disks"].as_array().cloned().with_context(|| format!("no disks in {report}"))
    }

    /// Waits until it is so of a disk.
    fn until(&mut self, what: &str, set: &str, member: &Value, is: impl Fn(&Value) -> bool) -> Result<Value> {
        let began = Instant::now();
        loop {
            let disks = self.disks()?;
            let disk = disks.iter().find(|disk| disk["set"] == set && disk["member"] == *member);
            if let Some(disk) = disk.filter(|disk| is(disk)) {
                println!("  ✓ {what}: {}", disk["reading"]);
                return Ok(disk.clone());
            }
            if began.elapsed() > Duration::from_secs(90) {
                bail!(
                    "{what}: {disks:#?}\n{}",
                    self.vm.run("journalctl -n 30 -o cat -u remap-guardian; remap-guardian history")?
                );
            }
            sleep(Duration::from_millis(500));
        }
    }

    /// A start of the daemon reads all disks.
    fn read_again(&mut self) -> Result<()> {
        self.vm.ok("systemctl restart remap-guardian")?;
        Ok(())
    }

    fn real_disks_are_read(&mut self) -> Result<()> {
        println!("{}", self.vm.ok("smartctl --version | head -n 1; smartctl --scan")?);
        let is_read = |disk: &Value| disk["samples"].as_array().is_some_and(|samples| !samples.is_empty());
        let ata = self.until("QEMU's ATA disk", "data", &json!("main"), is_read)?;
        ensure!(ata["reading"].as_str().is_some_and(|text| text.starts_with("passed")), "{ata}");
        ensure!(ata["samples"][0]["counts"]["reallocated_sectors"] == 0, "{ata}");
        let nvme = self.until("QEMU's NVMe disk", "other", &json!("main"), is_read)?;
        ensure!(nvme["samples"][0]["counts"]["media_errors"] == 0, "{nvme}");
        let is_known =
            |disk: &Value| disk["reading"].as_str().is_some_and(|text| !text.starts_with("no") || text.starts_with("no verdict"));
        self.until("QEMU's SCSI disk", "data", &json!({"spare": 0}), is_known)?;
        println!("{}", self.vm.ok("remap-guardian smart; remap-guardian status data")?);
        Ok(())
    }

    /// How many self-tests the drive itself has in its log.
    fn tests(&mut self, ata: &str) -> Result<u64> {
        let log = self.vm.run(&format!("smartctl --json=c -l selftest {ata}"))?;
        let log: Value = serde_json::from_str(&log.stdout)?;
        log["ata_smart_self_test_log"]["standard"]["count"].as_u64().with_context(|| format!("no log in {log}"))
    }

    fn a_self_test_is_started(&mut self, ata: &str) -> Result<()> {
        ensure!(self.tests(ata)? == 0, "nobody has asked for a self-test yet");
        let refused = self.vm.run(
            "mkdir -p /etc/remap-guardian/policies/balanced.d && cd /etc/remap-guardian/policies/balanced.d &&
            printf '[smart]\\nshort_test_days = 4000\\n' >smart.toml && remap-guardian policy check",
        )?;
        ensure!(refused.status != 0 && refused.stderr.contains("smart.short_test_days"), "{refused}");
        self.vm.ok("printf '[smart]\\nshort_test_days = 7\\n' >/etc/remap-guardian/policies/balanced.d/smart.toml &&
            remap-guardian policy check && remap-guardian policy reload")?;
        self.read_again()?;
        let disk = self.until("a self-test was started", "data", &json!("main"), |disk| disk["tests"]["short"].is_u64())?;
        let began = Instant::now();
        while self.tests(ata)? != 1 {
            ensure!(began.elapsed() < Duration::from_secs(30), "the drive knows nothing of a self-test");
            sleep(Duration::from_secs(1));
        }
        // A restart does not forget when that was.
        self.read_again()?;
        let is_read = |disk: &Value| disk["reading"].as_str().is_some_and(|text| text.starts_with("passed"));
        let later = self.until("and only one", "data", &json!("main"), is_read)?;
        sleep(Duration::from_secs(3));
        ensure!(self.tests(ata)? == 1 && later["tests"] == disk["tests"], "{later}");
        self.vm.ok("rm /etc/remap-guardian/policies/balanced.d/smart.toml && remap-guardian policy reload")?;
        Ok(())
    }

    /// What the stand-in says from now on.
    fn stand_in(&mut self, output: &str, status: u8) -> Result<()> {
        self.vm.ok(&format!("cat >/run/stand-in.json <<'END'\n{output}\nEND\necho {status} >/run/stand-in.status"))?;
        self.read_again()
    }

    fn what_does_not_read_is_told(&mut self, ata: &str) -> Result<()> {
        println!("from here on a stand-in for smartctl tells of {ata}");
        let script = STAND_IN.replace("DISK", ata);
        self.vm.ok(&format!("cat >/usr/local/bin/smartctl <<'END'\n{script}END\nchmod +x /usr/local/bin/smartctl"))?;
        self.vm.sim("sm-ata").inject(Fault::unreadable(BAD..BAD + 1));
        self.stand_in(&pending(&[BAD, GOOD]), 0)?;
        let disk = self.until("two places are called bad", "data", &json!("main"), |disk| disk["calls_bad"][1].is_object())?;
        ensure!(
            disk["calls_bad"] == json!([{"lba": BAD, "log": "pending defects"}, {"lba": GOOD, "log": "pending defects"}]),
            "{disk}"
        );
        let found = self.vm.ok("for i in {1..100}; do
                remap-guardian history data --json | jq -ce 'select(.kind == \"error\")' | grep . && exit
                sleep 0.3
            done; remap-guardian history data; journalctl -n 30 -o cat -u remap-guardian; exit 1")?;
        let errors: Vec<Value> = found.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let [error] = &errors[..] else { bail!("one place does not read: {errors:#?}") };
        ensure!(error["unreadable"] == json!([BAD]) && error["member"] == "main", "{error}");
        ensure!(error["meaning"].as_str().is_some_and(|text| text.contains("the drive itself calls it bad")), "{error}");
        // Nothing was spent, and nothing is lost that reads.
        sleep(Duration::from_secs(3));
        let status: Value = serde_json::from_str(&self.vm.ok("remap-guardian status data --json")?)?;
        let status = &status["sets"][0]["status"];
        ensure!(status["remaps"] == json!([]) && status["counters"]["read_errors"] == 0, "{status}");
        self.vm.ok(&format!("dd if=/dev/mapper/data of=/dev/null bs=512 skip={GOOD} count=1 iflag=direct status=none"))?;
        println!("{}", self.vm.ok("remap-guardian smart data; remap-guardian history data | tail -n 8")?);
        Ok(())
    }

    /// The disk forgets what it could not write, Linux asks again, and the application hears that all is well.
    fn a_flush_that_the_driver_repeats_is_told(&mut self) -> Result<()> {
        let block = 5_000;
        let device = "/dev/mapper/data";
        self.vm.ok(&format!(
            "head -c 4096 /dev/urandom >/run/new && dd if=/run/new of={device} bs=4096 seek={block} oflag=direct conv=notrunc status=none"
        ))?;
        self.vm.sim("sm-ata").inject(Fault::unwritable(block * 8..block * 8 + 8));
        self.vm.ok(&format!("sync {device}"))?;
        let kept =
            self.vm.run(&format!("dd if={device} bs=4096 skip={block} count=1 iflag=direct status=none | cmp -s - /run/new"))?;
        ensure!(!kept.success(), "nothing was lost, so there is nothing to tell");
        let told = self
            .vm
            .ok("for i in {1..100}; do remap-guardian history data | grep 'main failed a flush' && exit; sleep 0.3; done
            remap-guardian history data | tail -n 5; dmesg | tail -n 20; exit 1")?;
        println!("{told}");
        Ok(())
    }

    fn a_trend_turns_bad(&mut self) -> Result<()> {
        let many: Vec<u64> = (0..40).map(|n| GOOD + n).collect();
        self.stand_in(&pending(&many), 64)?;
        let told = self.vm.ok("for i in {1..100}; do
                remap-guardian history data --json | jq -ce 'select(.kind == \"trend\")' | grep . && exit
                sleep 0.3
            done; remap-guardian history data; remap-guardian smart data; exit 1")?;
        let trend: Value = serde_json::from_str(&told)?;
        ensure!(
            trend["growth"]["counter"] == "pending_defects" && trend["growth"]["from"] == 2 && trend["growth"]["to"] == 40,
            "{trend}"
        );
        let explained = self.vm.ok(&format!("remap-guardian policy explain {}", trend["number"]))?;
        ensure!(explained.contains("smart.growth_per_week = 16"), "{explained}");
        println!("{explained}");
        Ok(())
    }

    fn nonsense_is_refused(&mut self) -> Result<()> {
        let whole = pending(&[BAD]);
        for (output, status, words) in [
            ("", 0, "cannot be understood"),
            (&whole[..whole.len() / 2], 0, "cannot be understood"),
            (r#"{"smartctl": {"messages": [{"string": "Device is in STANDBY mode, exit(2)"}]}}"#, 2, "asleep"),
        ] {
            self.stand_in(output, status)?;
            let is_refused = |disk: &Value| {
                disk["reading"].as_str().is_some_and(|text| text.starts_with("no reading") && text.contains(words))
            };
            self.until("refused", "data", &json!("main"), is_refused)?;
        }
        // What is whole beside something damaged is read.
        let odd = json!({"serial_number": [1], "smart_status": 7, "ata_pending_defects_log": {"count": {"a": 1}, "table": [null, {"lba": [3]}, {"lba": GOOD}]}});
        self.stand_in(&odd.to_string(), 0)?;
        let disk = self.until("half of it", "data", &json!("main"), |disk| disk["calls_bad"][0]["lba"] == GOOD)?;
        ensure!(disk["reading"].as_str().is_some_and(|text| text.starts_with("no verdict")), "{disk}");
        self.vm.ok("systemctl is-active remap-guardian && ! journalctl -u remap-guardian | grep -i panic")?;
        Ok(())
    }
}

/// What smartctl prints of a drive with these pending defects.
fn pending(lbas: &[u64]) -> String {
    let rows: Vec<Value> = lbas.iter().map(|lba| json!({"lba": lba, "power_on_hours": 7})).collect();
    json!({
        "json_format_version": [1, 0], "smartctl": {"version": [7, 4], "exit_status": 0},
        "serial_number": "STAND-IN", "logical_block_size": 512, "smart_status": {"passed": true},
        "ata_pending_defects_log": {"size": 1023, "count": lbas.len(), "table": rows},
    })
    .to_string()
}
