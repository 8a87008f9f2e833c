//! Lists of random calls answer as the model does: over an engine that is not ready, with remounts, kills and power failures
//! between.

use super::*;

fn mem_store() -> Box<dyn Store> {
    Box::new(MemStore(Arc::new(MemEngine::new())))
}

#[test]
fn random_calls_answer_as_the_model_does() {
    seeds(6).into_iter().for_each(|seed| random_run(seed, mem_store(), false, false, 400));
}

#[test]
fn random_calls_are_repeated_safely_over_a_reluctant_engine() {
    seeds(5).into_iter().for_each(|seed| random_run(seed, mem_store(), true, false, 250));
}

#[test]
fn random_calls_survive_crashes() {
    seeds(6).into_iter().for_each(|seed| random_run(seed, mem_store(), false, true, 300));
}

#[test]
fn random_calls_over_the_lsm_tree_survive_kills() {
    seeds(6)
        .into_iter()
        .for_each(|seed| random_run(seed, DiskStore::boxed(Kind::LSM, seed), true, true, 150));
}

#[test]
fn random_calls_over_the_b_tree_survive_kills() {
    seeds(6)
        .into_iter()
        .for_each(|seed| random_run(seed, DiskStore::boxed(Kind::BTREE, seed), true, true, 150));
}

#[test]
fn random_calls_over_the_hybrid_survive_kills() {
    seeds(6)
        .into_iter()
        .for_each(|seed| random_run(seed, DiskStore::boxed(Kind::HYBRID, seed), true, true, 150));
}

/// What a tree shows, by path and without times.
type Portrait = BTreeMap<Vec<u8>, (Attributes, u64)>;

fn portray(portrait: &mut Portrait, path: Vec<u8>, attributes: Attributes, content: &[u8]) {
    let zero = Time::default();
    let timeless = Attributes { atime: zero, mtime: zero, ctime: zero, btime: zero, ..attributes };
    portrait.insert(path, (timeless, xxhash_rust::xxh3::xxh3_64(content)));
}

fn portrait_of_model(model: &ModelFs) -> Portrait {
    let (mut portrait, mut todo) = (Portrait::new(), vec![(ROOT, Vec::new())]);
    while let Some((ino, path)) = todo.pop() {
        let node = &model.nodes[&ino];
        let content = if node.target.is_empty() { &node.content } else { &node.target };
        portray(&mut portrait, path.clone(), node.attributes, content);
        todo.extend(node.names.iter().map(|(name, &child)| (child, [&path[..], b"/", name].concat())));
    }
    portrait
}

fn portrait_of(fs: &FileSystem) -> Portrait {
    let (mut portrait, mut todo) = (Portrait::new(), vec![(ROOT, Vec::new())]);
    while let Some((ino, path)) = todo.pop() {
        let attributes = fs.getattr(Tier::Disk, ino).unwrap();
        let content = match attributes.kind {
            FileKind::File => fs.read(Tier::Disk, ino, 0, 2 << 20).unwrap(),
            FileKind::Symlink => fs.readlink(Tier::Disk, ino).unwrap().to_vec(),
            FileKind::Directory => {
                let entries = list(fs, ino, 50).unwrap().into_iter().skip(2);
                todo.extend(entries.map(|entry| (entry.ino, [&path[..], b"/", &entry.name].concat())));
                Vec::new()
            }
            _ => Vec::new(),
        };
        portray(&mut portrait, path, attributes, &content);
    }
    portrait
}

/// After a power failure the tree is what it was after some call, none older than the last sync.
fn power_loss_run(seed: u64, store: Box<dyn Store>) {
    let mut run = Run::new(seed, store, true);
    engine::sync(&*run.engine).unwrap();
    let mut portraits = vec![portrait_of_model(&run.model)];
    for _ in 0..20 + run.random.below(100) {
        run.step();
        portraits.push(portrait_of_model(&run.model));
        if run.random.one_in(10) {
            run.log.push("sync".to_string());
            engine::sync(&*run.engine).unwrap();
            portraits.drain(..portraits.len() - 1);
        }
    }
    run.remount(End::PowerLoss);
    let found = portrait_of(&run.fs);
    let known = portraits.contains(&found);
    assert!(known, "{}the tree is none of the last {}: {found:#?}", run.story(), portraits.len());
}

#[test]
fn a_power_failure_leaves_a_prefix_of_the_calls() {
    for kind in [Kind::LSM, Kind::BTREE, Kind::HYBRID] {
        seeds(15).into_iter().for_each(|seed| power_loss_run(seed, DiskStore::boxed(kind, seed)));
    }
}
