//! An S3 server that a test starts, kills and starts again: moto, which keeps its data in memory.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use super::{NOT_RUN, eventually};

/// The bucket of the tests.
pub const BUCKET: &str = "pages";

pub struct S3Server {
    program: OsString,
    child: Option<Child>,
    address: SocketAddr,
}

impl S3Server {
    /// Starts a server with an empty bucket. Returns `None`, and says so, if no server is installed.
    pub fn start() -> Option<Self> {
        let program = std::env::var_os("ZSWAP_REMOTE_MOTO").unwrap_or("moto_server".into());
        let mut probe = Command::new(&program);
        probe.arg("--help").stdout(Stdio::null()).stderr(Stdio::null());
        if !probe.status().is_ok_and(|status| status.success()) {
            println!(
                "{NOT_RUN} moto_server is not installed; run `cargo xtask remote --install`, or install \
                 moto[s3,server] with pip and set ZSWAP_REMOTE_MOTO to its moto_server"
            );
            return None;
        }
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut server = S3Server { program, child: None, address };
        server.restart();
        Some(server)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Kills the server and starts it again, with an empty bucket.
    pub fn restart(&mut self) {
        self.kill();
        let child = Command::new(&self.program)
            .args(["-H", "127.0.0.1", "-p", &self.address.port().to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
        eventually("the bucket is made", || self.make_bucket().is_ok_and(|made| made));
    }

    fn make_bucket(&self) -> std::io::Result<bool> {
        let mut socket = TcpStream::connect(self.address)?;
        let request = format!(
            "PUT /{BUCKET} HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            self.address
        );
        socket.write_all(request.as_bytes())?;
        let mut reply = String::new();
        socket.read_to_string(&mut reply)?;
        Ok(reply.starts_with("HTTP/1.1 200"))
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.kill();
    }
}
