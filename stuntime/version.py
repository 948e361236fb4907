"""Which stuntime this is: its version, and the commit it was made from where that is known."""

import subprocess
from pathlib import Path

from stuntime import __version__

_PACKAGE = Path(__file__).parent
#: What an image's build has written: the commit's id.
_BUILT_FROM = _PACKAGE / "COMMIT"
_SHORT = 12


def told() -> str:
    """Return the version and the commit in one line."""
    return f"stuntime {__version__} ({commit() or 'commit unknown'})"


def commit() -> str | None:
    """Return the commit's short id: of an image what its build has written, of a checkout what git says."""
    if _BUILT_FROM.exists():
        return _BUILT_FROM.read_text(encoding="ascii").strip()[:_SHORT] or None
    return _of_checkout(_PACKAGE.parent) if (_PACKAGE.parent / ".git").exists() else None


def _of_checkout(repository: Path) -> str | None:
    """Ask git; `+` says that the checkout differs from the commit."""
    argv = ["git", "-C", str(repository), "describe", "--always", f"--abbrev={_SHORT}", "--exclude=*", "--dirty=+"]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
