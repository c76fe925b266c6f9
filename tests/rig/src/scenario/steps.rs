//! The steps of the scenario.

use std::ops::Range;

use anyhow::{Context, Result, ensure};
use remap_guardian::sim::disk::Fault;
use serde_json::Value;

use super::{BAD_FROM_START, Scenario, Set};

/// Bytes, sectors of 512 and blocks of a file system.
const BLOCK: u64 = 4096;
const SECTORS_PER_BLOCK: u64 = 8;

/// What a set looked like before a reboot.
pub(super) struct Before {
    entries: usize,
}

impl Scenario {
    pub(super) fn describe_guest(&mut self) -> Result<()> {
        let system = self.vm.ok(". /etc/os-release; echo \"$PRETTY_NAME, Linux $(uname -r), systemd $(systemctl --version | awk 'NR == 1 { print $2 }')\"")?;
        self.held(&format!("a guest has booted: {system}"));
        Ok(())
    }

    /// The faults are real: without protection, writing to each of them fails.
    pub(super) fn disks_are_bad(&mut self, set: &Set) -> Result<()> {
        let main = self.vm.path(&set.main());
        for bad in BAD_FROM_START {
            let write = format!("dd if=/dev/zero of={main} bs=512 seek={} count=1 oflag=direct conv=nocreat", bad.start);
            let output = self.command(&write)?;
            ensure!(!output.success(), "{main} takes a write to its bad sector {}", bad.start);
        }
        let sectors: u64 = BAD_FROM_START.iter().map(|bad| bad.end - bad.start).sum();
        self.held(&format!("{main}: {sectors} sectors in {} places fail when written", BAD_FROM_START.len()));
        Ok(())
    }

    pub(super) fn install(&mut self) -> Result<()> {
        self.vm.install()?;
        self.held("files unpacked as “make install” leaves them");
        self.succeeds("systemctl enable --now remap-guardian", "systemctl enable --now remap-guardian")?;
        self.succeeds("systemctl is-active remap-guardian", "the daemon runs")?;
        Ok(())
    }

    pub(super) fn protect(&mut self, set: &Set) -> Result<()> {
        let (name, mount) = (set.name, set.mount());
        let (main, spare) = (self.vm.path(&set.main()), self.vm.path(&set.spare()));
        let create = format!("remap-guardian create {name} --main {main} --spare {spare}");
        self.succeeds(&create, &create)?;
        let mkfs = format!(
            "mkfs.ext4 -q -b {BLOCK} -E nodiscard,lazy_itable_init=0 /dev/mapper/{name} &&
            mkdir -p {mount} && echo '/dev/mapper/{name} {mount} ext4 defaults 0 2' >>/etc/fstab &&
            systemctl daemon-reload && mount {mount}"
        );
        self.succeeds(&mkfs, &format!("ext4 on /dev/mapper/{name}, mounted on {mount} through /etc/fstab"))?;
        Ok(())
    }

    /// Large direct writes over every sector that was bad from the start.
    pub(super) fn write_direct(&mut self, set: &Set) -> Result<()> {
        let file = format!("{}/direct", set.mount());
        let write = format!("head -c 48M /dev/urandom >/run/direct && dd if=/run/direct of={file} bs=1M oflag=direct && sync");
        self.succeeds(&write, &format!("{file}: 48 MiB written with O_DIRECT, no error"))?;
        let extents = self.extents(&file)?;
        for bad in BAD_FROM_START {
            let inside = extents.iter().any(|e| e.start <= bad.start && bad.end <= e.end);
            ensure!(inside, "the bad sectors {bad:?} were not written: {file} is at {extents:?}");
        }
        self.succeeds(
            &format!("dd if={file} bs=1M iflag=direct status=none | cmp - /run/direct && rm /run/direct"),
            &format!("its {} bad places were among what was written, and it reads back equal", BAD_FROM_START.len()),
        )?;
        self.remapped(set, &BAD_FROM_START)
    }

