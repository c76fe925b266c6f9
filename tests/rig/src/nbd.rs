//! A network block device server for one [`SimDisk`], on a Unix socket.
//!
//! The fixed newstyle protocol with simple replies, as QEMU and the kernel speak it: read, write, flush, trim,
//! write zeroes, force unit access. Every error of the disk is EIO, the only fitting one that the protocol has.
//! See <https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md>.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use remap_guardian::sim::disk::{DiskError, Persist, SECTOR, SimDisk};

use crate::prompt;

mod power;

pub use power::Power;

/// A disk that the rig and its servers share.
#[derive(Clone)]
pub struct SharedDisk(Arc<Mutex<SimDisk>>);

impl SharedDisk {
    /// Shares `disk`.
    #[must_use]
    pub fn new(disk: SimDisk) -> Self {
        Self(Arc::new(Mutex::new(disk)))
    }

    /// The disk itself; accesses from elsewhere wait.
    pub fn lock(&self) -> MutexGuard<'_, SimDisk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A disk that is being served.
pub struct Server {
    disk: SharedDisk,
    /// Each session and each delayed request holds one more reference.
    busy: Arc<()>,
}

impl Server {
    /// Serves `disk` on a new socket at `path`, to any number of clients, in threads that end with this process.
    ///
    /// # Errors
    /// If the socket cannot be made.
    pub fn start(path: &Path, disk: SimDisk) -> io::Result<Self> {
        Self::start_on(path, disk, &Power::default())
    }

    /// The same for a disk that shares its power with others.
    ///
    /// # Errors
    /// If the socket cannot be made.
    pub fn start_on(path: &Path, disk: SimDisk, power: &Power) -> io::Result<Self> {
        let listener = UnixListener::bind(path)?;
        let server = Self { disk: SharedDisk::new(disk), busy: Arc::new(()) };
        power.plug_in(server.disk.clone());
        let (disk, power, busy) = (server.disk.clone(), power.clone(), Arc::downgrade(&server.busy));
        thread::Builder::new().name("nbd".into()).spawn(move || {
            for client in listener.incoming().flatten() {
                let Some(busy) = busy.upgrade() else { break };
                let (disk, power) = (disk.clone(), power.clone());
                thread::spawn(move || {
                    prompt::this_thread();
                    match Session::start(client, disk, power, busy).and_then(Session::run) {
                        Err(e) if !is_hang_up(&e) => eprintln!("nbd: {e}"),
                        _ => {}
                    }
                });
            }
        })?;
        Ok(server)
    }

    /// The disk that is served.
    #[must_use]
    pub fn disk(&self) -> &SharedDisk {
        &self.disk
    }

    /// Whether a client is connected, or one that has left has requests that are still served.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        Arc::strong_count(&self.busy) > 1
    }
}

/// QEMU being killed is the everyday end of a session.
fn is_hang_up(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}

const MAGIC: u64 = 0x4e42_444d_4147_4943; // "NBDMAGIC"
const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054; // "IHAVEOPT"
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;

const HANDSHAKE_FIXED_NEWSTYLE: u16 = 1;
const HANDSHAKE_NO_ZEROES: u16 = 2;

const OPT_EXPORT_NAME: u32 = 1;
const OPT_ABORT: u32 = 2;
const OPT_INFO: u32 = 6;
const OPT_GO: u32 = 7;

const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
const REP_ERR_UNSUP: u32 = (1 << 31) + 1;

const INFO_EXPORT: u16 = 0;
const INFO_BLOCK_SIZE: u16 = 3;

/// Has flags; flush, FUA, trim and write zeroes are served.
const EXPORT_FLAGS: u16 = 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 6;

const CMD_READ: u16 = 0;
const CMD_WRITE: u16 = 1;
const CMD_DISCONNECT: u16 = 2;
const CMD_FLUSH: u16 = 3;
const CMD_TRIM: u16 = 4;
const CMD_WRITE_ZEROES: u16 = 6;
const CMD_FLAG_FUA: u16 = 1;

const EIO: u32 = 5;
const EINVAL: u32 = 22;

/// The longest read or write, as the protocol recommends; and the longest option.
const MAX_PAYLOAD: u32 = 32 << 20;
const MAX_OPTION: u32 = 4096;

struct Session {
    stream: UnixStream,
    replies: Arc<Mutex<UnixStream>>,
    disk: SharedDisk,
    power: Power,
    busy: Arc<()>,
}

