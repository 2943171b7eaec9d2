//! Ports on the loopback that nobody else takes.
//!
//! A port that is merely looked up is free only until another process looks too. This one is held by a
//! socket that is bound and does not listen: the kernel gives it to nobody who asks for any port, and a
//! program that asks for this one by number gets it, because both sockets set `SO_REUSEADDR` (as Go's
//! listeners do) and none but the program's listens (socket(7)).

use std::net::{Ipv4Addr, SocketAddr};

use socket2::{Domain, Socket, Type};

use super::error::{KubernetesError, Result};

/// A TCP port of 127.0.0.1, held.
#[derive(Debug)]
pub(crate) struct Port {
    _holder: Socket,
    number: u16,
}

impl Port {
    /// Any free one.
    pub(crate) fn reserve() -> Result<Self> {
        let reserve = || {
            let holder = Socket::new(Domain::IPV4, Type::STREAM.cloexec(), None)?;
            holder.set_reuse_address(true)?;
            holder.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
            let address = holder.local_addr()?.as_socket().ok_or(std::io::ErrorKind::AddrNotAvailable)?;
            Ok(Self { _holder: holder, number: address.port() })
        };
        reserve().map_err(KubernetesError::Port)
    }

    /// Its number.
    pub(crate) fn number(&self) -> u16 {
        self.number
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_held_port_is_given_to_whoever_knows_its_number_and_to_nobody_else() {
        let port = Port::reserve().unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port.number())).unwrap();
        assert_eq!(listener.local_addr().unwrap().port(), port.number());
        let others: Vec<_> = (0..100).map(|_| Port::reserve().unwrap()).collect();
        assert!(others.iter().all(|other| other.number() != port.number()));
    }
}
