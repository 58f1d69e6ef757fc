//! `ledgerd man`: the manual's pages, from the same words as `--help`.

use std::path::PathBuf;

use clap::CommandFactory;

use crate::cli::{Cli, Failure};

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The directory to write them to, such as ~/.local/share/man/man1
    directory: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let directory = &args.directory;
    let written = std::fs::create_dir_all(directory)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), directory));
    written.map_err(|error| format!("cannot write to {}: {error}", directory.display()).into())
}
