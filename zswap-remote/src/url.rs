//! From a URL and the environment to a service. Secrets come from the environment only.

use std::ffi::OsString;
#[cfg(any(feature = "redis", feature = "s3"))]
use std::path::PathBuf;

use crate::error::RemoteError;
use crate::service::Source;

/// Reads a variable of the environment. A parameter, so that tests need not change the environment.
pub(crate) type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// A service: its scheme, the cargo feature that brings it, whether that is on, and the variable of its secret.
struct Scheme {
    name: &'static str,
    compiled: bool,
    secret: Option<&'static str>,
}

const SCHEMES: [Scheme; 4] = [
    Scheme {
        name: "redis",
        compiled: cfg!(feature = "redis"),
        secret: Some("ZSWAP_REDIS_PASSWORD"),
    },
    Scheme { name: "s3", compiled: cfg!(feature = "s3"), secret: Some("AWS_SECRET_ACCESS_KEY") },
    Scheme { name: "fs", compiled: cfg!(feature = "fs"), secret: None },
    Scheme { name: "memory", compiled: cfg!(feature = "memory"), secret: None },
];

pub(crate) fn open(url: &str, environment: Environment<'_>) -> Result<Source, RemoteError> {
    let Some((name, rest)) = url.split_once("://") else {
        // Without a scheme it is unknown whether this contains a secret, so the message shows none of it.
        let reason = "give a URL such as redis://host:6379/0 or s3://bucket/prefix";
        return Err(RemoteError::Url { url: "the text".to_owned(), reason: reason.to_owned() });
    };
    let Some(scheme) = SCHEMES.iter().find(|scheme| scheme.name == name) else {
        let known = SCHEMES.map(|scheme| format!("{}://", scheme.name)).join(", ");
        return Err(RemoteError::UnknownScheme { scheme: name.to_owned(), known });
    };
    if let (Some(variable), true) = (scheme.secret, rest.contains('@')) {
        return Err(RemoteError::SecretInUrl { scheme: scheme.name, variable });
    }
    if scheme.secret.is_some() && rest.contains(['?', '#']) {
        // What follows may be a secret, so the message leaves it out.
        let url = url.split(['?', '#']).next().unwrap_or_default().to_owned();
        let reason = "a query or a fragment follows; leave it out".to_owned();
        return Err(RemoteError::Url { url, reason });
    }
    if !scheme.compiled {
        return Err(RemoteError::FeatureOff { scheme: scheme.name, feature: scheme.name });
    }
    let refused =
        |reason: &str| RemoteError::Url { url: url.to_owned(), reason: reason.to_owned() };
    match scheme.name {
        #[cfg(feature = "redis")]
        "redis" => redis(rest, environment, &refused),
        #[cfg(feature = "s3")]
        "s3" => s3(rest, environment, &refused),
        #[cfg(feature = "fs")]
        "fs" => {
            if !rest.starts_with('/') {
                return Err(refused(
                    "give the whole path of a directory, as in fs:///var/tmp/pages",
                ));
            }
            let root = rest.to_owned();
            Source::new("fs", Vec::new(), move |_| {
                opendal::Operator::new(opendal::services::Fs::default().root(&root))
            })
        }
        #[cfg(feature = "memory")]
        "memory" => {
            if !rest.is_empty() {
                return Err(refused("nothing may follow memory://"));
            }
            opendal::Operator::new(opendal::services::Memory::default()).map(Source::of).map_err(
                |error| RemoteError::Service {
                    service: "memory".to_owned(),
                    operation: "start",
                    reason: error.to_string(),
                },
            )
        }
        _ => {
            // With fewer features these are not used.
            let _ = (environment, refused);
            Err(RemoteError::FeatureOff { scheme: scheme.name, feature: scheme.name })
        }
    }
}

