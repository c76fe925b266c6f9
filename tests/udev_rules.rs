//! The udev rules, worked through by the real `udevadm test` on a block device of this machine, with stand-ins for
//! dmsetup and the probe. In a mount namespace of its own, so nothing of the machine changes. Skipped without root,
//! udevadm, dmsetup or a block device.

use std::path::Path;
use std::process::Command;

const SCRIPT: &str = r#"
set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/udev/rules.d
cp "$RULES"/*.rules /run/udev/rules.d/
sed -i s,/usr/sbin/remap-guardian,/run/probe, /run/udev/rules.d/61-*.rules
cat >/run/probe <<'END'
#!/bin/sh
case $PROBE in
spare) printf 'ID_FS_TYPE=remap_guardian_spare\nREMAP_GUARDIAN_SET=data\n' ;;
main) shift && exec "$BINARY" udev-probe --mains /run/mains.toml "$@" ;;
*) exit 1 ;;
esac
END
printf '%s\n' '[[main]]' 'name = "data"' 'set = "00000000-0000-0000-0000-000000000007"' '[main.main]' 'serial = "T-1"' 'wwn = ""' \
	'model = ""' 'partition = ""' 'sectors = 8' 'logical_block = 512' 'physical_block = 512' >/run/mains.toml
printf '#!/bin/sh\necho "$STATUS"\n' > /run/dmsetup
sed -i "2i PROBE='$PROBE' BINARY='$BINARY'" /run/probe
sed -i "2i STATUS='$STATUS'" /run/dmsetup
chmod +x /run/probe /run/dmsetup
mount --bind /run/dmsetup /sbin/dmsetup
printf '%s\n' "SUBSYSTEM==\"block\", $BEFORE" > /run/udev/rules.d/55-zz-test.rules
udevadm test --action=change "/sys/class/block/$DEVICE" 2>/run/log
cat /run/log
"#;

const OURS: &str = r#"ENV{DM_UUID}="REMAP-GUARDIAN-1""#;
const ACTIVE: &str = "0 8 dm-remap-v4 0 0 ACTIVE 1 00 1 0 0";
const CLOSED: &str = "0 8 dm-remap-v4 0 0 CLOSED 1 00 1 0 0";

fn device() -> Option<String> {
    let tools = ["/sbin/dmsetup", "/usr/bin/udevadm", "/usr/bin/unshare", "/lib/udev/rules.d/99-systemd.rules"];
    if !rustix::process::geteuid().is_root() || !tools.iter().all(|tool| Path::new(tool).exists()) {
        return None;
    }
    let names =
        std::fs::read_dir("/sys/class/block").ok()?.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.into_iter().find(|name| ["vd", "sd", "nvme", "ubd"].iter().any(|prefix| name.starts_with(prefix)))
}

/// udev's properties after an event, if the test can run here.
fn properties(before: &str, status: &str, probe: &str) -> Option<String> {
    let Some(device) = device() else {
        eprintln!("skipped: needs root, udevadm, dmsetup, unshare and a disk");
        return None;
    };
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", SCRIPT]).env("RULES", concat!(env!("CARGO_MANIFEST_DIR"), "/systemd"));
    command.env("BINARY", env!("CARGO_BIN_EXE_remap-guardian"));
    let output = command.envs([("DEVICE", device.as_str()), ("BEFORE", before), ("STATUS", status), ("PROBE", probe)]).output();
    let output = output.unwrap();
    let (text, log) = (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}{log}");
    for line in text.lines().filter(|line| line.contains("remap-guardian")) {
        assert!(!line.contains("Invalid") && !line.contains("Unknown"), "{line}");
    }
    Some(text)
}

fn has(text: &str, line: &str) -> bool {
    text.lines().any(|found| found.trim() == line)
}

fn assert_closed(text: &str) {
    for line in ["SYSTEMD_READY=0", "DM_NOSCAN=1", "DM_UDEV_DISABLE_OTHER_RULES_FLAG=1", "REMAP_GUARDIAN_CLOSED=1"] {
        assert!(has(text, line), "no {line} in\n{text}");
    }
}

fn assert_open(text: &str) {
    assert!(has(text, "SYSTEMD_READY=1"), "{text}");
    for line in ["DM_NOSCAN=1", "DM_UDEV_DISABLE_OTHER_RULES_FLAG=1", "REMAP_GUARDIAN_CLOSED=1"] {
        assert!(!has(text, line), "{line} in\n{text}");
    }
}

#[test]
fn a_device_is_closed_by_the_cookies_flag() {
    let before = format!(r#"{OURS}, ENV{{DM_COOKIE}}="42", ENV{{DM_SUBSYSTEM_UDEV_FLAG0}}="1""#);
    let Some(text) = properties(&before, ACTIVE, "") else { return };
    assert_closed(&text);
}

#[test]
fn a_closed_device_stays_closed_whoever_makes_the_event() {
    for before in [OURS.to_owned(), format!(r#"{OURS}, ENV{{DM_COOKIE}}="42""#)] {
        let Some(text) = properties(&before, CLOSED, "") else { return };
        assert_closed(&text);
    }
}

#[test]
fn an_opened_device_is_open_also_after_a_plain_event() {
    let Some(text) = properties(&format!(r#"{OURS}, ENV{{DM_COOKIE}}="42""#), ACTIVE, "") else { return };
    assert_open(&text);
    let old = r#"ENV{REMAP_GUARDIAN_CLOSED}="1", ENV{DM_UDEV_DISABLE_OTHER_RULES_FLAG}="1""#;
    let Some(text) = properties(&format!("{OURS}, {old}"), ACTIVE, "") else { return };
    assert_open(&text);
}

#[test]
fn a_spare_is_named_and_hidden() {
    let Some(text) = properties(r#"ENV{TEST}="1""#, "", "spare") else { return };
    for line in ["ID_FS_TYPE=remap_guardian_spare", "REMAP_GUARDIAN_SET=data", "UDISKS_IGNORE=1", "SYSTEMD_READY=0"] {
        assert!(has(&text, line), "no {line} in\n{text}");
    }
}

/// The disk of the list, with a file system on it.
const MAIN: &str = r#"ENV{ID_SERIAL_SHORT}="T-1", SYMLINK+="disk/by-uuid/ab-1 disk/by-label/x disk/by-id/test-T-1""#;

#[test]
fn a_main_device_is_not_found_by_its_content() {
    let Some(text) = properties(MAIN, "", "main") else { return };
    for line in ["SYSTEMD_READY=0", "UDISKS_IGNORE=1", "REMAP_GUARDIAN_MAIN=data"] {
        assert!(has(&text, line), "no {line} in\n{text}");
    }
    assert!(has(&text, "REMAP_GUARDIAN_REASON=main device of the set data: use /dev/mapper/data"), "{text}");
    let links = text.lines().find_map(|line| line.trim().strip_prefix("DEVLINKS=")).unwrap_or_default();
    assert!(links.split(' ').any(|link| link == "/dev/disk/by-id/test-T-1"), "{text}");
    assert!(!["by-uuid", "by-label", "by-partuuid"].iter().any(|by| links.contains(by)), "{links}");
    assert!(!text.lines().any(|line| line.trim().starts_with("ID_FS_")), "{text}");

    let other = MAIN.replace("T-1", "T-2");
    let Some(text) = properties(&other, "", "main") else { return };
    assert!(text.contains("by-uuid/ab-1") && !text.contains("REMAP_GUARDIAN_") && !has(&text, "SYSTEMD_READY=0"), "{text}");
}

#[test]
fn other_disks_are_left_alone() {
    let Some(text) = properties(r#"ENV{TEST}="1""#, "", "") else { return };
    assert!(!has(&text, "SYSTEMD_READY=0") && !has(&text, "UDISKS_IGNORE=1"), "{text}");
}
