//! `remap-guardian scrub`: what does not read is found before an application meets it, on main and on the spare; a scrub outlives the
//! daemon and a reboot, and a disk that is away says nothing about its sectors. What a spare does not read or take moves on it. Needs what `make stage` leaves, in the folder that
//! RIG_PAYLOAD names.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use remap_guardian::sim::disk::Fault;
use rig::{Bus, Disk, Vm};
use serde_json::Value;

/// Where a write moves a block to the spare.
const MOVED: u64 = 40_000;

struct Trial {
    vm: Vm,
}

#[test]
fn a_scrub_finds_what_does_not_read() -> Result<()> {
    let disks = [Disk::new("sc-main", Bus::Nvme, 64), Disk::new("sc-spare", Bus::Scsi, 16)];
    let vm = disks.into_iter().fold(Vm::new(), |vm, disk| vm.disk(disk)).payload(&rig::payload()?).boot()?;
    let mut trial = Trial { vm };
    trial.vm.install()?;
    let (main, spare) = (trial.vm.path("sc-main"), trial.vm.path("sc-spare"));
    trial.vm.ok(&format!(
        "systemctl enable --now remap-guardian && remap-guardian create data --main {main} --spare {spare} && udevadm settle"
    ))?;
    let at = trial.moved()?;
    trial.found(at)?;
    trial.maps()?;
    trial.doctor()?;
    trial.goes_on()?;
    trial.stops()?;
    trial.disk_away()?;
    trial.moves_what_does_not_read()?;
    trial.moves_on_the_spare()
}

impl Trial {
    fn scrub(&mut self, options: &str, status: i32) -> Result<Value> {
        let output = self.vm.run_for(Duration::from_secs(180), &format!("remap-guardian scrub data --json {options}"))?;
        println!("$ scrub data {options}: [{}] {}{}", output.status, output.stdout, output.stderr);
        ensure!(output.status == status, "scrub {options}: {output}");
        Ok(serde_json::from_str::<Value>(&output.stdout)?["scrub"].take())
    }

    /// Waits until the scrub is in a state.
    fn until(&mut self, what: &str, is: impl Fn(&Value) -> bool) -> Result<Value> {
        let began = Instant::now();
        loop {
            let output = self.vm.run("remap-guardian scrub data --look --json")?;
            let scrub =
                serde_json::from_str::<Value>(&output.stdout).map(|mut report| report["scrub"].take()).unwrap_or_default();
            if is(&scrub) {
                println!("  ✓ {what}: {scrub}");
                return Ok(scrub);
            }
            if began.elapsed() > Duration::from_secs(240) {
                let evidence = self.vm.run("remap-guardian status data; journalctl -n 20 -o cat -u remap-guardian")?;
                bail!("{what}: {output}\n{evidence}");
            }
            sleep(Duration::from_millis(300));
        }
    }

    /// MiB a second.
    fn speed(&mut self, rate: u64) -> Result<()> {
        self.vm.ok(&format!(
            "mkdir -p /etc/remap-guardian/policies/balanced.d &&
            printf '[scrub]\\nmib_per_second = {rate}\\n' >/etc/remap-guardian/policies/balanced.d/scrub.toml &&
            remap-guardian policy reload"
        ))?;
        Ok(())
    }

    /// A block moves to the spare. Its first sector there.
    fn moved(&mut self) -> Result<u64> {
        self.vm.sim("sc-main").inject_flushed(Fault::unwritable(MOVED..MOVED + 8))?;
        self.vm
            .ok(&format!("dd if=/dev/urandom of=/dev/mapper/data bs=4k seek={} count=1 oflag=direct status=none", MOVED / 8))?;
        let there = "remap-guardian status data --json | jq -e '.sets[0].status.remaps | length == 1' >/dev/null";
        self.vm.ok(&format!("for i in {{1..100}}; do {there} && exit; sleep 0.2; done; exit 1"))?;
        let status: Value = serde_json::from_str(&self.vm.ok("remap-guardian status data --json")?)?;
        status["sets"][0]["status"]["remaps"][0]["at"].as_u64().with_context(|| format!("no remap in {status}"))
    }

