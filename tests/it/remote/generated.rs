//! What is generated is what its sources say.

use std::path::PathBuf;

use protox::prost::Message;

/// Says how to have it written anew.
const GENERATE: &str = "LEDGER_GENERATE";

#[test]
fn what_is_generated_from_the_protocol_is_what_would_be_now() {
    let client = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../ledger-client"));
    let found = protox::compile(["context.proto"], [client.join("proto")]);
    let descriptors = found.expect("it is one");
    let out = tempfile::tempdir().expect("a folder");
    tonic_prost_build::configure()
        .build_server(false)
        .btree_map(".")
        .bytes(".")
        .out_dir(out.path())
        .compile_fds(descriptors.clone())
        .expect("it can be generated");
    let code = std::fs::read(out.path().join("converge.context.v1.rs")).expect("it was");
    for (name, bytes) in [
        ("generated.rs", code),
        ("descriptors.bin", descriptors.encode_to_vec()),
    ] {
        let path = client.join("src/remote/proto").join(name);
        if std::env::var_os(GENERATE).is_some() {
            std::fs::write(&path, &bytes).expect("a folder of ours");
        }
        let is_same = std::fs::read(&path).is_ok_and(|found| found == bytes);
        assert!(
            is_same,
            "{name} is another; `{GENERATE}=1 cargo test -p ledger-tests --test it generated` writes it"
        );
    }
}
