//! dmfilemapd(8).

use dmfilemapd::args::Args;
use dmfilemapd::device::Device;
use dmfilemapd::log::Log;
use dmfilemapd::monitor::{Monitor, find_group};
use dmfilemapd::{Error, fiemap, file};
use std::fs::File;
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let (args, mut monitor) = match prepare() {
        Ok(prepared) => prepared,
        Err(error) => {
            // A reader that went away is no reason for another exit code.
            let _ = writeln!(std::io::stderr(), "dmfilemapd: {error}");
            return error.exit_code();
        }
    };
    let log = Log(args.verbose);
    if let Err(error) = detach(&args) {
        log.warn(&error);
        return error.exit_code();
    }
    log.say(
        1,
        format_args!(
            "Starting dmfilemapd with fd={}, group_id={} mode={}, path={}",
            args.descriptor,
            args.group,
            format!("{:?}", args.mode).to_lowercase(),
            args.path.display()
        ),
    );
    log.say(2, format_args!("Process ID {}", std::process::id()));
    match monitor.run() {
        Ok(end) => {
            log.say(1, end);
            ExitCode::SUCCESS
        }
        Err(error) => {
            log.warn(&error);
            error.exit_code()
        }
    }
}

/// Everything that can be refused is refused here, while somebody listens and nothing has changed.
fn prepare() -> Result<(Args, Monitor), Error> {
    let args = Args::parse(std::env::args_os().skip(1))?;
    let file = file::take(args.descriptor, &args.path)?;
    let mut device = Device::of(&file, &args.path)?;
    let failed = |error: std::io::Error| Error::File(format!("{}: {error}", args.path.display()));
    // A file that is under a lease now shows later whether it has extents.
    if let Some(file) = file::read(&file).map_err(failed)? {
        fiemap::extents(&file)
            .map_err(|error| Error::File(format!("{}: its extents cannot be read (FIEMAP): {error}", args.path.display())))?;
    }
    let group = find_group(&mut device, args.group)?;
    let monitor = Monitor::new(args.clone(), file, device, &group, Log(args.verbose));
    Ok((args, monitor))
}

/// Leaves the terminal, unless in the foreground; and the standard streams, where nothing will be said.
fn detach(args: &Args) -> Result<(), Error> {
    if !args.foreground {
        let daemon = nix::unistd::daemon(false, args.verbose > 0);
        return daemon.map_err(|error| Error::Kernel(format!("cannot become a daemon: {error}")));
    }
    if args.verbose == 0 {
        let null = File::options().read(true).write(true).open("/dev/null");
        let null = null.map_err(|error| Error::Kernel(format!("/dev/null: {error}")))?;
        let streams = [rustix::stdio::dup2_stdin(&null), rustix::stdio::dup2_stdout(&null), rustix::stdio::dup2_stderr(&null)];
        for stream in streams {
            stream.map_err(|error| Error::Kernel(format!("standard streams: {error}")))?;
        }
    }
    Ok(())
}
