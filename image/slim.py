"""Removes from the image's packages what a pod never uses: `python3 slim.py DIRECTORY`. image/README.md says why.

Each cut is named, and must find what it is to cut: another version of a package that is made differently is noticed.
"""

import re
import shutil
import sys
from pathlib import Path

#: Distributions that another one names and nothing of ours ever imports.
_DISTRIBUTIONS = (
    "build",  # openshift-client's
    "packaging",  # build's
    "pyproject_hooks",  # build's
    "markdown_it_py",  # rich's, for documents
    "mdurl",  # markdown-it's
    "pygments",  # rich's, for source code; without it structlog leaves tracebacks to Python
    "qemu_qmp",  # the sandbox's
    "tzdata",  # dateutil's: all our times are UTC
)
_DIRECTORIES = (
    "bin",
    "kubernetes/client/api",
    "kubernetes/client/apis",
    "stuntime/sandbox",  # it needs QEMU, Open vSwitch and a kernel of its own
)
_MODELS = "kubernetes/client/models"
#: Modules that do nothing but import every generated class.
_IMPORTERS = ("kubernetes/client/__init__.py", f"{_MODELS}/__init__.py")
_GENERATED = re.compile(r"^from kubernetes\.client\.(?:api|models)\.\w+ import \w+\n", re.MULTILINE)
_EXPLANATION = """

def __getattr__(name):
    raise AttributeError(f"{__name__}.{name} is left out of this image: it speaks to the API in JSON")
"""


def slim(packages: Path) -> None:
    """Cut what is named above."""
    for distribution in _DISTRIBUTIONS:
        _cut_distribution(packages, distribution)
    for name in _DIRECTORIES:
        shutil.rmtree(packages / name)
    for model in (packages / _MODELS).glob("[!_]*.py"):
        model.unlink()
    for name in _IMPORTERS:
        importer = packages / name
        text, number = _GENERATED.subn("", importer.read_text(encoding="utf-8"))
        if not number:
            raise LookupError(f"{importer} imports no generated class: it is made in another way")
        importer.write_text(text + _EXPLANATION, encoding="utf-8")


def _cut_distribution(packages: Path, name: str) -> None:
    """Remove the packages that a distribution's own RECORD lists; its programs are in `bin`."""
    (record,) = packages.glob(f"{name}-*.dist-info/RECORD")
    listed = (line.split(",")[0].strip('"') for line in record.read_text(encoding="utf-8").splitlines())
    for top in {file.partition("/")[0] for file in listed} - {"", "..", "bin"}:
        shutil.rmtree(packages / top)


if __name__ == "__main__":
    slim(Path(sys.argv[1]))
