//! Compressed pages: what they take and give back, what they say they do, and what damage makes of them.

use super::meta::Meta;
use super::*;
use crate::engine::BtreeShape;
use crate::engine::salvage::Sink;

const PAGE: u64 = 16 << 10;
const COMPRESSED: [Mode; 4] = [
    Mode::out_of_place(Placement::Cow, Compression::Lz4),
    Mode::out_of_place(Placement::Cow, Compression::Zstd),
    Mode::out_of_place(Placement::CowExtent, Compression::Lz4),
    Mode::out_of_place(Placement::CowExtent, Compression::Zstd),
];

fn options(mode: Mode) -> Options {
    mode.of(Options { page_bytes: PAGE, ..large() })
}

/// Text of its own for each key: it shrinks, but not to nothing.
fn text(key: u32) -> Vec<u8> {
    (0..9).flat_map(|word| format!("{} is not {} ", key * 31 + word, key).into_bytes()).collect()
}

fn fill_with_text(engine: &BtreeEngine, keys: std::ops::Range<u32>) {
    for key in keys {
        let mut batch = Batch::new(0);
        batch.put(format!("key{key:06}").into_bytes(), text(key));
        apply(engine, &batch).unwrap();
    }
}

fn tree(engine: &BtreeEngine) -> BtreeShape {
    engine.shape().tree.unwrap()
}

/// Both slots of the meta page.
fn slots(sim: &SimDisk) -> Vec<u8> {
    let file = sim.open(allocation_unit::FILE).unwrap();
    let mut bytes = vec![0; 8192];
    file.read_at(Purpose::Recovery, 0, &mut bytes).unwrap();
    bytes
}

#[test]
fn what_pages_save_is_what_the_file_does_not_take() {
    for mode in COMPRESSED {
        let sim = SimDisk::new();
        let engine = open_on(sim.clone(), &options(mode)).unwrap();
        let used_bytes = |engine: &BtreeEngine| engine.core.tree.read().space.used_units().bytes();
        fill_with_text(&engine, 0..4000);
        run(&*engine, Command::Checkpoint).unwrap();
        run(&*engine, Command::Verify).unwrap();
        let shape = tree(&engine);
        let pages = shape.leaf_pages + shape.inner_pages;
        // The map's only page has two units.
        assert_eq!(used_bytes(&engine), pages * PAGE - shape.saved_bytes + 8192, "{mode:?}");
        assert!(shape.saved_bytes > pages * PAGE / 3, "{mode:?} {shape:?}");
        assert!(shape.inner_pages > 0 && engine.core.tree.read().root.is_compressed());
        // As much after it was opened again, and when parts are written again.
        drop(engine);
        let engine = open_on(sim.clone(), &options(mode)).unwrap();
        assert_eq!(tree(&engine).saved_bytes, shape.saved_bytes);
        fill_with_text(&engine, 1000..1100);
        run(&*engine, Command::Checkpoint).unwrap();
        run(&*engine, Command::Verify).unwrap();
        assert_eq!(used_bytes(&engine), pages * PAGE - tree(&engine).saved_bytes + 8192, "{mode:?}");
        for key in 0..4000 {
            let mut batch = Batch::new(0);
            batch.delete(format!("key{key:06}").into_bytes());
            apply(&engine, &batch).unwrap();
        }
        run(&*engine, Command::Checkpoint).unwrap();
        run(&*engine, Command::Verify).unwrap();
        assert_eq!((used_bytes(&engine), tree(&engine).saved_bytes), (8192, 0), "{mode:?}");
        assert_eq!(Meta::newest(&slots(&sim)).unwrap().encode()[16], b'2', "nothing is compressed any more");
    }
}

