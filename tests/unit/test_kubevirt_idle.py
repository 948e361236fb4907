"""Whether a cluster is idle: the migrations of other runs are what the quiet window is for."""

from stuntime.kubevirt import preflight
from stuntime.kubevirt.kinds import RUN_LABEL, VMIM
from stuntime.kubevirt.settings import Settings
from tests.unit.kubeapi.server import FakeServer


def test_migrations_of_other_runs_are_waited_for() -> None:
    """A migration of another run does not make a cluster unfit, wherever it is: measurements wait for each other."""
    with FakeServer(namespaces=["ns", "other"]) as server:
        api = server.api("ns")
        server.seed(VMIM, VMIM.object("ours", labels={RUN_LABEL: "another"}, spec={"vmiName": "vm"}), "other")
        check = preflight._idle(api, Settings(run="mine"), owned=False)
        assert check.fit
        assert check.note == "measurements of several runs wait for each other"


def test_migrations_of_somebody_else_are_not() -> None:
    """A migration that nobody of ours asked for makes it unfit: it would be measured, too."""
    with FakeServer(namespaces=["ns", "other"]) as server:
        api = server.api("ns")
        theirs = VMIM.object("theirs", spec={"vmiName": "vm"})
        theirs["metadata"]["labels"] = {}
        server.seed(VMIM, theirs, "other")
        check = preflight._idle(api, Settings(run="mine"), owned=False)
        assert not check.fit
        assert "migrations in flight: other/theirs" in check.found
