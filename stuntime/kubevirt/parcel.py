"""A measurement's files in one compressed piece of bounded size, and out of it again. Pure, but for the files."""

import gzip
import io
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from stuntime.errors import InvalidError, TestbedError
from stuntime.store import write_evidence

#: A ConfigMap holds 1 MiB with everything in it; bytes.
LIMIT = 960 * 1024
_LARGEST, _LARGEST_OF_ALL = 64 << 20, 256 << 20
_HEADER = 1024
_FOLDERS = ("results", "evidence")


@dataclass(frozen=True)
class Parcel:
    """Files, packed. `left_out` are those that would not have fitted, relative to the output directory."""

    content: bytes
    left_out: tuple[str, ...] = ()


def pack(root: Path, files: Sequence[Path], limit: int = LIMIT) -> Parcel:
    """Return files below `root` packed in at most `limit` bytes: the first always, of the others the small ones first.

    Each is taken whole or left out, so that its digest stays true. Raise TestbedError when the first does not fit.
    """
    first, *others = files
    sizes = {file: _compressed(file) for file in files}
    if sizes[first] > limit:
        raise TestbedError(f"{first} is too large to be kept in the cluster", "fetch it from where it was measured")
    taken, left, room = [first], [], limit - sizes[first]
    for file in sorted(others, key=lambda file: (sizes[file], file)):
        if sizes[file] <= room:
            taken.append(file)
            room -= sizes[file]
        else:
            left.append(file)
    return Parcel(_packed(root, taken), tuple(sorted(str(file.relative_to(root)) for file in left)))


def unpack(content: bytes, root: Path, source: str) -> list[Path]:
    """Write the files of a parcel below `root`, each whole, and return them.

    Raise InvalidError, naming `source`, when it is torn, too large, or would write anywhere else.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
            members = [(member, _place(member)) for member in archive]
            if sum(member.size for member, _ in members) > _LARGEST_OF_ALL:
                raise InvalidError(f"{source} is too large when unpacked", "leave it out", reason="deposit-foreign")
            found = [(place, _content(archive, member)) for member, place in members]
    except (tarfile.TarError, OSError, EOFError, ValueError, zlib.error) as error:
        raise InvalidError(f"{source} is torn or foreign: {error}", "measure again", reason="deposit-torn") from error
    for place, data in found:
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        write_evidence(root / place, data)
    return [root / place for place, _ in found]


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    reader = archive.extractfile(member)
    return reader.read() if reader else b""


def _place(member: tarfile.TarInfo) -> PurePosixPath:
    """Return where a member goes, relative to the output directory; raise ValueError when it has no place there."""
    place = PurePosixPath(member.name)
    if not member.isfile() or place.is_absolute() or ".." in place.parts or place.parts[0] not in _FOLDERS:
        raise ValueError(f"{member.name!r} has no place in an output directory")
    return place


def _compressed(file: Path) -> int:
    """Return at most how many bytes a file adds to a parcel; more than any limit when it is too large to look at."""
    if file.stat().st_size > _LARGEST:
        return _LARGEST
    return len(zlib.compress(file.read_bytes(), 6)) + _HEADER


def _packed(root: Path, files: Sequence[Path]) -> bytes:
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w") as archive,
    ):
        for file in files:
            data = file.read_bytes()
            member = tarfile.TarInfo(str(file.relative_to(root)))
            member.size, member.mode = len(data), 0o644
            archive.addfile(member, io.BytesIO(data))
    return packed.getvalue()
