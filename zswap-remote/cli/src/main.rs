//! The binary `zswap` with remote services for `--backing`.

use std::process::ExitCode;

use zswap_cli::{Backing, Service};
use zswap_remote::{Remote, RemoteSwapDevice};

fn main() -> ExitCode {
    zswap_cli::main(&["redis", "s3"].map(|scheme| Service { scheme, open }))
}

/// Opens a device on the service of a URL.
fn open(url: &str, pages: u64) -> Result<Backing, String> {
    let device = Remote::open(url).and_then(|remote| remote.device(pages).build());
    let device = device.map_err(|error| error.to_string())?;
    Ok(Backing::with_failure(device, |device: &RemoteSwapDevice| device.stats().last_error))
}
