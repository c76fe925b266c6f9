//! The interface's reference, run as it is printed: its examples, its checks, its troubleshooting. Needs what `make stage`
//! leaves, in the folder that RIG_PAYLOAD names.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use remap_guardian::sim::disk::Fault;
use rig::{Bus, Disk, Output, Vm};

const REFERENCE: &str = include_str!("../../fixtures/dm-remap-v4-api-reference.md");
const PROMETHEUS: &str = include_str!("../../kmod/prometheus.awk");
const PLUGIN: &str = "/usr/lib/nagios/plugins/check_dm_remap";
/// For scripts that start some hundred programs, or write some hundred MiB, in a guest that may be emulated.
const LONG: Duration = Duration::from_secs(400);

/// The first block of commands that follows a line of the reference.
fn printed(after: &str) -> Result<&'static str> {
    let (_, rest) = REFERENCE.split_once(&format!("\n{after}\n")).with_context(|| format!("no “{after}” in the reference"))?;
    let (_, rest) = rest.split_once("```bash\n").with_context(|| format!("no commands after “{after}”"))?;
    Ok(rest.split_once("\n```").with_context(|| format!("the commands after “{after}” have no end"))?.0)
}

struct Reader {
    vm: Vm,
    wrong: Vec<String>,
}

impl Reader {
    /// Runs commands of the reference as they are printed, from a file, as a reader would.
    fn run(&mut self, after: &str) -> Result<Output> {
        self.run_with("", after)
    }

    fn run_with(&mut self, prefix: &str, after: &str) -> Result<Output> {
        self.vm.put("/root/printed.sh", printed(after)?)?;
        let output = self.vm.run_for(LONG, &format!("export TERM=linux; {prefix} bash /root/printed.sh"))?;
        println!("\n--- {after}\n{output}");
        Ok(output)
    }

    /// Goes on if it is not so, to tell of all.
    fn check(&mut self, is_so: bool, otherwise: impl Into<String>) {
        if !is_so {
            let otherwise = otherwise.into();
            println!("✗ {otherwise}");
            self.wrong.push(otherwise);
        }
    }

    fn says(&mut self, text: &str, words: &[&str]) {
        for word in words {
            self.check(text.contains(word), format!("no {word:?} in:\n{text}"));
        }
    }

    fn plugin(&mut self, device: &str) -> Result<Output> {
        let output = self.vm.run(&format!("{PLUGIN} {device}"))?;
        println!("\n--- check_dm_remap {device}\n{output}");
        Ok(output)
    }
}

/// One guest serves all of this, for a boot costs more than the rest.
#[test]
fn the_reference_works_as_printed() -> Result<()> {
    let payload = rig::payload()?;
    // Far from both ends, where udev reads.
    let bad = Disk::new("main", Bus::Scsi, 64).fault(Fault::unreadable(65_536..65_544));
    let vm = Vm::new().disk(bad).disk(Disk::new("spare", Bus::Scsi, 8)).payload(&payload).boot()?;
    let mut reader = Reader { vm, wrong: Vec::new() };
    reader.vm.install()?;
    basic_setup(&mut reader)?;
    remaps(&mut reader)?;
    resizes(&mut reader)?;
    cleanup(&mut reader)?;
    my_remap(&mut reader)?;
    monitoring(&mut reader)?;
    health(&mut reader)?;
    figures(&mut reader)?;
    unloading(&mut reader)?;
    ensure!(reader.wrong.is_empty(), "{} things are not as printed:\n{}", reader.wrong.len(), reader.wrong.join("\n"));
    Ok(())
}

fn basic_setup(reader: &mut Reader) -> Result<()> {
    ensure!(!reader.vm.run("lsmod | grep -q dm_remap")?.success(), "the module is loaded already");
    let made = reader.run("### Example 1: Basic Setup")?;
    // Both devices become the same: losetup -f is asked twice before the answer is used.
    reader.check(made.success(), format!("example 1: {made}"));
    reader.says(&made.stdout, &["/dev/mapper/test-remap", "/tmp/main"]);
    let table = reader.vm.ok("lsmod | grep -o dm_remap_v4_real && dmsetup table test-remap")?;
    reader.check(table.ends_with("0 1024000 dm-remap-v4 7:0 7:0"), table);
    Ok(())
}

