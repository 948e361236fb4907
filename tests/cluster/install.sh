#!/bin/sh
# Installs the distribution's packages that the cluster needs; does nothing where all are there. It has to be root.
set -eu

PATH=$PATH:/usr/sbin:/sbin
programs="containerd runc ctr debootstrap busybox iptables nft socat conntrack ethtool cpio setcap kubectl gcc pkg-config
          unshare nsenter ip depmod gpgv openssl"
files="/usr/share/pkgconfig/libvirt.pc:/usr/lib/x86_64-linux-gnu/pkgconfig/libvirt.pc
       /usr/share/keyrings/debian-archive-keyring.gpg"

missing() {
    for program in $programs; do command -v "$program" >/dev/null 2>&1 || echo "$program"; done
    for choice in $files; do
        found=
        for file in $(echo "$choice" | tr : ' '); do [ ! -e "$file" ] || found=yes; done
        [ -n "$found" ] || echo "$choice"
    done
}

[ -n "$(missing)" ] || exit 0
if [ "$(id -u)" != 0 ]; then
    echo "stuntime: the cluster needs root; missing on this machine: $(missing | tr '\n' ' ')" >&2
    exit 3
fi
if ! command -v apt-get >/dev/null; then
    echo "stuntime: the cluster is known to work on Debian 12 only; missing here: $(missing | tr '\n' ' ')" >&2
    exit 3
fi

# Their services are the cluster's, not the machine's: while this file is there, none starts.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 1' INT TERM
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi
packages="containerd runc debootstrap debian-archive-keyring gpgv busybox-static iptables nftables socat conntrack ethtool
          cpio libcap2-bin libvirt-dev gcc libc6-dev pkg-config iproute2 util-linux kmod openssl ca-certificates"
command -v kubectl >/dev/null || packages="$packages kubernetes-client"
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
# shellcheck disable=SC2086
apt-get install -q -y --no-install-recommends $packages
if [ -n "$(missing)" ]; then
    echo "stuntime: the packages are installed, and still missing: $(missing | tr '\n' ' ')" >&2
    exit 3
fi
