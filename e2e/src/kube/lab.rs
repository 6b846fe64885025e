//! The Kubernetes cluster that the suite drives: its script, kubectl and helm.

use crate::process::{Said, run};
use anyhow::{Context, bail};
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::Command;

/// How long a call of kubectl may take when it does not wait for anything.
const CALL: Duration = Duration::from_secs(30);

/// A cluster of e2e/kube/cluster.sh.
#[derive(Debug, Clone)]
pub struct Lab {
    bin: PathBuf,
    state: PathBuf,
    root: PathBuf,
    environment: Vec<(String, String)>,
}

/// One request to the API server.
#[derive(Debug)]
pub struct Asked {
    /// `get`, `list`, `patch` and so on.
    pub verb: String,
    /// Resource, with its subresource.
    pub resource: String,
    /// Path and query.
    pub path: String,
    /// Whether the roles let it pass.
    pub allowed: bool,
}

impl Lab {
    /// Programs in `bin`, state in `state`; the manifests are those of the current directory, the project's root.
    pub fn new(bin: &Path, state: &Path) -> anyhow::Result<Lab> {
        let root = std::env::current_dir()?;
        if !root.join("e2e/kube/cluster.sh").is_file() {
            bail!(
                "run this from the project's root: e2e/kube/cluster.sh is not below {}",
                root.display()
            );
        }
        let bin = std::fs::canonicalize(bin)
            .with_context(|| format!("{} is missing: e2e/tools/build.sh DIR all makes DIR/bin", bin.display()))?;
        Ok(Lab {
            bin,
            state: state.to_owned(),
            root,
            environment: Vec::new(),
        })
    }

    /// With more variables for cluster.sh, as its head names them.
    pub fn with_environment(mut self, more: &[(&str, &str)]) -> Lab {
        let more = more
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        self.environment.extend(more);
        self
    }

