//! The daemon's store is cut short, flipped, deleted, on a file system that is full or read-only: the daemon stays, no space is
//! given twice, and the data is right. Needs what `make stage` leaves, in the folder that RIG_PAYLOAD names.

use anyhow::{Context, Result, bail, ensure};
use remap_guardian::sim::disk::Fault;
use rig::{Bus, Disk, Vm};
use serde_json::Value;

const MAIN: &str = "b-main";
const SPARE: &str = "b-spare";

/// Where the daemon keeps its store.
const STATE: &str = "/var/lib/remap-guardian";

/// Blocks of 4096 bytes that are compared: 8 MiB.
const BLOCKS: u64 = 2048;

/// What may happen to a store while no daemon has it open, as scripts that run in its folder.
const DAMAGE: [(&str, &str); 11] = [
    ("its file is cut short in the middle", "truncate -s $(($(stat -c %s db) / 2)) db"),
    ("its file is cut short by a byte", "truncate -s -1 db"),
    ("its file is empty", "truncate -s 0 db"),
    ("a bit near the start of its file has flipped", "flip 100"),
    ("bits all over its file have flipped", "for i in {1..40}; do flip $((i * $(stat -c %s db) / 41)); done"),
    ("a page of its file is zeros", "dd if=/dev/zero of=db bs=4096 seek=1 count=1 conv=notrunc status=none"),
    ("its file is noise", "head -c $(stat -c %s db) /dev/urandom >noise && cat noise >db && rm noise"),
    ("its file is gone", "rm db"),
    ("its configuration is gone", "rm conf"),
    ("all of it is gone", "rm -r ../store"),
    ("it is a file where a folder has to be", "rm -r ../store && echo no store >../store"),
];

/// Flips a bit of a byte of the store's file.
const FLIP: &str = r#"
flip() { local b=$((0x$(xxd -s $1 -l 1 -p db) ^ 1)); printf "$(printf '\\x%02x' $b)" | dd of=db bs=1 seek=$1 conv=notrunc status=none; }
"#;

struct Bench {
    vm: Vm,
    /// The next block that goes bad.
    next: u64,
    /// Blocks that have moved.
    moved: Vec<u64>,
}

#[test]
fn a_broken_store_costs_history_and_nothing_else() -> Result<()> {
    let disks = [Disk::new(MAIN, Bus::Virtio, 48), Disk::new(SPARE, Bus::Virtio, 16)];
    let vm = disks.into_iter().fold(Vm::new(), |vm, disk| vm.disk(disk)).payload(&rig::payload()?).boot()?;
    let mut bench = Bench { vm, next: 8, moved: Vec::new() };
    bench.made()?;
    for (what, script) in DAMAGE {
        bench.damaged(what, script).with_context(|| what.to_owned())?;
    }
    bench.full()?;
    bench.read_only()
}

impl Bench {
    fn made(&mut self) -> Result<()> {
        self.vm.install()?;
        let (main, spare) = (self.vm.path(MAIN), self.vm.path(SPARE));
        self.vm.ok(&format!(
            "head -c {} /dev/urandom >/root/wanted && dd if=/root/wanted of={main} bs=1M oflag=direct status=none &&
            systemctl enable --now remap-guardian && remap-guardian create data --main {main} --spare {spare}",
            BLOCKS * 4096
        ))?;
        for _ in 0..8 {
            self.heals()?;
        }
        self.whole()
    }

    /// A block goes bad and is written: no error.
    fn heals(&mut self) -> Result<()> {
        let block = self.next;
        self.next += 4;
        self.vm.sim(MAIN).inject_flushed(Fault::unwritable(block * 8..block * 8 + 8))?;
        let written = self.vm.run(&format!(
            "head -c 4096 /dev/urandom >/run/new && dd if=/run/new of=/root/wanted bs=4096 seek={block} conv=notrunc status=none &&
            dd if=/run/new of=/dev/mapper/data bs=4096 seek={block} oflag=direct conv=notrunc status=none"
        ))?;
        ensure!(written.success(), "block {block} went bad, and writing it failed: {written}\n{}", self.evidence()?);
        self.moved.push(block);
        Ok(())
    }

    /// Every block is as it was written, and each that has moved has a place of its own.
    fn whole(&mut self) -> Result<()> {
        self.vm.ok("dd if=/dev/mapper/data bs=1M count=8 iflag=direct status=none | cmp - /root/wanted")?;
        let spare = self.vm.path(SPARE);
        let table: Value = serde_json::from_str(&self.vm.ok(&format!("remap-guardian spare inspect {spare} --json"))?)?;
        let table = &table["table"];
        for trouble in ["superseded", "conflicts", "lost"] {
            ensure!(table[trouble] == 0, "{trouble}: {table}");
        }
        let number = |value: &Value| value.as_u64().context(format!("no number: {value}"));
        let mut places = Vec::new();
        for remap in table["remaps"].as_array().context("no remaps")? {
            let (main, len, at) = (number(&remap["main"]["start"])?, number(&remap["main"]["len"])?, number(&remap["at"])?);
            places.push((at, at + len, main / 8));
        }
        places.sort_unstable();
        ensure!(places.windows(2).all(|two| two[0].1 <= two[1].0), "a spare sector serves two of main: {places:?}");
        let mut moved: Vec<u64> = places.iter().map(|(.., block)| *block).collect();
        moved.sort_unstable();
        ensure!(moved == self.moved, "the table has blocks {moved:?}, and {:?} went bad", self.moved);
        Ok(())
    }

