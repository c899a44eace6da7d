#!/bin/sh
# Does an installed runtime serve, slim and without writing? `docker/smoke.sh PREFIX BUNDLE [PATH]`; PATH is what must not
# lead to a compiler, the folder's own programs if it is not given. The last line of stdout is the health command's.
set -eu
if [ $# -lt 2 ]; then
    echo "usage: docker/smoke.sh PREFIX BUNDLE [PATH]" >&2
    exit 2
fi
prefix=$1
bundle=$2
path=${3:-$prefix/bin}
fail() {
    echo "smoke: $1" >&2
    exit 1
}

for tool in cc gcc g++ c++ clang as ld make cmake nvcc; do
    if found=$(PATH=$path && command -v "$tool"); then fail "got $found, expected no compiler in the runtime"; fi
done
cd /
for package in torch onnx pandas pip setuptools; do
    if "$prefix/bin/python" -c "import importlib.util as u, sys; sys.exit(not u.find_spec('$package'))"; then
        fail "got the package $package, expected what serving needs and no more"
    fi
done

marker=$(mktemp)
trap 'rm -f "$marker"' EXIT
env -i LD_LIBRARY_PATH="${LD_LIBRARY_PATH:-}" "$prefix/bin/python" -m runtime.health --bundle "$bundle"
written=$(find "$prefix" "$bundle" -newer "$marker")
[ -z "$written" ] || fail "got new files ($written), expected none: the root file system may be read-only"