    /// A file of the project.
    pub fn file(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    fn script_command(&self) -> Command {
        let mut command = Command::new(self.file("e2e/kube/cluster.sh"));
        command
            .env("BIN", &self.bin)
            .env("STATE", &self.state)
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs cluster.sh.
    pub async fn script(&self, arguments: &[&str], limit: Duration) -> anyhow::Result<String> {
        let mut command = self.script_command();
        command.args(arguments);
        // What the script starts keeps its output open: it goes to files there, so nothing waits for it here.
        let said = run(command, limit).await?;
        said.ok().with_context(|| format!("cluster.sh {}", arguments.join(" ")))
    }

    /// Runs this program again below cluster.sh, with its output; whether it succeeded.
    pub async fn go_on(&self, arguments: &[String]) -> anyhow::Result<bool> {
        let mut command = self.script_command();
        command
            .args(arguments)
            .env("QUORATE_KUBE_BIN_DIR", &self.bin)
            .env("QUORATE_KUBE_STATE", &self.state)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        Ok(command.status().await?.success())
    }

    /// A program beside kubectl.
    pub fn program(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.bin.join(name);
        if path.is_file() {
            return Ok(path);
        }
        bail!(
            "{} is missing: build it with e2e/tools/build.sh DIR all",
            path.display()
        )
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.state.join("admin.kubeconfig")
    }

    /// The address of the API server.
    pub fn api_server(&self) -> anyhow::Result<String> {
        let path = self.kubeconfig();
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let server = text.split("https://").nth(1).and_then(|rest| rest.split(':').next());
        Ok(server.context("the kubeconfig names no server")?.to_owned())
    }

    /// kubectl or helm on this cluster.
    pub async fn tool(&self, program: &str, arguments: &[&str], limit: Duration) -> anyhow::Result<Said> {
        let path = self.bin.join(program);
        if !path.is_file() {
            bail!(
                "{} is missing: build it with e2e/tools/build.sh DIR all",
                path.display()
            );
        }
        let mut command = Command::new(path);
        command
            .args(arguments)
            .current_dir(&self.root)
            .env("KUBECONFIG", self.kubeconfig());
        run(command, limit).await
    }

    /// kubectl, which must succeed.
    pub async fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let said = self.tool("kubectl", arguments, CALL).await?;
        said.ok().with_context(|| format!("kubectl {}", arguments.join(" ")))
    }

    /// `kubectl get` as JSON.
    pub async fn get(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let mut all = vec!["get", "-o", "json"];
        all.extend(arguments);
        Ok(serde_json::from_str(&self.kubectl(&all).await?)?)
    }

    /// The items of a list.
    pub async fn list(&self, arguments: &[&str]) -> anyhow::Result<Vec<Value>> {
        let list = self.get(arguments).await?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// Applies a text, server-side; what the API server said.
    pub async fn try_apply(&self, namespace: &str, text: &str, dry_run: bool) -> anyhow::Result<Said> {
        let mut file = tempfile::NamedTempFile::with_suffix(".yaml")?;
        file.write_all(text.as_bytes())?;
        let path = file.path().to_string_lossy().into_owned();
        let mut arguments = vec![
            "-n",
            namespace,
            "apply",
            "--server-side",
            "--field-manager=e2e",
            "-f",
            &path,
        ];
        if dry_run {
            arguments.push("--dry-run=server");
        }
        self.tool("kubectl", &arguments, CALL).await
    }

    /// Applies a text, which must be accepted.
    pub async fn apply(&self, namespace: &str, text: &str) -> anyhow::Result<String> {
        self.try_apply(namespace, text, false).await?.ok()
    }

    /// A namespace in which every pod must meet the restricted Pod Security Standard.
    pub async fn restricted_namespace(&self, name: &str) -> anyhow::Result<()> {
        let labels = ["enforce", "warn", "audit"]
            .map(|mode| format!("    pod-security.kubernetes.io/{mode}: restricted\n"))
            .concat();
        let text = format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n  labels:\n{labels}");
        self.apply("default", &text).await.map(drop)
    }

    /// Looks every half second until `look` says something; its last refusal when `limit` is over.
    pub async fn until<T, F>(&self, limit: Duration, what: &str, mut look: impl FnMut() -> F) -> anyhow::Result<T>
    where
        F: Future<Output = anyhow::Result<T>>,
    {
        let end = Instant::now() + limit;
        loop {
            match look().await {
                Ok(seen) => return Ok(seen),
                Err(why) if Instant::now() > end => {
                    return Err(why).with_context(|| format!("not within {} s: {what}", limit.as_secs()));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
            }
        }
    }

    /// What a user asked of the API server since it started, from its audit log.
    pub fn asked(&self, user: &str) -> anyhow::Result<Vec<Asked>> {
        let path = self.state.join("log/audit.log");
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let mut all = Vec::new();
        for line in text.lines() {
            // The last one may be half written.
            let Ok(event) = serde_json::from_str::<Value>(line) else {
                continue;
            };
            let about = &event["objectRef"];
            if event["user"]["username"] != user || about["resource"].is_null() {
                continue;
            }
            let part = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let resource = match about["subresource"].as_str() {
                Some(sub) => format!("{}/{sub}", part(&about["resource"])),
                None => part(&about["resource"]),
            };
            all.push(Asked {
                verb: part(&event["verb"]),
                resource,
                path: part(&event["requestURI"]),
                allowed: event["annotations"]["authorization.k8s.io/decision"] != "forbid",
            });
        }
        Ok(all)
    }

    /// Writes down what there is when a case failed: objects, events and the operator's last words.
    pub async fn explain_failure(&self, case: &str) {
        let mut text = String::new();
        for arguments in [
            &["get", "pods,pvc,etcd,etcdb", "-A", "-o", "wide"][..],
            &["get", "etcd,etcdb", "-A", "-o", "yaml"],
            &["get", "events", "-A", "--sort-by=.lastTimestamp"],
            &[
                "-n",
                "quorate-system",
                "logs",
                "-l",
                "app.kubernetes.io/name=quorate",
                "--tail=300",
            ],
        ] {
            let said = match self.tool("kubectl", arguments, CALL).await {
                Ok(said) => format!("{}{}", said.out, said.err),
                Err(error) => format!("{error:#}"),
            };
            text.push_str(&format!("\n=== kubectl {}\n{said}", arguments.join(" ")));
        }
        let path = self.state.join(format!("failed-{case}.txt"));
        match std::fs::write(&path, text) {
            Ok(()) => println!("        what there was is in {}", path.display()),
            Err(error) => println!("        {}: {error}", path.display()),
        }
    }
}
