//! `zswap nbd` with independent clients: QEMU's and libnbd's, and with a file system on the disk.
//!
//! A test whose client is not installed says so and is skipped. `cargo xtask nbd` installs all clients
//! and sets `ZSWAP_NBD_CLIENTS=all`. With that, a missing client is a failure.

#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a failure in a test's helper is the test's own message, and so is a client that is missing"
)]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// A directory for one test.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("nbd-{name}"));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Dir(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A server; killed on drop.
struct Served {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
    /// The URI at which it serves.
    uri: String,
}

impl Served {
    fn start(args: &[&str]) -> Served {
        let mut child = Command::new(env!("CARGO_BIN_EXE_zswap"))
            .arg("nbd")
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let uri = line.split(" at ").nth(1).and_then(|rest| rest.split(',').next());
        let uri = uri.unwrap_or_else(|| panic!("{line}")).to_owned();
        Served { child, output, uri }
    }

    /// Ends the server with a signal. Returns what it printed after its first line.
    fn end(mut self, signal: &str) -> String {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
        assert!(self.child.wait().unwrap().success());
        let mut last = String::new();
        self.output.read_to_string(&mut last).unwrap();
        last
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns whether these clients are installed. If `ZSWAP_NBD_CLIENTS` is set, fails if one is missing.
fn installed(clients: &[&str]) -> bool {
    let missing = |client: &&&str| Command::new(client).arg("--version").output().is_err();
    let Some(client) = clients.iter().find(missing) else { return true };
    assert!(std::env::var_os("ZSWAP_NBD_CLIENTS").is_none(), "{client} is not installed");
    eprintln!("{client} is not installed: this test is skipped; `cargo xtask nbd` installs it");
    false
}

fn run(program: &str, args: &[&str]) -> Output {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
    output
}

/// Writes a disk image with pages of words, zeros and noise to `path`. Returns its bytes.
fn image(path: &str, pages: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(pages * 4096);
    let mut word = 0x9E37_79B9_7F4A_7C15u64;
    for page in 0..pages {
        for at in 0..512 {
            word = word.wrapping_mul(0x2545_F491_4F6C_DD1D).rotate_left(17) ^ at;
            let value = match page % 4 {
                0 => 0,
                1 => word,
                2 => at * 0x0101_0101,
                _ => page as u64,
            };
            bytes.extend(value.to_le_bytes());
        }
    }
    fs::write(path, &bytes).unwrap();
    bytes
}

#[test]
fn an_image_goes_in_and_comes_out_by_qemus_client() {
    if !installed(&["qemu-img", "qemu-io"]) {
        return;
    }
    let dir = Dir::new("qemu");
    let (from, to) = (dir.path("in.raw"), dir.path("out.raw"));
    let bytes = image(&from, 4096);
    for place in [vec!["--listen", "127.0.0.1:0"], vec!["--unix", &dir.path("socket")]] {
        let args = [&["--size", "16M", "--compressor", "zstd"], &place[..]].concat();
        let served = Served::start(&args);
        run("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", &from, &served.uri]);
        run("qemu-img", &["convert", "-f", "raw", "-O", "raw", &served.uri, &to]);
        assert!(fs::read(&to).unwrap() == bytes);
        run("qemu-img", &["compare", "-f", "raw", "-F", "raw", &from, &served.uri]);
        // The requests have odd offsets, and include trim and write zeroes.
        let commands = "write -P 7 5000 3000;read -P 7 5000 3000;discard 0 8192;read -P 0 0 5000;\
                        write -z 12288 777;read -P 0 12288 777;flush";
        let mut args = vec!["-f", "raw", &served.uri];
        commands.split(';').for_each(|command| args.extend(["-c", command]));
        let output = run("qemu-io", &args);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!said.contains("verification failed"), "{said}");
        let last = served.end("-TERM");
        assert!(last.starts_with("served ") && last.contains("of which 0 failed"), "{last}");
        assert!(!Path::new(&dir.path("socket")).exists());
    }
}

#[test]
fn an_image_goes_in_and_comes_out_by_libnbds_client() {
    if !installed(&["nbdcopy", "nbdinfo"]) {
        return;
    }
    let dir = Dir::new("libnbd");
    let (from, to) = (dir.path("in.raw"), dir.path("out.raw"));
    let bytes = image(&from, 4096);
    let served = Served::start(&["--size", "16M", "--listen", "127.0.0.1:0"]);
    let info = run("nbdinfo", &["--size", &served.uri]);
    assert_eq!(String::from_utf8_lossy(&info.stdout).trim(), (16 << 20).to_string());
    run("nbdinfo", &[&served.uri]);
    // Uses several connections, with many requests in flight on each.
    run("nbdcopy", &["--connections=4", &from, &served.uri]);
    run("nbdcopy", &["--connections=4", &served.uri, &to]);
    assert!(fs::read(&to).unwrap() == bytes);
    let last = served.end("-INT");
    assert!(last.contains("of which 0 failed"), "{last}");
}

#[test]
fn a_file_system_survives_the_way_in_and_out() {
    if !installed(&["qemu-img"]) || !has_ext4() {
        return;
    }
    let dir = Dir::new("ext4");
    let (from, to) = (dir.path("in.raw"), dir.path("out.raw"));
    fs::File::create(&from).unwrap().set_len(32 << 20).unwrap();
    let content = dir.path("content");
    fs::create_dir(&content).unwrap();
    for n in 0..40 {
        fs::write(format!("{content}/{n}"), format!("file {n} ").repeat(n * 300)).unwrap();
    }
    run("mke2fs", &["-q", "-t", "ext4", "-d", &content, &from]);
    let served = Served::start(&["--size", "32M", "--unix", &dir.path("socket")]);
    run("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", &from, &served.uri]);
    run("qemu-img", &["convert", "-f", "raw", "-O", "raw", &served.uri, &to]);
    run("e2fsck", &["-f", "-n", &to]);
    assert!(fs::read(&from).unwrap() == fs::read(&to).unwrap());
    served.end("-TERM");
}

