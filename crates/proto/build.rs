//! Compiles the .proto files of this crate with protox, so that nobody needs protoc.

use std::error::Error;
use std::path::PathBuf;

use prost::Message as _;

const FILES: &[&str] = &[
    "authpb.proto",
    "etcdserverpb/raft_internal.proto",
    "etcdserverpb/rpc.proto",
    "health.proto",
    "leasepb.proto",
    "membershippb.proto",
    "mvccpb.proto",
    "raftpb.proto",
    "snappb.proto",
    "v3electionpb.proto",
    "v3lockpb.proto",
    "walpb.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    let mut config = prost_build::Config::new();
    // `Bytes` lets keys, values and log entries share the buffer they arrived in.
    config.bytes(["."]);
    if std::env::var_os("CARGO_FEATURE_GRPC").is_some() {
        tonic_prost_build::configure()
            .codec_path("crate::codec::Codec")
            .out_dir(out)
            .compile_fds_with_config(descriptors, config)?;
    } else {
        config.out_dir(out).compile_fds(descriptors)?;
    }
    Ok(())
}
