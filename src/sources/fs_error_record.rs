//! What fanotify tells of an error of a file system (fanotify(7); `struct fanotify_event_metadata` and its information records, in
//! the kernel's include/uapi/linux/fanotify.h). Numbers are the machine's own.

/// Bytes of an event before its records.
const EVENT_BYTES: usize = 24;
/// The version of the layout, `FANOTIFY_METADATA_VERSION`.
const VERSION: u8 = 3;
/// `FAN_FS_ERROR`, the event that is asked for.
const FS_ERROR: u64 = 0x8000;
/// Types of records: the object by its handle, and the error.
const FID: u8 = 1;
const ERROR: u8 = 5;
/// Type of an ext4 or XFS handle that begins with the number of the inode, `FILEID_INO32_GEN`.
const INO32_GEN: u32 = 1;

/// An error, as a file system tells of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FsRecord {
    /// The first error: an errno.
    pub errno: i32,
    /// How many errors it stands for, at least 1.
    pub count: u32,
    /// The inode that it is about, where it is about one and the file system says so.
    pub inode: Option<u64>,
}

/// The errors in what was read. What does not fit the layout ends it.
pub fn parse(mut bytes: &[u8]) -> Vec<FsRecord> {
    let mut found = Vec::new();
    while let Some(event) = bytes.get(..EVENT_BYTES) {
        let (len, records_at) = (u32_at(event, 0) as usize, u16_at(event, 6) as usize);
        let mask = u64::from(u32_at(event, 8)) | u64::from(u32_at(event, 12)) << 32;
        let (Some(all), true) = (bytes.get(..len), len >= EVENT_BYTES && event[4] == VERSION) else { break };
        if let (FS_ERROR, Some(records)) = (mask & FS_ERROR, all.get(records_at..)) {
            found.extend(record(records));
        }
        bytes = &bytes[len..];
    }
    found
}

fn record(mut records: &[u8]) -> Option<FsRecord> {
    let (mut error, mut inode) = (None, None);
    while let Some(header) = records.get(..4) {
        let len = u16_at(header, 2) as usize;
        let body = records.get(4..len)?;
        match header[0] {
            ERROR if body.len() >= 8 => error = Some((u32_at(body, 0).cast_signed(), u32_at(body, 4))),
            // A file system's number, then the handle: bytes, type, and what the type says.
            FID if body.len() >= 20 && u32_at(body, 8) >= 4 && u32_at(body, 12) == INO32_GEN => {
                inode = Some(u64::from(u32_at(body, 16)));
            }
            _ => {}
        }
        records = &records[len..];
    }
    error.map(|(errno, count)| FsRecord { errno, count: count.max(1), inode })
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn info(kind: u8, body: &[u8]) -> Vec<u8> {
        let len = u16::try_from(4 + body.len()).unwrap();
        [&[kind, 0], &len.to_ne_bytes()[..], body].concat()
    }

    fn error(errno: i32, count: u32) -> Vec<u8> {
        info(ERROR, &[errno.to_ne_bytes(), count.to_ne_bytes()].concat())
    }

    fn object(kind: u32, inode: u32) -> Vec<u8> {
        let words = [7, 7, 8, kind, inode, 99];
        info(FID, &words.map(u32::to_ne_bytes).concat())
    }

    fn event(mask: u64, records: &[Vec<u8>]) -> Vec<u8> {
        let records = records.concat();
        let len = u32::try_from(EVENT_BYTES + records.len()).unwrap();
        let (fd, pid) = ((-1i32).to_ne_bytes(), 0i32.to_ne_bytes());
        [&len.to_ne_bytes()[..], &[VERSION, 0], &24u16.to_ne_bytes(), &mask.to_ne_bytes(), &fd, &pid, &records].concat()
    }

    #[test]
    fn an_error_is_read_with_its_inode() {
        let first = event(FS_ERROR, &[error(117, 3), object(INO32_GEN, 12)]);
        let second = event(FS_ERROR, &[object(0xff, 0), error(5, 0)]);
        let bytes = [first, event(0x4000, &[]), second].concat();
        let both = [FsRecord { errno: 117, count: 3, inode: Some(12) }, FsRecord { errno: 5, count: 1, inode: None }];
        assert_eq!(parse(&bytes), both);
        for len in 0..bytes.len() {
            assert!(parse(&bytes[..len]).len() < 2, "cut at {len}");
        }
    }

    #[test]
    fn another_layout_is_not_guessed_at() {
        let mut bytes = event(FS_ERROR, &[error(117, 3)]);
        bytes[4] = VERSION + 1;
        assert_eq!(parse(&bytes), []);
        assert_eq!(parse(&event(FS_ERROR, &[info(ERROR, &[1])])), []);
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            parse(&bytes);
        }

        #[test]
        fn no_damaged_byte_makes_a_panic(at in 0usize..64, byte in any::<u8>()) {
            let mut bytes = event(FS_ERROR, &[error(117, 3), object(INO32_GEN, 12)]);
            if let Some(damaged) = bytes.get_mut(at) {
                *damaged = byte;
            }
            parse(&bytes);
        }
    }
}
