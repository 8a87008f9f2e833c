//! Statistics that an engine of others keeps itself, and what it promises.

use kvfs::engine::{Amount, Inspect, Promise, Statistic};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::*;

/// A map in memory that counts something of its own.
struct Counting {
    map: MemEngine,
    fished: AtomicU64,
}

impl Engine for Counting {
    hand_on!(Engine map: kind, get, scan, apply, lsn, sync_to, close);

    fn promise(&self) -> Promise {
        Promise {
            prefix: true,
            survives_kill: false,
            survives_full_disk: false,
            weaker: Some("the catch is lost"),
            way_out: Some("a net"),
        }
    }
    fn inspect(&self) -> Option<&dyn Inspect> {
        Some(self)
    }
}

impl Inspect for Counting {
    fn shape(&self) -> Shape {
        let fished = self.fished.load(Relaxed);
        let statistics = [
            ("sea.fished-bytes", Statistic::counter(fished, "bytes", "Bytes of fish.")),
            ("sea.waited", Statistic::counter(fished * 1000, "us", "Time without a bite.")),
            ("sea.thrown back", Statistic::counter(0, "count", "Fish that were too small.")),
            ("depth", Statistic::gauge(fished / 2, "count", "Depth of the sea.")),
            ("sea.salt", Statistic::gauge(None, "count", "Salt, which this sea does not weigh.")),
        ];
        Shape { engine: "sea", statistics: statistics.into_iter().collect(), ..Shape::default() }
    }
}

#[test]
fn they_stand_under_their_own_names_in_every_output() {
    let engine = Arc::new(Counting { map: MemEngine::new(), fished: AtomicU64::new(2048) });
    let rig = rig(|_, _| engine.clone());
    rig.write(OWNER, "mark before").unwrap();
    engine.fished.store(5 << 10, Relaxed);

    let text = rig.cat(".stats");
    let line = |text: &str| text.lines().find(|line| line.starts_with("ENGINE")).unwrap().to_string();
    assert_eq!(line(&text), "ENGINE  fished-bytes 5.00KiB  waited 5.12s  depth 2560  salt -");
    assert_eq!(
        line(&rig.cat(".stats.d/since/before")),
        "ENGINE  fished-bytes 3.00KiB  waited 3.07s  depth 2560  salt -"
    );

    let json = rig.json(".stats.d/json");
    let (all, value) =
        (&json["engine_statistics"], |name: &str| json["engine_statistics"][name]["value"].clone());
    assert_eq!(all.as_object().unwrap().len(), 5);
    assert_eq!((value("sea.fished-bytes"), value("sea.thrown back")), (5120.into(), 0.into()));
    assert!(value("sea.salt").is_null(), "not 0");
    let depth = &all["depth"];
    assert_eq!(
        (&depth["kind"], &depth["unit"], &depth["help"]),
        (&"gauge".into(), &"count".into(), &"Depth of the sea.".into())
    );
    assert_eq!(all["sea.waited"]["kind"], "counter");
    let since = rig.json(".stats.d/since/before.json");
    let grown = |name: &str| number(&since["engine_statistics"][name], "value");
    assert_eq!((grown("sea.fished-bytes"), grown("depth")), (3072, 2560));

    let samples = exposition(&rig.cat(".stats.d/prom"));
    assert_eq!(samples["kvfs_engine_sea_fished_bytes_total"], 5120.0);
    assert_eq!(samples["kvfs_engine_sea_thrown_back_total"], 0.0);
    assert_eq!(samples["kvfs_engine_sea_depth"], 2560.0);
    assert!(!samples.contains_key("kvfs_engine_sea_salt"), "what is not measured has no sample");
    assert_eq!(Amount::default().number(), None);
}

#[test]
fn what_is_weaker_is_said_with_the_way_out() {
    let rig = rig(|_, _| Arc::new(Counting { map: MemEngine::new(), fished: AtomicU64::new(0) }));
    let text = rig.cat(".stats");
    let line = text.lines().find(|line| line.starts_with("PROMISE")).unwrap();
    assert_eq!(line, "PROMISE power cut: a prefix of the history  | the catch is lost  | a net");
    let promise = rig.json(".stats.d/json")["promise"].clone();
    assert_eq!((&promise["prefix"], &promise["survives_kill"]), (&true.into(), &false.into()));
    assert_eq!((&promise["weaker"], &promise["way_out"]), (&"the catch is lost".into(), &"a net".into()));
    assert_eq!(
        rig.engine.promise().warning("sea").unwrap(),
        "engine=sea promises less than engine=lsm: the catch is lost; a net"
    );
    // Ours promise everything, and nothing is said.
    let whole = small_lsm();
    assert_eq!(whole.engine.promise().warning("lsm"), None);
    let text = whole.cat(".stats");
    assert!(
        text.contains("\nPROMISE power cut: a prefix of the history  kill -9: everything written\n"),
        "{text}"
    );
    assert!(whole.json(".stats.d/json")["promise"]["weaker"].is_null());
    assert!(!text.contains("\nENGINE"));
}
