"""The person at the terminal who migrates a VM by hand."""

import select
import sys
import termios
from contextlib import suppress

from stuntime.errors import UsageError
from stuntime.ssh.migration import Answer

_NO = ("n", "no")


class TerminalPerson:
    """Somebody who reads stderr and types lines (see `stuntime.ssh.migration.Person`)."""

    def __init__(self) -> None:
        """Raise UsageError when there is nobody."""
        if not sys.stdin.isatty():
            raise UsageError(
                "--by-hand needs a terminal: somebody has to be told when to start the migration",
                "run it in a terminal, or give a --migrate-command",
            )

    def tell(self, text: str) -> None:
        """Show a text, and ring; forget what was typed before."""
        with suppress(termios.error):
            termios.tcflush(sys.stdin, termios.TCIFLUSH)
        print(f"\a\n>>> {text}", file=sys.stderr, flush=True)

    def answer(self, timeout_s: float) -> Answer:
        """Return what was typed; see `Person.answer`."""
        readable, _, _ = select.select([sys.stdin], [], [], max(0.0, timeout_s))
        if not readable:
            return Answer.NOTHING_YET
        line = sys.stdin.readline()
        if not line:
            return Answer.GONE
        return Answer.NO if line.strip().lower() in _NO else Answer.YES
