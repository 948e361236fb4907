"""A cluster to measure on: the fake API with everything behind it, and guests on a network that never loses a probe.

with Lab(tmp_path) as lab:
    [result] = lab.measured("linux-bridge.from-static-node.static.ipv4")

A guest's ping and observer are scripts. Ping's stamps are ideal, so a busy machine makes no outage; while `lab.cut()`
lasts, no probe is answered.
"""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

import pytest
import structlog

from stuntime import guest, prober
from stuntime.kubevirt import api as api_module
from stuntime.kubevirt import console, leases, migration, preflight, vms
from stuntime.kubevirt import networks as networks_module
from stuntime.kubevirt.api import Api
from stuntime.kubevirt.diagnostics import diagnose
from stuntime.kubevirt.kinds import LEASE, OURS, POD, SECRET, Object, selector
from stuntime.kubevirt.settings import Guest as GuestSettings
from stuntime.kubevirt.settings import Settings
from stuntime.kubevirt.testbed import KubevirtTestbed
from stuntime.kubevirt.window import LINE, NAME
from stuntime.measure import Options
from stuntime.result import Result
from stuntime.scenario import Scenario
from stuntime.store import OutputDirectory, Plan
from stuntime.suite import run_plan
from tests.unit.kubeapi.guest import PROGRAMS
from tests.unit.kubeapi.kubevirt import FakeKubeVirt, Times
from tests.unit.kubeapi.networks import FakeNMState, FakeOVN
from tests.unit.kubeapi.server import FakeServer
from tests.unit.kubeapi.store import Change, Selector

RUN = "20261124T220000Z-ab12"
SCENARIO = "linux-bridge.from-static-node.static.ipv4"
OPTIONS = Options(interval_s=0.01, recovery_probes=10, recovery_timeout_s=2.0, migration_timeout_s=5.0)

# Times are in microseconds, and a reply takes 500 of them. The wire is a file per direction that both guests see.
_PING = r"""exec bash -c '
now() { now=${EPOCHREALTIME/./}; }
stamp() { printf "[%s.%s] " "${1%??????}" "${1: -6}"; }
[ "$1" != -V ] || { echo "ping from iputils 20221126"; exit; }
host=${@: -1} interval=1 count=
while [ $# -gt 1 ]; do
    case $1 in -i) interval=$2; shift ;; -c) count=$2; shift ;; -W) shift ;; esac
    shift
done
[ "$host" = 127.0.0.1 ] || [ ! -e "$HOME/../cut" ] || [ -z "$count" ] || exit 1
if [ -n "$count" ]; then
    now; stamp "$now"; echo "64 bytes from $host: icmp_seq=1 ttl=64 time=0.030 ms"
    exit
fi
for address in $(cat "$HOME/addresses"); do
    case $host/$address in *:*/*:* | *.*/*.*) own=${address%/*} ;; esac
done
trap "exit 0" INT
exec 3<> <(:)
printf -v step "%.0f" "${interval}e6"
echo "PING $host ($host) 56(84) bytes of data."
now; due=$now seq=1 missed=
while :; do
    now
    while [ "$due" -le "$now" ]; do
        [ -z "$missed" ] || { stamp "$due"; echo "no answer yet for icmp_seq=$missed"; missed=; }
        if [ -e "$HOME/../cut" ]; then
            missed=$seq
        else
            echo "$due $seq $$" >> "$HOME/../wire.$own.$host"
            stamp $((due + 500)); echo "64 bytes from $host: icmp_seq=$seq ttl=64 time=0.500 ms"
        fi
        seq=$((seq + 1)) due=$((due + step))
    done
    read -rt 0.01 -u 3
done
' ping "$@"
"""
_OBSERVER = r"""exec bash -c '
peer=$2 log=$3 begun=${EPOCHREALTIME/./} ended=
for address in $(cat "$HOME/addresses"); do
    case $peer/$address in *:*/*:* | *.*/*.*) own=${address%/*} ;; esac
done
trap "ended=yes" INT TERM
exec 3<> <(:)
echo "stuntime-observer 1 $peer" > "$log"
while [ -z "$ended" ]; do read -rt 0.05 -u 3; done
noted() {
    [ ! -e "$3" ] || while read -r at seq ident; do
        [ "$at" -lt "$begun" ] || { at=$((at + $2)); echo "$1 ${at%??????}.${at: -6} $seq $ident"; }
    done < "$3"
}
{
    noted request 0 "$HOME/../wire.$peer.$own"
    noted reply 500 "$HOME/../wire.$own.$peer"
    echo "end $EPOCHREALTIME 0"
} >> "$log"
' python3 "$@"
"""
_IP = 'if [ "$1" = neigh ]; then [ ! -s "$HOME/neigh" ] || echo "$3 dev eth0 lladdr $(cat "$HOME/neigh")"; exit 0; fi\n'
GUEST_PROGRAMS = {"ping": _PING, "python3": _OBSERVER, "ip": _IP + PROGRAMS["ip"]}


