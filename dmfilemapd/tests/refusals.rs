//! What the program refuses before it does anything: one message that names it, and the exit code of dmfilemapd.8.

use std::process::{Command, Output, Stdio};

/// Runs it from a shell, which is what gives it descriptors.
fn run(arguments: &str) -> Output {
    let script = format!("exec '{}' {arguments}", env!("CARGO_BIN_EXE_dmfilemapd"));
    Command::new("sh").args(["-c", &script]).stdin(Stdio::null()).output().unwrap()
}

fn refused(arguments: &str, code: i32, says: &str) {
    let output = run(arguments);
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments}: {message}");
    assert!(message.starts_with("dmfilemapd: ") && message.contains(says), "{arguments}: {message}");
    assert!(output.stdout.is_empty(), "{arguments}");
}

#[test]
fn a_wrong_command_line() {
    refused("", 2, "0 arguments");
    refused("3 0 /f", 2, "3 arguments");
    refused("3 -1 /f inode", 2, "group id “-1”");
    refused("3 0 f inode", 2, "“f” is not an absolute path");
    refused("3 0 /f inodes", 2, "mode “inodes”");
    refused("three 0 /f inode", 2, "file descriptor “three”");
    refused("3 0 /f inode 1 9", 2, "verbose “9”");
}

#[test]
fn nobody_listens() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = Command::new(env!("CARGO_BIN_EXE_dmfilemapd")).stderr(writer).status().unwrap();
    assert_eq!(status.code(), Some(2), "{status}");
}

#[test]
fn a_closed_descriptor() {
    refused("3 0 /f inode 1 1 3<&-", 3, "file descriptor 3 is not open");
    refused("900 0 /f inode 1 1", 3, "file descriptor 900 is not open");
}

#[test]
fn what_is_no_file_on_device_mapper() {
    refused("3 0 / inode 1 1 3</", 3, "/: not a regular file");
    refused("3 0 /dev/zero inode 1 1 3</dev/zero", 3, "/dev/zero: not a regular file");
    refused("3 0 /proc/version inode 1 1 3</proc/version", 3, "/proc/version: its file system (proc");
    // The descriptor says which file it is, not the path.
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    refused(&format!("3 0 /proc/version inode 1 1 3<>{}", fifo.display()), 3, "/proc/version: not a regular file");
}
