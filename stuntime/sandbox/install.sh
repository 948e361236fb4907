#!/bin/sh
# Installs the distribution's packages that the sandbox needs; does nothing where all are there.
# Exits 3, with the command to run, where it is not allowed to.
set -eu

PATH=$PATH:/usr/sbin:/sbin
programs="qemu-system-x86_64 ovs-vswitchd ovsdb-server ovn-northd ovn-controller ovn-nbctl busybox ip nsenter ethtool
          tcpdump depmod ldd"
files="/usr/bin/ping /usr/bin/python3"

missing() {
    for program in $programs; do command -v "$program" >/dev/null 2>&1 || echo "$program"; done
    for file in $files; do [ -e "$file" ] || echo "$file"; done
    # A virtual environment needs ensurepip, which Debian packages apart.
    "${PYTHON:-python3}" -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
}

unfit() {
    echo "stuntime: missing on this machine: $(missing | tr '\n' ' ')" >&2
    echo "          $1" >&2
    exit 3
}

[ -n "$(missing)" ] || exit 0

if command -v apt-get >/dev/null; then
    install="apt-get install -y --no-install-recommends qemu-system-x86 openvswitch-switch ovn-central ovn-host \
busybox-static iputils-ping iproute2 util-linux ethtool tcpdump kmod libc-bin python3 python3-venv"
    refresh="apt-get update"
elif command -v dnf >/dev/null; then  # untried
    install="dnf install -y qemu-system-x86-core openvswitch ovn-central ovn-host busybox iputils iproute util-linux \
ethtool tcpdump kmod glibc-common python3"
    refresh="true"
else
    unfit "install QEMU, Open vSwitch, OVN, a static BusyBox, iputils, iproute2, util-linux, ethtool, tcpdump, kmod, Python 3"
fi

command="$refresh && $install"
if [ "$(id -u)" = 0 ]; then
    DEBIAN_FRONTEND=noninteractive sh -c "$command" || unfit "this failed: $command"
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    sudo DEBIAN_FRONTEND=noninteractive sh -c "$command" || unfit "this failed: $command"
else
    unfit "run as root: $command"
fi
[ -z "$(missing)" ] || unfit "the packages are installed and still lack it; see above"
