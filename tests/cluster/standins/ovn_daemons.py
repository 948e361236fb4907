"""Real Open vSwitch and OVN: the databases and northd beside the control plane, a switch and a controller per node."""

import os
import time
from collections.abc import Iterable
from pathlib import Path

import structlog

from stuntime.sandbox.process import Process, run
from stuntime.waiting import wait_until

_log = structlog.get_logger()

DATAPATH = "netdev"
"""The user-space datapath, which every kernel can."""

SWITCH = Path("/run/openvswitch")
"""Where the tools look for a node's switch; each node has a /run of its own."""

_SB_PORT = 6642
_ANSWER_S = 30
_LOOK_S = 1.0
_SCHEMAS = {"conf": "openvswitch/vswitch", "nb": "ovn/ovn-nb", "sb": "ovn/ovn-sb"}


class Daemons:
    """Daemons in one directory, which end with the process that started them."""

    def __init__(self, directory: Path) -> None:
        """Make the directory."""
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._running: list[Process] = []

    def start(self, program: str, *arguments: str, name: str | None = None) -> None:
        """Start a daemon."""
        name = name or program
        # ovn-controller alone knows no --unixctl: it makes its control socket in the run directory.
        control = [] if program == "ovn-controller" else [f"--unixctl={self.directory}/{name}.ctl"]
        kinds = ("OVS_RUNDIR", "OVN_RUNDIR", "OVS_LOGDIR", "OVN_LOGDIR", "OVS_DBDIR", "OVN_DBDIR")
        daemon = Process(
            name,
            ["setpriv", "--pdeathsig", "KILL", program, *arguments, *control],
            self.directory / f"{name}.log",
            environment={**os.environ, **dict.fromkeys(kinds, str(self.directory))},
        )
        self._running.append(daemon)

    def start_database(self, short: str, remotes: Iterable[str] = ()) -> Path:
        """Start the server of a database, made if it is not there, and return its socket."""
        database, socket = self.directory / f"{short}.db", self.directory / f"{short}.sock"
        if not database.exists():
            run(["ovsdb-tool", "create", str(database), f"/usr/share/{_SCHEMAS[short]}.ovsschema"])
        socket.unlink(missing_ok=True)
        self.start("ovsdb-server", str(database), f"--remote=punix:{socket}", *remotes, name=f"ovsdb-server-{short}")
        wait_until(socket.exists, timeout_s=_ANSWER_S, what=str(socket))
        return socket

    def watch(self) -> None:
        """Wait until one of them ends, and end this process: its successor starts them all again."""
        while all(daemon.running() for daemon in self._running):
            time.sleep(_LOOK_S)
        for daemon in self._running:
            if not daemon.running():
                _log.error("daemon.ended", name=daemon.name, said=daemon.last_words())
        os._exit(1)


def start_central(directory: Path, address: str) -> tuple[Daemons, Path]:
    """Start the databases and northd; return them and the northbound database's socket."""
    daemons = Daemons(directory)
    northbound = daemons.start_database("nb")
    southbound = daemons.start_database("sb", [f"--remote=ptcp:{_SB_PORT}:{address}"])
    daemons.start("ovn-northd", f"--ovnnb-db=unix:{northbound}", f"--ovnsb-db=unix:{southbound}")
    return daemons, northbound


def start_node(name: str, address: str, control: str) -> Daemons:
    """Start a node's switch and its controller."""
    daemons = Daemons(SWITCH)
    database = daemons.start_database("conf")
    tools = SWITCH / "db.sock"
    tools.unlink(missing_ok=True)
    tools.symlink_to(database)
    run(
        [
            "ovs-vsctl", "--no-wait", "init", "--", "set", "Open_vSwitch", ".",
            "other_config:n-handler-threads=1", "other_config:n-revalidator-threads=1",
            f"external-ids:system-id={name}", f"external-ids:hostname={name}",
            f'external-ids:ovn-remote="tcp:{control}:{_SB_PORT}"',
            "external-ids:ovn-encap-type=geneve", f"external-ids:ovn-encap-ip={address}",
            f"external-ids:ovn-bridge-datapath-type={DATAPATH}",
        ]
    )  # fmt: skip
    daemons.start("ovs-vswitchd", f"unix:{database}")
    run(
        [
            "ovs-vsctl", "--may-exist", "add-br", "br-int",
            "--", "set", "Bridge", "br-int", f"datapath_type={DATAPATH}", "fail-mode=secure",
        ]
    )  # fmt: skip
    daemons.start("ovn-controller", f"unix:{database}")
    return daemons


if __name__ == "__main__":
    start_node(os.environ["NODE_NAME"], os.environ["NODE_IP"], os.environ["CONTROL_IP"]).watch()
