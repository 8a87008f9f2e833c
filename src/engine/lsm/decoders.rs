//! The decoders of the LSM-tree.

use super::manifest::{Edit, ManifestState};
use super::table::TableNumber;
use super::table::decoders::{self as tables, table_meta};
use super::value_log::Pointer;
use crate::base::decoder::Decoder;
use crate::engine::Lsn;

/// The decoders of a store's files; those of a table are in [`TABLES`].
pub const ALL: &[Decoder] = &[
    Decoder { name: "lsm_manifest", decode: manifest, valid: manifests },
    Decoder { name: "lsm_manifest_edit", decode: edit, valid: edits },
    Decoder { name: "lsm_value_pointer", decode: pointer, valid: pointers },
];

/// The decoders of a table.
pub const TABLES: &[Decoder] = tables::ALL;

/// A whole manifest, as it is and as a repair guesses it.
fn manifest(bytes: &[u8]) -> bool {
    let _ = ManifestState::guess(bytes);
    let Ok((state, generation)) = ManifestState::decode(bytes) else { return false };
    let again = state.encode(generation);
    assert!(ManifestState::decode(&again).is_ok_and(|(read, _)| read == state));
    true
}

fn manifests() -> Vec<Vec<u8>> {
    let mut state = ManifestState::default();
    let empty = state.encode(1);
    state.apply(&sample());
    vec![empty, state.encode(2)]
}

fn edit(bytes: &[u8]) -> bool {
    let Some(edit) = Edit::decode(bytes) else { return false };
    let mut again = Vec::new();
    edit.encode(&mut again);
    assert_eq!(Edit::decode(&again), Some(edit));
    true
}

fn sample() -> Edit {
    Edit {
        added: vec![(0, table_meta(5)), (1, table_meta(6))],
        log_lsn: Some(Lsn::new(40)),
        next_number: Some(TableNumber::new(9)),
        cursors: vec![(1, "key050".into())],
        ..Edit::default()
    }
}

fn edits() -> Vec<Vec<u8>> {
    [sample(), Edit { removed: vec![(0, TableNumber::new(5))], ..Edit::default() }]
        .into_iter()
        .map(|edit| {
            let mut target = Vec::new();
            edit.encode(&mut target);
            target
        })
        .collect()
}

fn pointer(bytes: &[u8]) -> bool {
    let Some(pointer) = Pointer::decode(bytes) else { return false };
    let mut again = Vec::new();
    pointer.encode(&mut again);
    assert_eq!(Pointer::decode(&again), Some(pointer));
    true
}

fn pointers() -> Vec<Vec<u8>> {
    let mut target = Vec::new();
    Pointer::new(Lsn::new(70_000), b"a value").encode(&mut target);
    vec![target]
}
