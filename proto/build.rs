//! Compiles the gRPC schema (`protox` is a compiler in Rust, so no `protoc` is needed), and makes a type of every
//! text of the catalogue.

#[path = "build/texts.rs"]
mod texts;

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=schema");
    let descriptors = protox::compile(["waymark.proto"], ["schema"])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    println!("cargo:rerun-if-changed=build");
    println!("cargo:rerun-if-changed={}", texts::FILE);
    texts::generate()
}
