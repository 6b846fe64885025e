//! What users do wrong, and what breaks under them: each a clear error that names the field or the file and the remedy, and
//! nothing lost.
//!
//! Every check prints what was said, so that the output is the table of results.

use crate::load::Load;
use crate::local::{Local, manifest};
use crate::process::{Background, Programs, run};
use crate::report::Report;
use anyhow::{Context, bail, ensure};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::process::Command;

const LIMIT: Duration = Duration::from_secs(90);

/// Runs the suite.
pub async fn suite(programs: &Programs) -> anyhow::Result<bool> {
    let mut report = Report::new("bad-input");
    manifests(programs, &mut report).await;
    if let Err(error) = stores(programs, &mut report).await {
        report.check::<String>("backups into stores that refuse", Err(error));
    }
    if let Err(error) = artifacts(programs, &mut report).await {
        report.check::<String>("damaged artifacts", Err(error));
    }
    let result = foreign_data(programs).await;
    report.check("the data directory of another cluster", result);
    let result = busy_port(programs).await;
    report.check("a busy port", result);
    if nix::unistd::geteuid().is_root() {
        let result = full_disk(programs, 1).await;
        report.check("a full disk under one member", result);
        let result = full_disk(programs, 3).await;
        report.check("full disks under all members", result);
    } else {
        report.figure("full disks", "not tried: to mount a file system needs root");
    }
    Ok(report.end())
}

/// One line, not too long for a table.
fn line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let text = words.join(" ");
    match text.char_indices().nth(420) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// The text has every one of these words; else an error that shows it.
fn says(text: &str, words: &[&str]) -> anyhow::Result<String> {
    let missing: Vec<&&str> = words.iter().filter(|word| !text.contains(**word)).collect();
    ensure!(missing.is_empty(), "{missing:?} is not said: {}", line(text));
    Ok(line(text))
}

async fn manifests(programs: &Programs, report: &mut Report) {
    let bad: [(&str, String, &[&str]); 6] = [
        (
            "no YAML",
            "apiVersion: quorate.dev/v1alpha1\nkind: EtcdCluster\nmetadata: {name: db\n".into(),
            &["line"],
        ),
        (
            "a field with a typing error",
            manifest("replica: 3"),
            &["spec.replica", "replicas"],
        ),
        (
            "a field of the wrong kind",
            manifest("replicas: three"),
            &["spec.replicas", "three"],
        ),
        (
            "an even number of members",
            manifest("replicas: 4"),
            &["spec.replicas", "write 3 or 5"],
        ),
        (
            "a kind that does not exist",
            manifest("replicas: 3").replace("kind: EtcdCluster", "kind: EtcdClutser"),
            &["EtcdClutser", "EtcdCluster"],
        ),
        (
            "a flag that the operator owns",
            manifest("replicas: 3\nextraArgs:\n  data-dir: /tmp/x"),
            &["spec.extraArgs", "data-dir"],
        ),
    ];
    // As the first manifest: nothing is begun.
    for (what, text, words) in &bad {
        let result = async {
            let local = Local::prepared(programs, "replicas: 3", String::new())?;
            local.write_text(text)?;
            let (file, dir) = (local.manifest_path(), local.directory());
            let said = local
                .quorate(&[
                    "local",
                    "up",
                    "-f",
                    &file.to_string_lossy(),
                    "--dir",
                    &dir.to_string_lossy(),
                ])
                .await?;
            ensure!(said.code == Some(1), "exit code {:?}", said.code);
            ensure!(!local.root().exists(), "something was begun all the same");
            says(&said.err.replace(&*file.to_string_lossy(), "FILE"), words)
        };
        report.check(&format!("manifest: {what}"), result.await);
    }
    // As an edit of a manifest in force: what was last good stays.
    let result = async {
        let local = Local::running(programs, "replicas: 3", 3).await?;
        for (_, text, words) in &bad {
            local.write_text(text)?;
            for word in *words {
                local.wait_told(word, Duration::from_secs(20)).await?;
            }
            local.wait_told("the last good version stays in force", LIMIT).await?;
        }
        let status = local.status().context("no status")?;
        ensure!(status.phase == "Running" && status.members.len() == 3, "{status:?}");
        local.access()?.client().await?.put("still", "there", None).await?;
        Ok(format!("{} edits refused, each told; the cluster serves on", bad.len()))
    };
    report.check("the same as edits of a running cluster", result.await);
}

/// An S3 server that the project brings, and how a manifest reaches it.
struct Store {
    _server: Background,
    secret: String,
    endpoint: String,
    root: PathBuf,
}

