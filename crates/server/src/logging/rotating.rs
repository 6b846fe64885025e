//! A log file that is renamed when it is full, as the Go library lumberjack does it: `etcd.log` becomes
//! `etcd-2026-01-02T03-04-05.678.log`, and the oldest of those are removed.
//!
//! Invariants: a line is never split between files; a file that cannot be renamed or removed is written on.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Zoned;
use jiff::tz::TimeZone;

use crate::config::Rotation;

#[derive(Debug)]
pub(super) struct Rotating {
    path: PathBuf,
    rotation: Rotation,
    file: File,
    size: u64,
}

impl Rotating {
    pub fn open(path: &Path, rotation: Rotation) -> io::Result<Rotating> {
        let file = File::options().create(true).append(true).open(path)?;
        let size = file.metadata()?.len();
        Ok(Rotating {
            path: path.to_owned(),
            rotation,
            file,
            size,
        })
    }

    pub fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.size > 0 && self.size + line.len() as u64 > self.rotation.bytes_max() {
            // Better a file that is too long than a line that is lost.
            let _stays = self.rotate(&Zoned::now());
        }
        self.size += line.len() as u64;
        self.file.write_all(line)
    }

    fn rotate(&mut self, now: &Zoned) -> io::Result<()> {
        let (prefix, suffix) = self.affixes();
        let now = match self.rotation.localtime {
            true => now.clone(),
            false => now.with_time_zone(TimeZone::UTC),
        };
        let name = format!("{prefix}{}{suffix}", now.strftime("%Y-%m-%dT%H-%M-%S%.3f"));
        fs::rename(&self.path, self.path.with_file_name(name))?;
        self.file = File::options().create(true).append(true).open(&self.path)?;
        self.size = self.file.metadata()?.len();
        self.remove_old(&prefix, &suffix)
    }

    /// What full files begin and end with.
    fn affixes(&self) -> (String, String) {
        let stem = self.path.file_stem().unwrap_or_default().to_string_lossy();
        let suffix = self
            .path
            .extension()
            .map(|suffix| format!(".{}", suffix.to_string_lossy()));
        (format!("{stem}-"), suffix.unwrap_or_default())
    }

    fn remove_old(&self, prefix: &str, suffix: &str) -> io::Result<()> {
        let dir = self.path.parent().filter(|dir| !dir.as_os_str().is_empty());
        let mut full = Vec::new();
        for entry in fs::read_dir(dir.unwrap_or(Path::new(".")))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let time = name.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(suffix));
            if time.is_some_and(is_time) {
                full.push((name, entry));
            }
        }
        // Names sort by time; newest first.
        full.sort_by(|a, b| b.0.cmp(&a.0));
        let days = |days: u64| Duration::from_secs(days.saturating_mul(24 * 3600));
        for (at, (_, entry)) in full.iter().enumerate() {
            let age = entry.metadata()?.modified()?.elapsed().unwrap_or_default();
            let many = self.rotation.maxbackups > 0 && at >= self.rotation.maxbackups;
            let old = self.rotation.maxage > 0 && age > days(self.rotation.maxage);
            if many || old {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

/// Whether this is a time as in the names of full files.
fn is_time(text: &str) -> bool {
    let pattern = "0000-00-00T00-00-00.000";
    let same = |(is, shape): (u8, u8)| {
        if shape == b'0' {
            is.is_ascii_digit()
        } else {
            is == shape
        }
    };
    text.len() == pattern.len() && text.bytes().zip(pattern.bytes()).all(same)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_files_are_renamed_and_the_oldest_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("etcd.log");
        fs::write(dir.path().join("etcd-other.log"), "not ours").unwrap();
        let rotation: Rotation = serde_json::from_str(r#"{"maxsize":1,"maxbackups":2}"#).unwrap();
        let mut log = Rotating::open(&path, rotation).unwrap();
        let line = vec![b'x'; 400 * 1024];
        let begin: Zoned = "2026-01-02T03:04:05.678[UTC]".parse().unwrap();
        for n in 0..4 {
            log.write(&line).unwrap();
            log.write(&line).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().len(), 800 * 1024);
            log.rotate(&begin.checked_add(jiff::Span::new().seconds(n)).unwrap())
                .unwrap();
        }
        let mut names: Vec<String> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(
            names,
            [
                "etcd-2026-01-02T03-04-07.678.log",
                "etcd-2026-01-02T03-04-08.678.log",
                "etcd-other.log",
                "etcd.log"
            ]
        );
        // By itself, when the third does not fit any more.
        for _ in 0..3 {
            log.write(&line).unwrap();
        }
        assert_eq!(fs::metadata(&path).unwrap().len(), 400 * 1024);
        let again = Rotating::open(&path, log.rotation).unwrap();
        assert_eq!(again.size, 400 * 1024, "a restart goes on with the file");
    }
}
