"""One thread that does everything controllers do, in order of time."""

import heapq
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count


class Worker:
    """Work that is due now or later. What it raises is kept, and raised by `close`."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = count()
        self._changed = threading.Condition()
        self._closed = False
        self._errors: list[Exception] = []
        self._thread = threading.Thread(target=self._run, daemon=True, name="controllers")
        self._thread.start()

    def later(self, seconds: float, work: Callable[[], None]) -> None:
        with self._changed:
            heapq.heappush(self._due, (time.monotonic() + seconds, next(self._serial), work))
            self._changed.notify()

    def play(self, steps: Iterator[float]) -> None:
        """Go through the steps of a generator that yields how long to pause before the next one."""

        def step() -> None:
            pause_s = next(steps, None)
            if pause_s is not None:
                self.later(pause_s, step)

        self.later(0, step)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout=10)
        if self._errors:
            raise self._errors[0]

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._closed and not (self._due and self._due[0][0] <= time.monotonic()):
                    self._changed.wait(self._due[0][0] - time.monotonic() if self._due else None)
                if self._closed:
                    return
                work = heapq.heappop(self._due)[2]
            try:
                work()
            except Exception as error:  # noqa: BLE001 - told by close
                self._errors.append(error)
