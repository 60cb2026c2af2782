//! An HTTP client for each operator.
//!
//! OpenDAL has one client for the whole process. Its connections live on the threads of whoever opened them, so they
//! would break when the device that opened them is dropped.

use core::time::Duration;

use opendal::{Error, ErrorKind, HttpTransporter, Operator, Result};
use opendal_http_transport_reqwest::ReqwestTransport;

/// Gives an operator a client of its own. `timeout` limits how long it takes to connect.
pub(crate) fn with_own_client(operator: Operator, timeout: Duration) -> Result<Operator> {
    // A redirect would take the session token and the pages to another host, whose signature would be wrong anyway.
    let builder = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
    let client = builder.connect_timeout(timeout).build().map_err(|error| {
        Error::new(ErrorKind::ConfigInvalid, "the HTTP client cannot be made").set_source(error)
    })?;
    let transport = HttpTransporter::new(ReqwestTransport::new(client));
    let context = operator.context().with_http_transport(transport);
    Ok(operator.with_context(context))
}
