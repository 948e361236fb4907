"""Many results, one verdict per scenario. Needs no testbed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stuntime.errors import InvalidError, UsageError
from stuntime.result import Result, parse_result
from stuntime.scenario import Scenario, measuring_order, scenarios
from stuntime.store import SUMMARY, read_plan
from stuntime.threshold import DEFAULT_THRESHOLD_S, Judgement, Verdict, judge, worst


@dataclass(frozen=True)
class Loaded:
    """What was found: results, the scenario ids that were planned (empty: no plan), and what could not be read."""

    results: tuple[Result, ...]
    planned: tuple[str, ...]
    unreadable: tuple[InvalidError, ...]


@dataclass(frozen=True)
class ScenarioVerdict:
    """The verdict of a scenario; `worst` is the result that decided it (None: there is none)."""

    scenario: Scenario
    judgement: Judgement
    results: tuple[Result, ...]
    worst: Result | None

    @property
    def verdict(self) -> Verdict:
        """Shorthand."""
        return self.judgement.verdict


def load(paths: Iterable[Path]) -> Loaded:
    """Return the results in files and folders; raise UsageError when a path does not exist or holds none at all.

    What is no result is kept with the reason and stops nothing.
    """
    results: list[Result] = []
    planned: list[str] = []
    unreadable: list[InvalidError] = []
    for path in paths:
        if not path.exists():
            raise UsageError(f"{path} does not exist", "name result files, or the output directory of a run")
        if (path / SUMMARY).is_file():
            planned.extend(read_plan(path).scenarios)
        for file in _files(path):
            try:
                results.append(parse_result(file.read_bytes(), str(file)))
            except InvalidError as error:
                unreadable.append(error)
    if not (results or planned or unreadable):
        raise UsageError("there are no results", "name result files, or the output directory of a run")
    return Loaded(tuple(results), tuple(dict.fromkeys(planned)), tuple(unreadable))


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    inside = path / "results" if (path / "results").is_dir() else path
    return sorted(file for file in inside.glob("*.json") if file.name != SUMMARY)


def verdicts(loaded: Loaded, threshold_s: float = DEFAULT_THRESHOLD_S) -> list[ScenarioVerdict]:
    """Return every expected scenario exactly once, in measuring order.

    Expected is what the runs planned, otherwise the 12 of IPv4; without a result it is an `error`. The other
    scenarios of the same ip families are `skipped`.
    """
    expected = [Scenario.parse(text) for text in loaded.planned] or scenarios()
    measured = {result.scenario: Scenario.parse(result.scenario) for result in loaded.results}
    families = sorted({scenario.ip_family for scenario in expected})
    known = dict.fromkeys([*scenarios(ip_families=families), *expected, *measured.values()])
    return [
        _verdict(scenario, [r for r in loaded.results if r.scenario == scenario.id], scenario in expected, threshold_s)
        for scenario in measuring_order(known)
    ]


def _verdict(scenario: Scenario, results: Sequence[Result], expected: bool, threshold_s: float) -> ScenarioVerdict:
    if not results:
        if expected:
            return ScenarioVerdict(scenario, Judgement(Verdict.ERROR, "missing: there is no result"), (), None)
        return ScenarioVerdict(scenario, Judgement(Verdict.SKIPPED, "not asked for"), (), None)
    judged = sorted(((judge(r, threshold_s), r) for r in results), key=lambda pair: -_size(pair[1]))
    judgement = worst([judgement for judgement, _ in judged])
    decisive = next(result for candidate, result in judged if candidate == judgement)
    return ScenarioVerdict(scenario, judgement, tuple(results), decisive)


def _size(result: Result) -> float:
    """Return what makes a result worse among those of the same verdict: not recovered, then the largest number."""
    measured = result.measurement
    if measured is None:
        return -1.0
    return float("inf") if measured.stuntime_s is None else measured.stuntime_s
