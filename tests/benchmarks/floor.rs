//! The floor: what a Unix socket and the protocol alone cost on this machine.
//!
//! `bench-floor SOCKET MIB` serves every export name from memory. A write's payload is received and
//! forgotten, a read is answered from memory that is never written, so no lock and no store is in
//! the way. One thread a connection reads as much as there is and answers all of it in one write.
//! No server that keeps what it is given can be faster.
//!
//! Source: the NBD specification, `doc/proto.md`: fixed newstyle, GO, simple replies.

use std::io::{self, IoSlice, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::{env, process, sync::Arc, thread};

const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_REPLY_MAGIC: [u8; 4] = 0x6744_6698_u32.to_be_bytes();
const REQUEST_BYTES: usize = 28;
const OPTION_BYTES_MAX: u32 = 8192;
/// Replies of one write: two slices each stay below IOV_MAX.
const REPLIES_MAX: usize = 256;
const RECEIVE_BYTES: usize = 256 << 10;
/// Reads are answered from this much memory, more than a processor's caches hold, and no request is
/// longer than the rest.
const WINDOW_BYTES: usize = 256 << 20;
const LENGTH_BYTES_MAX: usize = 32 << 20;
/// HAS_FLAGS, SEND_FLUSH, SEND_FUA, CAN_MULTI_CONN.
const TRANSMISSION_FLAGS: u16 = 1 | 1 << 2 | 1 << 3 | 1 << 8;

fn main() -> io::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [socket, mib] = arguments.as_slice() else {
        eprintln!("usage: bench-floor SOCKET MIB");
        process::exit(2);
    };
    let size_bytes = mib.parse::<u64>().map_err(io::Error::other)? << 20;
    // Not zeroes: they would all come from one page.
    let memory = Arc::new(vec![1; WINDOW_BYTES + LENGTH_BYTES_MAX]);
    for connection in UnixListener::bind(socket)?.incoming() {
        let (mut connection, memory) = (connection?, Arc::clone(&memory));
        thread::spawn(move || {
            let served = shake_hands(&mut connection, size_bytes)
                .and_then(|go| if go { serve(&mut connection, &memory) } else { Ok(()) });
            match served {
                Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => {
                    eprintln!("bench-floor: {error}")
                }
                Ok(()) | Err(_) => {}
            }
        });
    }
    Ok(())
}

fn array<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Whether transmission begins.
fn shake_hands(connection: &mut UnixStream, size_bytes: u64) -> io::Result<bool> {
    connection.write_all(b"NBDMAGICIHAVEOPT\0\x03")?;
    array::<4>(connection)?;
    loop {
        if u64::from_be_bytes(array(connection)?) != OPTION_MAGIC {
            return Err(wrong("no option"));
        }
        let option = u32::from_be_bytes(array(connection)?);
        let length = u32::from_be_bytes(array(connection)?).min(OPTION_BYTES_MAX);
        connection.read_exact(&mut vec![0; length as usize])?;
        let mut reply = |kind: u32, data: &[u8]| {
            let head =
                [&OPTION_REPLY_MAGIC.to_be_bytes()[..], &option.to_be_bytes(), &kind.to_be_bytes()];
            connection
                .write_all(&[&head.concat(), &(data.len() as u32).to_be_bytes()[..], data].concat())
        };
        match option {
            // GO: INFO_EXPORT, then ACK.
            7 => {
                let export =
                    [&[0; 2][..], &size_bytes.to_be_bytes(), &TRANSMISSION_FLAGS.to_be_bytes()];
                reply(3, &export.concat())?;
                reply(1, &[])?;
                return Ok(true);
            }
            // ABORT.
            2 => return reply(1, &[]).map(|()| false),
            // ERR_UNSUP.
            _ => reply(0x8000_0001, &[])?,
        }
    }
}

/// Reads as much as there is, answers it, and so on, until DISC.
fn serve(connection: &mut UnixStream, memory: &[u8]) -> io::Result<()> {
    let mut received = vec![0; RECEIVE_BYTES];
    // Bytes received but not looked at, and bytes of a payload that are still to come.
    let (mut held, mut payload) = (0, 0);
    // The head of each reply, and where in memory its data lies.
    let mut replies: Vec<([u8; 16], std::ops::Range<usize>)> = Vec::with_capacity(REPLIES_MAX);
    loop {
        let count = connection.read(&mut received[held..])?;
        if count == 0 {
            return Ok(());
        }
        held += count;
        let mut at = 0;
        loop {
            let skipped = payload.min(held - at);
            at += skipped;
            payload -= skipped;
            let whole = payload == 0 && held - at >= REQUEST_BYTES;
            // A write is answered when its payload is here.
            if payload == 0 && !replies.is_empty() && (!whole || replies.len() == REPLIES_MAX) {
                send(connection, &replies, memory)?;
                replies.clear();
            }
            if !whole {
                break;
            }
            let request = &received[at..at + REQUEST_BYTES];
            at += REQUEST_BYTES;
            if request[..4] != REQUEST_MAGIC.to_be_bytes() {
                return Err(wrong("no request"));
            }
            let offset = u64::from_be_bytes(request[16..24].try_into().expect("8 bytes")) as usize;
            let length = u32::from_be_bytes(request[24..].try_into().expect("4 bytes")) as usize;
            let mut data = 0..0;
            match request[7] {
                0 if length <= LENGTH_BYTES_MAX => {
                    data = offset % WINDOW_BYTES..offset % WINDOW_BYTES + length;
                }
                0 => return Err(wrong("too long a read")),
                1 => payload = length,
                2 => return Ok(()),
                _ => {}
            }
            let mut head = [0; 16];
            head[..4].copy_from_slice(&SIMPLE_REPLY_MAGIC);
            head[8..].copy_from_slice(&request[8..16]);
            replies.push((head, data));
        }
        received.copy_within(at..held, 0);
        held -= at;
    }
}

fn send(
    connection: &mut UnixStream,
    replies: &[([u8; 16], std::ops::Range<usize>)],
    memory: &[u8],
) -> io::Result<()> {
    let mut slices = [IoSlice::new(&[]); 2 * REPLIES_MAX];
    for (pair, (head, data)) in slices.chunks_exact_mut(2).zip(replies) {
        pair[0] = IoSlice::new(head);
        pair[1] = IoSlice::new(&memory[data.clone()]);
    }
    let mut left = &mut slices[..2 * replies.len()];
    while !left.is_empty() {
        let count = connection.write_vectored(left)?;
        IoSlice::advance_slices(&mut left, count);
    }
    Ok(())
}
