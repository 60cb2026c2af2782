//! A service for Redis, besides OpenDAL's own.
//!
//! OpenDAL's service asks for the length of a value and pings the server before it reads a range: five round trips
//! instead of one. It cannot list keys, so what a killed process left could not be found. And to it a full server is a
//! failure like any other. This service reads with one GETRANGE, lists with SCAN, and says when the server is full. All
//! requests of a kind share one connection, on which the client does not wait for one reply before it sends the next
//! request. Reads have a connection of their own, so that they do not wait behind writes.

use core::fmt;
use core::time::Duration;
use std::sync::Arc;

use opendal::raw::{
    OpCopy, OpCreateDir, OpDelete, OpList, OpPresign, OpRead, OpRename, OpStat, OpWrite,
    RpCreateDir, RpPresign, RpRead, RpRename, RpStat, Service, ServiceInfo, oio,
};
use opendal::{
    Buffer, BytesRange, Capability, Error, ErrorKind, Metadata, MetadataBuilder, OperationContext,
    Operator, Result,
};
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, FromRedisValue, IntoConnectionInfo,
    ProtocolVersion, RedisConnectionInfo, RedisError,
};
use tokio::sync::Mutex;

use crate::fault;

/// The most keys of one UNLINK.
const KEYS_OF_A_DELETE: usize = 128;
/// How many keys a step of SCAN visits.
const KEYS_OF_A_SCAN: usize = 1000;

/// A server, and the place of the keys on it.
pub(crate) struct Server {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) database: i64,
    /// All keys begin with this and a slash, unless it is empty.
    pub(crate) prefix: String,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<String>,
}

/// Makes an operator. Connects when the first request is made.
pub(crate) fn operator(server: &Server, attempt_timeout: Duration) -> Result<Operator> {
    let mut settings =
        RedisConnectionInfo::default().set_db(server.database).set_protocol(ProtocolVersion::RESP2);
    if let Some(username) = &server.username {
        settings = settings.set_username(username);
    }
    if let Some(password) = &server.password {
        settings = settings.set_password(password);
    }
    let address = ConnectionAddr::Tcp(server.host.clone(), server.port);
    let address = address.into_connection_info().map_err(|error| failure(&error))?;
    let client =
        Client::open(address.set_redis_settings(settings)).map_err(|error| failure(&error))?;
    // A little less than the time-out of an attempt, so that this service sees it and replaces the connection.
    let limit = attempt_timeout.mul_f64(0.9);
    let root = if server.prefix.is_empty() { String::new() } else { format!("{}/", server.prefix) };
    let core = Core { root, reads: Line::new(&client, limit), others: Line::new(&client, limit) };
    Operator::new(Builder(Some(Arc::new(core))))
}

/// One connection, which is made when it is needed, and again when it is lost.
struct Line {
    client: Client,
    limit: Duration,
    now: Mutex<Connection>,
}

#[derive(Default)]
struct Connection {
    open: Option<MultiplexedConnection>,
    /// Counts the connections.
    number: u64,
}

impl Line {
    fn new(client: &Client, limit: Duration) -> Self {
        Line { client: client.clone(), limit, now: Mutex::default() }
    }

    /// Sends a command and returns its reply.
    async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T> {
        let (mut connection, number) = self.connection().await.map_err(|error| failure(&error))?;
        match command.query_async(&mut connection).await {
            Ok(reply) => Ok(reply),
            Err(error) => {
                // After a failover this may be a connection to a server that only reads now, which stays open.
                let elsewhere =
                    matches!(error.code(), Some("READONLY" | "MASTERDOWN" | "NOAUTH" | "LOADING"));
                if elsewhere
                    || error.is_io_error()
                    || error.is_connection_dropped()
                    || error.is_timeout()
                {
                    let mut now = self.now.lock().await;
                    if now.number == number {
                        now.open = None;
                    }
                }
                Err(failure(&error))
            }
        }
    }

    async fn connection(&self) -> redis::RedisResult<(MultiplexedConnection, u64)> {
        let mut now = self.now.lock().await;
        if let Some(open) = &now.open {
            return Ok((open.clone(), now.number));
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.limit))
            .set_response_timeout(Some(self.limit));
        let open = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        now.number += 1;
        now.open = Some(open.clone());
        Ok((open, now.number))
    }
}