    /// Sectors that go bad under a file that is in use; the file is rewritten through the page cache.
    pub(super) fn write_buffered(&mut self, set: &Set) -> Result<()> {
        let file = format!("{}/buffered", set.mount());
        self.vm.ok(&format!("head -c 4M /dev/urandom >{file} && sync"))?;
        let (first, second) = (self.sectors_of(&file, 3)?, self.sectors_of(&file, 500)?);
        let bad = [first.start + 2..first.start + 3, second];
        for sectors in &bad {
            self.vm.sim(&set.main()).inject_flushed(Fault::unwritable(sectors.clone()))?;
        }
        let write = format!(
            "head -c 4M /dev/urandom >/run/buffered && dd if=/run/buffered of={file} bs=64k conv=notrunc,fsync &&
            echo 3 >/proc/sys/vm/drop_caches && cmp {file} /run/buffered"
        );
        self.succeeds(&write, &format!("{file}: sectors under it went bad, rewritten with fsync, no error, reads back equal"))?;
        self.remapped(set, &bad)
    }

    /// A sector that cannot be read, but written.
    pub(super) fn unreadable(&mut self, set: &Set) -> Result<()> {
        let file = format!("{}/unreadable", set.mount());
        self.vm.ok(&format!("head -c 1M /dev/urandom >{file} && sync && echo 3 >/proc/sys/vm/drop_caches"))?;
        let bad = self.sectors_of(&file, 7)?;
        self.vm.sim(&set.main()).inject(Fault::unreadable(bad.start + 1..bad.start + 2));
        let read = format!("dd if={file} bs={BLOCK} skip=7 count=1 iflag=direct status=none");
        self.fails(&read, &format!("{file}: a sector became unreadable: reading its block fails"))?;
        self.rewrite(&file, 7, "once written again, the block reads as what was written")
    }

    /// A block that can be neither read nor written, of which one sector is written again.
    pub(super) fn dead(&mut self, set: &Set) -> Result<()> {
        let file = format!("{}/dead", set.mount());
        self.vm.ok(&format!("head -c 1M /dev/urandom >{file} && sync && echo 3 >/proc/sys/vm/drop_caches"))?;
        for block in [7, 20] {
            let bad = self.sectors_of(&file, block)?;
            self.vm.sim(&set.main()).inject_flushed(Fault::dead(bad))?;
        }
        self.fails(&read_sector(&file, 7 * 8), &format!("{file}: a block died: reading it fails"))?;
        self.succeeds(
            &format!("head -c 512 /dev/urandom >/run/one && dd if=/run/one of={file} bs=512 seek=57 oflag=direct conv=notrunc"),
            "one of its sectors is written: no error",
        )?;
        self.succeeds(&format!("{} | cmp - /run/one", read_sector(&file, 57)), "that sector reads as what was written")?;
        self.still_lost(&file)?;
        self.rewrite(&file, 20, "another dead block, written whole, reads as what was written")?;
        let bad = [self.sectors_of(&file, 7)?, self.sectors_of(&file, 20)?];
        self.remapped(set, &bad)
    }

    pub(super) fn history_explains(&mut self, set: &Set) -> Result<()> {
        let history = self.history(set)?;
        let of_kind = |kind: &str| history.iter().filter(|entry| entry["kind"] == kind).cloned().collect::<Vec<Value>>();
        let (remapped, errors) = (of_kind("remapped"), of_kind("error"));
        let explained = remapped.iter().all(|entry| !text(&entry["decision"]["reason"]).is_empty() && entry["class"].is_string());
        let what = format!("{}: {} cures, each with its error class and the reason", set.name, remapped.len());
        self.check(!remapped.is_empty() && explained, &what, || format!("{remapped:#?}"))?;
        let odd: Vec<Value> = ["alert", "adopted", "not_restored", "not_remapped"].into_iter().flat_map(of_kind).collect();
        self.check(odd.is_empty(), &format!("{}: no alert, and nobody else took a hand", set.name), || format!("{odd:#?}"))?;
        let reads = errors.iter().filter(|entry| entry["op"] == "read").count();
        let what = format!("{}: {reads} read errors are recorded", set.name);
        self.check(reads > 0, &what, || format!("{history:#?}"))
    }

    /// Notes checksums of everything that can be read.
    pub(super) fn before_reboot(&mut self, sets: &[Set]) -> Result<Vec<Before>> {
        let mut before = Vec::new();
        for set in sets {
            let (name, mount) = (set.name, set.mount());
            // The file with lost sectors cannot be summed; its sectors are looked at one by one.
            let sum = format!(
                "sync && cd {mount} && sha256sum $(ls | grep -vx -e dead -e torn -e lost+found) >/root/{name}.sums && sync"
            );
            self.vm.ok(&sum)?;
            before.push(Before { entries: self.history(set)?.len() });
        }
        self.held("checksums taken");
        Ok(before)
    }

