//! `ledgerd completions`: what a shell sources to complete our arguments.

use std::io;

use clap::CommandFactory;
use clap_complete::env::Shells;

use crate::cli::{COMPLETE_VARIABLE, Cli, Failure};

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Which shell
    #[arg(value_parser = ["bash", "elvish", "fish", "powershell", "zsh"])]
    shell: String,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let shells = Shells::builtins();
    let shell = shells.completer(&args.shell).expect("one of those above");
    let command = Cli::command();
    let name = command.get_name();
    shell.write_registration(
        COMPLETE_VARIABLE,
        name,
        name,
        name,
        &mut io::stdout().lock(),
    )?;
    Ok(())
}
