//! Why a mount was refused, and the way out where it is known.
//!
//! Decided by the kind of the error and by how the system is, never by a text. There is no more to go by: of what mount(2) and the
//! setuid helper fusermount3 answer, `fuser` keeps the text alone, which changes with their versions; it is shown and not read.

use std::io::{self, ErrorKind};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::stat::stat;
use nix::unistd::{AccessFlags, access, geteuid};

/// The device through which the kernel is asked.
const DEVICE: &str = "/dev/fuse";

/// Conditions of the system for a mount.
#[derive(Clone, Copy, Debug)]
struct Situation {
    is_root: bool,
    /// Others were to be let in.
    allow_other: bool,
    /// Whether reading and writing [`DEVICE`] is allowed.
    device: Result<(), Errno>,
    /// Whether the helper lets this user mount there: it has to be his to write, and where everybody may write, his own.
    has_mount_point: bool,
}

impl Situation {
    fn now(mount_point: &Path, allow_other: bool) -> Situation {
        let user = geteuid();
        let is_his_own = || stat(mount_point).is_ok_and(|found| found.st_uid == user.as_raw());
        let is_sticky = || stat(mount_point).is_ok_and(|found| found.st_mode & libc::S_ISVTX != 0);
        Situation {
            is_root: user.is_root(),
            allow_other,
            device: access(DEVICE, AccessFlags::R_OK | AccessFlags::W_OK),
            has_mount_point: access(mount_point, AccessFlags::W_OK).is_ok() && (!is_sticky() || is_his_own()),
        }
    }
}

/// `error`, with which mounting at `mount_point` ended, and what to do about it.
pub(super) fn explain(error: &io::Error, mount_point: &Path, allow_other: bool) -> io::Error {
    let text = error.to_string();
    let way_out = way_out(error, &Situation::now(mount_point, allow_other));
    io::Error::new(error.kind(), format!("{}{way_out}", text.trim()))
}

fn way_out(error: &io::Error, situation: &Situation) -> &'static str {
    const ABSENT: &str =
        "; there is no /dev/fuse: load the module with modprobe fuse, or give the container the device";
    match (situation.device, error.raw_os_error()) {
        // A device of which the kernel knows nothing.
        (Err(Errno::ENOENT), _) | (Ok(()), Some(libc::ENODEV | libc::ENXIO)) => return ABSENT,
        (Err(Errno::EACCES), _) => {
            return "; this user may not open /dev/fuse: let root do chmod 666 /dev/fuse, as most systems have it";
        }
        _ => {}
    }
    match error.kind() {
        // The device and the mount point are there, so it is the helper that is not.
        ErrorKind::NotFound => "; users need the program fusermount3 (package fuse3)",
        // `fuser` gives this kind without a number to one answer of the helper.
        ErrorKind::PermissionDenied if error.raw_os_error().is_none() && situation.allow_other => {
            "; let root add the line user_allow_other to /etc/fuse.conf, or leave allow_other out"
        }
        _ if situation.is_root => "",
        _ if !situation.has_mount_point => "; a user must own the mount point",
        _ => "; some systems only let users mount below the home directory, /mnt, /media and /tmp",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_out_depends_on_what_is_wrong_and_not_on_words() {
        let user = Situation { is_root: false, allow_other: false, device: Ok(()), has_mount_point: true };
        let root = Situation { is_root: true, ..user };
        let system = |errno| io::Error::from_raw_os_error(errno);
        // What fuser makes of the helper's and of mount(2)'s answer.
        let helper = |text| io::Error::other(format!("fusermount3: {text}"));
        let others = io::Error::new(ErrorKind::PermissionDenied, "whatever the helper says");
        for (error, situation, expected) in [
            (system(libc::ENOENT), Situation { device: Err(Errno::ENOENT), ..root }, "modprobe fuse"),
            (system(libc::ENODEV), root, "modprobe fuse"),
            (system(libc::EACCES), Situation { device: Err(Errno::EACCES), ..user }, "chmod 666"),
            (helper("no luck"), Situation { device: Err(Errno::EACCES), ..user }, "chmod 666"),
            (system(libc::ENOENT), user, "package fuse3"),
            (system(libc::ENOENT), root, "package fuse3"),
            (others, Situation { allow_other: true, ..user }, "user_allow_other"),
            (helper("user_allow_other"), Situation { has_mount_point: false, ..user }, "must own"),
            (helper("No such file or directory"), user, "/mnt, /media"),
            (helper("Permission denied"), user, "/mnt, /media"),
        ] {
            let way_out = way_out(&error, &situation);
            assert!(way_out.starts_with("; ") && way_out.contains(expected), "{error}: {way_out}");
        }
        assert_eq!(way_out(&helper("Permission denied"), &root), "");
    }

    #[test]
    fn what_is_shown_keeps_the_words_and_the_kind() {
        let error = io::Error::new(ErrorKind::ResourceBusy, "fusermount3: in use\n");
        let explained = explain(&error, Path::new("/"), false);
        assert_eq!(explained.kind(), ErrorKind::ResourceBusy);
        assert!(explained.to_string().starts_with("fusermount3: in use"), "{explained}");
        assert!(!explained.to_string().contains('\n'));
    }
}