    /// After a boot: the device was there in time, and nothing that was readable or lost has changed.
    pub(super) fn back_again(&mut self, set: &Set, before: &Before) -> Result<()> {
        let (name, mount) = (set.name, set.mount());
        self.succeeds(
            &format!("findmnt -no SOURCE {mount} | grep -x /dev/mapper/{name} && ! systemctl --failed --no-legend | grep ."),
            &format!("{mount} was mounted by the boot, nothing failed"),
        )?;
        self.succeeds(&format!("cd {mount} && sha256sum -c --quiet /root/{name}.sums"), "every checksum matches")?;
        self.still_lost(&format!("{mount}/dead"))?;
        let entries = self.history(set)?.len();
        let what = format!("history continues: {} entries before, {entries} now", before.entries);
        self.check(entries > before.entries, &what, String::new)
    }

    /// Lost sectors heal and fresh bad ones are cured, as before.
    pub(super) fn goes_on(&mut self, set: &Set) -> Result<()> {
        let mount = set.mount();
        self.rewrite(&format!("{mount}/dead"), 7, "a lost block, written whole at last, reads as what was written")?;
        let fresh = self.sectors_of(&format!("{mount}/buffered"), 700)?;
        self.vm.sim(&set.main()).inject_flushed(Fault::unwritable(fresh.clone()))?;
        self.rewrite(&format!("{mount}/buffered"), 700, "a sector that goes bad now is cured too")?;
        self.remapped(set, &[fresh])
    }

    /// Leaves a writer behind that crosses bad sectors when the power is cut.
    pub(super) fn start_writing(&mut self, set: &Set) -> Result<()> {
        let file = format!("{}/torn", set.mount());
        self.vm.ok(&format!("head -c 8M /dev/zero >{file} && sync"))?;
        for block in (100..2000).step_by(300) {
            let bad = self.sectors_of(&file, block)?;
            self.vm.sim(&set.main()).inject_flushed(Fault::unwritable(bad))?;
        }
        let write = format!("while dd if=/dev/urandom of={file} bs=64k count=128 conv=notrunc oflag=direct; do :; done");
        self.vm.ok(&format!("( {write} ) >/dev/null 2>&1 & sleep 1"))?;
        Ok(())
    }

    /// As after a reboot, with a file system that had no time to say good-bye.
    pub(super) fn after_power_cut(&mut self, set: &Set, before: &Before, seed: u64) -> Result<()> {
        self.back_again(set, before)?;
        let file = format!("{}/torn", set.mount());
        self.succeeds(&format!("cat {file} | wc -c | grep -x 8388608"), "the file that was being written can be read")?;
        let block = 150 + seed % 6 * 300;
        let fresh = self.sectors_of(&file, block)?;
        self.vm.sim(&set.main()).inject_flushed(Fault::unwritable(fresh.clone()))?;
        self.rewrite(&file, block, "a sector that goes bad now is cured too")?;
        self.remapped(set, &[fresh])
    }

    pub(super) fn summary(&mut self, sets: &[Set]) -> Result<()> {
        for set in sets {
            let history = self.history(set)?;
            let took: Vec<u64> = history.iter().filter_map(|entry| entry["took_ms"].as_u64()).collect();
            let slowest = took.iter().max().copied().unwrap_or_default();
            println!(
                "  {} ({:?}): {} blocks moved to the spare, the slowest in {slowest} ms; no write failed, no wrong data was read.",
                set.name,
                set.bus,
                took.len()
            );
        }
        println!("  {} checks, all passed.", self.checks);
        Ok(())
    }

    /// Of the block that died and had one sector written, the others are errors.
    fn still_lost(&mut self, file: &str) -> Result<()> {
        for sector in [56, 58, 63] {
            let read = self.command(&read_sector(file, sector))?;
            ensure!(!read.success(), "sector {sector} of {file} was lost, yet it reads");
        }
        self.held("the other sectors of that block, whose content is lost, still fail");
        Ok(())
    }