@dataclass
class _Hook:
    event: str
    told: Mapping[str, Any]
    action: Callable[[], object]


@dataclass
class Heard:
    """What was logged, and what is to be done when something is."""

    events: list[dict[str, Any]] = field(default_factory=list)
    hooks: list[_Hook] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, _: Any, level: str, event: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            self.events.append({**event, "level": level})
            named = [one for one in self.hooks if one.event == event["event"]]
            met = next((one for one in named if one.told.items() <= event.items()), None)
            if met is not None:
                self.hooks.remove(met)
        if met is not None:
            met.action()
        raise structlog.DropEvent


def hurry(patch: pytest.MonkeyPatch) -> None:
    """Scale the waits of the product: what takes a cluster seconds takes the fake tens of milliseconds."""
    for module, name, seconds in (
        (api_module, "_PAUSE_S", 0.02),
        (api_module, "_LONGEST_PAUSE_S", 0.1),
        (console, "_AGAIN_S", 0.05),
        (guest, "_SYNC_S", 0.5),
        (leases, "_PAUSE_S", 0.01),
        (networks_module, "_PAUSE_S", 0.02),
        (migration, "_BELATED_S", 1.0),
        (prober, "_ANSWERING_S", 0.5),
        (vms, "_ADDRESSES_S", 1),
    ):
        patch.setattr(module, name, seconds)


