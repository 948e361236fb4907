"""Settings of the whole machine that a cluster needs or its kubelets change: noted before, and put back after."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

_OURS: Mapping[str, str] = {
    "fs/inotify/max_user_instances": "8192",
    "fs/inotify/max_user_watches": "524288",
}
_KUBELETS = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
_ROOT = Path("/proc/sys")


def change_sysctls(note: Path) -> None:
    """Set what the cluster needs, after the values of now are noted."""
    before = {name: (_ROOT / name).read_text() for name in (*_OURS, *_KUBELETS) if (_ROOT / name).exists()}
    note.write_text(json.dumps(before))
    for name, value in _OURS.items():
        if int(before.get(name, value)) < int(value):
            (_ROOT / name).write_text(value)


def restore_sysctls(note: Path) -> None:
    """Put back what was noted."""
    with suppress(FileNotFoundError):
        for name, value in json.loads(note.read_text()).items():
            if (_ROOT / name).read_text() != value:
                (_ROOT / name).write_text(value)
        note.unlink()
