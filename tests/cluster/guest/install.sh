#!/bin/sh
# Installs the Debian packages that building and trying the guest needs; does nothing where all are there.
# Exits 3, with what is missing, where it is not allowed to.
set -eu

PATH=$PATH:/usr/sbin:/sbin
programs="unshare mmdebstrap mke2fs mkfs.vfat mcopy syslinux sfdisk qemu-img qemu-system-x86_64 genisoimage"
files="/usr/lib/syslinux/mbr/mbr.bin /usr/share/keyrings/debian-archive-keyring.gpg"
packages="mmdebstrap e2fsprogs dosfstools mtools syslinux syslinux-common fdisk qemu-utils qemu-system-x86 genisoimage
          debian-archive-keyring util-linux"

missing() {
    for program in $programs; do command -v "$program" >/dev/null 2>&1 || echo "$program"; done
    for file in $files; do [ -e "$file" ] || echo "$file"; done
}

unfit() {
    echo "stuntime: $1; missing on this machine: $(missing | tr '\n' ' ')" >&2
    exit 3
}

[ -n "$(missing)" ] || exit 0
[ "$(id -u)" = 0 ] || unfit "installing packages needs root"
command -v apt-get >/dev/null || unfit "the Debian guest is built on Debian only"
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
# shellcheck disable=SC2086
apt-get install -q -y --no-install-recommends $packages
[ -z "$(missing)" ] || unfit "the packages are installed"