/// Turns an error of the client into one of OpenDAL. The server's text is left out, except its first word, since it may
/// repeat a part of the command.
fn failure(error: &RedisError) -> Error {
    let code = error.code().unwrap_or_default();
    match code {
        "OOM" => return Error::new(ErrorKind::Unexpected, fault::FULL),
        "NOAUTH" | "WRONGPASS" | "NOPERM" => {
            let text = format!("the server refuses user, password or command ({code})");
            return Error::new(ErrorKind::PermissionDenied, text);
        }
        _ => {}
    }
    if error.kind() == redis::ErrorKind::AuthenticationFailed {
        let text = "the server refuses user or password";
        return Error::new(ErrorKind::PermissionDenied, text);
    }
    let busy = ["LOADING", "BUSY", "TRYAGAIN", "MASTERDOWN", "CLUSTERDOWN"].contains(&code);
    let lost = error.is_io_error() || error.is_connection_dropped() || error.is_timeout();
    let category = error.category();
    let text = if code.is_empty() { category.to_owned() } else { format!("{category} ({code})") };
    let text = if error.is_timeout() { "timeout".to_owned() } else { text };
    let failure = Error::new(ErrorKind::Unexpected, text).with_temporary(busy || lost);
    // The system's error says whether the server refused the connection, for example.
    match core::error::Error::source(error)
        .and_then(|source| source.downcast_ref::<std::io::Error>())
    {
        Some(system) => failure.set_source(match system.raw_os_error() {
            Some(code) => std::io::Error::from_raw_os_error(code),
            None => std::io::Error::from(system.kind()),
        }),
        None => failure,
    }
}

struct Core {
    /// What all keys begin with.
    root: String,
    reads: Line,
    others: Line,
}

impl Core {
    fn key(&self, path: &str) -> String {
        format!("{}{path}", self.root)
    }

    async fn delete(&self, paths: impl Iterator<Item = &str>) -> Result<()> {
        let mut command = redis::cmd("UNLINK");
        for path in paths {
            command.arg(self.key(path));
        }
        self.others.ask::<u64>(&command).await.map(drop)
    }
}

/// OpenDAL requires a builder that can be made from nothing. Such a one builds nothing.
#[derive(Default)]
struct Builder(Option<Arc<Core>>);

impl opendal::Builder for Builder {
    type Config = ();

    fn build(self) -> Result<impl Service> {
        let nothing = || Error::new(ErrorKind::ConfigInvalid, "no server is given");
        self.0.map(Redis).ok_or_else(nothing)
    }
}

struct Redis(Arc<Core>);

impl fmt::Debug for Redis {
    /// Shows no address and no password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Redis")
    }
}

fn unsupported<T>() -> Result<T> {
    Err(Error::new(ErrorKind::Unsupported, "the service for Redis does not do this"))
}

impl Service for Redis {
    type Reader = Reader;
    type Writer = oio::OneShotWriter<Writer>;
    type Lister = oio::HierarchyLister<oio::PageLister<Keys>>;
    type Deleter = oio::BatchDeleter<Deleter>;
    type Copier = ();
    type Composer = ();

    fn info(&self) -> ServiceInfo {
        ServiceInfo::new("redis", "/", "")
    }

    fn capability(&self) -> Capability {
        Capability {
            read: true,
            write: true,
            write_can_empty: true,
            delete: true,
            delete_max_size: Some(KEYS_OF_A_DELETE),
            stat: true,
            list: true,
            list_with_recursive: true,
            shared: true,
            ..Capability::default()
        }
    }

    async fn create_dir(
        &self,
        _: &OperationContext,
        _: &str,
        _: OpCreateDir,
    ) -> Result<RpCreateDir> {
        unsupported()
    }

    async fn stat(&self, _: &OperationContext, path: &str, _: OpStat) -> Result<RpStat> {
        // A key without a value does not exist, and STRLEN returns 0 for it.
        let length: u64 = self.0.reads.ask(redis::cmd("STRLEN").arg(self.0.key(path))).await?;
        if length == 0 {
            return Err(Error::new(ErrorKind::NotFound, "no such key"));
        }
        Ok(RpStat::new(MetadataBuilder::file(length).build()))
    }

    fn read(&self, _: &OperationContext, path: &str, _: OpRead) -> Result<Reader> {
        Ok(Reader { core: self.0.clone(), key: self.0.key(path) })
    }

    fn write(&self, _: &OperationContext, path: &str, _: OpWrite) -> Result<Self::Writer> {
        Ok(oio::OneShotWriter::new(Writer { core: self.0.clone(), key: self.0.key(path) }))
    }

    fn delete(&self, _: &OperationContext) -> Result<Self::Deleter> {
        Ok(oio::BatchDeleter::new(Deleter(self.0.clone()), Some(KEYS_OF_A_DELETE)))
    }

