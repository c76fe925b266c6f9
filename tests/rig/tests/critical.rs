//! The path of a cure, alone: it goes on when nothing else on the machine does, and a daemon that is killed at any step of it
//! leaves nothing that its successor does not put right. Needs what `make stage` leaves, in the folder that RIG_PAYLOAD names.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use remap_guardian::sim::disk::{Fault, Persist};
use rig::{Bus, Disk, Vm};
use serde_json::Value;

/// A failed write waits at most this long for its cure (the setting `hold_ms`).
const HOLD_MS: u64 = 10_000;

/// System calls that a thread on the path of a cure may make. `write` is for the event by which the rest of the daemon is woken.
const ALLOWED: [&str; 14] = [
    "ioctl",
    "futex",
    "poll",
    "ppoll",
    "preadv",
    "pwritev",
    "pwritev2",
    "fdatasync",
    "clock_nanosleep",
    "nanosleep",
    "restart_syscall",
    "sched_yield",
    "write",
    "clock_gettime",
];

/// What stays runnable when the root file system does not answer: its programs and their libraries are in memory.
const CAGE: &str = r#"
set -e
mkdir -p /run/cage && mount -t tmpfs -o size=128M,exec,dev cage /run/cage && cd /run/cage
mkdir proc dev root && mount -t proc proc proc && mount --rbind /dev dev && mount --bind / root
for program in bash dd strace fsfreeze grep tr; do
    path=$(command -v $program)
    cp -L --parents $path $(ldd $path | grep -o '/[^ ]*') .
done
mkfifo never && head -c 4096 /dev/urandom >new
"#;

/// Freezes everything but the cure, writes, and lets everything go again. Arguments: block, pid of journald, the disk by which the
/// host and this script talk, threads to trace. What it says is in the disk's first sector, what it hears in the second.
const FREEZE: &str = r#"
pause() { read -t "$1" <>/never || :; }
say() { printf %-512s "$1" | dd of=$signal bs=512 count=1 iflag=fullblock oflag=direct conv=notrunc status=none; }
block=$1 journald=$2 signal=$3; shift 3
for thread; do strace -o /trace.$thread -p $thread & tracers+=" $!"; done
for thread; do until grep -qv '^TracerPid:.0' <(grep TracerPid /proc/$thread/status); do pause 0.1; done; done
kill -STOP $journald
fsfreeze -f /root
echo 3 >/proc/sys/vm/drop_caches
say frozen
until [[ $(dd if=$signal bs=512 skip=1 count=1 iflag=direct status=none 2>/dev/null | tr -d '\0') == go* ]]; do pause 0.2; done
( dd if=/root/usr/bin/xxd of=/dev/null count=1 status=none; echo root answers ) &
pause 1
start=${EPOCHREALTIME/./}
dd if=/new of=/dev/mapper/data bs=4096 seek=$block count=1 oflag=direct
echo "written $? $(( (${EPOCHREALTIME/./} - start) / 1000 ))"
say written
pause 2
kill -INT $tracers
fsfreeze -u /root
kill -CONT $journald
echo thawed
"#;

