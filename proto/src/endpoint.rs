//! Where the controller listens, and agents and clients dial.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use tonic::transport::Channel;

/// How long a dial may take. Everything that is dialled answers at once or is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a silent line is tried, and how long an answer may take: whoever's host vanished without a word is
/// given up after twice this.
pub const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// An address of a controller.
///
/// ```
/// use waymark_proto::Endpoint;
///
/// let socket: Endpoint = "unix:/run/waymark/controller.sock".parse()?;
/// assert_eq!(socket.to_string(), "unix:/run/waymark/controller.sock");
/// let tcp: Endpoint = "[::1]:7070".parse()?;
/// assert_eq!(tcp.to_string(), "http://[::1]:7070");
/// # Ok::<(), waymark_proto::EndpointError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// A unix socket.
    Unix(PathBuf),
    /// A TCP port.
    Tcp {
        /// Name or address; IPv6 addresses without brackets.
        host: String,
        /// Port.
        port: u16,
    },
}

/// Where a controller listens unless it is told otherwise.
pub const DEFAULT_ENDPOINT: &str = "unix:/run/waymark/controller.sock";

/// What is wrong with an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{:?} is not an address: use unix:/PATH, http://HOST:PORT or HOST:PORT", crate::short(text))]
pub struct EndpointError {
    /// The text.
    pub text: String,
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let wrong = || EndpointError { text: text.to_owned() };
        if let Some(path) = text.strip_prefix("unix:") {
            // `unix:///path` is the URI form of `unix:/path`.
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.starts_with('/') { Ok(Self::Unix(path.into())) } else { Err(wrong()) };
        }
        let authority = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        let (host, port) = authority.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().map_err(|_| wrong())?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = match bracketed {
            Some(v6) if v6.parse::<std::net::Ipv6Addr>().is_ok() => v6,
            None if !host.is_empty() && host.chars().all(is_host_character) => host,
            _ => return Err(wrong()),
        };
        Ok(Self::Tcp { host: host.to_owned(), port })
    }
}

fn is_host_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp { host, port } if host.contains(':') => write!(f, "http://[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "http://{host}:{port}"),
        }
    }
}

impl Endpoint {
    /// Dials it.
    ///
    /// # Errors
    /// Nobody listens, or the address is not one that can be dialled.
    pub async fn connect(&self) -> Result<Channel, tonic::transport::Error> {
        tonic::transport::Endpoint::from_shared(self.to_string())?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .connect()
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_forms_are_read() {
        let tcp = |host: &str, port| Ok(Endpoint::Tcp { host: host.into(), port });
        assert_eq!("unix:/a/b".parse(), Ok(Endpoint::Unix("/a/b".into())));
        assert_eq!("unix:///a/b".parse(), Ok(Endpoint::Unix("/a/b".into())));
        assert_eq!("http://localhost:80/".parse(), tcp("localhost", 80));
        assert_eq!("127.0.0.1:9".parse(), tcp("127.0.0.1", 9));
        assert_eq!("[::1]:9".parse(), tcp("::1", 9));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in ["", "unix:", "unix:a", "host", "host:", ":80", "::1:80:x", "[x]:1", "a b:1", "ftp://h:1"]
        {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }

    #[test]
    fn display_reads_back() {
        for text in ["unix:/a/b", "http://h:1", "http://[::1]:2"] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
    }
}