#[test]
fn bytes_before_and_after_are_those_at_the_disk() {
    for mode in COMPRESSED {
        let metered = Metered::new(SimDisk::new());
        let engine = open_on(metered.clone(), &options(mode)).unwrap();
        fill_with_text(&engine, 0..3000);
        run(&*engine, Command::Checkpoint).unwrap();
        fill_with_text(&engine, 200..210);
        run(&*engine, Command::Checkpoint).unwrap();
        let shape = tree(&engine);
        let written = &shape.pages.written;
        let [leaves, inner] = [PageKind::Leaf, PageKind::Inner].map(|kind| written.of_kind(kind));
        let at_disk = metered.snapshot().of(Purpose::Checkpoint).write_bytes;
        assert_eq!(leaves.bytes + inner.bytes, at_disk, "{mode:?}");
        let saved = shape.compressible_bytes - shape.compressed_bytes;
        assert_eq!((leaves.pages + inner.pages) * PAGE - saved, at_disk, "{mode:?}");
        assert!(shape.compressed_bytes > 0 && shape.compressed_bytes * 4 <= shape.compressible_bytes * 3);
        let cpu = engine.shape().cpu;
        assert!(cpu.of(crate::engine::Work::Compress).bytes >= shape.compressible_bytes);
        // A read brings what was written, no more.
        let before = metered.snapshot();
        drop(engine);
        let engine = open_on(metered.clone(), &options(mode)).unwrap();
        let opened = metered.snapshot();
        contents(&*engine).unwrap();
        let read = metered.snapshot().since(&opened).of(Purpose::Scan).read_bytes;
        let shape = tree(&engine);
        assert_eq!(read, (shape.leaf_pages + shape.inner_pages) * PAGE - shape.saved_bytes, "{mode:?}");
        assert!(opened.since(&before).of(Purpose::Recovery).read_bytes > 0);
    }
}

#[test]
fn what_does_not_shrink_is_stored_as_it_is() {
    for mode in COMPRESSED {
        let sim = SimDisk::new();
        let engine = open_on(sim.clone(), &options(mode)).unwrap();
        let mut prng = Prng::new(3);
        for key in 0..300u32 {
            let mut batch = Batch::new(0);
            batch.put(key.to_be_bytes().to_vec(), (0..900).map(|_| prng.bits() as u8).collect::<Vec<_>>());
            apply(&engine, &batch).unwrap();
        }
        run(&*engine, Command::Checkpoint).unwrap();
        run(&*engine, Command::Verify).unwrap();
        let leaves_saved = {
            let tree = engine.core.tree.read();
            (tree.counts.leaf_pages, tree.counts.saved_units)
        };
        // The root is not random, and the last leaf is not full.
        let saved_max = Units::of_bytes(2 * PAGE);
        assert!(leaves_saved.0 > 10 && leaves_saved.1 < saved_max, "{mode:?} {leaves_saved:?}");
    }
    // A page of one unit has nothing to save, so nothing is tried.
    let engine = open_on(SimDisk::new(), &COMPRESSED[0].of(Options { page_bytes: 4096, ..large() })).unwrap();
    fill_with_text(&engine, 0..1000);
    run(&*engine, Command::Checkpoint).unwrap();
    assert_eq!(engine.shape().cpu.of(crate::engine::Work::Compress).bytes, 0);
}

#[test]
fn a_store_with_compressed_pages_opens_with_any_options_and_loses_them_where_pages_are_overwritten() {
    let plain = Mode::out_of_place(Placement::Cow, Compression::None);
    let all: Vec<Mode> = COMPRESSED.into_iter().chain(MODES).chain([plain]).collect();
    let (sim, mut prng, mut model) = (SimDisk::new(), Prng::new(5), Map::new());
    for round in 0..60 {
        let mode = all[prng.below(all.len() as u64) as usize];
        let engine = open_on(sim.clone(), &options(mode)).unwrap();
        assert_eq!(contents(&*engine).unwrap(), model, "round {round}");
        let from = prng.below(3000) as u32;
        for key in from..from + 200 {
            let mut batch = Batch::new(0);
            let name = format!("key{key:06}").into_bytes();
            match prng.one_in(4) {
                true => batch.delete(name),
                false => batch.put(name, text(key + round)),
            }
            apply(&engine, &batch).unwrap();
            follow(&mut model, &batch);
        }
        run(&*engine, if prng.one_in(4) { Command::Compact } else { Command::Checkpoint }).unwrap();
        run(&*engine, Command::Verify).unwrap_or_else(|error| panic!("round {round} {mode:?}: {error}"));
    }
    // What is overwritten in place has its whole length again.
    for torn in [Mode::IMAGE, Mode::DOUBLEWRITE, Mode::DELTA] {
        let engine = open_on(sim.clone(), &options(COMPRESSED[1])).unwrap();
        fill_with_text(&engine, 0..3200);
        run(&*engine, Command::Checkpoint).unwrap();
        assert!(tree(&engine).saved_bytes > 0);
        drop(engine);
        let engine = open_on(sim.clone(), &options(torn)).unwrap();
        fill_with_text(&engine, 0..3200);
        for key in 3200..3500 {
            let mut batch = Batch::new(0);
            batch.delete(format!("key{key:06}").into_bytes());
            apply(&engine, &batch).unwrap();
        }
        run(&*engine, Command::Checkpoint).unwrap();
        run(&*engine, Command::Verify).unwrap();
        assert_eq!(tree(&engine).saved_bytes, 0, "{torn:?}");
    }
}