    /// The store is damaged while no daemon runs; the next one sets it aside, or reads of it what is there.
    fn damaged(&mut self, what: &str, script: &str) -> Result<()> {
        self.vm.ok(&format!("systemctl stop remap-guardian && cd {STATE}/store && {FLIP} {script}"))?;
        self.vm.ok("systemctl start remap-guardian")?;
        self.soon(30, "remap-guardian status data")?;
        self.whole()?;
        self.heals_soon()?;
        self.whole()?;
        let aside = self.vm.ok(&format!("ls -d {STATE}/store.set-aside-* 2>/dev/null | wc -l"))?;
        let restarts = self.vm.ok("systemctl show -P NRestarts remap-guardian")?;
        let told = self.vm.ok("remap-guardian history data --json | grep -c 'set aside as' || true")?;
        println!("{what}: {aside} set aside so far, {restarts} restarts, {told} in history");
        ensure!(aside == "0" || told != "0", "a store was set aside, and the history does not say so: {}", self.evidence()?);
        self.vm.ok(&format!("rm -rf {STATE}/store.set-aside-*")).map(drop)
    }

    /// As soon as space is ready, a bad block heals.
    fn heals_soon(&mut self) -> Result<()> {
        self.soon(20, "remap-guardian status data --json | jq -e '.sets[0].usage[0].reserved > 0'")?;
        self.heals()
    }

    /// The store's file system runs full under the daemon, and is full when the daemon comes.
    fn full(&mut self) -> Result<()> {
        self.on_tmpfs()?;
        self.heals_soon()?;
        self.vm.ok(&format!("dd if=/dev/zero of={STATE}/fill bs=64k status=none; ! echo more >>{STATE}/fill"))?;
        // Space was reserved before: cures need no file.
        for _ in 0..8 {
            self.heals()?;
        }
        self.whole()?;
        println!("the file system ran full: bad blocks heal");
        self.vm.ok("systemctl restart remap-guardian")?;
        self.soon(20, "[ -b /dev/mapper/data ]")?;
        self.whole()?;
        self.says_what_to_do(&["No space left on device"])?;
        self.vm.ok(&format!("rm {STATE}/fill"))?;
        self.soon(30, "remap-guardian status data")?;
        self.heals_soon()?;
        self.whole()?;
        println!("there is room again: the store is open, bad blocks heal");
        Ok(())
    }

    /// The same for one that becomes read-only.
    fn read_only(&mut self) -> Result<()> {
        self.vm.ok("systemctl stop remap-guardian")?;
        self.vm.ok(&format!("mount -o remount,ro {STATE} && systemctl start remap-guardian"))?;
        self.soon(20, "[ -b /dev/mapper/data ]")?;
        self.whole()?;
        self.says_what_to_do(&["Read-only file system"])?;
        self.vm.ok(&format!("mount -o remount,rw {STATE}"))?;
        self.soon(30, "remap-guardian status data")?;
        self.heals_soon()?;
        self.whole()?;
        println!("the file system was read-only and is not any more: bad blocks heal");
        Ok(())
    }

    /// Moves the store to a small file system of its own.
    fn on_tmpfs(&mut self) -> Result<()> {
        self.vm.ok(&format!(
            "systemctl stop remap-guardian && cp -a {STATE} /run/kept && mount -t tmpfs -o size=12M,mode=700 store {STATE} &&
            cp -a /run/kept/. {STATE}/ && systemctl start remap-guardian"
        ))?;
        self.soon(30, "remap-guardian status data")
    }

    /// While the store is not open, `status` says why, and the daemon stays.
    fn says_what_to_do(&mut self, words: &[&str]) -> Result<()> {
        self.soon(20, "remap-guardian status 2>&1 | grep 'the store is not open'")?;
        let status = self.vm.run("remap-guardian status; systemctl is-active remap-guardian")?;
        println!("{status}");
        for word in [words, &["sets are served all the same", "active"]].concat() {
            ensure!(status.stdout.contains(word) || status.stderr.contains(word), "it does not say {word:?}: {status}");
        }
        Ok(())
    }

    /// Waits until a shell condition holds.
    fn soon(&mut self, seconds: u32, condition: &str) -> Result<()> {
        let wait = format!("for i in {{1..{}}}; do {condition} && exit; sleep 0.2; done >/dev/null 2>&1; exit 1", seconds * 5);
        if !self.vm.run(&wait)?.success() {
            bail!("not within {seconds} s: {condition}\n{}", self.evidence()?);
        }
        Ok(())
    }

    fn evidence(&mut self) -> Result<String> {
        let evidence = self.vm.run(&format!(
            "remap-guardian status data --json; ls -l {STATE} {STATE}/store; df {STATE}; systemctl show -P NRestarts remap-guardian
            journalctl -n 40 -o cat -u remap-guardian; dmesg | tail -n 10"
        ))?;
        Ok(evidence.to_string())
    }
}
