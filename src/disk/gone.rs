//! The place of a file that is not there.

use std::io;

use super::{File, Purpose};

/// Stands for a file that is gone, so that who has to do with it can be held apart from everyone else: each request fails.
pub struct Gone;

impl Gone {
    fn fail<T>(&self) -> io::Result<T> {
        Err(io::Error::new(io::ErrorKind::NotFound, "the file is gone"))
    }
}

impl File for Gone {
    fn read_at(&self, _: Purpose, _: u64, _: &mut [u8]) -> io::Result<()> {
        self.fail()
    }
    fn write_at(&self, _: Purpose, _: u64, _: &[u8]) -> io::Result<()> {
        self.fail()
    }
    fn write_pieces_at(&self, _: Purpose, _: u64, _: &[&[u8]]) -> io::Result<()> {
        self.fail()
    }
    fn sync(&self, _: Purpose) -> io::Result<()> {
        self.fail()
    }
    fn size(&self) -> io::Result<u64> {
        self.fail()
    }
    fn set_size(&self, _: u64) -> io::Result<()> {
        self.fail()
    }
    fn allocate(&self, _: u64) -> io::Result<()> {
        self.fail()
    }
}