#[test]
fn an_older_program_finds_no_state_that_it_knows() {
    let sim = SimDisk::new();
    let engine = open_on(sim.clone(), &options(Mode::DELTA)).unwrap();
    fill_with_text(&engine, 0..1000);
    engine.close().unwrap();
    drop(engine);
    let versions = |sim: &SimDisk| [slots(sim)[16], slots(sim)[4096 + 16]];
    assert_eq!(versions(&sim), *b"22");
    let engine = open_on(sim.clone(), &options(Mode::COW)).unwrap();
    fill_with_text(&engine, 100..110);
    run(&*engine, Command::Checkpoint).unwrap();
    assert_eq!(versions(&sim), *b"33");
}

#[test]
fn a_turned_bit_of_a_compressed_page_is_an_error_that_names_the_place() {
    for mode in [COMPRESSED[0], COMPRESSED[3]] {
        let sim = SimDisk::new();
        let engine = open_on(sim.clone(), &options(mode)).unwrap();
        fill_with_text(&engine, 0..600);
        engine.close().unwrap();
        let leaf = {
            let tree = engine.core.tree.read();
            let loaded = LoadedPieces::default();
            let root = tree.root;
            assert!(tree.height == 2);
            let page = tree.page(&engine.core.pager, &loaded, root, 1).ok().unwrap();
            page.child(1)
        };
        assert!(leaf.is_compressed());
        drop(engine);
        let bits = leaf.units(Units::of_bytes(PAGE)).bytes() * 8;
        let mut prng = Prng::new(9);
        for _ in 0..60 {
            let damaged = sim.kill();
            damaged.flip_bit(allocation_unit::FILE, leaf.offset() * 8 + prng.below(bits));
            let engine = open_on(damaged, &options(mode)).unwrap();
            match contents(&*engine) {
                Err(Error::Corrupt { file, offset, .. }) => {
                    assert_eq!((&file[..], offset), (allocation_unit::FILE, leaf.offset()));
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn a_page_whose_length_is_wrong_where_it_is_referred_to_is_an_error() {
    let sim = SimDisk::new();
    let engine = open_on(sim.clone(), &options(Mode::COW)).unwrap();
    fill_with_text(&engine, 0..600);
    engine.close().unwrap();
    drop(engine);
    let meta = Meta::newest(&slots(&sim)).unwrap();
    let right = meta.root.units(Units::of_bytes(PAGE));
    for units in (0..256).map(Units::new).filter(|units| *units != right) {
        let damaged = sim.kill();
        let wrong = Meta { root: PageNumber::compressed(meta.root.unit(), units), ..meta };
        let file = damaged.open(allocation_unit::FILE).unwrap();
        file.write_at(Purpose::Recovery, wrong.offset(), &wrong.encode()).unwrap();
        let engine = open_on(damaged, &options(Mode::COW)).unwrap();
        let found = contents(&*engine);
        assert!(matches!(&found, Err(Error::Corrupt { .. })), "{units:?}: {found:?}");
        assert!(engine.get(b"key000001", Tier::Disk).is_err());
        assert!(run(&*engine, Command::Verify).is_err());
    }
}

#[test]
fn what_a_repair_finds_includes_compressed_pages() {
    for mode in COMPRESSED {
        let sim = SimDisk::new();
        let engine = open_on(sim.clone(), &options(mode)).unwrap();
        fill_with_text(&engine, 0..2500);
        engine.close().unwrap();
        let (model, root) = (contents(&*engine).unwrap(), engine.core.tree.read().root);
        drop(engine);
        // Without the root, leaves are found by what they look like; without any meta page, so is everything.
        for spoil_meta in [false, true] {
            let damaged = sim.kill();
            damaged.flip_bit(allocation_unit::FILE, root.offset() * 8 + 200);
            if spoil_meta {
                damaged.flip_bit(allocation_unit::FILE, 20 * 8);
                damaged.flip_bit(allocation_unit::FILE, (4096 + 20) * 8);
            }
            let mut found = Map::new();
            let mut take = |operation: Operation| {
                let mut batch = Batch::new(0);
                match operation {
                    Operation::Put { key, value } => batch.put(key, value),
                    Operation::Delete { key } => batch.delete(key),
                }
                follow(&mut found, &batch);
                Ok(())
            };
            let sink: &mut Sink<'_> = &mut take;
            salvage(damaged, &options(mode), sink).unwrap();
            assert_eq!(found, model, "{mode:?} {spoil_meta}");
        }
    }
}

#[test]
fn a_vacuum_finds_room_for_pages_that_are_longer_until_they_are_written() {
    for mode in COMPRESSED {
        let sim = SimDisk::new();
        let engine = open_on(sim.clone(), &options(mode)).unwrap();
        fill_with_text(&engine, 0..6000);
        run(&*engine, Command::Checkpoint).unwrap();
        // The first half goes, so that what is left lies behind holes.
        for key in (0..5000).filter(|key| key % 40 != 0) {
            let mut batch = Batch::new(0);
            batch.delete(format!("key{key:06}").into_bytes());
            apply(&engine, &batch).unwrap();
        }
        let model = contents(&*engine).unwrap();
        let end = |engine: &BtreeEngine| engine.core.tree.read().space.end();
        let before = end(&engine);
        run(&*engine, Command::Compact).unwrap();
        run(&*engine, Command::Verify).unwrap();
        assert_eq!(contents(&*engine).unwrap(), model);
        let limit = engine.core.tree.read().space.limit();
        assert!(end(&engine) <= limit && end(&engine) < before, "{mode:?} {before} {} {limit}", end(&engine));
    }
}

/// Random overwrites, until extents are mostly dead and collected.
#[test]
fn what_a_collection_moves_is_not_compressed_again() {
    let extents = Mode::out_of_place(Placement::CowExtent, Compression::Zstd);
    let options = extents.of(Options {
        page_bytes: PAGE,
        dirty_bytes_max: 512 << 10,
        checkpoint_log_bytes: 1 << 20,
        ..large()
    });
    let engine = open_on(SimDisk::new(), &options).unwrap();
    fill_with_text(&engine, 0..12_000);
    let mut prng = Prng::new(2);
    for _ in 0..30_000 {
        let key = prng.below(12_000) as u32;
        fill_with_text(&engine, key..key + 1);
        if prng.one_in(8) {
            engine.work(WorkClass::Flush).unwrap();
        }
    }
    run(&*engine, Command::Checkpoint).unwrap();
    run(&*engine, Command::Verify).unwrap();
    let model = contents(&*engine).unwrap();
    assert!((0..12_000).all(|key| model[format!("key{key:06}").as_bytes()] == text(key)));
    let shape = tree(&engine);
    let written = &shape.pages.written;
    let pages = written.of_kind(PageKind::Leaf).pages + written.of_kind(PageKind::Inner).pages;
    let moved = written.of_cause(PageCause::Vacuum).pages;
    let compressed = engine.shape().cpu.of(crate::engine::Work::Compress).bytes / PAGE;
    assert!(moved > 100, "{moved} of {pages}");
    assert!(compressed < pages - moved / 2, "{compressed} compressed of {pages}, {moved} moved");
}
