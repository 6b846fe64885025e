//! `--log-rotation-config-json` (etcd server/embed/config_logging.go; the JSON is that of the Go library lumberjack).

use serde::Deserialize;

/// When a log file is full, and what is kept of the full ones.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Rotation {
    /// Megabytes of a file; 0 means 100.
    maxsize: u64,
    /// Days that full files are kept; 0 means for ever.
    pub maxage: u64,
    /// Full files that are kept; 0 means all.
    pub maxbackups: usize,
    /// Whether full files are named by local time instead of UTC.
    pub localtime: bool,
    compress: bool,
}

impl Rotation {
    /// Bytes after which a file is full.
    pub fn bytes_max(&self) -> u64 {
        let megabytes = if self.maxsize == 0 { 100 } else { self.maxsize };
        megabytes.saturating_mul(1024 * 1024)
    }

    pub(super) fn of(outputs: &[String], json: &str) -> Result<Rotation, String> {
        let is_file =
            |output: &&String| !matches!(output.as_str(), "default" | "stderr" | "stdout" | "systemd/journal");
        if outputs.iter().filter(is_file).count() != 1 {
            return Err(
                "--log-outputs requires a single file path when --log-rotate-config-json is defined (--enable-log-rotation)".into(),
            );
        }
        let rotation: Rotation = serde_json::from_str(json).map_err(|error| {
            let what = if error.is_data() {
                "invalid"
            } else {
                "improperly formatted"
            };
            format!("{what} log rotation config: {error} (--log-rotation-config-json)")
        })?;
        if rotation.compress {
            return Err("--log-rotation-config-json: compress is not supported by this server: set it to false".into());
        }
        Ok(rotation)
    }
}

#[cfg(test)]
mod tests {
    use super::Rotation;

    #[test]
    fn reads_what_lumberjack_reads() {
        let of = |json: &str| Rotation::of(&["stderr".into(), "/tmp/log".into()], json);
        assert_eq!(of("{}").unwrap().bytes_max(), 100 << 20);
        let rotation = of(r#"{"maxsize":1,"maxage":2,"maxbackups":3,"localtime":true,"compress":false}"#).unwrap();
        assert_eq!(
            (
                rotation.bytes_max(),
                rotation.maxage,
                rotation.maxbackups,
                rotation.localtime
            ),
            (1 << 20, 2, 3, true)
        );
        assert!(
            of("{")
                .unwrap_err()
                .starts_with("improperly formatted log rotation config")
        );
        assert!(
            of(r#"{"maxsize":"x"}"#)
                .unwrap_err()
                .starts_with("invalid log rotation config")
        );
        assert!(
            of(r#"{"compress":true}"#)
                .unwrap_err()
                .contains("compress is not supported")
        );
        assert!(Rotation::of(&["stderr".into()], "{}").is_err());
    }
}
