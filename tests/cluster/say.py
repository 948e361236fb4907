"""What the cluster tells the person who waits for it."""

import time

_STARTED = time.monotonic()


def say(text: str) -> None:
    """Print one line with the seconds since the start."""
    print(f"{time.monotonic() - _STARTED:6.1f} s  {text}", flush=True)  # noqa: T201 - this is its terminal
