//! What the daemon remembers on the host: registry, allocator, history. The spares are the truth; this can lag them.

pub mod allocator;
pub mod chain;
mod history;
mod keys;
mod migrate;
pub mod sled_store;
mod smart;
mod trees;

pub use allocator::{Space, SpaceError};
pub use sled_store::{ReadStore, SledStore};
pub use trees::{OpenError, set_aside};

/// The schema version that is written. See `migrations/README.md`.
pub const FORMAT: u32 = 2;
