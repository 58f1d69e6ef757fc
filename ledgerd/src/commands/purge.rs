//! `ledgerd purge`: free the memory of a stopped instance.

use ledger_client::place;
use ledger_shm::object::Instance;

use crate::cli::{Failure, InstanceArgs};

pub(crate) fn run(instance: &InstanceArgs) -> Result<(), Failure> {
    let name = match &instance.instance {
        Some(name) => name.clone(),
        None => place::instance_name()?,
    };
    let (objects, bytes) = crate::purge(&Instance::own(&name)?)?;
    println!("{objects} objects of instance {name} removed, {bytes} bytes");
    Ok(())
}
