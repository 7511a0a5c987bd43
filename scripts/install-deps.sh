#!/bin/sh
# Installs the distribution's packages that building and running mvm needs (with `python` or `node` also those of packing
# that SDK, with `tests` those of all tests), if any are missing. Names them first; needs root or sudo only for that. Says
# nothing and changes nothing when all is there.
set -eu

wanted="${1:-}"
if [ "$wanted" = tests ]; then wanted="tests python node"; fi
wants() {
    case " $wanted " in *" $1 "*) ;; *) return 1 ;; esac
}

missing=""
need() { # program package
    PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}

node_major=20
have_node() {
    major=$(node --version 2>/dev/null | sed -n 's/^v\([0-9]*\).*/\1/p')
    [ -n "$major" ] && [ "$major" -ge "$node_major" ]
}

need qemu-system-x86_64 qemu-system-x86
need mmdebstrap mmdebstrap
need busybox busybox-static
need mke2fs e2fsprogs
need depmod kmod
need newuidmap uidmap
need xz xz-utils
need zstd zstd
need cc gcc
need setpriv util-linux
if wants tests; then
    need curl curl
    /usr/bin/python3 -c 'import httpx, jsonschema, yaml' >/dev/null 2>&1 ||
        missing="$missing python3 python3-httpx python3-jsonschema python3-yaml"
    need openssl openssl
fi
if wants python; then
    /usr/bin/python3 -m pip --version >/dev/null 2>&1 || missing="$missing python3-pip"
fi
if wants node && have_node; then need npm npm; fi
[ -e /etc/ssl/certs/ca-certificates.crt ] || missing="$missing ca-certificates"
# The agent is linked statically, and the image base needs a static busybox.
[ -n "$(find /usr/lib -name libc.a 2>/dev/null | head -n 1)" ] || missing="$missing libc6-dev"
dpkg-query -W -f='${Status}' busybox-static 2>/dev/null | grep -q 'ok installed' || case "$missing" in
    *busybox-static*) ;;
    *) missing="$missing busybox-static" ;;
esac

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"
    elif command -v sudo >/dev/null 2>&1; then sudo "$@"
    else
        echo "These packages are missing, and there is neither root nor sudo to install them:$missing" >&2
        exit 1
    fi
}

rust_minor=85
have_rust() {
    minor=$(cargo --version 2>/dev/null | sed -n 's/^cargo 1\.\([0-9]*\).*/\1/p')
    [ -n "$minor" ] && [ "$minor" -ge "$rust_minor" ]
}

lacks_node() {
    wants node && ! have_node
}

if [ -n "$missing" ] || ! have_rust || lacks_node; then
    as_root apt-get update -qq
fi
if ! have_rust; then
    # Old releases carry a newer Rust beside their own one, under other names.
    for pair in "cargo rustc" "cargo-web rustc-web" "cargo-1.89 rustc-1.89" "cargo-1.85 rustc-1.85"; do
        package=${pair%% *}
        version=$(apt-cache policy "$package" 2>/dev/null | sed -n 's/^  Candidate: \([0-9:]*\)\(1\.[0-9]*\).*/\2/p')
        if [ -n "$version" ] && [ "${version#1.}" -ge "$rust_minor" ]; then
            missing="$missing $pair"
            break
        fi
    done
    case "$missing" in
        *cargo*) ;;
        *) echo "mvm needs Rust 1.$rust_minor or later, and this distribution has none: install it with rustup." >&2; exit 1 ;;
    esac
fi
if lacks_node; then
    major=$(apt-cache policy nodejs 2>/dev/null | sed -n 's/^  Candidate: \([0-9]*:\)\{0,1\}\([0-9]*\).*/\2/p')
    if [ "${major:-0}" -lt "$node_major" ]; then
        echo "The TypeScript SDK needs Node.js $node_major or later, with npm, and this distribution has ${major:-none}:" \
            "install it with a version manager (nvm, fnm) or from the project's own downloads, and put it on the PATH." >&2
        exit 1
    fi
    missing="$missing nodejs npm"
fi

if [ -n "$missing" ]; then
    echo "Installing:$missing"
    # shellcheck disable=SC2086  # a list of packages
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing >/dev/null
fi
