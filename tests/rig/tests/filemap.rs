//! dmfilemapd as Debian's own dmstats starts it, and `remap-guardian files watch`. Needs what `make stage` leaves, in
//! the folder that RIG_PAYLOAD names.

use std::collections::BTreeSet;
use std::env;
use std::ops::Range;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rig::{Bus, Disk, Vm};

/// For what the daemon does twice a second, in a guest that may be slow.
const PATIENCE: Duration = Duration::from_secs(40);
/// How long something must not happen.
const QUIET: Duration = Duration::from_secs(3);

struct Trial {
    vm: Vm,
    /// The device that is mapped, in `/dev/mapper`.
    device: &'static str,
    checks: u32,
}

/// One guest serves all of this, for a boot costs more than the rest. With RIG_SOAK set it is done on XFS too.
#[test]
fn a_group_follows_its_file() -> Result<()> {
    let payload = rig::payload()?;
    // XFS is never smaller than 300 MB.
    let vm = Vm::new().disk(Disk::new("fm-ext4", Bus::Scsi, 64)).disk(Disk::new("fm-xfs", Bus::Nvme, 320));
    let mut trial = Trial { vm: vm.payload(&payload).boot()?, device: "", checks: 0 };
    trial.vm.install()?;
    let systems = [("fm-ext4", "mkfs.ext4 -q -E nodiscard"), ("fm-xfs", "mkfs.xfs -q -K")];
    let all = if env::var_os("RIG_SOAK").is_some() { 2 } else { 1 };
    for (device, mkfs) in systems.into_iter().take(all) {
        println!("\n--- {device}");
        trial.device = device;
        let disk = trial.vm.path(device);
        trial.vm.ok(&format!(
            "dmsetup create {device} --table \"0 $(blockdev --getsz {disk}) linear {disk} 0\" && udevadm settle &&
            {mkfs} /dev/mapper/{device} && mkdir -p /srv/fm && mount /dev/mapper/{device} /srv/fm"
        ))?;
        trial.follow_inode()?;
        trial.follow_path()?;
        trial.emptied()?;
        trial.group_deleted()?;
        trial.update_filemap()?;
        trial.many_daemons()?;
        trial.counters_and_histograms()?;
        trial.foreground()?;
        trial.bad_input()?;
        trial.over_the_network()?;
        trial.vm.ok("for i in {1..50}; do umount /srv/fm && exit; sleep 0.2; done; exit 1")?;
    }
    println!("{} checks, all passed", trial.checks);
    Ok(())
}

impl Trial {
    fn held(&mut self, what: &str) {
        self.checks += 1;
        println!("  ✓ {what}");
    }

    fn script(&mut self, script: &str) -> Result<String> {
        let output = self.vm.run_for(Duration::from_secs(180), &format!("set -e; cd /srv/fm; {script}"))?;
        ensure!(output.success(), "failed in the guest: {script}\n{output}");
        Ok(output.stdout)
    }

    /// The sectors of each region of a group, as dmstats lists them.
    fn regions(&mut self, group: u32) -> Result<Vec<(u32, Range<u64>)>> {
        let fields = "group_id,region_id,region_start,region_len";
        let list = format!("dmstats list --region --noheadings --units s --nosuffix --separator : -o {fields} {}", self.device);
        let listing = self.vm.ok(&list)?;
        let parse = |line: &str| -> Option<(u32, (u32, Range<u64>))> {
            let mut fields = line.trim().split(':');
            let (group, id) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
            let (start, len): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
            Some((group, (id, start..start + len)))
        };
        Ok(listing.lines().filter_map(parse).filter(|(of, _)| *of == group).map(|(_, region)| region).collect())
    }

    /// The sectors of a file as filefrag sees them; what follows each other in file and device is one range.
    fn extents(&mut self, file: &str) -> Result<Vec<(u64, u64)>> {
        let listing = self.script(&format!("sync -f .; filefrag -e -b512 {file}"))?;
        let number = |text: &str| text.split("..").next().unwrap_or_default().trim().parse::<u64>().ok();
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        // XFS keeps room in memory behind the end of a file that grows.
        for line in listing.lines().filter(|line| !line.contains("delalloc")) {
            let fields: Vec<Option<u64>> = line.split(':').map(number).collect();
            let [Some(_), Some(_), Some(start), Some(len), ..] = fields[..] else { continue };
            match ranges.last_mut() {
                Some(last) if last.0 + last.1 == start => last.1 += len,
                _ => ranges.push((start, len)),
            }
        }
        ranges.sort_unstable();
        Ok(ranges)
    }

