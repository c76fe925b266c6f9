//! A running guest.

use std::collections::BTreeSet;
use std::env;
use std::fs::{self, File};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::MutexGuard;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use remap_guardian::sim::disk::{Backing, SECTOR, SimDisk};

use crate::accel;
use crate::agent::{self, Agent, Output};
use crate::disk::{Bus, Disk, nbd_blockdev};
use crate::guest::Guest;
use crate::nbd::Server;
use crate::prompt;

/// A guest that does not boot within this time hangs.
const BOOT: Duration = Duration::from_secs(400);
/// Waits for all units and all disks.
const UP: &str = "systemctl is-system-running --wait; udevadm settle";
/// What an emulated kernel need not do at each boot and each allocation: a third of the time that a boot takes.
const LEAN: &str = "init_on_alloc=0 cryptomgr.notests nokaslr audit=0 lsm= 8250.nr_uarts=1";
/// What a command may take when nothing else is said.
const COMMAND: Duration = Duration::from_secs(240);

/// Where the guest's serial console goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Console {
    /// Into a file, shown when something fails.
    Log,
    /// To the terminal.
    Terminal,
}

/// A guest to be booted.
#[derive(Clone, Debug)]
pub struct VmBuilder {
    kernel: Option<String>,
    disks: Vec<Disk>,
    payload: Option<PathBuf>,
    console: Console,
}

impl VmBuilder {
    /// Boots the kernel whose version starts with `version`, not the release's own.
    #[must_use]
    pub fn kernel(self, version: &str) -> Self {
        Self { kernel: Some(version.into()), ..self }
    }

    /// Attaches a disk.
    #[must_use]
    pub fn disk(mut self, disk: Disk) -> Self {
        self.disks.push(disk);
        self
    }

    /// Makes the files under `folder` available to [`Vm::install`].
    #[must_use]
    pub fn payload(self, folder: &Path) -> Self {
        Self { payload: Some(folder.into()), ..self }
    }

    /// Chooses where the serial console goes.
    #[must_use]
    pub fn console(self, console: Console) -> Self {
        Self { console, ..self }
    }

    /// Boots the guest and waits until systemd has started everything and udev has seen all disks.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn boot(self) -> Result<Vm> {
        let mut vm = self.create()?;
        vm.start()?;
        Ok(vm)
    }

    fn create(self) -> Result<Vm> {
        let guest = Guest::find()?;
        let run = RunFolder::new()?;
        let mut disks = vec![("root".to_owned(), Server::start(&run.path("root"), root_disk(&guest)?)?)];
        for disk in &self.disks {
            disks.push((disk.name.clone(), Server::start(&run.path(&disk.name), disk.simulate())?));
        }
        if let Some(folder) = &self.payload {
            pack(folder, &run.path("payload.tar"))?;
        }
        let listener = agent::listen(&run.path("agent"))?;
        Ok(Vm { config: self, guest, run, disks, detached: BTreeSet::new(), boots: None, listener, running: None })
    }
}

/// A guest. It ends when this is dropped.
pub struct Vm {
    config: VmBuilder,
    guest: Guest,
    run: RunFolder,
    disks: Vec<(String, Server)>,
    detached: BTreeSet<String>,
    boots: Option<Boots>,
    listener: UnixListener,
    running: Option<Running>,
}

/// What a guest boots from, other than what it was made with.
struct Boots {
    initrd: PathBuf,
    root: String,
}

struct Running {
    qemu: Child,
    agent: Agent,
}

impl Vm {
    /// A guest with nothing but its root disk.
    #[expect(clippy::new_ret_no_self, reason = "there is no guest before it has booted")]
    #[must_use]
    pub fn new() -> VmBuilder {
        VmBuilder { kernel: None, disks: Vec::new(), payload: None, console: Console::Log }
    }

    /// Runs a bash script in the guest, for at most a minute.
    ///
    /// # Errors
    /// If the guest is lost. A script that fails is no error here: see [`Output::status`].
    pub fn run(&mut self, script: &str) -> Result<Output> {
        self.run_for(COMMAND, script)
    }

    /// Runs a bash script in the guest, for at most `patience`.
    ///
    /// # Errors
    /// If the guest is lost.
    pub fn run_for(&mut self, patience: Duration, script: &str) -> Result<Output> {
        self.running.as_mut().context("the guest is not running")?.agent.run(script, patience)
    }

    /// Runs a bash script that has to succeed; gives what it printed.
    ///
    /// # Errors
    /// If it fails.
    pub fn ok(&mut self, script: &str) -> Result<String> {
        let output = self.run(script)?;
        ensure!(output.success(), "failed in the guest: {script}\n{output}");
        Ok(output.stdout)
    }

