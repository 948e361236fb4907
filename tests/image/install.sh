#!/bin/sh
# Installs the distribution's packages that building the image needs; does nothing where all are there.
set -eu

PATH=$PATH:/usr/sbin:/sbin
missing() {
    for program in buildah debootstrap kubectl unshare chroot; do
        command -v "$program" >/dev/null 2>&1 || echo "$program"
    done
}

[ -n "$(missing)" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "stuntime: tests/image will be skipped; missing on this machine: $(missing | tr '\n' ' ')" >&2
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -q -y --no-install-recommends buildah debootstrap debian-archive-keyring util-linux coreutils
command -v kubectl >/dev/null || apt-get install -q -y --no-install-recommends kubernetes-client
