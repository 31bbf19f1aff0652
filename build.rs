//! Compiles the control channel's protobuf without needing `protoc` on the machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const PROTO: &str = "src/channel/control.proto";
    println!("cargo:rerun-if-changed={PROTO}");
    let descriptors = protox::compile([PROTO], ["src/channel"])?;
    // A derived `Debug` would print credentials; `channel` writes its own.
    tonic_prost_build::configure().skip_debug(["spendkeeper.channel.v1.Credential"]).compile_fds(descriptors)?;
    Ok(())
}
