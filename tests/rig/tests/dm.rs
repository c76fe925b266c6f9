//! `remap-guardian dm` beside dmsetup: every operation on the same devices, and both have to see the same. Needs what
//! `make stage` leaves, in the folder that RIG_PAYLOAD names.

use std::env;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rig::{Bus, Disk, Vm};
use serde_json::Value;

/// Name, bus, MiB.
const DISKS: [(&str, Bus, u64); 4] =
    [("dm-a", Bus::Scsi, 32), ("dm-b", Bus::Scsi, 32), ("dm-c", Bus::Nvme, 16), ("dm-mounted", Bus::Scsi, 16)];
/// 4 MiB in sectors.
const LEN: u64 = 8192;

struct Both {
    vm: Vm,
    checks: u32,
    wrong: Vec<String>,
    /// As the last refused command left it, until something changes it on purpose.
    before: Option<String>,
}

/// What dmsetup knows of a device.
const FIELDS: &str = "uuid,suspended,tables_loaded,open,events,major,minor,readonly,segments";

/// JSON line by line.
fn parse(lines: &str) -> Result<Vec<Value>> {
    lines.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

/// One guest serves all of this, for a boot costs more than the rest. With RIG_SOAK set also what takes minutes.
#[test]
fn it_does_what_dmsetup_does() -> Result<()> {
    let payload = rig::payload()?;
    let vm = DISKS.into_iter().fold(Vm::new(), |vm, (name, bus, mib)| vm.disk(Disk::new(name, bus, mib)));
    let mut both = Both { vm: vm.payload(&payload).boot()?, checks: 0, wrong: Vec::new(), before: None };
    both.vm.install()?;
    failures_put_things_back(&mut both)?;
    busy_devices(&mut both)?;
    bad_tables(&mut both)?;
    bad_names(&mut both)?;
    output_that_nobody_reads(&mut both)?;
    life_of_a_device(&mut both)?;
    names_and_uuids(&mut both)?;
    every_typed_target(&mut both)?;
    keys_are_hidden(&mut both)?;
    events(&mut both)?;
    if env::var_os("RIG_SOAK").is_some() {
        udev_that_hangs(&mut both)?;
    }
    without_udev(&mut both)?;
    ensure!(both.wrong.is_empty(), "{} of {} checks:\n{}", both.wrong.len(), both.checks, both.wrong.join("\n"));
    println!("{} checks", both.checks);
    Ok(())
}

impl Both {
    fn path(&self, disk: &str) -> String {
        self.vm.path(disk)
    }

    /// Goes on if it does not hold, to tell of all.
    fn check(&mut self, holds: bool, what: impl Into<String>) {
        self.checks += 1;
        let what = what.into();
        if holds {
            println!("✓ {what}");
        } else {
            println!("✗ {what}");
            self.wrong.push(what);
        }
    }

    fn same(&mut self, what: &str, ours: &str, theirs: &str) {
        let same = ours == theirs;
        self.check(same, if same { format!("{what}: {ours}") } else { format!("{what}: ours {ours:?}, dmsetup {theirs:?}") });
    }

    /// A script that has to succeed, and may change what it likes.
    fn sh(&mut self, script: &str) -> Result<String> {
        self.before = None;
        self.vm.ok(script)
    }

    /// Our verb, which has to succeed.
    fn dm(&mut self, verb: &str) -> Result<String> {
        self.sh(&format!("remap-guardian dm {verb}"))
    }

    /// What our verb prints with --json, line by line.
    fn json(&mut self, verb: &str) -> Result<Vec<Value>> {
        parse(&self.dm(&format!("{verb} --json"))?)
    }

    fn one(&mut self, verb: &str) -> Result<Value> {
        let mut all = self.json(verb)?;
        ensure!(all.len() == 1, "{verb}: {all:?}");
        all.pop().context("nothing")
    }

    /// All that dmsetup can tell of a device is what we tell.
    fn compare(&mut self, name: &str) -> Result<()> {
        let text = self.sh(&format!(
            "udevadm settle # It opens devices, too.
            for verb in info table 'table --inactive' status deps; do remap-guardian dm $verb '{name}' --json; echo =; done
            dmsetup info -c --noheadings --separator '|' -o {FIELDS} '{name}'; echo =
            for verb in table 'table --inactive' status deps; do dmsetup $verb '{name}'; echo =; done"
        ))?;
        let parts: Vec<&str> = text.trim_end_matches('=').split("=\n").map(str::trim).collect();
        let [info, table, inactive, status, deps, info2, table2, inactive2, status2, deps2] = parts[..] else {
            bail!("{name}: {text}");
        };
        let info: Value = serde_json::from_str(info)?;
        let fields: Vec<&str> = info2.split('|').map(str::trim).collect();
        let [uuid, suspended, tables, open, events, major, minor, read_only, segments] = fields[..] else {
            bail!("dmsetup info: {info2}");
        };
        let text = |value: &Value| match value {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        for (field, theirs) in [
            ("uuid", uuid),
            ("open_count", open),
            ("event_nr", events),
            ("major", major),
            ("minor", minor),
            ("target_count", segments),
        ] {
            self.same(&format!("{name}: {field}"), &text(&info[field]), theirs);
        }
        let tables_of = match (info["live_table"] == true, info["inactive_table"] == true) {
            (true, true) => "Both",
            (true, false) => "Live",
            (false, true) => "Inactive",
            (false, false) => "None",
        };
        self.same(&format!("{name}: tables"), tables_of, tables);
        for (field, theirs, words) in
            [("suspended", suspended, ["Active", "Suspended"]), ("read_only", read_only, ["Writeable", "Read-only"])]
        {
            self.same(&format!("{name}: {field}"), words[usize::from(info[field] == true)], theirs);
        }
        for (what, ours, theirs) in
            [("table", table, table2), ("inactive table", inactive, inactive2), ("status", status, status2)]
        {
            let rest = if what == "status" { "status" } else { "params" };
            let line = |line: &Value| {
                let words = ["start", "length", "target", rest].map(|key| text(&line[key]));
                words.join(" ").trim().to_owned()
            };
            let ours: Vec<String> = parse(ours)?.iter().map(line).collect();
            let theirs: Vec<&str> = theirs.lines().map(str::trim).collect();
            self.same(&format!("{name}: {what}"), &ours.join("\n"), &theirs.join("\n"));
        }
        let ours: Vec<String> = parse(deps)?.iter().map(|dep| format!("({}, {})", dep["major"], dep["minor"])).collect();
        let theirs = deps2.split_once(':').map(|(_, list)| list.trim()).unwrap_or_default();
        self.same(&format!("{name}: deps"), &ours.join(" "), theirs);
        Ok(())
    }

    /// List and targets.
    fn compare_lists(&mut self) -> Result<()> {
        let mut ours: Vec<String> = self
            .json("list")?
            .iter()
            .map(|device| format!("{}\t({}:{})", device["name"].as_str().unwrap_or("?"), device["major"], device["minor"]))
            .collect();
        ours.sort();
        // Without mangling it shows what the kernel has, as we do.
        let theirs = self.vm.ok("dmsetup ls --manglename none | grep -v '^No devices found' | sort")?;
        self.same("list", &ours.join("\n"), theirs.trim());
        let ours = self.dm("targets | tail -n +2 | awk '{ print $1, $2 }' | sort")?;
        let theirs = self.vm.ok("dmsetup targets | awk '{ print $1, $2 }' | sort")?;
        self.same("targets", &ours, &theirs);
        Ok(())
    }

    /// A command that is refused with a message that says each of `says`, and changes nothing.
    fn refused(&mut self, command: &str, says: &[&str]) -> Result<()> {
        let state = format!(
            "udevadm settle; dmsetup info -c --noheadings -o name,{FIELDS}; dmsetup table; \
             for node in /dev/mapper/*; do echo $node $(readlink $node); done"
        );
        let before = match self.before.take() {
            Some(before) => before,
            None => self.vm.ok(&state)?,
        };
        let output =
            self.vm.run(&format!("(remap-guardian dm {command}\n); status=$?; echo; echo STATE; {state}; exit $status"))?;
        let (said, after) = output.stdout.split_once("\nSTATE\n").context(output.to_string())?;
        let message = &output.stderr;
        println!("$ dm {command}\n{said}{message}\n[{}]", output.status);
        let missing: Vec<&&str> = says.iter().filter(|word| !message.contains(**word)).collect();
        let plain = output.status == 1 && !message.contains("panicked");
        self.check(plain && missing.is_empty(), format!("dm {command}: refused with {says:?}: [{}] {message}", output.status));
        self.check(before == after, format!("dm {command}: changed nothing"));
        if before != after {
            println!("before:\n{before}\nafter:\n{after}");
        }
        self.before = Some(after.to_owned());
        Ok(())
    }
}

fn life_of_a_device(both: &mut Both) -> Result<()> {
    let (a, b) = (both.path("dm-a"), both.path("dm-b"));
    let made = both.sh(&format!(
        "remap-guardian dm create life --table '0 {LEN} linear {a} 2048' && test -b /dev/mapper/life && \
         test \"$(readlink -f /dev/mapper/life)\" = /dev/$(dmsetup info -c --noheadings -o blkdevname life)"
    ))?;
    both.check(made.contains("/dev/mapper/life is 2"), made);
    let uuid = both.one("info life")?["uuid"].as_str().unwrap_or_default().to_owned();
    both.check(uuid.len() == 36, format!("a UUID was made up: {uuid}"));
    both.compare("life")?;

    // By path, too.
    let by_path = both.dm("info /dev/mapper/life --json && remap-guardian dm info $(readlink -f /dev/mapper/life) --json")?;
    let lines: Vec<&str> = by_path.lines().collect();
    both.check(lines.len() == 2 && lines[0] == lines[1], "a device is found by its paths");

    both.dm(&format!("reload life --inactive --table '0 {LEN} linear {b} 0' --table '{LEN} 8 error'"))?;
    both.compare("life")?;
    let waits = both.one("info life")?;
    both.check(waits["inactive_table"] == true && waits["target_count"] == 1, "a table waits beside the live one");
    both.dm("suspend life")?;
    both.compare("life")?;
    both.dm("resume life")?;
    both.compare("life")?;
    let count = target_count(both, "life")?;
    both.check(count == 2, "resume has put it into force");

    // Reload in one step, while somebody reads; through a file and through standard input.
    both.vm.put("/root/table", &format!("# a comment\n\n0 {LEN} linear {a} 4096"))?;
    both.sh(
        "rm -f /root/stop; exec 3</dev/mapper/life; (while [ ! -e /root/stop ]; do dd if=/dev/mapper/life of=/dev/null bs=64k count=16 iflag=direct || exit 1; done) \
         2>/dev/null & reader=$!; sleep 0.5; remap-guardian dm reload life /root/table && \
         dmsetup table life | grep -q ' 4096$' && kill -0 $reader && touch /root/stop && wait $reader",
    )?;
    both.compare("life")?;
    both.dm(&format!("reload life --read-only <<<'0 {LEN} linear {a} 8192'"))?;
    both.compare("life")?;
    let read_only = both.sh("blockdev --getro /dev/mapper/life")?;
    both.check(read_only == "1", "it is read-only");

    // The table that is printed is a table.
    let copied = both.sh("remap-guardian dm table life | remap-guardian dm create copy --read-only && dmsetup table copy")?;
    both.check(copied.ends_with(" 8192"), copied);
    both.compare("copy")?;

    let held = both.vm.run("exec 3</dev/mapper/life && remap-guardian dm info life --json")?;
    both.check(held.stdout.contains("\"open_count\":1"), format!("the open count counts: {held}"));
    both.dm("suspend life --noflush --nolockfs")?;
    both.compare("life")?;
    both.dm("resume life")?;
    both.dm("rename life living")?;
    let renamed = both.vm.run("test -b /dev/mapper/living && ! test -e /dev/mapper/life")?;
    both.check(renamed.success(), "the node has its new name");
    both.compare("living")?;
    for (name, status, word) in
        [("living", 0, "yes"), ("life", 2, "no"), ("/dev/mapper/living", 0, "yes"), ("/dev/mapper/life", 2, "no")]
    {
        let answer = both.vm.run(&format!("remap-guardian dm exists {name}"))?;
        both.check(answer.status == status && answer.stdout == word, format!("exists {name}: {answer}"));
    }
    for device in ["life", "/dev/mapper/life"] {
        let missing = both.vm.run(&format!("remap-guardian dm info {device} --json"))?;
        both.check(missing.status == 2 && missing.stdout.contains("\"exists\":false"), format!("info of nothing: {missing}"));
    }
    for device in [a.as_str(), "/dev/mapper/living", "living"] {
        let ours = both.dm(&format!("devno {device}"))?;
        let path = if device.contains('/') { device.to_owned() } else { format!("/dev/mapper/{device}") };
        let theirs = both.sh(&format!("printf '%d:%d' $(stat -Lc '0x%t 0x%T' {path})"))?;
        both.same(&format!("devno {device}"), &ours, &theirs);
    }
    both.dm("remove living && remap-guardian dm remove /dev/mapper/copy")?;
    let gone = both.vm.run("ls /dev/mapper; dmsetup ls")?.stdout;
    both.check(gone == "control\nNo devices found", format!("nothing is left: {gone}"));
    both.compare_lists()?;

    both.dm("create empty --notable --uuid MINE-empty")?;
    both.compare("empty")?;
    both.refused("resume empty", &["no table", "reload"])?;
    both.dm(&format!("reload empty --table '0 {LEN} error' && test -b /dev/mapper/empty"))?;
    both.compare("empty")?;
    both.dm("remove empty")?;

    // What dmsetup made is the same to us.
    both.sh(&format!("dmsetup create theirs --table '0 {LEN} linear {a} 0'"))?;
    both.compare("theirs")?;
    both.dm("rename theirs ours --new-uuid MINE-1")?;
    both.compare("ours")?;
    both.refused("rename ours --new-uuid MINE-2", &["MINE-1", "nobody change"])?;
    both.dm("remove ours")?;
    Ok(())
}

fn target_count(both: &mut Both, name: &str) -> Result<u64> {
    Ok(both.one(&format!("info {name}"))?["target_count"].as_u64().unwrap_or_default())
}

/// The names that both make of what a person types.
fn names_and_uuids(both: &mut Both) -> Result<()> {
    let long = "n".repeat(127);
    for name in
        ["a b", "a\\x20b", "a\\b", "ünï", "a#b+c-d.e:f=g@h_i", "tab\there", "semi;colon", "quote\"s", long.as_str(), "controls"]
    {
        let quoted = format!("$'{}'", name.replace('\\', "\\\\").replace('\t', "\\t"));
        let list = "ls /dev/mapper | grep -vx control";
        let theirs =
            both.sh(&format!("dmsetup create --table '0 8 error' -- {quoted} && {list} && dmsetup remove --retry -- {quoted}"))?;
        let ours = both.dm(&format!("create --table '0 8 error' -- {quoted} && {list}"))?;
        let ours = ours.lines().last().unwrap_or_default().to_owned();
        both.same(&format!("the node of {name:?}"), &ours, theirs.trim());
        let listed = both.json("list")?;
        let named: Vec<&str> = listed.iter().filter_map(|device| device["name"].as_str()).collect();
        let kernel = both.sh("dmsetup info -c --noheadings --manglename none -o name")?;
        both.check(
            named == [kernel.trim_end_matches('\n')] && named == [ours.as_str()],
            format!("{named:?} is listed alone: {kernel:?}"),
        );
        // What is listed leads to the device, and so does what was typed.
        for typed in [format!("'{ours}'"), quoted.clone()] {
            let shown = both.dm(&format!("info --json -- {typed}"))?;
            let info: Value = serde_json::from_str(&shown)?;
            both.check(info["exists"] == true && info["name"] == ours.as_str(), format!("{typed} is found: {info}"));
        }
        both.dm(&format!("remove -- {quoted}"))?;
    }
    let long = "u".repeat(128);
    for uuid in ["MINE a/b", long.as_str()] {
        let ask = "dmsetup info -c --noheadings -o uuid named && dmsetup remove --retry named";
        let theirs = both.sh(&format!("dmsetup create named --uuid '{uuid}' --table '0 8 error' && {ask}"))?;
        let ours = both.dm(&format!("create named --uuid '{uuid}' --table '0 8 error' >/dev/null && {ask}"))?;
        both.same(&format!("the UUID {uuid:?}"), &ours, &theirs);
    }
    Ok(())
}

/// Each target that has a type, loaded for real; what the kernel prints is what both print.
fn every_typed_target(both: &mut Both) -> Result<()> {
    let (a, b, c) = (both.path("dm-a"), both.path("dm-b"), both.path("dm-c"));
    for (name, table) in [
        ("t-linear", format!("0 {LEN} linear {a} 8")),
        ("t-striped", format!("0 {LEN} striped 2 128 {a} 0 {b} 256")),
        ("t-error", format!("0 {LEN} error")),
        ("t-zero", format!("0 {LEN} zero")),
        ("t-flakey", format!("0 {LEN} flakey {a} 0 1 0 1 drop_writes")),
        ("t-corrupt", format!("0 {LEN} flakey {a} 0 1 0 5 corrupt_bio_byte 32 r 1 0")),
        ("t-flaky0", format!("0 {LEN} flakey {a} 0 1 0")),
        ("t-crypt", format!("0 {LEN} crypt aes-xts-plain64 {} 0 {a} 16 1 allow_discards", "5a".repeat(64))),
        ("t-remap", format!("0 {LEN} dm-remap-v4 {a} {b} 4 small_spare reserve 64 8")),
        ("t-remap0", format!("0 {LEN} dm-remap-v4 {a} {b}")),
        ("t-many", format!("0 8 error\n8 8 linear {a} 8\n16 {LEN} striped 1 8 {b} 0")),
    ] {
        both.vm.put("/root/table", &table)?;
        both.dm(&format!("create {name} /root/table"))?;
        both.compare(name)?;
        // What we print is what we read.
        let ask = format!("dmsetup table --showkeys {name}");
        let again = format!(
            "{ask} && remap-guardian dm table {name} --show-keys >/root/printed && remap-guardian dm reload {name} /root/printed && {ask}"
        );
        let lines = both.sh(&again)?;
        let lines: Vec<&str> = lines.lines().filter(|line| !line.contains("has its new table")).collect();
        let (before, after) = lines.split_at(lines.len() / 2);
        both.check(!before.is_empty() && before == after, format!("{name}: its own table was loaded again: {lines:?}"));
        if name == "t-remap" {
            both.dm("message t-remap 0 add_remap 4096 128 8")?;
            let fields = both.one("status t-remap")?;
            both.check(fields["fields"]["remaps"] == 1 && fields["fields"]["state"] == "ACTIVE", format!("{fields}"));
            for message in ["health", "dump 0"] {
                let ours = both.dm(&format!("message t-remap 0 {message}"))?;
                let theirs = both.sh(&format!("dmsetup message t-remap 0 {message}"))?;
                both.same(&format!("message {message}"), ours.trim(), theirs.trim());
            }
            let shown = both.dm("status t-remap")?;
            both.check(shown.contains("next seq") && shown.contains("ACTIVE"), shown);
            both.refused("message t-remap 0 add_remap 4096 9", &["sending a message to “t-remap”"])?;
        }
        both.dm(&format!("remove {name}"))?;
    }
    thin(both, &a)?;
    cache(both, &a, &c)?;
    snapshot(both, &a)?;
    verity(both, &a, &b)
}

fn thin(both: &mut Both, disk: &str) -> Result<()> {
    both.sh(&format!("dd if=/dev/zero of={disk} bs=1M count=2 conv=nocreat status=none"))?;
    both.dm(&format!("create meta --table '0 4096 linear {disk} 0'"))?;
    both.dm(&format!("create data --table '0 32768 linear {disk} 4096'"))?;
    both.dm("create pool --table '0 32768 thin-pool /dev/mapper/meta /dev/mapper/data 128 16 1 skip_block_zeroing'")?;
    both.dm("message pool 0 create_thin 7")?;
    both.dm("create volume --table '0 65536 thin /dev/mapper/pool 7'")?;
    both.sh("dd if=/dev/urandom of=/dev/mapper/volume bs=64k count=3 oflag=direct status=none")?;
    for name in ["pool", "volume", "meta", "data"] {
        both.compare(name)?;
    }
    let pool = both.one("status pool")?["fields"].clone();
    let good = pool["used_data_blocks"] == 3 && pool["total_data_blocks"] == 256 && pool["mode"] == "rw";
    both.check(good && pool["needs_check"] == false && pool["rest"].is_null(), format!("thin-pool: {pool}"));
    let thin = both.one("status volume")?["fields"].clone();
    both.check(thin["mapped_sectors"] == 384 && thin["highest_sector"] == 383, format!("thin: {thin}"));
    let stacked = both.dm("deps volume")?;
    both.check(stacked.contains("(pool)"), format!("the name of what it stands on: {stacked}"));
    both.refused("remove pool", &["in use", "part of", "(volume)"])?;
    both.refused("message pool 0 create_thin 7", &["sending a message to “pool”", "exists"])?;
    both.dm("remove volume && remap-guardian dm remove pool")?;
    Ok(())
}

fn cache(both: &mut Both, disk: &str, fast: &str) -> Result<()> {
    both.sh(&format!("dd if=/dev/zero of={fast} bs=1M count=4 conv=nocreat status=none"))?;
    both.dm(&format!("create fastmeta --table '0 4096 linear {fast} 0'"))?;
    both.dm(&format!("create fast --table '0 8192 linear {fast} 4096'"))?;
    both.dm(&format!(
        "create cached --table '0 32768 cache /dev/mapper/fastmeta /dev/mapper/fast {disk} 128 1 writethrough smq 0'"
    ))?;
    both.sh("dd if=/dev/mapper/cached of=/dev/null bs=64k count=8 iflag=direct status=none")?;
    both.compare("cached")?;
    let cache = both.one("status cached --noflush")?["fields"].clone();
    let good = cache["total_cache_blocks"] == 64 && cache["policy"] == "smq" && cache["metadata_mode"] == "rw";
    both.check(good && cache["needs_check"] == false && cache["rest"].is_null(), format!("cache: {cache}"));
    both.dm("remove cached && remap-guardian dm remove fast && remap-guardian dm remove fastmeta")?;
    Ok(())
}

/// On “meta” and “data” of the thin pool, which go afterwards.
fn snapshot(both: &mut Both, disk: &str) -> Result<()> {
    both.sh(&format!("dd if=/dev/zero of={disk} bs=1M count=2 conv=nocreat status=none"))?;
    both.dm("create origin --table '0 32768 snapshot-origin /dev/mapper/data'")?;
    for (name, kind) in [("t-snap", "P"), ("t-over", "PO"), ("t-tran", "N")] {
        both.sh("dd if=/dev/zero of=/dev/mapper/meta bs=1M count=1 oflag=direct status=none")?;
        both.dm(&format!("create {name} --table '0 32768 snapshot /dev/mapper/data /dev/mapper/meta {kind} 16'"))?;
        both.sh(&format!("dd if=/dev/urandom of=/dev/mapper/{name} bs=64k count=2 oflag=direct status=none"))?;
        both.compare(name)?;
        both.dm(&format!("remove {name}"))?;
    }
    both.compare("origin")?;
    both.dm("remove origin && remap-guardian dm remove meta && remap-guardian dm remove data")?;
    Ok(())
}

/// A tree of one block of hashes: sha256 of each block, and the root is its own hash.
fn verity(both: &mut Both, data: &str, hash: &str) -> Result<()> {
    let root = both.sh(&format!(
        "head -c 32768 /dev/urandom >/root/v && dd if=/root/v of={data} conv=nocreat oflag=direct bs=4096 status=none && \
         for n in $(seq 0 7); do dd if=/root/v bs=4096 skip=$n count=1 status=none | sha256sum | cut -d' ' -f1 | xxd -r -p; done >/root/h && \
         truncate -s 4096 /root/h && dd if=/root/h of={hash} conv=nocreat oflag=direct bs=4096 status=none && sha256sum </root/h | cut -d' ' -f1"
    ))?;
    let table = format!("0 64 verity 1 {data} {hash} 4096 4096 8 0 sha256 {root} -");
    both.dm(&format!("create t-verity --read-only --table '{table} 1 ignore_zero_blocks'"))?;
    both.compare("t-verity")?;
    let right = both.vm.run("cmp /dev/mapper/t-verity /root/v")?;
    both.check(right.success(), format!("verity lets through what is right: {right}"));
    both.dm("remove t-verity")?;
    both.refused(&format!("create t-verity --table '{table}'"), &["loading the table of “t-verity”", "kernel:"])?;
    both.refused(
        &format!("create t-verity --read-only --table '0 64 verity 1 {data} {hash} 4096 4096 8 0 sha256 xx -'"),
        &["digest"],
    )
}

fn keys_are_hidden(both: &mut Both) -> Result<()> {
    let (disk, key) = (both.path("dm-a"), "c0ffee".repeat(8) + &"5a".repeat(8));
    both.vm.put("/root/table", &format!("0 {LEN} crypt aes-cbc-plain {} 0 {disk} 0", &key[..64]))?;
    let key = &key[..64];
    both.dm("create secret /root/table")?;
    for verb in ["table secret", "table secret --json", "table", "table --json", "status secret", "info secret --json"] {
        let shown = both.dm(verb)?;
        both.check(!shown.contains(key) && !shown.contains("c0ffee"), format!("{verb} shows no key: {shown}"));
    }
    let ours = both.dm("table secret --show-keys --json")?;
    let theirs = both.sh("dmsetup table --showkeys secret")?;
    both.check(ours.matches(key).count() == 2 && theirs.contains(key), "--show-keys shows it");
    both.compare("secret")?;
    both.dm("remove secret")?;
    // No key is no secret; dmsetup shows it as one.
    both.dm(&format!("create nokey --table '0 {LEN} crypt cipher_null-ecb - 0 {disk} 0'"))?;
    let (ours, theirs) = (both.dm("table nokey --json")?, both.sh("dmsetup table --showkeys nokey")?);
    both.check(ours.contains("cipher_null-ecb - 0") && theirs.contains("cipher_null-ecb - 0"), format!("{ours} {theirs}"));
    both.dm("remove nokey")?;
    both.vm.put("/root/table", &format!("0 {LEN} crypt {key} 0 {disk} 0"))?;
    let refused = both.vm.run("remap-guardian dm create secret /root/table")?;
    both.check(refused.status == 1 && !refused.to_string().contains("c0ffee"), format!("no error shows a key: {refused}"));
    Ok(())
}

fn events(both: &mut Both) -> Result<()> {
    let (a, b) = (both.path("dm-a"), both.path("dm-b"));
    for name in ["one", "two"] {
        both.dm(&format!("create {name} --table '0 {LEN} dm-remap-v4 {a} {b}'"))?;
    }
    both.sh("remap-guardian dm events --json >/root/events 2>&1 & echo $! >/root/pid
        remap-guardian dm events two --count 1 --timeout 60 >/root/only 2>&1 & echo $! >/root/only.pid; sleep 5")?;
    // A device over the end of a disk fails, and each failure is an event of “two” alone.
    both.vm.sim("dm-a").inject(remap_guardian::sim::disk::Fault::unreadable(4096..4104));
    let read = "dd if=/dev/mapper/two of=/dev/null bs=4096 skip=512 count=1 iflag=direct";
    let failed = both.vm.run(read)?;
    both.check(!failed.success(), format!("a sector is bad: {failed}"));
    let wait = "for n in $(seq 100); do grep -q KEY /root/events && exit 0; sleep 0.1; done; cat /root/events; exit 1";
    both.sh(&wait.replace("KEY", "two"))?;
    both.dm("create three --table '0 8 error' && remap-guardian dm rename three four && remap-guardian dm remove four")?;
    both.sh(&wait.replace("KEY", "removed"))?;
    let events = both.sh("kill $(cat /root/pid); cat /root/events")?;
    println!("{events}");
    let events: Vec<Value> = events.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let told = |name: &str, what: &str| events.iter().filter(|event| event["name"] == name && event["what"] == what).count();
    let (of_one, of_two, removed) = (told("one", "event"), told("two", "event"), told("four", "removed"));
    both.check(of_one == 0 && of_two >= 1, format!("only the device that had an event is told: {events:?}"));
    both.check(removed == 1, format!("a device that goes is told: {events:?}"));
    let came = events
        .iter()
        .any(|event| ["three", "four"].contains(&event["name"].as_str().unwrap_or_default()) && event["what"] == "created");
    both.check(came, format!("a device that comes is told: {events:?}"));
    let nr = both.one("info two")?["event_nr"].clone();
    let last = events.iter().rev().find(|event| event["name"] == "two").map(|event| event["to"].clone());
    both.check(last.as_ref() == Some(&nr), format!("the last number is that of the device: {last:?}, {nr}"));
    let only =
        both.sh("for n in $(seq 100); do kill -0 $(cat /root/only.pid) 2>/dev/null || break; sleep 0.1; done; cat /root/only")?;
    both.check(only.starts_with("two (") && only.lines().count() == 1, format!("--count 1 ends after one: {only}"));
    both.compare("two")?;

    // A device that takes the number of one that has gone is a stranger.
    both.sh("remap-guardian dm create going --table '0 8 error'
        remap-guardian dm events going >/root/going 2>&1 & echo $! >/root/going.pid; sleep 5
        remap-guardian dm remove going; sleep 1; remap-guardian dm create stranger --table '0 8 error'; sleep 1")?;
    let going =
        both.sh("for n in $(seq 100); do kill -0 $(cat /root/going.pid) 2>/dev/null || break; sleep 0.1; done; kill -0 $(cat /root/going.pid) 2>/dev/null && echo waits; cat /root/going; remap-guardian dm remove stranger")?;
    let ends =
        going.contains("going (") && going.contains("has gone") && !going.contains("stranger (") && !going.contains("waits");
    both.check(ends, format!("it ends with its device: {going}"));

    // The first table of a device is an event of it at most.
    both.sh("remap-guardian dm create bare --notable
        remap-guardian dm events bare --json >/root/bare 2>&1 & echo $! >/root/bare.pid; sleep 5
        remap-guardian dm reload bare --table '0 8 error'; sleep 1; remap-guardian dm reload bare --table '0 8 zero'; sleep 1")?;
    let bare = both.sh("kill -0 $(cat /root/bare.pid) && echo waits; cat /root/bare; remap-guardian dm remove bare")?;
    let same = bare.contains("waits") && !bare.contains("created") && !bare.contains("removed");
    both.check(same, format!("a device that gets its first table is still the same: {bare}"));

    let started = Instant::now();
    let late = both.vm.run("remap-guardian dm events one --count 1 --timeout 2")?;
    let took = started.elapsed();
    both.check(late.status == 2 && took >= Duration::from_secs(2), format!("--timeout: {late} after {took:?}"));
    both.vm.sim("dm-a").repair(4096..4104);
    both.dm("remove one && remap-guardian dm remove two")?;
    Ok(())
}

fn bad_names(both: &mut Both) -> Result<()> {
    let (long, mangled) = ("n".repeat(128), " ".repeat(32));
    for (name, says) in [
        ("", "empty"),
        ("a/b", "“/”"),
        ("/dev/mapper/a", "“/”"),
        ("control", "something else"),
        (".", "something else"),
        ("..", "something else"),
        ("a b\\x20c", "mixes"),
        ("a\\xzz", "mixes"),
        ("a\\x5cx20b", "more than once"),
        (long.as_str(), "at most 127"),
        (mangled.as_str(), "at most 127"),
    ] {
        both.refused(&format!("create --table '0 8 error' -- '{name}'"), &[says])?;
    }
    both.refused(&format!("create x --uuid {} --table '0 8 error'", "u".repeat(129)), &["at most 128"])?;
    both.refused("create x --uuid '' --table '0 8 error'", &["empty UUID"])?;
    for verb in ["info /dev/sda", "remove /dev/sda", "suspend /dev/zero", "table /dev/nosuch"] {
        both.refused(verb, &["is no device-mapper device", verb.split(' ').next_back().unwrap_or_default()])?;
    }
    for verb in ["table", "status", "deps", "remove", "suspend", "resume", "devno", "events"] {
        both.refused(&format!("{verb} nosuch"), &["“nosuch”", "remap-guardian dm list"])?;
    }
    both.refused("reload nosuch --table '0 8 error'", &["“nosuch”", "dm list"])?;
    both.refused("rename nosuch other", &["“nosuch”"])?;
    both.refused("message nosuch 0 help", &["“nosuch”"])?;
    both.refused("exists 'a b\\x20c'", &["mixes"])?;
    both.refused("exists", &["<DEVICE>"])?;
    both.refused("devno /dev/zero", &["/dev/zero", "not a block device"])?;
    both.refused("devno /dev/nosuch", &["/dev/nosuch", "does not exist"])?;

    both.dm("create taken --uuid MINE-taken --table '0 8 error' && remap-guardian dm create other --table '0 8 error'")?;
    both.refused("create taken --table '0 8 error'", &["“taken” exists already"])?;
    both.refused("create more --uuid MINE-taken --table '0 8 error'", &["MINE-taken", "“taken”"])?;
    both.refused("rename other taken", &["“taken” exists already"])?;
    both.refused("rename other other", &["“other” exists already"])?;
    both.refused("rename other a/b", &["“/”"])?;
    both.refused("rename other", &["NEW"])?;
    both.sh("dmsetup create bare --table '0 8 error'")?;
    // The name would be free, the UUID is not: the old name stays.
    both.refused("rename bare barer --new-uuid MINE-taken", &["MINE-taken", "“taken”"])?;
    both.dm("remove taken && remap-guardian dm remove other && remap-guardian dm remove bare")?;
    Ok(())
}

fn bad_tables(both: &mut Both) -> Result<()> {
    let a = both.path("dm-a");
    let size = 32 * 2048;
    both.sh("head -c 1M /dev/zero >/root/file && printf 'a\\377b' >/root/binary; mknod /root/stale b 4095 77")?;
    both.dm(&format!("create good --table '0 {LEN} linear {a} 0'"))?;
    let tables: Vec<(String, Vec<&str>)> = vec![
        (String::new(), vec!["no line"]),
        ("8 8 error".into(), vec!["start at 0"]),
        ("0 8 error\n16 8 error".into(), vec!["a gap of 8 sectors"]),
        ("0 8 error\n4 8 error".into(), vec!["overlap"]),
        (format!("0 4M linear {a} 0"), vec!["4M is 8192 sectors"]),
        ("0 0 error".into(), vec!["length is 0"]),
        ("0 -8 error".into(), vec!["“-8”"]),
        ("0 18446744073709551615 error".into(), vec!["beyond"]),
        ("0 8 linear /dev/nosuch 0".into(), vec!["/dev/nosuch", "does not exist"]),
        ("0 8 linear /root/file 0".into(), vec!["/root/file", "not a block device"]),
        ("0 8 linear 4095:99 0".into(), vec!["4095:99", "no block device"]),
        ("0 8 linear /root/stale 0".into(), vec!["/root/stale", "4095:77", "no block device"]),
        // A target that we do not know: the kernel does not find the device, and the mapped one is not what is missing.
        ("0 8 delay 4095:77 0 0".into(), vec!["loading the table of", "kernel:", "delay"]),
        (format!("0 {} linear {a} 0", size + 1), vec!["65536 sectors", "65537"]),
        (format!("0 8 linear {a} {size}"), vec!["65536 sectors", "65544"]),
        (format!("0 8 linear {a}"), vec!["offset is missing"]),
        (format!("0 8 striped 2 128 {a} 0 /dev/nosuch 0"), vec!["/dev/nosuch"]),
        ("0 8 unheard-of x".into(), vec!["kernel:", "unknown target type"]),
        ("0 8 a-name-of-16-byt".into(), vec!["at most 15"]),
        (format!("0 1001 striped 2 128 {a} 0 {a} 0"), vec!["kernel:", "striped"]),
        (format!("0 8 thin {a} 0"), vec!["kernel:", "thin"]),
        (format!("0 8 flakey {a} 0 0 0"), vec!["kernel:", "flakey"]),
        (format!("0 8 crypt nosuch-cipher 00 0 {a} 0"), vec!["kernel:", "crypt"]),
    ];
    for (table, says) in &tables {
        both.vm.put("/root/table", table)?;
        both.refused("create wrong /root/table", says)?;
        both.refused("reload good /root/table", says)?;
    }
    circles(both)?;
    both.refused("create wrong /root/nosuch", &["/root/nosuch", "No such file"])?;
    both.refused("create wrong /root/binary", &["/root/binary"])?;
    both.refused("create wrong /root", &["/root"])?;
    both.refused("create wrong </dev/null", &["standard input", "no line"])?;
    both.refused("create wrong --notable --table '0 8 error'", &["--notable"])?;
    // A table that was loaded by somebody else is left alone by a load that fails.
    both.sh("dmsetup reload good --table '0 8 error'")?;
    both.refused("reload good --table '0 8 unheard-of'", &["unknown target type"])?;
    both.sh("dmsetup clear good")?;
    both.dm("remove good")?;
    Ok(())
}

/// Tables that would stand on their own device, in each way that leads there.
fn circles(both: &mut Both) -> Result<()> {
    both.refused("reload good --table '0 8 linear /dev/mapper/good 0'", &["/dev/mapper/good", "that is the device itself"])?;
    both.dm(&format!("create top --table '0 {LEN} linear /dev/mapper/good 0'"))?;
    both.dm("create roof --table '0 8 error' --table '8 8 linear /dev/mapper/top 0'")?;
    let on_top = "that is “top” on “good”, the device itself";
    both.refused("reload good --table '0 8 linear /dev/mapper/top 0'", &["/dev/mapper/top", on_top])?;
    both.refused("reload good --inactive --table '0 8 linear /dev/mapper/top 0'", &["/dev/mapper/top", on_top])?;
    both.refused("reload good --table '0 8 error' --table '8 8 linear /dev/mapper/roof 8'", &["“roof” on “top” on “good”"])?;
    both.refused("reload top --table '0 8 striped 1 8 /dev/mapper/roof 0'", &["that is “roof” on “top”, the device itself"])?;
    both.refused(
        "reload good --table \"0 8 linear $(dmsetup info -c --noheadings --separator : -o major,minor top) 0\"",
        &[on_top],
    )?;
    // A target that we have no type for.
    both.refused("reload good --table '0 8 delay /dev/mapper/top 0 0'", &["delay target at sector 0", on_top])?;
    // A device may stand on what stands beside it, and a table that only waits counts.
    both.dm("reload roof --table '0 8 error'")?;
    both.dm("reload roof --inactive --table '0 8 linear /dev/mapper/top 0'")?;
    both.refused("reload top --table '0 8 linear /dev/mapper/roof 0'", &["“roof” on “top”"])?;
    both.sh("dmsetup clear roof")?;
    both.dm(&format!("reload top --table '0 8 linear /dev/mapper/roof 0' && remap-guardian dm reload top --table '0 {LEN} linear /dev/mapper/good 0'"))?;
    // What somebody else has loaded is not put into force.
    both.sh("dmsetup reload good --table '0 8 linear /dev/mapper/top 0'")?;
    both.refused("resume good", &[on_top])?;
    both.sh("dmsetup clear good")?;
    // By way of a file.
    both.sh("mkfs.ext4 -q -F /dev/mapper/top && mount /dev/mapper/top /mnt && head -c 1M /dev/zero >/mnt/file && losetup /dev/loop7 /mnt/file")?;
    both.refused("reload good --table '0 8 linear /dev/loop7 0'", &["that is loop7 on “top” on “good”"])?;
    both.sh("losetup -d /dev/loop7 && umount /mnt && udevadm settle")?;
    both.dm("remove roof && remap-guardian dm remove top")?;
    Ok(())
}

fn busy_devices(both: &mut Both) -> Result<()> {
    let (a, mounted) = (both.path("dm-a"), both.path("dm-mounted"));
    both.sh(&format!("mkfs.ext4 -q {mounted} && mount -o ro {mounted} /mnt && udevadm settle"))?;
    both.refused(&format!("create wrong --table '0 8 linear {mounted} 0'"), &["in use", "is mounted at /mnt"])?;
    both.dm(&format!("create held --table '0 {LEN} linear {a} 0'"))?;
    both.refused(&format!("reload held --table '0 8 linear {mounted} 0'"), &["in use", "is mounted at /mnt"])?;
    both.sh("umount /mnt; sleep 1000 </dev/mapper/held >/dev/null 2>&1 & echo $! >/root/sleep.pid; sleep 0.5")?;
    both.refused("remove held", &["in use", "fuser"])?;
    both.sh("kill $(cat /root/sleep.pid); sleep 0.5; mkfs.ext4 -q -F /dev/mapper/held && mount /dev/mapper/held /mnt")?;
    both.refused("remove held", &["in use", "is mounted at /mnt"])?;
    both.sh("umount /mnt && remap-guardian dm remove held")?;
    Ok(())
}

/// Tables that load, but cannot be resumed: a pool whose metadata know more blocks than it now has.
fn failures_put_things_back(both: &mut Both) -> Result<()> {
    let a = both.path("dm-a");
    both.sh(&format!("dd if=/dev/zero of={a} bs=1M count=2 conv=nocreat status=none"))?;
    both.dm(&format!(
        "create meta --table '0 4096 linear {a} 0' && remap-guardian dm create data --table '0 32768 linear {a} 4096'"
    ))?;
    let pool = |length: u64| format!("0 {length} thin-pool /dev/mapper/meta /dev/mapper/data 128 16");
    both.dm(&format!("create pool --table '{}' && remap-guardian dm message pool 0 create_thin 0", pool(32768)))?;
    both.refused(&format!("reload pool --table '{}'", pool(16384)), &["resuming “pool”", "kernel:", "too small"])?;
    let alive = both.vm.run("dmsetup status pool | grep ' rw ' && dmsetup info pool | grep 'State: *ACTIVE'")?;
    both.check(alive.success(), format!("the old pool works on: {alive}"));
    both.dm("message pool 0 create_thin 1")?;
    // A table that waited before waits again, whoever made it fail.
    both.dm(&format!("reload pool --inactive --table '{}'", pool(16384)))?;
    let both_tables = both.one("info pool")?;
    both.check(both_tables["inactive_table"] == true, "a table waits");
    both.refused("resume pool", &["resuming “pool”", "kernel:", "too small"])?;
    both.refused(&format!("reload pool --table '{}'", pool(8192)), &["resuming “pool”", "too small"])?;
    let alive = both.vm.run("dmsetup status pool | grep ' rw ' && dmsetup info pool | grep 'State: *ACTIVE'")?;
    both.check(alive.success(), format!("the old pool works on after a resume that failed: {alive}"));
    both.compare("pool")?;
    both.dm("suspend pool")?;
    let stays = both.vm.run("remap-guardian dm resume pool")?;
    both.check(stays.status == 1 && stays.stderr.contains("is suspended as before"), format!("it says how it stays: {stays}"));
    both.compare("pool")?;
    both.dm("resume pool")?;
    let alive = both.vm.run("dmsetup status pool | grep ' rw ' && dmsetup info pool | grep 'State: *ACTIVE'")?;
    both.check(alive.success(), format!("the next resume brings the old table: {alive}"));
    both.dm("remove pool")?;
    both.refused(&format!("create pool --table '{}'", pool(16384)), &["resuming “pool”", "kernel:", "too small"])?;
    both.dm(&format!("create pool --table '{}'", pool(32768)))?;
    both.compare("pool")?;
    both.dm("remove pool && remap-guardian dm remove meta && remap-guardian dm remove data")?;
    Ok(())
}

fn output_that_nobody_reads(both: &mut Both) -> Result<()> {
    both.dm("create pipe --table '0 8 error'")?;
    for verb in
        ["list", "table", "table pipe", "status", "info", "deps", "targets", "list --json", "exists pipe", "devno pipe", "--help"]
    {
        // The reader is gone before anything is written.
        let output = both.vm.run(&format!("(sleep 0.3; remap-guardian dm {verb}; echo \"status $?\" >&2) | true"))?;
        both.check(output.stderr == "status 0", format!("dm {verb} | true: {output}"));
    }
    let output = both.vm.run("(timeout 20 remap-guardian dm events; echo \"status $?\" >&2) | true")?;
    both.check(output.stderr == "status 0", format!("dm events | true ends: {output}"));
    let output = both.vm.run("(sleep 0.3; remap-guardian dm table nosuch 2>&1; echo \"status $?\" >&3) 3>&2 | true")?;
    both.check(output.stderr == "status 1", format!("an error that nobody reads: {output}"));
    let output = both.vm.run("remap-guardian dm list >/dev/full")?;
    both.check(output.status == 1 && output.stderr.contains("No space"), format!("a full disk is told: {output}"));
    both.dm("remove pipe")?;
    Ok(())
}

/// A udev that is there and does not answer is waited for, but not for ever.
fn udev_that_hangs(both: &mut Both) -> Result<()> {
    both.sh("udevadm settle; kill -STOP $(pgrep -x systemd-udevd)")?;
    for (verb, holds) in [
        ("create hung --table '0 8 error'", "test -b /dev/mapper/hung && dmsetup info hung"),
        ("rename hung loose", "test -b /dev/mapper/loose && dmsetup info loose"),
        ("remove loose", "! dmsetup info loose 2>/dev/null"),
    ] {
        let began = Instant::now();
        both.before = None;
        let done = both.vm.run_for(Duration::from_secs(120), &format!("remap-guardian dm {verb} && {holds}"))?;
        let (took, told) = (began.elapsed().as_secs(), done.stderr.contains("udev did not confirm it"));
        both.check(done.success() && told && (29..60).contains(&took), format!("dm {verb}, {took} s: {done}"));
    }
    both.sh("kill -CONT $(pgrep -x systemd-udevd); dmsetup udevcomplete_all -y; udevadm settle")?;
    let left = both.sh("ls /dev/mapper")?;
    both.check(left == "control", format!("udev has caught up: {left}"));
    Ok(())
}

/// Where udev does not run: an initramfs, a rescue system, a container. Nothing waits for it, and nodes come and go.
fn without_udev(both: &mut Both) -> Result<()> {
    let a = both.path("dm-a");
    let a = both.sh(&format!("readlink -f {a}"))?;
    let a = a.trim();
    both.sh("udevadm settle; systemctl stop systemd-udevd-control.socket systemd-udevd-kernel.socket systemd-udevd.service
        ! pgrep -x systemd-udevd && ! test -e /run/udev/control")?;
    let quick = Duration::from_secs(8);
    let step = |both: &mut Both, verb: &str, nodes: &str, holds: &str| -> Result<()> {
        let began = Instant::now();
        let done = both.sh(&format!("timeout 20 remap-guardian dm {verb}"));
        let took = began.elapsed();
        both.check(done.is_ok() && took < quick, format!("without udev: dm {verb}, {} ms: {done:?}", took.as_millis()));
        let found = both.sh("ls /dev/mapper | grep -vx control | paste -sd ' '")?;
        both.same(&format!("nodes after dm {verb}"), found.trim(), nodes);
        let held = both.vm.run(holds)?;
        both.check(held.success(), format!("{holds}: {held}"));
        let cookies = both.vm.run("dmsetup udevcookies | tail -n +2")?;
        both.check(cookies.stdout.is_empty(), format!("no cookie stays behind: {cookies}"));
        Ok(())
    };
    let leads = |name: &str| {
        format!(
            "test \"$(stat -Lc '%t:%T' /dev/mapper/{name})\" = \"$(printf '%x:%x' $(dmsetup info -c --noheadings --separator ' ' -o major,minor {name}))\""
        )
    };
    step(both, &format!("create bare --table '0 {LEN} linear {a} 0'"), "bare", &leads("bare"))?;
    step(both, "create later --notable", "bare", "true")?;
    step(both, "reload later --table '0 8 zero'", "bare later", &leads("later"))?;
    step(both, &format!("reload bare --table '0 {LEN} linear {a} 64'"), "bare later", &leads("bare"))?;
    step(both, "suspend bare", "bare later", "true")?;
    step(both, "resume bare", "bare later", "dd if=/dev/mapper/bare of=/dev/null bs=4k count=1 iflag=direct")?;
    step(both, "rename bare new", "later new", &leads("new"))?;
    // One name goes and another device takes it.
    step(both, "rename later bare", "bare new", &leads("bare"))?;
    step(both, "remove bare", "new", "! dmsetup info bare 2>/dev/null")?;
    both.compare("new")?;
    // A node of another kind: other tools make one of their own, no link.
    let theirs = "dmsetup create theirs --table '0 8 error'; rm -f /dev/mapper/theirs
        mknod /dev/mapper/theirs b $(dmsetup info -c --noheadings --separator ' ' -o major,minor theirs)";
    both.sh(theirs)?;
    step(both, "rename theirs ours --new-uuid MINE-bare", "new ours", &leads("ours"))?;
    step(both, "remove ours", "new", "true")?;
    both.sh(theirs)?;
    step(both, "remove theirs", "new", "true")?;
    step(both, "remove new", "", "true")?;
    // What fails leaves no node.
    let failed = both.vm.run("timeout 20 remap-guardian dm create wrong --table '0 8 unheard-of'; ls /dev/mapper; dmsetup ls")?;
    both.check(failed.stdout == "control\nNo devices found" && failed.stderr.contains("unknown target"), format!("{failed}"));
    both.sh("systemctl start systemd-udevd-control.socket systemd-udevd-kernel.socket systemd-udevd.service && udevadm settle")?;
    // It is back, and sees to nodes again.
    both.dm("create back --table '0 8 error' && test -b /dev/mapper/back && test -e /dev/disk/by-id/dm-name-back")?;
    both.dm("remove back && ! test -e /dev/mapper/back")?;
    Ok(())
}
