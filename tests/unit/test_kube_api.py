"""The client of a Kubernetes API, with a server over real HTTP that goes away, forgets, refuses and loses answers."""

import json
import socket
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from stuntime.errors import TestbedError, UsageError
from stuntime.kubevirt import api as api_module
from stuntime.kubevirt.api import Api, ApiError, ConflictError, InterruptedRunError, connect
from stuntime.kubevirt.kinds import CONFIG_MAP, CUDN, LEASE, NAD, NNCP, NODE, POD, VMI, Kind, Object
from tests.unit.kubeapi.server import FakeServer

_MAPS = CONFIG_MAP.resource


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scale the pauses between tries: 20 ms at first, 100 ms at most."""
    monkeypatch.setattr(api_module, "_PAUSE_S", 0.02)
    monkeypatch.setattr(api_module, "_LONGEST_PAUSE_S", 0.1)


@pytest.fixture
def server():
    with FakeServer(namespaces=["ns", "other"]) as fake:
        fake.seed(CONFIG_MAP, _map("old"))
        fake.seed(LEASE, LEASE.object("lease", spec={"holderIdentity": "nobody"}))
        fake.logs["ns", "pod"] = b"a line\n"
        yield fake


@pytest.fixture
def api(server: FakeServer) -> Api:
    return server.api("ns", patience_s=5.0)


def _map(name: str, value: str = "0") -> Object:
    return CONFIG_MAP.object(name, data={"value": value})


def _set(server: FakeServer, name: str, value: int) -> None:
    server.store.merge(CONFIG_MAP, "ns", name, {"data": {"value": str(value)}})


def _lease(api: Api, holder: str) -> Object:
    found = api.get(LEASE, "lease")
    assert found is not None
    return {**found, "spec": {"holderIdentity": holder}}


class Watcher:
    """A thread that notes each state it is told of, and how its watch ended."""

    def __init__(self, api: Api, kind: Kind = CONFIG_MAP, *, seconds: float = 10.0, name: str = "") -> None:
        self.states: list[dict[str, Object]] = []
        self.ended: Exception | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, args=(api, kind, time.monotonic() + seconds, name))
        self._thread.start()

    def _run(self, api: Api, kind: Kind, deadline: float, name: str) -> None:
        try:
            for state in api.states(kind, deadline, name=name):
                with self._changed:
                    self.states.append(dict(state))
                    self._changed.notify_all()
        except Exception as error:  # noqa: BLE001 - what the test looks at
            self.ended = error

    def until(self, condition: Callable[[list[dict[str, Object]]], bool]) -> None:
        """Wait until what was seen fulfils a condition."""
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self.states), timeout=5), self.states

    def values(self, name: str) -> list[str]:
        """Return the values that an object was seen with, in order."""
        return [state[name]["data"]["value"] for state in self.states if name in state]

    def join(self) -> float:
        """Wait for its end; return how long that took."""
        began = time.monotonic()
        self._thread.join(timeout=10)
        assert not self._thread.is_alive()
        return time.monotonic() - began


def _opened(server: FakeServer, watches: int = 1) -> None:
    deadline = time.monotonic() + 5
    while server.open_watches() < watches:
        assert time.monotonic() < deadline
        time.sleep(0.005)


CALLS: dict[str, Callable[[Api], object]] = {
    "get": lambda api: api.get(CONFIG_MAP, "old"),
    "find": lambda api: api.find(CONFIG_MAP),
    "create": lambda api: api.create(CONFIG_MAP, _map("new")),
    "merge": lambda api: api.merge(CONFIG_MAP, "old", {"data": {"value": "1"}}),
    "replace": lambda api: api.replace(CONFIG_MAP, _map("old", "2")),
    "delete": lambda api: api.delete(CONFIG_MAP, "old"),
    "ask": lambda api: api.ask("/version"),
    "post": lambda api: api.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", {"spec": {}}),
    "text": lambda api: api.text("/api/v1/namespaces/ns/pods/pod/log", {}, 1000),
    "states": lambda api: next(api.states(CONFIG_MAP, time.monotonic() + 5)),
    "wait": lambda api: api.wait(CONFIG_MAP, "old", lambda found: found is not None, timeout_s=5, what="it"),
}
_each_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())


# The server is away.


@_each_call
def test_a_server_that_is_away_for_a_while_is_waited_for(
    server: FakeServer, api: Api, call: Callable[[Api], object]
) -> None:
    """Every call goes on where the server comes back before our patience ends, and does what it does at once."""
    waiting = server.away_for(0.08)
    assert call(api)
    waiting.join()


@_each_call
def test_a_server_that_stays_away_is_told(server: FakeServer, call: Callable[[Api], object]) -> None:
    """Every call is a TestbedError `api-away` with a way out when the server is away for longer than our patience."""
    api = server.api("ns", patience_s=0.15)
    began = time.monotonic()
    with server.away(), pytest.raises(TestbedError, match=r"did not answer .* for 0.15 s") as away:
        call(api)
    assert away.value.reason == "api-away"
    assert "measure again" in away.value.way_out
    assert time.monotonic() - began < 3


@_each_call
@pytest.mark.parametrize("status", [429, 500])
def test_a_busy_server_is_asked_again(server: FakeServer, api: Api, call: Callable[[Api], object], status: int) -> None:
    """A status that only says `not now` is waited out as an absence is."""
    server.status(status, times=1)
    assert call(api)
    assert len(server.log) >= 2


def test_a_server_that_stays_busy_is_told_with_its_words(server: FakeServer) -> None:
    """What a server says while it cannot answer stands in the error."""
    api = server.api("ns", patience_s=0.1)
    server.status(429)
    with pytest.raises(TestbedError, match="429 too many requests") as away:
        api.get(CONFIG_MAP, "old")
    assert away.value.reason == "api-away"


@_each_call
def test_an_answer_that_breaks_off_is_asked_for_again(
    server: FakeServer, api: Api, call: Callable[[Api], object]
) -> None:
    """A connection that dies in the middle of an answer is an absence, in every call."""
    server.cut_answer()
    assert call(api)


@_each_call
def test_an_answer_that_is_lost_is_asked_for_again(server: FakeServer, api: Api, call: Callable[[Api], object]) -> None:
    """A connection that dies before the answer is an absence, and what was done the first time is no error."""
    server.lose_answer()
    assert call(api)


@pytest.mark.parametrize("trouble", ["lose_answer", "cut_answer"])
def test_a_create_whose_answer_was_lost_is_found_again(server: FakeServer, api: Api, trouble: str) -> None:
    """The object that was made by a request without an answer is returned, and made once."""
    getattr(server, trouble)(("POST", _MAPS))
    made = api.create(CONFIG_MAP, _map("new", "7"))
    assert made == api.get(CONFIG_MAP, "new")
    assert made["data"] == {"value": "7"}
    assert len(server.asked("POST", _MAPS)) == 2
    assert [one["metadata"]["name"] for one in api.find(CONFIG_MAP)] == ["new", "old"]


def test_what_somebody_else_made_meanwhile_is_not_ours(server: FakeServer, api: Api) -> None:
    """After an absence, a lease of another holder is a conflict, though we asked for one of that name before."""
    server.status(503, ("POST", LEASE.resource), times=1)
    server.seed(LEASE, LEASE.object("new", spec={"holderIdentity": "they"}))
    with pytest.raises(ConflictError):
        api.create(LEASE, LEASE.object("new", spec={"holderIdentity": "we"}))


def test_a_replacement_whose_answer_was_lost_is_no_conflict(server: FakeServer, api: Api) -> None:
    """A lease that we renewed, without hearing so, is ours and not somebody else's change."""
    wanted = _lease(api, "we")
    server.lose_answer(("PUT", LEASE.resource))
    renewed = api.replace(LEASE, wanted)
    assert renewed["spec"] == {"holderIdentity": "we"}
    assert renewed["metadata"]["resourceVersion"] != wanted["metadata"]["resourceVersion"]


