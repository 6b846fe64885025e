//! Stands in for the `tonic-prost-build` of crates.io: the same code generation, but `.proto` files are compiled by protox.
//!
//! Invariant: whatever builds with this crate needs no `protoc` on the machine. `etcd-client` compiles its `.proto` files in its
//! build script and offers no other way; `[patch.crates-io]` in the workspace's Cargo.toml puts this crate in its place.
//! Only what `etcd-client` calls is here; our own `proto` crate hands descriptors to the generator through [`Builder`] too.

use std::io;
use std::path::Path;

/// Starts a code generation with the generator's defaults.
pub fn configure() -> Builder {
    Builder {
        upstream: upstream::configure(),
    }
}

/// Options of a code generation.
#[derive(Debug, Clone)]
pub struct Builder {
    upstream: upstream::Builder,
}

impl Builder {
    /// Whether server stubs are generated.
    #[must_use]
    pub fn build_server(self, enable: bool) -> Builder {
        Builder {
            upstream: self.upstream.build_server(enable),
        }
    }

    /// Compiles `.proto` files, found below `includes`, and generates messages and stubs into `OUT_DIR`.
    ///
    /// # Errors
    /// The file and line that do not parse, or the output file that cannot be written.
    pub fn compile_protos(self, protos: &[impl AsRef<Path>], includes: &[impl AsRef<Path>]) -> io::Result<()> {
        let descriptors = protox::compile(protos, includes).map_err(io::Error::other)?;
        self.upstream.compile_fds(descriptors)
    }
}
