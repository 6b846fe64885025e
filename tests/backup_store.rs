//! The stores, through their one face: a directory, and a real S3 server with TLS and signed requests.

#![cfg(feature = "local")]

use std::path::Path;

use quorate::backup::store::{Destination, Error, Store};
use quorate::object_store::ObjectStore;
use tokio::io::AsyncReadExt;

async fn read(store: &Store, key: &str) -> Option<Vec<u8>> {
    let mut reader = store.get(key).await.unwrap()?;
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).await.unwrap();
    Some(bytes)
}

async fn keeps_what_it_is_given(store: &Store, scratch: &Path) {
    // 37 MiB go up in three parts, the small one in one request.
    let large: Vec<u8> = (0..37u32 << 20).map(|i| (i % 251) as u8).collect();
    for (key, bytes) in [
        ("main/a.db", large.as_slice()),
        ("main/a.db.manifest.json", b"{}"),
        ("other/empty", b""),
    ] {
        let file = scratch.join("file");
        std::fs::write(&file, bytes).unwrap();
        store.put_file(key, &file).await.unwrap();
        assert!(read(store, key).await.unwrap() == bytes, "{key} came back changed");
    }
    assert_eq!(
        store.list("main/").await.unwrap(),
        ["main/a.db", "main/a.db.manifest.json"]
    );
    assert_eq!(read(store, "main/missing").await, None);
    store.delete("main/a.db").await.unwrap();
    store.delete("main/a.db").await.unwrap();
    assert_eq!(store.list("main/").await.unwrap(), ["main/a.db.manifest.json"]);
}

#[tokio::test]
async fn a_directory_keeps_what_it_is_given() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("backups");
    let store = Store::open(&Destination::Directory(root)).unwrap();
    keeps_what_it_is_given(&store, dir.path()).await;
    let outside = store.delete("../elsewhere").await.unwrap_err();
    assert!(matches!(outside, Error::Key { .. }), "{outside}");
}

#[tokio::test]
async fn an_s3_bucket_keeps_what_it_is_given() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("s3");
    std::fs::create_dir_all(root.join("backups")).unwrap();
    let server = ObjectStore::start(&root).await.unwrap();
    let store = Store::open(&Destination::S3(server.location("backups"))).unwrap();
    keeps_what_it_is_given(&store, dir.path()).await;
}

#[tokio::test]
async fn mistakes_in_the_destination_name_their_field() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("backups")).unwrap();
    let server = ObjectStore::start(dir.path()).await.unwrap();
    let right = server.location("backups");

    let mut wrong = right.clone();
    wrong.secret_key = "guess".into();
    let text = Store::open(&Destination::S3(wrong))
        .unwrap()
        .list("")
        .await
        .unwrap_err()
        .to_string();
    assert!(text.starts_with("destination.s3.credentialsSecretRef"), "{text}");
    assert!(!text.contains("guess"), "a secret is in the error: {text}");

    let mut wrong = right.clone();
    wrong.bucket = "missing".into();
    let text = Store::open(&Destination::S3(wrong))
        .unwrap()
        .list("")
        .await
        .unwrap_err()
        .to_string();
    assert!(text.starts_with("destination.s3.bucket"), "{text}");

    let mut wrong = right.clone();
    wrong.ca_pem = None;
    let text = Store::open(&Destination::S3(wrong))
        .unwrap()
        .list("")
        .await
        .unwrap_err()
        .to_string();
    assert!(text.starts_with("destination.s3.endpoint"), "{text}");

    let mut wrong = right.clone();
    wrong.endpoint = Some("http://localhost:1".into());
    let text = Store::open(&Destination::S3(wrong)).unwrap_err().to_string();
    assert!(text.contains("allowHTTP"), "{text}");
}
