//! The calls of [`super::FileSystem`], a file per family.

mod attr;
mod create;
mod io;
mod lookup;
mod readdir;
mod remove;
mod rename;
mod xattr;

pub(super) use xattr::CAPABILITY;
