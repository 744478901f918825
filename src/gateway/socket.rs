//! A connection's socket, of either family, and who is on its other side.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown};
use std::os::fd::AsFd;

use mio::event::Source;
use mio::{Interest, Registry, Token};
use nix::sys::socket::{getsockopt, sockopt};

use crate::ids::ClientName;

#[derive(Debug)]
pub enum Socket {
    Tcp(mio::net::TcpStream),
    Unix(mio::net::UnixStream),
}

impl Socket {
    pub fn shutdown_write(&self) {
        // A peer that is gone already is closed enough.
        let _ = match self {
            Socket::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Socket::Unix(stream) => stream.shutdown(Shutdown::Write),
        };
    }
}

impl Read for Socket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.read(into),
            Socket::Unix(stream) => stream.read(into),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.write(bytes),
            Socket::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Source for Socket {
    fn register(&mut self, registry: &Registry, token: Token, interest: Interest) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => stream.register(registry, token, interest),
            Socket::Unix(stream) => stream.register(registry, token, interest),
        }
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interest: Interest) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => stream.reregister(registry, token, interest),
            Socket::Unix(stream) => stream.reregister(registry, token, interest),
        }
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => stream.deregister(registry),
            Socket::Unix(stream) => stream.deregister(registry),
        }
    }
}

/// Who is on the other side.
#[derive(Debug, Clone)]
pub struct Peer {
    pub client: ClientName,
    pub admin: bool,
    pub way: Way,
}

/// How a client has come to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Tcp,
    Unix,
    /// It is the program that we run inside of.
    Inside,
}

impl Peer {
    /// The uid at the time of the connect; root and our own uid are admins.
    pub fn of_unix(stream: &impl AsFd) -> Peer {
        match getsockopt(stream, sockopt::PeerCredentials) {
            Ok(peer) => {
                let own = nix::unistd::Uid::effective().as_raw();
                let admin = peer.uid() == 0 || peer.uid() == own;
                Peer { client: format!("uid:{}", peer.uid()).into(), admin, way: Way::Unix }
            }
            Err(_) => Peer { client: "uid:unknown".into(), admin: false, way: Way::Unix },
        }
    }

    /// The program that we run inside of, over a pair of sockets.
    pub fn of_ourselves(stream: &impl AsFd) -> Peer {
        Peer { way: Way::Inside, ..Peer::of_unix(stream) }
    }

    /// What is kept for the Unix socket is for it too.
    pub fn is_by_unix(&self) -> bool {
        self.way != Way::Tcp
    }

    pub fn of_tcp(address: IpAddr) -> Peer {
        Peer { client: format!("ip:{}", address.to_canonical()).into(), admin: false, way: Way::Tcp }
    }
}
