"""Waiting with a deadline for what tells nobody when it comes (a socket that appears, a peer that answers)."""

import time
from collections.abc import Callable

from stuntime.errors import TestbedError


def wait_until(condition: Callable[[], bool], *, timeout_s: float, what: str, step_s: float = 0.02) -> None:
    """Ask until the condition holds, a step between; raise TestbedError after the deadline."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TestbedError(f"{what} did not come within {timeout_s:g} s", "look at the logs among the evidence")
        time.sleep(step_s)
