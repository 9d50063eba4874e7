#!/bin/sh
# Locks every requirements/*.in with versions and hashes, for Python 3.11 to 3.13, without index addresses.
set -eu
cd "$(dirname "$0")"
for source in lab.in dev.in uv.in components/*.in; do
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
        --custom-compile-command requirements/lock.sh "$source" -o "${source%.in}.txt" "$@"
done
