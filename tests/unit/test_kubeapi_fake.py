"""The fake API server itself: it must behave as the real one does, or what is tested with it means nothing."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import urllib3
from kubernetes.stream.ws_client import create_websocket
from websocket import ABNF, WebSocket, WebSocketBadStatusException, WebSocketException

from stuntime.kubevirt.api import Api, ApiError, ConflictError
from stuntime.kubevirt.kinds import (
    CONFIG_MAP,
    CUDN,
    KUBEVIRT,
    LEASE,
    NAD,
    NNCE,
    NNCP,
    NNS,
    NODE,
    POD,
    VM,
    VMI,
    VMIM,
    Kind,
    Object,
    condition,
)
from tests.unit.kubeapi.kubevirt import FakeKubeVirt, Times
from tests.unit.kubeapi.networks import FakeNMState, FakeOVN
from tests.unit.kubeapi.server import FakeServer
from tests.unit.kubeapi.store import RefusedError

_HOSTNAME = "kubernetes.io/hostname"
_PASSWORD = "secret"  # noqa: S105 - it opens a shell of this test


@pytest.fixture
def server():
    with FakeServer(namespaces=["ns", "other"]) as fake:
        fake.add_nodes("node-a", "node-b", "node-c")
        yield fake


@pytest.fixture
def api(server: FakeServer) -> Api:
    return server.api("ns")


@pytest.fixture
def kubevirt(server: FakeServer, tmp_path: Path) -> FakeKubeVirt:
    return FakeKubeVirt(server, tmp_path, password=_PASSWORD)


class Raw:
    """Requests without a client of ours between."""

    def __init__(self, server: FakeServer) -> None:
        self._pool = urllib3.PoolManager(retries=False)
        self._server = server
        server.on_close(self._pool.clear)

    def __call__(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Any:
        """Return status and answer."""
        headers = {"Authorization": f"Bearer {self._server.token}", "Content-Type": kind}
        content = None if body is None else json.dumps(body)
        found = self._pool.request(method, self._server.host + path, body=content, headers=headers)
        text = found.data.decode()
        return found.status, json.loads(text) if found.headers["Content-Type"] == "application/json" else text

    def watched(self, path: str) -> list[Any]:
        """Return the events of a watch, at its end."""
        headers = {"Authorization": f"Bearer {self._server.token}"}
        found = self._pool.request("GET", self._server.host + path, headers=headers)
        return [json.loads(line) for line in found.data.decode().splitlines()]


@pytest.fixture
def raw(server: FakeServer) -> Raw:
    return Raw(server)


_MAPS = "/api/v1/namespaces/ns/configmaps"


# The API.


def test_errors_are_status_objects(raw: Raw) -> None:
    """An error is a Status with message, reason and code; a path that is served by nobody is plain text."""
    status, told = raw("GET", f"{_MAPS}/none")
    assert (status, told["kind"], told["reason"], told["code"]) == (404, "Status", "NotFound", 404)
    assert told["message"] == 'configmaps "none" not found'
    assert raw("GET", "/apis/unknown.io/v1/things") == (404, "404 page not found\n")
    assert raw("POST", "/api/v1/namespaces/none/configmaps", CONFIG_MAP.object("x"))[0] == 404
    assert raw("PATCH", f"{_MAPS}/none", {}, "application/xml")[0] == 415
    assert raw("POST", _MAPS, CONFIG_MAP.object("No_Name"))[0] == 422
    assert raw("POST", _MAPS, CONFIG_MAP.object("x", labels={"a": "no value"}))[0] == 422
    assert raw("POST", _MAPS, {**CONFIG_MAP.object("x"), "kind": "Secret"})[0] == 400


def test_a_wrong_token_is_unauthorized(server: FakeServer, raw: Raw) -> None:
    """Who does not know the token is told 401."""
    server.token = "another"  # noqa: S105 - it opens nothing
    assert raw("GET", _MAPS)[0] == 200
    old, server.token = server.api("ns"), "a third"
    with pytest.raises(ApiError, match="Unauthorized"):
        old.find(CONFIG_MAP)


def test_metadata_is_the_servers(raw: Raw) -> None:
    """uid, resourceVersion, creationTimestamp and generation are given, and what a client says of them is ignored."""
    body = NNCP.object("policy", spec={"a": 1}, status={"b": 2})
    body["metadata"] |= {"uid": "mine", "generation": 9}
    path = "/apis/nmstate.io/v1/nodenetworkconfigurationpolicies"
    status, made = raw("POST", path, body)
    assert (status, made["metadata"]["generation"], "status" in made) == (201, 1, False)
    assert made["metadata"]["uid"] != "mine"
    merge = "application/merge-patch+json"
    changed = raw("PATCH", f"{path}/policy", {"spec": {"a": 2}, "status": {"c": 3}}, merge)[1]
    assert (changed["metadata"]["generation"], "status" in changed) == (2, False)
    told = raw("PATCH", f"{path}/policy/status", {"spec": {"a": 7}, "status": {"c": 3}}, merge)[1]
    assert (told["metadata"]["generation"], told["status"], told["spec"]) == (2, {"c": 3}, {"a": 2})
    same = raw("PATCH", f"{path}/policy", {"spec": {"a": 2}}, merge)[1]
    assert same["metadata"]["resourceVersion"] == told["metadata"]["resourceVersion"]
    stale = {**made, "spec": {"a": 3}}
    assert raw("PUT", f"{path}/policy", stale)[1]["reason"] == "Conflict"
    stale["metadata"] = {"name": "policy"}
    assert raw("PUT", f"{path}/policy", stale)[0] == 422
    assert raw("POST", path, body)[1]["reason"] == "AlreadyExists"


def test_names_are_generated(raw: Raw) -> None:
    """An object with generateName gets a name of its own."""
    names = {raw("POST", _MAPS, {"metadata": {"generateName": "a-"}})[1]["metadata"]["name"] for _ in range(3)}
    assert len(names) == 3
    assert all(name.startswith("a-") for name in names)


def test_finalizers_hold_an_object(server: FakeServer, raw: Raw) -> None:
    """A deleted object with finalizers stays, marked, until they are gone."""
    made = CONFIG_MAP.object("held")
    made["metadata"]["finalizers"] = ["somebody.io/here"]
    raw("POST", _MAPS, made)
    assert raw("DELETE", f"{_MAPS}/held")[1]["metadata"]["deletionTimestamp"]
    assert raw("GET", f"{_MAPS}/held")[0] == 200
    raw("PATCH", f"{_MAPS}/held", {"metadata": {"finalizers": None}}, "application/merge-patch+json")
    assert raw("GET", f"{_MAPS}/held")[0] == 404


def test_what_is_owned_goes_with_its_owner(server: FakeServer, api: Api) -> None:
    """An object whose owners are all gone is collected."""
    owners = [api.create(CONFIG_MAP, CONFIG_MAP.object(name)) for name in ("one", "two")]
    refs = [{"kind": "ConfigMap", "name": one["metadata"]["name"], "uid": one["metadata"]["uid"]} for one in owners]
    api.create(LEASE, LEASE.object("owned", owners=refs, spec={}))
    api.delete(CONFIG_MAP, "one")
    time.sleep(0.05)
    assert api.get(LEASE, "owned")
    api.delete(CONFIG_MAP, "two")
    api.wait(LEASE, "owned", lambda found: found is None, timeout_s=5, what="its end")


def test_a_watch_tells_what_enters_and_leaves_its_selection(server: FakeServer, raw: Raw) -> None:
    """For a watch with a selector an object that gets the label is added, and one that loses it deleted."""
    version = int(raw("GET", _MAPS)[1]["metadata"]["resourceVersion"])
    store = server.store
    store.create(CONFIG_MAP, "ns", CONFIG_MAP.object("x"))
    store.merge(CONFIG_MAP, "ns", "x", {"metadata": {"labels": {"a": "b"}}})
    store.merge(CONFIG_MAP, "ns", "x", {"data": {"k": "v"}})
    store.merge(CONFIG_MAP, "ns", "x", {"metadata": {"labels": {"a": "c"}}})
    store.create(CONFIG_MAP, "other", CONFIG_MAP.object("x", labels={"a": "b"}))
    query = f"watch=true&resourceVersion={version}&timeoutSeconds=0.05&labelSelector=a%3Db&allowWatchBookmarks=true"
    events = raw.watched(f"{_MAPS}?{query}")
    assert [event["type"] for event in events] == ["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]
    versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in events]
    assert versions == sorted(versions)
    query = "watch=1&timeoutSeconds=0.05&labelSelector=a%3Db"
    assert [event["type"] for event in raw.watched(f"/api/v1/configmaps?{query}")] == ["ADDED"]
    server.compact()
    events = raw.watched(f"{_MAPS}?watch=true&resourceVersion={version}&timeoutSeconds=1")
    assert [(event["type"], event["object"]["code"]) for event in events] == [("ERROR", 410)]


def test_selectors_that_do_not_exist_are_refused(raw: Raw) -> None:
    """A field that cannot be selected by, and a selector that says nothing, are errors."""
    assert raw("GET", f"{_MAPS}?fieldSelector=data.k%3Dv")[0] == 400
    assert raw("GET", f"{_MAPS}?labelSelector=%3D%3D")[0] == 400
    assert raw("GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dnode-a")[0] == 200


def test_the_server_says_what_it_knows(server: FakeServer, raw: Raw) -> None:
    """Version, discovery and access reviews are answered; a kind that is taken away is not discovered."""
    assert raw("GET", "/version")[1]["gitVersion"].startswith("v1.")
    assert raw("GET", "/apis/k8s.ovn.org/v1")[1]["resources"][0]["kind"] == "ClusterUserDefinedNetwork"
    server.unknown(CUDN)
    assert raw("GET", "/apis/k8s.ovn.org/v1")[0] == 404
    assert raw("GET", "/apis/k8s.ovn.org/v1/clusteruserdefinednetworks")[0] == 404
    console = "virtualmachineinstances/console.subresources.kubevirt.io"
    server.forbid("get", console)
    asked = {"verb": "get", "group": "subresources.kubevirt.io", "resource": "virtualmachineinstances"}
    reviews = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    review = {"spec": {"resourceAttributes": {**asked, "subresource": "console"}}}
    assert raw("POST", reviews, review)[1]["status"]["allowed"] is False
    assert raw("POST", reviews, {"spec": {"resourceAttributes": asked}})[1]["status"]["allowed"] is True


def test_what_a_controller_raises_is_told() -> None:
    """A defect of a fake controller fails the test that uses it."""

    def broken() -> None:
        raise ZeroDivisionError

    server = FakeServer()
    server.worker.later(0, broken)
    time.sleep(0.05)
    with pytest.raises(ZeroDivisionError):
        server.close()


# VMs.


def _vm(name: str, node: str = "node-b", **spec: Any) -> Object:
    preference = {"matchExpressions": [{"key": _HOSTNAME, "operator": "In", "values": [node]}]}
    affinity = {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "preference": preference}]}
    interface = {"name": "measured", "bridge": {}, "macAddress": "02:00:00:00:00:01"}
    words = "quiet vm_name=x vm_ipv4=10.0.0.5/16 vm_ipv6=fd00::5/64"
    instance = {
        "affinity": {"nodeAffinity": affinity},
        "domain": {
            "devices": {"interfaces": [interface]},
            "firmware": {"kernelBoot": {"kernelArgs": words}},
        },
    }
    return VM.object(name, spec={"runStrategy": "Once", "template": {"spec": {**instance, **spec}}})


def _wait(api: Api, kind: Kind, name: str, holds: Callable[[Object], bool]) -> Object:
    found = api.wait(kind, name, lambda one: one is not None and holds(one), timeout_s=5, what=name)
    assert found is not None
    return found


def _running(api: Api, name: str = "vm", **spec: Any) -> Object:
    api.create(VM, _vm(name, **spec))
    return _wait(api, VMI, name, lambda one: one["status"].get("phase") == "Running")


def _migration(name: str = "move", node: str = "node-c", vm: str = "vm") -> Object:
    return VMIM.object(name, spec={"vmiName": vm, "addedNodeSelector": {_HOSTNAME: node}})


def _phase_is(phase: str) -> Callable[[Object], bool]:
    return lambda one: (one.get("status") or {}).get("phase") == phase


def _state(api: Api, vm: str = "vm") -> Object:
    return api.get(VMI, vm)["status"].get("migrationState") or {}


def test_a_vm_boots_where_it_would_like_to(api: Api, kubevirt: FakeKubeVirt) -> None:
    """A VM gets an instance that goes through the phases to its preferred node, with its NIC and a pod there."""
    vmi = _running(api)
    phases = [one["phase"] for one in vmi["status"]["phaseTransitionTimestamps"]]
    assert phases == ["Pending", "Scheduling", "Scheduled", "Running"]
    assert vmi["status"]["nodeName"] == "node-b"
    assert vmi["status"]["interfaces"][0]["mac"] == "02:00:00:00:00:01"
    [pod] = api.find(POD, labels="kubevirt.io=virt-launcher,vm.kubevirt.io/name=vm")
    assert (pod["spec"]["nodeName"], pod["status"]["phase"]) == ("node-b", "Running")
    _wait(api, VM, "vm", lambda one: one["status"]["printableStatus"] == "Running")
    assert api.get(KUBEVIRT, "kubevirt", "kubevirt")["status"]["observedKubeVirtVersion"] == "v1.7.0"


def test_a_vm_that_no_node_takes_says_so(api: Api, kubevirt: FakeKubeVirt) -> None:
    """A VM whose nodes are all closed stays Scheduling, with the scheduler's words, and boots when one opens."""
    api.create(VM, _vm("vm", nodeSelector={"zone": "x"}))
    _wait(api, VMI, "vm", lambda one: condition(one, "PodScheduled").get("status") == "False")
    assert api.get(VMI, "vm")["status"]["phase"] == "Scheduling"
    api.merge(NODE, "node-a", {"metadata": {"labels": {"zone": "x"}}})
    assert _wait(api, VMI, "vm", _phase_is("Running"))["status"]["nodeName"] == "node-a"


