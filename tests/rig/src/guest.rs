//! The root file system and kernels that `make-guest.sh` made.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// The guest of this checkout, in the cache.
#[derive(Clone, Debug)]
pub struct Guest {
    folder: PathBuf,
}

/// A kernel that a guest can boot.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// As `uname -r` prints it.
    pub version: String,
    folder: PathBuf,
}

impl Guest {
    /// The guest that belongs to this checkout.
    ///
    /// # Errors
    /// If `setup.sh` has not been run.
    pub fn find() -> Result<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("make-guest.sh");
        let answer = Command::new(&script).arg("where").output().with_context(|| format!("{}", script.display()))?;
        ensure!(answer.status.success(), "{} where: {}", script.display(), String::from_utf8_lossy(&answer.stderr));
        let folder = PathBuf::from(String::from_utf8(answer.stdout)?.trim());
        if !folder.join("root.img").exists() {
            bail!("there is no guest yet: run tests/rig/setup.sh");
        }
        Ok(Self { folder })
    }

    /// The image of the root file system. Never written.
    #[must_use]
    pub fn root_image(&self) -> PathBuf {
        self.folder.join("root.img")
    }

    /// A folder that outlives runs, and is shared with other guests.
    pub(crate) fn cache(&self) -> &Path {
        self.folder.parent().unwrap_or(&self.folder)
    }

    /// The kernel of the Debian release.
    ///
    /// # Errors
    /// If the guest's folder is damaged.
    pub fn default_kernel(&self) -> Result<Kernel> {
        let version = fs::read_to_string(self.folder.join("default-kernel"))?;
        self.kernel(version.trim())
    }

    /// The kernel whose version starts with `version`.
    ///
    /// # Errors
    /// If there is none.
    pub fn kernel(&self, version: &str) -> Result<Kernel> {
        let all = self.kernels()?;
        let known = all.iter().map(|k| k.version.clone()).collect::<Vec<_>>().join(", ");
        all.into_iter()
            .find(|k| k.version.starts_with(version))
            .with_context(|| format!("no kernel {version} in the guest, it has: {known}"))
    }

    /// Every kernel of the guest.
    ///
    /// # Errors
    /// If the guest's folder is damaged.
    pub fn kernels(&self) -> Result<Vec<Kernel>> {
        let mut kernels = Vec::new();
        for entry in fs::read_dir(self.folder.join("kernels")).context("the guest's kernels")? {
            let entry = entry?;
            kernels.push(Kernel { version: entry.file_name().to_string_lossy().into_owned(), folder: entry.path() });
        }
        kernels.sort_by(|a, b| a.version.cmp(&b.version));
        Ok(kernels)
    }
}

impl Kernel {
    /// What QEMU boots.
    #[must_use]
    pub fn image(&self) -> PathBuf {
        self.folder.join("kernel")
    }

    /// The initial root file system.
    #[must_use]
    pub fn initrd(&self) -> PathBuf {
        self.folder.join("initrd")
    }
}
