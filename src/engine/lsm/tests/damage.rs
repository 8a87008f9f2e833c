//! Damaged and missing files, and the bytes that the format draws.

use super::*;

/// A small store that was closed, and what it holds.
fn small_store(options: &Options) -> (Arc<SimDisk>, Model) {
    let disk = SimDisk::new();
    let engine = open_with(disk.clone(), options).unwrap();
    let mut model = Model::new();
    for number in 0..14u8 {
        let mut batch = Batch::new(0);
        batch.put(format!("key{number:02}").into_bytes(), vec![number; 40]);
        if number % 3 == 2 {
            batch.delete(format!("key{:02}", number - 1).into_bytes());
        }
        engine.apply(&batch, Tier::Disk).unwrap();
        apply_to(&mut model, &batch);
        if number == 6 {
            run(&*engine, Command::Compact).unwrap();
        }
    }
    engine.close().unwrap();
    (disk, model)
}

#[test]
fn a_flipped_bit_is_an_error_and_never_data() {
    let tiny = Options::tiny();
    // Partitions of two blocks, and none of them pinned.
    let partitions =
        Options { part_blocks: 2, common: Common { cache_bytes: 0, ..tiny.common }, ..tiny.clone() };
    let compressed = Options { compression: Compression::Lz4.into(), ..tiny.clone() };
    [tiny, partitions, compressed].iter().for_each(flip_every_byte);
}

fn flip_every_byte(options: &Options) {
    let (disk, model) = small_store(options);
    let blocks_end: BTreeMap<String, u64> = {
        let engine = open_with(disk.kill(), options).unwrap();
        let version = engine.superversion().version.clone();
        version.tables().map(|(_, table)| (table.number.file_name(), table.sizes.data_bytes)).collect()
    };
    assert!(blocks_end.len() >= 2);
    for info in disk.list().unwrap() {
        let is_table = TableNumber::of_file(&info.name).is_some();
        if !is_table && info.name != manifest::NAME {
            continue;
        }
        for byte in 0..info.bytes {
            let place = format!("{} byte {byte}", info.name);
            let damaged = disk.kill();
            assert!(damaged.flip_bit(&info.name, byte * 8 + byte * 5 % 8));
            let engine = match open_with(damaged.clone(), options) {
                Err(Error::Corrupt { .. }) if !is_table => continue,
                Err(error) => panic!("{place}: {error}"),
                Ok(engine) => engine,
            };
            // Only of its blocks can anything be lost.
            let may_lose = blocks_end.get(&info.name).is_some_and(|end| byte < *end);
            for (key, value) in &model {
                match engine.get(key, Tier::Disk) {
                    Ok(found) => assert_eq!(found.as_deref(), Some(&value[..]), "{place}"),
                    Err(error) => {
                        assert!(may_lose && matches!(error, Error::Corrupt { .. }), "{place}: {error}")
                    }
                }
            }
            match contents(&*engine) {
                Ok(found) => assert_eq!(found, model, "{place}"),
                Err(error) => assert!(may_lose && matches!(error, Error::Corrupt { .. }), "{place}: {error}"),
            }
            let verified = run(&*engine, Command::Verify);
            assert_eq!(verified.is_err(), is_table, "{place}: {verified:?}");
            settle(&*engine).unwrap();
            assert!(may_lose || engine.shape().damage.is_none(), "{place}: {:?}", engine.shape().damage);
            // What was lost of footers, filters and indexes is written anew.
            if !may_lose {
                run(&*engine, Command::Verify).unwrap();
                engine.close().unwrap();
                let engine = open_with(damaged, options).unwrap();
                assert_eq!(
                    (contents(&*engine).unwrap(), engine.shape().damage),
                    (model.clone(), None),
                    "{place}"
                );
            }
        }
    }
}

