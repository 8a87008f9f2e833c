//! Times that wait to be written, and times of reads.

use super::*;

#[test]
fn times_wait_no_longer_than_a_second() {
    let bench = Bench::new();
    let (directory, stored) = (bench.mkdir(ROOT, "d"), |bench: &Bench, ino| {
        let copy = Bench::over(Arc::new(MemEngine::new()), OPTIONS);
        for (key, value) in bench.map.contents() {
            let mut batch = Batch::new(0);
            batch.put(key, value);
            copy.map.apply(&batch, Tier::Disk).unwrap();
        }
        copy.crash().fs.getattr(Tier::Memory, ino).unwrap().mtime
    });
    bench.clock.advance(Duration::from_secs(5));
    let before = stored(&bench, directory);
    bench.create(directory, "f");
    let now = bench.fs.getattr(Tier::Memory, directory).unwrap().mtime;
    assert!(now > before && stored(&bench, directory) == before);
    bench.fs.moment_of(Tier::Memory, directory, false).unwrap();
    assert_eq!(stored(&bench, directory), now);
    bench.clock.advance(Duration::from_secs(5));
    bench.create(directory, "g");
    bench.clock.advance(Duration::from_millis(900));
    assert_eq!(bench.fs.work().unwrap(), Pending::After(Duration::from_millis(100)));
    assert_eq!(stored(&bench, directory), now);
    bench.clock.advance(Duration::from_millis(100));
    bench.fs.work().unwrap();
    assert_eq!(stored(&bench, directory), bench.fs.getattr(Tier::Memory, directory).unwrap().mtime);
}

#[test]
fn relatime_notes_the_first_read_after_a_change() {
    let bench = Bench::over(Arc::new(MemEngine::new()), Options { atime: Atime::Relative, ..OPTIONS });
    let file = bench.create(ROOT, "f");
    let step = |seconds| bench.clock.advance(Duration::from_secs(seconds));
    let atime = || bench.fs.getattr(Tier::Memory, file).unwrap().atime;
    step(1);
    bench.write(file, 0, vec![1; 10]);
    step(1);
    bench.read_all(file);
    let first = atime();
    assert_eq!(first, Time::from(bench.clock.now()));
    step(10);
    bench.read_all(file);
    assert_eq!(atime(), first);
    step(24 * 60 * 60);
    bench.read_all(file);
    assert!(atime() > first);
}
