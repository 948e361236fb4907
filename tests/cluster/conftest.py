"""Fixtures of the tests on the cluster that runs; `make test-cluster` starts one first."""

from collections.abc import Iterator

import pytest

from stuntime.errors import UnfitError
from tests.cluster.running import Running, running


@pytest.fixture(scope="session")
def cluster() -> Running:
    """Return the running cluster."""
    try:
        return running()
    except UnfitError as error:
        pytest.skip(f"{error}: {error.way_out}")


@pytest.fixture
def namespace(cluster: Running, request: pytest.FixtureRequest) -> Iterator[str]:
    """Make a namespace for one test, and remove it with all that is in it."""
    name = request.node.name.replace("_", "-")[:40].strip("-")
    cluster.kubectl("create", "namespace", name)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=true", "--timeout=120s", timeout_s=150)