def test_a_vm_takes_its_instance_with_it(api: Api, kubevirt: FakeKubeVirt) -> None:
    """Deleting a VM ends its instance, its pod and every process of its guest, and then the VM is gone."""
    _running(api)
    guest = kubevirt.guest("vm")
    assert guest.processes()
    api.delete(VM, "vm")
    api.wait(VMI, "vm", lambda one: one is None, timeout_s=5, what="the end of the VMI")
    api.wait(VM, "vm", lambda one: one is None, timeout_s=5, what="the end of the VM")
    assert guest.processes() == []
    assert api.find(VM) == []


@pytest.mark.parametrize(("strategy", "again"), [("Once", False), ("Always", True)])
def test_a_crash_ends_an_instance(api: Api, kubevirt: FakeKubeVirt, strategy: str, *, again: bool) -> None:
    """A VM that crashes is Failed; whether it starts anew, as another instance, is its strategy's."""
    body = _vm("vm")
    body["spec"]["runStrategy"] = strategy
    api.create(VM, body)
    first = _wait(api, VMI, "vm", _phase_is("Running"))
    kubevirt.crash("vm")
    if again:
        second = _wait(
            api, VMI, "vm", lambda one: one["metadata"]["uid"] != first["metadata"]["uid"] and _phase_is("Running")(one)
        )
        assert second["status"]["nodeName"] == "node-b"
    else:
        _wait(api, VMI, "vm", _phase_is("Failed"))
        _wait(api, VM, "vm", lambda one: one["status"]["printableStatus"] == "Stopped")


