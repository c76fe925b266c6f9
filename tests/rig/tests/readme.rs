//! What README tells a person to type is what the scenario types.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// Commands of README that are run outside of a guest: what runs each, and a word that shows it there.
const ELSEWHERE: [(&str, &str, &str); 8] = [
    ("make demo", "Makefile", "demo: stage"),
    ("make test", ".ci/run", "exec make test"),
    ("make shell", "Makefile", "shell: stage"),
    ("make build", "Makefile", "cargo build --release -p remap-guardian"),
    ("sudo make install", "Makefile", "module install DESTDIR="),
    (
        "remap-guardian dm create part --table '0 2048 linear /dev/sdb 4096'",
        "tests/rig/tests/dm.rs",
        "remap-guardian dm create life --table '0 {LEN} linear",
    ),
    ("remap-guardian dm table part", "tests/rig/tests/dm.rs", "remap-guardian dm table life"),
    ("remap-guardian dm events --json", "tests/rig/tests/dm.rs", "remap-guardian dm events --json"),
];

fn read(path: &str) -> Result<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    fs::read_to_string(root.join(path)).with_context(|| path.to_owned())
}

/// Lines indented by four columns that start with a program, without what follows a "#".
fn commands(readme: &str) -> Vec<String> {
    let programs = ["make", "systemctl", "remap-guardian", "mkfs.ext4", "mount", "apt", "cargo", "sudo"];
    let lines = readme.lines().filter_map(|line| line.strip_prefix("    "));
    let command = |line: &str| line.split(" #").next().unwrap_or_default().trim().to_owned();
    lines.map(command).filter(|line| line.split(' ').next().is_some_and(|word| programs.contains(&word))).collect()
}

/// The words of a command that do not name a set or a device.
fn shape(command: &str) -> String {
    let fixed = |word: &&str| !word.starts_with("/dev/") && !word.starts_with('{') && *word != "data";
    command.split_whitespace().filter(fixed).collect::<Vec<_>>().join(" ")
}

/// Whether the packages that README names are those that the rig installs where it builds and where it runs.
fn known_packages(command: &str) -> Result<()> {
    let known = read("tests/rig/host-packages")? + &read("tests/rig/guest-packages")?;
    for package in command.trim_start_matches("sudo apt install ").replace("$(uname -r)", "").split_whitespace() {
        // The guest's own kernels come with their headers; build-essential is gcc, libc6-dev and make.
        let listed = known.lines().any(|line| line == package);
        ensure!(listed || package.starts_with("linux-headers-") || package == "build-essential", "no rig installs {package}");
    }
    Ok(())
}

#[test]
fn every_command_of_the_readme_is_run_by_something() -> Result<()> {
    let commands = commands(&read("README.md")?);
    ensure!(commands.len() >= 8, "only these commands were found: {commands:?}");
    let scenario = read("tests/rig/src/scenario.rs")? + &read("tests/rig/src/scenario/steps.rs")?;
    let typed: Vec<String> = scenario.split('"').map(shape).collect();
    for command in &commands {
        if let Some((_, file, proof)) = ELSEWHERE.iter().find(|(known, ..)| known == command) {
            ensure!(read(file)?.contains(proof), "README has “{command}”, but {file} has no “{proof}”");
            continue;
        }
        if command.starts_with("sudo apt install ") {
            known_packages(command)?;
            continue;
        }
        let wanted = shape(command);
        let run = typed.iter().any(|typed| *typed == wanted || (wanted.starts_with("mkfs") && typed.starts_with(&wanted)));
        ensure!(run, "README has “{command}”, which the scenario does not run");
    }
    Ok(())
}
