"""A run: all scenarios of a plan, wave by wave, each result on disk before the next measurement begins."""

from collections.abc import Callable
from itertools import groupby

import structlog

from stuntime.errors import StuntimeError
from stuntime.measure import Options, failed, measure
from stuntime.result import Result
from stuntime.scenario import Scenario
from stuntime.store import OutputDirectory, Plan
from stuntime.testbed import Testbed

log = structlog.get_logger()

#: Called before a measurement with None and after it with its result.
Progress = Callable[[Scenario, int, Result | None], None]


def options_of(plan: Plan) -> Options:
    """Return how a plan wants to be measured; raise UsageError when no recovery could ever be seen in time."""
    return Options(
        interval_s=plan.interval_s,
        recovery_probes=plan.recovery_probes,
        recovery_timeout_s=plan.recovery_timeout_s,
        migrate=plan.migrate,
        capture=plan.capture,
    )


def run_plan(testbed: Testbed, output: OutputDirectory, options: Options, progress: Progress) -> None:
    """Measure what the plan of the output directory names and has no valid result yet.

    A scenario that fails stops none of the others; only an output directory that cannot be written does (TestbedError).
    """
    todo = [(Scenario.parse(scenario), repetition) for scenario, repetition in output.missing()]
    waves = [Scenario.parse(scenario).network for scenario in output.plan.scenarios]
    todo.sort(key=lambda item: waves.index(item[0].network))
    for network, wave in groupby(todo, key=lambda item: item[0].network):
        pending = list(wave)
        try:
            with testbed.network(network):
                while pending:
                    scenario, repetition = pending[0]
                    progress(scenario, repetition, None)
                    evidence = output.evidence(scenario.id, repetition)
                    result = measure(
                        testbed, scenario, options, run=output.plan.run, repetition=repetition, evidence=evidence
                    )
                    progress(scenario, repetition, output.write(result))
                    pending.pop(0)
        except StuntimeError as error:
            if error.reason == "output-not-writable":
                raise
            # The network did not come up, or not down: what it was needed for is told, and the next one has its turn.
            log.warning("network.failed", network=network, reason=error.reason, message=str(error))
            for scenario, repetition in pending:
                output.evidence(scenario.id, repetition)
                result = failed(scenario, options, error, run=output.plan.run, repetition=repetition)
                progress(scenario, repetition, output.write(result))