# Migrations.


def test_a_migration_moves_a_vm(api: Api, kubevirt: FakeKubeVirt) -> None:
    """A migration goes through its phases, and VMI and VMIM say when, from where and to where, cut to seconds."""
    _running(api)
    uid = api.create(VMIM, _migration())["metadata"]["uid"]
    done = _wait(api, VMIM, "move", _phase_is("Succeeded"))
    phases = [one["phase"] for one in done["status"]["phaseTransitionTimestamps"]]
    assert phases == [
        "Pending",
        "Scheduling",
        "Scheduled",
        "PreparingTarget",
        "TargetReady",
        "Running",
        "Succeeded",
    ]
    state = _state(api)
    assert done["status"]["migrationState"] == state
    told = {key: state[key] for key in ("migrationUid", "sourceNode", "targetNode", "mode", "completed")}
    assert told == {
        "migrationUid": uid,
        "sourceNode": "node-b",
        "targetNode": "node-c",
        "mode": "PreCopy",
        "completed": True,
    }
    assert state["startTimestamp"] <= state["endTimestamp"]
    assert state["endTimestamp"].endswith("Z")
    assert len(state["endTimestamp"]) == len("2026-01-01T00:00:00Z")
    assert "failed" not in state
    assert api.get(VMI, "vm")["status"]["nodeName"] == "node-c"
    phases = {one["spec"]["nodeName"]: one["status"]["phase"] for one in api.find(POD)}
    assert phases == {"node-b": "Succeeded", "node-c": "Running"}
    [target] = api.find(POD, labels=f"kubevirt.io/migrationJobUID={uid}")
    assert target["metadata"]["name"] == state["targetPod"]