class Lab:
    """A fake cluster of three nodes with two NICs, and the product's testbed on it."""

    def __init__(
        self,
        folder: Path,
        *,
        nodes: Sequence[str] = ("node-a", "node-b", "node-c"),
        programs: Mapping[str, str] | None = None,
        times: Times | None = None,
        patience_s: float = 10.0,
        version: str = "v1.7.0",
    ) -> None:
        self.folder = folder
        self.server = FakeServer(namespaces=("ns", "stuntime"))
        self.server.add_nodes(*nodes)
        self.kubevirt = FakeKubeVirt(
            self.server,
            self.guests,
            times=times or Times(boot_s=0.02, step_s=0.01, move_s=0.05, delete_s=0.01, belated_s=0.2),
            programs={**GUEST_PROGRAMS, **(programs or {})},
            login=self._password,
            version=version,
        )
        self.nmstate = FakeNMState(self.server, step_s=0.001)
        self.ovn = FakeOVN(self.server, step_s=0.001)
        self.heard = Heard()
        self.api = self.server.api("ns", patience_s=patience_s)
        self.settings = Settings(run=RUN, guest=GuestSettings(image="guest", boot="kernel"), boot_timeout_s=20)
        self.results: list[Result] = []
        self._held = ExitStack()
        self.when_done: Callable[[Result], object] = lambda _: None
        self.pulls = {"state": {"terminated": {"reason": "StartError"}}}
        self.server.store.listeners.append(self._kubelet)
        self._threads = set(threading.enumerate())
        self._seeded: set[str] = set()
        self._seeded.update(self.left())

    @property
    def guests(self) -> Path:
        return self.folder / "guests"

    def __enter__(self) -> Self:
        """Listen to what is logged."""
        for name, module in list(sys.modules.items()):
            for log in ("log", "_log"):
                if name.startswith("stuntime.") and hasattr(module, log):
                    # A command line run in this process before has bound it to its own configuration for good.
                    vars(getattr(module, log)).pop("bind", None)
        structlog.reset_defaults()
        structlog.configure(processors=[self.heard])
        return self

    def __exit__(self, *_: object) -> None:
        """End all of it."""
        self._held.close()
        self.api.stop()
        self.server.close()
        structlog.reset_defaults()

    def enter(self, *contexts: AbstractContextManager[Any]) -> Any:
        """Enter contexts, which end with the lab; return what the last one holds."""
        return [self._held.enter_context(context) for context in contexts][-1]

    def at(self, event: str, action: Callable[[], object], **told: Any) -> None:
        """Do something once when this is logged, in the thread that logs it."""
        self.heard.hooks.append(_Hook(event, told, action))

    def said(self, event: str) -> list[dict[str, Any]]:
        """Return what was logged under this name."""
        return [one for one in self.heard.events if one["event"] == event]

    @contextmanager
    def cut(self) -> Iterator[None]:
        """Let no probe come through."""
        (self.guests / "cut").touch()
        try:
            yield
        finally:
            (self.guests / "cut").unlink()

    def vm(self, role: str = "migrated", number: int = 0, run: str = RUN) -> str:
        """Return the name of a scenario's VM."""
        return f"stuntime-{run.lower()}-{number:02}-{role}"

    @contextmanager
    def testbed(self, *networks: str, api: Api | None = None) -> Iterator[KubevirtTestbed]:
        """Hold the testbed, set up as the command line does it."""
        api = api or self.api
        wanted = networks or ("linux-bridge", "ovn-localnet")
        paths = ("from-static-node", "between-other-nodes", "to-static-node")
        found = preflight.examine(api, self.settings, wanted, paths, pull=False, owned=True).require()
        assert found.cluster is not None
        explain = partial(diagnose, api, kubeconfig=None, context=None)
        testbed = KubevirtTestbed(api, self.settings, found.cluster, tuple(found.nodes), found.nic, explain)
        with testbed.opened():
            yield testbed

    def output(self, *scenarios: str, repeat: int = 1) -> OutputDirectory:
        """Return a new output directory."""
        plan = Plan(
            run=self.settings.run,
            tool_version="0",
            testbed="kubevirt",
            started="2026-11-24T22:00:00+00:00",
            scenarios=scenarios or (SCENARIO,),
            repeat=repeat,
            interval_s=OPTIONS.interval_s,
            recovery_probes=OPTIONS.recovery_probes,
            recovery_timeout_s=OPTIONS.recovery_timeout_s,
            migrate=True,
            capture=False,
        )
        return OutputDirectory.create(self.folder / f"out-{time.monotonic_ns()}", plan)

    def measured(
        self, *scenarios: str, repeat: int = 1, options: Options = OPTIONS, together: int | None = None
    ) -> list[Result]:
        """Return the results of a run of these scenarios, in the order in which they came."""
        output = self.output(*scenarios, repeat=repeat)
        networks = dict.fromkeys(Scenario.parse(scenario).network for scenario in output.plan.scenarios)
        with self.testbed(*networks) as testbed:
            self.run(testbed, output, options=options, together=together)
        return self.results

    def run(
        self,
        testbed: KubevirtTestbed,
        output: OutputDirectory,
        *,
        options: Options = OPTIONS,
        together: int | None = None,
    ) -> None:
        """Run a plan; `results` has what came of it."""
        run_plan(testbed, output, options, self.progress, together=together or len(output.plan.scenarios))

    def progress(self, _: Scenario, __: int, result: Result | None) -> None:
        if result is not None:
            self.results.append(result)
            self.when_done(result)

    def evidence(self, result: Result) -> set[str]:
        """Return the names of the evidence of a result."""
        return {Path(one.file).name for one in result.evidence}

    def left(self) -> list[str]:
        """Return what is left of ours on the cluster: objects, and entries of the window's line."""
        found = []
        for kind in self.server.kinds.values():
            for one in self.server.store.find(Selector(kind, None, selector(OURS)))[0]:
                line = json.loads((one["metadata"].get("annotations") or {}).get(LINE, "[]"))
                line = [entry for entry in line if not entry["who"].startswith("tear-down of")]  # it ages away
                if kind != LEASE or one["metadata"]["name"] != NAME or line:
                    found.append(f"{kind.name} {one['metadata']['name']} {line or ''}".strip())
        return [one for one in found if one not in self._seeded]

    def require_left(self, *expected: str) -> None:
        """Fail unless this and nothing else is left on the cluster, now or in a moment: what is owned goes later."""
        deadline = time.monotonic() + 3
        while (left := self.left()) != list(expected) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert left == list(expected)

    def require_nothing_left(self, but: str = "-") -> None:
        """Fail when something is left on the cluster, now or in a moment, or a thread of the product lives on."""
        deadline = time.monotonic() + 3
        while left := [one for one in [*self.left(), *self.threads()] if not one.startswith(but)]:
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
        assert not left, left

    def threads(self) -> list[str]:
        """Return the threads that the product has, once it is told to stop."""
        self.api.stop()
        own = ("serving", "accepting", "controllers", "guest ")
        now = set(threading.enumerate()) - self._threads
        return [one.name for one in now if one.is_alive() and not one.name.startswith(own)]

    def _kubelet(self, change: Change) -> None:
        """Say of the preflight's pod what became of its image, a moment after it is made."""
        if change.kind == POD and change.type == "ADDED" and change.after["metadata"]["name"].endswith("-pull"):
            status = {"phase": "Pending", "containerStatuses": [self.pulls]}
            self.server.worker.later(
                0.02, lambda: self.server.store.edit(POD, change.after, lambda one: one.update(status=status))
            )

    def _password(self, vmi: Object) -> str | None:
        """Return what the secret that a VM refers to says of root's password."""
        for volume in vmi["spec"].get("volumes") or ():
            secret = (volume.get("cloudInitNoCloud") or {}).get("secretRef")
            if secret:
                found = self.server.store.get(SECRET, vmi["metadata"]["namespace"], secret["name"])
                assert found is not None
                told = json.loads(found["stringData"]["userdata"].removeprefix("#cloud-config\n"))
                return str(told["chpasswd"]["users"][0]["password"])
        return None
