"""What can go wrong between a client and its API server, switched on by a test for the requests it names."""

import threading
from dataclasses import dataclass
from fnmatch import fnmatchcase

#: (verb, resource) with wildcards: ("WATCH", "virtualmachines.kubevirt.io"), ("*", "*").
Matching = tuple[str, str]
ANYTHING: Matching = ("*", "*")


@dataclass
class Fault:
    """One kind of trouble; `times` counts down, None lasts until `Faults.heal`."""

    action: str
    matching: Matching
    times: int | None
    status: int = 0
    message: str = ""
    seconds: float = 0.0


class Faults:
    """The troubles that are switched on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._on: list[Fault] = []

    def add(self, fault: Fault) -> None:
        with self._lock:
            self._on.append(fault)

    def heal(self) -> None:
        """Switch all of them off."""
        with self._lock:
            self._on.clear()

    def take(self, action: str, verb: str, resource: str) -> Fault | None:
        """Return the trouble that this request meets, and count it."""
        with self._lock:
            for fault in self._on:
                wanted_verb, wanted_resource = fault.matching
                if fault.action == action and fnmatchcase(verb, wanted_verb) and fnmatchcase(resource, wanted_resource):
                    if fault.times is not None:
                        fault.times -= 1
                        if fault.times <= 0:
                            self._on.remove(fault)
                    return fault
        return None
