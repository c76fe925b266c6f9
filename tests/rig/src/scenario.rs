//! The main promise, step by step: a disk goes bad and nobody notices.
//!
//! `rig demo` tells it to a person, the guest tests run it on every kernel and bus. Each step measures in the guest
//! and checks; the first check that fails ends the run with evidence.

mod steps;

use std::io::Write as _;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use remap_guardian::sim::disk::Fault;
use serde_json::Value;

use crate::{Bus, Disk, Output, Vm};

/// Sectors of each main disk that cannot be written from the start, as ranges: a single sector, a whole block of
/// 4096 bytes, a few sectors inside a block, and some across the border of two blocks.
pub const BAD_FROM_START: [Range<u64>; 4] = [40_960..40_961, 57_344..57_352, 73_731..73_734, 90_116..90_124];

/// One protected disk.
#[derive(Clone, Debug)]
pub struct Set {
    /// Its name: the device is `/dev/mapper/<name>`.
    pub name: &'static str,
    /// What its disks are attached to.
    pub bus: Bus,
}

impl Set {
    /// Where its file system is mounted.
    #[must_use]
    pub fn mount(&self) -> String {
        format!("/srv/{}", self.name)
    }

    /// Name and serial number of its main disk.
    #[must_use]
    pub fn main(&self) -> String {
        format!("{}-main", self.name)
    }

    /// Name and serial number of its spare disk.
    #[must_use]
    pub fn spare(&self) -> String {
        format!("{}-spare", self.name)
    }

    /// Its two disks: a main disk with bad sectors and a spare.
    #[must_use]
    pub fn disks(&self) -> [Disk; 2] {
        let main = Disk::new(&self.main(), self.bus, 96);
        let main = BAD_FROM_START.into_iter().fold(main, |disk, sectors| disk.fault(Fault::unwritable(sectors)));
        [main, Disk::new(&self.spare(), self.bus, 16)]
    }
}

/// A run of the scenario.
pub struct Scenario {
    /// The guest.
    pub vm: Vm,
    sets: Vec<Set>,
    told: Instant,
    checks: u32,
}

impl Scenario {
    /// Boots a guest with the disks of `sets`, and with the product in `payload` ready to be installed.
    ///
    /// # Errors
    /// If the guest does not boot.
    pub fn boot(sets: Vec<Set>, kernel: Option<&str>, payload: &Path) -> Result<Self> {
        let told = Instant::now();
        let mut vm = Vm::new().payload(payload);
        if let Some(version) = kernel {
            vm = vm.kernel(version);
        }
        for disk in sets.iter().flat_map(Set::disks) {
            vm = vm.disk(disk);
        }
        Ok(Self { vm: vm.boot()?, sets, told, checks: 0 })
    }

    /// Runs every step.
    ///
    /// # Errors
    /// At the first check that fails, with evidence.
    pub fn run(&mut self) -> Result<()> {
        self.steps().inspect_err(|_| self.show_evidence())
    }

    /// Runs the steps before the reboot, then cuts the power `times` while files are being rewritten.
    ///
    /// # Errors
    /// At the first check that fails, with evidence.
    pub fn run_with_power_cuts(&mut self, times: u64) -> Result<()> {
        self.power_cut_steps(times).inspect_err(|_| self.show_evidence())
    }

    fn power_cut_steps(&mut self, times: u64) -> Result<()> {
        let sets = self.sets.clone();
        self.install()?;
        self.each(&sets, Self::protect)?;
        self.each(&sets, Self::write_direct)?;
        self.each(&sets, Self::dead)?;
        for seed in 0..times {
            self.step(&format!("Power cut {}", seed + 1));
            self.each(&sets, Self::start_writing)?;
            let before = self.before_reboot(&sets)?;
            self.vm.power_cut(seed)?;
            for (set, before) in sets.iter().zip(before) {
                self.after_power_cut(set, &before, seed)?;
            }
        }
        Ok(())
    }

