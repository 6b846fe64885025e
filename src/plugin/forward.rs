//! A port of this machine that leads to a port of a pod, through the API server: members are reached from where kubectl is.
//!
//! Invariant: it listens on loopback alone, and ends with its [`Forward`].

use anyhow::Context;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use std::net::SocketAddr;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A way to a pod.
#[derive(Debug)]
pub struct Forward {
    /// Where it begins.
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Opens a way to `port` of a pod.
pub async fn open(pods: Api<Pod>, pod: String, port: u16) -> anyhow::Result<Forward> {
    let listener = TcpListener::bind(("127.0.0.1", 0))
        .await
        .context("listening on loopback")?;
    let address = listener.local_addr()?;
    let task = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let (pods, pod) = (pods.clone(), pod.clone());
            connections.spawn(async move {
                if let Err(error) = carry(&pods, &pod, port, stream).await {
                    tracing::debug!(pod, port, "port-forward ended: {error:#}");
                }
            });
            while connections.try_join_next().is_some() {}
        }
    });
    Ok(Forward { address, task })
}

async fn carry(pods: &Api<Pod>, pod: &str, port: u16, mut here: TcpStream) -> anyhow::Result<()> {
    let mut forwarder = pods.portforward(pod, &[port]).await?;
    let mut there = forwarder.take_stream(port).context("the API server gave no stream")?;
    let copied = tokio::io::copy_bidirectional(&mut here, &mut there).await;
    drop(there);
    forwarder.abort();
    copied?;
    Ok(())
}