fn remaps(reader: &mut Reader) -> Result<()> {
    let output = reader.run("### Example 2: Add Remaps & Monitor")?;
    reader.check(output.success(), format!("example 2: {output}"));
    let prefix = "dm-remap v4.0 real: ";
    let words =
        ["Device status:", "Added remap: 100 → 50 (length: 50)", "Added remap: 1000 → 500 (length: 50)", "I/O Statistics:"];
    reader.says(&output.stdout, &words.map(|word| format!("{prefix}{word}")).each_ref().map(String::as_str));
    reader.says(&output.stdout, &["  Average lookup time: ", " μs", "Health score: 100/100", "  Trend: STABLE"]);
    let log = reader.vm.ok("dmesg")?;
    reader.says(
        &log,
        &[
            "Added remap: 1000 → 500 (length: 50)",
            "dm-remap v4.0 real: Health Status:",
            "  Main device: /dev/loop0 (sectors: 1024000)",
        ],
    );
    let status = reader.vm.ok("dmsetup status test-remap")?;
    reader.check(status.starts_with("0 1024000 dm-remap-v4 10 0 ACTIVE"), status);
    Ok(())
}

fn resizes(reader: &mut Reader) -> Result<()> {
    let output = reader.run("### Example 3: Observe Resize Events")?;
    reader.check(output.success(), format!("example 3: {output}"));
    let (_, observed) = output.stdout.split_once("Resize events observed:").context("example 3 did not come to its end")?;
    let lines = ["Adaptive hash table resize: 64 → 128 buckets", "Adaptive hash table resize: 128 → 256 buckets"];
    reader.says(observed, &lines);
    reader.says(&output.stdout, &["... 150 remaps added"]);
    let status = reader.vm.ok("dmsetup status test-remap; dmsetup message test-remap 0 status")?;
    reader.says(
        &status,
        &["dm-remap-v4 200 0 ACTIVE", "Remaps active: 200", "Hash table size: 256", "Load factor: 0.", "Resize count: 2"],
    );
    let slabs = reader.vm.ok("cat /proc/slabinfo")?;
    reader.check(slabs.contains("\nremap_entry "), "no remap_entry in /proc/slabinfo");
    Ok(())
}

fn cleanup(reader: &mut Reader) -> Result<()> {
    // Example 1 made main and spare one device, on which the remaps of example 3 overlap with what is not remapped.
    reader.vm.ok("dmsetup message test-remap 0 clear_all && mkfs.ext4 -q -E nodiscard /dev/mapper/test-remap")?;
    reader.vm.ok("mkdir -p /mnt/remap && mount /dev/mapper/test-remap /mnt/remap && echo kept >/mnt/remap/file")?;
    // udev may look at the device just then: the commands are as they are printed, and dmsetup tries again.
    let patient = "#!/bin/sh\n[ \"$1\" != remove ] || { shift; set -- remove --retry \"$@\"; }\nexec /usr/sbin/dmsetup \"$@\"\n";
    reader.vm.put("/usr/local/sbin/dmsetup", patient)?;
    reader.vm.ok("chmod +x /usr/local/sbin/dmsetup; udevadm settle")?;
    let output = reader.run("### Example 5: Unmount & Cleanup")?;
    reader.vm.ok("rm /usr/local/sbin/dmsetup")?;
    reader.says(&output.stdout, &["Cleanup complete"]);
    let left = reader.vm.run("dmsetup ls; losetup -a; ls -d /mnt/remap /tmp/main /tmp/spare")?;
    reader.check(!left.stdout.contains("test-remap") && !left.stdout.contains('/'), format!("left behind: {left}"));
    Ok(())
}

/// The device of the rest, on disks that can fail.
fn my_remap(reader: &mut Reader) -> Result<()> {
    let (main, spare) = (reader.vm.path("main"), reader.vm.path("spare"));
    let create = format!("echo \"0 $(blockdev --getsz {main}) dm-remap-v4 {main} {spare}\" | dmsetup create my-remap");
    reader.vm.ok(&create)?;
    let again =
        reader.vm.run("dmsetup message my-remap 0 'add_remap 1000 5000 100' && dmsetup message my-remap 0 'frobnicate'")?;
    reader.check(again.status == 1, format!("an unknown command: {again}"));
    let log = reader.vm.ok("dmesg | tail -5")?;
    reader.says(&log, &["Added remap: 1000 → 5000 (length: 100)", "frobnicate failed: Unknown command (code -1, errno -22)"]);
    let ready = "status=$(sudo dmsetup status my-remap)\necho \"$status\" | grep -q \"ACTIVE\" && echo \"Ready\"";
    ensure!(REFERENCE.contains(ready), "the reference asks otherwise whether a device is ready");
    let ready = reader.vm.ok(ready)?;
    reader.says(&ready, &["Ready"]);
    Ok(())
}