#[test]
fn a_flipped_bit_of_a_value_in_the_log_is_an_error_and_never_data() {
    let options = Options { value_log: true, value_threshold_bytes: 40, ..Options::tiny() };
    let (disk, model) = small_store(&options);
    let mut refused = 0;
    for info in disk.list().unwrap().into_iter().filter(|info| wal::is_segment(&info.name)) {
        for byte in 0..info.bytes {
            let damaged = disk.kill();
            assert!(damaged.flip_bit(&info.name, byte * 8 + byte * 5 % 8));
            let engine = match open_with(damaged, &options) {
                Err(Error::Corrupt { .. }) => continue,
                Err(error) => panic!("{} byte {byte}: {error}", info.name),
                Ok(engine) => engine,
            };
            let mut is_damaged = false;
            for (key, value) in &model {
                match engine.get(key, Tier::Disk) {
                    Ok(found) => assert_eq!(found.as_deref(), Some(&value[..]), "{} byte {byte}", info.name),
                    Err(Error::Corrupt { .. }) => is_damaged = true,
                    Err(error) => panic!("{error}"),
                }
            }
            match contents(&*engine) {
                Ok(found) => assert_eq!(found, model, "{} byte {byte}", info.name),
                Err(error) => assert!(matches!(error, Error::Corrupt { .. }) && is_damaged, "{error}"),
            }
            assert_eq!(run(&*engine, Command::Verify).is_err(), is_damaged, "{} byte {byte}", info.name);
            refused += usize::from(is_damaged);
        }
    }
    assert_eq!(refused, model.values().map(Vec::len).sum::<usize>(), "every byte of every value counts");
}

#[test]
fn a_missing_manifest_is_noticed() {
    let (disk, _) = small_store(&Options::tiny());
    disk.remove(manifest::NAME).unwrap();
    assert!(matches!(open_tiny(disk), Err(Error::Corrupt { .. })));
}

#[test]
fn tables_and_manifests_have_the_bytes_that_the_format_draws() {
    let (disk, _) = {
        let disk = SimDisk::new();
        let engine = open_tiny(disk.clone()).unwrap();
        for (key, value) in [("apple", Some("red")), ("apricot", None), ("banana", Some(""))] {
            let mut batch = Batch::new(0);
            match value {
                Some(value) => batch.put(key.as_bytes(), value.as_bytes()),
                None => batch.delete(key.as_bytes()),
            }
            engine.apply(&batch, Tier::Disk).unwrap();
        }
        engine.close().unwrap();
        (disk, engine)
    };
    let hex = |name: &str| {
        let file = disk.open(name).unwrap();
        let mut bytes = crate::disk::read_all(&*file, Purpose::Verify).unwrap();
        if name == manifest::NAME {
            // Space for the next edits.
            let end = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0) + 1;
            assert!(bytes.len() > end);
            bytes.truncate(end);
        }
        let lines =
            bytes.chunks(32).map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        lines.collect::<Vec<_>>().join("\n")
    };
    assert_eq!(hex("table.0"), GOLDEN_TABLE);
    assert_eq!(hex(manifest::NAME), GOLDEN_MANIFEST);
    // Version 3 is the same, without files of survivors.
    let read = |text: &str| {
        let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b'\n').collect();
        let byte = |two: &[u8]| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap();
        manifest::ManifestState::decode(&digits.chunks(2).map(byte).collect::<Vec<u8>>()).unwrap()
    };
    assert_eq!(read(MANIFEST_OF_VERSION_3), read(GOLDEN_MANIFEST));
}

const GOLDEN_TABLE: &str = "\
ca5b705324000000010005076170706c657265640205007269636f7400060162
616e616e6100000000010000008ebb4fcf410000000206000040000000040000
0000010020000000080200000300000002000000000000440014000000408000
01000000000000000000001000000000000400000000004953e66a0400000003
0100002d34358d0b06000000070100002d4a0dfacacad4250000000404000301
15006e8094ebdc038094ebdc03056170706c650662616e616e61002d2d4a1c84
012e0000006b7666732e74626c";
const GOLDEN_MANIFEST: &str = "\
a12b926413000000016b766673206c736d206d616e696665737404019fe3b1d7
040000000203000400791c7bef2a000000020100cd0100030115006e8094ebdc
038094ebdc03056170706c650662616e616e61002d2d4a1c036e0401";
const MANIFEST_OF_VERSION_3: &str = "\
66bdd32b13000000016b766673206c736d206d616e696665737403019fe3b1d7
040000000203000400791c7bef2a000000020100cd0100030115006e8094ebdc
038094ebdc03056170706c650662616e616e61002d2d4a1c036e0401";