def test_an_annotation_is_part_of_a_replacement(server: FakeServer, api: Api) -> None:
    """A replacement that changes only annotations did not happen where they are somebody else's."""
    wanted = _lease(api, "nobody")
    wanted["metadata"]["annotations"] = {"line": "we"}
    server.status(503, ("PUT", LEASE.resource), times=1)
    server.store.merge(LEASE, "ns", "lease", {"metadata": {"annotations": {"line": "they"}}})
    with pytest.raises(ConflictError):
        api.replace(LEASE, wanted)


def test_a_replacement_that_somebody_forestalled_is_a_conflict(server: FakeServer, api: Api) -> None:
    """While the server was away, somebody else may have been quicker: that is a conflict, and theirs stays."""
    wanted = _lease(api, "we")
    server.status(503, ("PUT", LEASE.resource), times=1)
    server.store.merge(LEASE, "ns", "lease", {"spec": {"holderIdentity": "they"}})
    with pytest.raises(ConflictError, match="the object has been modified"):
        api.replace(LEASE, wanted)
    assert _lease(api, "x")["metadata"]["resourceVersion"] != wanted["metadata"]["resourceVersion"]


def test_a_delete_whose_answer_was_lost_says_that_there_was_one(server: FakeServer, api: Api) -> None:
    """Whoever waits for the end only of what was there is told the truth."""
    server.lose_answer(("DELETE", _MAPS))
    assert api.delete(CONFIG_MAP, "old") is True
    assert api.delete(CONFIG_MAP, "old") is False