def test_a_second_migration_is_denied(api: Api, kubevirt: FakeKubeVirt) -> None:
    """One migration per VM at a time; of the finished ones the newest five are kept."""
    _running(api)
    api.create(VMIM, _migration())
    with pytest.raises(ApiError, match=r"denied the request: in-flight migration detected\. Active migration job"):
        api.create(VMIM, _migration("second"))
    _wait(api, VMIM, "move", _phase_is("Succeeded"))
    for number in range(5):
        api.create(VMIM, _migration(f"move-{number}", ("node-b", "node-c")[number % 2]))
        _wait(api, VMIM, f"move-{number}", _phase_is("Succeeded"))
    api.wait(VMIM, "move", lambda one: one is None, timeout_s=5, what="the end of the oldest")
    assert len(api.find(VMIM)) == 5
    with pytest.raises(ApiError, match="does not exist"):
        api.create(VMIM, _migration(vm="none"))


def test_an_aborted_migration(api: Api, kubevirt: FakeKubeVirt) -> None:
    """A VMIM deleted while it runs is gone soon; the VMI says aborted, failed, and not completed."""
    _running(api)
    kubevirt.next_migration("vm", "hangs")
    api.create(VMIM, _migration())
    _wait(api, VMIM, "move", _phase_is("Running"))
    api.delete(VMIM, "move", grace_s=None)
    api.wait(VMIM, "move", lambda one: one is None, timeout_s=5, what="the abort")
    state = _state(api)
    assert (state["abortRequested"], state["abortStatus"], state["failed"]) == (True, "Succeeded", True)
    assert state["failureReason"] == "Live migration aborted "
    assert state["endTimestamp"]
    assert "completed" not in state
    assert api.get(VMI, "vm")["status"]["nodeName"] == "node-b"
    api.create(VMIM, _migration("again"))
    _wait(api, VMIM, "again", _phase_is("Succeeded"))


