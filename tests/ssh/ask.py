"""The command of the platform of others (see `platform`): `ask.py where`, `ask.py migrate NODE`.

`ask.py cut` ends all connections of ssh to the migrated VM.
"""

import socket
import sys

SOCKET = "/run/stuntime/platform"


def main() -> int:
    """Ask, print the answer, and return the status that it has."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(SOCKET)
        connection.sendall((" ".join(sys.argv[1:]) + "\n").encode())
        answer = connection.makefile().read()
    status, _, said = answer.partition(" ")
    sys.stdout.write(said)
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
