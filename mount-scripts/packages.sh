# Sourced by quickstart.sh and tests/run.sh: installs missing tools through apt, and only those.
# shellcheck shell=bash

# Runs a command as root.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        echo "not root and no sudo; please run as root: $*" >&2
        return 1
    fi
}

# need TOOL=PACKAGE...: apt-get installs the package of each tool that is not in PATH.
need() {
    local pair missing=()
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    if ! command -v apt-get >/dev/null; then
        echo "missing and there is no apt-get to install them with: ${missing[*]}" >&2
        return 1
    fi
    echo "installing through apt: ${missing[*]}"
    # An update that fails for one source (a stale mirror, a foreign repository) need not matter: the install decides.
    as_root apt-get -q update >/dev/null || echo "apt-get update had errors; trying to install anyway" >&2
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=600 --no-install-recommends install "${missing[@]}" >/dev/null
}

# The tools that a build needs, and the device that a mount needs.
need_build() {
    command -v cargo >/dev/null || [ ! -f "$HOME/.cargo/env" ] || . "$HOME/.cargo/env"
    if ! command -v cargo >/dev/null; then
        echo "cargo is not installed; see https://rustup.rs" >&2
        return 1
    fi
    need cc=gcc
}

need_fuse() {
    need fusermount3=fuse3
    if [ ! -e /dev/fuse ] && [ "$(id -u)" = 0 ]; then
        modprobe fuse 2>/dev/null || true
    fi
}
