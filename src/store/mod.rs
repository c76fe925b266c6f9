//! What the daemon remembers on the host: registry, allocator, history. The spares are the truth; this can lag them.

pub mod allocator;
mod keys;
pub mod sled_store;

pub use allocator::{Space, SpaceError};
pub use sled_store::{OpenError, ReadStore, SledStore, set_aside};

/// The schema version that is written. See `migrations/README.md`.
pub const FORMAT: u32 = 1;
