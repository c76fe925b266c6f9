//! Tells systemd that the daemon is well: as long as the engine's thread is, and nobody else. Without that thread no bad sector is
//! cured; of everything else people see when it does not answer, and ending the cures for it would make things worse.

use super::critical::Critical;
use std::time::Duration;

/// Starts the thread that tells, if systemd listens.
pub fn start(critical: Critical) -> std::io::Result<()> {
    let mut micros = 0;
    if !sd_notify::watchdog_enabled(false, &mut micros) {
        return Ok(());
    }
    // The pulse beats once a second.
    let pause = Duration::from_micros(micros / 3).max(Duration::from_millis(1_500));
    std::thread::Builder::new().name("watchdog".into()).stack_size(128 << 10).spawn(move || {
        let mut told = None;
        loop {
            let beat = critical.pulse();
            if told != Some(beat) && sd_notify::notify(false, &[sd_notify::NotifyState::Watchdog]).is_ok() {
                told = Some(beat);
            }
            std::thread::sleep(pause);
        }
    })?;
    Ok(())
}