def test_a_killed_target(api: Api, kubevirt: FakeKubeVirt) -> None:
    """A target that dies fails the migration, and the VM runs on where it was."""
    _running(api)
    kubevirt.next_migration("vm", "target-killed")
    api.create(VMIM, _migration())
    _wait(api, VMIM, "move", _phase_is("Failed"))
    state = _state(api)
    assert state["failed"]
    assert "client socket is closed" in state["failureReason"]
    assert "completed" not in state
    assert api.get(VMI, "vm")["status"]["nodeName"] == "node-b"


def test_a_contradictory_migration(api: Api, kubevirt: FakeKubeVirt) -> None:
    """The VMIM has failed, and a while later the VM has moved nevertheless."""
    _running(api)
    kubevirt.next_migration("vm", "contradictory")
    api.create(VMIM, _migration())
    _wait(api, VMIM, "move", _phase_is("Failed"))
    assert api.get(VMI, "vm")["status"]["nodeName"] == "node-b"
    moved = _wait(api, VMI, "vm", lambda one: one["status"].get("migrationState", {}).get("completed", False))
    assert moved["status"]["nodeName"] == "node-c"


def test_an_unschedulable_target(api: Api, kubevirt: FakeKubeVirt) -> None:
    """A target that no node takes waits in Scheduling, with a pod that says why; a VM's own pin is such a case."""
    _running(api, nodeSelector={_HOSTNAME: "node-b"})
    uid = api.create(VMIM, _migration())["metadata"]["uid"]
    _wait(api, VMIM, "move", _phase_is("Scheduling"))
    found = api.states(POD, time.monotonic() + 5, labels=f"kubevirt.io/migrationJobUID={uid}")
    assert any(condition(pod, "PodScheduled").get("status") == "False" for state in found for pod in state.values())
    assert api.get(VMIM, "move")["status"]["phase"] == "Scheduling"