    /// Waits until the group has exactly the file's extents, for dmstats and for the kernel.
    fn in_step(&mut self, group: u32, file: &str, what: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let wanted = self.extents(file)?;
            let regions = self.regions(group)?;
            let mut found: Vec<(u64, u64)> = regions.iter().map(|(_, range)| (range.start, range.end - range.start)).collect();
            found.sort_unstable();
            if found == wanted && !wanted.is_empty() {
                let printed = self.printed()?;
                ensure!(wanted.iter().all(|range| printed.contains(range)), "dmstats print has {printed:?}, not {wanted:?}");
                self.held(&format!("{what}: {} regions, as filefrag has them", found.len()));
                return Ok(());
            }
            if Instant::now() > deadline {
                let evidence = self.evidence()?;
                anyhow::bail!("{what}: {file} is at {wanted:?}, group {group} at {found:?}\n{evidence}");
            }
            sleep(Duration::from_millis(300));
        }
    }

    /// The areas that dmstats prints counters of.
    fn printed(&mut self) -> Result<BTreeSet<(u64, u64)>> {
        let text = self.vm.ok(&format!("dmstats print --allregions {}", self.device))?;
        let range = |line: &str| -> Option<(u64, u64)> {
            let (start, len) = line.split_whitespace().next()?.split_once('+')?;
            Some((start.parse().ok()?, len.parse().ok()?))
        };
        Ok(text.lines().filter_map(range).collect())
    }

    fn evidence(&mut self) -> Result<String> {
        let script = format!("ps ax | grep '[d]mfilemapd'; dmsetup message {} 0 @stats_list; dmesg | tail -n 5", self.device);
        Ok(self.vm.run(&script)?.to_string())
    }

    /// Makes a group; gives its id.
    fn create(&mut self, options: &str, file: &str) -> Result<u32> {
        let said = self.script(&format!("dmstats create --filemap {options} /srv/fm/{file}"))?;
        let id = said.trim().rsplit("group ID ").next().unwrap_or_default().trim_end_matches('.');
        id.parse().with_context(|| format!("no group id in {said}"))
    }

    fn daemons(&mut self) -> Result<Vec<String>> {
        Ok(self.vm.run("pgrep -ax dmfilemapd")?.stdout.lines().map(str::to_owned).collect())
    }

    /// Those that run, when they are so many: dmstats does not wait for what it starts.
    fn daemons_are(&mut self, count: usize) -> Result<Vec<String>> {
        for _ in 0..100 {
            let daemons = self.daemons()?;
            if daemons.len() == count {
                return Ok(daemons);
            }
            sleep(Duration::from_millis(200));
        }
        self.daemons()
    }

    fn runs(&mut self, what: &str) -> Result<()> {
        sleep(QUIET);
        let daemons = self.daemons()?;
        ensure!(daemons.len() == 1, "{what}: {daemons:?}");
        self.held(&format!("{what}: it goes on"));
        Ok(())
    }

    fn ends(&mut self, what: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !self.daemons()?.is_empty() {
            ensure!(Instant::now() < deadline, "{what}: it does not end\n{}", self.evidence()?);
            sleep(Duration::from_millis(200));
        }
        self.held(&format!("{what}: it has ended"));
        Ok(())
    }

    /// Everything that is counted, as the kernel has it.
    fn state(&mut self) -> Result<String> {
        self.vm.ok(&format!("dmsetup message {} 0 @stats_list", self.device))
    }

    fn clean(&mut self) -> Result<()> {
        self.vm.ok(&format!(
            "for id in $(dmsetup message {0} 0 @stats_list | cut -d: -f1); do dmsetup message {0} 0 @stats_delete $id; done
            rm -rf /srv/fm/*",
            self.device
        ))?;
        let left = self.state()?;
        ensure!(left.trim().is_empty(), "regions are left: {left}");
        Ok(())
    }

    fn follow_inode(&mut self) -> Result<()> {
        self.script("head -c 1M /dev/urandom >a; sync a")?;
        let group = self.create("", "a")?;
        let daemons = self.daemons_are(1)?;
        let line = format!("dmfilemapd 3 {group} /srv/fm/a inode 0 0");
        ensure!(daemons.len() == 1 && daemons[0].ends_with(&line), "dmstats started {daemons:?}, not {line}");
        self.held(&format!("dmstats create --filemap has started “{line}”"));
        self.in_step(group, "a", "at the start")?;
        self.changes(group, "a")?;
        self.script("mv a b; head -c 300k /dev/urandom >>b")?;
        self.in_step(group, "b", "renamed and grown")?;
        self.script("head -c 200k /dev/urandom >a")?;
        self.runs("another file at the old path")?;
        self.in_step(group, "b", "the old file is still followed")?;
        // Held by another process; mapped or in a loop device would be the same to the kernel.
        self.script("sleep 1000 3<>b >/dev/null 2>&1 & echo $! >/run/holder; sleep 0.5; rm /srv/fm/b")?;
        self.runs("unlinked, but open elsewhere")?;
        let before = self.regions(group)?;
        // Beyond a hole: XFS may have allocated what is right behind the end already.
        self.script(
            "dd if=/dev/urandom of=/proc/$(cat /run/holder)/fd/3 bs=64k count=4 seek=800 conv=notrunc status=none; sync -f .",
        )?;
        let deadline = Instant::now() + PATIENCE;
        while self.regions(group)? == before {
            ensure!(Instant::now() < deadline, "an unlinked file grew, its group did not");
            sleep(Duration::from_millis(200));
        }
        self.held("unlinked, open elsewhere, and grown: the group follows");
        self.vm.ok("kill $(cat /run/holder)")?;
        self.ends("the last other holder has closed it")?;
        self.clean()
    }

    /// What happens to the blocks of a file, in both modes.
    fn changes(&mut self, group: u32, file: &str) -> Result<()> {
        for (script, what) in [
            ("head -c 1M /dev/urandom >>FILE", "grown"),
            ("dd if=/dev/urandom of=FILE bs=64k count=4 seek=100 conv=notrunc status=none", "written beyond a hole"),
            ("fallocate -o 12M -l 1M FILE", "preallocated"),
            ("fallocate -p -o 256k -l 128k FILE", "a hole punched"),
            // As many blocks as before, elsewhere in the file.
            (
                "fallocate -p -o 512k -l 64k FILE; dd if=/dev/urandom of=FILE bs=64k count=1 seek=150 conv=notrunc status=none",
                "a piece moved",
            ),
            ("truncate -s 700k FILE", "truncated"),
            ("truncate -s 9M FILE", "made sparse"),
            (
                "for i in $(seq 0 2 80); do dd if=/dev/urandom of=FILE bs=16k count=1 seek=$i conv=notrunc status=none; fallocate -p -o $((i * 16384 + 16384)) -l 16384 FILE; done",
                "cut into pieces",
            ),
            ("head -c 64k FILE >FILE.part; cp --reflink=never FILE.part FILE; rm FILE.part", "written anew"),
            ("head -c 2M /dev/urandom >>FILE", "grown again"),
        ] {
            self.script(&script.replace("FILE", file))?;
            self.in_step(group, file, what)?;
        }
        Ok(())
    }

    fn follow_path(&mut self) -> Result<()> {
        self.script("head -c 1M /dev/urandom >p; sync p")?;
        let group = self.create("--follow path", "p")?;
        let daemons = self.daemons_are(1)?;
        ensure!(daemons.len() == 1 && daemons[0].ends_with("/srv/fm/p path 0 0"), "{daemons:?}");
        self.in_step(group, "p", "follow-path")?;
        self.changes(group, "p")?;
        self.script("head -c 900k /dev/urandom >new; mv new p")?;
        self.in_step(group, "p", "replaced by a rename")?;
        self.script("rm p; sleep 0.1; head -c 500k /dev/urandom >p")?;
        self.in_step(group, "p", "removed and made anew")?;
        self.runs("a replaced file")?;
        let open = "ls -l /proc/$(pgrep -x dmfilemapd)/fd | grep -q /srv/fm/";
        self.script(&format!("for i in 1 2 3 4 5; do {open} || exit 0; sleep 0.2; done; exit 1"))?;
        self.held("between its looks it does not keep the file open");
        self.script("mv p q")?;
        self.ends("no file at the path")?;
        self.clean()
    }

    fn emptied(&mut self) -> Result<()> {
        self.script("head -c 1M /dev/urandom >e; sync e")?;
        let group = self.create("", "e")?;
        self.script(": >e; sleep 0.1; head -c 300k /dev/urandom >>e")?;
        self.in_step(group, "e", "emptied and filled again")?;
        self.script(": >e")?;
        self.ends("emptied")?;
        let left = self.state()?;
        ensure!(left.trim().is_empty(), "an empty file has regions: {left}");
        self.held("an empty file has no regions");
        self.clean()
    }

    fn group_deleted(&mut self) -> Result<()> {
        self.script("head -c 1M /dev/urandom >one; head -c 1M /dev/urandom >two; sync -f .")?;
        let one = self.create("", "one")?;
        self.create("", "two")?;
        self.vm.ok(&format!("dmstats delete --groupid {one} {}", self.device))?;
        let deadline = Instant::now() + PATIENCE;
        while self.daemons()?.len() != 1 {
            ensure!(Instant::now() < deadline, "{}", self.evidence()?);
            sleep(Duration::from_millis(200));
        }
        self.runs("the other group was deleted")?;
        self.script("head -c 1M /dev/urandom >>two")?;
        // The kernel gives out the lowest id that is free, and a group has the id of its lowest region.
        self.in_step(one, "two", "with a lower region id free")?;
        self.vm.ok(&format!("dmstats delete --allregions {}", self.device))?;
        self.ends("its group was deleted")?;
        self.clean()
    }

    fn update_filemap(&mut self) -> Result<()> {
        self.script("head -c 1M /dev/urandom >u; sync u")?;
        let group = self.create("--nomonitor", "u")?;
        ensure!(self.daemons()?.is_empty(), "--nomonitor");
        self.script("dd if=/dev/urandom of=u bs=64k count=4 seek=100 conv=notrunc status=none; sync u")?;
        self.script(&format!("dmstats update_filemap --groupid {group} /srv/fm/u"))?;
        self.in_step(group, "u", "dmstats update_filemap")?;
        // A second one for the same group: both stay, and no region is made twice.
        self.script(&format!("dmstats update_filemap --groupid {group} --follow path /srv/fm/u"))?;
        ensure!(self.daemons_are(2)?.len() == 2, "{:?}", self.daemons()?);
        for n in 0..4 {
            self.script(&format!("dd if=/dev/urandom of=u bs=64k count=4 seek={} conv=notrunc status=none", 200 + n * 100))?;
            self.in_step(group, "u", "two daemons")?;
        }
        let state = self.state()?;
        ensure!(state.lines().count() == self.regions(group)?.len(), "strays: {state}");
        // libdm's own update finds nothing to do.
        self.script(&format!("dmstats update_filemap --nomonitor --groupid {group} /srv/fm/u"))?;
        let after = self.state()?;
        ensure!(after == state, "libdm sees it otherwise:\n{state}\n{after}");
        self.held("libdm's own update finds nothing to do");
        self.vm.ok("pkill -x dmfilemapd")?;
        self.ends("terminated")?;
        ensure!(self.state()? == state, "the end of the daemon changed the group");
        self.clean()
    }

    /// Daemons of one file, of one group and of two.
    fn many_daemons(&mut self) -> Result<()> {
        self.script("head -c 1M /dev/urandom >m; sync m")?;
        let group = self.create("", "m")?;
        self.script(&format!("dmstats update_filemap --groupid {group} /srv/fm/m"))?;
        let other = self.create("--alias other", "m")?;
        sleep(QUIET);
        ensure!(self.daemons_are(3)?.len() == 3, "{}", self.evidence()?);
        self.script("head -c 1M /dev/urandom >>m")?;
        self.in_step(group, "m", "three daemons of one file")?;
        self.in_step(other, "m", "its other group")?;
        let free = "sync -f .; stat -fc %f .";
        let before: u64 = self.script(free)?.trim().parse()?;
        self.script("rm m")?;
        self.ends("unlinked")?;
        let after: u64 = self.script(free)?.trim().parse()?;
        ensure!(after > before, "the file's blocks are not free: {before}, then {after}");
        self.held("its blocks are free");
        self.clean()
    }

    fn counters_and_histograms(&mut self) -> Result<()> {
        self.vm.ok(&format!("dmstats create --start 0 --length 64 --programid mine {}", self.device))?;
        let foreign = self.state()?;
        // A file right behind it: XFS likes to put what is written beyond a hole there, and that would be the same range.
        self.script("head -c 1M /dev/urandom >c; sync c; head -c 1M /dev/urandom >behind; sync behind")?;
        let group = self.create("--bounds 500us,20ms --alias vm", "c")?;
        ensure!(group == 1, "group {group}");
        let kept = self.regions_of_program("dmstats")?[0].clone();
        self.script("dd if=c of=/dev/null bs=64k count=4 iflag=direct status=none")?;
        let reads = |text: &str| text.split_whitespace().nth(1).and_then(|field| field.parse::<u64>().ok());
        let print = format!("dmsetup message {} 0 @stats_print {group}", self.device);
        let before = reads(&self.vm.ok(&print)?).context("no counters")?;
        ensure!(before > 0, "nothing was counted");
        self.script("dd if=/dev/urandom of=c bs=64k count=4 seek=100 conv=notrunc status=none")?;
        self.in_step(group, "c", "written beyond a hole")?;
        let regions = self.regions_of_program("dmstats")?;
        ensure!(regions.len() == 2, "{regions:?}, while the file behind is at {:?}", self.extents("behind")?);
        ensure!(regions[0].split(' ').nth(1) == kept.split(' ').nth(1), "{regions:?}");
        ensure!(reads(&self.vm.ok(&print)?) == Some(before), "the counters of an extent that stays were lost");
        self.held("an extent that stays keeps its counters");
        for region in &regions {
            ensure!(region.ends_with(" precise_timestamps histogram:500000,20000000"), "{region}");
        }
        // libdm has learnt to put an alias in quotes.
        ensure!(regions[0].replace('"', "").contains("DMS_GROUP=vm:1-2#-"), "{}", regions[0]);
        self.held("new regions count as the first one does; the alias is kept");
        self.script("fallocate -p -o 0 -l 2M c")?;
        self.in_step(group + 1, "c", "the first region's extent gone")?;
        self.script("dd if=/dev/urandom of=c bs=64k count=4 conv=notrunc status=none")?;
        self.in_step(group, "c", "written at its start")?;
        let state = self.state()?;
        ensure!(state.lines().any(|line| Some(line) == foreign.lines().next()), "a foreign region changed: {state}");
        self.held("the first region's extent went: the group lives on; a foreign region is left alone");
        self.vm.ok(&format!(
            "dmstats delete --allregions --allprograms {0}; dmsetup message {0} 0 @stats_delete 0 || true",
            self.device
        ))?;
        self.ends("regions of every program deleted")?;
        self.clean()
    }

    fn regions_of_program(&mut self, program: &str) -> Result<Vec<String>> {
        let listing = self.vm.ok(&format!("dmsetup message {} 0 @stats_list {program}", self.device))?;
        Ok(listing.lines().map(str::to_owned).collect())
    }

    fn foreground(&mut self) -> Result<()> {
        self.script("head -c 1M /dev/urandom >f; sync f")?;
        let group = self.create("--nomonitor", "f")?;
        let start =
            format!("(dmfilemapd 3 {group} /srv/fm/f inode 1 VERBOSE 3</srv/fm/f >/run/out 2>&1; echo \"exit $?\" >>/run/out) &");
        let said = |trial: &mut Trial, verbose: u32, end: &str| -> Result<String> {
            trial.script(&format!("{} sleep 4; {end}; wait", start.replace("VERBOSE", &verbose.to_string())))?;
            trial.vm.ok("cat /run/out")
        };
        let text = said(
            self,
            3,
            "head -c 1M /dev/urandom >>f; sync f; for i in {1..100}; do grep -q 'Updated group ID' /run/out && break; sleep 0.1; done; pkill -x dmfilemapd",
        )?;
        for part in [
            "Starting dmfilemapd with fd=3, group_id=0 mode=inode, path=/srv/fm/f",
            "@stats_list",
            "@stats_create",
            "Updated group ID",
            "Stopped",
            "exit 0",
        ] {
            ensure!(text.contains(part), "no {part:?} in\n{text}");
        }
        let silent = said(self, 0, "pkill -x dmfilemapd")?;
        ensure!(silent.trim() == "exit 0", "verbosity 0 says: {silent}");
        let text = said(self, 1, &format!("dmstats delete --groupid {group} {}", self.device))?;
        ensure!(text.contains("Filemap group removed") && text.contains("exit 0"), "{text}");
        self.held("in the foreground, at each verbosity: what it says, and exit code 0");
        self.clean()
    }

    fn bad_input(&mut self) -> Result<()> {
        self.script("head -c 1M /dev/urandom >x; sync x; mkdir -p d; head -c 64k /dev/urandom >/run/tmpfs; head -c 64k /dev/urandom >/root/plain")?;
        let group = self.create("--nomonitor", "x")?;
        self.vm
            .ok(&format!("dmstats create --start 0 --length 1024 --areas 4 {0} && dmstats group --regions 1 {0}", self.device))?;
        let before = self.state()?;
        let good = format!("3 {group} /srv/fm/x");
        for (arguments, code, says) in [
            ("3 7 /srv/fm/x inode 3</srv/fm/x".to_owned(), 4, "has no group 7"),
            ("3 1 /srv/fm/x inode 3</srv/fm/x".to_owned(), 4, "several areas"),
            ("3 -1 /srv/fm/x inode 3</srv/fm/x".to_owned(), 2, "group id “-1”"),
            ("3 0 /run/tmpfs inode 3</run/tmpfs".to_owned(), 3, "its file system (tmpfs) is on no block device"),
            ("3 0 /root/plain path 3</root/plain".to_owned(), 3, "(ext4, on 25"),
            ("3 0 /srv/fm/d inode 3</srv/fm/d".to_owned(), 3, "not a regular file"),
            ("3 0 x inode 3</srv/fm/x".to_owned(), 2, "“x” is not an absolute path"),
            (format!("{good} inode 3<&-"), 3, "descriptor 3 is not open"),
            (format!("{good} file 3</srv/fm/x"), 2, "mode “file”"),
            (format!("{good} inode 2 3</srv/fm/x"), 2, "foreground “2”"),
            (format!("{good} inode 1 4 3</srv/fm/x"), 2, "verbose “4”"),
        ] {
            let output = self.vm.run(&format!("cd /srv/fm; dmfilemapd {arguments}"))?;
            ensure!(output.status == code && output.stderr.contains(says), "dmfilemapd {arguments}: {output}");
            ensure!(output.stderr.matches("dmfilemapd: ").count() == 1, "more than one message: {output}");
        }
        // Nobody listens: the exit code is the same.
        self.vm.ok("mkfifo /run/unheard; (: </run/unheard) & exec 9>/run/unheard; wait; rm /run/unheard
            code=0; dmfilemapd 2>&9 || code=$?; test $code = 2")?;
        ensure!(self.daemons()?.is_empty() && self.state()? == before, "bad input has changed something");
        self.held("bad input is refused by name, with its exit code, and changes nothing");
        self.clean()
    }
    /// A file on NFS, served by this guest itself: what is below it on the server is none of the client's business.
    fn over_the_network(&mut self) -> Result<()> {
        self.script("head -c 1M /dev/urandom >n; sync n; head -c 64k /dev/urandom >/run/tmpfs")?;
        let group = self.create("--nomonitor", "n")?;
        self.vm.put("/run/nfs", NFS)?;
        self.vm.run_for(PATIENCE * 3, "bash -eu /run/nfs").and_then(|done| {
            ensure!(done.success(), "no NFS: {done}");
            Ok(())
        })?;
        self.script("cmp n /mnt/nfs/n; grep ' /mnt/nfs nfs4 ' /proc/mounts >&2")?;
        let state = format!(
            "dmsetup message {} 0 @stats_list; pgrep -ax dmfilemapd; sha256sum /mnt/nfs/n /run/tmpfs; filefrag -e /srv/fm/n",
            self.device
        );
        let before = self.vm.run(&state)?.stdout;
        for (file, kind) in [("/mnt/nfs/n", "nfs4"), ("/run/tmpfs", "tmpfs")] {
            let says = format!("{file}: its file system ({kind}) is on no block device of its own");
            for (command, code, says) in [
                (format!("dmfilemapd 3 {group} {file} inode 3<{file}"), 3, says.as_str()),
                (format!("dmfilemapd 3 {group} {file} path 1 1 3<{file}"), 3, &says),
                (format!("remap-guardian files watch {file}"), 1, &says),
                // These words are libdm's own.
                (format!("dmstats create --filemap {file}"), 1, file),
                // libdm starts the daemon without a look at the file, and does not wait to hear that it is refused.
                (format!("dmstats update_filemap --groupid {group} {file}; sleep 4"), 0, &says),
            ] {
                let output = self.vm.run(&format!("timeout 20 {command}"))?;
                println!("$ {command}\n{output}");
                ensure!(output.status == code && output.stderr.contains(says), "{command}: not [{code}] {says}: {output}");
                let after = self.vm.run(&state)?.stdout;
                ensure!(before == after, "{command} has changed something: {before}\n{after}");
            }
        }
        self.held("a file on NFS and one on tmpfs are refused by name, and nothing changes");
        // Follow-path: a file system that is mounted over the path.
        self.vm.ok(&format!(
            "(dmfilemapd 3 {group} /srv/fm/n path 1 1 3</srv/fm/n >/run/out 2>&1; echo \"exit $?\" >>/run/out) >/dev/null 2>&1 &
            for n in $(seq 100); do grep -q Starting /run/out && break; sleep 0.2; done; sleep 1; mount --bind /mnt/nfs /srv/fm"
        ))?;
        self.ends("NFS is mounted over the path")?;
        let text = self.vm.ok("umount /srv/fm; sleep 0.5; cat /run/out")?;
        ensure!(text.contains("is not on device") && text.contains("exit 3"), "{text}");
        ensure!(self.vm.run(&state)?.stdout == before, "the group changed");
        self.held("it says so, and leaves the group as it is");
        self.vm.ok("for i in {1..50}; do umount /mnt/nfs && break; sleep 0.2; done; echo 0 >/proc/fs/nfsd/threads; for cache in nfsd.fh nfsd.export auth.unix.ip; do
            date +%s >/proc/net/rpc/$cache/flush; done; for i in {1..50}; do umount /proc/fs/nfsd && exit; sleep 0.2; done; exit 1")?;
        self.clean()
    }
}

/// The kernel's NFS server and client on the loopback, /srv/fm at /mnt/nfs. What rpc.mountd would answer, which client is
/// who and what is exported to whom, is told to the kernel in advance (Documentation/filesystems/nfs/rpc-cache.rst).
const NFS: &str = r"modprobe nfsd; modprobe nfsv4
mountpoint -q /proc/fs/nfsd || mount -t nfsd nfsd /proc/fs/nfsd
late=2147483647
echo nfsd 127.0.0.1 $late loopback >/proc/net/rpc/auth.unix.ip/channel
# insecure, async, nohide, no_subtree_check, fsid=0; root is root.
echo loopback /srv/fm $late $((0x2 | 0x10 | 0x200 | 0x400 | 0x2000)) -2 -2 0 >/proc/net/rpc/nfsd.export/channel
echo 'loopback 1 \x00000000' $late /srv/fm >/proc/net/rpc/nfsd.fh/channel
echo -2 -3 +4 >/proc/fs/nfsd/versions
# Nobody has state from before to claim: the shortest grace there is, in seconds.
echo 10 >/proc/fs/nfsd/nfsv4gracetime
echo tcp 2049 >/proc/fs/nfsd/portlist
echo 2 >/proc/fs/nfsd/threads
mkdir -p /mnt/nfs
mount -i -t nfs4 -o addr=127.0.0.1,clientaddr=127.0.0.1,vers=4.2,sec=sys,soft,timeo=100 127.0.0.1:/ /mnt/nfs";
