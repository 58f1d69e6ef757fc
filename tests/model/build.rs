//! The library under test is `ledger-shm`'s own source with loom's atomics.
//! Setting the flag here, for this package alone, lets the models run in a
//! plain `cargo test`, beside everything that is built for the machine.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(loom)");
    println!("cargo::rustc-cfg=loom");
    println!("cargo::rerun-if-changed=build.rs");
}
