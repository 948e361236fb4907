"""The network `ovn-localnet`: a real OVN whose logical switch reaches the nodes' NICs by a localnet port."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import structlog

from stuntime.errors import TestbedError
from stuntime.sandbox.network import Network, Port
from stuntime.sandbox.nodes import FABRIC, NIC, NODES, Node, Place
from stuntime.sandbox.process import Process, run
from stuntime.waiting import wait_until

_log = structlog.get_logger()

_SWITCH = "localnet"
_SB_PORT = 6642
_SCHEMA_OVS = "/usr/share/openvswitch/vswitch.ovsschema"
_SCHEMA_OVN = "/usr/share/ovn/ovn-{}.ovsschema"
_ANSWER_S = 15


class OvnLocalnet(Network):
    """One logical port per instance, as OVN-Kubernetes has one per pod."""

    name = "ovn-localnet"

    def __init__(self) -> None:
        self._daemons: list[Process] = []
        self.datapath = "kernel" if _kernel_datapath() else "netdev"
        tell = _log.info if self.datapath == "kernel" else _log.warning
        tell("sandbox.datapath", network=self.name, datapath=self.datapath)

    @contextmanager
    def up(self) -> Iterator[None]:
        """Hold OVN up: the databases and northd in the fabric's namespace, a switch and a controller on every node."""
        with ExitStack() as daemons:
            self._start_databases(daemons)
            for node in NODES:
                self._start_switch(node, daemons)
            for node in NODES:
                self._configure_switch(node)
                self._start(daemons, node, "ovn-controller", [f"unix:{node.directory}/db.sock"])
            self._nbctl(
                "ls-add", _SWITCH,
                "--", "lsp-add", _SWITCH, "uplink",
                "--", "lsp-set-type", "uplink", "localnet",
                "--", "lsp-set-addresses", "uplink", "unknown",
                "--", "lsp-set-options", "uplink", "network_name=physnet",
            )  # fmt: skip
            yield
        self._daemons.clear()
        for place in (FABRIC, *NODES):
            for database in place.directory.glob("*.db"):
                database.unlink()

    def connect(self, port: Port, *, waiting: bool) -> None:
        """Make a logical port and bind it to the TAP. A waiting one is disabled and has no address yet."""
        super().connect(port, waiting=waiting)
        self._nbctl("lsp-add", _SWITCH, port.name, "--", *(_disabled(port) if waiting else _enabled(port)))
        self._vsctl(
            port.node, "add-port", "br-int", port.tap,
            "--", "set", "Interface", port.tap, f"external-ids:iface-id={port.name}",
        )  # fmt: skip
        self._nbctl("wait-until", "Logical_Switch_Port", port.name, "up=true")

    def hand_over(self, source: Port, target: Port) -> None:
        """Enable the target, then disable the source and take its address away, in one transaction.

        OVN-Kubernetes does this when the target's pod tells that its domain is ready. Until then the source alone has
        the address: a disabled port that has one drops what is sent to it, wherever else the address is.
        """
        self._nbctl(*_enabled(target), "--", *_disabled(source))

    def give_back(self, source: Port, target: Port) -> None:
        """Disable the target and see to it that the source is enabled."""
        self._nbctl(*_disabled(target), "--", *_enabled(source))

    def disconnect(self, port: Port) -> None:
        """Remove the port everywhere."""
        self._vsctl(port.node, "--if-exists", "del-port", "br-int", port.tap)
        self._nbctl("--if-exists", "lsp-del", port.name)
        super().disconnect(port)

    def facts(self) -> Mapping[str, str]:
        """Return kind, datapath and hand-over."""
        return {"kind": self.name, "datapath": self.datapath, "handover": "port-per-instance"}

    def diagnose(self, directory: Path) -> None:
        """Write the logical network and the flows of every node."""
        (directory / "ovn-nb.txt").write_text(self._nbctl("show"))
        for node in NODES:
            for switch in ("br-int", "br-loc"):
                flows = run(["ovs-ofctl", "dump-flows", f"unix:{node.directory}/{switch}.mgmt"])
                (directory / f"{node.name}-{switch}-flows.txt").write_text(flows)

    def _start_databases(self, daemons: ExitStack) -> None:
        home = FABRIC.directory
        for short, remotes in (("nb", []), ("sb", [f"--remote=ptcp:{_SB_PORT}:{FABRIC.address}"])):
            database = _database(home / f"{short}.db", _SCHEMA_OVN.format(short))
            socket = home / f"{short}.sock"
            self._start(daemons, FABRIC, "ovsdb-server", [database, f"--remote=punix:{socket}", *remotes], short)
            _wait_for(socket)
        self._start(
            daemons, FABRIC, "ovn-northd", [f"--ovnnb-db=unix:{home}/nb.sock", f"--ovnsb-db=unix:{home}/sb.sock"]
        )

    def _start_switch(self, node: Node, daemons: ExitStack) -> None:
        database = _database(node.directory / "conf.db", _SCHEMA_OVS)
        socket = node.directory / "db.sock"
        self._start(daemons, node, "ovsdb-server", [database, f"--remote=punix:{socket}"])
        _wait_for(socket)
        self._vsctl(
            node, "--no-wait", "init", "--", "set", "Open_vSwitch", ".",
            "other_config:n-handler-threads=1", "other_config:n-revalidator-threads=1",
            f"external-ids:system-id={node.name}", f"external-ids:hostname={node.name}",
            f'external-ids:ovn-remote="tcp:{FABRIC.address}:{_SB_PORT}"',
            "external-ids:ovn-encap-type=geneve", f"external-ids:ovn-encap-ip={node.address}",
            "external-ids:ovn-bridge-mappings=physnet:br-loc",
            f"external-ids:ovn-bridge-datapath-type={self._datapath_type}",
        )  # fmt: skip
        self._start(daemons, node, "ovs-vswitchd", [f"unix:{socket}"])

    def _configure_switch(self, node: Node) -> None:
        datapath = f"datapath_type={self._datapath_type}"
        self._vsctl(
            node, "add-br", "br-int", "--", "set", "Bridge", "br-int", datapath, "fail-mode=secure",
            "--", "add-br", "br-loc", "--", "set", "Bridge", "br-loc", datapath,
            "--", "add-port", "br-loc", NIC,
        )  # fmt: skip

    @property
    def _datapath_type(self) -> str:
        return "system" if self.datapath == "kernel" else self.datapath

    def _start(self, daemons: ExitStack, place: Place, program: str, arguments: list[str], suffix: str = "") -> None:
        home = place.directory
        name = f"{program}-{suffix}" if suffix else program
        # ovn-controller alone knows no --unixctl: it makes its control socket in the run directory.
        control = [] if program == "ovn-controller" else [f"--unixctl={home}/{name}.ctl"]
        directories = ("OVS_RUNDIR", "OVN_RUNDIR", "OVS_LOGDIR", "OVN_LOGDIR", "OVS_DBDIR", "OVN_DBDIR")
        daemon = Process(
            f"{name} on {place.name}",
            place.inside([program, *arguments, *control]),
            home / f"{name}.log",
            environment={**os.environ, **dict.fromkeys(directories, str(home))},
        )
        daemons.callback(daemon.stop)
        self._daemons.append(daemon)

    def _nbctl(self, *arguments: str) -> str:
        return self._control("ovn-nbctl", FABRIC.directory / "nb.sock", arguments)

    def _vsctl(self, node: Node, *arguments: str) -> str:
        return self._control("ovs-vsctl", node.directory / "db.sock", arguments)

    def _control(self, tool: str, socket: Path, arguments: Sequence[str]) -> str:
        try:
            return run([tool, f"--db=unix:{socket}", f"--timeout={_ANSWER_S}", *arguments])
        except TestbedError as error:
            ended = [daemon for daemon in self._daemons if not daemon.running()]
            if not ended:
                raise
            words = "; ".join(f"{daemon.name} has ended: {daemon.last_words()}" for daemon in ended)
            raise TestbedError(words, "run `make install`; the versions it brings are known to work") from error


def _enabled(port: Port) -> list[str]:
    return [
        "lsp-set-enabled", port.name, "enabled",
        "--", "lsp-set-addresses", port.name, port.mac,
    ]  # fmt: skip


def _disabled(port: Port) -> list[str]:
    return ["lsp-set-enabled", port.name, "disabled", "--", "lsp-set-addresses", port.name]


def _database(path: Path, schema: str) -> str:
    run(["ovsdb-tool", "create", str(path), schema])
    return str(path)


def _wait_for(socket: Path) -> None:
    wait_until(socket.exists, timeout_s=_ANSWER_S, what=str(socket))


def _kernel_datapath() -> bool:
    module = Path("/sys/module/openvswitch")
    if not module.exists():
        try:
            run(["modprobe", "-q", "openvswitch"])
        except TestbedError:
            return False
    return module.exists()