    /// Writes a small file in the guest.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn put(&mut self, path: &str, content: &str) -> Result<()> {
        ensure!(!content.contains("END OF FILE"), "content with an end mark");
        self.ok(&format!("mkdir -p \"$(dirname '{path}')\" && cat >'{path}' <<'END OF FILE'\n{content}\nEND OF FILE"))?;
        Ok(())
    }

    /// Unpacks the payload into the guest's root, as a package's installation would.
    ///
    /// # Errors
    /// If there is none, or it cannot be unpacked.
    pub fn install(&mut self) -> Result<()> {
        // On a busy machine it takes as long as a boot.
        let output = self.run_for(
            BOOT,
            "tar -x -C / --keep-directory-symlink -f /dev/disk/by-id/virtio-payload
            depmod -a && systemctl daemon-reload && udevadm control --reload && systemd-tmpfiles --create",
        )?;
        ensure!(output.success(), "the payload cannot be installed: {output}");
        Ok(())
    }

    /// The simulated disk called `name`, to break it, repair it or look at it. The guest's accesses wait meanwhile.
    ///
    /// # Panics
    /// If there is no such disk.
    pub fn sim(&self, name: &str) -> MutexGuard<'_, SimDisk> {
        let found = self.disks.iter().find(|(known, _)| known == name);
        found.unwrap_or_else(|| panic!("no disk {name}")).1.disk().lock()
    }

    /// The path in the guest of the disk called `name`: a link that stays right whatever other disks there are.
    ///
    /// # Panics
    /// If there is no such disk.
    #[must_use]
    pub fn path(&self, name: &str) -> String {
        let found = self.config.disks.iter().find(|disk| disk.name == name);
        found.unwrap_or_else(|| panic!("no disk {name}")).path()
    }

    /// Plugs the disk called `name` in, or out, while the power is off: from the next power cut on.
    pub fn attach(&mut self, name: &str, attached: bool) {
        if attached {
            self.detached.remove(name);
        } else {
            self.detached.insert(name.into());
        }
    }

    /// Reboots the guest in the regular way and waits until it is up again.
    ///
    /// # Errors
    /// If it does not come back.
    pub fn reboot(&mut self) -> Result<()> {
        self.running.as_mut().context("the guest is not running")?.agent.post("systemctl reboot")?;
        self.wait_boot()
    }

    /// Cuts the guest's power, with what that does to un-flushed writes (see [`SimDisk::power_cut`]), and boots it
    /// again.
    ///
    /// # Errors
    /// If it does not come back.
    pub fn power_cut(&mut self, seed: u64) -> Result<()> {
        self.stop()?;
        for ((_, server), n) in self.disks.iter().zip(0..) {
            server.disk().lock().power_cut(seed.wrapping_add(n));
        }
        self.start()
    }

    /// From the next power cut on: boots from this initial root file system, and from the root device that `root` names on the kernel's
    /// command line.
    ///
    /// # Errors
    /// If it cannot be kept.
    pub fn boot_from(&mut self, initrd: &[u8], root: &str) -> Result<()> {
        let path = self.run.path("initrd.img");
        fs::write(&path, initrd)?;
        self.boots = Some(Boots { initrd: path, root: root.into() });
        Ok(())
    }

    /// Cuts the power and boots the same disks in another machine: one whose root disk is as it was made.
    ///
    /// # Errors
    /// If it does not boot.
    pub fn move_disks(&mut self) -> Result<()> {
        self.stop()?;
        *self.sim("root") = root_disk(&self.guest)?;
        self.start()
    }

    /// Waits until a person has ended a guest that has the terminal as its console.
    ///
    /// # Errors
    /// If QEMU fails.
    pub fn wait(&mut self) -> Result<()> {
        if let Some(mut running) = self.running.take() {
            let status = running.qemu.wait()?;
            ensure!(status.success(), "QEMU: {status}");
        }
        Ok(())
    }

    /// What the guest's serial console said last.
    #[must_use]
    pub fn console_tail(&self, lines: usize) -> String {
        let log = fs::read(self.run.path("console.log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let all: Vec<&str> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    fn start(&mut self) -> Result<()> {
        let qemu = self.qemu()?.spawn().context("qemu-system-x86_64")?;
        // Its main thread serves the guest's devices.
        prompt::thread(&qemu.id().to_string());
        let qemu = KillOnDrop(Some(qemu));
        let agent = Agent::accept(&self.listener, Duration::from_secs(30)).context(self.console_tail(20))?;
        self.running = qemu.keep().map(|qemu| Running { qemu, agent });
        self.wait_boot()
    }

    fn wait_boot(&mut self) -> Result<()> {
        let agent = &mut self.running.as_mut().context("the guest is not running")?.agent;
        let up = agent.wait_hello(BOOT).and_then(|_| agent.run(UP, BOOT));
        up.with_context(|| format!("the guest does not boot; its console:\n{}", self.console_tail(40)))?;
        Ok(())
    }

    /// Ends QEMU at once, and waits until its last requests to the disks are served.
    fn stop(&mut self) -> Result<()> {
        let Some(mut running) = self.running.take() else { return Ok(()) };
        running.qemu.kill()?;
        running.qemu.wait()?;
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.disks.iter().any(|(_, server)| server.is_busy()) {
            ensure!(Instant::now() < deadline, "a disk is still busy");
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn qemu(&self) -> Result<Command> {
        let kernel = match &self.config.kernel {
            Some(version) => self.guest.kernel(version)?,
            None => self.guest.default_kernel()?,
        };
        let path = |name: &str| self.run.path(name).display().to_string();
        let root = self.boots.as_ref().map_or("root=LABEL=rig-root rw", |boots| &boots.root);
        // Linux tries its timer by counting ticks for some milliseconds, in which a busy host may give it none: it panics.
        let mut append =
            format!("{root} console=ttyS0 mitigations=off {LEAN} no_timer_check panic=-1 quiet systemd.getty_auto=no");
        // Guests do not outlive this process, however it ends.
        let mut qemu = Command::new("setpriv");
        qemu.args(["--pdeathsig", "KILL", "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-M", "q35"]);
        // How many CPUs, if not two.
        let cpus = env::var("RIG_CPUS").unwrap_or_else(|_| "2".into());
        qemu.args(["-smp", &cpus, "-m", "1024", "-display", "none"]);
        qemu.args(accel::args(&self.guest)?);
        match self.config.console {
            Console::Log => {
                append += " systemd.show_status=false";
                qemu.args(["-chardev", &format!("file,id=console,path={},append=on", path("console.log"))]);
                let log = File::options().create(true).append(true).open(path("console.log"))?;
                qemu.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
            }
            Console::Terminal => {
                qemu.args(["-chardev", "stdio,id=console,mux=on,signal=off"]);
            }
        }
        qemu.args(["-serial", "chardev:console", "-append", &append]);
        let initrd = self.boots.as_ref().map_or_else(|| kernel.initrd(), |boots| boots.initrd.clone());
        qemu.arg("-kernel").arg(kernel.image()).arg("-initrd").arg(initrd);
        qemu.args(["-device", "virtio-rng-pci", "-device", "virtio-serial-pci"]);
        qemu.args(["-chardev", &format!("socket,id=agent,path={}", path("agent"))]);
        qemu.args(["-device", "virtserialport,chardev=agent,name=rig.agent"]);
        qemu.args(nbd_blockdev("root", &self.run.path("root")));
        qemu.args(["-device", "virtio-blk-pci,drive=root,serial=root"]);
        if self.config.payload.is_some() {
            let tar = path("payload.tar");
            qemu.args(["-blockdev", &format!("driver=file,node-name=payload,filename={tar},read-only=on")]);
            qemu.args(["-device", "virtio-blk-pci,drive=payload,serial=payload"]);
        }
        qemu.args(["-device", "virtio-scsi-pci,id=scsi"]);
        let mut ports = 0..;
        for disk in self.config.disks.iter().filter(|disk| !self.detached.contains(&disk.name)) {
            let port = if disk.bus == Bus::Ata { ports.next() } else { None };
            let args = disk.qemu_args(&self.run.path(&disk.name));
            qemu.args(args.into_iter().map(|arg| arg.replace("{port}", &port.unwrap_or(0).to_string())));
        }
        Ok(qemu)
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- the guest's console ends with:\n{}\n---", self.console_tail(60));
        }
        if let Err(e) = self.stop() {
            eprintln!("rig: {e:#}");
        }
    }
}

/// QEMU, until it is in the hands of a [`Vm`].
struct KillOnDrop(Option<Child>);

impl KillOnDrop {
    fn keep(mut self) -> Option<Child> {
        self.0.take()
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Some(qemu) = &mut self.0 {
            let _ = qemu.kill();
            let _ = qemu.wait();
        }
    }
}

/// A folder for sockets and logs. Its path is short, for sockets have to fit into 108 bytes.
struct RunFolder(PathBuf);

impl RunFolder {
    fn new() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("rig-{}-{n}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("{}", path.display()))?;
        Ok(Self(path))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The guest's root disk as it was made.
fn root_disk(guest: &Guest) -> Result<SimDisk> {
    let image = guest.root_image();
    let sectors = fs::metadata(&image)?.len() / SECTOR as u64;
    Ok(SimDisk::new(sectors, Backing::Over(File::open(&image)?)).with_volatile_cache())
}

fn pack(folder: &Path, tar: &Path) -> Result<()> {
    let status = Command::new("tar").args(["--owner=0", "--group=0", "-cf"]).arg(tar).arg("-C").arg(folder).arg(".").status();
    ensure!(status.context("tar")?.success(), "cannot pack {}", folder.display());
    Ok(())
}