impl Store {
    async fn start(programs: &Programs, local: &Local) -> anyhow::Result<Store> {
        let root = local.scratch("objects");
        let mut command = Command::new(&programs.quorate);
        command
            .args(["local", "object-store", "--bucket", "backups", "--dir"])
            .arg(&root);
        let server = Background::start(command, &local.scratch("objects.log"))?;
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let said = server.output();
            if let (Some(start), Some(stop)) = (said.find("---\n"), said.find("serving")) {
                let endpoint = said
                    .split("endpoint: ")
                    .nth(1)
                    .and_then(|rest| rest.lines().next())
                    .context("no endpoint is told")?
                    .to_owned();
                let secret = said.get(start..stop).unwrap_or_default().to_owned();
                return Ok(Store {
                    _server: server,
                    secret,
                    endpoint,
                    root,
                });
            }
            ensure!(Instant::now() < end, "the object store does not serve: {said}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn backup(&self, name: &str, bucket: &str, secret: &str) -> String {
        format!(
            "---\napiVersion: quorate.dev/v1alpha1\nkind: EtcdBackup\nmetadata:\n  name: {name}\nspec:\n  clusterRef:\n    \
             name: db\n  destination:\n    s3:\n      endpoint: {}\n      bucket: {bucket}\n      forcePathStyle: true\n      \
             credentialsSecretRef:\n        name: {secret}\n      caSecretRef:\n        name: object-store\n",
            self.endpoint
        )
    }
}

async fn stores(programs: &Programs, report: &mut Report) -> anyhow::Result<()> {
    let mut local = Local::running(programs, "replicas: 1", 1).await?;
    let store = Store::start(programs, &local).await?;
    local.access()?.client().await?.put("kept", "value", None).await?;
    let wrong = store
        .secret
        .replace("name: object-store\nstring", "name: wrong\nstring")
        .replace("secretAccessKey: ", "secretAccessKey: not-");
    ensure!(wrong.contains("name: wrong"), "no Secret is told: {}", store.secret);
    local.others = store.secret.clone()
        + &wrong
        + &store.backup("good", "backups", "object-store")
        + &store.backup("wrong-credentials", "backups", "wrong")
        + &store.backup("no-bucket", "nowhere", "object-store")
        + &store.backup("no-secret", "backups", "absent");
    local.write_spec("replicas: 1")?;
    let told = |name: &'static str| {
        let local = &local;
        async move { local.wait_told(&format!("backup {name} "), LIMIT).await }
    };
    let good = told("good").await?;
    report.check(
        "S3: a good backup beside the bad ones",
        says(&good, &["read back and verified"]),
    );
    for (what, name, words) in [
        (
            "wrong credentials",
            "wrong-credentials",
            ["failed", "destination.s3.credentialsSecretRef"],
        ),
        (
            "a bucket that is missing",
            "no-bucket",
            ["failed", "destination.s3.bucket"],
        ),
        ("a Secret that is missing", "no-secret", ["failed", "\"absent\""]),
    ] {
        let said = told(name).await?;
        report.check(&format!("S3: {what}"), says(&said, &words));
    }
    let stored: Vec<PathBuf> = files(&store.root)?
        .into_iter()
        .filter(|path| path.to_string_lossy().ends_with(".manifest.json"))
        .collect();
    report.that(
        "S3: nothing but the good one counts as a backup",
        stored.len() == 1,
        format!("{} manifests in the store", stored.len()),
    );
    Ok(())
}

/// All files below a directory.
fn files(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let (mut found, mut pending) = (Vec::new(), vec![root.to_owned()]);
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(&directory).with_context(|| directory.display().to_string())? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true => pending.push(entry.path()),
                false => found.push(entry.path()),
            }
        }
    }
    Ok(found)
}

async fn artifacts(programs: &Programs, report: &mut Report) -> anyhow::Result<()> {
    let mut local = Local::running(programs, "replicas: 1", 1).await?;
    let mut client = local.access()?.client().await?;
    for n in 0..50 {
        client.put(format!("k/{n}"), vec![b'v'; 1000], None).await?;
    }
    for compression in ["zstd", "none"] {
        local.others += &format!(
            "---\napiVersion: quorate.dev/v1alpha1\nkind: EtcdBackup\nmetadata:\n  name: as-{compression}\nspec:\n  \
             clusterRef:\n    name: db\n  compression: {compression}\n  destination:\n    directory:\n      path: backups\n"
        );
    }
    local.write_spec("replicas: 1")?;
    for compression in ["zstd", "none"] {
        let line = local.wait_told(&format!("backup as-{compression} "), LIMIT).await?;
        ensure!(line.contains("verified"), "{line}");
    }
    let artifacts: Vec<PathBuf> = files(&local.scratch("backups"))?
        .into_iter()
        .filter(|path| !path.to_string_lossy().ends_with(".manifest.json"))
        .collect();
    ensure!(artifacts.len() == 2, "{artifacts:?}");
    for artifact in &artifacts {
        let good = std::fs::read(artifact)?;
        let kind = if artifact.extension().is_some_and(|e| e == "zst") {
            "zstd"
        } else {
            "plain"
        };
        for (what, bad) in [("truncated", truncated(&good)), ("a flipped bit", flipped(&good)?)] {
            std::fs::write(artifact, bad)?;
            let result = refused_restore(programs, &local, artifact).await;
            report.check(&format!("restore of a {kind} artifact: {what}"), result);
            if kind == "plain" {
                // The same file in the hands of a person with etcdutl.
                let result = refused_by_etcdutl(
                    programs,
                    artifact,
                    &local.scratch(&format!("by-hand-{}", bad_name(what))),
                )
                .await;
                report.check(&format!("etcdutl on that file: {what}"), result);
            }
        }
        std::fs::write(artifact, good)?;
    }
    Ok(())
}