fn monitoring(reader: &mut Reader) -> Result<()> {
    let output = reader.run_with("timeout 25", "### Example 4: Monitoring Script")?;
    reader.check(output.status == 124, format!("the monitoring script ended: {}", output.status));
    reader.says(
        &output.stdout,
        &[
            "Main device: /dev/",
            "Remaps active: 1",
            "Remap misses: ",
            "Average lookup time: ",
            "Health score: 100/100",
            "Trend: STABLE",
        ],
    );
    reader.check(output.stdout.matches("Refreshing in 5 seconds").count() >= 2, "the monitoring script ran only once");
    Ok(())
}

/// Reads that fail, each followed by `good` that succeed.
fn failing_reads(reader: &mut Reader, count: u32, good: u32) -> Result<()> {
    let read = "dd if=/dev/mapper/my-remap of=/dev/null bs=4096 count=1 iflag=direct status=none";
    let script = format!(
        "for i in $(seq {count}); do ! {read} skip=8192 || exit 1; for j in $(seq {good}); do {read} || exit 1; done; done"
    );
    reader.vm.ok(&script)?;
    Ok(())
}

fn health(reader: &mut Reader) -> Result<()> {
    const NAGIOS: &str = "**Monitoring Integration:**";
    let well = reader.plugin("my-remap")?;
    reader.check(well.status == 0 && well.stdout.starts_with("OK: my-remap: health 100/100"), format!("{well}"));

    failing_reads(reader, 4, 1)?;
    let ill = reader.plugin("my-remap")?;
    reader.check(ill.status == 1 && ill.stdout.starts_with("WARNING: my-remap: health 80/100"), format!("{ill}"));
    // In a row: 10 more.
    failing_reads(reader, 12, 0)?;
    let dying = reader.plugin("my-remap")?;
    reader.check(dying.status == 2 && dying.stdout.starts_with("CRITICAL: my-remap: health 10/100"), format!("{dying}"));
    let words = ["Max consecutive errors: 1", "Trend: CRITICAL"];
    let reply = reader.vm.ok("dmsetup message my-remap 0 health")?;
    reader.says(&reply, &words);
    // As printed it compares “10/100” with numbers, which is no error to the shell's if, and so finds all well.
    let printed = reader.run(NAGIOS)?;
    reader.check(printed.status == 0 && printed.stdout == "OK: Health score 10/100", format!("{printed}"));

    let stranger = reader.plugin("nosuch")?;
    reader.check(stranger.status == 3 && stranger.stdout.starts_with("UNKNOWN: "), format!("{stranger}"));
    // A score that no number of errors makes.
    reader.vm.put("/root/fake/dmsetup", "#!/bin/sh\necho 'Health Status:'\necho '  Health score: 12/100'")?;
    let fake = reader.vm.run(&format!("chmod +x /root/fake/dmsetup; PATH=/root/fake:$PATH {PLUGIN} my-remap"))?;
    reader.check(fake.status == 2, format!("{fake}"));
    Ok(())
}

fn figures(reader: &mut Reader) -> Result<()> {
    let base = "/sys/kernel/dm_remap";
    for (file, value) in [("active_remaps", "1"), ("io_errors", "16"), ("health_score", "10")] {
        let got = reader.vm.ok(&format!("cat {base}/{file}"))?;
        reader.check(got == value, format!("{file} is {got}, not {value}"));
    }
    // What devices had counted that are gone is in it.
    let total: u64 = reader.vm.ok(&format!("cat {base}/total_remaps"))?.parse()?;
    reader.check(total >= 201, format!("only {total} remaps were ever created"));
    reader.vm.put("/root/prometheus.awk", PROMETHEUS)?;
    let parsed = reader.vm.run(&format!("cat {base}/all_stats; awk -f /root/prometheus.awk {base}/all_stats"))?;
    reader.check(parsed.success() && parsed.stdout.ends_with("\n7"), format!("{parsed}"));
    let debug = reader.vm.ok("cat /sys/module/dm_remap_v4_real/parameters/{debug,gc_interval}")?;
    reader.check(debug == "N\n60", debug.clone());
    Ok(())
}

fn unloading(reader: &mut Reader) -> Result<()> {
    let busy = reader.vm.run("modprobe -r dm_remap_v4_real")?;
    reader.check(!busy.success() && busy.stderr.contains("in use"), format!("{busy}"));
    reader.vm.ok("dmsetup remove --retry my-remap && modprobe -r dm_remap_v4_real && modprobe dm_remap_v4_real debug=1")?;
    reader.vm.ok("dmsetup targets | grep '^dm-remap-v4' && modprobe -r dm_remap_v4_real")?;
    let refused = reader.vm.run("modprobe dm_remap_v4_real gc_interval=0")?;
    reader.check(!refused.success(), "gc_interval=0 was taken");
    Ok(())
}
