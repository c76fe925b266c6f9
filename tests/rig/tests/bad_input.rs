//! Wrong input: one clear message that names it, a non-zero exit, and nothing is changed. Needs what `make stage`
//! leaves, in the folder that RIG_PAYLOAD names.

use anyhow::{Context, Result, ensure};
use remap_guardian::sim::disk::SECTOR;
use rig::{Bus, Disk, Vm};

const MIB: usize = 1 << 20;
/// Name, bus, MiB.
const DISKS: [(&str, Bus, u64); 6] = [
    ("bi-main", Bus::Nvme, 32),
    ("bi-spare", Bus::Scsi, 8),
    ("bi-other", Bus::Scsi, 8),
    ("bi-parts", Bus::Scsi, 16),
    ("bi-mounted", Bus::Scsi, 16),
    ("bi-swap", Bus::Scsi, 8),
];
const MODULE: &str = "/lib/modules/$(uname -r)/updates/dm_remap_v4_real.ko";

/// The first and last MiB of every disk, and the mapped devices.
#[derive(PartialEq, Eq)]
struct State {
    ends: Vec<(&'static str, Vec<u8>)>,
    mapped: String,
}

struct Bad {
    vm: Vm,
    cases: u32,
    wrong: Vec<String>,
    /// As the last case left it.
    before: Option<State>,
}

impl Bad {
    /// Prepares the guest for the next cases.
    fn prepare(&mut self, script: &str) -> Result<()> {
        self.vm.ok(&format!("({script}\n) && udevadm settle && sync"))?;
        self.before = None;
        Ok(())
    }

    fn state(&mut self, mapped: String) -> Result<State> {
        let ends = DISKS.iter().map(|(name, ..)| *name).chain(["bi-4096"]).map(|name| {
            let mut disk = self.vm.sim(name);
            let mut ends = vec![0; 2 * MIB];
            let last = disk.sectors() - (MIB / SECTOR) as u64;
            disk.read(0, &mut ends[..MIB]).and_then(|()| disk.read(last, &mut ends[MIB..])).with_context(|| name)?;
            Ok((name, ends))
        });
        Ok(State { ends: ends.collect::<Result<_>>()?, mapped })
    }

    /// A command that is refused with a message that says each of `says`. Goes on if it is not, to tell of all.
    fn refused(&mut self, command: &str, says: &[&str]) -> Result<()> {
        self.cases += 1;
        if let Err(error) = self.try_refused(command, says) {
            println!("✗ {error:#}\n");
            self.wrong.push(error.to_string());
        }
        Ok(())
    }

    fn try_refused(&mut self, command: &str, says: &[&str]) -> Result<()> {
        const LIST: &str = "dmsetup ls | sort";
        let before = match self.before.take() {
            Some(state) => state,
            None => {
                let mapped = self.vm.ok(LIST)?;
                self.state(mapped)?
            }
        };
        let mut output =
            self.vm.run(&format!("({command}\n); status=$?; udevadm settle; echo; echo MAPPED; {LIST}; exit $status"))?;
        let (stdout, mapped) = output.stdout.split_once("\nMAPPED\n").context(output.to_string())?;
        let (stdout, mapped) = (stdout.to_owned(), mapped.to_owned());
        output.stdout = stdout;
        println!("$ {command}\n{}{}\n[{}]\n", output.stdout, output.stderr, output.status);
        let message = &output.stderr;
        ensure!(![0, 124, 126, 127].contains(&output.status), "“{command}” was not refused: {output}");
        ensure!(!message.contains("panicked"), "“{command}”: {output}");
        for word in says {
            ensure!(message.contains(word), "“{command}” does not say {word:?}: {message}");
        }
        ensure!(
            message.matches("remap-guardian: ").count() + message.matches("error: ").count() <= 1,
            "more than one message: {message}"
        );
        let after = self.state(mapped)?;
        ensure!(before.mapped == after.mapped, "“{command}” changed the mapped devices:\n{}\n{}", before.mapped, after.mapped);
        for ((name, before), (_, after)) in before.ends.iter().zip(&after.ends) {
            ensure!(before == after, "“{command}” wrote to {name}");
        }
        self.before = Some(after);
        Ok(())
    }

