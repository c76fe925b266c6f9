//! `rig`: guests with bad disks, for people.

use anyhow::Result;
use clap::{Parser, Subcommand};
use rig::scenario::{BAD_FROM_START, Scenario, Set};
use rig::{Bus, Console, Vm};

/// Boots guests with disks that fail on demand
#[derive(Parser)]
struct Cli {
    /// Boot the kernel whose version starts so, not the release's own
    #[arg(long, global = true)]
    kernel: Option<String>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Show how bad disks heal, from the first error to the reboot
    Demo,
    /// A prompt in the demo's guest
    Shell,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let kernel = cli.kernel.as_deref();
    let sets = vec![Set { name: "nvmedata", bus: Bus::Nvme }, Set { name: "scsidata", bus: Bus::Scsi }];
    match cli.verb {
        Verb::Demo => demo(sets, kernel),
        Verb::Shell => shell(&sets, kernel),
    }
}

fn demo(sets: Vec<Set>, kernel: Option<&str>) -> Result<()> {
    println!("A guest boots. Everything below happens in it, on a real kernel, systemd and udev.");
    Scenario::boot(sets, kernel, &rig::payload()?)?.run()
}

fn shell(sets: &[Set], kernel: Option<&str>) -> Result<()> {
    let mut vm = Vm::new().payload(&rig::payload()?).console(Console::Terminal);
    if let Some(version) = kernel {
        vm = vm.kernel(version);
    }
    for disk in sets.iter().flat_map(Set::disks) {
        vm = vm.disk(disk);
    }
    println!("A guest boots; wait for its prompt.");
    let mut vm = vm.boot()?;
    vm.install()?;
    vm.ok("systemctl enable --now remap-guardian")?;
    let welcome = welcome(sets, &vm);
    vm.put("/etc/motd", &welcome)?;
    vm.ok("systemctl enable -q --now serial-getty@ttyS0")?;
    vm.wait()
}

fn welcome(sets: &[Set], vm: &Vm) -> String {
    let bad = BAD_FROM_START.map(|range| format!("{}-{}", range.start, range.end - 1)).join(", ");
    let mut text = format!(
        "\nremap-guardian is installed and runs. The main disks cannot be written at sectors\n  {bad}\n\
         Try:\n"
    );
    for set in sets {
        let (main, spare) = (vm.path(&set.main()), vm.path(&set.spare()));
        text += &format!("  remap-guardian create {} --main {main} --spare {spare}\n", set.name);
    }
    text + "  remap-guardian status\nLeave with “poweroff”, or at once with Ctrl-A X.\n"
}
