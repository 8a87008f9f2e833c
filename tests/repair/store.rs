//! Stores to be damaged.

use super::*;

pub fn space() -> SpaceSource {
    Arc::new(|| Ok(Space { total_bytes: 1 << 40, free_bytes: 1 << 39, ..Space::default() }))
}

pub fn options(kind: Kind, more: &str) -> Vec<(String, String)> {
    let sizes = "page_size=4K,dirty_max=256K,checkpoint_log=512K,memtable=128K,table=64K,level_base=256K,l0_trigger=2";
    let all = format!("engine={kind},{sizes},log_segment=64K,cache=1M,{more}");
    let pairs = all.split(',').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

/// A store that is open.
pub struct Open {
    pub engine: Arc<dyn Engine>,
    pub fs: Arc<FileSystem>,
}

impl Open {
    pub fn engine(disk: &Arc<SimDisk>) -> (Arc<dyn Engine>, Settings) {
        let settings = Description::load(&**disk).unwrap().unwrap().settings(&[]).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::default());
        (engine::open(disk.clone(), clock, &settings.engine).unwrap(), settings)
    }

    pub fn new(disk: &Arc<SimDisk>) -> Open {
        let (engine, settings) = Open::engine(disk);
        let clock = Arc::new(ManualClock::default());
        let fs = FileSystem::open(engine.clone(), clock, settings.fs, space()).unwrap();
        Open { engine, fs }
    }

    pub fn settle(&self) {
        engine::settle(&*self.engine).unwrap();
    }

    pub fn make(&self, op: Op, parent: Ino, name: &str, node: NewNode<'_>) -> Ino {
        let made = self.fs.make(TIER, op, Caller::ROOT, parent, name.as_bytes(), 0o644, 0, node);
        made.unwrap().ino
    }

    pub fn write(&self, ino: Ino, offset: u64, data: Vec<u8>) {
        self.settle();
        self.fs.write(TIER, Caller::ROOT, ino, offset, &data.into(), false).unwrap();
    }

    pub fn run(&self, command: Command) {
        engine::run(&*self.engine, command).unwrap();
        self.settle();
    }

    pub fn close(self) {
        while self.fs.work().unwrap() == engine::Pending::More {}
        self.fs.close().unwrap();
        engine::sync(&*self.engine).unwrap();
        self.engine.close().unwrap();
    }
}

pub fn noise(prng: &mut Prng, length: usize) -> Vec<u8> {
    (0..length).map(|_| prng.bits() as u8).collect()
}

/// A store with directories, files of many sizes, some overwritten, some removed, attributes and symbolic links. Unless
/// `closed`, its last changes lie in the log alone, as after `kill -9`.
pub fn store(kind: Kind, more: &str, closed: bool) -> Arc<SimDisk> {
    let disk = SimDisk::new();
    let description = Description::new(&options(kind, more)).unwrap();
    description.save(&*disk).unwrap();
    let open = Open::new(&disk);
    let mut prng = Prng::new(7);
    let mut directories = vec![ROOT];
    for number in 0..6 {
        let above = directories[prng.below(directories.len() as u64) as usize];
        directories.push(open.make(Op::Mkdir, above, &format!("directory-{number}"), NewNode::Directory));
    }
    let mut files = Vec::new();
    for number in 0..60 {
        let home = directories[prng.below(directories.len() as u64) as usize];
        let name = format!("file-{number}");
        let ino = open.make(Op::Create, home, &name, NewNode::File);
        let length = if prng.one_in(6) { 40_000 } else { prng.below(9000) } as usize;
        let data = noise(&mut prng, length);
        open.write(ino, 0, data);
        if prng.one_in(5) {
            let value = noise(&mut prng, 40);
            open.fs.setxattr(TIER, ino, b"user.note", &value, XattrMode::Either).unwrap();
        }
        files.push((home, name, ino));
        if number % 3 == 0 {
            engine::sync(&*open.engine).unwrap();
        }
        match number {
            20 => open.run(Command::Flush),
            40 => open.run(Command::Compact),
            50 => open.run(Command::Flush),
            _ => {}
        }
        if number % 7 == 3 {
            open.make(Op::Symlink, home, &format!("link-{number}"), NewNode::Symlink(b"somewhere/else"));
        }
        if number % 9 == 5 {
            let (home, name, _) = files.swap_remove(prng.below(files.len() as u64) as usize);
            open.fs.unlink(TIER, home, name.as_bytes()).unwrap();
        }
        if number % 4 == 1 {
            let (_, _, ino) = files[prng.below(files.len() as u64) as usize];
            let (at, data) = (prng.below(6000), noise(&mut prng, 5000));
            open.write(ino, at, data);
        }
    }
    if closed {
        open.close();
    } else {
        engine::sync(&*open.engine).unwrap();
        // Says in the log that the rest of it is durable. Damage to the very last records looks like a torn end.
        let ino = open.make(Op::Create, ROOT, LAST, NewNode::File);
        open.write(ino, 0, vec![1; 100]);
        engine::sync(&*open.engine).unwrap();
    }
    disk.kill()
}

/// The file whose making is the last thing in the log.
pub const LAST: &str = "last";

/// A store with known names: /dir/inner, /dir/file (two blocks, an attribute), /keep, /other.
pub fn small(kind: Kind) -> (Arc<SimDisk>, [Ino; 4]) {
    let disk = SimDisk::new();
    Description::new(&options(kind, "")).unwrap().save(&*disk).unwrap();
    let open = Open::new(&disk);
    let dir = open.make(Op::Mkdir, ROOT, "dir", NewNode::Directory);
    let inner = open.make(Op::Mkdir, dir, "inner", NewNode::Directory);
    let file = open.make(Op::Create, dir, "file", NewNode::File);
    open.write(file, 0, vec![7; 6000]);
    open.fs.setxattr(TIER, file, b"user.note", b"x", XattrMode::Either).unwrap();
    let keep = open.make(Op::Create, ROOT, "keep", NewNode::File);
    open.write(keep, 0, vec![9; 5000]);
    open.make(Op::Create, ROOT, "other", NewNode::File);
    open.close();
    (disk, [dir, inner, file, keep])
}
