use std::path::PathBuf;

use remap_guardian::sim::disk::{Backing, Fault};

use super::*;

const SIZE: u64 = 1000;

/// The least client that tells a good server from a bad one.
struct Client {
    stream: UnixStream,
    socket: PathBuf,
    server: Server,
}

impl Client {
    fn connect(test: &str, disk: SimDisk) -> Self {
        Self::connect_on(test, disk, &Power::default())
    }

    fn connect_on(test: &str, disk: SimDisk, power: &Power) -> Self {
        let socket = std::env::temp_dir().join(format!("nbd-{test}-{}", std::process::id()));
        let server = Server::start_on(&socket, disk, power).unwrap();
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        assert_eq!(take::<8>(&mut stream).unwrap(), *b"NBDMAGIC");
        assert_eq!(take::<8>(&mut stream).unwrap(), *b"IHAVEOPT");
        assert_eq!(take::<2>(&mut stream).unwrap(), [0, 3]);
        stream.write_all(&3u32.to_be_bytes()).unwrap();
        Self { stream, socket, server }
    }

    fn option(&mut self, option: u32, data: &[u8]) {
        self.stream.write_all(b"IHAVEOPT").unwrap();
        self.stream.write_all(&option.to_be_bytes()).unwrap();
        self.stream.write_all(&(data.len() as u32).to_be_bytes()).unwrap();
        self.stream.write_all(data).unwrap();
    }

    fn option_reply(&mut self) -> (u32, Vec<u8>) {
        assert_eq!(u64::from_be_bytes(take(&mut self.stream).unwrap()), OPTION_REPLY_MAGIC);
        take::<4>(&mut self.stream).unwrap();
        let kind = u32::from_be_bytes(take(&mut self.stream).unwrap());
        let length = u32::from_be_bytes(take(&mut self.stream).unwrap());
        let mut data = vec![0; length as usize];
        self.stream.read_exact(&mut data).unwrap();
        (kind, data)
    }

    fn go(mut self) -> Self {
        self.option(OPT_GO, &[0; 6]);
        while self.option_reply().0 == REP_INFO {}
        self
    }

    fn request(&mut self, command: u16, flags: u16, cookie: u64, sector: u64, sectors: u32, payload: &[u8]) {
        let mut request = REQUEST_MAGIC.to_be_bytes().to_vec();
        request.extend(flags.to_be_bytes());
        request.extend(command.to_be_bytes());
        request.extend(cookie.to_be_bytes());
        request.extend((sector * SECTOR as u64).to_be_bytes());
        request.extend((sectors * SECTOR as u32).to_be_bytes());
        request.extend(payload);
        self.stream.write_all(&request).unwrap();
    }

    fn reply(&mut self) -> (u64, u32) {
        assert_eq!(u32::from_be_bytes(take(&mut self.stream).unwrap()), REPLY_MAGIC);
        let error = u32::from_be_bytes(take(&mut self.stream).unwrap());
        (u64::from_be_bytes(take(&mut self.stream).unwrap()), error)
    }

