//! What a drive counts about itself, and who found a bad block.

use serde::{Deserialize, Serialize};

/// A counter that grows when a drive gets worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Counter {
    /// ATA attribute 5.
    ReallocatedSectors,
    /// ATA attribute 187.
    ReportedUncorrectable,
    /// ATA attribute 196.
    ReallocationEvents,
    /// ATA attribute 197. Falls when such a sector is written.
    PendingSectors,
    /// ATA attribute 198.
    OfflineUncorrectable,
    /// ATA attribute 199: the link, not the medium.
    CrcErrors,
    /// SATA PHY event 0x001: commands that failed because their data was damaged on the link. Of these events a drive forgets
    /// all when it loses power.
    IcrcFailures,
    /// SATA PHY event 0x002, or 0x003 and 0x004: frames of data, either way, that the other side refused.
    DataFisRErr,
    /// SATA PHY event 0x00b, or 0x00f and 0x012: frames of any kind that reached the drive damaged.
    FisCrcErrors,
    /// Entries of the pending defects log (ATA, SCSI). Falls when such a sector is written.
    PendingDefects,
    /// NVMe media and data integrity errors.
    MediaErrors,
    /// NVMe wear, in percent; can exceed 100.
    Wear,
    /// Entries ever made in NVMe's error log: refused commands, too.
    ErrorLogEntries,
    /// SCSI grown defect list.
    GrownDefects,
    /// SCSI uncorrected errors on reading.
    ReadUncorrected,
    /// SCSI uncorrected errors on writing.
    WriteUncorrected,
}

impl Counter {
    /// All of them, with the names by which they are kept.
    pub const ALL: [(Counter, &'static str); 16] = [
        (Counter::ReallocatedSectors, "reallocated_sectors"),
        (Counter::ReportedUncorrectable, "reported_uncorrectable"),
        (Counter::ReallocationEvents, "reallocation_events"),
        (Counter::PendingSectors, "pending_sectors"),
        (Counter::OfflineUncorrectable, "offline_uncorrectable"),
        (Counter::CrcErrors, "crc_errors"),
        (Counter::IcrcFailures, "icrc_failures"),
        (Counter::DataFisRErr, "data_fis_r_err"),
        (Counter::FisCrcErrors, "fis_crc_errors"),
        (Counter::PendingDefects, "pending_defects"),
        (Counter::MediaErrors, "media_errors"),
        (Counter::Wear, "wear"),
        (Counter::ErrorLogEntries, "error_log_entries"),
        (Counter::GrownDefects, "grown_defects"),
        (Counter::ReadUncorrected, "read_uncorrected"),
        (Counter::WriteUncorrected, "write_uncorrected"),
    ];

    /// Whether its growth tells that a drive or its link fails. Wear grows with use, and refused commands harm nobody.
    pub fn tells_of_failing(self) -> bool {
        !matches!(self, Counter::Wear | Counter::ErrorLogEntries)
    }

    /// Whether it counts damage on the way to the drive: of the link, not of the medium.
    pub fn tells_of_link(self) -> bool {
        matches!(self, Counter::CrcErrors | Counter::IcrcFailures | Counter::DataFisRErr | Counter::FisCrcErrors)
    }

    /// What its growth means, and what to do.
    pub fn advice(self) -> &'static str {
        match self {
            link if link.tells_of_link() => "the way to the drive damages data: look at cable, connectors and power",
            Counter::PendingSectors | Counter::OfflineUncorrectable | Counter::PendingDefects => {
                "sectors stop reading: scrub the set, make sure of a backup, and plan the drive's replacement"
            }
            _ => "the medium fails: make sure of a backup, and plan the drive's replacement",
        }
    }

    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Counter::ReallocatedSectors => "reallocated sectors",
            Counter::ReportedUncorrectable => "reported uncorrectable errors",
            Counter::ReallocationEvents => "reallocation events",
            Counter::PendingSectors => "pending sectors",
            Counter::OfflineUncorrectable => "offline uncorrectable sectors",
            Counter::CrcErrors => "CRC errors of the link",
            Counter::IcrcFailures => "commands failed with ICRC",
            Counter::DataFisRErr => "data FISes answered with R_ERR",
            Counter::FisCrcErrors => "host-to-device FISes with CRC errors",
            Counter::PendingDefects => "pending defects",
            Counter::MediaErrors => "media errors",
            Counter::Wear => "wear in percent",
            Counter::ErrorLogEntries => "error log entries",
            Counter::GrownDefects => "grown defects",
            Counter::ReadUncorrected => "uncorrected read errors",
            Counter::WriteUncorrected => "uncorrected write errors",
        }
    }
}

/// Who says that a block does not read, before an application met it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finder {
    /// A scrub.
    #[default]
    Scrub,
    /// The drive's own logs named the place, and a trial showed that it does not read.
    Drive,
    /// A map of ddrescue called it bad, and a trial showed that it does not read.
    Map,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_has_one_name_in_samples_and_in_history() {
        for (counter, name) in Counter::ALL {
            assert_eq!(serde_json::to_value(counter).unwrap(), name);
            assert_eq!(serde_json::from_value::<Counter>(name.into()).unwrap(), counter);
        }
    }

    #[test]
    fn growth_of_the_link_is_told_apart_by_its_words() {
        let link = || Counter::ALL.into_iter().filter(|(counter, _)| counter.tells_of_link());
        assert_eq!(link().count(), 4);
        for (link, _) in link() {
            assert!(link.tells_of_failing() && link.advice().contains("cable"), "{link:?}");
            let alike = Counter::ALL.iter().filter(|(other, _)| other.words().starts_with(link.words()));
            assert_eq!(alike.count(), 1, "{link:?}");
        }
    }
}
