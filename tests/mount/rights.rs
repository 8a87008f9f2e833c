//! Who may do what: by default a mount is its user's alone, permissions are always checked, only root and the mounting user
//! command the engine, and nobody else can read a store's files.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output};

use crate::host::{Engine, Mount, able, binary, every_engine, everywhere, root};

/// `nobody` of every Linux.
pub(crate) const STRANGER: u32 = 65534;

/// True if this test may become another user. Only root may.
fn can_become_others() -> bool {
    able(&["setpriv"]) && root()
}

/// Runs a shell script as a stranger.
fn stranger(script: &str, words: &[&Path]) -> Output {
    let user = STRANGER.to_string();
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", &user, "--regid", &user, "--clear-groups", "sh", "-c", script, "sh"])
        .args(words);
    command.current_dir("/").output().unwrap()
}

/// A store in the mount's own directory can be reached by others, so that what stops them is its own mode.
pub(crate) fn open_to_others(mount: &Mount) {
    let mut path = mount.host();
    while let Some(folder) =
        path.parent().filter(|folder| folder.starts_with(std::env!("CARGO_TARGET_TMPDIR")))
    {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
        path = folder.to_path_buf();
    }
}

/// All bits of the mode.
fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

/// Store files are 0600 in a 0700 directory, the socket among them, whatever the mask of whoever mounts; nothing is anybody's to
/// write.
fn a_store_is_its_owners_alone(engine: Engine) {
    if !able(&[]) {
        return;
    }
    let mount = Mount::place(engine, "memtable=256K,dirty_max=1M,log_segment=256K,checkpoint_log=1M");
    let (store, mnt) = (mount.store(), mount.mnt());
    let (binary, options) = (binary(), mount.options());
    let script = format!("umask 000; exec {binary:?} mount {store:?} {mnt:?} -o {options}");
    assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
    mount.note_pid();
    fs::write(mount.mnt().join("data"), vec![1; 3 << 20]).unwrap();
    mount.ctl(&["flush", "wait"]);
    for round in ["mounted", "unmounted"] {
        assert_eq!(mode(&store), 0o700, "{round}");
        let mut names = Vec::new();
        for entry in fs::read_dir(&store).unwrap() {
            let entry = entry.unwrap();
            let path = entry.path();
            // What lies in a directory of the engine's own is behind the mode of that.
            let expected = if path.is_dir() { 0o700 } else { 0o600 };
            assert_eq!(mode(&path), expected, "{round}: {}", path.display());
            names.push(entry.file_name().into_string().unwrap());
        }
        for name in ["STORE", "LOCK", "kvfs.log"] {
            assert!(names.iter().any(|found| found == name), "{round}: {names:?}");
        }
        if round == "mounted" {
            assert!(fs::symlink_metadata(store.join("stats.sock")).unwrap().file_type().is_socket());
            assert_eq!(mode(&mnt.join(".stats")), 0o644);
            assert_eq!(mode(&mnt.join(".stats.d/ctl")), 0o600);
            mount.stop();
        }
    }
    assert_eq!(mount.check(), 0);
    let log = fs::read_to_string(store.join("kvfs.log")).unwrap();
    assert!(!log.contains("secret"), "{log}");
}

