//! Compiles the control channel's protobuf without needing `protoc` on the machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const PROTO: &str = "src/channel/control.proto";
    println!("cargo:rerun-if-changed={PROTO}");
    let descriptors = protox::compile([PROTO], ["src/channel"])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
