#!/bin/sh
# Build an image with the pinned versions: `docker/build.sh [TARGET] [docker build's own words]`; TARGET is runtime if not
# given. The runtime is smoke-tested while it is built. A CPU wheel index for torch: PIP_EXTRA_INDEX_URL.
set -eu
cd "$(dirname "$0")/.."
. docker/versions.env
target=${1:-runtime}
[ $# -eq 0 ] || shift
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
build() {
    docker build --file docker/Dockerfile --build-arg "PYTHON_IMAGE=$PYTHON_IMAGE" \
        --build-arg "PIP_EXTRA_INDEX_URL=${PIP_EXTRA_INDEX_URL:-}" "$@" .
}
if [ "$target" = runtime ]; then build --target smoke "$@"; fi
build --target "$target" --tag "oneranker-$target:$version" "$@"