# The server refuses.


@_each_call
@pytest.mark.parametrize(("status", "way_out"), [(401, "log in again"), (403, "let this account")])
def test_a_refusal_is_told_at_once(
    server: FakeServer, api: Api, call: Callable[[Api], object], status: int, way_out: str
) -> None:
    """A missing right or an expired token is an ApiError `api-forbidden`, without patience, in every call."""
    server.status(status)
    with pytest.raises(ApiError) as refused:
        call(api)
    assert (refused.value.reason, refused.value.status) == ("api-forbidden", status)
    assert way_out in refused.value.way_out
    assert len(server.log) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_a_right_that_ends_under_a_watch_is_told(server: FakeServer, api: Api, status: int) -> None:
    """A token that expires while we watch ends the watch with an ApiError, not with waiting."""
    watcher = Watcher(api)
    _opened(server)
    server.status(status, ("WATCH", "*"))
    server.drop_watches()
    assert watcher.join() < 1
    assert isinstance(watcher.ended, ApiError)
    assert (watcher.ended.reason, watcher.ended.status) == ("api-forbidden", status)


def test_a_refusal_names_what_is_missing(server: FakeServer, api: Api) -> None:
    """The words of the server, the verb, the resource and the namespace stand in a refusal."""
    server.forbid("create", LEASE.resource)
    with pytest.raises(ApiError, match=r'cannot create resource "leases" in API group "coordination\.k8s\.io"') as no:
        api.create(LEASE, LEASE.object("new", spec={}))
    assert "create leases.coordination.k8s.io (namespace ns)" in no.value.way_out
    attributes = {"verb": "create", "group": LEASE.group, "resource": LEASE.plural, "namespace": "ns"}
    review = {"spec": {"resourceAttributes": attributes}}
    told = api.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
    assert told["status"]["allowed"] is False


def test_a_denial_of_a_webhook_is_no_absence(server: FakeServer, api: Api) -> None:
    """A webhook that denies with 500 is told at once, for asking again cannot help."""
    server.status(500, ("POST", "*"), message='admission webhook "x" denied the request: no')
    with pytest.raises(ApiError, match="denied the request: no") as denied:
        api.create(CONFIG_MAP, _map("new"))
    assert denied.value.status == 500
    assert len(server.log) == 1


def test_a_kind_that_the_cluster_does_not_know_is_told(server: FakeServer, api: Api) -> None:
    """Finding objects of an unknown kind is an ApiError with status 404, though the server says so in plain text."""
    server.unknown(CUDN)
    with pytest.raises(ApiError, match="404 page not found") as unknown:
        api.find(CUDN)
    assert unknown.value.status == 404
    assert api.get(CUDN, "x") is None
    with pytest.raises(ApiError):
        next(api.states(CUDN, time.monotonic() + 1))


# What calls do when all is well.


