//! A daemon that is restarted, killed or stopped, and members that are missing at boot. Needs what `make stage`
//! leaves, in the folder that RIG_PAYLOAD names.

use std::ops::Range;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use remap_guardian::sim::disk::Fault;
use rig::{Bus, Disk, Vm};
use serde_json::Value;

/// A failed write waits at most this long for its cure (the setting `hold_ms`), and a guest may be slow.
const HOLD_MS: u64 = 10_000;
const SLOW_MS: u64 = 5_000;
/// Writes blocks of a file one by one and says of each: number, exit status, milliseconds.
const WRITE_BLOCKS: &str = r#"
for block in $(cat /run/blocks); do
    start=$(date +%s%3N)
    dd if=/run/new of=/srv/data/file bs=4096 skip=$block seek=$block count=1 conv=notrunc oflag=direct status=none 2>>/run/dd.err
    echo "$block $? $(($(date +%s%3N) - start))"
done >/run/written
"#;

/// How many sectors history says were moved to a spare; a cure may cover several blocks.
fn remapped_sectors(history: &str) -> Result<u64> {
    let entries: Vec<Value> = history.lines().map(serde_json::from_str).collect::<Result<_, _>>().context(history.to_owned())?;
    let remapped = entries.iter().filter(|entry| entry["kind"] == "remapped");
    remapped.map(|entry| entry["remap"]["main"]["len"].as_u64().context("a remap without a length")).sum()
}

struct Trial {
    vm: Vm,
    /// Blocks of the file that are used up.
    used: u64,
}

/// One guest serves all of this, for a boot costs more than the rest.
#[test]
fn a_daemon_may_come_and_go() -> Result<()> {
    let payload = rig::payload()?;
    let kernels = rig::Guest::find()?.kernels()?;
    let newest = kernels.last().context("no kernel")?;
    let vm = Vm::new().kernel(&newest.version).payload(&payload);
    let vm = vm.disk(Disk::new("d-main", Bus::Nvme, 48)).disk(Disk::new("d-spare", Bus::Scsi, 16)).boot()?;
    let mut trial = Trial { vm, used: 0 };
    trial.protect()?;
    trial.restarts_while_io_runs()?;
    trial.killed_while_sectors_fail()?;
    trial.history_is_pruned()?;
    trial.policies()?;
    trial.told()?;
    trial.stopped()?;
    trial.spare_missing_at_boot()?;
    trial.main_missing_at_boot()?;
    trial.whole_again()
}

impl Trial {
    fn protect(&mut self) -> Result<()> {
        self.vm.install()?;
        let (main, spare) = (self.vm.path("d-main"), self.vm.path("d-spare"));
        self.vm.ok(&format!(
            "systemctl enable --now remap-guardian && remap-guardian create data --main {main} --spare {spare} &&
            mkfs.ext4 -q -E nodiscard,lazy_itable_init=0 /dev/mapper/data && mkdir -p /srv/data &&
            echo '/dev/mapper/data /srv/data ext4 nofail,x-systemd.device-timeout=20s 0 2' >>/etc/fstab &&
            systemctl daemon-reload && mount /srv/data &&
            head -c 16M /dev/urandom >/srv/data/file && head -c 16M /dev/urandom >/run/new && sync"
        ))?;
        println!("a set is open and mounted");
        Ok(())
    }

    /// Makes the next `count` blocks of the file bad, in the main disk.
    fn break_blocks(&mut self, count: u64) -> Result<Range<u64>> {
        let blocks = self.used..self.used + count;
        self.used = blocks.end;
        let script =
            "filefrag -e -b4096 /srv/data/file | awk -F '[ .:]+' '$2 ~ /^[0-9]+$/ && $7 ~ /^[0-9]+$/ { print $3, $5, $7 }'";
        let listing = self.vm.ok(script)?;
        let mut broken = 0;
        for line in listing.lines() {
            let numbers = line.split(' ').map(str::parse).collect::<Result<Vec<u64>, _>>().context(listing.clone())?;
            let [logical, physical, length] = numbers[..] else { continue };
            for block in blocks.clone().filter(|block| (logical..logical + length).contains(block)) {
                let sector = (physical + block - logical) * 8;
                self.vm.sim("d-main").inject_flushed(Fault::unwritable(sector..sector + 8))?;
                broken += 1;
            }
        }
        ensure!(broken == count, "{broken} of {count} blocks found in\n{listing}");
        Ok(blocks)
    }

