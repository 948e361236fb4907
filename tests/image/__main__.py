"""`python -m tests.image`: build the image and say where it is and what takes the space in it.

With `--import NAME:TAG` it is imported into the nodes of the running cluster.
"""

import argparse
import json
import tarfile
from collections import Counter
from pathlib import Path

from tests.image.build import NAME, image

_LARGEST = 20


def main() -> None:
    """Build and tell."""
    parser = argparse.ArgumentParser(prog="python -m tests.image", description=__doc__)
    parser.add_argument("--import", dest="name", nargs="?", const=NAME, metavar="NAME:TAG")
    options = parser.parse_args()
    built = image()
    print(built.archive)
    for size, what in _layers(built.archive):
        print(f"{size / 1e6:8.1f} MB compressed  {what}")
    sizes = _parts(built.root)
    for what, size in sizes.most_common(_LARGEST):
        print(f"{size / 1e6:8.1f} MB  {what}")
    print(f"{sizes.total() / 1e6:8.1f} MB  all")
    if options.name:
        from tests.cluster.running import running

        running().import_image(built.archive, options.name)
        print(f"the nodes have {options.name}")


def _layers(archive: Path) -> list[tuple[int, str]]:
    """Return each layer's size, as it goes over the network, and its digest; the base's come first."""
    with tarfile.open(archive) as tar:

        def blob(digest: str) -> dict[str, object]:
            return json.load(tar.extractfile(f"blobs/{digest.replace(':', '/')}"))

        index = json.load(tar.extractfile("index.json"))
        manifest = blob(index["manifests"][0]["digest"])
        return [(layer["size"], layer["digest"][:19]) for layer in manifest["layers"]]


def _parts(root: Path) -> Counter[str]:
    """Return the bytes of what the image adds, by package, and of its base."""
    sizes: Counter[str] = Counter()
    packages = Path("opt/stuntime/lib")
    for path in root.rglob("*"):
        if path.is_symlink() or not path.is_file():
            continue
        name = path.relative_to(root)
        if name.is_relative_to(packages):
            top = name.relative_to(packages).parts[0]
            part = "packages: descriptions and licences" if top.endswith(".dist-info") else f"package {top}"
        else:
            part = "oc" if name == Path("usr/local/bin/oc") else "the base"
        sizes[part] += path.stat().st_size
    return sizes


if __name__ == "__main__":
    main()
