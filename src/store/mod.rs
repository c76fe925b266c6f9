//! What the daemon remembers on the host.