def test_what_exists_is_a_conflict(server: FakeServer, api: Api) -> None:
    """Creating what somebody else has made is a ConflictError, and so is replacing what has changed."""
    with pytest.raises(ConflictError, match="already exists") as exists:
        api.create(CONFIG_MAP, _map("old"))
    assert (exists.value.reason, exists.value.status) == ("api-conflict", 409)
    read = _lease(api, "we")
    api.replace(LEASE, _lease(api, "they"))
    with pytest.raises(ConflictError):
        api.replace(LEASE, read)
    assert len(server.asked("PUT")) == 2


def test_objects_are_made_read_changed_and_deleted(server: FakeServer, api: Api) -> None:
    """An object goes through its life in the namespace that is named, or in our own."""
    api.create(CONFIG_MAP, _map("new", "1"), "other")
    assert api.get(CONFIG_MAP, "new") is None
    assert api.merge(CONFIG_MAP, "new", {"data": {"value": None, "more": "x"}}, "other")["data"] == {"more": "x"}
    assert api.delete(CONFIG_MAP, "new", "other")
    assert not api.delete(CONFIG_MAP, "new", "other")
    server.add_nodes("node-a")
    assert api.get(NODE, "node-a")["metadata"]["labels"]["kubernetes.io/hostname"] == "node-a"


def test_only_the_very_object_is_deleted(server: FakeServer, api: Api) -> None:
    """With a uid, a namesake that was made since is left alone; grace and propagation are asked for."""
    with pytest.raises(ConflictError, match="UID in precondition"):
        api.delete(CONFIG_MAP, "old", uid="another")
    uid = api.get(CONFIG_MAP, "old")["metadata"]["uid"]
    assert api.delete(CONFIG_MAP, "old", uid=uid)
    assert server.asked("DELETE")[-1].body == {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "propagationPolicy": "Background",
        "gracePeriodSeconds": 0,
        "preconditions": {"uid": uid},
    }


def test_found_objects_know_their_kind(server: FakeServer, api: Api) -> None:
    """A list's items say what they are, also where the server leaves it out; selectors and namespaces are heeded."""
    server.seed(CONFIG_MAP, CONFIG_MAP.object("labelled", labels={"a": "b"}), "other")
    assert [(one["kind"], one["apiVersion"]) for one in api.find(CONFIG_MAP)] == [("ConfigMap", "v1")]
    assert [one["metadata"]["name"] for one in api.find(CONFIG_MAP, labels="a=b", everywhere=True)] == ["labelled"]
    assert len(api.find(CONFIG_MAP, everywhere=True)) == 2
    assert api.find(CONFIG_MAP, labels="a=b") == []
    assert [one["metadata"]["name"] for one in api.find(CONFIG_MAP, fields="metadata.name=old")] == ["old"]
    assert api.find(NNCP, everywhere=True) == []


def test_a_text_is_read_up_to_its_limit(server: FakeServer, api: Api) -> None:
    """Of a log that is longer than wanted the beginning is returned, and the next request is not disturbed."""
    server.logs["ns", "pod"] = b"0123456789" * 100_000
    assert api.text("/api/v1/namespaces/ns/pods/pod/log", {"container": "compute"}, 15) == "012345678901234"
    assert server.log[-1].query == {"container": "compute"}
    assert api.get(CONFIG_MAP, "old")
    assert api.requests == {"GET pods/log": 1, "GET configmaps": 1}
    with pytest.raises(ApiError, match="not found"):
        api.text("/api/v1/namespaces/ns/pods/none/log", {}, 15)


def test_requests_are_counted(server: FakeServer, api: Api) -> None:
    """Each request that goes out is counted by what it asks for, the repeated ones too."""
    server.status(503, times=1)
    api.get(CONFIG_MAP, "old")
    api.find(POD)
    api.create(LEASE, LEASE.object("new", spec={}))
    next(iter(api.states(VMI, time.monotonic() + 1)))
    api.ask("/version")
    assert api.requests == {
        "GET configmaps": 2,
        "LIST pods": 1,
        "POST leases.coordination.k8s.io": 1,
        "LIST virtualmachineinstances.kubevirt.io": 1,
        "GET /version": 1,
    }
    assert sum(api.requests.values()) == len(server.log)


def test_many_threads_use_one_client(server: FakeServer, api: Api) -> None:
    """Requests from several threads at once neither get in each other's way nor get lost."""

    def work(number: int) -> None:
        for turn in range(5):
            name = f"of-{number}-{turn}"
            api.create(CONFIG_MAP, _map(name))
            found.append(api.get(CONFIG_MAP, name)["metadata"]["name"])

    found: list[str] = []
    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 30
    assert len(server.asked("POST")) == 30


