//! What a table line says after its length: a target type and its parameters, with a type for each that we know.
//!
//! Each type is named after the kernel's target and says which of the kernel's documents (below
//! `Documentation/admin-guide/device-mapper/`) describes it. `Display` prints what the kernel takes, and what it prints
//! in a table. A target that has no type here passes through as it is.

mod cache;
mod crypt;
mod plain;
mod remap;
mod snapshot;
mod thin;
mod verity;

pub use super::words::Device;
pub use cache::Cache;
pub use crypt::{Crypt, Key};
pub use plain::{ErrorTarget, Feature, Flakey, Linear, Stripe, Striped};
pub use remap::{Remap, RemapOption};
pub use snapshot::{Persistence, Snapshot};
pub use thin::{Thin, ThinPool};
pub use verity::Verity;

use super::words::{BadParams, Words};
use std::fmt;

/// Declares the targets that have a type, so that none is forgotten in one of the places that go through them.
macro_rules! targets {
    ($($(#[$doc:meta])* $kind:literal $variant:ident($params:ty),)*) => {
        /// One target: its type and parameters.
        #[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
        #[serde(untagged)]
        pub enum Target {
            $($(#[$doc])* $variant($params),)*
            /// Any other target: its parameters are the kernel's business.
            Other(Other),
        }

        impl Target {
            /// The target types that have a type here.
            pub const KINDS: &[&str] = &[$($kind),*];

            /// Reads the parameters of a target of type `kind`.
            pub fn parse(kind: &str, params: &str) -> Result<Target, BadParams> {
                match kind {
                    $($kind => <$params>::parse(params).map(Target::$variant),)*
                    _ => Ok(Target::other(kind, params)),
                }
            }

            /// The name of its type.
            pub fn kind(&self) -> &str {
                match self {
                    $(Target::$variant(_) => $kind,)*
                    Target::Other(other) => &other.kind,
                }
            }

            /// The devices that a target of `length` sectors stands on.
            pub fn needs(&self, length: u64) -> Vec<Needed<'_>> {
                match self {
                    $(Target::$variant(params) => params.needs(length),)*
                    Target::Other(_) => Vec::new(),
                }
            }
        }

        /// The parameters.
        impl fmt::Display for Target {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Target::$variant(params) => params.fmt(f),)*
                    Target::Other(other) => f.write_str(&other.params),
                }
            }
        }
    };
}

targets! {
    /// A range of a device (`linear.rst`).
    "linear" Linear(Linear),
    /// Chunks of devices in turn (`striped.rst`).
    "striped" Striped(Striped),
    /// Every access fails.
    "error" Error(ErrorTarget),
    /// Fails from time to time (`dm-flakey.rst`).
    "flakey" Flakey(Flakey),
    /// A volume of a thin pool (`thin-provisioning.rst`).
    "thin" Thin(Thin),
    /// A thin pool (`thin-provisioning.rst`).
    "thin-pool" ThinPool(ThinPool),
    /// A fast device before a slow one (`cache.rst`).
    "cache" Cache(Cache),
    /// Encryption (`dm-crypt.rst`).
    "crypt" Crypt(Crypt),
    /// A copy on write (`snapshot.rst`).
    "snapshot" Snapshot(Snapshot),
    /// Checked against a tree of hashes (`verity.rst`).
    "verity" Verity(Verity),
    /// A spare behind a disk (`kmod/dm-remap.rst` of this project).
    "dm-remap-v4" Remap(Remap),
}

/// A target that has no type here.
#[derive(Clone, PartialEq, Eq, serde::Serialize)]
pub struct Other {
    /// Name of its type.
    pub kind: String,
    /// Its parameters.
    pub params: String,
}

/// Some targets take keys: parameters that are not understood are not shown.
impl fmt::Debug for Other {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Other").field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// A device that a target needs, and how far into it the target reaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needed<'a> {
    /// The device.
    pub device: &'a Device,
    /// Sectors that it has to have at least; 0 where the target decides.
    pub sectors: u64,
}

impl<'a> Needed<'a> {
    fn any(device: &'a Device) -> Self {
        Needed { device, sectors: 0 }
    }

    fn range(device: &'a Device, start: u64, length: u64) -> Self {
        Needed { device, sectors: start.saturating_add(length) }
    }
}

impl Target {
    fn other(kind: &str, params: &str) -> Target {
        Target::Other(Other { kind: kind.into(), params: params.trim().into() })
    }

    /// Reads what a kernel printed. A kernel may know more than we do: what is not understood passes through.
    pub fn of_kernel(kind: &str, params: &str) -> Target {
        Target::parse(kind, params).unwrap_or_else(|_| Target::other(kind, params))
    }

    /// The devices that it names. Of a target that has no type here, every word that has the form of one.
    pub(super) fn devices(&self, length: u64) -> Vec<Device> {
        let Target::Other(other) = self else {
            return self.needs(length).into_iter().map(|needed| needed.device.clone()).collect();
        };
        let words = Words::new("", &other.params).rest().into_iter().map(Device);
        words.filter(|word| word.devno().is_some() || word.0.starts_with('/')).collect()
    }

    /// Whether its parameters may hold a key.
    pub fn may_hold_key(&self) -> bool {
        ["crypt", "integrity"].contains(&self.kind())
    }

    /// Puts zeros in the place of keys, as `dmsetup table` does without `--showkeys`. The name of a key in the kernel's
    /// keyring is no secret and stays.
    pub fn hide_keys(&mut self) {
        match self {
            Target::Crypt(crypt) => crypt.key.hide(),
            Target::Other(other) if other.kind == "crypt" => other.params = crypt::hide_second_word(&other.params),
            Target::Other(other) if other.kind == "integrity" => other.params = crypt::hide_integrity_keys(&other.params),
            _ => {}
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
