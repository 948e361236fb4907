#!/bin/sh
# Installs what the tests of the ssh testbed need besides the sandbox: a client of ssh, a server for the guests, libvirt.
# Exits 3, with the command to run, where it is not allowed to.
set -eu
PATH=$PATH:/usr/sbin:/sbin
missing() {
    for program in dropbear dropbearkey ssh-keygen virsh libvirtd; do
        command -v "$program" >/dev/null 2>&1 || echo "$program"
    done
    [ -e /usr/lib/*/libvirt/connection-driver/libvirt_driver_qemu.so ] || echo libvirt_driver_qemu.so
}
[ -n "$(missing)" ] || exit 0
command="apt-get update && apt-get install -y --no-install-recommends dropbear-bin openssh-client \
libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients"
if [ "$(id -u)" != 0 ]; then
    echo "stuntime: the tests of the ssh testbed lack $(missing | tr '\n' ' '); run as root: $command" >&2
    exit 3
fi
DEBIAN_FRONTEND=noninteractive sh -c "$command"
