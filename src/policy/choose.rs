//! Which policy is in force for a disk.

use super::disk::Disk;
use super::file::Policy;
use super::load::{Loaded, PolicyError, is_name, load, tomls};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Every policy of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policies {
    all: BTreeMap<String, Loaded>,
    default: String,
}

impl Policies {
    /// Loads every policy in `dirs`, lowest priority first; `default` is for disks that no policy asks for.
    ///
    /// One broken file refuses them all: it might be the one that is meant for a disk.
    pub fn load(default: &str, dirs: &[PathBuf]) -> Result<Policies, PolicyError> {
        let mut names = BTreeSet::from([default.to_owned()]);
        for path in dirs.iter().flat_map(|dir| tomls(dir)) {
            let name = path.file_stem().and_then(|name| name.to_str()).filter(|name| is_name(name));
            let Some(name) = name.map(str::to_owned) else {
                let message = "a policy's name is of letters, digits, - and _; rename the file, or remove it".into();
                return Err(PolicyError::Bad { path, message });
            };
            names.insert(name);
        }
        let all = names.into_iter().map(|name| Ok((name.clone(), load(&name, dirs)?))).collect::<Result<_, _>>()?;
        Ok(Policies { all, default: default.into() })
    }

    /// All, by name.
    pub fn all(&self) -> impl Iterator<Item = &Loaded> {
        self.all.values()
    }

    /// The one with this name.
    pub fn get(&self, name: &str) -> Option<&Loaded> {
        self.all.get(name)
    }

    /// The one for disks that no policy asks for.
    pub fn default(&self) -> &Loaded {
        &self.all[&self.default]
    }

    /// The policy for a disk, and why: the first in alphabetical order that asks for it, else the default.
    pub fn choose(&self, disk: &Disk) -> (&Policy, String) {
        let asks = |loaded: &'_ Loaded| loaded.policy.fits(disk).map(|found| format!("it matches {found}"));
        let found = self.all.values().find_map(|loaded| Some((&loaded.policy, asks(loaded)?)));
        found.unwrap_or_else(|| (&self.default().policy, "it is the default: “policy” in the settings".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policies(matches: &[(&str, &str)]) -> Result<Policies, PolicyError> {
        let dir = tempfile::tempdir().unwrap();
        let text = include_str!("../../policies/balanced.toml");
        std::fs::write(dir.path().join("balanced.toml"), text).unwrap();
        for (name, wanted) in matches {
            std::fs::write(dir.path().join(format!("{name}.toml")), format!("{text}\n{wanted}")).unwrap();
        }
        Policies::load("balanced", &[dir.path().into()])
    }

    fn disk() -> Disk {
        Disk {
            serial: "S-17".into(),
            model: "ACME 4000".into(),
            wwn: "naa.5000".into(),
            transport: "sata".into(),
            rotational: Some(true),
        }
    }

    #[test]
    fn the_first_that_asks_is_taken_else_the_default() {
        let all = policies(&[
            ("a-flash", "[[match]]\nrotational = false\n"),
            ("b-acme", "[[match]]\nserial = \"X\"\n[[match]]\nmodel = \"ACME*\"\ntransport = \"sata\"\n"),
            ("c-late", "[[match]]\nserial = \"S-17\"\n"),
        ])
        .unwrap();
        let (policy, why) = all.choose(&disk());
        assert_eq!(policy.name, "b-acme");
        assert_eq!(why, "it matches model = “ACME*”, transport = “sata”");
        let (policy, why) = all.choose(&Disk { transport: "usb".into(), serial: "?".into(), ..disk() });
        assert_eq!((policy.name.as_str(), why.contains("default")), ("balanced", true));
        let unknown = Disk { rotational: None, ..Disk::default() };
        assert_eq!(all.choose(&unknown).0.name, "balanced", "what is not known fits nothing");
    }

    #[test]
    fn one_broken_file_refuses_all() {
        assert!(policies(&[("zz", "[[match]]\nrotational = \"no\"\n")]).unwrap_err().to_string().contains("zz.toml"));
        assert!(matches!(Policies::load("none", &[]), Err(PolicyError::Missing { .. })));
    }
}
