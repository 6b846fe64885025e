//! A file system on a loop device whose power can be cut.
//!
//! Invariant: it is mounted in this program's own mount namespace alone, and unmounted when it is dropped.

use anyhow::{Context, bail};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A kind of file system.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// For people.
    pub name: &'static str,
    /// The program that makes it, with its options.
    make: &'static [&'static str],
    /// Options of mount.
    mount: &'static str,
    /// Bytes of the image; most of it is never written.
    bytes: u64,
}

const EXT4: &[&str] = &["mkfs.ext4", "-q", "-F"];
/// Room for some files of the log, of which the first two take 64 MiB each.
const SIZE: u64 = 512 << 20;

/// All kinds that are tried, where the kernel knows them.
pub const KINDS: &[Kind] = &[
    ext4("ext4", ""),
    ext4("ext4 commit=1", "commit=1"),
    ext4("ext4 commit=1000", "commit=1000"),
    ext4("ext4 data=writeback", "data=writeback"),
    ext4("ext4 data=journal", "data=journal"),
    ext4("ext4 nodelalloc", "nodelalloc"),
    Kind {
        name: "ext4 fast_commit",
        make: &["mkfs.ext4", "-q", "-F", "-O", "fast_commit"],
        mount: "",
        bytes: SIZE,
    },
    Kind {
        name: "xfs",
        make: &["mkfs.xfs", "-q", "-f"],
        mount: "",
        bytes: SIZE,
    },
];

const fn ext4(name: &'static str, mount: &'static str) -> Kind {
    Kind {
        name,
        make: EXT4,
        mount,
        bytes: SIZE,
    }
}

impl Kind {
    fn kernel_name(self) -> &'static str {
        self.name.split_once(' ').map_or(self.name, |(name, _)| name)
    }
}

/// The kinds that this kernel knows.
pub fn kinds() -> Vec<Kind> {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let is_known = |kind: &&Kind| {
        known
            .lines()
            .any(|line| line.split_whitespace().last() == Some(kind.kernel_name()))
    };
    KINDS.iter().filter(is_known).copied().collect()
}

/// Whether volumes can be made here at all.
///
/// # Errors
/// What is missing, and how to get it.
pub fn ready() -> anyhow::Result<()> {
    if !nix::unistd::Uid::effective().is_root() {
        bail!("power cuts mount and shut down file systems: run this as root");
    }
    for (program, package) in [
        ("unshare", "util-linux"),
        ("mount", "mount"),
        ("mkfs.ext4", "e2fsprogs"),
        ("xfs_io", "xfsprogs"),
    ] {
        if Command::new(program)
            .arg("-V")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_err()
        {
            bail!("{program} is missing: install the package {package}");
        }
    }
    if !Path::new("/dev/loop-control").exists() {
        bail!("/dev/loop-control is missing: power cuts need loop devices (modprobe loop)");
    }
    if kinds().is_empty() {
        bail!("/proc/filesystems names neither ext4 nor xfs: power cuts need one of them");
    }
    Ok(())
}

/// See the module.
#[derive(Debug)]
pub struct Volume {
    image: PathBuf,
    /// Where it is mounted.
    pub dir: PathBuf,
    kind: Kind,
    mounted: bool,
}

impl Volume {
    /// Makes one at `root`, and mounts it.
    pub fn make(root: &Path, kind: Kind) -> anyhow::Result<Volume> {
        let (image, dir) = (root.join("image"), root.join("mnt"));
        std::fs::create_dir_all(&dir)?;
        std::fs::File::create(&image)?.set_len(kind.bytes)?;
        let mut make = Command::new(kind.make[0]);
        said(make.args(&kind.make[1..]).arg(&image))?;
        let mut volume = Volume {
            image,
            dir,
            kind,
            mounted: false,
        };
        volume.mount()?;
        Ok(volume)
    }

    /// Mounts it: the file system repairs itself, as at a boot.
    pub fn mount(&mut self) -> anyhow::Result<()> {
        let options = format!("loop,{}", self.kind.mount);
        let mut command = Command::new("mount");
        command.args(["-t", self.kind.kernel_name(), "-o", options.trim_end_matches(',')]);
        said(command.arg(&self.image).arg(&self.dir))?;
        self.mounted = true;
        Ok(())
    }

    /// Unmounts it. Nobody may use it any more.
    pub fn unmount(&mut self) -> anyhow::Result<()> {
        let mut last = Ok(());
        for _ in 0..100 {
            last = said(Command::new("umount").arg(&self.dir));
            if last.is_ok() {
                self.mounted = false;
                return Ok(());
            }
            // A process that was just waited for may hold it for a moment longer.
            std::thread::sleep(Duration::from_millis(20));
        }
        last
    }

    /// Makes a cut ready, so that it takes no time later.
    pub fn cutter(&self) -> anyhow::Result<Cutter> {
        let child = Command::new("xfs_io")
            .arg("-x")
            .arg(&self.dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run xfs_io")?;
        Ok(Cutter {
            child,
            dir: self.dir.clone(),
        })
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if self.mounted {
            // The namespace's end unmounts what this cannot.
            let _ = said(Command::new("umount").arg("--lazy").arg(&self.dir));
        }
        let _ = std::fs::remove_file(&self.image);
    }
}

/// Cuts the power of a volume.
#[derive(Debug)]
pub struct Cutter {
    child: Child,
    dir: PathBuf,
}

impl Cutter {
    /// Cuts. What was not durable is gone; whoever uses the volume gets errors.
    pub fn cut(mut self) -> anyhow::Result<()> {
        let mut orders = self.child.stdin.take().context("xfs_io has no input")?;
        orders.write_all(b"shutdown\nquit\n")?;
        drop(orders);
        let output = self.child.wait_with_output()?;
        // It ends well whatever the kernel said; only the volume tells.
        if std::fs::File::create(self.dir.join("after-the-cut")).is_ok() {
            bail!(
                "xfs_io could not shut {} down: {}",
                self.dir.display(),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(())
    }
}

/// Runs a program to its end.
fn said(command: &mut Command) -> anyhow::Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {name}"))?;
    if !output.status.success() {
        bail!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
