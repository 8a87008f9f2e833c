//! What is written to `/.stats`: who may, what it does, and when it is answered.

use super::*;

#[test]
fn only_those_who_may_write_do_and_unknown_words_change_nothing() {
    let rig = mem();
    let stranger = Caller { uid: 1001, gid: 1001, pid: 8 };
    let errno = |caller, text: &str| rig.write(caller, text).map_err(|error| error.errno());
    assert_eq!(errno(stranger, "flush"), Err(libc::EPERM));
    assert_eq!(errno(OWNER, "mark a\nnonsense"), Err(libc::EINVAL));
    assert!(rig.find(".stats.d/since/a").is_none());
    for text in ["flush", "compact wait\ncheckpoint\nsync\nmark a\n", "help", "", "\n"] {
        assert_eq!(errno(OWNER, text), Ok(()), "{text:?}");
        assert_eq!(errno(Caller::ROOT, text), Ok(()), "{text:?}");
    }
    assert!(rig.find(".stats.d/since/a").is_some());
    // Files that are only read take no write, of root neither.
    let ino = rig.find(".stats.d/json").unwrap().ino;
    let (sender, receiver) = std::sync::mpsc::channel();
    rig.tree.write(ino, Caller::ROOT, b"flush", Box::new(move |result| sender.send(result).unwrap()));
    assert_eq!(receiver.try_recv().unwrap().map_err(|error| error.errno()), Err(libc::EPERM));
    let modes = |path| rig.find(path).unwrap().permissions;
    assert_eq!([modes(".stats"), modes(".stats.d"), modes(".stats.d/config")], [0o644, 0o555, 0o400]);
    assert!(
        rig.cat(".stats.d/config").contains("uuid")
            && rig.cat(".stats.d/help").contains("compact [full] [wait]")
    );
}

#[test]
fn a_command_that_waits_is_answered_when_it_ends_and_holds_up_the_lines_behind_it() {
    let engine = stuck();
    let doubled = engine.clone();
    let rig = rig(move |_, _| doubled);
    let ino = rig.find(".stats").unwrap().ino;
    let (sender, receiver) = std::sync::mpsc::channel();
    let write = |text: &str| {
        let sender = sender.clone();
        rig.tree.write(ino, OWNER, text.as_bytes(), Box::new(move |result| sender.send(result).unwrap()));
    };
    // Some commands come to the engine from another thread.
    let next_command = || {
        for _ in 0..10_000 {
            if let Some(done) = engine.commands.lock().pop() {
                return done;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("no command came");
    };
    write("flush wait\nsync\nmark after");
    assert!(receiver.try_recv().is_err());
    for _ in 0..2 {
        let done = next_command();
        assert!(rig.find(".stats.d/since/after").is_none());
        done(Ok(()));
    }
    receiver.recv_timeout(Duration::from_secs(10)).unwrap().unwrap();
    assert!(rig.find(".stats.d/since/after").is_some());
    // A failure ends the list with its errno; without "wait" it is nobody's.
    write("compact wait\nmark never");
    let done = next_command();
    done(Err(kvfs::engine::Error::NoSpace));
    assert_eq!(
        receiver.recv_timeout(Duration::from_secs(10)).unwrap().map_err(|error| error.errno()),
        Err(libc::ENOSPC)
    );
    assert!(rig.find(".stats.d/since/never").is_none());
    write("compact");
    receiver.recv_timeout(Duration::from_secs(10)).unwrap().unwrap();
    let done = next_command();
    done(Err(kvfs::engine::Error::NoSpace));
}

/// A hybrid is told to bring everything down, and to bring nothing down; other engines refuse.
#[test]
fn what_goes_down_is_commanded() {
    let errno = |rig: &Rig, text: &str| rig.write(OWNER, text).map_err(|error| error.errno());
    for text in ["demote", "hold demote"] {
        assert_eq!(errno(&small_lsm(), text), Err(libc::EINVAL), "{text}");
    }
    let rig = rig(|disk, clock| engine::open(disk, clock, &engine::Options::tiny(Kind::HYBRID)).unwrap());
    rig.user_writes(3000);
    let hybrid = |rig: &Rig, name: &str| rig.json(".stats.d/json")["hybrid"][name].clone();
    assert!(hybrid(&rig, "hot_bytes").as_u64().unwrap() > 0);
    errno(&rig, "hold demote").unwrap();
    assert_eq!((hybrid(&rig, "demote_held"), errno(&rig, "demote wait")), (true.into(), Err(libc::EINVAL)));
    assert!(rig.cat(".stats").contains("held: write release demote"));
    errno(&rig, "release demote").unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    let answer = Box::new(move |result| sender.send(result).unwrap());
    rig.tree.write(rig.find(".stats").unwrap().ino, OWNER, b"demote wait", answer);
    assert!(receiver.try_recv().is_err() && rig.cat(".stats").contains("JOBS    demote "));
    engine::settle(&*rig.engine).unwrap();
    receiver.try_recv().unwrap().unwrap();
    assert_eq!((hybrid(&rig, "hot_bytes"), hybrid(&rig, "demoted_entries")), (0.into(), 2.into()));
    assert!(!rig.cat(".stats").contains("JOBS    demote"));
}
