//! Flags, the config file, and signed tokens.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use server::auth::Tokens;
use std::sync::LazyLock;
use std::time::Duration;

/// `data[0]`: whether the rest is a config file, or flags and variables, one a line (variables have no dash in front).
pub fn config(data: &[u8]) {
    let Some((how, rest)) = data.split_first() else {
        return;
    };
    let loaded = if how & 1 == 0 {
        let path = std::env::temp_dir().join(format!("fuzz-config-{}", std::process::id()));
        std::fs::write(&path, rest).expect("a file in the directory for temporary ones");
        server::config::load(&[format!("--config-file={}", path.display())], &[])
    } else {
        let text = String::from_utf8_lossy(rest);
        let (flags, variables): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.starts_with('-'));
        let flags: Vec<String> = flags.into_iter().filter(|line| !line.contains("config-file")).map(str::to_owned).collect();
        let pair = |line: &&str| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        let variables: Vec<_> = variables.iter().filter_map(pair).filter(|(name, _)| name != "ETCD_CONFIG_FILE").collect();
        server::config::load(&flags, &variables)
    };
    if let Ok(server::config::Invocation::Run { config, .. }) = loaded {
        let _ = config.election_ticks();
        let _ = config.request_timeout();
        let _ = config.quota_bytes();
        let _ = config.watch_progress_interval();
        let _ = config.log_rotation();
        let _ = config.auto_compaction();
    }
}

const SECRET: &[u8] = b"of the fuzzer";

static TOKENS: LazyLock<Tokens> = LazyLock::new(|| {
    let path = std::env::temp_dir().join(format!("fuzz-secret-{}", std::process::id()));
    std::fs::write(&path, SECRET).expect("a file in the directory for temporary ones");
    Tokens::parse(&format!("jwt,sign-method=HS256,priv-key={}", path.display())).expect("a flag that is right")
});

/// `data[0]`: whether the rest is the token; or header and claims, which are then signed; or a key in a file.
pub fn token(data: &[u8]) {
    let Some((how, rest)) = data.split_first() else {
        return;
    };
    let ask = |token: &str| drop(TOKENS.holder(&crate::database::NOBODY, token, Duration::from_secs(1)));
    match how % 3 {
        0 => ask(&String::from_utf8_lossy(rest)),
        1 => {
            let (header, claims) = match rest.iter().position(|byte| *byte == 0) {
                Some(at) => (&rest[..at], &rest[at + 1..]),
                None => (&br#"{"alg":"HS256","typ":"JWT"}"#[..], rest),
            };
            let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
            let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET);
            let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&key, message.as_bytes()));
            ask(&format!("{message}.{signature}"));
        }
        _ => {
            let path = std::env::temp_dir().join(format!("fuzz-key-{}", std::process::id()));
            std::fs::write(&path, rest).expect("a file in the directory for temporary ones");
            for method in ["RS256", "ES256", "EdDSA"] {
                for key in ["pub-key", "priv-key"] {
                    let _ = Tokens::parse(&format!("jwt,sign-method={method},{key}={}", path.display()));
                }
            }
        }
    }
}
