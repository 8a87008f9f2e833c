//! An object that one of several makes.
//!
//! An answer may be lost on its way: the object is made, and the next try is told that it is there already. So who is told that looks whether it is
//! their own, which the bytes say. SlateDB does the same with a mark of its own.

use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, Result};

/// Makes an object of `bytes`, which nobody else has, if there is none, and says whether it did.
pub async fn create(objects: &dyn ObjectStore, path: &Path, bytes: Vec<u8>) -> Result<bool> {
    let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    match objects.put_opts(path, bytes.clone().into(), options).await {
        Ok(_) => Ok(true),
        Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {
            let read = async { objects.get(path).await?.bytes().await };
            match read.await {
                Ok(there) => Ok(there == bytes),
                // Whoever made it has taken it away again.
                Err(Error::NotFound { .. }) => Ok(false),
                Err(error) => Err(error),
            }
        }
        Err(error) => Err(error),
    }
}
