//! Every algorithm, with keys as `openssl` writes them (where it is there) and as rcgen does.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::*;

fn openssl(dir: &Path, arguments: &str) -> bool {
    Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(dir)
        .output()
        .is_ok_and(|output| output.status.success())
}

fn jwt(options: &[(&str, &str)]) -> Result<Jwt, String> {
    Jwt::new(&options.iter().copied().collect())
}

fn file(dir: &Path, name: &str, content: &str) -> String {
    let path: PathBuf = dir.join(name);
    std::fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}

fn round_trip(method: &str, private: &str, public: &str) {
    let signs = jwt(&[("sign-method", method), ("priv-key", private)]).unwrap();
    let token = signs.sign("alice", 17).unwrap();
    let holder = Some(AuthInfo {
        username: "alice".into(),
        revision: 17,
    });
    assert_eq!(signs.verify(&token), holder, "{method}");
    let mut other = token.clone();
    other.insert(token.find('.').unwrap() + 3, 'x');
    assert_eq!(signs.verify(&other), None);
    assert_eq!(signs.verify(token.rsplit_once('.').unwrap().0), None);
    if !public.is_empty() {
        let checks = jwt(&[("sign-method", method), ("pub-key", public)]).unwrap();
        assert_eq!(checks.verify(&token), holder, "{method}");
        assert_eq!(
            checks.sign("alice", 17).unwrap_err().to_string(),
            "auth: token signing attempted with verify-only key"
        );
        jwt(&[("sign-method", method), ("pub-key", public), ("priv-key", private)]).unwrap();
    }
}

#[test]
fn a_secret_signs_and_checks() {
    let dir = tempfile::tempdir().unwrap();
    let secret = file(dir.path(), "secret", "s3cret\n");
    for method in ["HS256", "HS384", "HS512"] {
        round_trip(method, &secret, "");
    }
    let short = jwt(&[("sign-method", "HS256"), ("priv-key", &secret), ("ttl", "1ns")]).unwrap();
    let token = short.sign("alice", 1).unwrap();
    assert_eq!(short.verify(&token), None, "its time is over");
    // The algorithm is the flag's, not the token's.
    let other = jwt(&[("sign-method", "HS512"), ("priv-key", &secret)]).unwrap();
    assert_eq!(
        other.verify(
            &jwt(&[("sign-method", "HS256"), ("priv-key", &secret)])
                .unwrap()
                .sign("a", 1)
                .unwrap()
        ),
        None
    );
    let none = format!(
        "{}.{}.",
        URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#),
        URL_SAFE_NO_PAD.encode("{}")
    );
    for garbage in ["", ".", "..", "a.b.c", "ä.ö.ü", &none] {
        assert_eq!(other.verify(garbage), None, "{garbage:?}");
    }
    let empty = file(dir.path(), "empty", "");
    assert!(jwt(&[("sign-method", "HS256"), ("priv-key", &empty)]).is_err());
}

#[test]
fn keys_of_rcgen_sign_and_check() {
    let dir = tempfile::tempdir().unwrap();
    for (method, kind) in [
        ("ES256", &rcgen::PKCS_ECDSA_P256_SHA256),
        ("ES384", &rcgen::PKCS_ECDSA_P384_SHA384),
        ("EdDSA", &rcgen::PKCS_ED25519),
    ] {
        let pair = rcgen::KeyPair::generate_for(kind).unwrap();
        let private = file(dir.path(), "key", &pair.serialize_pem());
        let public = file(dir.path(), "pub", &pair.public_key_pem());
        round_trip(method, &private, &public);
        let certificate = rcgen::CertificateParams::default().self_signed(&pair).unwrap();
        round_trip(method, &private, &file(dir.path(), "crt", &certificate.pem()));
        let stranger = rcgen::KeyPair::generate_for(kind).unwrap().public_key_pem();
        let stranger = file(dir.path(), "stranger", &stranger);
        let error = jwt(&[("sign-method", method), ("priv-key", &private), ("pub-key", &stranger)]).unwrap_err();
        assert!(error.contains("do not belong together"), "{error}");
        let error = jwt(&[("sign-method", "RS256"), ("priv-key", &private)]).unwrap_err();
        assert!(error.contains("does not suit"), "{error}");
    }
}

#[test]
fn keys_of_openssl_sign_and_check() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    if !openssl(dir, "genrsa -traditional -out rsa1.pem 2048") {
        println!("skipped: no openssl on this machine");
        return;
    }
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    assert!(openssl(dir, "pkcs8 -topk8 -nocrypt -in rsa1.pem -out rsa8.pem"));
    assert!(openssl(dir, "rsa -in rsa1.pem -pubout -out rsa.pub"));
    assert!(openssl(dir, "rsa -in rsa1.pem -RSAPublicKey_out -out rsa1.pub"));
    for method in ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"] {
        for (private, public) in [("rsa1.pem", "rsa.pub"), ("rsa8.pem", "rsa1.pub")] {
            round_trip(method, &path(private), &path(public));
        }
    }
    for (method, curve) in [("ES256", "prime256v1"), ("ES384", "secp384r1")] {
        assert!(openssl(dir, &format!("ecparam -name {curve} -genkey -out ec1.pem")));
        assert!(openssl(dir, "pkcs8 -topk8 -nocrypt -in ec1.pem -out ec8.pem"));
        assert!(openssl(dir, "ec -in ec1.pem -pubout -out ec.pub"));
        round_trip(method, &path("ec1.pem"), &path("ec.pub"));
        round_trip(method, &path("ec8.pem"), &path("ec.pub"));
    }
    assert!(openssl(dir, "genpkey -algorithm ed25519 -out ed.pem"));
    assert!(openssl(dir, "pkey -in ed.pem -pubout -out ed.pub"));
    round_trip("EdDSA", &path("ed.pem"), &path("ed.pub"));
}
