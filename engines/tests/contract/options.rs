//! Options by the engine's own names.

use super::*;

#[test]
fn its_options_read_what_they_print_and_nonsense_is_named() {
    others().into_iter().for_each(shared::its_options_read_what_they_print_and_nonsense_is_named);
}

#[test]
fn the_version_lists_what_is_built_in() {
    let output =
        std::process::Command::new(env!("CARGO_BIN_EXE_kvfs-engines")).arg("--version").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let names: Vec<&str> = others().iter().map(|kind| kind.name).collect();
    let names = ["lsm", "btree", "hybrid", "mem"].into_iter().chain(names).collect::<Vec<_>>().join(" ");
    assert_eq!(text, format!("kvfs {}\nengines: {names}\n", env!("CARGO_PKG_VERSION")));
}

/// A wrong value is refused in a sentence that names the option and says what it takes.
#[test]
fn a_wrong_option_is_named_with_what_it_takes() {
    for kind in others() {
        let mut options = kind.default_options();
        for setting in options.list() {
            let refused = options.set(setting.name, "\u{7f}nonsense").unwrap().unwrap_err().to_string();
            let begins = format!("option {}=", setting.name);
            assert!(refused.starts_with(&begins), "{kind}: {refused}");
            let says = ["takes ", "a size is", "a number", "unknown unit"];
            assert!(says.iter().any(|what| refused.contains(what)), "{kind}: {refused}");
        }
        assert!(options.set("colour", "red").is_none(), "{kind}");
    }
    let wrong: &[(&str, &str)] = &[
        ("rocksdb", "level0_file_num_compaction_trigger=30"),
        ("rocksdb", "max_write_buffer_number=1"),
        ("rocksdb", "bloom_bits=101"),
        ("rocksdb", "block_size=0"),
        ("rocksdb", "bloom_bits=500"),
        ("rocksdb", "memory=100M,write_buffer_size=64M"),
        ("fjall", "data_block_size=1"),
        ("fjall", "worker_threads=0"),
        ("fjall", "separation_threshold=0"),
        ("lmdb", "map_size=1"),
        ("sqlite", "page_size=5000"),
        ("sqlite", "wal_autocheckpoint=1"),
    ];
    let kinds = others();
    for (engine, list) in wrong {
        let Some(kind) = kinds.iter().find(|kind| kind.name == *engine) else { continue };
        let refused = kind.default_options().with(list).unwrap().validate().unwrap_err().to_string();
        let name = list.rsplit(',').next().unwrap().split('=').next().unwrap();
        assert!(refused.contains(name) || refused.contains("memory="), "{engine} {list}: {refused}");
    }
}

/// `memory=` bounds the cache and the buffers of changes together; `cache=` counts without it.
#[test]
fn memory_is_divided_and_kept() {
    const MEMORY_BYTES: u64 = 8 << 20;
    for kind in others() {
        let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        // Of a store that was made with more, too.
        open(kind, &kind.default_options(), home.path()).close().unwrap();
        let options = kind.default_options().with("memory=8M").unwrap();
        options.validate().unwrap();
        assert_eq!(options.get("memory").as_deref(), Some("8M"), "{kind}");
        let engine = open(kind, &options, home.path());
        let (mut random, mut most) = (Prng::new(3), 0);
        for number in 0u32..4 << 10 {
            let value: Vec<u8> = (0..8 << 10).map(|_| random.bits() as u8).collect();
            apply(&*engine, &put(number.to_be_bytes().to_vec(), value)).unwrap();
            if number % 128 == 0 {
                let memory = engine.shape().memory;
                assert!(memory.limit_bytes.unwrap() <= MEMORY_BYTES, "{kind}: {memory:?}");
                most = most.max(memory.used_bytes.unwrap());
                engine::sync(&*engine).unwrap();
            }
        }
        contents(&*engine, KeyRange::ALL);
        most = most.max(engine.shape().memory.used_bytes.unwrap());
        // A memtable may be over by what came while it was being handed on.
        assert!(most > 0 && most <= MEMORY_BYTES + MEMORY_BYTES / 4, "{kind} holds {most} bytes");
        engine.close().unwrap();
    }
}

/// What is there already is read whatever the option says now.
#[test]
fn rocksdb_compresses_as_its_option_says() {
    let Some(kind) = others().into_iter().find(|kind| kind.name == "rocksdb") else { return };
    for blob in ["off", "on"] {
        let home = tempfile::tempdir().unwrap();
        let mut sizes = Vec::new();
        for compression in ["none", "lz4", "zstd"] {
            let place = home.path().join(compression);
            let list = format!("compression={compression},blob={blob},min_blob_size=1K,write_buffer_size=8M");
            let engine = open(kind, &Options::tiny(kind).with(&list).unwrap(), &place);
            for number in 0u32..500 {
                let words = number.to_string().repeat(2000);
                apply(&*engine, &put(number.to_be_bytes().to_vec(), words)).unwrap();
            }
            engine::run(&*engine, Command::Compact).unwrap();
            let statistics = engine.shape().statistics;
            let bytes = |name: &str| statistics.of(name).and_then(|found| found.value.number()).unwrap_or(0);
            sizes.push(bytes("rocksdb.live-sst-files-size") + bytes("rocksdb.live-blob-file-size"));
            let before = contents(&*engine, KeyRange::ALL);
            engine.close().unwrap();
            drop(engine);
            let other = format!("compression=none,blob={blob}");
            let engine = open(kind, &Options::tiny(kind).with(&other).unwrap(), &place);
            assert!(before.len() == 500 && contents(&*engine, KeyRange::ALL) == before, "{compression}");
            engine.close().unwrap();
        }
        assert!(sizes[0] > 2 * sizes[1] && sizes[0] > 2 * sizes[2], "blob={blob}: {sizes:?}");
    }
}

/// fjall goes on with what a keyspace was made with: other values are refused by name, and what may change does.
#[test]
fn fjall_refuses_values_that_its_keyspace_does_not_take() {
    let Some(kind) = others().into_iter().find(|kind| kind.name == "fjall") else { return };
    let home = tempfile::tempdir().unwrap();
    let made =
        "table_target_size=1M,data_block_size=8K,kv_separation=on,separation_threshold=2K,compression=lz4";
    let made = Options::tiny(kind).with(made).unwrap();
    open(kind, &made, home.path()).close().unwrap();
    for (name, then, now) in [
        ("table_target_size", "1M", "2M"),
        ("data_block_size", "8K", "4K"),
        ("separation_threshold", "2K", "1K"),
        ("kv_separation", "on", "off"),
        ("compression", "lz4", "none"),
    ] {
        let other = made.clone().with(&format!("{name}={now}")).unwrap();
        let Home::Directory(open) = kind.home else { panic!("{kind} lives in a directory") };
        let opened = open(home.path(), Arc::new(SystemClock::new()), &other);
        let refused = opened.map(drop).unwrap_err().to_string();
        let says =
            format!("option {name}={now}: the keyspace was made with {name}={then} and keeps it; give");
        assert!(refused.contains(&says), "{refused}");
    }
    let changed = made.with("max_memtable_size=1M,worker_threads=1,memory=8M").unwrap();
    open(kind, &changed, home.path()).close().unwrap();
}
