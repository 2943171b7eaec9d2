//! Where the controller listens, and agents and clients dial.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

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
/// let tls: Endpoint = "[::1]:7070".parse()?;
/// assert_eq!(tls.to_string(), "https://[::1]:7070");
/// # Ok::<(), waymark_proto::EndpointError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// A unix socket.
    Unix(PathBuf),
    /// A TCP port with TLS.
    Tls {
        /// Name or address; IPv6 addresses without brackets.
        host: String,
        /// Port.
        port: u16,
    },
    /// A TCP port in plaintext.
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
#[error("{:?} is not an address: use unix:/PATH, https://HOST:PORT or HOST:PORT", crate::short(text))]
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
        // Whoever names no scheme gets the safe one.
        let (scheme, authority) = text.split_once("://").unwrap_or(("https", text));
        let authority = authority.trim_end_matches('/');
        let (host, port) = authority.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().map_err(|_| wrong())?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = match bracketed {
            Some(v6) if v6.parse::<std::net::Ipv6Addr>().is_ok() => v6,
            None if !host.is_empty() && host.chars().all(is_host_character) => host,
            _ => return Err(wrong()),
        };
        let host = host.to_owned();
        match scheme {
            "https" => Ok(Self::Tls { host, port }),
            "http" => Ok(Self::Tcp { host, port }),
            _ => Err(wrong()),
        }
    }
}

fn is_host_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, host, port) = match self {
            Self::Unix(path) => return write!(f, "unix:{}", path.display()),
            Self::Tls { host, port } => ("https", host, port),
            Self::Tcp { host, port } => ("http", host, port),
        };
        if host.contains(':') {
            write!(f, "{scheme}://[{host}]:{port}")
        } else {
            write!(f, "{scheme}://{host}:{port}")
        }
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
        let tls = |host: &str, port| Ok(Endpoint::Tls { host: host.into(), port });
        assert_eq!("https://localhost:80/".parse(), tls("localhost", 80));
        assert_eq!("127.0.0.1:9".parse(), tls("127.0.0.1", 9));
        assert_eq!("[::1]:9".parse(), tls("::1", 9));
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
        for text in ["unix:/a/b", "http://h:1", "http://[::1]:2", "https://h:1", "https://[::1]:2"] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
    }
}