# Watching.


def test_the_first_state_is_that_of_now(server: FakeServer, api: Api) -> None:
    """What is there already is told first, all of it in one state; then each change makes a new one."""
    server.seed(CONFIG_MAP, _map("second"))
    watcher = Watcher(api)
    _opened(server)
    assert [sorted(state) for state in watcher.states] == [["old", "second"]]
    server.seed(CONFIG_MAP, _map("third"))
    watcher.until(lambda states: len(states) == 2)
    server.store.delete(CONFIG_MAP, "ns", "old")
    watcher.until(lambda states: len(states) == 3)
    assert [sorted(state) for state in watcher.states[1:]] == [["old", "second", "third"], ["second", "third"]]
    api.stop()
    watcher.join()


def test_states_are_of_what_is_selected(server: FakeServer, api: Api) -> None:
    """Changes of other objects are no states, and one that loses its label leaves the selection."""
    server.seed(CONFIG_MAP, CONFIG_MAP.object("ours", labels={"a": "b"}))
    seen = []
    server.worker.later(0.1, lambda: _set(server, "old", 1))
    unlabelled = {"metadata": {"labels": {"a": None}}}
    server.worker.later(0.2, lambda: server.store.merge(CONFIG_MAP, "ns", "ours", unlabelled))
    for state in api.states(CONFIG_MAP, time.monotonic() + 5, labels="a=b"):
        seen.append(sorted(state))
        if not state:
            break
    assert seen == [["ours"], []]


def test_states_end_at_the_deadline(server: FakeServer, api: Api) -> None:
    """Without changes the states end when their time has come, by one list and one watch."""
    began = time.monotonic()
    assert len(list(api.states(CONFIG_MAP, began + 0.3))) == 1
    assert 0.3 <= time.monotonic() - began < 2
    assert [one.verb for one in server.log] == ["LIST", "WATCH"]