    fn create(&mut self, main: &str, spare: &str, says: &[&str]) -> Result<()> {
        self.refused(&format!("remap-guardian create data --main {main} --spare {spare}"), says)
    }
}

/// One guest serves all of this, for a boot costs more than the rest.
#[test]
fn bad_input_is_refused_and_changes_nothing() -> Result<()> {
    let payload = rig::payload()?;
    let vm = DISKS.into_iter().fold(Vm::new(), |vm, (name, bus, mib)| vm.disk(Disk::new(name, bus, mib)));
    let vm = vm.disk(Disk::new("bi-4096", Bus::Nvme, 8).blocks_of_4096()).payload(&payload).boot()?;
    let mut bad = Bad { vm, cases: 0, wrong: Vec::new(), before: None };
    bad.vm.install()?;
    without_a_daemon(&mut bad)?;
    settings_and_policies(&mut bad)?;
    without_the_module(&mut bad)?;
    wrong_devices(&mut bad)?;
    devices_in_use(&mut bad)?;
    devices_that_do_not_fit(&mut bad)?;
    devices_that_hold_something(&mut bad)?;
    with_a_set(&mut bad)?;
    ensure!(bad.wrong.is_empty(), "{} of {} bad inputs:\n{}", bad.wrong.len(), bad.cases, bad.wrong.join("\n"));
    println!("{} bad inputs were refused", bad.cases);
    Ok(())
}

fn without_a_daemon(bad: &mut Bad) -> Result<()> {
    let (main, spare) = (bad.vm.path("bi-main"), bad.vm.path("bi-spare"));
    let next = "systemctl start remap-guardian";
    bad.create(&main, &spare, &["is not running", next])?;
    bad.refused("remap-guardian restore", &["is not running", next])?;
    bad.refused("remap-guardian remap data 8", &["is not running", next])?;
    bad.refused("remap-guardian history nosuch", &["nosuch"])?;
    bad.refused("remap-guardian status nosuch", &["nosuch"])?;
    let status = bad.vm.run("remap-guardian status; remap-guardian history")?;
    println!("$ remap-guardian status; remap-guardian history\n{status}\n");
    ensure!(status.stdout.contains("NOT running") && status.stdout.contains(next), "{status}");
    Ok(())
}

fn settings_and_policies(bad: &mut Bad) -> Result<()> {
    let (etc, policies) = ("/etc/remap-guardian", "/etc/remap-guardian/policies");
    bad.prepare(&format!("mkdir -p {policies}"))?;
    let trials: [(&str, &str, &[&str]); 8] = [
        ("config.toml", "hodl_ms = 1000", &["hodl_ms", "/etc/remap-guardian/config.toml", "line 1"]),
        ("config.toml", "hold_ms = 99", &["hold_ms = 99"]),
        ("config.toml", "hold_ms = \"long\"", &["hold_ms", "/etc/remap-guardian/config.toml"]),
        ("config.toml", "hold_ms 1000", &["/etc/remap-guardian/config.toml"]),
        ("config.toml", "policy = \"nosuch\"", &["“nosuch”"]),
        ("policies/balanced.toml", "[write_error]\nacton = \"remap\"", &["acton", "policies/balanced.toml"]),
        ("policies/balanced.toml", "[write_error]\naction = \"heal\"", &["`heal`", "`remap`", "policies/balanced.toml"]),
        ("policies/balanced.toml", "action =", &["policies/balanced.toml"]),
    ];
    for (file, content, says) in trials {
        bad.vm.put(&format!("{etc}/{file}"), content)?;
        println!("# {file}: {content}");
        bad.refused("remap-guardian run", says)?;
        bad.prepare(&format!("rm {etc}/{file}"))?;
    }
    // Root reads every file; what it cannot read is no file.
    bad.prepare(&format!("mkdir {policies}/balanced.toml"))?;
    bad.refused("remap-guardian run", &["policies/balanced.toml"])?;
    bad.prepare(&format!("rmdir {policies}/balanced.toml"))?;
    bad.refused("REMAP_GUARDIAN_HOLD_MS=soon remap-guardian run", &["hold_ms"])?;
    bad.refused("REMAP_GUARDIAN_HODL_MS=1 remap-guardian run", &["hodl_ms", "environment"])?;
    bad.refused("REMAP_GUARDIAN_POLICY=nosuch remap-guardian run", &["nosuch"])?;
    bad.refused("remap-guardian run --log '=='", &["log = =="])?;

    // The unit fails as well, and says why.
    bad.vm.put(&format!("{policies}/balanced.toml"), "acton = 1")?;
    let start = bad.vm.run("timeout 20 systemctl start remap-guardian; for i in {1..50}; do journalctl -u remap-guardian -o cat | grep acton && break; sleep 0.2; done")?;
    ensure!(start.stdout.contains("acton"), "{start}");
    bad.prepare(&format!("systemctl stop remap-guardian; systemctl reset-failed remap-guardian; rm {policies}/balanced.toml"))?;
    Ok(())
}

fn without_the_module(bad: &mut Bad) -> Result<()> {
    let (main, spare) = (bad.vm.path("bi-main"), bad.vm.path("bi-spare"));
    bad.prepare(&format!("modprobe -r dm_remap_v4_real; mv {MODULE} /root/ && depmod && systemctl start remap-guardian"))?;
    bad.create(&main, &spare, &["dm_remap_v4_real", "not installed"])?;
    bad.prepare(&format!("mv /root/dm_remap_v4_real.ko {MODULE} && depmod"))?;
    // The daemon has run all the time.
    bad.refused("remap-guardian run", &["another remap-guardian"])?;
    bad.vm.ok("systemctl is-active remap-guardian")?;
    Ok(())
}

fn wrong_devices(bad: &mut Bad) -> Result<()> {
    let (main, spare) = (bad.vm.path("bi-main"), bad.vm.path("bi-spare"));
    bad.prepare(
        "head -c 4M /dev/zero >/root/file && modprobe loop && losetup /dev/loop0 /root/file && cd /root && ln -s nowhere link",
    )?;
    for (wrong, why) in [
        ("/dev/nosuch", "does not exist"),
        ("/root/link", "does not exist"),
        ("/root/file", "not a block device"),
        ("/root", "not a block device"),
        ("/dev/zero", "not a block device"),
        ("/dev/loop0", "loop0"),
    ] {
        bad.create(wrong, &spare, &[wrong, why])?;
        bad.create(&main, wrong, &[wrong, why])?;
    }
    bad.create(&main, &main, &["the same device"])?;
    bad.create(&main, &format!("{spare} --spare {spare}"), &["twice"])?;
    // What it is asked for must not depend on the folder it is asked in.
    bad.refused(
        &format!("cd /root && remap-guardian create data --main file --spare {spare}"),
        &["/root/file", "not a block device"],
    )?;
    bad.refused(&format!("remap-guardian create data --main {main}"), &["--spare"])?;
    for name in ["''", ".hidden", "-x", "a/b", "'a b'", "../x", "ünï", "$(printf 'n%.0s' {1..64})"] {
        bad.refused(&format!("remap-guardian create --main {main} --spare {spare} -- {name}"), &["cannot be a name"])?;
    }
    Ok(())
}

fn devices_in_use(bad: &mut Bad) -> Result<()> {
    let (main, spare) = (bad.vm.path("bi-main"), bad.vm.path("bi-spare"));
    let (mounted, swap, parts) = (bad.vm.path("bi-mounted"), bad.vm.path("bi-swap"), bad.vm.path("bi-parts"));
    // Read-only, so that the file system itself writes nothing.
    bad.prepare(&format!("mkfs.ext4 -q -E nodiscard {mounted} && mount -o ro {mounted} /mnt && mkswap {swap} && swapon {swap}"))?;
    bad.create(&mounted, &spare, &["is mounted at /mnt"])?;
    bad.create(&main, &mounted, &["is mounted at /mnt"])?;
    bad.create(&main, &swap, &["is swap space"])?;
    bad.create(&main, &format!("{mounted} --overwrite-spare"), &["is mounted at /mnt"])?;
    bad.prepare(&format!("dmsetup create taken --table \"0 2048 linear {parts} 0\""))?;
    bad.create(&main, &parts, &["is part of dm-", "(taken)"])?;
    bad.refused(&format!("remap-guardian create taken --main {main} --spare {spare}"), &["taken", "exists already"])?;
    bad.prepare(&format!("dmsetup remove --retry taken && umount /mnt && swapoff {swap}"))?;
    Ok(())
}

fn devices_that_do_not_fit(bad: &mut Bad) -> Result<()> {
    let (main, spare) = (bad.vm.path("bi-main"), bad.vm.path("bi-spare"));
    let (parts, large) = (bad.vm.path("bi-parts"), bad.vm.path("bi-4096"));
    bad.create(&main, &large, &["4096 bytes", "512 bytes"])?;
    bad.create(&large, &spare, &["4096 bytes", "512 bytes"])?;
    bad.prepare(&format!(
        "addpart {parts} 1 2048 8192 && addpart {parts} 2 10240 8192 && addpart {parts} 3 18432 400 && udevadm settle"
    ))?;
    let part = |n: u32| format!("$(readlink -f {parts}){n}");
    bad.create(&part(1), &part(2), &["on the same disk"])?;
    bad.create(&parts, &part(2), &["on the same disk"])?;
    bad.create(&main, &part(3), &["400 sectors", "at least"])?;
    bad.prepare(&format!("for n in 1 2 3; do delpart {parts} $n; done"))?;
    Ok(())
}

fn devices_that_hold_something(bad: &mut Bad) -> Result<()> {
    let (main, other) = (bad.vm.path("bi-main"), bad.vm.path("bi-other"));
    bad.prepare(&format!("printf '\\125\\252' | dd of={other} bs=1 seek=510 status=none && printf '\\203\\0\\0\\0\\0\\10\\0\\0\\0\\10\\0\\0' | dd of={other} bs=1 seek=450 status=none"))?;
    bad.create(&main, &other, &["not blank", "partition table", "--overwrite-spare"])?;
    bad.prepare(&format!("wipefs -qa {other} && mkfs.ext4 -q -L precious {other}"))?;
    bad.create(&main, &other, &["not blank", "ext4 “precious”", "--overwrite-spare"])?;
    bad.before = None;
    let created = bad.vm.ok(&format!("remap-guardian create data --main {main} --spare {other} --overwrite-spare"))?;
    ensure!(created.contains("/dev/mapper/data is open"), "{created}");
    // What is tried of the spare is written, after the answer.
    bad.vm.ok("for i in {1..300}; do remap-guardian status data --json | jq -e '.sets[0].status.spares[0].ready > 0' && exit; sleep 0.2; done; exit 1")?;
    let held = bad.vm.ok(&format!("udevadm settle; blkid -p {other} || echo nothing"))?;
    ensure!(!held.contains("ext4"), "the spare still looks like a file system: {held}");
    Ok(())
}

/// The set “data” is open.
fn with_a_set(bad: &mut Bad) -> Result<()> {
    let (main, other) = (bad.vm.path("bi-main"), bad.vm.path("bi-other"));
    let (parts, spare) = (bad.vm.path("bi-parts"), bad.vm.path("bi-spare"));
    bad.create(&parts, &spare, &["“data”", "already"])?;
    let more = |name: &str, main: &str, spare: &str| format!("remap-guardian create {name} --main {main} --spare {spare}");
    bad.refused(&more("more", &main, &spare), &["“data”"])?;
    bad.refused(&more("more", &parts, &other), &["“data”"])?;
    bad.refused(&more("more", &other, &spare), &["“data”"])?;
    bad.refused(&(more("more", &parts, &other) + " --overwrite-spare"), &["“data”"])?;
    bad.refused(&more("more", "/dev/mapper/data", &spare), &["/dev/mapper/data"])?;

    for verb in ["status nosuch", "history nosuch", "restore nosuch", "remap nosuch 8"] {
        bad.refused(&format!("remap-guardian {verb}"), &["no set “nosuch”"])?;
    }
    let size = 32 * MIB / SECTOR;
    bad.refused(&format!("remap-guardian remap data {size}"), &["beyond the end", &(size - 1).to_string()])?;
    bad.refused(&format!("remap-guardian remap data {} --length 2", size - 1), &["beyond the end"])?;
    bad.refused(&format!("remap-guardian remap data {}", u64::MAX), &[&u64::MAX.to_string()])?;
    bad.refused("remap-guardian remap data 8 --length 0", &["length"])?;
    bad.refused("remap-guardian remap data 0 --length 60000", &["too many"])?;
    bad.refused("remap-guardian remap data eight", &["eight"])?;
    bad.refused("remap-guardian remap data -- -1", &["-1"])?;
    bad.refused("remap-guardian history --since yesterday", &["yesterday", "2026-05-01"])?;
    bad.refused("remap-guardian history --limit few", &["few"])?;
    bad.refused("remap-guardian heal", &["heal"])?;
    bad.refused("remap-guardian", &["Usage"])?;
    bad.vm.ok("remap-guardian status data && systemctl is-active remap-guardian")?;
    Ok(())
}
