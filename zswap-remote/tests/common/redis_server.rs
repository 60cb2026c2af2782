//! A Redis server that a test starts, kills and starts again.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{NOT_RUN, eventually};

pub struct RedisServer {
    child: Option<Child>,
    port: u16,
    arguments: Vec<String>,
    folder: tempfile::TempDir,
}

impl RedisServer {
    /// Starts a server that keeps its data in memory only, with more arguments. Returns `None`, and says so, if no
    /// server is installed.
    pub fn start(arguments: &[&str]) -> Option<Self> {
        if Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_err() {
            println!(
                "{NOT_RUN} redis-server is not installed; run `sudo apt-get install -y redis-server`"
            );
            return None;
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let folder = tempfile::tempdir().unwrap();
        let mut server = RedisServer { child: None, port, arguments, folder };
        server.restart();
        Some(server)
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    pub fn url(&self) -> String {
        format!("redis://{}/0", self.address())
    }

    /// Kills the server, if it runs, as by SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Kills the server and starts it again in the same folder.
    pub fn restart(&mut self) {
        self.kill();
        let child = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .args(["--loglevel", "warning"])
            .args(&self.arguments)
            .current_dir(self.folder.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
        eventually("the server listens", || TcpStream::connect(self.address()).is_ok());
        if !self.arguments.iter().any(|argument| argument == "--requirepass") {
            eventually("the server has loaded its data", || {
                self.client().is_some_and(|mut c| redis::cmd("PING").exec(&mut c).is_ok())
            });
        }
    }

    /// Stops or continues the process of the server, which keeps its connections.
    pub fn signal(&self, signal: &str) {
        let id = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }

    /// Returns a connection for the test's own commands.
    pub fn client(&self) -> Option<redis::Connection> {
        let client = redis::Client::open(self.url()).unwrap();
        client.get_connection_with_timeout(Duration::from_secs(5)).ok()
    }

    /// Runs a command and returns the reply as a number.
    pub fn number(&self, command: &[&str]) -> u64 {
        let mut request = redis::cmd(command[0]);
        request.arg(&command[1..]);
        request.query(&mut self.client().unwrap()).unwrap()
    }

    /// Runs a command.
    pub fn run(&self, command: &[&str]) {
        let mut request = redis::cmd(command[0]);
        request.arg(&command[1..]);
        request.exec(&mut self.client().unwrap()).unwrap();
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}