    fn found(&mut self, at: u64) -> Result<()> {
        self.speed(64)?;
        self.vm.sim("sc-main").inject(Fault::unreadable(20_003..20_004));
        self.vm.sim("sc-main").inject(Fault::unreadable(60_000..60_016));
        self.vm.sim("sc-spare").inject(Fault::unreadable(at..at + 8));
        let done = self.scrub("", 2)?;
        ensure!(done["state"] == "done" && done["bad_blocks"] == 4 && done["next"] == done["total"], "{done}");
        self.vm
            .ok("for i in {1..50}; do remap-guardian history data --json | grep 'scrubbed' && exit; sleep 0.2; done; exit 1")?;
        let errors = "[ $(remap-guardian history data --json | jq -c 'select(.kind == \"error\")' | wc -l) -ge 3 ]";
        self.vm.ok(&format!("for i in {{1..150}}; do {errors} && exit; sleep 0.2; done; exit 1"))?;
        // There is no fourth one.
        sleep(Duration::from_secs(2));
        let history = self.vm.ok("remap-guardian history data --json")?;
        println!("{}", self.vm.ok("remap-guardian history data; remap-guardian status data")?);
        let entries: Vec<Value> = history.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
        let found: Vec<&Value> = entries.iter().filter(|entry| entry["kind"] == "error").collect();
        ensure!(found.len() == 3, "three places were found: {found:#?}");
        let unreadable = |sectors: Vec<u64>| {
            found.iter().any(|what| what["member"] == "main" && what["unreadable"] == Value::from(sectors.clone()))
        };
        ensure!(unreadable(vec![20_003]), "one sector of a block: {found:#?}");
        ensure!(unreadable((60_000..60_016).collect()), "two blocks are one place: {found:#?}");
        ensure!(found.iter().any(|what| what["member"]["spare"] == 0 && what["extent"]["start"] == MOVED), "{found:#?}");
        ensure!(found.iter().all(|what| what["meaning"].as_str().is_some_and(|text| text.contains("scrub"))), "{found:#?}");
        let status: Value = serde_json::from_str(&self.vm.ok("remap-guardian status data --json")?)?;
        ensure!(status["sets"][0]["status"]["counters"]["read_errors"] == 0, "no application met them: {status}");
        // Written, they read.
        for (name, sectors) in [("sc-main", 20_000..20_008), ("sc-main", 60_000..60_016), ("sc-spare", at..at + 8)] {
            self.vm.sim(name).repair(sectors);
        }
        self.scrub("--anew", 0)?;
        Ok(())
    }

