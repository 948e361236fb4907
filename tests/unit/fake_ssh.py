"""A program `ssh` that reaches this machine: for faults that a real one cannot be made to have at will."""

from pathlib import Path

import pytest

_SSH = """#!/bin/sh
echo "$@" >> {log}
while [ "$1" != -- ]; do shift; done
case $2 in
unknown-key) echo "No ED25519 host key is known for $2 and you have requested strict checking." >&2
             echo "Host key verification failed." >&2; exit 255 ;;
denied) echo "root@$2: Permission denied (publickey,password)." >&2; exit 255 ;;
refuses) echo "ssh: connect to host $2 port 22: Connection refused" >&2; exit 255 ;;
mute) exec sleep 60 ;;
talks) echo "Welcome to the machine" ;;
esac
SSH_CONNECTION="192.0.2.9 40000 192.0.2.1 22"; export SSH_CONNECTION
exec sh -c "$3"
"""


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put it first on the PATH; return the file that gets the arguments of every call."""
    log = folder / "ssh.log"
    programs = folder / "bin"
    programs.mkdir()
    program = programs / "ssh"
    program.write_text(_SSH.replace("{log}", str(log)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    return log
