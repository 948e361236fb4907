"""Somebody at a terminal: `hand.py HABIT COMMAND...` runs the command in one, and does what it asks for or does not.

HABIT is `heeds` (migrates the VM to node-b when told to, and confirms it), `sleeps` (does nothing ever) or `confirms`
(says yes to all and does nothing).
"""

import subprocess
import sys

import pexpect

from tests.ssh.inventories import ASK

_TURN_S = 60.0


def main() -> int:
    """Run the command to its end and return its exit code."""
    habit, *argv = sys.argv[1:]
    terminal = pexpect.spawn(argv[0], argv[1:], encoding="utf-8", timeout=_TURN_S)
    terminal.logfile_read = sys.stdout
    while terminal.expect([">>> .*\n", pexpect.EOF]) == 0:
        if habit == "heeds" and "NOW" in terminal.after:
            subprocess.run([*ASK.split(), "migrate", "node-b"], check=True)
        if habit != "sleeps" or "NOW" not in terminal.after:
            terminal.sendline()
    terminal.close()
    return int(terminal.exitstatus)


if __name__ == "__main__":
    sys.exit(main())
