#!/bin/sh
# Installs the packages of both SDKs as users would, for what drives them from outside: target/sdks/venv has the wheel and
# what it depends on, target/sdks/npm the tarball, and nothing else. Packs them anew first, but does and says nothing when
# neither the sources nor mvmctl have changed. Usage: scripts/install-sdks.sh [PROFILE], the profile mvmctl is built in.
set -eu

cd "$(dirname "$0")/.."
profile=${1:-release}
sdks=$PWD/target/sdks
binary=target/$profile/mvmctl
packages=target/packages/$profile

mkdir -p "$sdks"
exec 9>"$sdks/lock"
flock 9

sources() {
    find sdk/python sdk/typescript \( -name node_modules -o -name dist -o -name __pycache__ -o -name '.*_cache' \
        -o -name tests -o -name test \) -prune -o -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum
}

# What is packed now. Sources that change while they are packed are packed again the next time.
before=$(sources)
stamp() {
    echo "$profile $before"
    sha256sum "$binary"
}
[ -e "$binary" ] && [ "$(stamp)" = "$(cat "$sdks/stamp" 2>/dev/null)" ] && exit

rm -f "$sdks/stamp"
make --no-print-directory --silent packages PROFILE="$profile"

rm -rf "$sdks/venv" "$sdks/npm"
/usr/bin/python3 -m venv --without-pip "$sdks/venv"
/usr/bin/python3 -m pip --python "$sdks/venv/bin/python" install --quiet --disable-pip-version-check "$packages"/mvm-*.whl

mkdir "$sdks/npm"
echo '{ "private": true, "type": "module" }' >"$sdks/npm/package.json"
npm install --prefix "$sdks/npm" --silent --no-audit --no-fund "$packages"/mvm-sdk-*.tgz

stamp >"$sdks/stamp"