/// Two daemons are started at once, and the one that stays is told to stop. Prints the log of the one that refused, how many
/// run, and the milliseconds that the stop took; what hangs if it takes too long.
const RACE: &str = r#"
systemctl stop remap-guardian
for n in 1 2; do timeout 150 remap-guardian run 2>/run/race.$n & done
for i in {1..300}; do grep -l 'another remap-guardian runs' /run/race.* && break; sleep 0.1; done
for i in {1..300}; do remap-guardian status data >/dev/null 2>&1 && break; sleep 0.1; done
for i in {1..100}; do pid=$(pidof remap-guardian); [ $(wc -w <<<"$pid") = 1 ] && break; sleep 0.1; done
wc -w <<<"$pid"
start=${EPOCHREALTIME/./}
kill $pid
for i in {1..200}; do [ -e /proc/$pid ] || break; sleep 0.1; done
echo $(( (${EPOCHREALTIME/./} - start) / 1000 ))
if [ -e /proc/$pid ]; then
    for task in /proc/$pid/task/*; do echo "$(<$task/comm): $(<$task/wchan) $(<$task/syscall)" >&2; done
    cat /run/race.* >&2
    exit 1
fi
wait
systemctl start remap-guardian
"#;

/// Where the daemon ends itself, in the order of a cure; the last two at its start.
const STEPS: [&str; 11] = [
    "fence",
    "drained",
    "salvage written",
    "salvage flushed",
    "sealed",
    "record written",
    "add_remap sent",
    "history appended",
    "marked in use",
    "batch reserved",
    "verified",
];

/// One guest serves all of this.
#[test]
fn the_cure_goes_on_alone_and_may_be_killed() -> Result<()> {
    let payload = rig::Failpoints::build()?;
    let kernels = rig::Guest::find()?.kernels()?;
    let newest = kernels.last().context("no kernel")?;
    let vm = Vm::new().kernel(&newest.version).payload(payload.folder());
    let vm = vm.disk(Disk::new("d-main", Bus::Nvme, 48)).disk(Disk::new("d-spare", Bus::Scsi, 16));
    let vm = vm.disk(Disk::new("signal", Bus::Scsi, 1)).boot()?;
    let mut trial = Trial { vm, block: 64, expected: BTreeMap::new() };
    trial.protect()?;
    trial.root_frozen()?;
    trial.two_at_once()?;
    trial.killed_at_each_step()?;
    trial.killed_on_the_way_back()?;
    trial.errors_without_a_daemon()
}

struct Trial {
    vm: Vm,
    /// The next block of 4096 bytes that was not used yet.
    block: u64,
    /// Blocks that were acknowledged, with the letter that they are full of.
    expected: BTreeMap<u64, char>,
}

impl Trial {
    fn protect(&mut self) -> Result<()> {
        self.vm.install()?;
        let (main, spare) = (self.vm.path("d-main"), self.vm.path("d-spare"));
        self.vm.ok(&format!(
            "systemctl enable --now remap-guardian && remap-guardian create data --main {main} --spare {spare} || exit 1
            ! journalctl -u remap-guardian -o cat | grep 'may have to wait' || exit 1
            for i in {{1..50}}; do remap-guardian status data --json | jq -e '.sets[0].status.spares[0].ready > 0' && break; sleep 0.2; done"
        ))?;
        let memory = self.vm.ok("grep VmLck /proc/$(pidof remap-guardian)/status | tr -dc 0-9")?;
        let locked: u64 = memory.parse().context(memory.clone())?;
        println!("a set is open, {} MiB of the daemon's memory are locked", locked >> 10);
        ensure!(locked > 16 << 10 && locked < 200 << 10, "{locked} KiB are locked");
        // PF_MEMALLOC_NOIO of <linux/sched.h>: the daemon's threads have it, a child has not. The thread that waits for smartctl's scan
        // goes without it meanwhile; those of a cure never do.
        let flags = r#"
for i in {1..60}; do
    without=$(for t in /proc/$(pidof remap-guardian)/task/*; do read -r line <$t/stat; set -- ${line##*) }; (( $7 & 0x80000 )) || cat $t/comm; done)
    [ -z "$without" ] && break
    grep -qxE 'engine|watcher|actuator|helper' <<<"$without" && break
    sleep 0.5
done
echo "$without"
"#;
        let without = self.vm.ok(flags)?;
        ensure!(without.trim().is_empty(), "threads that may start I/O to find memory: {without}");
        Ok(())
    }

    fn break_next(&mut self) -> Result<u64> {
        let block = self.block;
        self.block += 8;
        self.vm.sim("d-main").inject_flushed(Fault::unwritable(block * 8..block * 8 + 8))?;
        Ok(block)
    }

    /// Root does not answer, journald stands still, no page is cached: the write to a bad sector is acknowledged all the same.
    fn root_frozen(&mut self) -> Result<()> {
        self.vm.ok(CAGE)?;
        self.vm.put("/run/cage/freeze", FREEZE)?;
        let block = self.break_next()?;
        let pid = self.vm.ok("pidof remap-guardian")?;
        let threads = self.vm.ok(&format!("grep -lxE 'engine|watcher|actuator|helper' /proc/{pid}/task/*/comm | cut -d/ -f5"))?;
        let threads: Vec<&str> = threads.lines().collect();
        // A helper for main and one for the spare.
        ensure!(threads.len() == 5, "not the threads of one set: {threads:?}");
        let list = threads.join(" ");
        let signal = self.vm.path("signal");
        self.vm.ok(&format!(
            "setsid chroot /run/cage /usr/bin/bash /freeze {block} $(pidof systemd-journald) $(realpath {signal}) {list} \
            </dev/null >/run/cage/out 2>&1 &"
        ))?;
        // From here on the guest's agent may stand still, too.
        self.hear("frozen")?;
        let whole = 0..self.vm.sim("root").sectors();
        self.vm.sim("root").inject(Fault::slow(whole.clone(), Duration::from_secs(20)));
        let mut go = [0; 512];
        go[..2].copy_from_slice(b"go");
        self.vm.sim("signal").write(1, &go, Persist::Fua)?;
        let heard = self.hear("written");
        self.vm.sim("root").repair(whole);
        heard?;
        let wait = "for i in {1..500}; do grep -q thawed /run/cage/out && break; sleep 0.1; done; cat /run/cage/out";
        let out = self.vm.ok(wait)?;
        let written = out.lines().find_map(|line| line.strip_prefix("written ")).with_context(|| format!("no write: {out}"))?;
        let answers = out.find("root answers").unwrap_or(out.len());
        ensure!(out.find("written").is_some_and(|written| written < answers), "root was not frozen: {out}");
        let (status, ms) = written.split_once(' ').context(out.clone())?;
        println!("with a frozen root the write ended with {status} after {ms} ms");
        ensure!(status == "0" && ms.parse::<u64>()? < HOLD_MS, "the write was not cured in time: {out}");
        for thread in &threads {
            self.traced(pid.trim(), thread)?;
        }
        let after = self.vm.ok(&format!(
            "cmp <(dd if=/dev/mapper/data bs=4096 skip={block} count=1 iflag=direct status=none) /run/cage/new &&
            pidof remap-guardian && for i in {{1..100}}; do
                remap-guardian history data --json | jq -se 'any(.[]; .kind == \"remapped\")' && break; sleep 0.2
            done"
        ))?;
        ensure!(after.lines().next() == Some(pid.trim()), "the daemon was ended by somebody: {after}");
        ensure!(after.contains("true"), "history has not caught up: {after}");
        println!("thawed: history has caught up");
        Ok(())
    }

    /// Waits until the script in the cage says something.
    fn hear(&self, word: &str) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(120);
        let mut sector = [0; 512];
        while !sector.starts_with(word.as_bytes()) {
            ensure!(Instant::now() < deadline, "“{word}” was not said");
            thread::sleep(Duration::from_millis(100));
            self.vm.sim("signal").read(0, &mut sector)?;
        }
        Ok(())
    }

    /// What strace saw a thread do.
    fn traced(&mut self, pid: &str, thread: &str) -> Result<()> {
        let name = self.vm.ok(&format!("cat /proc/{pid}/task/{thread}/comm"))?;
        let trace = self.vm.ok(&format!("cat /run/cage/trace.{thread}"))?;
        let mut calls: BTreeMap<&str, u32> = BTreeMap::new();
        for line in trace.lines().filter(|line| !line.starts_with("strace:") && !line.starts_with("---")) {
            let line = line.strip_prefix("<... ").or(line.strip_prefix("... ")).unwrap_or(line);
            let call = line.split(['(', ' ']).next().unwrap_or_default();
            // An event's descriptor is written by eight bytes; a socket or a file never.
            let event = call != "write" || line.contains(r#""\1\0\0\0\0\0\0\0", 8)"#);
            *calls.entry(if event { call } else { line }).or_default() += 1;
        }
        println!("{name}: {calls:?}");
        let worked = if name == "helper" { true } else { calls.values().sum::<u32>() > 3 };
        ensure!(worked, "{name} did nothing: {trace}");
        if name == "actuator" {
            for call in ["ioctl", "pwritev"] {
                ensure!(calls.keys().any(|seen| seen.starts_with(call)), "{name} cured without {call}: {trace}");
            }
        }
        let others: Vec<&&str> = calls.keys().filter(|call| !ALLOWED.contains(call)).collect();
        ensure!(others.is_empty(), "{name} did {others:?}:\n{trace}");
        Ok(())
    }

    fn two_at_once(&mut self) -> Result<()> {
        let second = self.vm.run("timeout 50 remap-guardian run")?;
        ensure!(second.status == 1 && second.stderr.contains("another remap-guardian runs"), "a second daemon: {second}");
        // The page cache may be empty since the freeze, and the machine busy: that takes time, a stop does not.
        let race = self.vm.run_for(Duration::from_secs(200), RACE)?;
        let lines: Vec<&str> = race.stdout.lines().collect();
        ensure!(race.success() && lines.len() == 3 && lines[1] == "1", "of two that start at once one refuses: {race}");
        println!("two daemons at once: one refuses; the other one, told to stop, had ended after {} ms", lines[2]);
        Ok(())
    }

    fn killed_at_each_step(&mut self) -> Result<()> {
        self.vm.ok("systemctl stop remap-guardian && cp --remove-destination /usr/sbin/remap-guardian-failpoints /usr/sbin/remap-guardian &&
            systemctl start remap-guardian && for i in {1..100}; do remap-guardian status data >/dev/null && exit; sleep 0.1; done; exit 1")?;
        for step in STEPS {
            let start = Instant::now();
            let block = self.break_next()?;
            let old = self.fill(block, 'o')?;
            ensure!(old.0 == 0, "{step}: the block cannot be written before: {old:?}");
            let at_start = ["batch reserved", "verified"].contains(&step);
            self.vm.ok(&format!("remap-guardian status data && echo '{step}' >/run/remap-guardian.die"))?;
            let block = self.break_next()?;
            if at_start {
                self.vm.run("systemctl restart remap-guardian")?;
            }
            let (status, ms) = self.fill(block, 'n')?;
            ensure!(ms < HOLD_MS + 5_000, "{step}: the write took {ms} ms");
            let back = "for i in {1..200}; do [ ! -e /run/remap-guardian.die ] && remap-guardian status data >/dev/null && break; sleep 0.1; done
                ! ls /run/remap-guardian.die && remap-guardian status data >/dev/null && systemctl is-active remap-guardian";
            let back = self.vm.run(back)?;
            if !back.success() {
                let evidence = "remap-guardian status; remap-guardian history | tail; journalctl -n 40; dmsetup status";
                bail!("{step}: no daemon came back: {back}\n{}", self.vm.run(evidence)?);
            }
            if status != 0 {
                let again = self.fill(block, 'n')?;
                ensure!(again.0 == 0, "{step}: the block is not cured once the daemon is back: {again:?}");
            }
            self.sound(step)?;
            println!(
                "killed at “{step}”: the write ended with {status} after {ms} ms; sound after {} ms",
                start.elapsed().as_millis()
            );
        }
        let kills = self.vm.ok("journalctl -u remap-guardian -o cat | grep -c 'status=9/KILL'")?;
        ensure!(kills.parse::<usize>()? >= STEPS.len(), "only {kills} of {} kills", STEPS.len());
        Ok(())
    }

    /// An un-remap that is interrupted is undone or completed, and its spare is not taken for an older one.
    fn killed_on_the_way_back(&mut self) -> Result<()> {
        for (step, goes) in [("written back", false), ("record removed", true), ("remove_remap sent", true)] {
            let block = self.break_next()?;
            let moved = self.fill(block, 'o')?;
            ensure!(moved.0 == 0, "{step}: the block cannot be written before: {moved:?}");
            let sector = block * 8;
            self.vm.sim("d-main").repair(sector..sector + 8);
            self.vm.ok(&format!(
                "for i in {{1..100}}; do remap-guardian status data --json | jq -e '.sets[0].status | .cases == [] and any(.remaps[]; .main.start == {sector})' >/dev/null && break; sleep 0.1; done
                echo '{step}' >/run/remap-guardian.die; remap-guardian unremap data {sector}
                for i in {{1..200}}; do [ ! -e /run/remap-guardian.die ] && remap-guardian status data >/dev/null && exit; sleep 0.1; done; exit 1"
            ))?;
            self.sound(step)?;
            let status: Value = serde_json::from_str(&self.vm.ok("sleep 1; remap-guardian status data --json")?)?;
            let remaps = status["sets"][0]["status"]["remaps"].as_array().context("no remaps")?;
            let stays = remaps.iter().any(|remap| remap["main"]["start"] == sector);
            ensure!(stays != goes, "{step}: {}: {status}", if goes { "it is still on the spare" } else { "its record is gone" });
            if goes {
                let told = format!(
                    "remap-guardian history data --json | jq -c 'select(.kind == \"unremapped\" and .remap.main.start == {sector})' | grep ."
                );
                self.vm.ok(&told)?;
            }
            let written = self.fill(block, 'n')?;
            ensure!(written.0 == 0, "{step}: the block does not take a write: {written:?}");
            self.vm.ok("systemctl restart remap-guardian; for i in {1..100}; do remap-guardian status data >/dev/null && break; sleep 0.2; done")?;
            self.sound(step)?;
        }
        let older = self.vm.run("remap-guardian history data | grep 'durable on it'")?;
        ensure!(!older.success(), "the spare was taken for an older one: {older}");
        println!("killed at each step of the way back: undone or completed");
        Ok(())
    }

    /// Fills a block with a letter. Exit status and milliseconds.
    fn fill(&mut self, block: u64, letter: char) -> Result<(i32, u64)> {
        let out = self.vm.ok(&format!(
            "start=${{EPOCHREALTIME/./}}
            head -c 4096 /dev/zero | tr '\\0' {letter} | dd of=/dev/mapper/data bs=4096 seek={block} count=1 iflag=fullblock oflag=direct status=none
            echo $? $(( (${{EPOCHREALTIME/./}} - start) / 1000 ))"
        ))?;
        let (status, ms) = out.split_once(' ').context(out.clone())?;
        let status = status.parse()?;
        if status == 0 {
            self.expected.insert(block, letter);
        }
        Ok((status, ms.parse()?))
    }

    /// Acknowledged data reads back, no sector serves or is served twice, and history accounts for every remap.
    fn sound(&mut self, step: &str) -> Result<()> {
        let list: Vec<String> = self.expected.iter().map(|(block, letter)| format!("{block}:{letter}")).collect();
        let read = format!(
            "for b in {}; do
                [ \"$(dd if=/dev/mapper/data bs=4096 skip=${{b%:*}} count=1 iflag=direct status=none | tr -d ${{b#*:}} | wc -c)\" = 0 ] || echo $b
            done",
            list.join(" ")
        );
        let wrong = self.vm.ok(&read)?;
        ensure!(wrong.is_empty(), "{step}: acknowledged blocks do not read back: {wrong}");
        let status: Value = serde_json::from_str(&self.vm.ok("remap-guardian status data --json")?)?;
        let remaps = status["sets"][0]["status"]["remaps"].as_array().context("no remaps")?;
        let number = |value: &Value| value.as_u64().context("not a number");
        let (mut main, mut spare) = (Vec::new(), Vec::new());
        for remap in remaps {
            let (start, len) = (number(&remap["main"]["start"])?, number(&remap["main"]["len"])?);
            main.push((start, start + len));
            spare.push((number(&remap["at"])?, number(&remap["at"])? + len));
        }
        for ranges in [&mut main, &mut spare] {
            ranges.sort_unstable();
            ensure!(ranges.windows(2).all(|two| two[0].1 <= two[1].0), "{step}: a sector is used twice: {ranges:?}");
        }
        let live: u64 = main.iter().map(|(start, end)| end - start).sum();
        let in_kernel = self.vm.ok("dmsetup message data 0 'dump 0' | tail -n +2 | wc -l")?;
        let history = self.vm.ok("remap-guardian history data --json")?;
        let entries: Vec<Value> = history.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let told: u64 = entries
            .iter()
            .map(|entry| match entry["kind"].as_str() {
                Some("remapped") => entry["remap"]["main"]["len"].as_u64().unwrap_or(0),
                // “8 sectors were moved to spare 0 by a run that ended before it could write them down here”
                Some("alert") => entry["message"].as_str().and_then(|m| m.split(' ').next()?.parse().ok()).unwrap_or(0),
                _ => 0,
            })
            .sum();
        ensure!(
            told >= live,
            "{step}: history tells of {told} sectors, {live} are remapped ({in_kernel} in the kernel): {history}"
        );
        Ok(())
    }

    /// What failed while nobody listened is told when somebody does.
    fn errors_without_a_daemon(&mut self) -> Result<()> {
        let block = self.block;
        self.block += 8;
        self.vm.ok("systemctl stop remap-guardian")?;
        self.vm.sim("d-main").inject(Fault::unreadable(block * 8..block * 8 + 8));
        let read = self.vm.run(&format!("dd if=/dev/mapper/data of=/dev/null bs=4096 skip={block} count=1 iflag=direct"))?;
        ensure!(!read.success(), "the block reads");
        let told = self.vm.ok(&format!(
            "systemctl start remap-guardian
            for i in {{1..100}}; do
                remap-guardian history data --json | jq -c 'select(.kind == \"error\" and .op == \"read\" and .extent.start == {})' | grep . && break; sleep 0.1
            done; remap-guardian history data | grep 'not read before'",
            block * 8
        ))?;
        println!("told late: {told}");
        // Once.
        let again = self.vm.ok(&format!(
            "sleep 1.5; systemctl restart remap-guardian; sleep 2
            remap-guardian history data --json | jq -c 'select(.kind == \"error\" and .op == \"read\" and .extent.start == {})' | wc -l",
            block * 8
        ))?;
        ensure!(again == "1", "told {again} times");
        Ok(())
    }
}
