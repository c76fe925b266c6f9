//! The product with a daemon beside it that ends itself where it is told to.

use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The staged product, and beside its daemon another one, `/usr/sbin/remap-guardian-failpoints`. It is taken away when dropped.
pub struct Failpoints(PathBuf);

impl Failpoints {
    /// Builds that daemon. With a test among what is built it is the one that the tests of the command line have run.
    pub fn build() -> Result<Self> {
        let stage = crate::payload()?;
        // In the product nothing waits to be told to die.
        let product = std::fs::read(stage.join("usr/sbin/remap-guardian"))?;
        ensure!(!product.windows(18).any(|text| text == b"remap-guardian.die"), "the product has failpoints");
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let build = Command::new(env!("CARGO"))
            .args(["build", "--locked", "--workspace", "--bin", "remap-guardian", "--test", "cli"])
            .current_dir(&workspace)
            .status()?;
        ensure!(build.success(), "the daemon with failpoints cannot be built");
        let target = stage.parent().context("RIG_PAYLOAD is no folder in the target folder")?;
        let folder = target.join("stage-failpoints");
        drop(std::fs::remove_dir_all(&folder));
        let copied = Command::new("cp").arg("-al").arg(&stage).arg(&folder).status()?;
        ensure!(copied.success(), "cp");
        let (built, place) = (target.join("debug/remap-guardian"), folder.join("usr/sbin/remap-guardian-failpoints"));
        let stripped = Command::new("strip").arg("-o").arg(place).arg(built).status()?;
        ensure!(stripped.success(), "strip");
        Ok(Self(folder))
    }

    /// What a guest gets.
    pub fn folder(&self) -> &Path {
        &self.0
    }
}

impl Drop for Failpoints {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
