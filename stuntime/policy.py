"""What results are judged by: a thresholds file, a baseline, published ranges. Each may be absent."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from stuntime.baseline import Baseline, read_baseline
from stuntime.conditions import Conditions
from stuntime.published import Published, PublishedRange, read_published
from stuntime.ranges import Range
from stuntime.scenario import Scenario
from stuntime.threshold import Threshold, threshold_of
from stuntime.thresholds_file import ThresholdsFile, read_thresholds


@dataclass(frozen=True)
class Policy:
    """What results are judged by."""

    thresholds_file: ThresholdsFile = field(default_factory=ThresholdsFile)
    baseline: Baseline | None = None
    published: Published | None = None

    def threshold_of(self, scenario: Scenario) -> Threshold:
        """Return the largest stuntime that passes."""
        baseline = self.baseline_of(scenario)
        return threshold_of(scenario, self.thresholds_file.thresholds, baseline.largest_s if baseline else None)

    def baseline_of(self, scenario: Scenario) -> Range | None:
        """Return the values of the scenario in the baseline."""
        return self.baseline.scenarios.get(scenario.id) if self.baseline else None

    def published_of(self, scenario: Scenario) -> PublishedRange | None:
        """Return the published range of the scenario."""
        return self._published.get(scenario.id)

    @cached_property
    def _published(self) -> dict[str, PublishedRange]:
        return {found.scenario: found for found in self.published.ranges} if self.published else {}

    def references(self) -> Iterable[tuple[str, Conditions]]:
        """Return what there is to compare with, and the conditions it was measured under."""
        if self.baseline:
            yield f"the baseline of {self.baseline.conditions.cluster_id}", self.baseline.conditions
        if self.published:
            yield "the published ranges", self.published.conditions


def read_policy(thresholds: Path | None, baseline: Path | None, published: Path | None) -> Policy:
    """Return the policy in these files; raise UsageError when one of them cannot be used."""
    return Policy(
        read_thresholds(thresholds) if thresholds else ThresholdsFile(),
        read_baseline(baseline) if baseline else None,
        read_published(published) if published else None,
    )