    fn steps(&mut self) -> Result<()> {
        let sets = self.sets.clone();
        self.step("1. Disks with bad sectors, and spares");
        self.describe_guest()?;
        self.each(&sets, Self::disks_are_bad)?;
        self.step("2. Install remap-guardian");
        self.install()?;
        self.step("3. Protect the disks, and write across the bad sectors");
        self.each(&sets, Self::protect)?;
        self.each(&sets, Self::write_direct)?;
        self.each(&sets, Self::write_buffered)?;
        self.step("4. What cannot be read is an error, never wrong data, until it is written again");
        self.each(&sets, Self::unreadable)?;
        self.each(&sets, Self::dead)?;
        self.step("5. Status and history");
        self.each(&sets, Self::history_explains)?;
        self.show("remap-guardian status")?;
        for set in &sets {
            self.show(&format!("remap-guardian history {}", set.name))?;
        }
        self.step("6. Reboot");
        let before = self.before_reboot(&sets)?;
        self.vm.reboot()?;
        for (set, before) in sets.iter().zip(before) {
            self.back_again(set, &before)?;
            self.goes_on(set)?;
        }
        self.step("7. Summary");
        self.summary(&sets)
    }

    fn each(&mut self, sets: &[Set], step: impl Fn(&mut Self, &Set) -> Result<()>) -> Result<()> {
        sets.iter().try_for_each(|set| step(self, set).with_context(|| format!("{} ({:?})", set.name, set.bus)))
    }

    fn step(&mut self, title: &str) {
        println!("\n{title}");
    }

    /// Notes a check that has held, with what was measured and the time since the last one.
    fn held(&mut self, what: &str) {
        self.checks += 1;
        println!("  ✓ {what}  [{:.1} s]", self.told.elapsed().as_secs_f64());
        let _ = std::io::stdout().flush();
        self.told = Instant::now();
    }

    fn check(&mut self, holds: bool, what: &str, otherwise: impl FnOnce() -> String) -> Result<()> {
        if !holds {
            println!("  ✗ {what}");
            bail!("{what}: {}", otherwise());
        }
        self.held(what);
        Ok(())
    }

    /// A command that has to succeed.
    fn succeeds(&mut self, script: &str, what: &str) -> Result<String> {
        let output = self.command(script)?;
        self.check(output.success(), what, || format!("{script}\n{output}"))?;
        Ok(output.stdout)
    }

    /// A command that has to fail, and print nothing on its standard output.
    fn fails(&mut self, script: &str, what: &str) -> Result<()> {
        let output = self.command(script)?;
        let failed = !output.success() && output.status != 124;
        self.check(failed, what, || format!("{script}\n{output}"))
    }

    fn command(&mut self, script: &str) -> Result<Output> {
        self.vm.run_for(Duration::from_secs(400), &format!("set -o pipefail\n{script}"))
    }

    /// Shows what a command prints, of much only the end.
    fn show(&mut self, command: &str) -> Result<()> {
        const MOST: usize = 24;
        println!("  $ {command}");
        let text = self.vm.ok(command)?;
        let lines: Vec<&str> = text.lines().collect();
        let left_out = lines.len().saturating_sub(MOST);
        if left_out > 0 {
            println!("    … {left_out} lines before");
        }
        for line in &lines[left_out..] {
            println!("    {line}");
        }
        Ok(())
    }

    /// The history of a set, oldest entry first.
    fn history(&mut self, set: &Set) -> Result<Vec<Value>> {
        let text = self.vm.ok(&format!("remap-guardian history {} --json", set.name))?;
        text.lines().map(|line| serde_json::from_str(line).with_context(|| format!("history has {line:?}"))).collect()
    }

    /// What explains a failure.
    fn show_evidence(&mut self) {
        for command in [
            "remap-guardian status",
            "remap-guardian history --limit 20",
            "systemctl --no-pager --failed",
            "journalctl --no-pager -b -u remap-guardian -n 40",
            "dmesg | tail -n 40",
        ] {
            match self.vm.run(command) {
                Ok(output) => eprintln!("--- {command}\n{}\n{}", output.stdout, output.stderr),
                Err(e) => return eprintln!("--- {e:#}; the console:\n{}", self.vm.console_tail(40)),
            }
        }
    }
}
