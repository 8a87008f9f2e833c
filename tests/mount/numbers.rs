//! Handles that programs keep instead of open files, as an NFS server does: they lead to the same file when the kernel has
//! forgotten it, also after the store was unmounted or its daemon killed, and to nothing once the file is gone.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use crate::host::{Engine, Mount, able, every_engine, root};

/// As the kernel has it: length, kind, and up to 128 bytes that only the filesystem understands.
#[repr(C)]
#[derive(Clone, Copy)]
struct Handle {
    bytes: u32,
    kind: i32,
    body: [u8; 128],
}

fn handle_of(path: &Path) -> Handle {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    let mut handle = Handle { bytes: 128, kind: 0, body: [0; 128] };
    let mut mount_id = 0;
    // SAFETY: the path ends with a NUL, and the handle says how long it is.
    let result = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            libc::AT_FDCWD,
            path.as_ptr(),
            &raw mut handle,
            &raw mut mount_id,
            0,
        )
    };
    assert_eq!(result, 0, "{path:?}: {}", io::Error::last_os_error());
    handle
}

/// Opens what the handle stands for, on the filesystem that is mounted at `mount`.
fn open(mount: &Path, handle: &Handle, flags: i32) -> Result<File, i32> {
    let mount = File::open(mount).unwrap();
    let mut handle = *handle;
    // SAFETY: the descriptor is open, and the handle says how long it is.
    let opened = unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            mount.as_raw_fd(),
            &raw mut handle,
            flags | libc::O_CLOEXEC,
        )
    };
    match i32::try_from(opened).unwrap() {
        // SAFETY: the kernel has just opened it, for us alone.
        descriptor if descriptor >= 0 => Ok(unsafe { File::from_raw_fd(descriptor) }),
        _ => Err(io::Error::last_os_error().raw_os_error().unwrap()),
    }
}

fn text(mut file: File) -> String {
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    text
}

/// Where the kernel thinks that an open file is.
fn path_of(file: &File) -> PathBuf {
    fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap()
}

fn handles_outlive_what_the_kernel_remembers(engine: Engine) {
    if !able(&[]) || !root() {
        return;
    }
    let mount = Mount::new(engine, "");
    let mnt = mount.mnt();
    let deep = mnt.join("one/two/three");
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("file"), "found by number").unwrap();
    fs::write(mnt.join("doomed"), "gone soon").unwrap();
    symlink("file", deep.join("link")).unwrap();
    let [file, link, folder, doomed, top] =
        [&deep.join("file"), &deep.join("link"), &deep, &mnt.join("doomed"), &mnt]
            .map(|path| handle_of(path));
    let report = handle_of(&mnt.join(".stats.d/json"));
    let inode = fs::metadata(deep.join("file")).unwrap().ino();
    for round in ["remembered", "dropped", "mounted anew", "killed"] {
        match round {
            // Names and inodes that nobody uses; what is in the page cache stays.
            "dropped" => fs::write("/proc/sys/vm/drop_caches", "2").unwrap(),
            "mounted anew" => mount.restart(),
            "killed" => {
                mount.kill();
                mount.start();
            }
            _ => {}
        }
        let found =
            open(&mnt, &file, libc::O_RDONLY).unwrap_or_else(|errno| panic!("{round}: errno {errno}"));
        assert_eq!(found.metadata().unwrap().ino(), inode, "{round}");
        assert_eq!(text(found), "found by number", "{round}");
        // A symbolic link is found as itself, a directory with the way that leads to it.
        let found = open(&mnt, &link, libc::O_PATH | libc::O_NOFOLLOW).unwrap();
        assert!(found.metadata().unwrap().file_type().is_symlink(), "{round}");
        let found = open(&mnt, &folder, libc::O_DIRECTORY).unwrap();
        assert_eq!(path_of(&found), deep, "{round}");
        assert_eq!(path_of(&open(&mnt, &top, libc::O_DIRECTORY).unwrap()), mnt, "{round}");
        let found = open(&mnt, &report, libc::O_RDONLY).unwrap();
        assert!(text(found).starts_with('{'), "{round}");
    }
    // What moved is found where it is now; what is written through a handle is in the file.
    fs::rename(mnt.join("one/two"), mnt.join("elsewhere")).unwrap();
    fs::remove_file(mnt.join("doomed")).unwrap();
    mount.restart();
    let found = open(&mnt, &folder, libc::O_DIRECTORY).unwrap();
    assert_eq!(path_of(&found), mnt.join("elsewhere/three"));
    drop(found);
    io::Write::write_all(&mut open(&mnt, &file, libc::O_WRONLY).unwrap(), b"FOUND").unwrap();
    assert_eq!(fs::read_to_string(mnt.join("elsewhere/three/file")).unwrap(), "FOUND by number");
    assert_eq!(open(&mnt, &doomed, libc::O_RDONLY).unwrap_err(), libc::ESTALE);
    // A number that no inode ever had.
    let mut unknown = file;
    unknown.body[4] = 0x7f;
    assert_eq!(open(&mnt, &unknown, libc::O_RDONLY).unwrap_err(), libc::ESTALE);
    // New files get new numbers, so an old handle never leads to another file.
    for number in 0..100 {
        fs::write(mnt.join(format!("new{number}")), "another").unwrap();
    }
    assert_eq!(open(&mnt, &doomed, libc::O_RDONLY).unwrap_err(), libc::ESTALE);
    mount.stop_clean();
}

every_engine!(handles_outlive_what_the_kernel_remembers);