def test_a_migration_that_goes_elsewhere(api: Api, kubevirt: FakeKubeVirt) -> None:
    """A migration may succeed and end on another node than it was sent to."""
    _running(api)
    kubevirt.next_migration("vm", "wrong-node")
    api.create(VMIM, _migration(node="node-c"))
    _wait(api, VMIM, "move", _phase_is("Succeeded"))
    assert api.get(VMI, "vm")["status"]["nodeName"] == "node-a"


# Consoles.


def _console(server: FakeServer, vm: str = "vm") -> WebSocket:
    url = server.host.replace("http", "ws") + (
        f"/apis/subresources.kubevirt.io/v1/namespaces/ns/virtualmachineinstances/{vm}/console"
    )
    headers = {"authorization": f"Bearer {server.token}", "sec-websocket-protocol": "plain.kubevirt.io"}
    opened = create_websocket(server.configuration(), url, headers)
    opened.settimeout(5)
    server.on_close(opened.shutdown)
    return opened


def _read(console: WebSocket, wanted: bytes) -> bytes:
    seen = b""
    while wanted not in seen:
        frame = console.recv()
        assert frame, seen
        seen += frame
    return seen


def _is_dropped(console: WebSocket) -> bool:
    try:
        while console.recv():
            pass
    except (WebSocketException, OSError):
        return True
    return True


def _log_in(server: FakeServer, password: str = _PASSWORD) -> WebSocket:
    console = _console(server)
    console.send_binary(b"\n")
    _read(console, b"vm login: ")
    console.send_binary(b"root\n")
    _read(console, b"Password: ")
    console.send_binary(password.encode() + b"\n")
    return console


def test_a_console_is_a_guests_shell(server: FakeServer, api: Api, kubevirt: FakeKubeVirt) -> None:
    """Behind the console is a login prompt, and behind that a shell with the guest's own programs."""
    _running(api)
    console = _log_in(server, "wrong")
    _read(console, b"Login incorrect\r\n\r\nvm login: ")
    console.close()
    console = _log_in(server)
    _read(console, b"# ")
    console.send(b"echo ignored\n", opcode=ABNF.OPCODE_TEXT)
    console.send_binary(b"ip -o address; echo $((40 + 2))\n")
    seen = _read(console, b"\n42\r\n")
    assert b" 10.0.0.5/16 " in seen
    assert b" fd00::5/64 " in seen
    assert b"ignored" not in seen
    console.close()