/// Returns whether `mke2fs` and `e2fsck` are installed. They print their version with `-V`. If
/// `ZSWAP_NBD_CLIENTS` is set, fails if one is missing.
fn has_ext4() -> bool {
    let there = |tool: &str| Command::new(tool).arg("-V").output().is_ok();
    let both = there("mke2fs") && there("e2fsck");
    assert!(both || std::env::var_os("ZSWAP_NBD_CLIENTS").is_none(), "e2fsprogs is not installed");
    if !both {
        eprintln!(
            "e2fsprogs is not installed: this test is skipped; `cargo xtask nbd` installs it"
        );
    }
    both
}

/// Checks that a client gets the greeting.
fn says_hello(mut stream: impl Read) {
    let mut hello = [0; 16];
    stream.read_exact(&mut hello).unwrap();
    assert_eq!(&hello, b"NBDMAGICIHAVEOPT");
}

#[test]
fn a_socket_is_its_owners_alone_and_goes_with_its_server() {
    let dir = Dir::new("socket");
    let path = dir.path("socket");
    for signal in ["-TERM", "-INT"] {
        let served = Served::start(&["--size", "1M", "--unix", &path]);
        assert_eq!(served.uri, format!("nbd+unix:///?socket={path}"));
        let file = fs::symlink_metadata(&path).unwrap();
        assert!(file.file_type().is_socket());
        assert_eq!(file.permissions().mode() & 0o777, 0o600);
        let stays = UnixStream::connect(&path).unwrap();
        says_hello(&stays);
        // A second server does not replace the first.
        refused(&["--size", "1M", "--unix", &path], "choose another place");
        says_hello(UnixStream::connect(&path).unwrap());
        let last = served.end(signal);
        assert!(last.starts_with("served 2 clients"), "{last}");
        assert!(fs::symlink_metadata(&path).is_err());
    }
}

#[test]
fn what_is_at_a_sockets_path_and_is_not_its_own_stays() {
    let dir = Dir::new("others");
    // A killed server leaves its socket behind.
    let (stale, path) = (dir.path("stale"), dir.path("socket"));
    drop(UnixListener::bind(&stale).unwrap());
    refused(&["--size", "1M", "--unix", &stale], "choose another place");
    assert!(fs::symlink_metadata(&stale).unwrap().file_type().is_socket());

    let served = Served::start(&["--size", "1M", "--unix", &path]);
    fs::remove_file(&path).unwrap();
    let next = Served::start(&["--size", "1M", "--unix", &path]);
    served.end("-TERM");
    says_hello(UnixStream::connect(&path).unwrap());
    next.end("-TERM");
    assert!(fs::symlink_metadata(&path).is_err());

    let served = Served::start(&["--size", "1M", "--unix", &path]);
    fs::remove_file(&path).unwrap();
    served.end("-TERM");
}

#[test]
fn other_machines_are_served_if_that_is_asked_for() {
    let served = Served::start(&["--size", "1M", "--listen", "0.0.0.0:0", "--any-address"]);
    let port = served.uri.strip_prefix("nbd://0.0.0.0:").unwrap().parse().unwrap();
    says_hello(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap());
    served.end("-TERM");
}

/// Checks that no server starts, and that one line says why.
fn refused(args: &[&str], says: &str) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_zswap"))
        .arg("nbd")
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    if !first.is_empty() {
        let _ = child.kill();
    }
    let output = child.wait_with_output().unwrap();
    assert!(first.is_empty(), "{args:?}: {first}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
    assert!(said.contains(says) && said.lines().count() == 1, "{args:?}: {said}");
}

#[test]
fn what_cannot_be_served_is_one_line() {
    let dir = Dir::new("wrong");
    let taken = dir.path("taken");
    fs::write(&taken, "somebody's").unwrap();
    // Else the file is refused because others may read it.
    fs::set_permissions(&taken, fs::Permissions::from_mode(0o600)).unwrap();
    let new = dir.path("new");
    let wrong = [
        (vec!["--size", "1000"], "multiple of 4096"),
        (vec!["--size", "lots"], "K, M, G or T"),
        (vec!["--size", "1M", "--listen", "0.0.0.0:0"], "--any-address"),
        (vec!["--size", "1M", "--listen", "[::]:0"], "--any-address"),
        (vec!["--size", "1M", "--unix", &taken], "choose another place"),
        (vec!["--size", "1M", "--compressor", "zip"], "lz4"),
        (vec!["--size", "1M", "--zpool", "zlab"], "zsmalloc"),
        (vec!["--size", "1M", "--backing", "s3://bucket/disk"], "zswap-remote/cli"),
        (vec!["--size", "1M", "--backing", "s3://bucket/disk", "--plain"], "zswap-remote/cli"),
        (vec!["--size", "1M", "--backing", &new, "--plain"], "leave --plain out"),
        (vec!["--size", "1M", "--backing", &taken], "empty"),
        (vec!["--size", "1M", "--backing", &new, "--idle", "0"], "--idle"),
        (vec!["--size", "1M", "--idle", "5"], "--backing"),
        (vec![], "--size"),
    ];
    for (args, says) in wrong {
        refused(&args, says);
    }
    assert_eq!(fs::read(&taken).unwrap(), b"somebody's");
}
