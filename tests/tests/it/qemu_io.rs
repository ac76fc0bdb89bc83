//! `qemu-io`: odd offsets, FUA, zeroes and discards, each read back with its pattern.

use sandstone_tests::{Finished, Program, Server, Volume, needs};

fn qemu_io(server: &Server, volume: &Volume, commands: &[&str]) -> Finished {
    let commands = commands.iter().flat_map(|c| ["-c", c]);
    let finished = Program::new("qemu-io")
        .args(["-f", "raw", "-t", "none", "-d", "unmap"])
        .args(commands)
        .arg(server.uri(volume))
        .ok();
    // qemu-io exits with 0 after a wrong pattern in some of its versions.
    let said = format!("{}{}", finished.stdout, finished.stderr);
    assert!(!said.contains("verification failed") && !said.contains("error"), "{finished}");
    finished
}

#[test]
fn odd_offsets_hold_what_was_written() {
    if !needs(&["qemu-io"]) {
        return;
    }
    let server = Server::start();
    let volume = server.volume("16M");
    qemu_io(
        &server,
        &volume,
        &[
            "write -P 0x11 0 1M",
            "write -P 0x22 513 4097",
            "write -P 0x33 4095 2",
            "write -P 0x44 1048575 1",
            "write -P 0x55 16777215 1",
            "read -P 0x11 0 513",
            "read -P 0x22 513 3582",
            "read -P 0x33 4095 2",
            "read -P 0x22 4097 513",
            "read -P 0x11 4610 1043965",
            "read -P 0x44 1048575 1",
            "read -P 0 1048576 15728639",
            "read -P 0x55 16777215 1",
        ],
    );
    // And once more by another process, from another connection.
    qemu_io(&server, &volume, &["read -P 0x22 513 3582", "read -P 0x55 16777215 1"]);
}

#[test]
fn fua_writes_are_there_after_kill() {
    if !needs(&["qemu-io"]) {
        return;
    }
    let mut server = Server::start();
    let volumes = [false, true].map(|writeback| server.volume_writeback("16M", writeback));
    for volume in &volumes {
        qemu_io(&server, volume, &["write -f -P 0x61 12345 67890", "write -f -P 0x62 8M 1M"]);
    }
    server.kill();
    server.lose_staging();
    server.start_again().unwrap();
    for volume in &volumes {
        qemu_io(
            &server,
            volume,
            &[
                "read -P 0 0 12345",
                "read -P 0x61 12345 67890",
                "read -P 0 80235 1M",
                "read -P 0x62 8M 1M",
            ],
        );
    }
}

#[test]
fn zeroes_and_discards_read_as_zeroes() {
    if !needs(&["qemu-io"]) {
        return;
    }
    let server = Server::start();
    let volume = server.volume("64M");
    qemu_io(
        &server,
        &volume,
        &[
            "write -P 0x77 0 32M",
            "write -z 1000 100000",   // zeroes, NO_HOLE
            "write -z -u 5M 1048577", // zeroes that may be a hole
            "discard 10M 4M",
            "write -z -f 20M 4096",
            "discard 31457281 1048575",
            "read -P 0x77 0 1000",
            "read -P 0 1000 100000",
            "read -P 0x77 101000 5141880",
            "read -P 0 5M 1048577",
            "read -P 0x77 6291457 4194303",
            "read -P 0 10M 4M",
            "read -P 0x77 14M 6M",
            "read -P 0 20M 4096",
            "read -P 0x77 20975616 10481665",
            "read -P 0 32M 32M",
            "flush",
        ],
    );
    let used = server.describe(&volume)["used_bytes"].as_u64().unwrap();
    assert!(used <= 28 << 20, "{used} bytes used after a discard of 4 MiB out of 32");
}

#[test]
fn requests_in_flight_at_once_do_not_mix() {
    if !needs(&["qemu-io"]) {
        return;
    }
    let server = Server::start();
    let volume = server.volume("16M");
    let writes: Vec<String> =
        (0..64).map(|i| format!("aio_write -P {} {}k 64k", i + 1, i * 64)).collect();
    let reads: Vec<String> =
        (0..64).map(|i| format!("read -P {} {}k 64k", i + 1, i * 64)).collect();
    let mut commands: Vec<&str> = writes.iter().map(String::as_str).collect();
    commands.push("aio_flush");
    commands.extend(reads.iter().map(String::as_str));
    qemu_io(&server, &volume, &commands);
}
