#!/bin/sh
# Install the project with some of its extras into a folder of its own, such as `docker/install.sh serve /opt/oneranker`.
# What a Dockerfile RUNs, and what the tests run without a Docker engine. The folder gets neither pip nor a compiler.
set -eu
if [ $# -ne 2 ]; then
    echo "usage: docker/install.sh EXTRA[,EXTRA] PREFIX" >&2
    exit 2
fi
extras=$1
prefix=$2
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# pip and setuptools stay in an environment that is thrown away; the tree itself is not written to
"${PYTHON:-python3}" -m venv "$work/tools"
pip() { "$work/tools/bin/python" -m pip "$@"; }
pip install --quiet --constraint "$root/constraints.txt" setuptools
mkdir "$work/source"
for part in pyproject.toml README.md LICENSE oneranker export runtime benchmarks; do
    cp -R "$root/$part" "$work/source/"
done
pip wheel --quiet --no-deps --no-build-isolation --wheel-dir "$work" "$work/source"

cuda=""
case ",$extras," in *,gpu,*)
    . "$root/docker/versions.env"
    cuda=$CUDA_WHEELS
    ;;
esac
"${PYTHON:-python3}" -m venv --without-pip "$prefix"
# shellcheck disable=SC2086 # CUDA_WHEELS is several words
pip --python "$prefix/bin/python" install --quiet --constraint "$root/constraints.txt" \
    "$(echo "$work"/oneranker-*.whl)[$extras]" $cuda

# one folder for the loader's search path, whatever folders the wheels have
if [ -n "$cuda" ]; then
    mkdir "$prefix/cuda"
    find "$prefix/lib" -path '*/nvidia/*/lib/*' -name '*.so*' -exec ln -s {} "$prefix/cuda/" \;
fi
