//! `ledgerd`: see `ledgerd --help`.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    ledgerd::cli::main()
}