def test_a_console_waits_for_its_vm(server: FakeServer, api: Api, tmp_path: Path) -> None:
    """Before the VM runs a console is refused with 400, without a VM with 404, without the right with 403."""
    FakeKubeVirt(server, tmp_path, times=Times(boot_s=3))
    with pytest.raises(WebSocketBadStatusException) as refused:
        _console(server)
    assert refused.value.status_code == 404
    api.create(VM, _vm("vm"))
    _wait(api, VMI, "vm", _phase_is("Scheduling"))
    with pytest.raises(WebSocketBadStatusException) as refused:
        _console(server)
    assert refused.value.status_code == 400
    server.forbid("get", "virtualmachineinstances/console.subresources.kubevirt.io")
    with pytest.raises(WebSocketBadStatusException) as refused:
        _console(server)
    assert refused.value.status_code == 403


def test_a_new_console_closes_the_old(server: FakeServer, api: Api, kubevirt: FakeKubeVirt) -> None:
    """One session per VM: the newest has it, and the shell is the same."""
    _running(api)
    first = _log_in(server)
    _read(first, b"# ")
    first.send_binary(b"kept=yes\n")
    _read(first, b"# ")
    second = _console(server)
    assert _is_dropped(first)
    second.send_binary(b"echo is-$kept\n")
    _read(second, b"is-yes\r\n")
    second.close()
    first.shutdown()


def test_a_console_breaks_at_the_switch(server: FakeServer, api: Api, kubevirt: FakeKubeVirt) -> None:
    """At a migration's switch the console breaks; a new one is connected to the same guest, on the target."""
    _running(api)
    console = _log_in(server)
    _read(console, b"# ")
    api.create(VMIM, _migration())
    assert _is_dropped(console)
    _wait(api, VMIM, "move", _phase_is("Succeeded"))
    again = _console(server)
    again.send_binary(b"echo on-$(cat ~/node)\n")
    _read(again, b"on-node-c\r\n")
    again.close()
    console.shutdown()


def test_a_console_breaks_at_any_byte(server: FakeServer, api: Api, kubevirt: FakeKubeVirt) -> None:
    """A test may break a console now, or after so many bytes; what comes meanwhile is lost."""
    _running(api)
    console = _log_in(server)
    _read(console, b"# ")
    kubevirt.drop_console("vm", after_bytes=1000)
    console.send_binary(b"seq 10000\n")
    seen = b""
    try:
        while frame := console.recv():
            seen += frame
    except (WebSocketException, OSError):
        pass
    assert len(seen) == 1000
    console.shutdown()
    deadline = time.monotonic() + 5
    while b"\n10000\r\n" not in kubevirt.guest("vm").printed:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_late_password_is_refused_before(server: FakeServer, api: Api, tmp_path: Path) -> None:
    """A guest whose password is not set yet asks, refuses, and lets in later."""
    kubevirt = FakeKubeVirt(server, tmp_path, password=_PASSWORD, password_late=True)
    _running(api)
    console = _log_in(server)
    _read(console, b"Login incorrect")
    kubevirt.guest("vm").tell("password", _PASSWORD)
    console.close()
    console = _log_in(server)
    _read(console, b"# ")
    console.close()


def test_closing_ends_what_guests_left_running(tmp_path: Path) -> None:
    """Also what runs in the background, in a session of its own, ends with the server."""
    with FakeServer() as server:
        server.add_nodes("node-a")
        kubevirt = FakeKubeVirt(server, tmp_path)
        _running(server.api("ns"))
        guest = kubevirt.guest("vm")
        guest.type(b"setsid sleep 300 & sleep 301\n")
        deadline = time.monotonic() + 5
        while len(guest.processes()) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert guest.processes() == []


# Networks.


def _policy() -> Object:
    return NNCP.object("bridges", spec={"desiredState": {"interfaces": []}})