    /// A map of ddrescue is believed in nothing but where to look, and what is known can be told as one.
    fn maps(&mut self) -> Result<()> {
        self.vm.sim("sc-main").inject(Fault::unreadable(20_003..20_004));
        let bytes = |sector: u64| sector * 512;
        let mut rows = format!("# Mapfile\n0 + 1\n0 {} +\n", bytes(20_000));
        // Of these three blocks one does not read, one is well, and a spare serves the third.
        let end = [20_000, 30_000, MOVED].iter().fold(bytes(20_000), |at, &block| {
            let gap = if bytes(block) > at { format!("{at} {} +\n", bytes(block) - at) } else { String::new() };
            rows += &format!("{gap}{:#x} 0x1000 {}\n", bytes(block), if block == 30_000 { '*' } else { '-' });
            bytes(block + 8)
        });
        self.vm.ok(&format!("cat >/run/rescue.map <<'END'\n{rows}END"))?;
        let said = self.vm.run("remap-guardian map import data /run/rescue.map --json")?;
        let report: Value = serde_json::from_str(&said.stdout).with_context(|| format!("{said}"))?;
        ensure!(said.status == 2 && report == serde_json::json!({"blocks": 2, "bad_blocks": 1, "on_spare": 1}), "{said}");
        let priority = self.io_priority()?;
        ensure!(priority.starts_with("none") || priority.starts_with("best-effort"), "somebody waits for it: {priority}");
        self.vm.ok(
            "for i in {1..50}; do remap-guardian history data --json | grep 'a map of ddrescue' && exit; sleep 0.2; done; exit 1",
        )?;
        let history = self.vm.ok("remap-guardian history data --json | grep 'a map of ddrescue'")?;
        ensure!(
            history.lines().count() == 1 && history.contains("[20003]"),
            "one sector does not read, whatever the map says: {history}"
        );
        let remaps = self.vm.ok("dmsetup status data")?;
        ensure!(remaps.split(' ').nth(3) == Some("1"), "a map moved something: {remaps}");
        let map = self.vm.ok("remap-guardian map export data | tee /run/data.map")?;
        println!("$ map export data\n{map}");
        let lost = format!("{:#010x}  0x00000200  -", bytes(20_003));
        ensure!(map.lines().filter(|line| line.ends_with("  -")).collect::<Vec<_>>() == [lost.as_str()], "{map}");
        ensure!(!map.lines().any(|line| line.ends_with("  ?")), "a scrub has read all of it: {map}");
        // What it writes it takes.
        let again = self.vm.run("remap-guardian map import data - </run/data.map")?;
        ensure!(again.status == 2 && again.stdout.contains("1 blocks bad: 1 do NOT read"), "{again}");
        for (line, says) in [
            (format!("{end} {} -", bytes(1 << 30)), "line 9: it ends at byte"),
            (format!("{} 512 -", end - 512), "line 9: it begins at byte"),
            (format!("{end} much -"), "line 9: “"),
        ] {
            let refused = self.vm.run(&format!("(cat /run/rescue.map; echo '{line}') | remap-guardian map import data -"))?;
            ensure!(refused.status == 1 && refused.stderr.contains(says), "{line}: {refused}");
        }
        self.vm.sim("sc-main").repair(20_000..20_008);
        let well = self.vm.ok("remap-guardian map import data /run/rescue.map")?;
        ensure!(well.contains("2 blocks bad: all of them read; 1 others"), "{well}");
        Ok(())
    }

    /// What is known of one sector, by the map.
    fn known(&mut self, sector: u64) -> Result<Value> {
        let map: Value = serde_json::from_str(&self.vm.ok("remap-guardian map export data --json")?)?;
        let inside = |area: &&Value| {
            let (start, len) = (area["extent"]["start"].as_u64(), area["extent"]["len"].as_u64());
            start.zip(len).is_some_and(|(start, len)| (start..start + len).contains(&sector))
        };
        let area = map["areas"].as_array().and_then(|areas| areas.iter().find(inside));
        Ok(area.with_context(|| format!("no area has {sector}: {map}"))?["known"].clone())
    }

    /// Over a restart of the daemon and a reboot, from where it was.
    fn goes_on(&mut self) -> Result<()> {
        self.speed(2)?;
        self.scrub("--anew --background", 0)?;
        let far = |scrub: &Value| scrub["next"].as_u64().is_some_and(|next| next > 45_000);
        let began = self.until("it reads", far)?["began"].clone();
        // It may have ended meanwhile: a boot can take as long.
        let on = |scrub: &Value| scrub["state"] == "running" || scrub["state"] == "done";
        self.vm.ok("systemctl restart remap-guardian")?;
        let scrub = self.until("it goes on after a restart", on)?;
        ensure!(scrub["began"] == began, "it began anew: {scrub}");
        self.vm.ok("sync")?;
        self.vm.reboot()?;
        let scrub = self.until("it goes on after a reboot", on)?;
        ensure!(scrub["began"] == began, "it began anew: {scrub}");
        // The unit waits for the one that is under way.
        self.speed(64)?;
        self.vm
            .ok("systemctl start remap-guardian-scrub@data.service && systemctl enable --now remap-guardian-scrub@data.timer")?;
        self.until("it has ended", |scrub| scrub["state"] == "done" && scrub["bad_blocks"] == 0)?;
        Ok(())
    }

