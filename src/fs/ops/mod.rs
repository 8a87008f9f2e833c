//! The calls of [`super::FileSystem`], a file per family.

mod attr;
mod copy;
mod create;
mod io;
mod lookup;
mod readdir;
mod remove;
mod rename;
mod xattr;

pub use copy::Copied;
pub(super) use xattr::CAPABILITY;