def test_a_policy_is_enacted_on_the_nodes_it_selects(server: FakeServer, api: Api) -> None:
    """A policy becomes Available when each of its nodes, all without a selector, has enacted this very generation."""
    nmstate = FakeNMState(server)
    api.create(NNCP, _policy())
    _wait(api, NNCP, "bridges", lambda one: condition(one, "Available").get("status") == "True")
    found = api.find(NNCE, labels="nmstate.io/policy=bridges")
    assert [one["metadata"]["labels"]["nmstate.io/node"] for one in found] == ["node-a", "node-b", "node-c"]
    assert {one["status"]["policyGeneration"] for one in found} == {1}
    api.merge(NNCP, "bridges", {"spec": {"desiredState": {"interfaces": [{"name": "x"}]}}})
    _wait(api, NNCE, "node-c.bridges", lambda one: one["status"]["policyGeneration"] == 2)
    _wait(api, NNCP, "bridges", lambda one: condition(one, "Available").get("status") == "True")
    assert len(nmstate.enacted) == 6
    api.create(NNCP, NNCP.object("one", spec={**_policy()["spec"], "nodeSelector": {_HOSTNAME: "node-b"}}))
    _wait(api, NNCP, "one", lambda one: condition(one, "Available").get("status") == "True")
    assert [one["metadata"]["name"] for one in api.find(NNCE, labels="nmstate.io/policy=one")] == ["node-b.one"]
    assert api.get(NNS, "node-a")["status"]["currentState"]["interfaces"][0]["name"] == "eno1"
    api.delete(NNCP, "bridges")
    api.wait(NNCE, "node-c.bridges", lambda one: one is None, timeout_s=5, what="its end")


def test_a_node_that_cannot_degrades_the_policy(server: FakeServer, api: Api) -> None:
    """A node's refusal stands in its enactment, and the policy counts it."""
    nmstate = FakeNMState(server)
    nmstate.refusals["node-b"] = "NmstateError: no such NIC"
    api.create(NNCP, _policy())
    degraded = _wait(api, NNCP, "bridges", lambda one: condition(one, "Degraded").get("status") == "True")
    assert condition(degraded, "Degraded")["message"] == "1/3 nodes failed to configure"
    failing = condition(api.get(NNCE, "node-b.bridges"), "Failing")
    assert (failing["status"], failing["message"]) == ("True", "NmstateError: no such NIC")


def test_a_network_makes_its_nads(server: FakeServer, api: Api) -> None:
    """A ClusterUserDefinedNetwork makes a NAD of its name in each namespace it selects, and takes it with it."""
    FakeOVN(server)
    spec = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ns"}},
        "network": {"topology": "Localnet", "localnet": {"role": "Secondary", "physicalNetworkName": "phys"}},
    }
    api.create(CUDN, CUDN.object("net", spec=spec))
    _wait(api, CUDN, "net", lambda one: condition(one, "NetworkCreated").get("status") == "True")
    [nad] = api.find(NAD, everywhere=True)
    assert (nad["metadata"]["namespace"], nad["metadata"]["name"]) == ("ns", "net")
    assert json.loads(nad["spec"]["config"])["physicalNetworkName"] == "phys"
    api.delete(CUDN, "net", grace_s=None)
    api.wait(CUDN, "net", lambda one: one is None, timeout_s=5, what="its end")
    assert api.get(NAD, "net") is None
    server.seed(NAD, NAD.object("net", spec={"config": "{}"}))
    api.create(CUDN, CUDN.object("net", spec=spec))
    _wait(api, CUDN, "net", lambda one: condition(one, "NetworkCreated").get("status") == "False")


def test_webhooks_of_a_test_refuse(server: FakeServer, api: Api) -> None:
    """A test may refuse what it likes, as an admission webhook does."""

    def admit(kind: Kind, made: Object) -> None:
        if kind == LEASE:
            raise RefusedError(409, "not now")

    server.store.admission.append(admit)
    with pytest.raises(ConflictError, match="not now"):
        api.create(LEASE, LEASE.object("x", spec={}))
