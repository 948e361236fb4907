"""A run: all scenarios of a plan, wave by wave, each result on disk before the next measurement begins."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import groupby
from threading import Event, Lock

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
_Item = tuple[Scenario, int]
_NOTICED_S = 1.0


def options_of(plan: Plan) -> Options:
    """Return how a plan wants to be measured; raise UsageError when no recovery could ever be seen in time."""
    return Options(
        interval_s=plan.interval_s,
        recovery_probes=plan.recovery_probes,
        recovery_timeout_s=plan.recovery_timeout_s,
        migrate=plan.migrate,
        capture=plan.capture,
    )


def run_plan(
    testbed: Testbed, output: OutputDirectory, options: Options, progress: Progress, *, together: int | None = None
) -> None:
    """Measure what the plan of the output directory names and has no valid result yet.

    One after the other, in the plan's order; or with `together`, at most so many scenarios hold VMs at once, each for
    all of its repetitions, and the testbed's quiet window keeps their measurements apart. A scenario that fails stops
    none of the others; only an output directory that cannot be written does (TestbedError). When all is measured and a
    network could not be taken away, its error is raised.
    """
    run = _Run(testbed, output, options, progress)
    todo = [(Scenario.parse(scenario), repetition) for scenario, repetition in output.missing()]
    waves = [Scenario.parse(scenario).network for scenario in output.plan.scenarios]
    todo.sort(key=lambda item: waves.index(item[0].network))
    left: StuntimeError | None = None
    for network, wave in groupby(todo, key=lambda item: item[0].network):
        items = list(wave)
        try:
            scenario, repetition = items[0]
            with testbed.network(network, output.evidence(scenario.id, repetition)):
                if together is None:
                    run.measure_all(items)
                else:
                    run.measure_together(items, together)
        except StuntimeError as error:
            if error.reason == "output-not-writable":
                raise
            # The network did not come up, or not down: what it was needed for is told, and the next one has its turn.
            # Why it did not is in the evidence of the first of them.
            log.warning("network.failed", network=network, reason=error.reason, message=str(error))
            if not run.tell_failed(items, error):
                left = left or error
    if left is not None:
        raise left


def _wait(going: Iterable[Future[None]]) -> None:
    """Return when all have ended, or one has failed.

    It wakes up now and then, because the kernel may give a signal to any thread and Python handles it in this one.
    """
    ended, left = set[Future[None]](), set(going)
    while left and not any(one.exception() for one in ended):
        ended, left = wait(left, timeout=_NOTICED_S, return_when=FIRST_EXCEPTION)


@dataclass(frozen=True)
class _Run:
    """What a run measures with. Several threads may use it."""

    testbed: Testbed
    output: OutputDirectory
    options: Options
    progress: Progress
    _told: set[_Item] = field(default_factory=set)
    _lock: Lock = field(default_factory=Lock)

    def measure_all(self, items: Iterable[_Item]) -> None:
        for scenario, repetition in items:
            with self._lock:
                self.progress(scenario, repetition, None)
                evidence = self.output.evidence(scenario.id, repetition)
            self._tell(
                measure(
                    self.testbed,
                    scenario,
                    self.options,
                    run=self.output.plan.run,
                    repetition=repetition,
                    evidence=evidence,
                )
            )

    def measure_together(self, items: Sequence[_Item], limit: int) -> None:
        """Measure each scenario in a thread of its own; after an interrupt, once all have ended, raise it."""
        ended = Event()

        def measured(scenario: Scenario) -> None:
            if ended.is_set():
                return
            try:
                self.measure_all([item for item in items if item[0] == scenario])
            finally:
                self.testbed.release(scenario)

        with ThreadPoolExecutor(limit, thread_name_prefix="scenario") as pool:
            try:
                asked = dict.fromkeys(scenario for scenario, _ in items)
                going = [pool.submit(measured, scenario) for scenario in asked]
                _wait(going)
            except BaseException:
                ended.set()
                self.testbed.abandon()
                raise
            ended.set()  # on a defect or a full disk, what has not begun does not begin
        for thread in going:
            thread.result()

    def tell_failed(self, items: Sequence[_Item], error: StuntimeError) -> int:
        """Write for each measurement that has no result yet why there is none; return how many those are."""
        untold = [item for item in items if item not in self._told]
        for scenario, repetition in untold:
            if (scenario, repetition) != items[0]:
                self.output.evidence(scenario.id, repetition)
            self._tell(failed(scenario, self.options, error, run=self.output.plan.run, repetition=repetition))
        return len(untold)

    def _tell(self, result: Result) -> None:
        scenario = Scenario.parse(result.scenario)
        with self._lock:
            self._told.add((scenario, result.repetition))
            self.progress(scenario, result.repetition, self.output.write(result))
