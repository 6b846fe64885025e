//! Sockets: binding them, and serving HTTP on what connects.
//!
//! Invariants:
//! - An IPv4 wildcard is bound as the dual-stack `[::]`, as Go does, so that manifests with `0.0.0.0` work on hosts that have
//!   IPv6 only; without IPv6 it stays IPv4.
//! - A connection that does not finish its TLS handshake in 5 s is dropped, and a handshake never holds up another.
//! - One port speaks HTTP/1.1 and HTTP/2, told apart by the first bytes (or by ALPN, which leads to the same).
//! - After the stop signal nobody is accepted; requests in flight get a grace period, then their connections are closed.

mod pings;
mod serve;
mod stream;

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use tokio::net::{TcpListener, TcpSocket, UnixListener};

pub use serve::{Connection, Http, Stop, serve, serve_http1, stopped};
pub use stream::Traffic;

use crate::config::Url;

/// Connections a listener queues before they are accepted.
const BACKLOG: u32 = 4096;

/// Why an address cannot be listened on. The text names flag, URL and remedy.
#[derive(Debug, thiserror::Error)]
#[error("--{flag}: cannot listen on {url}: {why}{}", remedy(.why))]
pub struct BindError {
    /// The flag that names the address.
    pub flag: &'static str,
    /// The address.
    pub url: String,
    /// What the system says.
    pub why: io::Error,
}

fn remedy(why: &io::Error) -> &'static str {
    match why.kind() {
        io::ErrorKind::AddrInUse => " (another process listens there: stop it or choose another port)",
        io::ErrorKind::AddrNotAvailable => " (this host has no such address)",
        io::ErrorKind::PermissionDenied => " (ports below 1024 need the right to bind them)",
        _ => "",
    }
}

/// Socket options from flags.
#[derive(Debug, Clone, Copy, Default)]
pub struct SocketOptions {
    /// `--socket-reuse-port`.
    pub reuse_port: bool,
}

/// A bound socket.
pub struct Listener {
    socket: Socket,
    /// The URL it was bound for.
    pub url: Url,
}

enum Socket {
    Tcp(TcpListener),
    /// The path is removed when the listener goes.
    Unix(UnixListener, PathBuf),
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Listener({})", self.url)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Socket::Unix(_, path) = &self.socket {
            std::fs::remove_file(path).ok();
        }
    }
}

impl Listener {
    /// Binds the address of `url`, which came from `--flag`.
    pub fn bind(flag: &'static str, url: &Url, options: SocketOptions) -> Result<Listener, BindError> {
        let socket = if url.scheme.is_unix() {
            unix(&url.address)
        } else {
            tcp(url, options)
        };
        match socket {
            Ok(socket) => Ok(Listener {
                socket,
                url: url.clone(),
            }),
            Err(why) => Err(BindError {
                flag,
                url: url.to_string(),
                why,
            }),
        }
    }

    /// The address that was bound, for logs: as given for unix sockets.
    pub fn address(&self) -> String {
        match &self.socket {
            Socket::Tcp(listener) => listener
                .local_addr()
                .map_or_else(|_| self.url.address.clone(), |at| at.to_string()),
            Socket::Unix(_, path) => path.display().to_string(),
        }
    }

    /// The TCP port that was bound; `None` for a unix socket.
    pub fn port(&self) -> Option<u16> {
        match &self.socket {
            Socket::Tcp(listener) => listener.local_addr().ok().map(|at| at.port()),
            Socket::Unix(..) => None,
        }
    }
}

fn unix(path: &str) -> io::Result<Socket> {
    let path = PathBuf::from(path);
    // etcd removes what a crashed predecessor left behind; only a socket that nobody answers on may go.
    if path.exists() {
        if std::os::unix::net::UnixStream::connect(&path).is_ok() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        std::fs::remove_file(&path)?;
    }
    Ok(Socket::Unix(UnixListener::bind(&path)?, path))
}

fn tcp(url: &Url, options: SocketOptions) -> io::Result<Socket> {
    let port: u16 = url
        .port()
        .parse()
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let hosts: Vec<IpAddr> = match url.host() {
        "localhost" => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        host => {
            let host: IpAddr = host.parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
            match host {
                IpAddr::V4(v4) if v4.is_unspecified() => vec![Ipv6Addr::UNSPECIFIED.into(), host],
                _ => vec![host],
            }
        }
    };
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for host in hosts {
        match bind(SocketAddr::new(host, port), options) {
            Ok(listener) => return Ok(Socket::Tcp(listener)),
            // Taken is taken: the other family would only hide it.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn bind(address: SocketAddr, options: SocketOptions) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // Go sets it on every listener: a restart must not wait for old connections to fade.
    socket.set_reuseaddr(true)?;
    if options.reuse_port {
        socket.set_reuseport(true)?;
    }
    if address.is_ipv6() {
        let wildcard = address.ip().is_unspecified();
        socket2::SockRef::from(&socket).set_only_v6(!wildcard)?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests;
