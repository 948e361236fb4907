#!/bin/sh
# Installs the browser that the tests of the page need; does nothing where it is there.
# Exits 3, with the command to run, where it is not allowed to.
set -eu
[ -x /usr/bin/chromium ] && exit 0
command="apt-get update && apt-get install -y --no-install-recommends chromium fonts-dejavu-core"
if [ "$(id -u)" != 0 ]; then
    echo "stuntime: the tests of the page need Chromium; run as root: $command" >&2
    exit 3
fi
DEBIAN_FRONTEND=noninteractive sh -c "$command"
