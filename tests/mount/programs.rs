//! Programs that people run: git, rsync, SQLite and fio, each with its own proof that nothing was lost.

use crate::host::{Engine, Mount, able, everywhere};

/// A repository of a few hundred files and several commits with renames and deletes is cloned onto the mount, checked,
/// worked in, and checked again after mounting anew.
fn git_clone(engine: Engine) {
    if !able(&["git"]) {
        return;
    }
    let mount = Mount::new(engine, "");
    mount.sh(r#"
        git config --global user.name kvfs; git config --global user.email kvfs@localhost
        git config --global init.defaultBranch main; git config --global safe.directory '*'
        git config --global gc.auto 0
        git init -q source; cd source
        for commit in 1 2 3 4 5; do
            for folder in a b/c d/e/f; do
                mkdir -p $folder/$commit
                for file in $(seq 30); do
                    seq $((commit * file)) $((commit * file + file * 40)) > $folder/$commit/$file.txt
                done
            done
            ln -sf a/$commit latest; printf '#!/bin/sh\n' > run.sh; chmod +x run.sh
            [ $commit = 1 ] || { git mv a/1/$commit.txt a/1/moved-$commit.txt; git rm -q b/c/1/$commit.txt; }
            git add -A; git commit -qm "commit $commit"
        done
        git clone -q --no-hardlinks "$HOST/source" "$MNT/clone"
        cd "$MNT/clone"; git fsck --full --strict; test -z "$(git status --porcelain)"
        test "$(git rev-list --count HEAD)" = 5; test "$(git ls-files | wc -l)" -gt 400
        diff -r --no-dereference --exclude=.git "$HOST/source" .
        "#);
    mount.restart();
    mount.sh(
        r#"
        cd "$MNT/clone"; test -z "$(git status --porcelain)"; git fsck --full --strict
        git checkout -q -b work HEAD~2; echo more >> a/1/1.txt; git commit -qam work; git merge -q -m merge main
        git gc -q --aggressive --prune=now; git fsck --full --strict; test -z "$(git status --porcelain)"
        rm -rf "$MNT/clone"; test -z "$(ls "$MNT")"
        "#,
    );
    mount.stop_clean();
}

/// A tree with links, modes, times and extended attributes arrives whole, and a second run finds nothing to do.
fn rsync_tree(engine: Engine) {
    if !able(&["rsync", "setfattr"]) {
        return;
    }
    let mount = Mount::new(engine, "");
    mount.sh(
        r#"
        mkdir -p tree/deep/er tree/empty; cd tree
        for i in $(seq 300); do head -c $((i * 137)) /dev/urandom > file.$i; done
        head -c 20000000 /dev/urandom > deep/large
        truncate -s 3000000 deep/sparse; printf end >> deep/sparse
        ln file.1 deep/hardlink; ln -s ../file.2 deep/symlink; ln -s nowhere deep/dangling; mkfifo deep/er/fifo
        chmod 2750 deep/er; chmod 4711 file.3; setfattr -n user.origin -v test file.4
        touch -d '1999-12-31 23:59:59.123456789' file.5 deep
        rsync -aHXS ./ "$MNT/tree/"
        "#,
    );
    for _ in 0..2 {
        mount.sh(
            r#"
            diff -r --no-dereference --exclude=fifo tree "$MNT/tree"; test -p "$MNT/tree/deep/er/fifo"
            changes=$(rsync -aHXSi --checksum --delete tree/ "$MNT/tree/"); test -z "$changes" || { echo "$changes"; exit 1; }
            test "$(stat -c %h "$MNT/tree/file.1")" = 2
            "#,
        );
        mount.restart();
    }
    // The hidden names stay out of a copy of the whole mount.
    mount.sh(r#"rsync -a "$MNT/" back/; diff -r --no-dereference --exclude=fifo tree back/tree; test "$(ls -A back)" = tree"#);
    mount.stop_clean();
}

/// 1,000 transactions in each journal mode, then SQLite's own check, here and after mounting anew.
fn sqlite(engine: Engine) {
    if !able(&["sqlite3"]) {
        return;
    }
    let mount = Mount::new(engine, "");
    mount.sh(
        r#"
        for mode in delete wal; do
            {
                echo "PRAGMA journal_mode=$mode; CREATE TABLE t (id INTEGER PRIMARY KEY, word TEXT, size INTEGER);"
                echo "CREATE INDEX words ON t (word);"
                for i in $(seq 1000); do
                    echo "BEGIN; INSERT INTO t VALUES ($i, hex(randomblob($i % 200)), 0);"
                    echo "UPDATE t SET size = length(word) WHERE id = $i; COMMIT;"
                done
            } | sqlite3 -bail "$MNT/$mode.db" > out.txt
            grep -qx $mode out.txt
        done
        "#,
    );
    let proof = r#"
        for mode in delete wal; do
            test "$(sqlite3 "$MNT/$mode.db" 'PRAGMA integrity_check')" = ok
            test "$(sqlite3 "$MNT/$mode.db" 'SELECT count(*), min(id), max(id) FROM t WHERE size = length(word)')" = '1000|1|1000'
        done
    "#;
    mount.sh(proof);
    mount.restart();
    mount.sh(proof);
    mount.stop_clean();
}

/// fio writes blocks that carry their own checksum at random places, and reads them back: at once, and after mounting
/// anew; buffered, direct and through a memory map.
fn fio_verify(engine: Engine) {
    if !able(&["fio"]) {
        return;
    }
    let mount = Mount::new(engine, "");
    let jobs = |verify_only: &str| {
        mount.sh(&format!(
            r#"
            run() {{
                name=$1; shift
                fio --name=$name --directory="$MNT" --rw=randwrite --size=24m --fallocate=none --verify=crc32c \
                    --verify_fatal=1 --verify_state_save=0 --randseed=7 --end_fsync=1 {verify_only} "$@" > fio.txt 2>&1 ||
                    {{ cat fio.txt; exit 1; }}
            }}
            run buffered --ioengine=psync --bsrange=512-64k
            run direct --ioengine=psync --direct=1 --bs=4k --numjobs=2
            run mapped --ioengine=mmap --bs=4k
            "#
        ))
    };
    jobs("");
    mount.restart();
    jobs("--verify_only=1");
    mount.stop_clean();
}

everywhere!(git_clone, rsync_tree, sqlite, fio_verify);
