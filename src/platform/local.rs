//! Members as child processes under one directory of this machine.

pub mod arguments;
pub mod files;
pub mod lock;
pub mod ports;
pub mod process;
pub mod records;
pub mod secure;
