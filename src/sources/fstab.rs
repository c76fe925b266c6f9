//! What `/etc/fstab` says of a device: a line that names it by its content would mount it past the device above it.

use std::path::Path;

/// The first line that mounts (or swaps to) the device. `tags` are what blkid knows of it, such as `UUID` and `LABEL`;
/// `is_it` says whether a path is its node.
pub fn line_of<'a>(fstab: &'a str, tags: &[(String, String)], is_it: &dyn Fn(&Path) -> bool) -> Option<&'a str> {
    fstab.lines().find(|line| {
        let Some(what) = line.split_ascii_whitespace().next().filter(|what| !what.starts_with('#')) else { return false };
        let what = super::in_use::unescape(what);
        if what.starts_with('/') {
            return is_it(Path::new(&what));
        }
        let Some((name, value)) = what.split_once('=') else { return false };
        let value = value.trim_matches(|c| c == '"' || c == '\'');
        // UUIDs are written in either case.
        tags.iter().any(|(tag, held)| tag == name && !held.is_empty() && held.eq_ignore_ascii_case(value))
    })
}

/// The line with another device in its first field.
pub fn with_device(line: &str, device: &str) -> String {
    let line = line.trim();
    let rest = line.find(|c: char| c.is_ascii_whitespace()).map_or("", |end| &line[end..]);
    format!("{device}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_way_to_name_a_device_is_found() {
        let tags = [("UUID", "ab-1"), ("LABEL", "my disk"), ("PARTUUID", "P-2"), ("PARTLABEL", "")];
        let tags = tags.map(|(tag, value)| (tag.to_string(), value.to_string()));
        let is_it = |path: &Path| path == Path::new("/dev/sdb") || path == Path::new("/dev/disk/by-id/x y");
        let found = |line: &str| line_of(&format!("# UUID=ab-1 / \n\n{line}\nproc /proc proc\n"), &tags, &is_it).is_some();
        for line in [
            "UUID=ab-1 /srv ext4 defaults 0 2",
            "  UUID=\"AB-1\"\t/srv ext4",
            "LABEL=my\\040disk /srv ext4 noauto",
            "PARTUUID=p-2 none swap",
            "/dev/sdb /srv ext4",
            "/dev/disk/by-id/x\\040y /srv ext4",
        ] {
            assert!(found(line), "{line}");
        }
        for line in
            ["UUID=ab-2 /srv ext4", "#UUID=ab-1 /srv", "/dev/sdc /srv", "PARTLABEL= /srv", "tmpfs /tmp tmpfs", "LABEL=ab-1 /x"]
        {
            assert!(!found(line), "{line}");
        }
    }

    #[test]
    fn the_better_line_keeps_the_rest() {
        assert_eq!(
            with_device(" UUID=1\t/srv  ext4 defaults 0 2", "/dev/mapper/data"),
            "/dev/mapper/data\t/srv  ext4 defaults 0 2"
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_a_panic(text in any::<String>()) {
            if let Some(line) = line_of(&text, &[("UUID".into(), "1".into())], &|_| true) {
                let _ = with_device(line, "/dev/x");
            }
        }
    }
}
