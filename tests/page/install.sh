#!/bin/sh
# Installs the browser that the tests of the page need; does nothing where it is there.
set -eu
[ -x /usr/bin/chromium ] && exit 0
export DEBIAN_FRONTEND=noninteractive
apt-get update && apt-get install -y --no-install-recommends chromium fonts-dejavu-core
