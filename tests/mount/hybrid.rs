//! The commands of a live hybrid: what its tree holds, and what goes down from it.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::host::{Engine, Mount, able, until};

const FILE_BYTES: usize = 1 << 20;
/// Files that are written while nothing goes down: several times what the tree holds.
const FILES: u64 = 16;

fn hybrid(mount: &Mount, name: &str) -> u64 {
    let report = mount.json();
    report["hybrid"][name].as_u64().unwrap_or_else(|| panic!("hybrid.{name} in {:#}", report["hybrid"]))
}

#[test]
fn its_tree_is_held_let_go_emptied_and_made_smaller_by_commands() {
    if !able(&[]) {
        return;
    }
    let mount = Mount::new(Engine::Other("hybrid"), "memory=32M,hot=4M");
    let file = |number: u64| mount.mnt().join(number.to_string());
    mount.ctl(&["hold", "demote"]);
    let written = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..FILES {
                fs::write(file(number), vec![number as u8; FILE_BYTES]).unwrap();
                written.fetch_add(1, Relaxed);
            }
        });
        let stops = || mount.json()["stalls"]["by_cause"]["hot_full"]["stops"].as_u64().unwrap_or_default();
        let has_stopped = until(Duration::from_secs(20), || stops() > 0);
        let at = written.load(Relaxed);
        std::thread::sleep(Duration::from_millis(500));
        let (still, down) = (written.load(Relaxed), hybrid(&mount, "demoted_entries"));
        let text = fs::read_to_string(mount.mnt().join(".stats")).unwrap();
        // Before anything is asserted: the writer waits for it.
        mount.ctl(&["release", "demote"]);
        assert!(has_stopped && at < FILES && still == at && down == 0, "{at}, {still} written, {down} down");
        assert!(text.contains("held: write release demote") && text.contains("hot_full"), "{text}");
    });
    assert!(
        hybrid(&mount, "demoted_entries") > 0
            && (0..FILES).all(|number| { fs::read(file(number)).unwrap() == vec![number as u8; FILE_BYTES] })
    );
    // Answered when all is below; a line written to the report does the same.
    mount.ctl(&["demote", "wait"]);
    assert!(hybrid(&mount, "hot_bytes") < 1 << 20, "{:#}", mount.json()["hybrid"]);
    fs::write(file(FILES), vec![7; FILE_BYTES]).unwrap();
    fs::write(mount.mnt().join(".stats"), "demote now\n").unwrap();
    let is_down = || hybrid(&mount, "hot_bytes") < 1 << 20;
    assert!(until(Duration::from_secs(20), is_down), "{:#}", mount.json()["hybrid"]);
    mount.ctl(&["set", "hot=1M"]);
    (0..4).for_each(|number| fs::write(file(number), vec![9; FILE_BYTES]).unwrap());
    assert_eq!(hybrid(&mount, "hot_bytes_max"), 1 << 20);
    assert!(until(Duration::from_secs(20), is_down), "{:#}", mount.json()["hybrid"]);
    mount.stop_clean();
}