/// Reads a secret from its variable, or from the file that the variable with `_FILE` at its end names.
#[cfg(any(feature = "redis", feature = "s3"))]
fn secret(variable: &str, environment: Environment<'_>) -> Result<Option<String>, RemoteError> {
    let unusable = |variable: &str, reason| {
        Err(RemoteError::Variable { variable: variable.to_owned(), reason })
    };
    let file_variable = format!("{variable}_FILE");
    match (environment(variable), environment(&file_variable)) {
        (Some(_), Some(_)) => unusable(
            variable,
            "the variable with _FILE at its end is set, too; set only one of them",
        ),
        (Some(value), None) => match value.into_string() {
            Ok(value) => Ok(Some(value)),
            Err(_) => unusable(variable, "it is not UTF-8; put the secret into a file in UTF-8"),
        },
        (None, Some(path)) => {
            let path = PathBuf::from(path);
            match std::fs::read_to_string(&path) {
                Ok(text) => Ok(Some(text.trim_end_matches(['\n', '\r']).to_owned())),
                Err(reason) => {
                    Err(RemoteError::SecretFile { variable: file_variable, path, reason })
                }
            }
        }
        (None, None) => Ok(None),
    }
}

#[cfg(feature = "redis")]
fn redis(
    rest: &str,
    environment: Environment<'_>,
    refused: &dyn Fn(&str) -> RemoteError,
) -> Result<Source, RemoteError> {
    let (address, path) = rest.split_once('/').unwrap_or((rest, "0"));
    let (database, prefix) = path.split_once('/').unwrap_or((path, ""));
    let database = if database.is_empty() { "0" } else { database };
    let database: i64 =
        database.parse().ok().filter(|number| *number >= 0).ok_or_else(|| {
            refused("give the number of a database after the first slash, such as 0")
        })?;
    let without_port = || Some((address, "6379"));
    // An IPv6 address is in brackets and contains colons.
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => without_port().unwrap_or_default(),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port: u16 =
        // What is not a port may be a password, so the message does not show it.
        port.parse().map_err(|_| RemoteError::Url {
            url: "redis://".to_owned(),
            reason: "give host and port, as in redis://localhost:6379/0".to_owned(),
        })?;
    if host.is_empty() {
        return Err(refused("give host and port, as in redis://localhost:6379/0"));
    }
    let password = secret("ZSWAP_REDIS_PASSWORD", environment)?;
    let username = secret("ZSWAP_REDIS_USERNAME", environment)?;
    let server = crate::redis::Server {
        host: host.to_owned(),
        port,
        database,
        prefix: prefix.trim_matches('/').to_owned(),
        username,
        password,
    };
    let secrets = server.password.iter().cloned().collect();
    Source::new("redis", secrets, move |timeout| crate::redis::operator(&server, timeout))
}

