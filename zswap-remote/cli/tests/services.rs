//! The program with `--backing` on real servers: what it prints, and what it leaves on them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure is the test's own message"
)]

// The servers of the tests of zswap-remote.
#[path = "../../tests/common/mod.rs"]
mod common;

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Output, Stdio};

use common::redis_server::RedisServer;
use common::s3_server::{BUCKET, S3Server};

const SECRET: &str = "correct-horse-battery";

fn zswap(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_zswap"));
    for variable in ["ZSWAP_REDIS_PASSWORD", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
        command.env_remove(variable);
    }
    command.args(arguments);
    command
}

/// The sample of the program needs more than a MiB, so a part of it goes to the service.
fn compare(url: &str, more: &[&str]) -> Command {
    let mut command = zswap(&["compare", "--rounds", "1", "--zpool", "zsmalloc"]);
    command.args(["--compressor", "lz4", "--backing", url]);
    command.args(["--max-pool-mib", "0"]).args(more);
    command
}

fn text(output: &Output) -> String {
    let both =
        [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    // The report breaks its lines where the terminal ends.
    both.concat().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn compare_writes_back_to_redis_encrypted_and_leaves_nothing() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let output = compare(&server.url(), &[]).output().unwrap();
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("on a service, encrypted") && said.contains("every page equal"),
        "{said}"
    );
    assert_eq!(server.number(&["DBSIZE"]), 0);
    let plain = text(&compare(&server.url(), &["--plain"]).output().unwrap());
    assert!(plain.contains("on a service, not encrypted"), "{plain}");
}

#[test]
fn compare_takes_the_password_from_the_environment_and_says_what_failed_without_it() {
    let Some(server) = RedisServer::start(&["--requirepass", SECRET]) else { return };
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{SECRET}\n")).unwrap();
    let mut command = compare(&server.url(), &[]);
    let output = command.env("ZSWAP_REDIS_PASSWORD_FILE", file.path()).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let output = compare(&server.url(), &[]).output().unwrap();
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("FAILED") && said.contains("refuses user, password"), "{said}");
    let url = server.url().replace("redis://", &format!("redis://:{SECRET}@"));
    let output = compare(&url, &[]).output().unwrap();
    let said = text(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("ZSWAP_REDIS_PASSWORD") && !said.contains(SECRET), "{said}");
}

#[test]
fn a_disk_writes_back_to_s3() {
    let Some(server) = S3Server::start() else { return };
    let url = format!("s3://{BUCKET}/disks");
    let nbd = |more: &[&str]| {
        let mut command = zswap(&["nbd", "--size", "16M", "--listen", "127.0.0.1:0"]);
        command.args(["--backing", &url, "--idle", "1"]).args(more);
        command.env("AWS_ACCESS_KEY_ID", "anybody").env("AWS_SECRET_ACCESS_KEY", SECRET);
        command.env("AWS_ENDPOINT_URL", format!("http://{}", server.address()));
        command
    };
    writes_back(nbd(&[]));
    writes_back(nbd(&["--plain"]));
}

#[test]
fn a_disk_writes_back_to_a_file_that_is_gone_afterwards() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pages");
    let mut nbd = zswap(&["nbd", "--size", "16M", "--listen", "127.0.0.1:0", "--idle", "1"]);
    nbd.arg("--backing").arg(&file);
    writes_back(nbd);
    assert!(!file.exists());
}

/// Starts the server, writes pages to its disk, and checks that they are written back and can be read.
fn writes_back(mut nbd: Command) {
    let mut child = nbd.stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    let address = line.split("nbd://").nth(1).and_then(|rest| rest.split(',').next()).unwrap();
    let mut disk = client::Disk::connect(address);
    let pages: Vec<_> = (0..64).map(common::page).collect();
    disk.write(0, &pages.concat());
    // After two rounds of a second each, all pages are idle and written.
    std::thread::sleep(std::time::Duration::from_secs(4));
    let back = disk.read(0, 64 * 4096);
    assert!(back == pages.concat());
    disk.end();
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    assert!(child.wait().unwrap().success());
    let mut said = String::new();
    output.read_to_string(&mut said).unwrap();
    assert!(said.contains("64 pages were on the backing device"), "{said}");
    assert!(!said.contains("failed, at last"), "{said}");
}

/// As much of an NBD client as the test needs.
mod client {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    pub(super) struct Disk(TcpStream);

    impl Disk {
        /// Connects, with the fixed newstyle handshake, to the export without a name.
        pub(super) fn connect(address: &str) -> Self {
            let mut socket = TcpStream::connect(address).unwrap();
            let mut hello = [0; 18];
            socket.read_exact(&mut hello).unwrap();
            assert_eq!(&hello[..16], b"NBDMAGICIHAVEOPT");
            // Fixed newstyle, and no zeros after the export's size. Then NBD_OPT_EXPORT_NAME with an empty name.
            let mut request = 3_u32.to_be_bytes().to_vec();
            request.extend(b"IHAVEOPT");
            request.extend(1_u32.to_be_bytes());
            request.extend(0_u32.to_be_bytes());
            socket.write_all(&request).unwrap();
            let mut export = [0; 10];
            socket.read_exact(&mut export).unwrap();
            Disk(socket)
        }

        fn request(&mut self, kind: u16, offset: u64, len: usize, data: &[u8]) {
            let mut request = 0x2560_9513_u32.to_be_bytes().to_vec();
            request.extend(0_u16.to_be_bytes());
            request.extend(kind.to_be_bytes());
            request.extend(7_u64.to_be_bytes());
            request.extend(offset.to_be_bytes());
            request.extend((len as u32).to_be_bytes());
            request.extend(data);
            self.0.write_all(&request).unwrap();
        }

        fn reply(&mut self) {
            let mut reply = [0; 16];
            self.0.read_exact(&mut reply).unwrap();
            assert_eq!(reply[..8], [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0]);
        }

        pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
            self.request(1, offset, data.len(), data);
            self.reply();
        }

        pub(super) fn read(&mut self, offset: u64, len: usize) -> Vec<u8> {
            self.request(0, offset, len, &[]);
            self.reply();
            let mut data = vec![0; len];
            self.0.read_exact(&mut data).unwrap();
            data
        }

        pub(super) fn end(mut self) {
            self.request(2, 0, 0, &[]);
        }
    }
}

#[test]
fn what_cannot_be_used_is_refused_before_anything_is_measured() {
    let refused = |url: &str, more: &[&str], what: &str| {
        let output = compare(url, more).output().unwrap();
        let said = text(&output);
        assert!(output.status.code() == Some(2) && said.contains(what), "{said}");
        assert_eq!(said.matches("zswap:").count(), 1, "{said}");
    };
    refused("ftp://x", &[], "redis, s3");
    refused("s3://bucket", &[], "AWS_ACCESS_KEY_ID");
    refused("redis://h:x/0", &[], "host and port");
    refused("pages.bin", &["--plain"], "leave --plain out");
}
