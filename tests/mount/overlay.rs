//! A mount as the upper layer of an overlay, as containers use one: the same build over it and over the host's filesystem gives the
//! same tree, the same whiteouts and the same marks, also after both are mounted anew.

use std::fs;
use std::path::PathBuf;

use crate::host::{Engine, Mount, able, everywhere, root};

/// What a script needs that works on an overlay, in a mount namespace of its own. The layer of a place is its `upper` and `work`.
const LAYERS: &str = r#"
enter() {
    mkdir -p "$1/upper" "$1/work" "$HOST/merged"
    mount -t overlay "$2" -o "lowerdir=$HOST/lower,upperdir=$1/upper,workdir=$1/work,redirect_dir=on" "$HOST/merged"
    cd "$HOST/merged"
}
leave() { cd "$HOST"; umount "$HOST/merged"; }
# Everything that can be seen of a tree; directories have sizes and link counts of their own on every filesystem.
portray() {
    find . ! -type d -printf '%P %y %m %U %G %s %n %l\n' | sort
    find . -type d -printf '%P %y %m %U %G\n' | sort
    find . -type f -print0 | sort -z | xargs -0 sha256sum
}
# What the overlay left in its layer: whiteouts and marks.
marks() {
    cd "$1/upper"
    find . -type c -printf 'whiteout %P %m %t\n' | sed 's/ [A-Z].*//' | sort
    find . -exec getfattr -h -d -m '^trusted.overlay.(opaque|redirect|whiteout)' {} + 2>/dev/null |
        awk '/^# file/ { file = $3 } /=/ { print file, $0 }' | sort
    cd "$HOST"
}
"#;

/// A build as a container makes one: unpack, change, rename, remove, make anew, compile.
const BUILD: &str = r#"
build() {
    tar xf "$HOST/more.tar"
    # Removed, and made anew under the same name.
    rm -r code/engine; mkdir code/engine; echo new > code/engine/only
    # Directories of the lower layer move, one into the other, and back out.
    mv code/fs moved; mv moved/ops moved-out; mkdir -p deep/er; mv code/fuse deep/er/fuse; mv deep/er/fuse/router.rs .
    # Files of the lower layer: appended to, replaced by rename, linked, changed, removed.
    echo more >> code/main.rs; mv code/lib.rs code/store.rs; ln code/mount.rs linked; chmod 4711 code/cli.rs
    chown 12:34 code/repair.rs; truncate -s 7 code/daemon.rs; rm code/ARCHITECTURE.md; setfattr -n user.a -v b code/main.rs
    mv docs/semantics.md docs/moved; mv docs/moved docs/semantics.md; ln -sf moved link; ln -sfn docs link
    rm -r unpacked/base; mv unpacked/disk unpacked/base; mv unpacked/control/* unpacked; rmdir unpacked/control
    # Names that were removed come back as something else.
    rm docs/stats.md; mkdir docs/stats.md; rm -r code/base; echo file > code/base
    mkdir many; for number in $(seq 200); do echo $number > many/$number; done
    for number in $(seq 3 3 200); do rm many/$number; done; mv many several
    printf 'int two(void); int main(void) { return two() - 2; }' > main.c; printf 'int two(void) { return 2; }' > two.c
    cc -c main.c two.c; ar rcD two.a two.o; cc -o program main.o two.a; ./program; rm *.o; sync program
    tar cf all.tar --sort=name --mtime=@0 several moved; rm -r several
}
"#;

fn an_upper_layer_of_a_build(engine: Engine) {
    let has_overlay = fs::read_to_string("/proc/filesystems").unwrap().contains("\toverlay\n");
    if !able(&["unshare", "tar", "cc", "ar", "getfattr", "setfattr"]) || !root() || !has_overlay {
        return;
    }
    let mount = Mount::new(engine, "");
    let sources = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let (source, host) = (sources.display(), mount.host());
    mount.sh(&format!(
        "mkdir lower; cp -r {source}/src lower/code; cp -r {source}/docs lower; touch -d @1000000000 lower/code/*
         tar cf more.tar --transform s,^code,unpacked, -C lower code; mkdir hosts"
    ));
    let run = |name: &str, words: &str| {
        let script = host.join(name);
        fs::write(&script, format!("{LAYERS}{BUILD}{words}")).unwrap();
        mount.sh(&format!("exec unshare -m sh -eu {script:?}"))
    };
    run(
        "build",
        r#"
        enter "$MNT" ours; build; portray > "$HOST/ours"; leave; marks "$MNT" > "$HOST/ours.marks"
        enter "$HOST/hosts" hosts; build; portray > "$HOST/theirs"; leave; marks "$HOST/hosts" > "$HOST/theirs.marks"
    "#,
    );
    let read = |name: &str| fs::read_to_string(host.join(name)).unwrap();
    // The archive and the program differ by nothing but what the tree says.
    let lines = |name: &str| read(name).lines().map(String::from).collect::<Vec<_>>();
    assert!(lines("ours").len() > 200, "{}", read("ours"));
    assert_eq!(lines("ours"), lines("theirs"));
    assert!(
        lines("ours.marks").iter().filter(|line| line.starts_with("whiteout")).count() >= 5,
        "{}",
        read("ours.marks")
    );
    assert_eq!(lines("ours.marks"), lines("theirs.marks"));
    for end in ["clean", "killed"] {
        if end == "clean" {
            mount.restart();
        } else {
            mount.kill();
            mount.start();
        }
        run("again", r#"enter "$MNT" ours; portray > "$HOST/tree"; leave"#);
        assert_eq!(read("tree"), read("ours"), "{end}");
    }
    mount.stop_clean();
}

everywhere!(an_upper_layer_of_a_build);