/// Root's mount is open to others as their permissions say: the kernel checks them, because `allow_other` never comes without
/// `default_permissions`.
fn others_are_held_to_permissions(engine: Engine) {
    if !can_become_others() {
        return;
    }
    let mount = Mount::new(engine, "");
    open_to_others(&mount);
    let mnt = mount.mnt();
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = table.lines().find(|line| line.contains(mnt.to_str().unwrap())).unwrap();
    assert!(line.contains("default_permissions") && line.contains("allow_other"), "{line}");
    for (name, mode) in [("private", 0o600), ("shared", 0o644)] {
        fs::write(mnt.join(name), name).unwrap();
        fs::set_permissions(mnt.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let refused = |script: &str| {
        let output = stranger(script, &[&mnt]);
        assert!(!output.status.success(), "a stranger may {script}: {output:?}");
    };
    let allowed = |script: &str| {
        let output = stranger(script, &[&mnt]);
        assert!(output.status.success(), "a stranger may not {script}: {output:?}");
    };
    allowed("cat $1/shared");
    allowed("cat $1/.stats");
    for script in [
        "cat $1/private",
        "echo more >> $1/shared",
        "echo new > $1/new",
        "mkdir $1/directory",
        "rm -f $1/shared",
        "mv $1/shared $1/moved",
        "chmod 777 $1/shared",
        "chown $(id -u) $1/shared",
        "truncate -s 0 $1/shared",
        "touch -d 2001-01-01 $1/shared",
        "setfattr -n user.a -v 1 $1/shared",
        "ln $1/private $1/link",
    ] {
        refused(script);
    }
    assert_eq!(fs::read_to_string(mnt.join("shared")).unwrap(), "shared");
    mount.stop_clean();
}

/// Extended attributes of a file that belongs to root: a stranger gives it none and takes none from it, and does not learn the names
/// of `trusted` ones; `system` holds the two access control lists and nothing else, also for root.
fn strangers_leave_attributes_alone(engine: Engine) {
    if !(can_become_others() && able(&["setfattr", "getfattr"])) {
        return;
    }
    let mount = Mount::new(engine, "");
    open_to_others(&mount);
    let mnt = mount.mnt();
    mount.sh(
        r#"
        cd "$MNT"; echo secret > file; chmod 600 file; echo public > open; chmod 644 open
        for name in file open; do
            setfattr -n user.note -v 1 $name; setfattr -n trusted.note -v 1 $name; setfattr -n security.note -v 1 $name
            fails setfattr -n system.note -v 1 $name
        done
        getfattr --absolute-names -m - file | grep -q trusted.note
        "#,
    );
    let before = mount.sh(r#"getfattr --absolute-names -d -m - "$MNT/file" "$MNT/open""#);
    for name in ["system.note", "system.posix_acl_access", "trusted.note", "security.note", "user.note"] {
        for file in ["file", "open"] {
            for act in
                [format!("setfattr -n {name} -v $2 $1/{file}"), format!("setfattr -x {name} $1/{file}")]
            {
                // What is refused for its name is refused with 60,000 bytes, too.
                let script = format!("set -- $1 $(head -c 60000 /dev/zero | tr '\\0' x); {act}");
                let output = stranger(&script, &[&mnt]);
                assert!(!output.status.success(), "a stranger may {act}: {output:?}");
            }
        }
    }
    let output = stranger("setfattr -n system.note -v 1 $1/file", &[&mnt]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("not supported"), "{output:?}");
    for file in ["file", "open"] {
        let output = stranger(&format!("getfattr --absolute-names -m - $1/{file}"), &[&mnt]);
        let names = String::from_utf8_lossy(&output.stdout);
        assert!(names.contains("user.note") && !names.contains("trusted"), "{output:?}");
    }
    assert_eq!(mount.sh(r#"getfattr --absolute-names -d -m - "$MNT/file" "$MNT/open""#), before);
    mount.stop_clean();
}

/// Commands are for root and the mounting user: not for a stranger, and not through a file that root opened for him.
fn strangers_do_not_command(engine: Engine) {
    if !can_become_others() {
        return;
    }
    let mount = Mount::new(engine, "");
    open_to_others(&mount);
    let mnt = mount.mnt();
    let commands = || fs::read_to_string(mount.mnt().join(".stats.d/ctl")).unwrap();
    for file in [".stats", ".stats.d/ctl"] {
        let path = mnt.join(file);
        for script in ["echo flush > $1", "echo flush >> $1", "printf 'mark mine' > $1"] {
            let output = stranger(script, &[&path]);
            assert!(!output.status.success(), "{file}: {script}: {output:?}");
        }
        let opened = fs::File::options().write(true).open(&path).unwrap();
        let user = STRANGER.to_string();
        let output = Command::new("setpriv")
            .args(["--reuid", &user, "--regid", &user, "--clear-groups", "sh", "-c", "echo 'mark handed'"])
            .stdout(opened)
            .output()
            .unwrap();
        assert!(!output.status.success(), "{file}: a stranger wrote through a file of root's: {output:?}");
    }
    let output = stranger("cat $1/.stats.d/ctl", &[&mnt]);
    assert!(!output.status.success(), "{output:?}");
    let known = commands();
    assert!(!known.contains("flush") && !known.contains("handed"), "{known}");
    assert!(fs::metadata(mnt.join(".stats.d/since/handed")).is_err());
    mount.ctl(&["mark", "roots"]);
    assert!(commands().contains("roots"), "{}", commands());
    mount.stop_clean();
}

/// The mount of a user who is not root: nobody else enters, root included; he commands it himself, and `allow_other` is not his
/// to ask for.
fn a_users_mount_is_his_alone(engine: Engine) {
    if !(can_become_others() && able(&["unshare"])) {
        return;
    }
    let place = Mount::place(engine, "");
    open_to_others(&place);
    let script = place.host().join("script");
    // In a mount namespace of its own, so that /dev/fuse can be what it is on most machines: everybody's.
    let text = r#"
        user() { setpriv --reuid=nobody --regid=65534 --clear-groups env HOME="$HOST" "$@"; }
        fails() { if "$@"; then echo "succeeded: $*" >&2; exit 1; fi; }
        mknod "$HOST/device" c 10 229; chmod 666 "$HOST/device"; mount --bind "$HOST/device" /dev/fuse
        mkdir "$HOST/his" "$HOST/his/mnt"; cp "$KVFS" "$HOST/his/kvfs"; chown -R nobody "$HOST/his"; cd "$HOST/his"
        trap 'cd /; umount -l "$HOST/his/mnt" 2>/dev/null || true' EXIT
        user ./kvfs mount "$HOST/his/store" "$HOST/his/mnt" -o "$OPTIONS"
        user sh -euc 'cd mnt; seq 1000 > file; echo flush > .stats; echo "mark his" > .stats.d/ctl; grep flush .stats.d/ctl'
        grep "$HOST/his/mnt" /proc/self/mounts | grep default_permissions
        fails sh -c "grep '$HOST/his/mnt' /proc/self/mounts | grep allow_other"
        fails ls mnt; fails cat mnt/file; fails cat mnt/.stats
        fails setpriv --reuid=12345 --regid=12345 --clear-groups ls mnt
        test "$(stat -c %a store)" = 700; test "$(stat -c %U store)" = nobody
        test -z "$(find store -mindepth 1 -maxdepth 1 -type d ! -perm 700)"; test -z "$(find store -mindepth 1 -maxdepth 1 ! -type d ! -perm 600)"
        user ./kvfs umount "$HOST/his/mnt"; user ./kvfs check store
        grep -q '^user_allow_other' /etc/fuse.conf || fails user ./kvfs mount store "$HOST/his/mnt" -o allow_other 2> refusal
        grep -q '^user_allow_other' /etc/fuse.conf || grep user_allow_other refusal
    "#;
    fs::write(&script, text).unwrap();
    place.sh(&format!("export OPTIONS={}; exec unshare -m sh -eu {script:?}", place.options()));
}

everywhere!(others_are_held_to_permissions, strangers_leave_attributes_alone);
every_engine!(a_store_is_its_owners_alone, strangers_do_not_command, a_users_mount_is_his_alone);