#[cfg(feature = "s3")]
fn s3(
    rest: &str,
    environment: Environment<'_>,
    refused: &dyn Fn(&str) -> RemoteError,
) -> Result<Source, RemoteError> {
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() {
        return Err(refused("give a bucket, as in s3://bucket/prefix"));
    }
    if bucket.contains(':') {
        let variable = "AWS_SECRET_ACCESS_KEY";
        return Err(RemoteError::SecretInUrl { scheme: "s3", variable });
    }
    let needed = |variable, meaning| {
        secret(variable, environment)?.ok_or(RemoteError::Unset { variable, meaning })
    };
    let id = needed("AWS_ACCESS_KEY_ID", "the id of an access key")?;
    let key = needed("AWS_SECRET_ACCESS_KEY", "the secret of the access key")?;
    let token = secret("AWS_SESSION_TOKEN", environment)?;
    let region = secret("AWS_REGION", environment)?.unwrap_or_else(|| "us-east-1".to_owned());
    let endpoint = secret("AWS_ENDPOINT_URL", environment)?;
    if endpoint.as_ref().is_some_and(|endpoint| endpoint.contains('@')) {
        return Err(RemoteError::Variable {
            variable: "AWS_ENDPOINT_URL".to_owned(),
            reason: "it contains a user name or a password; give the address only",
        });
    }
    let secrets =
        [Some(id.clone()), Some(key.clone()), token.clone()].into_iter().flatten().collect();
    let (bucket, prefix) = (bucket.to_owned(), prefix.to_owned());
    Source::new("s3", secrets, move |timeout| {
        let mut service = opendal::services::S3::default()
            .bucket(&bucket)
            .root(&prefix)
            .region(&region)
            .access_key_id(&id)
            .secret_access_key(&key)
            .disable_config_load();
        if let Some(token) = &token {
            service = service.session_token(token);
        }
        if let Some(endpoint) = &endpoint {
            service = service.endpoint(endpoint);
        }
        crate::http::with_own_client(opendal::Operator::new(service)?, timeout)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unset(_: &str) -> Option<OsString> {
        None
    }

    fn refusal(url: &str) -> String {
        match open(url, &unset) {
            Ok(_) => panic!("{url} was accepted"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_url_with_a_password_is_refused_and_not_repeated() {
        for url in [
            "redis://:hunter2@localhost:6379/0",
            "redis://user:hun/ter2@localhost/0",
            "s3://id:hunter2@bucket/prefix",
        ] {
            let text = refusal(url);
            assert!(!text.contains("hun") && text.contains("environment variable"), "{text}");
        }
        assert!(refusal("redis://:x@h/0").contains("ZSWAP_REDIS_PASSWORD"));
        assert!(refusal("s3://a:b@c").contains("AWS_SECRET_ACCESS_KEY"));
        for url in ["redis://localhost/0?password=hunter2", "s3://bucket#hunter2"] {
            assert!(!refusal(url).contains("hunter2"));
        }
        assert!(!refusal("hunter2").contains("hunter2"));
    }

    #[test]
    fn an_unknown_or_broken_url_says_what_to_give() {
        assert!(refusal("ftp://x").contains("s3://"));
        #[cfg(feature = "fs")]
        assert!(refusal("fs://tmp").contains("whole path"));
        #[cfg(feature = "memory")]
        assert!(refusal("memory://x").contains("nothing may follow"));
        #[cfg(feature = "redis")]
        for (url, what) in [
            ("redis://", "host and port"),
            ("redis://h:x/0", "host and port"),
            ("redis://h:1/x", "database"),
            ("redis://h:1/-1", "database"),
        ] {
            assert!(refusal(url).contains(what), "{url}: {}", refusal(url));
        }
        #[cfg(feature = "s3")]
        {
            assert!(refusal("s3:///prefix").contains("bucket"));
            assert!(refusal("s3://bucket").contains("AWS_ACCESS_KEY_ID"));
        }
        #[cfg(not(feature = "s3"))]
        assert!(refusal("s3://bucket").contains("feature \"s3\""));
    }

    #[cfg(feature = "redis")]
    #[test]
    fn a_secret_comes_from_its_variable_or_from_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "hunter2\n").unwrap();
        let path = file.path().as_os_str().to_owned();
        let from_file = |name: &str| (name == "A_FILE").then(|| path.clone());
        assert_eq!(secret("A", &from_file).unwrap().as_deref(), Some("hunter2"));
        let from_variable = |name: &str| (name == "A").then(|| "hunter3".into());
        assert_eq!(secret("A", &from_variable).unwrap().as_deref(), Some("hunter3"));
        let both = |_: &str| Some(path.clone());
        assert!(secret("A", &both).unwrap_err().to_string().contains("only one"));
        let gone = |name: &str| (name == "A_FILE").then(|| "/nowhere/at/all".into());
        assert!(secret("A", &gone).unwrap_err().to_string().contains("/nowhere/at/all"));
        assert_eq!(secret("A", &unset).unwrap(), None);
    }

    #[cfg(feature = "redis")]
    #[test]
    fn no_debug_output_has_the_password() {
        let environment = |name: &str| (name == "ZSWAP_REDIS_PASSWORD").then(|| "hunter2".into());
        let source = open("redis://[::1]:6379/3/some/prefix", &environment).unwrap();
        let operator = source.operator(core::time::Duration::from_secs(1)).unwrap();
        let shown = format!("{operator:?} {:?}", operator.info());
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