    /// Of the thread that reads for scrubs, and for others.
    fn io_priority(&mut self) -> Result<String> {
        let said = self.vm.ok("for thread in /proc/$(systemctl show -P MainPID remap-guardian)/task/*; do
            if grep -qx prober $thread/comm; then ionice -p ${thread##*/}; fi; done")?;
        println!("the prober's priority of I/O: {said}");
        Ok(said.trim().to_owned())
    }

    fn stops(&mut self) -> Result<()> {
        self.speed(2)?;
        self.scrub("--background", 0)?;
        self.until("it reads", |scrub| scrub["next"].as_u64().is_some_and(|next| next > 8_000))?;
        let priority = self.io_priority()?;
        ensure!(priority == "idle", "a scrub's I/O is not idle: {priority}");
        let stopped = self.scrub("--stop", 0)?;
        ensure!(stopped["state"] == "stopped", "{stopped}");
        sleep(Duration::from_secs(2));
        let later = self.scrub("--look", 0)?;
        ensure!(later == stopped, "it reads on: {later}");
        let on = self.scrub("--background", 0)?;
        ensure!(on["state"] == "running" && on["next"] == stopped["next"], "it goes on from where it was: {on}");
        let refused = self.vm.run("remap-guardian scrub nosuch")?;
        ensure!(refused.status == 1 && refused.stderr.contains("nosuch") && refused.stderr.contains("next:"), "{refused}");
        Ok(())
    }

    /// A disk that answers nowhere has no bad sectors.
    fn disk_away(&mut self) -> Result<()> {
        self.vm.sim("sc-main").set_gone(true);
        self.until("it waits for the disk", |scrub| {
            scrub["state"]["waiting"].as_str().is_some_and(|why| why.contains("main does not answer"))
        })?;
        self.vm.sim("sc-main").set_gone(false);
        self.speed(64)?;
        let done = self.until("it has ended", |scrub| scrub["state"] == "done")?;
        ensure!(done["bad_blocks"] == 0, "{done}");
        Ok(())
    }

    /// Where the policy says so, a block that does not read moves with what still reads of it.
    fn moves_what_does_not_read(&mut self) -> Result<()> {
        self.vm.ok(
            "dd if=/dev/urandom of=/run/block bs=4k count=1 status=none &&
            dd if=/run/block of=/dev/mapper/data bs=4k seek=2500 oflag=direct conv=fsync status=none &&
            printf '[read_error]\\naction = \"remap\"\\n' >/etc/remap-guardian/policies/balanced.d/read.toml && remap-guardian policy reload",
        )?;
        self.vm.sim("sc-main").inject(Fault::unreadable(20_003..20_004));
        let done = self.scrub("--anew", 2)?;
        ensure!(done["bad_blocks"] == 1, "{done}");
        self.vm.ok(
            "for i in {1..50}; do remap-guardian history data | grep 'because it did not read' && exit; sleep 0.2; done; exit 1",
        )?;
        // Seven sectors were saved, and one is an error until it is written.
        let sector = |n: u64| format!("dd if=/dev/mapper/data bs=512 skip={} count=1 iflag=direct status=none", 20_000 + n);
        for n in [0, 1, 2, 4, 5, 6, 7] {
            self.vm.ok(&format!("{} | cmp - <(dd if=/run/block bs=512 skip={n} count=1 status=none)", sector(n)))?;
        }
        ensure!(!self.vm.run(&sector(3))?.success(), "the lost sector reads");
        ensure!(self.known(20_003)? == "bad" && self.known(20_004)? == "remapped", "the map does not say which one is lost");
        self.vm.ok("dd if=/run/block of=/dev/mapper/data bs=512 seek=20003 skip=3 count=1 oflag=direct status=none")?;
        ensure!(self.known(20_003)? == "remapped", "the map says that it is lost, and it was written");
        self.vm.ok("dd if=/dev/mapper/data bs=4k skip=2500 count=1 iflag=direct status=none | cmp - /run/block")?;
        Ok(())
    }

    /// Sectors of the spare that serve main go bad: what they held moves to others of it, also across a reboot.
    fn moves_on_the_spare(&mut self) -> Result<()> {
        let block = MOVED / 8;
        let write =
            format!("dd if=/run/block of=/dev/mapper/data bs=4k seek={block} count=1 oflag=direct conv=fsync status=none");
        let reads = format!("dd if=/dev/mapper/data bs=4k skip={block} count=1 iflag=direct status=none | cmp - /run/block");
        self.vm.ok(&format!("cp /run/block /root/block && {write} && {reads}"))?;
        let first = self.place()?;
        self.vm.sim("sc-spare").inject_flushed(Fault::dead(first..first + 8))?;
        ensure!(!self.vm.run(&write)?.success(), "a spare that failed took a write");
        let second = self.moves_from(first)?;
        // Everything there is lost until it is written.
        ensure!(!self.vm.run(&reads)?.success(), "lost sectors read");
        self.vm.ok(&format!("{write} && {reads}"))?;
        self.vm.sim("sc-spare").inject(Fault::unreadable(second + 3..second + 4));
        ensure!(!self.vm.run(&reads)?.success(), "an unreadable sector reads");
        let third = self.moves_from(second)?;
        let sector = |n: u64| format!("dd if=/dev/mapper/data bs=512 skip={} count=1 iflag=direct status=none", MOVED + n);
        let same = |n: u64| format!("{} | cmp - <(dd if=/run/block bs=512 skip={n} count=1 status=none)", sector(n));
        self.vm.ok("sync")?;
        self.vm.power_cut(7)?;
        self.vm.ok("for i in {1..50}; do remap-guardian status data >/dev/null && exit; sleep 0.2; done; exit 1")?;
        ensure!(self.place()? == third, "it is elsewhere after a reboot");
        self.vm.ok("dd if=/dev/urandom of=/run/other bs=512 count=1 status=none")?;
        ensure!(!self.vm.run(&sector(3))?.success(), "the lost sector reads");
        self.vm
            .ok(&format!("dd if=/run/other of=/dev/mapper/data bs=512 seek={} count=1 oflag=direct status=none", MOVED + 3))?;
        self.vm.ok(&format!("{} | cmp - /run/other", sector(3)))?;
        for n in [0, 1, 2, 4, 5, 6, 7] {
            self.vm.ok(&same(n).replace("/run/block", "/root/block"))?;
        }
        println!("{}", self.vm.ok("remap-guardian history data | tail -n 20; remap-guardian status data")?);
        Ok(())
    }

    /// Where the spare serves [`MOVED`].
    fn place(&mut self) -> Result<u64> {
        let status: Value = serde_json::from_str(&self.vm.ok("remap-guardian status data --json")?)?;
        let remaps = status["sets"][0]["status"]["remaps"].as_array().context("no remaps")?.clone();
        let remap = remaps.iter().find(|remap| remap["main"]["start"] == MOVED);
        remap.and_then(|remap| remap["at"].as_u64()).with_context(|| format!("no remap of {MOVED}: {status}"))
    }

    fn moves_from(&mut self, place: u64) -> Result<u64> {
        self.vm.ok(&format!(
            "for i in {{1..50}}; do remap-guardian history data | grep 'from {place}, which failed' && exit; sleep 0.2; done; exit 1"
        ))?;
        let now = self.place()?;
        ensure!(now != place, "it is where it was");
        Ok(now)
    }

    fn doctor(&mut self) -> Result<()> {
        let said = self.vm.ok("remap-guardian doctor")?;
        println!("$ doctor\n{said}");
        for line in
            ["the module dm_remap_v4_real is loaded", "the daemon starts at boot", "of spare space are used", "everything reads"]
        {
            ensure!(said.contains(line), "it does not say “{line}”: {said}");
        }
        let wrong = self.vm.run("systemctl disable -q remap-guardian && remap-guardian doctor --json; s=$?; systemctl enable -q remap-guardian; exit $s")?;
        let levels =
            wrong.stdout.lines().map(|line| serde_json::from_str::<Value>(line).map(|mut finding| finding["level"].take()));
        let levels: Vec<Value> = levels.collect::<Result<_, _>>()?;
        ensure!(wrong.status == 2 && levels.iter().filter(|level| *level == "wrong").count() == 1, "{wrong}");
        let stopped =
            self.vm.run("systemctl stop remap-guardian; remap-guardian doctor; s=$?; systemctl start remap-guardian; exit $s")?;
        self.vm.ok("for i in {1..50}; do remap-guardian status data >/dev/null && exit; sleep 0.2; done; exit 1")?;
        ensure!(stopped.status == 2 && stopped.stdout.contains("next: systemctl start remap-guardian"), "{stopped}");
        Ok(())
    }
}