    fn list(&self, _: &OperationContext, path: &str, args: OpList) -> Result<Self::Lister> {
        let keys = Keys { core: self.0.clone(), prefix: path.trim_start_matches('/').to_owned() };
        Ok(oio::HierarchyLister::new(oio::PageLister::new(keys), path, args.recursive()))
    }

    fn copy(&self, _: &OperationContext, _: &str, _: &str, _: OpCopy) -> Result<()> {
        unsupported()
    }

    async fn rename(
        &self,
        _: &OperationContext,
        _: &str,
        _: &str,
        _: OpRename,
    ) -> Result<RpRename> {
        unsupported()
    }

    async fn presign(&self, _: &OperationContext, _: &str, _: OpPresign) -> Result<RpPresign> {
        unsupported()
    }
}

struct Reader {
    core: Arc<Core>,
    key: String,
}

impl Reader {
    async fn get(&self, range: BytesRange) -> Result<Buffer> {
        let start = range.offset();
        // GETRANGE takes the last byte of the range, and -1 for the last byte of the value.
        let last = match range.size() {
            Some(0) => return Ok(Buffer::new()),
            Some(size) => (start + size - 1) as i64,
            None => -1,
        };
        let mut command = redis::cmd("GETRANGE");
        command.arg(&self.key).arg(start).arg(last);
        let bytes: Vec<u8> = self.core.reads.ask(&command).await?;
        if bytes.is_empty() {
            // So Redis answers for a key that does not exist.
            return Err(Error::new(ErrorKind::NotFound, "no such key, or the value is shorter"));
        }
        Ok(Buffer::from(bytes))
    }
}

impl oio::Read for Reader {
    async fn open(&self, range: BytesRange) -> Result<(RpRead, Box<dyn oio::ReadStreamDyn>)> {
        let found = self.get(range).await?;
        Ok((RpRead::default(), Box::new(found)))
    }

    async fn read(&self, range: BytesRange) -> Result<(RpRead, Buffer)> {
        let found = self.get(range).await?;
        if range.size().is_some_and(|size| size != found.len() as u64) {
            return Err(Error::new(ErrorKind::RangeNotSatisfied, "the value is shorter"));
        }
        Ok((RpRead::default(), found))
    }
}

struct Writer {
    core: Arc<Core>,
    key: String,
}

impl oio::OneShotWrite for Writer {
    async fn write_once(&self, bytes: Buffer) -> Result<Metadata> {
        let length = bytes.len() as u64;
        let mut command = redis::cmd("SET");
        command.arg(&self.key).arg(&*bytes.to_bytes());
        self.core.others.ask::<()>(&command).await?;
        Ok(MetadataBuilder::file(length).build())
    }
}

struct Deleter(Arc<Core>);

impl oio::BatchDelete for Deleter {
    async fn delete_once(&self, path: String, _: OpDelete) -> Result<()> {
        self.0.delete(core::iter::once(path.as_str())).await
    }

    async fn delete_batch(&self, batch: Vec<(String, OpDelete)>) -> Result<oio::BatchDeleteResult> {
        self.0.delete(batch.iter().map(|(path, _)| path.as_str())).await?;
        Ok(oio::BatchDeleteResult { succeeded: batch, failed: Vec::new() })
    }
}

/// Lists the keys that begin with a prefix.
struct Keys {
    core: Arc<Core>,
    prefix: String,
}

impl oio::PageList for Keys {
    async fn next_page(&self, page: &mut oio::PageContext) -> Result<()> {
        let cursor: u64 = page.token.parse().unwrap_or(0);
        let pattern = format!("{}*", escaped(&self.core.key(&self.prefix)));
        let mut command = redis::cmd("SCAN");
        command.arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(KEYS_OF_A_SCAN);
        let (next, keys): (u64, Vec<Vec<u8>>) = self.core.others.ask(&command).await?;
        for key in keys {
            // The keys of this crate are ASCII; others are not listed.
            let Ok(key) = String::from_utf8(key) else { continue };
            let Some(path) = key.strip_prefix(&self.core.root) else { continue };
            if !path.is_empty() && !path.ends_with('/') {
                let file = MetadataBuilder::file(0).build();
                page.entries.push_back(oio::Entry::new(path, file));
            }
        }
        page.token = next.to_string();
        page.done = next == 0;
        Ok(())
    }
}

/// Escapes what SCAN takes for a pattern.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if "*?[]\\^-".contains(c) {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}
