"""A writer of cpio archives in the `newc` format, which is what Linux unpacks as its first file system.

Owners are root and times are 0 whoever builds it: the same content gives the same bytes, and device nodes need no root.
"""

import os
import stat
from pathlib import PurePosixPath

_MAGIC = "070701"
_ALIGNMENT = 4


class Archive:
    """An archive in memory. Parent directories are made as they are needed."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._known: set[str] = set()

    def directory(self, path: str) -> None:
        """Add a directory."""
        if path.strip("/"):
            self._add(path, stat.S_IFDIR | 0o755)

    def file(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """Add a file."""
        self._add(path, stat.S_IFREG | mode, content)

    def link(self, path: str, target: str) -> None:
        """Add a symbolic link."""
        self._add(path, stat.S_IFLNK | 0o777, target.encode())

    def device(self, path: str, major: int, minor: int) -> None:
        """Add a character device."""
        self._add(path, stat.S_IFCHR | 0o600, device=os.makedev(major, minor))

    def finish(self) -> bytes:
        """Return the archive."""
        return b"".join([*self._parts, _entry("TRAILER!!!", 0, 0, b"", 0)])

    def _add(self, path: str, mode: int, content: bytes = b"", device: int = 0) -> None:
        name = path.strip("/")
        if name in self._known:
            return
        self.directory(str(PurePosixPath("/" + name).parent))
        self._known.add(name)
        self._parts.append(_entry(name, len(self._known), mode, content, device))


def _entry(name: str, inode: int, mode: int, content: bytes, device: int) -> bytes:
    encoded = name.encode() + b"\0"
    links, owner, group, modified, check = 1, 0, 0, 0, 0
    fields = (
        inode, mode, owner, group, links, modified, len(content),
        0, 0, os.major(device), os.minor(device), len(encoded), check,
    )  # fmt: skip
    header = (_MAGIC + "".join(f"{field:08X}" for field in fields)).encode() + encoded
    return _padded(header) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % _ALIGNMENT)