fn bad_name(what: &str) -> String {
    what.replace(' ', "-")
}

fn truncated(good: &[u8]) -> Vec<u8> {
    good.get(..good.len() * 2 / 3).unwrap_or_default().to_vec()
}

fn flipped(good: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut bad = good.to_vec();
    *bad.get_mut(good.len() / 2).context("an empty artifact")? ^= 0x10;
    Ok(bad)
}

/// A new cluster that is to begin from the artifact says what is wrong with it, and does not begin.
async fn refused_restore(programs: &Programs, from: &Local, artifact: &Path) -> anyhow::Result<String> {
    let spec = format!(
        "replicas: 1\nbootstrap:\n  restore:\n    source:\n      directory:\n        path: {}",
        artifact.display()
    );
    let mut local = Local::up(programs, &spec)?;
    let name = artifact.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let said = local.wait_told("is damaged", LIMIT).await?;
    let status = local.status().context("no status")?;
    ensure!(
        status.phase != "Running" && !status.is("Available") && local.member_names().is_empty(),
        "it began from a damaged artifact: {status:?}"
    );
    local.interrupt().await?;
    let said = said.replace(&*from.scratch("").to_string_lossy(), "DIR/");
    says(&said, &[&name, "choose another backup"])
}

async fn refused_by_etcdutl(programs: &Programs, file: &Path, into: &Path) -> anyhow::Result<String> {
    let mut command = Command::new(&programs.quorate);
    command
        .args(["etcdutl", "snapshot", "restore"])
        .arg(file)
        .arg("--data-dir")
        .arg(into);
    let said = run(command, Duration::from_secs(60)).await?;
    ensure!(said.code != Some(0), "restore accepted it: {}", line(&said.out));
    ensure!(!into.join("member").exists(), "a data directory was left behind");
    Ok(line(&said.err))
}

