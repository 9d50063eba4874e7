#!/bin/sh
# Locks every requirements/components/*.packages: the file and SHA-256 of each Debian package, as sha256sum checks them.
# Needs Debian 12 on amd64 with fresh package lists (apt-get update). See docs/decisions/0006-debian-packages.md
set -eu
cd "$(dirname "$0")/components"

for names in *.packages; do
    lock=${names%.packages}.debs
    echo "# Debian 12, amd64. Made by requirements/lock-debs.sh; the first package is the one that the others are for." >"$lock"
    for name in $(cat "$names"); do
        apt-get download --print-uris "$name" | sed -n "s/^'[^']*' \([^ ]*\) [0-9]* SHA256:\([0-9a-f]*\)$/\2  \1/p"
    done >>"$lock"
done
