"""Processes that are started again when they end, by whoever is process 1 of a namespace or stands beside it."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster.layout import CONTROL_IP, Layout, Node
from tests.cluster.standin import StandIn, stand_ins

_PAUSE_S = 1.0
_LOOK_S = 0.1
_REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True, eq=False)
class Service:
    """A process to keep running."""

    name: str
    argv: Sequence[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    needs: Path | None = None
    """A file to wait for before each start."""


def keep_running(services: Sequence[Service]) -> None:
    """Start them and start them again, for ever; reap whatever else ends."""
    running: dict[int, Service] = {}
    due = dict.fromkeys(services, 0.0)
    while True:
        for service, when in list(due.items()):
            if when <= time.monotonic() and (service.needs is None or service.needs.exists()):
                running[_start(service)] = service
                del due[service]
        pid, _ = _ended()
        ended = running.pop(pid, None)
        if ended is not None:
            due[ended] = time.monotonic() + _PAUSE_S
        if not pid:
            time.sleep(_LOOK_S)


def stand_in_services(layout: Layout, node: Node | None) -> list[Service]:
    """Return the stand-ins' processes for a node, or for the control plane."""
    return [
        _stand_in(layout, stand_in, node)
        for stand_in in stand_ins()
        if (stand_in.node_process if node else stand_in.control_process)
    ]


def _stand_in(layout: Layout, stand_in: StandIn, node: Node | None) -> Service:
    directory = Path("/run/stand-ins") / stand_in.name
    directory.mkdir(parents=True, exist_ok=True)
    environment = {
        "KUBECONFIG": str(layout.inner_kubeconfig),
        "CONTROL_IP": CONTROL_IP,
        "STANDIN_DIR": str(directory),
        "PYTHONPATH": str(_REPOSITORY),
        **({"NODE_NAME": node.name, "NODE_IP": node.address} if node else {}),
        **stand_in.environment,
    }
    where = node.name if node else "control"
    argv = stand_in.node_process if node else stand_in.control_process
    return Service(stand_in.name, argv, layout.logs / f"{where}.standin-{stand_in.name}.log", environment)


def _start(service: Service) -> int:
    with service.log.open("ab") as output:
        process = subprocess.Popen(
            service.argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **service.environment},
            start_new_session=True,
        )
    # Its end is seen by our own wait, not by Popen's.
    process.returncode = 0
    return process.pid


def _ended() -> tuple[int, int]:
    try:
        return os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return 0, 0


if __name__ == "__main__":
    keep_running(stand_in_services(Layout(Path(sys.argv[1])), None))