    /// What writing the blocks gave: exit status and milliseconds of each.
    fn written(&mut self, blocks: Range<u64>) -> Result<Vec<(u64, i32, u64)>> {
        let wait = "for i in {1..1500}; do [ -e /run/writer.done ] && break; sleep 0.1; done; [ -e /run/writer.done ]";
        if !self.vm.run_for(Duration::from_secs(200), wait)?.success() {
            let evidence = "cat /run/written; remap-guardian status data; dmsetup status; systemctl status remap-guardian;
                remap-guardian history data | tail -n 30; journalctl -n 30 -u remap-guardian; dmesg | tail -n 20; ps ax | grep -w D";
            bail!("the writes take too long: {}", self.vm.run(evidence)?);
        }
        let text = self.vm.ok("cat /run/written")?;
        let parse = |line: &str| -> Option<(u64, i32, u64)> {
            let mut fields = line.split(' ');
            Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
        };
        let written: Vec<_> = text.lines().filter_map(parse).collect();
        ensure!(written.iter().map(|w| w.0).eq(blocks), "not every block was tried:\n{text}");
        let slowest = written.iter().map(|w| w.2).max().unwrap_or_default();
        let failed = written.iter().filter(|w| w.1 != 0).count();
        println!("{} writes, {failed} failed, the slowest took {slowest} ms", written.len());
        ensure!(slowest < HOLD_MS + SLOW_MS, "a write waited {slowest} ms");
        Ok(written)
    }

    fn start_writing(&mut self, blocks: Range<u64>) -> Result<()> {
        let list = blocks.map(|block| block.to_string()).collect::<Vec<_>>().join(" ");
        self.vm.put("/run/blocks", &list)?;
        self.vm.put("/run/write-blocks", WRITE_BLOCKS)?;
        self.vm.ok("rm -f /run/writer.done; ( bash /run/write-blocks; touch /run/writer.done ) >/dev/null 2>&1 &")?;
        Ok(())
    }

    /// The blocks hold what was written.
    fn hold(&mut self, blocks: impl Iterator<Item = u64>) -> Result<()> {
        let list = blocks.map(|block| block.to_string()).collect::<Vec<_>>().join(" ");
        let compare = format!(
            "sync; echo 3 >/proc/sys/vm/drop_caches; for b in {list}; do
                cmp <(dd if=/srv/data/file bs=4096 skip=$b count=1 iflag=direct status=none) <(dd if=/run/new bs=4096 skip=$b count=1 status=none) || exit 1
            done"
        );
        self.vm.ok(&compare)?;
        Ok(())
    }

    fn history(&mut self) -> Result<String> {
        self.vm.ok("remap-guardian history data --json")
    }

    fn restarts_while_io_runs(&mut self) -> Result<()> {
        let blocks = self.break_blocks(24)?;
        self.start_writing(0..64)?;
        for _ in 0..3 {
            self.vm.ok("systemctl restart remap-guardian && sleep 0.5")?;
        }
        let written = self.written(0..64)?;
        self.used = 64;
        if written.iter().any(|w| w.1 != 0) {
            let evidence = self
                .vm
                .run("journalctl -b -o short-monotonic --no-hostname | tail -n 120; remap-guardian history data | tail -n 40")?;
            bail!("a write failed while the daemon was restarted: {written:?}\n{evidence}");
        }
        self.hold(0..64)?;
        let history = self.history()?;
        ensure!(history.contains("\"adopted\""), "no adoption is told: {history}");
        ensure!(!history.contains("\"alert\""), "an alert: {history}");
        let cured = remapped_sectors(&history)?;
        ensure!(cured == 8 * (blocks.end - blocks.start), "{cured} sectors cured of {blocks:?}: {history}");
        println!("three restarts under I/O: nothing lost");
        Ok(())
    }

    fn killed_while_sectors_fail(&mut self) -> Result<()> {
        let blocks = self.break_blocks(40)?;
        self.start_writing(blocks.clone())?;
        for _ in 0..3 {
            // systemd starts it again after a second.
            self.vm.ok("systemctl kill -s KILL remap-guardian && sleep 1.7")?;
        }
        let written = self.written(blocks)?;
        self.hold(written.iter().filter(|w| w.1 == 0).map(|w| w.0))?;
        let after = self.vm.run("remap-guardian status data; journalctl -u remap-guardian -o cat | grep -c KILL")?;
        ensure!(after.success(), "not well after it was killed: {after}");
        let failed: Vec<u64> = written.iter().filter(|w| w.1 != 0).map(|w| w.0).collect();
        for block in &failed {
            self.start_writing(*block..block + 1)?;
            let again = self.written(*block..block + 1)?;
            ensure!(again[0].1 == 0, "block {block} cannot be written after the daemon is back");
        }
        println!("killed three times: {} writes got their error, all in time, and none that succeeded was lost", failed.len());
        Ok(())
    }

