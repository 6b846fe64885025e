//! Members run directly, without an operator: etcd's flags, any mix of programs, plain TCP or TLS.

use crate::access::Access;
use crate::process::{Background, free_ports};
use anyhow::Context;
use nix::sys::signal::Signal;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;

/// One member.
#[derive(Debug)]
pub struct Member {
    program: PathBuf,
    /// Its name.
    pub name: String,
    /// Its data directory.
    pub data: PathBuf,
    /// URL for clients.
    pub endpoint: String,
    peer: String,
    process: Option<Background>,
    directory: PathBuf,
}

/// Members that begin a cluster together.
#[derive(Debug)]
pub struct Servers {
    /// The members.
    pub members: Vec<Member>,
    flags: Vec<String>,
    tls: Option<Tls>,
}

/// One CA, and one certificate for everybody on 127.0.0.1.
#[derive(Debug, Clone)]
pub struct Tls {
    ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
}

impl Tls {
    /// Makes them, as files in `directory`.
    pub fn new(directory: &Path) -> anyhow::Result<Tls> {
        use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
        let ca_key = KeyPair::generate()?;
        let mut ca = CertificateParams::new(Vec::new())?;
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.distinguished_name.push(rcgen::DnType::CommonName, "e2e");
        let ca_cert = ca.self_signed(&ca_key)?;
        let key = KeyPair::generate()?;
        let mut leaf = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()])?;
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let cert = leaf.signed_by(&key, &Issuer::new(ca, ca_key))?;
        std::fs::create_dir_all(directory)?;
        let write = |name: &str, pem: String| -> anyhow::Result<PathBuf> {
            let path = directory.join(name);
            std::fs::write(&path, pem).with_context(|| format!("writing {}", path.display()))?;
            Ok(path)
        };
        Ok(Tls {
            ca: write("ca.pem", ca_cert.pem())?,
            cert: write("cert.pem", cert.pem())?,
            key: write("key.pem", key.serialize_pem())?,
        })
    }

    /// How a server that shows this certificate is reached.
    pub fn access(&self, endpoints: Vec<String>) -> Access {
        Access::secure(endpoints, &self.ca, &self.cert, &self.key)
    }

    fn server_flags(&self) -> [String; 8] {
        let (ca, cert, key) = (self.ca.display(), self.cert.display(), self.key.display());
        [
            format!("--cert-file={cert}"),
            format!("--key-file={key}"),
            format!("--trusted-ca-file={ca}"),
            "--client-cert-auth".to_owned(),
            format!("--peer-cert-file={cert}"),
            format!("--peer-key-file={key}"),
            format!("--peer-trusted-ca-file={ca}"),
            "--peer-client-cert-auth".to_owned(),
        ]
    }
}

impl Servers {
    /// One member per program below `directory`; nothing runs yet.
    pub fn new(directory: &Path, programs: &[PathBuf], flags: &[&str]) -> anyhow::Result<Servers> {
        Servers::with_tls(directory, programs, flags, None)
    }

    /// As [`Servers::new`], with TLS for clients and peers if certificates are given.
    pub fn with_tls(
        directory: &Path,
        programs: &[PathBuf],
        flags: &[&str],
        tls: Option<Tls>,
    ) -> anyhow::Result<Servers> {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let ports = free_ports(programs.len() * 2)?;
        std::fs::create_dir_all(directory)?;
        let members = programs.iter().zip(ports.chunks(2)).enumerate();
        let members = members.map(|(n, (program, ports))| Member {
            program: program.clone(),
            name: format!("m{n}"),
            data: directory.join(format!("m{n}.data")),
            endpoint: format!("{scheme}://127.0.0.1:{}", ports[0]),
            peer: format!("{scheme}://127.0.0.1:{}", ports[1]),
            process: None,
            directory: directory.to_owned(),
        });
        Ok(Servers {
            members: members.collect(),
            flags: flags
                .iter()
                .map(|flag| (*flag).to_owned())
                .chain(tls.iter().flat_map(Tls::server_flags))
                .collect(),
            tls,
        })
    }

