//! The machine whose power fails: two simulated disks with volatile caches behind the kernel's NBD client, and the daemon.

use crate::content::{self, Found};
use crate::spare::Spare;
use anyhow::{Context, Result, ensure};
use remap_guardian::edge::{BlockIo, IoError};
use remap_guardian::model::Sector;
use remap_guardian::sim::disk::{Backing, Fault, Persist, SimDisk};
use rig::nbd::{Power, Server};
use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Sectors of main.
const MAIN: u64 = 16_384;

/// Sectors of the spare.
const SPARE: u64 = 4096;

/// Sectors of a disk before and after what is a member of the set: so the disk itself does not look like one.
const AROUND: u64 = 64;

/// The set's name.
const SET: &str = "data";

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// The machine.
pub struct Machine {
    power: Power,
    main: Server,
    spare: Server,
    daemon: Arc<Mutex<Option<Child>>>,
    program: PathBuf,
    run: PathBuf,
    state: PathBuf,
}

impl Machine {
    /// Serves new disks. The program is started with the folders that its environment names.
    pub fn new(program: &Path) -> Result<Machine> {
        let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).with_context(|| format!("{name} is not set"));
        let power = Power::default();
        let serve = |number: usize, content: &[u8]| {
            let socket = PathBuf::from(format!("/run/nbd{number}"));
            let sectors = (content.len() / content::SECTOR) as u64 + 2 * AROUND;
            let mut disk = SimDisk::new(sectors, Backing::Memory).with_volatile_cache();
            disk.write(AROUND, content, Persist::Fua)?;
            let server = Server::start_on(&socket, disk, &power)?;
            succeed(Command::new("nbd-client").arg("-unix").arg(socket).arg(format!("/dev/nbd{number}")).args(["-b", "512"]))?;
            anyhow::Ok(server)
        };
        let main = serve(0, &content::sectors(content::INITIAL, 0, MAIN))?;
        let spare = serve(1, &Spare::new(SPARE).bytes())?;
        let (run, state) = (folder("REMAP_GUARDIAN_RUN_DIR")?, folder("REMAP_GUARDIAN_STATE_DIR")?);
        Ok(Machine { power, main, spare, daemon: Arc::default(), program: program.into(), run, state })
    }

    /// A sector of main goes bad; false if it was so before.
    pub fn spoil(&self, at: u64, fault: fn(Range<u64>) -> Fault) -> bool {
        let (mut disk, sectors) = (self.main.disk().lock(), at + AROUND..at + AROUND + 1);
        let is_new = !disk.is_faulty(sectors.clone(), true);
        if is_new {
            disk.inject(fault(sectors));
        }
        is_new
    }

    /// What is on the spare's medium, whatever its cache has.
    pub fn spare_medium(&self) -> Spare {
        let spare = Spare::new(SPARE);
        self.spare.disk().lock().read_medium(AROUND, &mut spare.bytes());
        spare
    }

    /// The set's device.
    pub fn device(&self) -> PathBuf {
        Path::new("/dev/mapper").join(SET)
    }

    /// Turns the power on: the disks are there again. What was in `/run` is not.
    pub fn power_on(&self) -> Result<()> {
        self.power.restore();
        for (name, number, sectors) in [("main", 0, MAIN), ("spare", 1, SPARE)] {
            let table = format!("0 {sectors} linear /dev/nbd{number} {AROUND}");
            dmsetup(&["create", name, "--uuid", &name.to_uppercase(), "--table", &table])?;
        }
        if self.run.exists() {
            fs::remove_dir_all(&self.run)?;
        }
        Ok(())
    }

    /// Lets the power fail at the n-th request that changes a disk, and the daemon end before any answer after that.
    pub fn fail_at(&self, request: u64, seed: u64, then: impl FnOnce() + Send + 'static) {
        let daemon = self.daemon.clone();
        self.power.fail_at(request, seed, move || {
            then();
            // One that has ended already is what is wanted.
            let _ = lock(&daemon).as_mut().map(Child::kill);
        });
    }

    /// The power fails now, if it did not yet.
    pub fn fail_now(&self) {
        self.power.fail_now();
    }

    /// After the power failed: nothing of the kernel's or the daemon's memory is left.
    pub fn clear_away(&self) -> Result<()> {
        self.kill()?;
        if self.device().exists() {
            // Nobody waits for what waits in it.
            dmsetup(&["wipe_table", "--noflush", "--nolockfs", SET])?;
            dmsetup(&["remove", "--retry", SET])?;
        }
        dmsetup(&["remove", "--retry", "spare"])?;
        dmsetup(&["remove", "--retry", "main"])
    }

    /// Starts the daemon, and waits until it can be asked.
    pub fn start(&self) -> Result<()> {
        fs::create_dir_all(&self.state)?;
        let control = self.run.join("control");
        let _ = fs::remove_file(&control);
        let log = File::options().create(true).append(true).open("/run/daemon.log")?;
        let daemon = Command::new(&self.program).arg("run").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        *lock(&self.daemon) = Some(daemon);
        Ok(())
    }

    /// Waits for the set's device to be there, or for `given_up`, which it answers with false.
    pub fn wait_open(&self, given_up: impl Fn() -> bool) -> Result<bool> {
        let since = Instant::now();
        while !given_up() {
            if self.device().exists() && self.run.join("control").exists() {
                return Ok(true);
            }
            ensure!(since.elapsed() < PATIENCE, "{} does not come", self.device().display());
            sleep(Duration::from_millis(50));
        }
        Ok(false)
    }

    /// Kills the daemon.
    pub fn kill(&self) -> Result<()> {
        // What ends it may wait for a disk, and a disk that fails for the lock.
        let daemon = lock(&self.daemon).take();
        if let Some(mut daemon) = daemon {
            daemon.kill()?;
            daemon.wait()?;
        }
        Ok(())
    }

    /// Makes the set; false if the program failed.
    pub fn create(&self) -> Result<bool> {
        let since = Instant::now();
        while !self.run.join("control").exists() {
            ensure!(since.elapsed() < PATIENCE, "the daemon does not answer");
            sleep(Duration::from_millis(50));
        }
        let members = ["--main", "/dev/mapper/main", "--spare", "/dev/mapper/spare", "--overwrite-spare"];
        Ok(Command::new(&self.program).args(["create", SET]).args(members).status()?.success())
    }

    /// Forgets what the host knows, or brings back what it knew at [`Machine::keep_store`].
    pub fn set_store_back(&self, to_kept: bool) -> Result<()> {
        let kept = self.kept();
        if self.state.exists() {
            fs::remove_dir_all(&self.state)?;
        }
        if to_kept && kept.exists() { copy_folder(&kept, &self.state) } else { Ok(()) }
    }

    /// Keeps a copy of what the host knows.
    pub fn keep_store(&self) -> Result<()> {
        let kept = self.kept();
        if kept.exists() {
            fs::remove_dir_all(&kept)?;
        }
        copy_folder(&self.state, &kept)
    }

    fn kept(&self) -> PathBuf {
        self.state.with_extension("kept")
    }
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    succeed(Command::new("cp").arg("-a").arg(from).arg(to))
}

fn dmsetup(arguments: &[&str]) -> Result<()> {
    succeed(Command::new("dmsetup").args(arguments))
}

fn succeed(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {} {}", output.status, said.trim());
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads a range of a device, each sector that does not read as lost.
pub fn read_all(device: &impl BlockIo, sectors: Range<u64>, found: &mut impl FnMut(u64, Found)) -> Result<()> {
    let len = sectors.end - sectors.start;
    let mut bytes = vec![0; len as usize * content::SECTOR];
    match device.read(Sector(sectors.start), &mut bytes) {
        Ok(()) => {
            let each = sectors.zip(bytes.chunks(content::SECTOR));
            each.for_each(|(at, bytes)| found(at, content::found(at, bytes)));
            Ok(())
        }
        Err(IoError::Medium(_)) if len == 1 => {
            found(sectors.start, Found::Lost);
            Ok(())
        }
        Err(IoError::Medium(_)) => sectors.into_iter().try_for_each(|at| read_all(device, at..at + 1, found)),
        Err(error) => Err(error.into()),
    }
}
