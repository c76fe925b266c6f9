//! What only real drivers do: SCSI sense data, time-outs and transport errors as a drive reports them, and disks that are
//! pulled while I/O runs and while a write is held. Needs what `make stage` leaves, in the folder that RIG_PAYLOAD names.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use remap_guardian::sim::disk::Fault;
use rig::{Bus, Disk, Vm};
use serde_json::Value;

/// What the SCSI layer takes for a command, in this guest, s.
const SCSI_TIMEOUT: u64 = 3;
/// A failed write waits at most this long (the setting `hold_ms`), and a guest may be slow.
const BOUND_MS: u64 = 10_000 + 10_000;

/// Sectors from here on do not read where scsi_debug is told so.
const BAD: u64 = 0x1234;

/// What the kernel said of an entry of history.
fn told_by_the_kernel(entry: &Value) -> Vec<String> {
    let lines = entry["evidence"].as_array().into_iter().flatten().filter_map(Value::as_str);
    lines.filter(|line| line.starts_with("kernel: ")).map(str::to_owned).collect()
}

struct Trial {
    vm: Vm,
}

/// One guest serves all of this, for a boot costs more than the rest.
#[test]
fn drives_fail_as_drives_do() -> Result<()> {
    let payload = rig::payload()?;
    // scsi_debug can fail single commands from Linux 6.7 on.
    let kernels = rig::Guest::find()?.kernels()?;
    let newest = kernels.last().context("no kernel")?;
    let mut vm = Vm::new().kernel(&newest.version).payload(&payload);
    for (name, bus) in
        [("sense-spare", Bus::Nvme), ("a-main", Bus::Scsi), ("a-spare", Bus::Nvme), ("b-main", Bus::Scsi), ("b-spare", Bus::Nvme)]
    {
        vm = vm.disk(Disk::new(name, bus, if name.ends_with("main") { 48 } else { 16 }));
    }
    let mut trial = Trial { vm: vm.boot()? };
    trial.vm.install()?;
    trial.vm.ok("systemctl enable --now remap-guardian && dmesg -C")?;
    if newest.version.starts_with("6.1.") {
        println!("SKIPPED: scsi_debug of Linux {} cannot fail single commands", newest.version);
    } else {
        trial.true_sense()?;
    }
    trial.unused_spare_is_pulled("a")?;
    trial.main_is_pulled("b")?;
    trial.nothing_is_left()
}

impl Trial {
    fn create(&mut self, set: &str) -> Result<()> {
        let (main, spare) = (self.vm.path(&format!("{set}-main")), self.vm.path(&format!("{set}-spare")));
        self.vm.ok(&format!("remap-guardian create {set} --main {main} --spare {spare}"))?;
        Ok(())
    }

    /// Remaps of a set, and its history as JSON values.
    fn remaps(&mut self, set: &str) -> Result<u64> {
        let status = self.vm.ok(&format!("dmsetup status {set}"))?;
        status.split(' ').nth(3).and_then(|word| word.parse().ok()).with_context(|| status.clone())
    }

    fn history(&mut self, set: &str) -> Result<Vec<Value>> {
        let text = self.vm.ok(&format!("remap-guardian history {set} --json"))?;
        text.lines().map(|line| serde_json::from_str(line).context(line.to_owned())).collect()
    }

    /// Writes one block straight to the device: exit status and ms.
    fn write(&mut self, set: &str, block: u64) -> Result<(i32, u64)> {
        let script = format!(
            "start=$(date +%s%3N); timeout 55 dd if=/dev/urandom of=/dev/mapper/{set} bs=4096 seek={block} count=1 oflag=direct conv=nocreat status=none; \
            echo $? $(($(date +%s%3N) - start))"
        );
        let said = self.vm.ok(&script)?;
        let (status, ms) = said.trim().split_once(' ').with_context(|| said.clone())?;
        Ok((status.parse()?, ms.parse()?))
    }

