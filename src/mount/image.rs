//! An image of a store that is not mounted.

use std::path::Path;
use std::time::SystemTime;

use super::store::open_store;
use crate::disk::create_outside;
use crate::engine::Engine;
use crate::fs::{Veil, keys};
use crate::recording::{self, Head, Keeps, Meters, Recorder, RecorderStatus, Writer};
use crate::store::{Error, Place, Terms, location, look};

/// Writes what the store in `path` holds into the new file `file`; nothing of the store changes.
pub fn image(path: &Path, file: &Path, keeps: Keeps) -> Result<RecorderStatus, Error> {
    let show = path.display();
    if location::url(path).is_none() && look(path)? != Place::Store {
        return Err(Error::usage(format!("{show} is neither a mounted kvfs nor the directory of a store")));
    }
    if file.starts_with(path) {
        return Err(Error::usage(format!(
            "{} lies in the store's directory; give a place outside of it",
            file.display()
        )));
    }
    let terms = Terms { must_exist: true, any_owner: true };
    let store = open_store(path, &[("read_only".to_string(), "on".to_string())], terms)?;
    let made =
        create_outside(file).map_err(|error| Error::system(format!("making {}", file.display()), error))?;
    let failed = |error: recording::Error| Error::system(&show, error);
    let since = store.clock.now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let head = Head {
        program: env!("CARGO_PKG_VERSION").to_string(),
        began_ms: since.as_millis() as u64,
        keys: "kvfs".to_string(),
        engine: store.settings.engine.kind().to_string(),
        options: store.settings.list().into_iter().map(|it| (it.name.to_string(), it.value)).collect(),
        kinds: keys::KIND_NAMES.iter().map(|name| name.to_string()).collect(),
        keeps_names: keeps.names,
        keeps_values: keeps.values,
        ..Head::default()
    };
    let writer = Writer::new(made, &file.display().to_string(), head).map_err(failed)?;
    let veil = recording::Veil { hide: Box::new(Veil::new().into_hide()), kind_of: keys::classify };
    let recorder = Recorder::new(store.clock.clone(), keeps, veil, false);
    let engine: &dyn Engine = &**store.engine.uncounted();
    recorder.run(writer, engine, &Meters::default).map_err(failed)?;
    store.close()?;
    Ok(recorder.status())
}
