//! The QEMU backend: confined processes, machines, and the channel into them.
//!
//! Only this module starts QEMU. What QEMU gets is descriptors; what comes out of a guest is checked in [`guest`].

pub mod confine;
pub mod guest;
pub mod machine;
pub mod memory;
pub mod qcow2;
pub mod qemu;
pub mod qmp;