    /// Another policy for this disk, put in force and taken back while the device is in use; each decision is explained.
    /// Kills, power cuts and pruning leave the history a chain.
    fn chain_holds(&mut self) -> Result<Value> {
        let report: Value = serde_json::from_str(&self.vm.ok("remap-guardian history --verify --json")?)?;
        ensure!(report["holds"] == true && report["entries"].as_u64() > Some(0), "{report}");
        Ok(report)
    }

    fn history_is_pruned(&mut self) -> Result<()> {
        let before = self.chain_holds()?;
        let status = self.vm.ok("remap-guardian status data --json")?;
        println!("{}", self.vm.ok("remap-guardian history prune --keep 3")?);
        let after = self.chain_holds()?;
        println!("{}", self.vm.ok("remap-guardian history --verify")?);
        let number = |report: &Value, at: &str| report.pointer(at).and_then(Value::as_u64).unwrap_or_default();
        ensure!(number(&before, "/first/number") == 1 && number(&after, "/pruned/entries") > 0, "{before} {after}");
        ensure!(number(&after, "/first/number") == number(&after, "/pruned/last/number") + 1, "{after}");
        ensure!(self.history()?.contains("\"pruned\""), "what was pruned is not told");
        let remaps =
            |status: &str| -> Result<Value> { Ok(serde_json::from_str::<Value>(status)?["sets"][0]["target"]["remaps"].clone()) };
        let kept = self.vm.ok("systemctl restart remap-guardian && for i in {1..100}; do remap-guardian status data >/dev/null && break; sleep 0.2; done; remap-guardian status data --json")?;
        ensure!(remaps(&status)? == remaps(&kept)? && remaps(&kept)?.as_u64() > Some(0), "{status}\n{kept}");
        self.chain_holds().map(drop)
    }

    fn policies(&mut self) -> Result<()> {
        let drop_in = "/etc/remap-guardian/policies/observe.d/nvme.toml";
        let blocks = self.break_blocks(1)?;
        self.vm.put(drop_in, "[[match]]\ntransport = \"nvme\"")?;
        let said = self.vm.ok("remap-guardian policy check && remap-guardian policy reload && remap-guardian policy list")?;
        ensure!(said.contains("“data”: observe (it matches transport = “nvme”)"), "{said}");
        let shown = self.vm.ok("remap-guardian policy show --set data; remap-guardian status data")?;
        ensure!(shown.contains(drop_in) && shown.contains("observe: it matches"), "{shown}");
        self.start_writing(blocks.clone())?;
        ensure!(self.written(blocks.clone())?[0].1 != 0, "cured under a policy that only observes");
        let explain = "remap-guardian policy explain $(remap-guardian history data --json | tail -n 1 | jq .number)";
        let explained = self.vm.ok(explain)?;
        println!("$ {explain}\n{explained}");
        ensure!(explained.contains("observe/write_error.action") && explained.contains("the policy only watches"), "{explained}");
        self.vm.put(drop_in, "[[match]]\ntransprot = \"nvme\"")?;
        let refused = self.vm.run("remap-guardian policy reload")?;
        ensure!(refused.status == 1 && refused.stderr.contains("line 2") && refused.stderr.contains("stay"), "{refused}");
        ensure!(self.vm.ok("remap-guardian status data")?.contains("observe: it matches"), "a broken file changed the policy");
        self.vm.ok(&format!("rm {drop_in} && systemctl kill -s HUP remap-guardian"))?;
        self.vm.ok(
            "for i in {1..20}; do remap-guardian status data | grep 'balanced: it is the default' && break; sleep 0.5; done",
        )?;
        self.start_writing(blocks.clone())?;
        ensure!(self.written(blocks.clone())?[0].1 == 0, "not cured under the default policy");
        self.hold(blocks)?;
        let explained = self.vm.ok(explain)?;
        ensure!(explained.contains("balanced/write_error") && explained.contains("balanced.toml"), "{explained}");
        Ok(())
    }

