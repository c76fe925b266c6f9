//! What a policy may ask of a disk.

/// A disk, as far as the choice of a policy goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    /// Serial number.
    pub serial: String,
    /// Model.
    pub model: String,
    /// World wide name.
    pub wwn: String,
    /// How it is attached: `nvme`, `sata`, `ata`, `sas`, `scsi`, `usb`, `virtio`, `mmc` or `other`.
    pub transport: String,
    /// Whether it has turning platters, where the kernel says so.
    pub rotational: Option<bool>,
}
