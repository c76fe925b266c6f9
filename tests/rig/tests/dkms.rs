//! The module by DKMS: added, built and installed as `dkms.conf` says, for each kernel of the guest, and loaded there.
//! DKMS runs on this machine, in folders of its own, for a compiler would make the guest twice as large.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use rig::{Guest, Vm};

const NAME: &str = "dm-remap/4.2.2";

struct Dkms {
    folder: PathBuf,
}

impl Dkms {
    fn run(&self, verb: &str, options: &[&str], what: &str) -> Result<String> {
        let mut dkms = Command::new("dkms");
        dkms.arg(verb);
        for (option, folder) in [("--dkmstree", "tree"), ("--sourcetree", "source"), ("--installtree", "root/lib/modules")] {
            let folder = self.folder.join(folder);
            fs::create_dir_all(&folder)?;
            dkms.arg(option).arg(folder);
        }
        let output = dkms.args(options).arg(what).output().context("dkms: run tests/rig/setup.sh")?;
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        println!("$ {dkms:?}\n{said}");
        ensure!(output.status.success(), "dkms {verb} failed:\n{said}");
        Ok(said)
    }
}

#[test]
fn dkms_makes_a_module_that_loads() -> Result<()> {
    let guest = Guest::find()?;
    let dkms = Dkms { folder: Path::new(env!("CARGO_TARGET_TMPDIR")).join("dkms") };
    if dkms.folder.exists() {
        fs::remove_dir_all(&dkms.folder)?;
    }
    let root = dkms.folder.join("root");
    dkms.run("add", &[], &format!("{}/../../kmod", env!("CARGO_MANIFEST_DIR")))?;
    for kernel in guest.kernels()? {
        let version = kernel.version.as_str();
        fs::create_dir_all(root.join("lib/modules").join(version))?;
        let build = guest.root_image().with_file_name("kernels").join(version).join("build");
        let options = ["-k", version, "--kernelsourcedir", build.to_str().context("a path that is no text")?];
        dkms.run("build", &options, NAME)?;
        dkms.run("install", &[&options[..], &["--no-depmod"]].concat(), NAME)?;
        let status = dkms.run("status", &["-k", version], NAME)?;
        ensure!(status.contains(": installed"), "{status}");
    }

    let mut vm = Vm::new().payload(&root).boot()?;
    vm.install()?;
    let loaded = vm.ok("modprobe dm_remap_v4_real && modinfo -n dm_remap_v4_real && dmsetup targets | grep ^dm-remap-v4")?;
    ensure!(loaded.contains("/updates/dkms/dm_remap_v4_real.ko"), "{loaded}");
    ensure!(loaded.contains("v4.2.2"), "{loaded}");
    fs::remove_dir_all(&dkms.folder)?;
    Ok(())
}
