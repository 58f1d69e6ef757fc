//! `ledgerd purge`: free the memory of a stopped instance.

use std::io::{self, Write};

use crate::cli::{Failure, InstanceArgs};

pub(crate) fn run(instance: &InstanceArgs) -> Result<(), Failure> {
    let place = instance.own()?;
    let (objects, bytes) = crate::purge(&place, &instance.runtime_dir(&place))?;
    let name = place.name();
    Ok(writeln!(
        io::stdout().lock(),
        "{objects} objects of instance {name} removed, {bytes} bytes"
    )?)
}
