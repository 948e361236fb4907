"""Is a guest fit? A pair of VMs is booted, and its ping and observer are tried; nothing is migrated."""

import tempfile
from dataclasses import replace
from pathlib import Path

from stuntime.errors import StuntimeError
from stuntime.kubevirt.preflight import Check, Found
from stuntime.kubevirt.testbed import KubevirtTestbed
from stuntime.prober import Prober
from stuntime.scenario import Scenario

_FOLDER = "/tmp/stuntime-trial"  # noqa: S108 - in a guest of ours
_INTERVAL_S = 0.1


def boot(testbed: KubevirtTestbed, found: Found, network: str) -> Found:
    """Return what was found with lines more: the guest boots, pings the other every 0.1 s, and runs the observer."""
    scenario = Scenario(network, "from-static-node", "static", "ipv4")
    try:
        with tempfile.TemporaryDirectory() as evidence, testbed.network(network, Path(evidence)):
            checks = _tried(testbed, scenario, Path(evidence))
    except StuntimeError as error:
        checks = [Check("guest", str(error), "it boots, and pings", fit=False, way_out=error.way_out)]
    return replace(found, checks=[*found.checks, *checks])


def _tried(testbed: KubevirtTestbed, scenario: Scenario, evidence: Path) -> list[Check]:
    with testbed.pair(scenario, evidence) as pair:
        shell = testbed.shell(pair.static)
        prober = Prober(
            testbed=testbed,
            initiator=shell,
            static=shell,
            peer=pair.migrated.addresses["ipv4"],
            peer_mac=pair.migrated.mac,
            observed=pair.migrated.addresses["ipv4"],
            interval_s=_INTERVAL_S,
            folder=_FOLDER,
        )
        prober.start_observer()
        facts = prober.check()
        observes = prober.observes()
        prober.stop()
        return [
            Check("guest", f"kernel {facts['kernel']}, {facts['ping']}", "it boots, and pings every 0.1 s", fit=True),
            Check(
                "observer",
                "it runs" if observes else "it does not run",
                "python3 and a raw socket",
                fit=observes,
                way_out="use a guest image with python3; without the observer a migrated initiator cannot be measured",
            ),
        ]
