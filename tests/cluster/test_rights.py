"""The roles that are shipped, on the real API server: nothing is missing, and each rule is missed."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from stuntime.kubevirt import permissions
from stuntime.kubevirt.api import Api, connect
from stuntime.scenario import NETWORKS
from tests.cluster.lab import Lab, laboratory
from tests.cluster.running import Running
from tests.sandbox.harness import wait_for

_SEEN_S = 30.0
#: KubeVirt lets everybody list them, where an administrator leaves it its ClusterRole `kubevirt.io:default`.
_FOR_ALL = {"kubevirts.kubevirt.io"}


@pytest.fixture(scope="module")
def lab(cluster: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Hold a namespace with the account and its roles."""
    with laboratory(cluster, "rights", tmp_path_factory.mktemp("rights")) as held:
        yield held


def test_each_rule_is_needed_and_no_other_is(lab: Lab) -> None:
    """With the roles as shipped all that a run uses is allowed; without any one rule the preflight names just that."""
    api = connect(lab.kubeconfig, None, lab.namespace)
    assert _missing(api, lab) == []
    for role in _roles(lab):
        for number, rule in enumerate(role["rules"]):
            resources = {f"{one}.{group}".rstrip(".") for group in rule["apiGroups"] for one in rule["resources"]}
            if resources == _FOR_ALL:
                continue
            _grant(lab, role, [*role["rules"][:number], *role["rules"][number + 1 :]])
            wait_for(lambda: bool(_missing(api, lab)), f"the end of {rule}", timeout_s=_SEEN_S)
            assert {line.split()[1] for line in _missing(api, lab)} == resources
            _grant(lab, role, role["rules"])
            wait_for(lambda: not _missing(api, lab), f"{rule} again", timeout_s=_SEEN_S)


def _missing(api: Api, lab: Lab) -> list[str]:
    return permissions.missing(api, permissions.needed(NETWORKS), lab.window)


def _roles(lab: Lab) -> list[dict[str, Any]]:
    name = f"stuntime-{lab.namespace}"
    return [*lab.items("roles"), json.loads(lab.kubectl("get", "clusterrole", name, "-o", "json"))]


def _grant(lab: Lab, role: dict[str, Any], rules: list[dict[str, Any]]) -> None:
    patch = json.dumps({"rules": rules})
    lab.kubectl("patch", role["kind"], role["metadata"]["name"], "--type=merge", "-p", patch)
