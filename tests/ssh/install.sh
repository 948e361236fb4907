#!/bin/sh
# Installs what the tests of the ssh testbed need besides the sandbox: a client of ssh, and a server for the guests.
# Exits 3, with the command to run, where it is not allowed to.
set -eu
PATH=$PATH:/usr/sbin:/sbin
command -v dropbear >/dev/null && command -v dropbearkey >/dev/null && command -v ssh-keygen >/dev/null && exit 0
command="apt-get update && apt-get install -y --no-install-recommends dropbear-bin openssh-client"
if [ "$(id -u)" != 0 ]; then
    echo "stuntime: the tests of the ssh testbed need dropbear and OpenSSH's client; run as root: $command" >&2
    exit 3
fi
DEBIAN_FRONTEND=noninteractive sh -c "$command"
