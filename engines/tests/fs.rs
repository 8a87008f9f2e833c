//! The filesystem above each engine that is built in, against the model of the tests of kvfs: random calls, compared in answer, errno and
//! the whole tree, with the store opened anew between. `SEED=n cargo test --features all --test fs` replays one seed.

#[macro_use]
#[path = "../../tests/support/fs_run.rs"]
#[allow(dead_code, unused_imports, unused_macros, reason = "the tests of kvfs use the rest")]
mod fs_run;

use std::sync::Arc;

use fs_run::{End, Store, random_run, seeds};
use kvfs::base::clock::ManualClock;
use kvfs::engine::{Engine, Home, Kind, Options};

/// An engine in a directory of its own.
struct Directory {
    kind: Kind,
    home: tempfile::TempDir,
    engine: Option<Arc<dyn Engine>>,
}

impl Store for Directory {
    fn open(&mut self, after: Option<End>) -> Arc<dyn Engine> {
        if let Some(engine) = self.engine.take() {
            // A kill ends the filesystem without a word. The engine is closed: its threads cannot be stopped at a moment here, as they are on
            // real mounts.
            assert_ne!(after, Some(End::PowerLoss));
            engine.close().unwrap();
            // Before it is opened again: it holds the lock of its files.
            drop(engine);
        }
        let Home::Directory(open) = self.kind.home else { panic!("{} lives in a directory", self.kind) };
        let mut options = Options::tiny(self.kind);
        // Tests run with little address space.
        if let Some(set) = options.set("map_size", "256M") {
            set.unwrap();
        }
        let engine = open(self.home.path(), Arc::new(ManualClock::default()), &options).unwrap();
        self.engine = Some(engine.clone());
        engine
    }
}

#[test]
fn random_calls_answer_as_the_model_does() {
    kvfs_engines::register();
    for kind in kvfs_engines::ENGINES.iter().map(|descriptor| Kind::of(descriptor)) {
        for seed in seeds(6) {
            println!("{kind}, seed {seed}");
            let home = tempfile::tempdir().unwrap();
            random_run(seed, Box::new(Directory { kind, home, engine: None }), true, true, 150);
        }
    }
}
