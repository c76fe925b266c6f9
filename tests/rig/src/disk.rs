//! A guest's disks: what they are attached to, and how QEMU is told.

use std::path::Path;

use remap_guardian::sim::disk::{Backing, Fault, SimDisk};

/// How a disk is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bus {
    /// NVMe, one controller per disk.
    Nvme,
    /// SCSI, all disks on one virtio-scsi controller.
    Scsi,
    /// SATA, on the machine's AHCI controller, which has six ports.
    Ata,
    /// virtio-blk.
    Virtio,
}

/// A disk of a guest.
#[derive(Clone, Debug)]
pub struct Disk {
    pub(crate) name: String,
    serial: String,
    pub(crate) bus: Bus,
    mib: u64,
    block_size: u32,
    volatile_cache: bool,
    faults: Vec<Fault>,
}

impl Disk {
    /// An empty, healthy disk of `mib` MiB with a volatile write cache. `name` is also its serial number.
    #[must_use]
    pub fn new(name: &str, bus: Bus, mib: u64) -> Self {
        Self { name: name.into(), serial: name.into(), bus, mib, block_size: 512, volatile_cache: true, faults: Vec::new() }
    }

    /// With another serial number than its name: a copy of a disk, or the same disk in another state.
    #[must_use]
    pub fn serial(self, serial: &str) -> Self {
        Self { serial: serial.into(), ..self }
    }

    /// With a fault from the start.
    #[must_use]
    pub fn fault(mut self, fault: Fault) -> Self {
        self.faults.push(fault);
        self
    }

    /// With logical blocks of 4096 bytes.
    #[must_use]
    pub fn blocks_of_4096(self) -> Self {
        Self { block_size: 4096, ..self }
    }

    /// Without a volatile write cache: what is acknowledged is on the medium.
    #[must_use]
    pub fn write_through(self) -> Self {
        Self { volatile_cache: false, ..self }
    }

    /// Its name in the guest, whatever other disks there are.
    #[must_use]
    pub(crate) fn path(&self) -> String {
        let name = &self.serial;
        match self.bus {
            Bus::Nvme => format!("/dev/disk/by-id/nvme-QEMU_NVMe_Ctrl_{name}"),
            Bus::Scsi => format!("/dev/disk/by-id/wwn-0x{:016x}", self.wwn()),
            Bus::Ata => format!("/dev/disk/by-id/ata-QEMU_HARDDISK_{name}"),
            Bus::Virtio => format!("/dev/disk/by-id/virtio-{name}"),
        }
    }

    /// World-wide name, made from the serial number.
    fn wwn(&self) -> u64 {
        let fnv1a = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        let hash = self.serial.bytes().fold(0xcbf2_9ce4_8422_2325, fnv1a);
        0x5000_0000_0000_0000 | hash >> 4
    }

    pub(crate) fn simulate(&self) -> SimDisk {
        let mut disk = SimDisk::new(self.mib * 2048, Backing::Memory).with_block_size(self.block_size);
        if self.volatile_cache {
            disk = disk.with_volatile_cache();
        }
        for fault in &self.faults {
            disk.inject(fault.clone());
        }
        disk
    }

    /// QEMU's arguments for the disk, whose content is served at `socket`.
    pub(crate) fn qemu_args(&self, socket: &Path) -> Vec<String> {
        let (name, serial, wwn) = (&self.name, &self.serial, self.wwn());
        let blocks = format!("logical_block_size={0},physical_block_size={1}", self.block_size, 4096);
        let report = "werror=report,rerror=report";
        let device = match self.bus {
            Bus::Nvme => format!("nvme,drive={name},serial={serial},{blocks}"),
            Bus::Scsi => format!("scsi-hd,drive={name},bus=scsi.0,serial={serial},wwn={wwn},{report},{blocks}"),
            // AHCI disks have sectors of 512 bytes, always.
            Bus::Ata => format!("ide-hd,drive={name},bus=ide.{{port}},serial={serial},wwn={wwn},{report}"),
            Bus::Virtio => format!("virtio-blk-pci,drive={name},serial={serial},{report},{blocks}"),
        };
        let mut args = nbd_blockdev(name, socket);
        args.extend(["-device".into(), device]);
        args
    }
}

/// A block node of QEMU whose content is served at `socket`.
pub(crate) fn nbd_blockdev(node: &str, socket: &Path) -> Vec<String> {
    let socket = socket.display();
    vec!["-blockdev".into(), format!("driver=nbd,node-name={node},server.type=unix,server.path={socket},discard=unmap")]
}
