//! `ledgerd purge`: free the memory of a stopped instance.

use crate::cli::{Failure, InstanceArgs};

pub(crate) fn run(instance: &InstanceArgs) -> Result<(), Failure> {
    let place = instance.own()?;
    let (objects, bytes) = crate::purge(&place, &instance.runtime_dir(&place))?;
    println!(
        "{objects} objects of instance {} removed, {bytes} bytes",
        place.name()
    );
    Ok(())
}
