//! Stands in for the `tonic-prost-build` of crates.io: the same stubs from the same generators (prost-build, tonic-build), but
//! `.proto` files are compiled by protox.
//!
//! Invariant: whatever builds with this crate needs no `protoc` on the machine. `etcd-client` compiles its `.proto` files in its
//! build script and offers no other way; `[patch.crates-io]` in the workspace's Cargo.toml puts this crate in its place.
//! Only what `etcd-client` and our own `proto` crate call is here. It must not depend on the crate that it stands in for:
//! two versions of one name below 0.15 make the resolver's answer depend on the order in which it looks
//! (`cargo check -p quorate` failed where `cargo check` did not).

use proc_macro2::TokenStream;
use prost_types::FileDescriptorSet;
use std::io;
use std::path::{Path, PathBuf};

/// The codec that generated stubs use, unless they are told another one.
const CODEC: &str = "tonic_prost::ProstCodec";

/// Starts a code generation: clients and servers, into `OUT_DIR`.
pub fn configure() -> Builder {
    Builder {
        codec: CODEC.to_owned(),
        client: true,
        server: true,
        out_dir: None,
    }
}

/// Options of a code generation.
#[derive(Debug, Clone)]
pub struct Builder {
    codec: String,
    client: bool,
    server: bool,
    out_dir: Option<PathBuf>,
}

impl Builder {
    /// Whether client stubs are generated.
    #[must_use]
    pub fn build_client(self, enable: bool) -> Builder {
        Builder { client: enable, ..self }
    }

    /// Whether server stubs are generated.
    #[must_use]
    pub fn build_server(self, enable: bool) -> Builder {
        Builder { server: enable, ..self }
    }

    /// The codec that generated stubs use, as a path.
    #[must_use]
    pub fn codec_path(self, path: impl AsRef<str>) -> Builder {
        Builder {
            codec: path.as_ref().to_owned(),
            ..self
        }
    }

    /// Where the generated files go, instead of `OUT_DIR`.
    #[must_use]
    pub fn out_dir(self, directory: impl AsRef<Path>) -> Builder {
        Builder {
            out_dir: Some(directory.as_ref().to_owned()),
            ..self
        }
    }

    /// Compiles `.proto` files, found below `includes`, and generates messages and stubs.
    ///
    /// # Errors
    /// The file and line that do not parse, or the output file that cannot be written.
    pub fn compile_protos(self, protos: &[impl AsRef<Path>], includes: &[impl AsRef<Path>]) -> io::Result<()> {
        let descriptors = protox::compile(protos, includes).map_err(io::Error::other)?;
        self.compile_fds_with_config(descriptors, prost_build::Config::new())
    }

    /// Generates messages, as `config` says, and stubs from compiled `.proto` files.
    ///
    /// # Errors
    /// The output file that cannot be written.
    pub fn compile_fds_with_config(
        self,
        descriptors: FileDescriptorSet,
        mut config: prost_build::Config,
    ) -> io::Result<()> {
        if let Some(directory) = &self.out_dir {
            config.out_dir(directory);
        }
        config.service_generator(Box::new(Stubs {
            codec: self.codec,
            client: self.client,
            server: self.server,
        }));
        config.compile_fds(descriptors)
    }
}

/// Writes the stubs of each service behind the messages of its file.
struct Stubs {
    codec: String,
    client: bool,
    server: bool,
}

impl prost_build::ServiceGenerator for Stubs {
    fn generate(&mut self, service: prost_build::Service, code: &mut String) {
        let methods = service
            .methods
            .iter()
            .cloned()
            .map(|method| Method(method, self.codec.clone()))
            .collect();
        let service = Service { service, methods };
        let mut generator = tonic_build::CodeGenBuilder::new();
        generator.emit_package(true);
        if self.client {
            code.push_str(&generator.generate_client(&service, "super").to_string());
        }
        if self.server {
            code.push_str(&generator.generate_server(&service, "super").to_string());
        }
    }
}

/// prost's description of a service in tonic's words.
struct Service {
    service: prost_build::Service,
    methods: Vec<Method>,
}

impl tonic_build::Service for Service {
    type Comment = String;
    type Method = Method;

    fn name(&self) -> &str {
        &self.service.name
    }

    fn package(&self) -> &str {
        &self.service.package
    }

    fn identifier(&self) -> &str {
        &self.service.proto_name
    }

    fn methods(&self) -> &[Method] {
        &self.methods
    }

    fn comment(&self) -> &[String] {
        &self.service.comments.leading
    }
}

struct Method(prost_build::Method, String);

impl tonic_build::Method for Method {
    type Comment = String;

    fn name(&self) -> &str {
        &self.0.name
    }

    fn identifier(&self) -> &str {
        &self.0.proto_name
    }

    fn codec_path(&self) -> &str {
        &self.1
    }

    fn client_streaming(&self) -> bool {
        self.0.client_streaming
    }

    fn server_streaming(&self) -> bool {
        self.0.server_streaming
    }

    fn comment(&self) -> &[String] {
        &self.0.comments.leading
    }

    /// Stubs live in a module of their own, from where messages are found under `stubs_to_messages`.
    /// Google's well-known types are not supported: no service of etcd's uses them as a message.
    fn request_response_name(&self, stubs_to_messages: &str, _well_known: bool) -> (TokenStream, TokenStream) {
        let path = |message: &str| {
            let path = format!(
                "{stubs_to_messages}::{}",
                message.replace('.', "::").trim_start_matches("::")
            );
            // A name that prost has generated is a path; if it were not, the generated code would not compile either.
            path.parse().unwrap_or_default()
        };
        (path(&self.0.input_type), path(&self.0.output_type))
    }
}