def test_a_watch_that_the_server_ends_in_time_is_gone_on_with(
    server: FakeServer, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A watch's own end is no event: the next one begins at the last version seen, without a new list."""
    monkeypatch.setattr(api_module, "_WATCH_S", 1)
    watcher = Watcher(api)
    _opened(server)
    _set(server, "old", 1)
    time.sleep(1.1)
    _opened(server)
    _set(server, "old", 2)
    watcher.until(lambda _: watcher.values("old") == ["0", "1", "2"])
    api.stop()
    watcher.join()
    assert len(server.asked("LIST")) == 1


@pytest.mark.parametrize("trouble", ["drop_watches", "tear_watches"])
def test_a_dropped_watch_loses_and_repeats_no_state(server: FakeServer, api: Api, trouble: str) -> None:
    """Whenever the connection of a watch breaks, also in the middle of an event, each change is seen once, in order."""
    watcher = Watcher(api)
    _opened(server)
    for value in range(1, 16):
        if value % 5 == 0:
            _opened(server)
            getattr(server, trouble)()
        _set(server, "old", value)
        time.sleep(0.003)
    watcher.until(lambda _: watcher.values("old")[-1] == "15")
    api.stop()
    watcher.join()
    assert watcher.values("old") == [str(value) for value in range(16)]
    assert len(server.asked("LIST")) == 1
    assert len(server.asked("WATCH")) == 4


@pytest.mark.parametrize("as_status", [False, True])
def test_a_watch_that_was_forgotten_begins_anew(server: FakeServer, api: Api, *, as_status: bool) -> None:
    """After 410, as event or as status, a new list tells what was missed: a change, a new object, one that is gone."""
    server.gone_as_status = as_status
    server.seed(CONFIG_MAP, _map("goes"))
    watcher = Watcher(api)
    _opened(server)
    with server.away():
        _set(server, "old", 5)
        server.store.delete(CONFIG_MAP, "ns", "goes")
        server.seed(CONFIG_MAP, _map("comes"))
        server.compact()
    watcher.until(lambda states: sorted(states[-1]) == ["comes", "old"])
    assert watcher.values("old")[-1] == "5"
    _opened(server)
    _set(server, "comes", 6)
    watcher.until(lambda _: watcher.values("comes") == ["0", "6"])
    api.stop()
    watcher.join()
    assert len(server.asked("LIST")) == 2


def test_a_watch_outlives_an_absence(server: FakeServer, api: Api) -> None:
    """What changed while the server was away is seen when it is back."""
    watcher = Watcher(api)
    _opened(server)
    with server.away():
        _set(server, "old", 1)
        time.sleep(0.1)
        _set(server, "old", 2)
    watcher.until(lambda _: watcher.values("old") == ["0", "1", "2"])
    api.stop()
    watcher.join()


def test_a_watch_has_patience_too(server: FakeServer) -> None:
    """A server that does not come back ends a watch with `api-away`."""
    watcher = Watcher(server.api("ns", patience_s=0.2))
    _opened(server)
    with server.away():
        watcher.join()
    assert isinstance(watcher.ended, TestbedError)
    assert watcher.ended.reason == "api-away"


@pytest.mark.parametrize("trouble", ["ended", "forgotten"])
def test_watches_that_end_at_once_do_not_press_the_server(server: FakeServer, api: Api, trouble: str) -> None:
    """A server that ends each watch as it begins is not asked without a pause, and changes are seen nevertheless."""
    if trouble == "ended":
        server.end_watches_at_once()
    else:
        server.gone_as_status = True
        server.status(410, ("WATCH", "*"))
    watcher = Watcher(api, seconds=0.5)
    time.sleep(0.1)
    _set(server, "old", 1)
    watcher.join()
    if trouble == "forgotten":
        assert watcher.values("old")[-1] == "1"
    assert len(server.log) < 60  # half a second has room for 25 pauses


# Waiting.


def test_waiting_ends_with_the_condition(server: FakeServer, api: Api) -> None:
    """What is waited for is returned as it is when the condition first holds, by a watch and not by asking again."""
    server.worker.later(0.2, lambda: _set(server, "old", 1))
    found = api.wait(
        CONFIG_MAP,
        "old",
        lambda found: found is not None and found["data"]["value"] == "1",
        timeout_s=5,
        what="the 1",
    )
    assert found["data"]["value"] == "1"
    assert [one.verb for one in server.log] == ["LIST", "WATCH"]
    assert server.log[-1].query["fieldSelector"] == "metadata.name=old"


def test_waiting_for_an_end(server: FakeServer, api: Api) -> None:
    """None is what the condition gets of an object that is not there, or not any more."""
    server.worker.later(0.1, lambda: server.store.delete(CONFIG_MAP, "ns", "old"))
    assert api.wait(CONFIG_MAP, "old", lambda found: found is None, timeout_s=5, what="its end") is None
    assert api.wait(CONFIG_MAP, "old", lambda found: found is None, timeout_s=5, what="its end") is None


def test_waiting_in_vain_says_what_was_there(server: FakeServer, api: Api) -> None:
    """After its time the wait is an error with the object's last phase or conditions."""
    server.seed(VMI, {**VMI.object("vm"), "status": {"phase": "Scheduling"}})
    with pytest.raises(TestbedError, match=r"^vm running did not come within 0.2 s \(it is Scheduling\)$"):
        api.wait(VMI, "vm", lambda _: False, timeout_s=0.2, what="vm running")
    with pytest.raises(TestbedError, match=r"^the NAD did not come within 0.2 s$"):
        api.wait(NAD, "none", lambda found: found is not None, timeout_s=0.2, what="the NAD")


def test_waiting_bears_everything_at_once(server: FakeServer, api: Api) -> None:
    """Dropped watches, a forgetful and a busy server and an absence do not keep a wait from its end."""

    def trouble() -> None:
        server.drop_watches()
        server.status(500, times=2)
        server.compact()
        server.away_for(0.1).join()
        _set(server, "old", 1)
        server.drop_watches()

    server.worker.later(0.1, trouble)
    assert api.wait(CONFIG_MAP, "old", lambda found: found["data"]["value"] == "1", timeout_s=5, what="the 1")


# Stopping.


def test_stopping_ends_a_watch(server: FakeServer, api: Api) -> None:
    """A watch that waits for changes ends within a second of `stop`, and the next call does not begin."""
    watcher = Watcher(api)
    _opened(server)
    api.stop()
    assert watcher.join() < 1
    assert isinstance(watcher.ended, InterruptedRunError)
    asked = len(server.log)
    with pytest.raises(InterruptedRunError):
        api.get(CONFIG_MAP, "old")
    assert len(server.log) == asked


def test_stopping_ends_a_watch_that_is_being_opened(server: FakeServer, api: Api) -> None:
    """A watch whose answer is still on its way when the run is stopped ends as one that is open."""
    server.delay(0.3, ("WATCH", "*"))
    watcher = Watcher(api)
    while not server.asked("WATCH"):
        time.sleep(0.005)
    api.stop()
    assert watcher.join() < 1
    assert isinstance(watcher.ended, InterruptedRunError)


def test_stopping_ends_a_pause(api: Api) -> None:
    """Whoever pauses is told at once that the run ends; pausing is over at its time else."""
    began = time.monotonic()
    api.pause(0.05)
    threading.Timer(0.1, api.stop).start()
    with pytest.raises(InterruptedRunError):
        api.pause(30)
    assert time.monotonic() - began < 1


def test_stopping_ends_patience(server: FakeServer) -> None:
    """Waiting for a server that is away ends with the run."""
    api = server.api("ns", patience_s=60)
    threading.Timer(0.2, api.stop).start()
    began = time.monotonic()
    with server.away(), pytest.raises(InterruptedRunError):
        api.get(CONFIG_MAP, "old")
    assert time.monotonic() - began < 1


def test_stopping_ends_other_connections(api: Api) -> None:
    """A connection of somebody else that was named to us is shut down by `stop`, or at once when it comes later."""
    for late in (False, True):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.settimeout(1)
            api.on_stop(ours)
            if not late:
                api.stop()
            assert ours.recv(1) == b""
            assert theirs.recv(1) == b""


def test_last_words_are_heard_after_the_end(server: FakeServer, api: Api) -> None:
    """What has to be taken away is deleted after `stop`, with little patience, and counted with the rest."""
    api.stop()
    last = api.last_words(patience_s=0.1)
    assert last.delete(CONFIG_MAP, "old")
    assert api.requests == {"DELETE configmaps": 1}
    with server.away(), pytest.raises(TestbedError, match=r"for 0.1 s"):
        last.delete(CONFIG_MAP, "old")


def test_pauses_grow_between_tries(server: FakeServer) -> None:
    """A server that is busy is asked less often the longer it lasts."""
    api = server.api("ns", patience_s=0.4)
    server.status(503)
    with pytest.raises(TestbedError):
        api.get(CONFIG_MAP, "old")
    gaps = [later.at - sooner.at for sooner, later in pairwise(server.log)]
    assert len(server.log) < 10
    assert gaps[-1] > 3 * 0.02


# Connecting.


def _kubeconfig(server: FakeServer, file: Path, context: Object) -> Path:
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "here", "cluster": {"server": server.host}}],
        "users": [{"name": "we", "user": {"token": server.token}}],
        "contexts": [{"name": "test", "context": {"cluster": "here", "user": "we", **context}}],
    }
    file.write_text(json.dumps(document))
    return file


def test_a_kubeconfig_names_the_cluster(server: FakeServer, tmp_path: Path) -> None:
    """The namespace is the one given, else the context's, else `default`; the token is the kubeconfig's."""
    file = _kubeconfig(server, tmp_path / "with", {"namespace": "other"})
    assert connect(file, None, "ns").get(CONFIG_MAP, "old")
    assert connect(file, None, None).namespace == "other"
    assert connect(_kubeconfig(server, tmp_path / "without", {}), "test", None).namespace == "default"


def test_no_cluster_is_a_wrong_usage(tmp_path: Path) -> None:
    """Without a kubeconfig, or with a context that is not in it, there is no cluster to speak to."""
    with pytest.raises(UsageError, match="there is no cluster to speak to"):
        connect(tmp_path / "none", None, None)
    (tmp_path / "torn").write_text("apiVersion: v1\nkind: Config\n")
    with pytest.raises(UsageError, match="there is no cluster to speak to"):
        connect(tmp_path / "torn", "absent", None)