    /// Writes a block of a file with O_DIRECT and reads it back.
    fn rewrite(&mut self, file: &str, block: u64, what: &str) -> Result<()> {
        let script = format!(
            "head -c {BLOCK} /dev/urandom >/run/block &&
            dd if=/run/block of={file} bs={BLOCK} seek={block} oflag=direct conv=notrunc status=none && sync &&
            echo 3 >/proc/sys/vm/drop_caches &&
            dd if={file} bs={BLOCK} skip={block} count=1 iflag=direct status=none | cmp - /run/block"
        );
        self.succeeds(&script, what)?;
        Ok(())
    }

    /// Checks that history tells of a remap over each of `places`.
    fn remapped(&mut self, set: &Set, places: &[Range<u64>]) -> Result<()> {
        let mut tries = 0..50;
        // The write is acknowledged first.
        let (remaps, left) = loop {
            let history = self.history(set)?;
            let remaps: Vec<Range<u64>> = history.iter().filter_map(|entry| extent(&entry["remap"]["main"])).collect();
            let covered = |sector: &u64| remaps.iter().any(|remap| remap.contains(sector));
            let left: Vec<u64> = places.iter().cloned().flatten().filter(|sector| !covered(sector)).collect();
            if left.is_empty() || tries.next().is_none() {
                break (remaps, left);
            }
            std::thread::sleep(std::time::Duration::from_millis(200));
        };
        let what = format!("{}: the spare has taken the place of all {} bad places", set.name, places.len());
        self.check(left.is_empty(), &what, || format!("sectors {left:?} are in no remap: {remaps:?}"))
    }

    /// Where a file is on its disk, in sectors.
    fn extents(&mut self, file: &str) -> Result<Vec<Range<u64>>> {
        let listing = self.vm.ok(&format!("filefrag -e -b{BLOCK} {file}"))?;
        Ok(parse_filefrag(&listing).into_iter().map(|(_, physical)| physical).collect())
    }

    /// The sectors of the disk that hold a block of a file.
    fn sectors_of(&mut self, file: &str, block: u64) -> Result<Range<u64>> {
        let listing = self.vm.ok(&format!("filefrag -e -b{BLOCK} {file}"))?;
        let found = parse_filefrag(&listing).into_iter().find_map(|(logical, physical)| {
            let offset = (block * SECTORS_PER_BLOCK).checked_sub(logical)?;
            let start = physical.start + offset;
            (start < physical.end).then_some(start..start + SECTORS_PER_BLOCK)
        });
        found.with_context(|| format!("no block {block} in {file}:\n{listing}"))
    }
}

fn read_sector(file: &str, sector: u64) -> String {
    format!("dd if={file} bs=512 skip={sector} count=1 iflag=direct status=none")
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn extent(value: &Value) -> Option<Range<u64>> {
    let (start, len) = (value["start"].as_u64()?, value["len"].as_u64()?);
    Some(start..start + len)
}

/// Where each extent starts in the file, and where it is on the disk; in sectors. Its lines look like
/// `   0:        0..    2047:      34816..     36863:   2048:             last,eof`.
fn parse_filefrag(listing: &str) -> Vec<(u64, Range<u64>)> {
    let extent = |line: &str| -> Option<(u64, Range<u64>)> {
        let mut fields = line.split(':').map(|field| field.split("..").next().unwrap_or_default().trim());
        fields.next()?.parse::<u64>().ok()?;
        let [logical, physical, length] = [fields.next()?, fields.next()?, fields.next()?].map(|n| n.parse::<u64>().ok());
        let start = physical? * SECTORS_PER_BLOCK;
        Some((logical? * SECTORS_PER_BLOCK, start..start + length? * SECTORS_PER_BLOCK))
    };
    listing.lines().filter_map(extent).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filefrag_is_understood() {
        let listing = "Filesystem type is: ef53\nFile size of /mnt/f is 4194304 (1024 blocks of 4096 bytes)\n \
             ext:     logical_offset:        physical_offset: length:   expected: flags:\n   \
             0:        0..     511:       2048..      2559:    512:            \n   \
             1:      512..    1023:       4096..      4607:    512:       2560: last,eof\n/mnt/f: 2 extents found";
        assert_eq!(parse_filefrag(listing), [(0, 16_384..20_480), (4096, 32_768..36_864)]);
    }
}