    /// Everything that matters is told, once, also what happened while nobody listened.
    fn told(&mut self) -> Result<()> {
        self.vm.put(
            "/etc/remap-guardian/notify",
            "#!/bin/sh\nread -r line; echo \"$REMAP_GUARDIAN_URGENCY $line\" >>/root/told\n",
        )?;
        self.vm.ok("chmod +x /etc/remap-guardian/notify && systemctl start remap-guardian-notify; for i in {1..100}; do [ -s /var/lib/remap-guardian/notified ] && exit; sleep 0.2; done; exit 1")?;
        self.vm.ok("systemctl stop remap-guardian-notify; rm -f /root/told; remap-guardian remap data 77777; systemctl stop remap-guardian")?;
        let blocks = self.break_blocks(1)?;
        self.start_writing(blocks.clone())?;
        ensure!(self.written(blocks)?[0].1 != 0, "a bad sector was written without a daemon");
        self.vm.ok("systemctl start remap-guardian-notify; sleep 1; systemctl start remap-guardian")?;
        self.vm.ok("for i in {1..40}; do grep -q . /root/told && exit; sleep 0.5; done; exit 1")?;
        let told =
            self.vm.ok("for i in {1..100}; do [ \"$(cat /var/lib/remap-guardian/notified)\" = \"$(remap-guardian history --json | tail -n 1 | jq .number)\" ] && break; sleep 0.2; done; cat /root/told; systemctl stop remap-guardian-notify; cat /var/lib/remap-guardian/notified")?;
        println!("$ cat /root/told\n{told}");
        let lines: Vec<&str> = told.lines().collect();
        ensure!(lines.iter().any(|line| line.starts_with("alarm {") || line.starts_with("warning {")), "{told}");
        ensure!(
            !told.contains("\"kind\":\"remapped\"") && !told.contains("notice"),
            "a cure that saved everything is no warning: {told}"
        );
        let newest = self.vm.ok("remap-guardian history --json | tail -n 1 | jq .number")?;
        ensure!(lines.last().copied() == Some(newest.trim()), "{newest} is the newest: {told}");
        Ok(())
    }

    fn stopped(&mut self) -> Result<()> {
        let blocks = self.break_blocks(2)?;
        self.vm.ok("systemctl stop remap-guardian")?;
        self.start_writing(blocks.clone())?;
        let written = self.written(blocks.clone())?;
        ensure!(written.iter().all(|w| w.1 != 0), "a bad sector was written without a daemon: {written:?}");
        self.vm.ok("systemctl start remap-guardian")?;
        self.start_writing(blocks.clone())?;
        let written = self.written(blocks.clone())?;
        ensure!(written.iter().all(|w| w.1 == 0), "not cured once the daemon is back: {written:?}");
        self.hold(blocks)?;
        self.vm.ok("sync; sha256sum /srv/data/file >/root/file.sum; sync")?;
        println!("stopped: an error in time; started again: cured");
        Ok(())
    }

    /// The set stays closed, says why, and the boot goes on.
    fn stays_closed(&mut self, why: &str) -> Result<()> {
        // Boot has waited for “nofail” mounts no more than it was told to.
        let state = self
            .vm
            .run("systemctl is-system-running; systemctl is-active multi-user.target remap-guardian; systemctl --failed")?;
        ensure!(state.stdout.contains("active\nactive"), "the boot did not go on: {state}");
        ensure!(!self.vm.run("findmnt /srv/data || ls /dev/mapper/data")?.success(), "it is open");
        let status = self.vm.run("remap-guardian status data")?;
        println!("$ remap-guardian status data\n{status}");
        ensure!(status.status == 2 && status.stdout.contains(why), "status does not say {why:?}: {status}");
        let tell = "for i in {1..40}; do remap-guardian history data | tail -n 1 | grep 'NOT opened' && break; sleep 1; done";
        let history = self.vm.ok(tell)?;
        ensure!(history.contains(why), "history does not say {why:?}: {history}");
        let restore = self.vm.run("remap-guardian restore data")?;
        ensure!(restore.status == 1 && restore.stderr.contains(why), "restore does not say {why:?}: {restore}");
        println!("closed: {history}");
        Ok(())
    }

    fn spare_missing_at_boot(&mut self) -> Result<()> {
        self.vm.attach("d-spare", false);
        self.vm.power_cut(1)?;
        self.stays_closed("spare")
    }

    fn main_missing_at_boot(&mut self) -> Result<()> {
        self.vm.attach("d-spare", true);
        self.vm.attach("d-main", false);
        self.vm.power_cut(2)?;
        self.stays_closed("the main device")
    }

    fn whole_again(&mut self) -> Result<()> {
        // A short wait is for the boots without a disk.
        self.vm.ok("sed -i s/device-timeout=20s/device-timeout=90s/ /etc/fstab && sync")?;
        self.vm.attach("d-main", true);
        self.vm.power_cut(3)?;
        if !self.vm.run("findmnt /srv/data")?.success() {
            let evidence = "remap-guardian status; systemctl status srv-data.mount dev-mapper-data.device; journalctl -b -n 60";
            bail!("not mounted by the boot: {}", self.vm.run(evidence)?);
        }
        self.vm.ok("sha256sum -c /root/file.sum && remap-guardian status")?;
        self.chain_holds()?;
        println!("both are back: open, mounted, every checksum right");
        Ok(())
    }
}
