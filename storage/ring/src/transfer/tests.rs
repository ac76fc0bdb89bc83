//! Files and sockets on both real engines: each test runs once on the ring and once on threads.

use std::cell::Cell;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use futures_util::future::{Either, join, join_all, select};
use futures_util::poll;

use super::Socket;
use crate::io::File;
use crate::memory::{SharedMemory, WriteBuf, aligned};
use crate::runtime::{self, Backend, Core, Runtime};

const PAGE: usize = 4096;

/// Runs a test on each engine; the ring's part is left out, with a word, where the kernel forbids
/// it.
fn on_each_engine<F: Future<Output = ()>>(test: impl Fn() -> F) {
    for engine in [Backend::Uring, Backend::Threads] {
        match Runtime::new(engine) {
            Ok(runtime) => runtime.block_on(test()),
            Err(reason) => println!("skipped on {engine:?}: {reason}"),
        }
    }
}

struct Scratch {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

fn scratch() -> Scratch {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    Scratch { _dir: dir, path }
}

fn page(value: u8) -> BytesMut {
    let mut buf = aligned(PAGE);
    buf.resize(PAGE, value);
    buf
}

fn pair() -> (Socket, Socket) {
    let (left, right) = UnixStream::pair().unwrap();
    (Socket::new(OwnedFd::from(left)), Socket::new(OwnedFd::from(right)))
}

#[test]
fn file_reads_back_what_was_written() {
    on_each_engine(|| async {
        let scratch = scratch();
        let file = File::open(&scratch.path, Some(64 * PAGE as u64)).unwrap();
        assert_eq!(file.len_bytes(), 64 * PAGE as u64);
        assert_eq!(file.allocated_bytes().unwrap(), 0);
        let memory = Arc::new(SharedMemory::anonymous(4 * PAGE).unwrap());
        memory.copy_in(PAGE, &[3; 2 * PAGE]);
        file.write(0, WriteBuf::Owned(page(1))).await.unwrap();
        file.write(PAGE as u64, WriteBuf::Shared(memory, PAGE..3 * PAGE)).await.unwrap();
        file.sync().await.unwrap();
        let read = file.read(0, aligned(4 * PAGE), 4 * PAGE).await.unwrap();
        assert!(read[..PAGE].iter().all(|byte| *byte == 1));
        assert!(read[PAGE..3 * PAGE].iter().all(|byte| *byte == 3));
        assert!(read[3 * PAGE..].iter().all(|byte| *byte == 0));
        let reopened = File::open(&scratch.path, Some(1)).unwrap();
        assert_eq!(
            reopened.len_bytes(),
            64 * PAGE as u64,
            "a file that has content keeps its length"
        );
    });
}

#[test]
fn read_past_the_end_is_unexpected_eof() {
    on_each_engine(|| async {
        let scratch = scratch();
        let file = File::open(&scratch.path, Some(PAGE as u64 + 512)).unwrap();
        let result = file.read(0, aligned(2 * PAGE), 2 * PAGE).await;
        assert_eq!(result.unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
        file.set_len(2 * PAGE as u64).unwrap();
        assert_eq!(file.read(0, aligned(2 * PAGE), 2 * PAGE).await.unwrap().len(), 2 * PAGE);
    });
}

#[test]
fn allocate_takes_space_and_punch_gives_it_back() {
    on_each_engine(|| async {
        let scratch = scratch();
        let file = File::open(&scratch.path, Some(1 << 20)).unwrap();
        file.allocate(0, 1 << 20).await.unwrap();
        assert!(file.allocated_bytes().unwrap() >= 1 << 20);
        file.write(0, WriteBuf::Owned(page(9))).await.unwrap();
        file.punch(0, 1 << 20).await.unwrap();
        assert_eq!(file.allocated_bytes().unwrap(), 0);
        assert_eq!(file.len_bytes(), 1 << 20);
        let read = file.read(0, aligned(PAGE), PAGE).await.unwrap();
        assert!(read.iter().all(|byte| *byte == 0));
    });
}

/// More receives than a completion queue has entries, none of which ever ends.
#[test]
fn one_that_talks_is_served_beside_many_thousands_that_are_silent() {
    const SILENT: usize = 20_000;
    on_each_engine(|| async {
        let silent: Vec<_> =
            (0..100).map(|_| pair()).map(|(left, right)| (Rc::new(left), right)).collect();
        for (left, _) in silent.iter().cycle().take(SILENT) {
            let left = Rc::clone(left);
            runtime::spawn(async move { drop(left.recv(BytesMut::with_capacity(16)).await) });
        }
        runtime::yield_now().await;
        let (left, right) = pair();
        for _ in 0..100 {
            right.send_all(vec![Bytes::from_static(b"x")]).await.unwrap();
            assert_eq!(left.recv(BytesMut::with_capacity(16)).await.0.unwrap(), 1);
        }
    });
}

#[test]
fn a_watch_ends_with_the_connection_and_not_with_what_the_peer_has_said_last() {
    on_each_engine(|| async {
        let (left, right) = UnixStream::pair().unwrap();
        let left = Socket::new(OwnedFd::from(left));
        right.shutdown(std::net::Shutdown::Write).unwrap();
        let mut failed = pin!(left.failed());
        let early = select(failed.as_mut(), runtime::sleep(Duration::from_millis(20))).await;
        assert!(matches!(early, Either::Right(_)), "it only says no more");
        drop(right);
        failed.await;

        let (left, _right) = pair();
        let closing = async {
            runtime::yield_now().await;
            left.shutdown();
        };
        join(left.failed(), closing).await;
    });
}

#[test]
fn a_reset_ends_a_watch_while_nothing_is_received() {
    on_each_engine(|| async {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let server = Socket::new(OwnedFd::from(listener.accept().unwrap().0));
        (&client).write_all(b"never received").unwrap();
        server.send_all(vec![Bytes::from_static(b"never read")]).await.unwrap();
        let resetting = async {
            runtime::sleep(Duration::from_millis(5)).await;
            drop(client); // with bytes unread, which resets
        };
        join(server.failed(), resetting).await;
    });
}

/// A thread with two clients leaves a lone read to the ring, whose device may hang.
#[test]
fn a_thread_waits_in_place_for_its_only_client_alone() {
    let Ok(runtime) = Runtime::new(Backend::Uring) else { return println!("skipped: no ring") };
    runtime.block_on(async {
        let scratch = scratch();
        let file = File::open(&scratch.path, Some(PAGE as u64)).unwrap();
        let _first = runtime::serve_one();
        for (others, expected) in [(0, true), (1, false), (0, true)] {
            let _others: Vec<_> = (0..others).map(|_| runtime::serve_one()).collect();
            runtime::yield_now().await;
            let mut read = pin!(file.read(0, aligned(PAGE), PAGE));
            assert!(poll!(read.as_mut()).is_pending());
            let waited = Core::current().driver().wait_in_place();
            assert_eq!(waited, expected, "beside {others} others");
            runtime::yield_now().await; // which looks for what is done
            read.await.unwrap();
        }
        // Another one comes after the read was begun.
        runtime::yield_now().await;
        let mut read = pin!(file.read(0, aligned(PAGE), PAGE));
        assert!(poll!(read.as_mut()).is_pending());
        let _second = runtime::serve_one();
        assert!(!Core::current().driver().wait_in_place());
        read.await.unwrap();
    });
}

/// Each read is alone when it begins. A receive that is there already must not wait for the last of
/// them.
#[test]
fn a_chain_of_lone_reads_lets_others_in_between() {
    const READS: u32 = 1000;
    on_each_engine(|| async {
        let scratch = scratch();
        let file = File::open(&scratch.path, Some(PAGE as u64)).unwrap();
        file.write(0, WriteBuf::Owned(page(1))).await.unwrap();
        let (left, right) = pair();
        let done = Rc::new(Cell::new(0));
        let heard = Rc::new(Cell::new(None));
        right.send_all(vec![Bytes::from_static(b"x")]).await.unwrap();
        runtime::spawn({
            let (done, heard) = (Rc::clone(&done), Rc::clone(&heard));
            async move {
                let (received, _) = left.recv(BytesMut::with_capacity(16)).await;
                assert_eq!(received.unwrap(), 1);
                heard.set(Some(done.get()));
            }
        });
        for _ in 0..READS {
            file.read(0, aligned(PAGE), PAGE).await.unwrap();
            done.set(done.get() + 1);
        }
        let heard = heard.get().expect("it was heard before the last read");
        assert!(heard < READS / 10, "heard after {heard} reads");
    });
}

#[test]
fn more_operations_than_the_ring_holds_all_complete() {
    on_each_engine(|| async {
        let scratch = scratch();
        let file = File::open(&scratch.path, Some(3000 * PAGE as u64)).unwrap();
        let writes = (0..3000u64).map(|index| {
            let file = file.clone();
            async move {
                file.write(index * PAGE as u64, WriteBuf::Owned(page(index as u8))).await.unwrap()
            }
        });
        join_all(writes).await;
        let reads = (0..3000u64).map(|index| {
            let file = file.clone();
            async move {
                let read = file.read(index * PAGE as u64, aligned(PAGE), PAGE).await.unwrap();
                assert!(read.iter().all(|byte| *byte == index as u8), "page {index}");
            }
        });
        join_all(reads).await;
    });
}

#[test]
fn dropped_write_still_lands() {
    on_each_engine(|| async {
        let scratch = scratch();
        let file = File::open(&scratch.path, Some(PAGE as u64)).unwrap();
        let mut write = Box::pin(file.write(0, WriteBuf::Owned(page(5))));
        assert!(futures_util::poll!(&mut write).is_pending());
        drop(write);
        while file.read(0, aligned(PAGE), PAGE).await.unwrap()[0] != 5 {
            runtime::sleep(Duration::from_millis(1)).await;
        }
    });
}

#[test]
fn lock_keeps_other_descriptions_out_until_the_file_is_gone() {
    on_each_engine(|| async {
        let scratch = scratch();
        let first = File::open(&scratch.path, Some(PAGE as u64)).unwrap();
        first.lock(Duration::ZERO, || panic!("no process has it")).await.unwrap();
        first.write(0, WriteBuf::Owned(page(1))).await.unwrap(); // the ring knows the file by now
        let second = File::open(&scratch.path, None).unwrap();
        let mut waited = false;
        let refused = second.lock(Duration::from_millis(50), || waited = true).await;
        assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        assert!(waited);
        let clone = first.clone();
        drop(first);
        runtime::spawn(async move {
            runtime::sleep(Duration::from_millis(50)).await;
            drop(clone);
        });
        second.lock(Duration::from_secs(10), || {}).await.unwrap();
    });
}

#[test]
fn lock_of_another_process_is_waited_for() {
    on_each_engine(|| async {
        let scratch = scratch();
        let file = File::open(&scratch.path, Some(PAGE as u64)).unwrap();
        let mut holder = std::process::Command::new("flock");
        holder.arg("-x").arg(&scratch.path).args(["-c", "echo locked; sleep 0.2"]);
        let Ok(mut holder) = holder.stdout(std::process::Stdio::piped()).spawn() else {
            println!("skipped: there is no flock(1) here");
            return;
        };
        let mut said = [0; 7];
        holder.stdout.take().unwrap().read_exact(&mut said).unwrap();
        let mut waited = false;
        file.lock(Duration::from_secs(10), || waited = true).await.unwrap();
        assert!(waited);
        holder.wait().unwrap();
    });
}

#[test]
fn opening_what_is_not_there_fails() {
    let scratch = scratch();
    let missing = File::open(&scratch.path, None).unwrap_err();
    assert_eq!(missing.kind(), std::io::ErrorKind::NotFound);
}

#[test]
fn socket_echoes_many_messages() {
    on_each_engine(|| async {
        let (near, far) = pair();
        runtime::spawn(async move {
            loop {
                let (result, buf) = far.recv(BytesMut::with_capacity(512)).await;
                if result.unwrap() == 0 {
                    return;
                }
                far.send_all(vec![buf.freeze()]).await.unwrap();
            }
        });
        for number in 0..5000u64 {
            let message = number.to_le_bytes();
            near.send_all(vec![Bytes::copy_from_slice(&message)]).await.unwrap();
            let mut buf = BytesMut::with_capacity(8);
            while buf.len() < 8 {
                let (result, returned) = near.recv(buf).await;
                assert!(result.unwrap() > 0);
                buf = returned;
            }
            assert_eq!(buf[..], message);
        }
    });
}

#[test]
fn receive_appends_to_what_the_buffer_holds() {
    on_each_engine(|| async {
        let (near, far) = pair();
        far.send_all(vec![Bytes::from_static(b"world")]).await.unwrap();
        let mut buf = BytesMut::with_capacity(64);
        buf.extend_from_slice(b"hello ");
        let (result, buf) = near.recv(buf).await;
        assert_eq!(result.unwrap(), 5);
        assert_eq!(&buf[..], b"hello world");
    });
}

/// More chunks than one vectored send takes, empty ones among them, to a slow reader.
#[test]
fn large_vectored_send_reaches_a_slow_reader_whole() {
    on_each_engine(|| async {
        let (near, far) = UnixStream::pair().unwrap();
        let near = Socket::new(near.into());
        let chunks: Vec<Bytes> =
            (0..2500usize).map(|i| Bytes::from(vec![i as u8; i * 7 % 4000])).collect();
        let expected: Vec<u8> = chunks.iter().flatten().copied().collect();
        let reader = std::thread::spawn(move || {
            let mut far = far;
            let mut all = Vec::new();
            let mut part = [0; 100_000];
            loop {
                std::thread::sleep(Duration::from_millis(1));
                match far.read(&mut part).unwrap() {
                    0 => return all,
                    n => all.extend_from_slice(&part[..n]),
                }
            }
        });
        near.send_all(chunks).await.unwrap();
        near.send_all(Vec::new()).await.unwrap();
        near.send_all(vec![Bytes::new(), Bytes::new()]).await.unwrap();
        near.shutdown();
        assert!(reader.join().unwrap() == expected);
    });
}

#[test]
fn non_blocking_sockets_are_waited_for_too() {
    on_each_engine(|| async {
        let (near, mut far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        let near = Socket::new(near.into());
        runtime::spawn(async move {
            runtime::sleep(Duration::from_millis(20)).await;
            far.write_all(b"late").unwrap();
        });
        let (result, buf) = near.recv(BytesMut::with_capacity(16)).await;
        assert_eq!(result.unwrap(), 4);
        assert_eq!(&buf[..], b"late");
    });
}

#[test]
fn tcp_sockets_work_and_have_nodelay() {
    on_each_engine(|| async {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let near = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let looked_at = near.try_clone().unwrap();
        let far = Socket::new(listener.accept().unwrap().0.into());
        let near = Socket::new(near.into());
        assert!(looked_at.nodelay().unwrap());
        far.send_all(vec![Bytes::from_static(b"a"), Bytes::from_static(b"b")]).await.unwrap();
        let (result, buf) = near.recv(BytesMut::with_capacity(16)).await;
        assert_eq!(result.unwrap(), 2);
        assert_eq!(&buf[..], b"ab");
    });
}

#[test]
fn shutdown_ends_a_pending_receive() {
    on_each_engine(|| async {
        let (near, _far) = pair();
        let near = Rc::new(near);
        let other = Rc::clone(&near);
        runtime::spawn(async move {
            runtime::sleep(Duration::from_millis(10)).await;
            other.shutdown();
        });
        let (result, buf) = near.recv(BytesMut::with_capacity(16)).await;
        assert_eq!(result.unwrap(), 0);
        assert_eq!(buf.capacity(), 16, "the buffer comes back");
    });
}

/// A receive whose future was dropped still has its buffer: bytes that come in land there, and
/// nothing else is touched.
#[test]
fn cancelled_receive_keeps_its_buffer() {
    on_each_engine(|| async {
        let (near, far) = pair();
        let mut receive = Box::pin(near.recv(BytesMut::with_capacity(1 << 16)));
        assert!(futures_util::poll!(&mut receive).is_pending());
        runtime::yield_now().await;
        drop(receive);
        let bystanders: Vec<Vec<u8>> = (0..64).map(|_| vec![0xaa; 1 << 16]).collect();
        far.send_all(vec![Bytes::from(vec![0x55; 1 << 15])]).await.unwrap();
        runtime::sleep(Duration::from_millis(20)).await;
        assert!(bystanders.iter().flatten().all(|byte| *byte == 0xaa));
        far.send_all(vec![Bytes::from_static(b"next")]).await.unwrap();
        let (result, buf) = near.recv(BytesMut::with_capacity(64)).await;
        assert_eq!(result.unwrap(), 4, "the first message went to the receive without a waiter");
        assert_eq!(&buf[..], b"next");
    });
}

#[test]
fn dropped_socket_closes_though_a_receive_is_in_flight() {
    on_each_engine(|| async {
        let (near, far) = pair();
        let mut receive = Box::pin(near.recv(BytesMut::with_capacity(64)));
        assert!(futures_util::poll!(&mut receive).is_pending());
        drop(receive);
        drop(near);
        let (result, _) = far.recv(BytesMut::with_capacity(64)).await;
        assert_eq!(result.unwrap(), 0);
    });
}

#[test]
fn send_given_up_half_way_is_the_last_one() {
    on_each_engine(|| async {
        let (near, _far) = pair();
        let mut send = Box::pin(near.send_all(vec![Bytes::from(vec![1; 8 << 20])]));
        assert!(futures_util::poll!(&mut send).is_pending());
        drop(send);
        assert!(near.send_all(vec![Bytes::from_static(b"x")]).await.is_err());
    });
}

#[test]
fn both_directions_wait_on_one_socket() {
    on_each_engine(|| async {
        let (near, far) = pair();
        let big = Bytes::from(vec![7; 4 << 20]);
        let send = near.send_all(vec![big.clone()]);
        let receive = near.recv(BytesMut::with_capacity(16));
        let peer = async {
            runtime::sleep(Duration::from_millis(10)).await;
            far.send_all(vec![Bytes::from_static(b"hi")]).await.unwrap();
            let mut left = big.len();
            while left > 0 {
                let (result, _) = far.recv(BytesMut::with_capacity(1 << 16)).await;
                left -= result.unwrap();
            }
        };
        let ((sent, (received, buf)), ()) = join(join(send, receive), peer).await;
        sent.unwrap();
        assert_eq!(received.unwrap(), 2);
        assert_eq!(&buf[..], b"hi");
    });
}

/// More receives than the ring has entries for: the store goes on beside them, and each gets its
/// turn.
#[test]
fn silent_peers_do_not_keep_the_store_waiting() {
    const RECEIVES: usize = 8000;
    on_each_engine(|| async {
        let (near, far) = pair();
        let mut receives: Vec<_> =
            (0..RECEIVES).map(|_| near.recv(BytesMut::with_capacity(1)).boxed_local()).collect();
        for receive in &mut receives {
            assert!(futures_util::poll!(receive).is_pending());
        }
        let scratch = scratch();
        let file = File::open(&scratch.path, Some(PAGE as u64)).unwrap();
        file.write(0, WriteBuf::Owned(page(1))).await.unwrap();
        file.sync().await.unwrap();
        far.send_all(vec![Bytes::from(vec![1; RECEIVES])]).await.unwrap();
        for (result, buf) in join_all(receives).await {
            assert_eq!(result.unwrap(), buf.len());
            assert_eq!(buf.len(), 1);
        }
    });
}

#[test]
fn runtime_ends_with_receives_in_flight() {
    for engine in [Backend::Uring, Backend::Threads] {
        let Ok(runtime) = Runtime::new(engine) else { continue };
        let far = runtime.block_on(async {
            let mut far = Vec::new();
            for _ in 0..600 {
                let (near, peer) = UnixStream::pair().unwrap();
                let near = Socket::new(near.into());
                runtime::spawn(async move {
                    let _ = near.recv(BytesMut::with_capacity(64)).await;
                    unreachable!("nothing is ever sent");
                });
                far.push(peer);
            }
            runtime::yield_now().await;
            far
        });
        let begun = std::time::Instant::now();
        drop(runtime);
        assert!(begun.elapsed() < Duration::from_secs(5));
        for mut peer in far {
            assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0, "the near end is closed");
        }
    }
}

#[test]
fn spinning_runtime_serves_too() {
    for engine in [Backend::Uring, Backend::Threads] {
        let Ok(runtime) = Runtime::new(engine) else { continue };
        runtime.set_spin(Duration::from_millis(5));
        runtime.block_on(async {
            let (near, mut far) = UnixStream::pair().unwrap();
            let near = Socket::new(near.into());
            let thread = std::thread::spawn(move || {
                let mut byte = [0];
                for pause_ms in [0, 1, 0, 20, 0] {
                    std::thread::sleep(Duration::from_millis(pause_ms));
                    far.write_all(&[9]).unwrap();
                    far.read_exact(&mut byte).unwrap();
                }
            });
            for _ in 0..5 {
                let (result, buf) = near.recv(BytesMut::with_capacity(16)).await;
                assert_eq!(result.unwrap(), 1);
                near.send_all(vec![buf.freeze()]).await.unwrap();
            }
            thread.join().unwrap();
        });
    }
}
