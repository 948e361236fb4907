"""The image that the tests look at: built once, and only where it can be."""

import os
import shutil

import pytest

from tests.image.build import Built, image

_NEEDED = ("buildah", "debootstrap", "kubectl", "unshare", "chroot")


@pytest.fixture(scope="session")
def built() -> Built:
    """Return the image of this checkout."""
    if os.geteuid() != 0:
        pytest.skip("the image's stand-in for its base is made as root")
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    if missing := [program for program in _NEEDED if shutil.which(program, path=path) is None]:
        pytest.skip(f"missing on this machine: {', '.join(missing)}; run tests/image/install.sh")
    return image()
