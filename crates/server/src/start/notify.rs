//! Telling systemd that the service is up (sd_notify(3)).

use std::os::unix::net::UnixDatagram;

/// Sends READY=1 when systemd asked for it.
pub(super) fn ready() {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let sent = UnixDatagram::unbound().and_then(|socket| socket.send_to(b"READY=1", &path));
    if let Err(error) = sent {
        tracing::warn!(%error, "failed to notify systemd for readiness");
    }
}
