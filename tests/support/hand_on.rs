//! Calls of a door that a test's own engine or disk hands on as they are, so that it writes only those that it changes.
//!
//! `hand_on!(Engine engine: get, scan, close);` inside an `impl Engine for …` hands these on to `self.engine`.

/// Methods of `Engine` or `Disk` that ask the field named, and nothing else.
macro_rules! hand_on {
    ($door:ident $field:tt: $($call:ident),+ $(,)?) => { $(hand_on!(@$door $call $field);)+ };

    (@Engine kind $field:tt) => {
        fn kind(&self) -> kvfs::engine::Kind {
            self.$field.kind()
        }
    };
    (@Engine get $field:tt) => {
        fn get(&self, key: &[u8], tier: kvfs::engine::Tier) -> kvfs::engine::Result<Option<bytes::Bytes>> {
            self.$field.get(key, tier)
        }
    };
    (@Engine scan $field:tt) => {
        fn scan(
            &self,
            range: kvfs::engine::KeyRange<'_>,
            tier: kvfs::engine::Tier,
            visit: &mut kvfs::engine::Visit<'_>,
        ) -> kvfs::engine::Result<()> {
            self.$field.scan(range, tier, visit)
        }
    };
    (@Engine apply $field:tt) => {
        fn apply(
            &self,
            batch: &kvfs::engine::Batch,
            tier: kvfs::engine::Tier,
        ) -> kvfs::engine::Result<kvfs::engine::Lsn> {
            self.$field.apply(batch, tier)
        }
    };
    (@Engine lsn $field:tt) => {
        fn lsn(&self) -> kvfs::engine::Lsn {
            self.$field.lsn()
        }
    };
    (@Engine sync_to $field:tt) => {
        fn sync_to(&self, lsn: kvfs::engine::Lsn, done: kvfs::engine::Done) {
            self.$field.sync_to(lsn, done);
        }
    };
    (@Engine promise $field:tt) => {
        fn promise(&self) -> kvfs::engine::Promise {
            self.$field.promise()
        }
    };
    (@Engine close $field:tt) => {
        fn close(&self) -> kvfs::engine::Result<()> {
            self.$field.close()
        }
    };
    (@Engine background $field:tt) => {
        fn background(&self) -> Option<&dyn kvfs::engine::Background> {
            self.$field.background()
        }
    };
    (@Engine inspect $field:tt) => {
        fn inspect(&self) -> Option<&dyn kvfs::engine::Inspect> {
            self.$field.inspect()
        }
    };

    (@Disk create $field:tt) => {
        fn create(&self, name: &str) -> std::io::Result<std::sync::Arc<dyn kvfs::disk::File>> {
            self.$field.create(name)
        }
    };
    (@Disk open $field:tt) => {
        fn open(&self, name: &str) -> std::io::Result<std::sync::Arc<dyn kvfs::disk::File>> {
            self.$field.open(name)
        }
    };
    (@Disk rename $field:tt) => {
        fn rename(&self, from: &str, to: &str) -> std::io::Result<()> {
            self.$field.rename(from, to)
        }
    };
    (@Disk remove $field:tt) => {
        fn remove(&self, name: &str) -> std::io::Result<()> {
            self.$field.remove(name)
        }
    };
    (@Disk list $field:tt) => {
        fn list(&self) -> std::io::Result<Vec<kvfs::disk::FileInfo>> {
            self.$field.list()
        }
    };
    (@Disk sync_names $field:tt) => {
        fn sync_names(&self) -> std::io::Result<()> {
            self.$field.sync_names()
        }
    };
}