impl Session {
    /// Shakes hands. The export name does not matter: there is one disk.
    fn start(mut stream: UnixStream, disk: SharedDisk, power: Power, busy: Arc<()>) -> io::Result<Self> {
        let mut greeting = Vec::new();
        greeting.extend(MAGIC.to_be_bytes());
        greeting.extend(OPTION_MAGIC.to_be_bytes());
        greeting.extend((HANDSHAKE_FIXED_NEWSTYLE | HANDSHAKE_NO_ZEROES).to_be_bytes());
        stream.write_all(&greeting)?;
        let client_flags = u32::from_be_bytes(take(&mut stream)?);
        loop {
            if u64::from_be_bytes(take(&mut stream)?) != OPTION_MAGIC {
                return Err(protocol("an option without its magic"));
            }
            let option = u32::from_be_bytes(take(&mut stream)?);
            let length = u32::from_be_bytes(take(&mut stream)?);
            if length > MAX_OPTION {
                return Err(protocol("an option too long"));
            }
            io::copy(&mut (&mut stream).take(length.into()), &mut io::sink())?;
            match option {
                OPT_EXPORT_NAME => {
                    let mut answer = export(&disk);
                    if client_flags & u32::from(HANDSHAKE_NO_ZEROES) == 0 {
                        answer.extend([0; 124]);
                    }
                    stream.write_all(&answer)?;
                    break;
                }
                OPT_INFO | OPT_GO => {
                    let info = [&INFO_EXPORT.to_be_bytes()[..], &export(&disk)].concat();
                    reply_option(&mut stream, option, REP_INFO, &info)?;
                    reply_option(&mut stream, option, REP_INFO, &block_sizes(&disk))?;
                    reply_option(&mut stream, option, REP_ACK, &[])?;
                    if option == OPT_GO {
                        break;
                    }
                }
                OPT_ABORT => {
                    reply_option(&mut stream, option, REP_ACK, &[])?;
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                _ => reply_option(&mut stream, option, REP_ERR_UNSUP, &[])?,
            }
        }
        let replies = Arc::new(Mutex::new(stream.try_clone()?));
        Ok(Self { stream, replies, disk, power, busy })
    }

    /// Serves requests until the client leaves.
    fn run(mut self) -> io::Result<()> {
        while let Some(request) = Request::receive(&mut self.stream)? {
            let delay = self.disk.lock().delay(request.sector(), request.sectors());
            let (disk, power, replies) = (self.disk.clone(), self.power.clone(), self.replies.clone());
            let serve = move || {
                power.draw(&disk, &request);
                let reply = request.serve(&mut disk.lock());
                replies.lock().unwrap_or_else(PoisonError::into_inner).write_all(&reply)
            };
            if delay.is_zero() {
                serve()?;
            } else {
                // Other requests do not wait for a slow sector.
                let busy = self.busy.clone();
                thread::spawn(move || {
                    thread::sleep(delay);
                    let _ = serve();
                    drop(busy);
                });
            }
        }
        Ok(())
    }
}

struct Request {
    flags: u16,
    command: u16,
    cookie: [u8; 8],
    offset: u64,
    length: u32,
    payload: Vec<u8>,
}

impl Request {
    /// The next request; `None` when the client takes its leave.
    fn receive(stream: &mut UnixStream) -> io::Result<Option<Self>> {
        if u32::from_be_bytes(take(stream)?) != REQUEST_MAGIC {
            return Err(protocol("a request without its magic"));
        }
        let mut request = Self {
            flags: u16::from_be_bytes(take(stream)?),
            command: u16::from_be_bytes(take(stream)?),
            cookie: take(stream)?,
            offset: u64::from_be_bytes(take(stream)?),
            length: u32::from_be_bytes(take(stream)?),
            payload: Vec::new(),
        };
        match request.command {
            CMD_DISCONNECT => return Ok(None),
            CMD_READ | CMD_WRITE if request.length > MAX_PAYLOAD => return Err(protocol("a request too long")),
            CMD_WRITE => {
                request.payload = vec![0; request.length as usize];
                stream.read_exact(&mut request.payload)?;
            }
            _ => {}
        }
        Ok(Some(request))
    }

    fn sector(&self) -> u64 {
        self.offset / SECTOR as u64
    }

    fn sectors(&self) -> u64 {
        u64::from(self.length) / SECTOR as u64
    }

    /// Does what is asked; gives the bytes of the reply.
    fn serve(&self, disk: &mut SimDisk) -> Vec<u8> {
        let mut data = Vec::new();
        let status = match self.access(disk, &mut data) {
            Ok(Ok(())) => 0,
            Ok(Err(_)) => EIO,
            Err(Refused) => EINVAL,
        };
        let mut reply = Vec::with_capacity(16 + data.len());
        reply.extend(REPLY_MAGIC.to_be_bytes());
        reply.extend(status.to_be_bytes());
        reply.extend(self.cookie);
        if status == 0 {
            reply.extend(data);
        }
        reply
    }

    fn access(&self, disk: &mut SimDisk, data: &mut Vec<u8>) -> Result<Result<(), DiskError>, Refused> {
        let (sector, count) = (self.sector(), self.sectors());
        let persist = if self.flags & CMD_FLAG_FUA != 0 { Persist::Fua } else { Persist::Cached };
        if !self.offset.is_multiple_of(SECTOR as u64) || !(self.length as usize).is_multiple_of(SECTOR) {
            return Err(Refused);
        }
        Ok(match self.command {
            CMD_READ => {
                data.resize(self.length as usize, 0);
                disk.read(sector, data)
            }
            CMD_WRITE => disk.write(sector, &self.payload, persist),
            CMD_WRITE_ZEROES => disk.write_zeroes(sector, count, persist),
            CMD_FLUSH => disk.flush(),
            CMD_TRIM => disk.discard(sector, count),
            _ => return Err(Refused),
        })
    }
}

/// A request that means nothing.
struct Refused;

fn export(disk: &SharedDisk) -> Vec<u8> {
    let bytes = disk.lock().sectors() * SECTOR as u64;
    [&bytes.to_be_bytes()[..], &EXPORT_FLAGS.to_be_bytes()].concat()
}

fn block_sizes(disk: &SharedDisk) -> Vec<u8> {
    let block = disk.lock().block_size();
    let mut info = INFO_BLOCK_SIZE.to_be_bytes().to_vec();
    for size in [block, 4096, MAX_PAYLOAD] {
        info.extend(size.to_be_bytes());
    }
    info
}

fn reply_option(stream: &mut UnixStream, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
    let mut reply = Vec::with_capacity(20 + data.len());
    reply.extend(OPTION_REPLY_MAGIC.to_be_bytes());
    reply.extend(option.to_be_bytes());
    reply.extend(kind.to_be_bytes());
    reply.extend((data.len() as u32).to_be_bytes());
    reply.extend(data);
    stream.write_all(&reply)
}

fn take<const N: usize>(stream: &mut UnixStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn protocol(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("the client sent {what}"))
}

#[cfg(test)]
mod tests;