async fn foreign_data(programs: &Programs) -> anyhow::Result<String> {
    let mut other = Local::running(programs, "replicas: 1", 1).await?;
    other.interrupt().await?;
    let foreign = other
        .member(other.member_names().first().context("no member")?)
        .join("data");

    let mut local = Local::running(programs, "replicas: 3", 3).await?;
    local.access()?.client().await?.put("kept", "value", None).await?;
    let before = local.status().context("no status")?;
    local.interrupt().await?;
    let victim = local.member_names().first().context("no member")?.clone();
    let (data, aside) = (local.member(&victim).join("data"), local.scratch("own-data"));
    std::fs::rename(&data, &aside)?;
    copy(&foreign, &data)?;
    local.start_operator()?;
    let said = local.wait_told(&victim, LIMIT).await;
    let blocked = async {
        let end = Instant::now() + LIMIT;
        loop {
            let status = local.status().unwrap_or_default();
            let why = status
                .plan
                .as_ref()
                .and_then(|plan| plan.blocked_by.clone())
                .unwrap_or_default();
            if why.contains(&victim) && why.contains("holds the data of member") && status.ready_replicas == 2 {
                return Ok(why);
            }
            if Instant::now() > end {
                bail!("it is not told: {status:?} {said:?}\n{}", local.last_words());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let why: String = blocked.await?;
    // The others serve on, and neither directory was touched.
    local.access()?.client().await?.put("kept", "still", None).await?;
    ensure!(
        files(&data)?.len() == files(&foreign)?.len(),
        "the foreign data was changed"
    );
    local.interrupt().await?;
    std::fs::remove_dir_all(&data)?;
    std::fs::rename(&aside, &data)?;
    local.start_operator()?;
    local
        .wait_settled(3, LIMIT)
        .await
        .context("after its own data was put back")?;
    let after = local.status().context("no status")?;
    ensure!(after.cluster_id == before.cluster_id, "a new cluster was begun");
    Ok(format!("{}; its own data put back: 3 members again", line(&why)))
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy(&entry.path(), &target)?,
            false => drop(std::fs::copy(entry.path(), &target)?),
        }
    }
    Ok(())
}

async fn busy_port(programs: &Programs) -> anyhow::Result<String> {
    let mut local = Local::running(programs, "replicas: 3", 3).await?;
    let port: u16 = local
        .access()?
        .endpoints
        .first()
        .and_then(|url| url.rsplit(':').next())
        .context("no endpoint")?
        .parse()?;
    local.interrupt().await?;
    let squatter = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    local.start_operator()?;
    let said = local.wait_told(&format!("port {port}"), LIMIT).await?;
    local
        .wait("served by the others", LIMIT, |status| status.ready_replicas == 2)
        .await?;
    local.access()?.client().await?.put("kept", "value", None).await?;
    drop(squatter);
    let back = local.wait_settled(3, LIMIT).await.context("after the port was free")?;
    Ok(format!(
        "{}; 2 members serve; free again: 3 after {:.1} s",
        says(&said, &["is in use by another program", "stop that program"])?,
        back.as_secs_f64()
    ))
}

/// A small file system in place of a member's data directory; unmounted when dropped.
struct Mount(PathBuf);

impl Mount {
    async fn over(data: &Path, aside: &Path) -> anyhow::Result<Mount> {
        std::fs::rename(data, aside)?;
        std::fs::create_dir(data)?;
        let mut command = Command::new("mount");
        // Room for two log segments of 64 MiB, the database, and a little.
        command
            .args(["-t", "tmpfs", "-o", "size=192m", "quorate-e2e"])
            .arg(data);
        run(command, Duration::from_secs(10)).await?.ok()?;
        let mount = Mount(data.to_owned());
        copy(aside, data)?;
        std::fs::remove_dir_all(aside)?;
        Ok(mount)
    }

    /// Takes all the space that is left.
    fn fill(&self) -> anyhow::Result<()> {
        let mut file = std::fs::File::create(self.0.join("filler"))?;
        let block = vec![1u8; 64 << 10];
        loop {
            use std::io::Write;
            match file.write_all(&block) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn free(&self) -> anyhow::Result<()> {
        Ok(std::fs::remove_file(self.0.join("filler"))?)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: the process that has files there is ended right after this.
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

async fn full_disk(programs: &Programs, count: usize) -> anyhow::Result<String> {
    let mut local = Local::running(programs, "replicas: 3", 3).await?;
    let before = local.status().context("no status")?;
    local.interrupt().await?;
    let names = local.member_names();
    let mut mounts = Vec::new();
    for name in names.iter().take(count) {
        mounts.push(
            Mount::over(
                &local.member(name).join("data"),
                &local.scratch(&format!("aside-{name}")),
            )
            .await?,
        );
    }
    local.start_operator()?;
    local.wait_settled(3, LIMIT).await?;
    let load = Load::start(
        local.target(),
        "load/",
        Duration::from_millis(20),
        Duration::from_secs(5),
    )?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    for mount in &mounts {
        mount.fill()?;
    }
    let began = Instant::now();
    // Values that make the database grow, until somebody hits the wall.
    let value = vec![b'v'; 256 << 10];
    let mut written = 0;
    loop {
        let full = local.told().lines().any(|line| line.contains("no space left"));
        if full && (count == 1 || local.status().is_some_and(|status| status.ready_replicas < 2)) {
            break;
        }
        ensure!(
            began.elapsed() < LIMIT,
            "nobody noticed after {written} writes of 256 KiB\n{}",
            local.last_words()
        );
        let put = async {
            let mut client = local.access()?.client().await?;
            anyhow::Ok(client.put(format!("big/{}", written % 40), value.clone(), None).await?)
        };
        match tokio::time::timeout(Duration::from_secs(3), put).await {
            Ok(Ok(_)) => written += 1,
            Ok(Err(_)) | Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
    let noticed = began.elapsed();
    let said = local.wait_told("no space left", LIMIT).await?;
    if count == 1 {
        let acked = load.acked();
        tokio::time::sleep(Duration::from_secs(3)).await;
        ensure!(load.acked() > acked, "no write is acknowledged while one disk is full");
    }
    let status = local.status().context("no status")?;
    let blocked = status
        .plan
        .as_ref()
        .map(|plan| plan.next_action.clone())
        .unwrap_or_default();
    for mount in &mounts {
        mount.free()?;
    }
    let freed = Instant::now();
    local.wait_settled(3, LIMIT).await.context("after space was made")?;
    let back = freed.elapsed();
    let after = local.status().context("no status")?;
    ensure!(after.cluster_id == before.cluster_id, "a new cluster was begun");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let summary = load.stop().await;
    let judged = summary.judged(&local.access()?).await?;
    let hash = local.access()?.equal_hash().await?;
    Ok(format!(
        "noticed after {:.1} s: {}; status: {}; space back: 3 members {:.1} s later; {judged}; hash {hash}",
        noticed.as_secs_f64(),
        line(&said),
        line(&blocked),
        back.as_secs_f64()
    ))
}