    /// How it is reached.
    pub fn access(&self) -> Access {
        let endpoints = self.members.iter().map(|member| member.endpoint.clone()).collect();
        match &self.tls {
            None => Access::plain(endpoints),
            Some(Tls { ca, cert, key }) => Access::secure(endpoints, ca, cert, key),
        }
    }

    /// Flags of etcd's own clients.
    pub fn client_flags(&self) -> Vec<String> {
        let Some(Tls { ca, cert, key }) = &self.tls else {
            return Vec::new();
        };
        vec![
            format!("--cacert={}", ca.display()),
            format!("--cert={}", cert.display()),
            format!("--key={}", key.display()),
        ]
    }

    /// `m0=URL,m1=URL`, for --initial-cluster.
    pub fn initial_cluster(&self) -> String {
        let list: Vec<String> = self
            .members
            .iter()
            .map(|member| format!("{}={}", member.name, member.peer))
            .collect();
        list.join(",")
    }

    /// Peer URL of the first member.
    pub fn first_peer(&self) -> &str {
        self.members
            .first()
            .map(|member| member.peer.as_str())
            .unwrap_or_default()
    }

    /// Starts member `n`.
    pub fn start(&mut self, n: usize) -> anyhow::Result<()> {
        let initial = self.initial_cluster();
        let member = &mut self.members[n];
        let mut command = Command::new(&member.program);
        command
            .arg(format!("--name={}", member.name))
            .arg(format!("--data-dir={}", member.data.display()))
            .arg(format!("--listen-client-urls={}", member.endpoint))
            .arg(format!("--advertise-client-urls={}", member.endpoint))
            .arg(format!("--listen-peer-urls={}", member.peer))
            .arg(format!("--initial-advertise-peer-urls={}", member.peer))
            .arg(format!("--initial-cluster={initial}"))
            .arg("--initial-cluster-state=new")
            .arg("--log-level=warn")
            .args(&self.flags);
        let log = member.directory.join(format!("{}.log", member.name));
        member.process = Some(Background::start(command, &log)?);
        Ok(())
    }

    /// Starts all and waits until they agree on a leader.
    pub async fn start_all(&mut self) -> anyhow::Result<()> {
        for n in 0..self.members.len() {
            self.start(n)?;
        }
        let limit = Duration::from_secs(30);
        match self.access().settled(self.members.len(), limit).await {
            Ok(_) => Ok(()),
            Err(error) => Err(error.context(self.last_words())),
        }
    }

    /// Ends member `n` with a signal and waits until it is gone.
    pub async fn end(&mut self, n: usize, signal: Signal) -> anyhow::Result<()> {
        match self.members[n].process.take() {
            Some(mut process) => process.end(signal, Duration::from_secs(20)).await,
            None => Ok(()),
        }
    }

    /// Waits until member `n` has ended by itself.
    pub async fn ended(&mut self, n: usize, limit: Duration) -> anyhow::Result<()> {
        let member = &mut self.members[n];
        if let Some(process) = &mut member.process {
            process.ended(limit).await.with_context(|| member.name.clone())?;
            member.process = None;
        }
        Ok(())
    }

    /// Ends all in order, as an administrator would.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        for n in 0..self.members.len() {
            self.end(n, Signal::SIGTERM).await?;
        }
        Ok(())
    }

    /// Pids of those that run.
    pub fn pids(&self) -> Vec<i32> {
        self.members
            .iter()
            .filter_map(|member| member.process.as_ref()?.pid())
            .collect()
    }

    /// Pid of member `n`, if it runs.
    pub fn pid(&self, n: usize) -> Option<i32> {
        self.members.get(n)?.process.as_ref()?.pid()
    }

    /// Runs member `n` with another program from now on.
    pub fn change_program(&mut self, n: usize, program: &Path) {
        self.members[n].program = program.to_owned();
    }

    /// The last that each member printed.
    pub fn last_words(&self) -> String {
        let words = |member: &Member| {
            let words = member
                .process
                .as_ref()
                .map(|process| process.last_words(3))
                .unwrap_or_default();
            format!("{} says:\n{words}", member.name)
        };
        self.members.iter().map(words).collect::<Vec<_>>().join("\n")
    }
}