    /// One request and the error of its reply; a successful read's data is returned too.
    fn call(&mut self, command: u16, flags: u16, sector: u64, sectors: u32, payload: &[u8]) -> (u32, Vec<u8>) {
        self.request(command, flags, 7, sector, sectors, payload);
        let (cookie, error) = self.reply();
        assert_eq!(cookie, 7);
        let mut data = Vec::new();
        if command == CMD_READ && error == 0 {
            data.resize(sectors as usize * SECTOR, 0);
            self.stream.read_exact(&mut data).unwrap();
        }
        (error, data)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

fn disk() -> SimDisk {
    SimDisk::new(SIZE, Backing::Memory).with_volatile_cache()
}

#[test]
fn options_are_answered() {
    let mut client = Client::connect("options", disk());
    client.option(8, &[]); // structured replies, which are not served
    assert_eq!(client.option_reply().0, REP_ERR_UNSUP);
    client.option(OPT_INFO, &[0; 6]);
    let (kind, export) = client.option_reply();
    assert_eq!((kind, &export[..2]), (REP_INFO, &[0, 0][..]));
    assert_eq!(export[2..10], (SIZE * SECTOR as u64).to_be_bytes());
    assert_eq!(export[10..], EXPORT_FLAGS.to_be_bytes());
    assert_eq!(client.option_reply().1[..6], [0, 3, 0, 0, 2, 0]);
    assert_eq!(client.option_reply().0, REP_ACK);
    client.option(OPT_EXPORT_NAME, b"whatever");
    assert_eq!(take::<10>(&mut client.stream).unwrap()[..], export[2..]);
    assert_eq!(client.call(CMD_READ, 0, 0, 1, &[]).0, 0);
}

#[test]
fn what_is_written_is_read_and_errors_are_eio() {
    let mut client = Client::connect("errors", disk()).go();
    assert_eq!(client.call(CMD_WRITE, 0, 10, 2, &[9; 2 * SECTOR]).0, 0);
    assert_eq!(client.call(CMD_READ, 0, 10, 2, &[]), (0, vec![9; 2 * SECTOR]));
    client.server.disk().lock().inject(Fault::dead(20..21));
    assert_eq!(client.call(CMD_WRITE, 0, 20, 1, &[9; SECTOR]).0, EIO);
    assert_eq!(client.call(CMD_READ, 0, 16, 8, &[]).0, EIO);
    assert_eq!(client.call(CMD_WRITE_ZEROES, 0, 10, 1, &[]).0, 0);
    assert_eq!(client.call(CMD_TRIM, 0, 11, 1, &[]).0, 0);
    assert_eq!(client.call(CMD_READ, 0, 10, 2, &[]), (0, vec![0; 2 * SECTOR]));
    assert_eq!(client.call(99, 0, 10, 1, &[]).0, EINVAL);
    assert_eq!(client.call(CMD_READ, 0, SIZE, 1, &[]).0, EIO);
}

#[test]
fn flush_and_force_unit_access_survive_a_power_cut() {
    for seed in 0..32 {
        let mut client = Client::connect(&format!("power{seed}"), disk()).go();
        assert_eq!(client.call(CMD_WRITE, 0, 0, 1, &[1; SECTOR]).0, 0);
        assert_eq!(client.call(CMD_FLUSH, 0, 0, 0, &[]).0, 0);
        assert_eq!(client.call(CMD_WRITE, CMD_FLAG_FUA, 1, 1, &[2; SECTOR]).0, 0);
        client.server.disk().lock().power_cut(seed);
        let (_, data) = client.call(CMD_READ, 0, 0, 2, &[]);
        assert_eq!((data[0], data[SECTOR]), (1, 2));
    }
}

#[test]
fn power_fails_at_the_request_that_was_chosen_and_takes_its_answer() {
    let mut arrived = std::collections::BTreeSet::new();
    for seed in 0..32 {
        let power = Power::default();
        let mut client = Client::connect_on(&format!("cut{seed}"), disk(), &power).go();
        let (tell, told) = std::sync::mpsc::channel();
        power.fail_at(3, seed, move || tell.send(()).unwrap());
        assert_eq!(client.call(CMD_WRITE, 0, 0, 1, &[1; SECTOR]).0, 0);
        assert_eq!(client.call(CMD_FLUSH, 0, 0, 0, &[]).0, 0);
        assert_eq!(client.call(CMD_READ, 0, 0, 1, &[]).0, 0, "a read does not count");
        assert!(told.try_recv().is_err());
        assert_eq!(client.call(CMD_WRITE, CMD_FLAG_FUA, 8, 2, &[2; 2 * SECTOR]).0, EIO);
        assert!(told.try_recv().is_ok());
        assert_eq!(client.call(CMD_READ, 0, 0, 1, &[]).0, EIO);
        power.restore();
        assert_eq!(client.call(CMD_READ, 0, 0, 1, &[]), (0, vec![1; SECTOR]));
        let (error, left) = client.call(CMD_READ, 0, 8, 2, &[]);
        assert_eq!(error, 0);
        arrived.insert([left[0], left[SECTOR]]);
        power.fail_now();
        assert_eq!(client.call(CMD_READ, 0, 0, 1, &[]).0, 0, "it has failed already");
    }
    assert!([[0, 0], [2, 2], [2, 0], [0, 2]].iter().all(|case| arrived.contains(case)), "{arrived:?}");
}

#[test]
fn a_slow_sector_delays_no_one_else_and_keeps_the_server_busy() {
    let mut client = Client::connect("slow", disk()).go();
    client.server.disk().lock().inject(Fault::slow(5..6, std::time::Duration::from_millis(200)));
    client.request(CMD_TRIM, 0, 1, 5, 1, &[]);
    client.request(CMD_TRIM, 0, 2, 6, 1, &[]);
    assert_eq!(client.reply(), (2, 0));
    assert!(client.server.is_busy());
    assert_eq!(client.reply(), (1, 0));
    client.request(CMD_DISCONNECT, 0, 3, 0, 0, &[]);
    assert_eq!(client.stream.read(&mut [0]).unwrap(), 0);
    while client.server.is_busy() {
        thread::yield_now();
    }
}

#[test]
fn nonsense_ends_the_session() {
    let mut client = Client::connect("nonsense", disk()).go();
    client.stream.write_all(&[0; 28]).unwrap();
    assert!(!matches!(client.stream.read(&mut [0]), Ok(1)), "the session goes on");
}
