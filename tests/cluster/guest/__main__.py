"""`python -m tests.cluster.guest build` makes the image, if it is not there, and says where it is."""

import argparse
import sys

from stuntime.errors import StuntimeError
from tests.cluster.guest.build import MEMORY_MIB, debian_guest
from tests.cluster.say import say


def main() -> int:
    """Build the guest; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.guest")
    parser.add_argument("command", choices=["build"])
    parser.parse_args()
    try:
        guest = debian_guest()
    except StuntimeError as error:
        say(str(error))
        return error.exit_code
    say(f"archive {guest.archive}")
    say(f"image   {guest.image}")
    say(f"disk    {guest.disk}")
    say(f"memory  {MEMORY_MIB} MiB")
    return 0


sys.exit(main())