    /// A medium error moves the block. A time-out and a transport error, whatever they do to the application, cost no spare.
    fn true_sense(&mut self) -> Result<()> {
        let disk = self.vm.ok(
            "modprobe scsi_debug dev_size_mb=32 physblk_exp=3 && udevadm settle && lsblk -dno NAME,MODEL | awk '/scsi_debug/ { print $1 }'",
        )?;
        let disk = disk.trim().to_owned();
        self.vm.ok(&format!("echo {SCSI_TIMEOUT} >/sys/block/{disk}/device/timeout"))?;
        let spare = self.vm.path("sense-spare");
        self.vm.ok(&format!("remap-guardian create sense --main /dev/{disk} --spare {spare}"))?;
        let address = self.vm.ok(&format!("basename $(readlink /sys/block/{disk}/device)"))?;
        let errors = format!("/sys/kernel/debug/scsi_debug/{}/error", address.trim());
        self.vm.ok(&format!("mountpoint -q /sys/kernel/debug || mount -t debugfs debugfs /sys/kernel/debug; ls {errors}"))?;
        // Of WRITE(10): how often (0 ends it, a negative number that often), host byte, driver byte, status, sense key, code, qualifier.
        let inject = |kind: u8, count: i32, rest: &str| format!("echo '{kind} {count} 0x2a {rest}' >{errors}");
        let clear = format!("echo '- 2 0x2a' >{errors}; echo '- 0 0x2a' >{errors}; true");
        for (block, what, rest, class, sense) in [
            (100, "medium error, unrecovered", "0 0 0x2 0x3 0x11 0x0", "medium", "Medium Error, Unrecovered read error"),
            (200, "hardware error", "0 0 0x2 0x4 0x44 0x0", "target", "Hardware Error, Internal target failure"),
        ] {
            let before = self.remaps("sense")?;
            self.vm.ok(&inject(2, 1, rest))?;
            let (status, ms) = self.write("sense", block)?;
            self.vm.ok(&clear)?;
            println!("{what}: exit {status} after {ms} ms");
            ensure!(status == 0 && ms < BOUND_MS, "{what}: a write that the spare could take failed, or took {ms} ms");
            ensure!(self.remaps("sense")? == before + 1, "{what}: not one remap");
            let last =
                self.history("sense")?.into_iter().rfind(|entry| entry["kind"] == "remapped").context("no remap in history")?;
            ensure!(last["class"] == class && last["remap"]["main"]["start"] == block * 8, "{what}: {last}");
            // Told by the tracepoint, by the log and by the driver, it is one event.
            let event = format!("kernel: block_rq_error: {disk}, write of 8 sectors at {}: {class} ({sense})", block * 8);
            let kernel = told_by_the_kernel(&last);
            println!("{what}: {kernel:?}");
            ensure!(kernel == [event], "{what}: {last}");
        }
        let before = self.remaps("sense")?;
        // DID_TRANSPORT_FAILFAST: what a path that is gone gives.
        self.vm.ok(&inject(2, 1, "0xf 0 0 0 0 0"))?;
        let (status, ms) = self.write("sense", 300)?;
        self.vm.ok(&clear)?;
        println!("transport error: exit {status} after {ms} ms");
        ensure!(status != 0 && ms < 9_000, "a transport error was held for {ms} ms, exit {status}");
        // The command never ends: the SCSI layer aborts it and tries again, which succeeds.
        self.vm.ok(&inject(0, -1, ""))?;
        let (status, ms) = self.write("sense", 400)?;
        self.vm.ok(&clear)?;
        println!("time-out: exit {status} after {ms} ms");
        ensure!(status == 0 && ms >= SCSI_TIMEOUT * 1_000, "the time-out was not met: exit {status} after {ms} ms");
        ensure!(self.remaps("sense")? == before, "an error that is not of the medium cost spare space");
        let history = self.history("sense")?;
        let transport = history.iter().any(|entry| entry["kind"] == "error" && entry["class"] == "transport");
        ensure!(transport, "history says nothing of the transport error: {history:?}");
        // A path that fails again and again: meanwhile nothing is believed to be a bad sector, and nothing is spent.
        self.vm.ok("mkdir -p /etc/remap-guardian/policies/balanced.d && cd /etc/remap-guardian/policies/balanced.d &&
            printf '[storm]\\nerrors_per_minute = 4\\n' >storm.toml && remap-guardian policy reload")?;
        self.vm.ok(&inject(2, 1, "0xf 0 0 0 0 0"))?;
        for block in 500..504 {
            let (status, _) = self.write("sense", block)?;
            ensure!(status != 0, "a write on a path that is gone succeeded");
        }
        self.vm.ok(&clear)?;
        self.vm.ok("for i in {1..50}; do remap-guardian status sense | grep STORM && exit; sleep 0.2; done; exit 1")?;
        self.vm.ok(&inject(2, 1, "0 0 0x2 0x3 0x11 0x0"))?;
        let (status, ms) = self.write("sense", 600)?;
        self.vm.ok(&clear)?;
        println!("medium error in a storm: exit {status} after {ms} ms");
        ensure!(status != 0 && ms < BOUND_MS, "medium error in a storm: exit {status} after {ms} ms");
        ensure!(self.remaps("sense")? == before, "spare space was spent in a storm");
        let told = self.vm.ok("for i in {1..50}; do remap-guardian history sense | grep -q 'ALERT: 4 errors' && break; sleep 0.2; done; sleep 1; remap-guardian history sense")?;
        println!("{told}");
        ensure!(told.contains("ALERT: 4 errors") && told.contains("balanced/storm.errors_per_minute"), "history: {told}");
        self.vm.ok("rm /etc/remap-guardian/policies/balanced.d/storm.toml && remap-guardian policy reload")?;
        self.what_the_kernel_tells(&disk)?;
        self.vm.ok("for i in {1..20}; do dmsetup remove sense && break; sleep 0.5; done; ! dmsetup info sense 2>/dev/null")?;
        Ok(())
    }

    /// With the tracepoint a case has the application's own request as its first evidence, however often the place is tried then;
    /// after a daemon that was killed, too. Without it the kernel log has to do.
    fn what_the_kernel_tells(&mut self, disk: &str) -> Result<()> {
        let instance = "/sys/kernel/tracing/instances/remap-guardian";
        let there = "(for i in {1..100}; do remap-guardian status sense >/dev/null && exit; sleep 0.2; done; exit 1)";
        self.vm.ok(&format!("systemctl kill -s KILL remap-guardian; sleep 1.5; [ -e {instance} ] && {there}"))?;
        let follows = format!(
            "for i in {{1..50}}; do [ \"$(cat {instance}/events/block/block_rq_error/enable)\" = 1 ] && exit; sleep 0.2; done; exit 1"
        );
        self.vm.ok(&follows)?;
        // From here on ten sectors do not read.
        self.vm.ok("echo 2 >/sys/bus/pseudo/drivers/scsi_debug/opts")?;
        let read =
            |block: u64| format!("! dd if=/dev/mapper/sense of=/dev/null bs=64k skip={block} count=1 iflag=direct status=none");
        self.vm.ok(&read(BAD / 128))?;
        let first = self.last_read_error("sense", 0)?;
        let kernel = told_by_the_kernel(&first);
        println!("a read of 64 KiB: {kernel:?}");
        let original = format!("kernel: block_rq_error: {disk}, read of ");
        ensure!(kernel.first().is_some_and(|line| line.starts_with(&original)), "the tracepoint is no source: {first}");
        ensure!(!kernel[0].contains("read of 1 sectors") && kernel.len() <= 3, "a trial is the first evidence: {first}");
        // In an orderly end it is removed; and where tracing is not mounted this is said, and all goes on.
        self.vm.ok(&format!("systemctl stop remap-guardian; [ ! -e {instance} ] && umount /sys/kernel/tracing && dmesg -C"))?;
        // The first read's trials have used up what the kernel prints of such errors in five seconds.
        self.vm.ok(&format!("systemctl start remap-guardian && {there} && sleep 5.5"))?;
        self.vm.ok(&format!("{}; journalctl -u remap-guardian -o cat | grep 'its log has to do'", read(BAD / 128)))?;
        let second = self.last_read_error("sense", first["number"].as_u64().context("no number")?)?;
        let kernel = told_by_the_kernel(&second);
        println!("the same without tracing: {kernel:?}");
        ensure!(kernel.first().is_some_and(|line| line.contains(&format!("critical medium error, dev {disk}"))), "{second}");
        self.vm.ok("echo 0 >/sys/bus/pseudo/drivers/scsi_debug/opts; mount -t tracefs tracefs /sys/kernel/tracing; systemctl restart remap-guardian")?;
        self.vm.ok(&follows)?;
        Ok(())
    }

    /// The last failed read in a set's history behind entry `after`, when it is there.
    fn last_read_error(&mut self, set: &str, after: u64) -> Result<Value> {
        let read = format!("select(.kind == \"error\" and .op == \"read\" and .number > {after})");
        let told = self.vm.ok(&format!(
            "for i in {{1..150}}; do remap-guardian history {set} --json | jq -c '{read}' | grep . && exit; sleep 0.2; done; exit 1"
        ))?;
        Ok(serde_json::from_str(told.lines().last().context("no error in history")?)?)
    }

    /// A spare that serves nothing may go; nobody notices but the daemon.
    fn unused_spare_is_pulled(&mut self, set: &str) -> Result<()> {
        self.create(set)?;
        let spare = self.vm.path(&format!("{set}-spare"));
        let script = format!(
            "( for i in {{1..60}}; do dd if=/dev/urandom of=/dev/mapper/{set} bs=64k seek=$i count=1 oflag=direct conv=nocreat,fsync status=none ||
                echo failed at $i; sleep 0.05; done; echo done ) >/run/{set}.writes 2>&1 &
            sleep 0.5; echo 1 >$(dirname $(grep -l {set}-spare /sys/class/nvme/*/serial))/device/remove; sleep 0.2; [ ! -e {spare} ]"
        );
        self.vm.ok(&script)?;
        let written = self.vm.ok(&format!(
            "for i in {{1..400}}; do grep -q done /run/{set}.writes && break; sleep 0.1; done; cat /run/{set}.writes"
        ))?;
        ensure!(written.trim() == "done", "writes failed when a spare without a remap was pulled: {written}");
        let read = self.vm.run(&format!("dd if=/dev/mapper/{set} of=/dev/null bs=1M iflag=direct status=none"))?;
        ensure!(read.success(), "a read failed after a spare without a remap was pulled: {read}");
        println!("a spare that serves nothing was pulled: no error");
        // A bad sector cannot be cured now: an error, in time.
        self.vm.sim(&format!("{set}-main")).inject_flushed(Fault::unwritable(16000..16008))?;
        let (status, ms) = self.write(set, 2000)?;
        println!("a bad sector without a spare: exit {status} after {ms} ms");
        ensure!(status != 0 && ms < BOUND_MS, "a bad sector without a spare: exit {status} after {ms} ms");
        self.vm.ok(&format!(
            "for i in {{1..40}}; do dmsetup remove {set} && break; sleep 0.5; done; ! dmsetup info {set} 2>/dev/null"
        ))?;
        Ok(())
    }

    /// Main is pulled while writes are under way and one is held: every one of them ends, in time.
    fn main_is_pulled(&mut self, set: &str) -> Result<()> {
        self.create(set)?;
        self.vm.sim(&format!("{set}-main")).inject_flushed(Fault::unwritable(16000..16008))?;
        let main = self.vm.path(&format!("{set}-main"));
        let script = format!(
            "systemctl kill -s STOP remap-guardian
            ( dd if=/dev/urandom of=/dev/mapper/{set} bs=4096 seek=2000 count=1 oflag=direct conv=nocreat status=none; echo held $? ) >/run/{set}.held 2>/dev/null &
            ( for i in {{1..2000}}; do dd if=/dev/urandom of=/dev/mapper/{set} bs=64k seek=$((i % 100)) count=1 oflag=direct conv=nocreat status=none || break; done;
                echo ended ) >/run/{set}.writes 2>/dev/null &
            for i in {{1..50}}; do dmsetup status {set} | awk '{{ exit !($10 > 0) }}' && break; sleep 0.1; done
            dmsetup status {set}; name=$(basename $(readlink -f {main})); echo 1 >/sys/block/$name/device/delete; [ ! -e /sys/block/$name ]"
        );
        let said = self.vm.run_for(Duration::from_secs(60), &script)?;
        println!("{said}");
        ensure!(said.success(), "main cannot be pulled: {said}");
        let wait = format!(
            "for i in {{1..250}}; do grep -q held /run/{set}.held && grep -q ended /run/{set}.writes && break; sleep 0.1; done; cat /run/{set}.held /run/{set}.writes"
        );
        let ended = self.vm.ok(&wait)?;
        ensure!(ended.contains("held 1") && ended.contains("ended"), "I/O to a pulled disk does not end: {ended}");
        println!("main was pulled with a write held and others under way: all ended with an error");
        self.vm.ok("systemctl kill -s CONT remap-guardian; sleep 2; for i in {1..100}; do remap-guardian status >/dev/null; [ $? != 1 ] && exit; sleep 0.2; done; exit 1")?;
        let remapped = self.history(set)?.iter().filter(|entry| entry["kind"] == "remapped").count();
        ensure!(remapped == 0, "a disk that is gone was taken for bad sectors");
        self.vm.ok(&format!(
            "for i in {{1..60}}; do dmsetup remove {set} && break; sleep 0.5; done; ! dmsetup info {set} 2>/dev/null"
        ))?;
        Ok(())
    }

    fn nothing_is_left(&mut self) -> Result<()> {
        self.vm.ok("systemctl stop remap-guardian; for i in {1..40}; do rmmod dm_remap_v4_real && break; sleep 0.5; done; ! grep dm_remap_v4 /proc/modules")?;
        let complaints = self.vm.run("dmesg | grep -E 'BUG|WARNING|Oops|blocked for more|refcount|Call Trace'")?;
        ensure!(complaints.stdout.is_empty(), "the kernel complained: {complaints}");
        println!("the devices and the module are gone, and the kernel has nothing to say");
        Ok(())
    }
}
