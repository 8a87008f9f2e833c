//! What the report says of a recording, and what the recording says of the mount.

use kvfs::engine::KeyRange;
use kvfs::recording::{Asked, Recording};

use super::*;

fn section(rig: &Rig) -> Value {
    rig.json(".stats.d/json")["recording"].clone()
}

/// The last command's result.
fn last_command(rig: &Rig) -> String {
    rig.cat(".stats.d/ctl").lines().last().unwrap().to_string()
}

fn meters_of(recording: &Recording) -> &kvfs::recording::Meters {
    recording.meters().unwrap()
}

#[test]
fn a_recording_counts_what_it_holds_and_what_it_lacks() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("with blanks.rec");
    let rig = small_lsm();
    fill(&rig);
    assert!(section(&rig).is_null() && !rig.cat(".stats").contains("RECORD"));
    let in_store = {
        let mut entries = 0u64;
        let count: &mut kvfs::engine::Visit<'_> = &mut |_, _| {
            entries += 1;
            std::ops::ControlFlow::Continue(())
        };
        rig.engine.uncounted().scan(KeyRange::ALL, Tier::Disk, count).unwrap();
        entries
    };
    rig.write(OWNER, "mark begin").unwrap();
    engine::run(&**rig.engine.uncounted(), Command::DropCaches).unwrap();
    let read_before = rig.disk.snapshot().total().read_bytes;
    rig.write(OWNER, &format!("record on keep=names {}", path.display())).unwrap();
    let begun = std::time::Instant::now();
    while Recording::open(&path).is_ok_and(|recording| recording.meters().is_none()) {
        assert!(begun.elapsed() < Duration::from_secs(20), "{:#}", section(&rig));
    }
    let read_by_image = rig.disk.snapshot().total().read_bytes - read_before;
    assert!(read_by_image > 0);
    let read_before = rig.disk.snapshot().total().read_bytes;
    engine::run(&**rig.engine.uncounted(), Command::DropCaches).unwrap();
    (0..50).for_each(|_| rig.user_writes(1000));
    for key in [&[1, 7][..], &[0, 7], b"none"] {
        rig.engine.get(key, Tier::Disk).unwrap();
    }
    // One of the keys that lie in a table.
    rig.engine.scan(KeyRange::ALL, Tier::Disk, &mut |_, _| std::ops::ControlFlow::Break(())).unwrap();
    engine::sync(&*rig.engine).unwrap();
    rig.write(OWNER, "record off").unwrap();
    let grown = rig.json(".stats.d/since/begin.json");
    rig.user_writes(1000);

    let found = section(&rig);
    assert_eq!((&found["state"], &found["cause"]), (&"ended".into(), &"it was told to".into()));
    assert_eq!((&found["keeps"], &found["dropped"]), (&"names".into(), &0.into()));
    assert_eq!(found["image_entries"].as_u64(), Some(in_store));
    assert_eq!(found["bytes"].as_u64(), Some(std::fs::metadata(&path).unwrap().len()));
    assert_eq!(found["path"].as_str(), path.canonicalize().unwrap().to_str());

    let recording = Recording::open(&path).unwrap();
    assert_eq!(recording.end().unwrap().why, "it was told to");
    assert_eq!(recording.image().unwrap().count() as u64, in_store);
    let (mut events, mut puts, mut put_bytes, mut gets, mut hits, mut syncs) = (0u64, 0u64, 0u64, 0, 0, 0);
    for event in recording.events().unwrap() {
        events += 1;
        match event.unwrap().asked {
            Asked::Batch { changes, .. } => {
                puts += changes.len() as u64;
                let bytes = |change: &kvfs::recording::Change| {
                    change.key.len() as u64 + change.value.as_ref().unwrap().length()
                };
                put_bytes += changes.iter().map(bytes).sum::<u64>();
            }
            Asked::Get { found, .. } => {
                gets += 1;
                hits += u64::from(found.is_some());
            }
            Asked::Sync { .. } => syncs += 1,
            _ => {}
        }
    }
    assert_eq!(found["events"].as_u64(), Some(events));
    // What was noted is what door 2 has counted, and the image not.
    assert_eq!(grown["kv"]["puts"].as_u64(), Some(puts));
    assert_eq!(grown["kv"]["put_bytes"].as_u64(), Some(put_bytes));
    assert_eq!((grown["kv"]["gets"].as_u64(), grown["kv"]["hits"].as_u64()), (Some(gets), Some(hits)));
    assert_eq!((gets, hits, syncs, grown["kv"]["scanned"].as_u64()), (3, 2, 1, Some(1)));
    // What the image read is not the work's.
    let read = rig.disk.snapshot().total().read_bytes - read_before;
    assert!(read > 0 && meters_of(&recording).disk_read_bytes == Some(read), "{read}");
    // And its meters are what the doors have counted.
    let meters = meters_of(&recording);
    assert_eq!((meters.events, meters.dropped), (Some(events), Some(0)));
    assert_eq!(meters.app_write_bytes, Some(50_000));
    assert_eq!(meters.kv_write_bytes, grown["kv"]["write_bytes"].as_u64());
    assert_eq!(meters.disk_write_bytes, grown["disk"]["write_bytes"].as_u64());
    assert_eq!(meters.log_write_bytes, grown["disk"]["log_write_bytes"].as_u64());
    assert_eq!(meters.disk_syncs, grown["disk"]["syncs"].as_u64());
    assert_eq!(meters.live_bytes, Some(1300));
    let text = rig.cat(".stats");
    let line = text.lines().find(|line| line.starts_with("RECORD")).unwrap();
    assert!(line.contains("ended: it was told to") && line.contains(&format!("events {events}")), "{text}");
}

#[test]
fn what_cannot_be_recorded_is_refused_with_a_sentence() {
    let home = tempfile::tempdir().unwrap();
    let (one, two) = (home.path().join("one"), home.path().join("two"));
    let rig = mem();
    let refused = |rig: &Rig, command: &str, why: &str| {
        let error = rig.write(OWNER, command).unwrap_err();
        assert!(error.to_string().contains(why), "{command}: {error}");
        assert!(last_command(rig).contains(why), "{command}: {}", last_command(rig));
    };
    refused(&rig, "record off", "nothing is being recorded");
    refused(&rig, "record on /nonexistent/place/file", "/nonexistent/place/file: No such file");
    std::fs::write(&two, "mine").unwrap();
    refused(&rig, &format!("record on {}", two.display()), "a recording goes into a new file");
    assert_eq!(std::fs::read(&two).unwrap(), b"mine");
    rig.write(OWNER, &format!("record on {}", one.display())).unwrap();
    refused(&rig, &format!("image {}", home.path().join("three").display()), "is being recorded");
    assert!(rig.write(Caller { uid: 5, ..OWNER }, "record off").is_err(), "somebody else");
    rig.write(OWNER, "record off").unwrap();
    rig.write(OWNER, &format!("image {}", home.path().join("three").display())).unwrap();
    let image = Recording::open(&home.path().join("three")).unwrap();
    assert_eq!(
        (image.end().unwrap().why.as_str(), image.events().unwrap().count()),
        ("its image is whole", 0)
    );
}
