"""Verdicts as JUnit XML that both Jenkins and ReportPortal take: one flat suite per network, every case present.

Jenkins' history hangs on classname and name, so no value is in them; it cuts long output in the middle, so what it is
to attach stands last. ReportPortal logs only the body of a failure, so the sentence stands there too, keeps no property
but `attribute`, takes any text between them for a description, and aborts an import on a suite without cases or on a
time it cannot read.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from xml.etree import ElementTree as ET

from junit_xml import TestCase, TestSuite

from stuntime.aggregate import Aggregate, ScenarioVerdict
from stuntime.requirements import Requirements
from stuntime.result import Result
from stuntime.text import printable
from stuntime.threshold import Verdict

_STDOUT_LIMIT = 900
_SHOWN_REPETITIONS = 20


def junit_xml(
    aggregate: Aggregate, details: Mapping[str, Result], requirements: Requirements, workspace: Path
) -> bytes:
    """Return the JUnit document.

    `details` are the decisive results by scenario id; evidence below `workspace` is attached relative to it.
    """
    suites = ET.Element("testsuites")
    now = _earliest(aggregate.verdicts) or datetime.now(UTC)
    for network, verdicts in groupby(aggregate.verdicts, key=lambda verdict: verdict.scenario.network):
        suites.append(_suite(network, list(verdicts), details, requirements, workspace, now))
    unattributed = [found for found in aggregate.unreadable if found.scenario is None]
    if unattributed:
        case = TestCase("readable", classname="stuntime.documents")
        sentence = f"{len(unattributed)} of the documents could not be read"
        case.add_error_info(sentence, "\n".join([sentence, *(printable(str(found.error)) for found in unattributed)]))
        suite: ET.Element = TestSuite("documents", [case]).build_xml_doc()
        for element in (suite, suite[0]):
            element.set("time", "0.000")
            element.set("timestamp", _iso(now))
        suites.append(suite)
    for element in list(suites.iter()):
        _indent(element, suites)
    text: bytes = ET.tostring(suites, encoding="utf-8", xml_declaration=True)
    ET.fromstring(text)  # noqa: S314 - our own; it must be well-formed before it counts as written
    return text + b"\n"


def _indent(element: ET.Element, root: ET.Element) -> None:
    """Put each element on a line of its own; nothing between properties, where text would be a description."""
    if element.tag != "properties" and len(element):
        element.text = "\n"
        for child in element:
            child.tail = "\n"
    if element is root:
        element.tail = None


def _suite(
    network: str,
    verdicts: Sequence[ScenarioVerdict],
    details: Mapping[str, Result],
    requirements: Requirements,
    workspace: Path,
    now: datetime,
) -> ET.Element:
    suite = TestSuite(network, [_case(verdict, details) for verdict in verdicts])
    element: ET.Element = suite.build_xml_doc()
    element.set("time", f"{sum(_duration_s(verdict) for verdict in verdicts):.3f}")
    element.set("timestamp", _iso(_earliest(verdicts) or now))
    for case, verdict in zip(element.iter("testcase"), verdicts, strict=True):
        detail = details.get(verdict.scenario.id)
        case.set("time", f"{_duration_s(verdict):.3f}")
        case.set("timestamp", _iso(_earliest([verdict]) or now))
        case.insert(0, _properties(verdict, detail, requirements))
        if verdict.decisive is not None and detail is not None:
            files = [verdict.decisive.root / file.file for file in detail.evidence]
            if stdout := _system_out(verdict, files, workspace):
                ET.SubElement(case, "system-out").text = printable(stdout)
    return element


def _case(verdict: ScenarioVerdict, details: Mapping[str, Result]) -> TestCase:
    sentence = printable(verdict.judgement.sentence)
    case = TestCase(verdict.scenario.id, classname=f"stuntime.{verdict.scenario.network}")
    match verdict.verdict:
        case Verdict.FAIL:
            case.add_failure_info(sentence, _body(verdict, details))
        case Verdict.ERROR:
            case.add_error_info(sentence, _body(verdict, details))
        case Verdict.SKIPPED:
            case.add_skipped_info(sentence)
    return case


def _body(verdict: ScenarioVerdict, details: Mapping[str, Result]) -> str:
    """Return the sentence again, the way out, and what else is wrong with other repetitions."""
    lines = [verdict.judgement.sentence]
    detail = details.get(verdict.scenario.id)
    if detail is not None and detail.error is not None:
        lines.append(detail.error.way_out)
    lines.append(f"threshold: {verdict.threshold}")
    lines += [f"{file}: {why}" for file, why in verdict.invalid[:_SHOWN_REPETITIONS]]
    return printable("\n".join(lines))


def _properties(verdict: ScenarioVerdict, detail: Result | None, requirements: Requirements) -> ET.Element:
    element = ET.Element("properties")
    scenario = verdict.scenario
    attributes = {
        "network": scenario.network,
        "path": scenario.path,
        "initiator": scenario.initiator,
        "ip-family": scenario.ip_family,
        "verdict": str(verdict.verdict),
        "tier": requirements.tier,
        "priority": requirements.priority,
        "requirement": requirements.requirement,
    }
    values = [("attribute", f"{key}:{value}") for key, value in attributes.items() if value is not None]
    values += [(name, value) for name in ("tier", "priority", "requirement") if (value := attributes[name]) is not None]
    if case := requirements.cases.get(scenario.id):
        values.append(("polarion-testcase-id", case))
    values += _judged(verdict)
    values += _numbers(detail) if detail else []
    for name, value in values:
        ET.SubElement(element, "property", name=name, value=printable(value))
    return element


def _judged(verdict: ScenarioVerdict) -> Iterable[tuple[str, str]]:
    yield "threshold_s", f"{verdict.threshold.seconds:.3f}"
    yield "threshold_from", verdict.threshold.origin
    if verdict.baseline is not None:
        yield "baseline_largest_s", f"{verdict.baseline.largest_s:.3f}"
        yield "baseline_n", str(verdict.baseline.n)
    if verdict.published is not None:
        yield "published_s", f"{verdict.published.from_s:g} to {verdict.published.to_s:g}"
    if verdict.documents:
        yield "repetitions", str(len(verdict.documents))
    if verdict.stuntime is not None and verdict.stuntime.n > 1:
        yield "stuntime_range_s", f"{verdict.stuntime.smallest_s:.3f} to {verdict.stuntime.largest_s:.3f}"
        yield "stuntime_median_s", f"{verdict.stuntime.median_s:.3f}"


def _numbers(result: Result) -> Iterable[tuple[str, str]]:
    measured, moved, environment = result.measurement, result.migration, result.environment
    if measured is not None:
        for name in ("stuntime_s", "initiator_view_s", "spacing_s", "noise_s"):
            value = getattr(measured, name)
            yield name, "none" if value is None else f"{value:.3f}"
        if measured.bounds_s is not None:
            yield "lower_bound_s", f"{measured.bounds_s.lower:.3f}"
            yield "upper_bound_s", "none" if measured.bounds_s.upper is None else f"{measured.bounds_s.upper:.3f}"
        for name in ("probes_sent", "probes_answered", "probes_lost", "probes_in_flight"):
            yield name, str(getattr(measured, name))
        if measured.reasons:
            yield "reasons", " ".join(measured.reasons)
    if moved is None:
        yield "migration", "none"
    else:
        yield "migration", f"{moved.source} to {moved.target}"
        yield "migration_uid", moved.uid
        yield "migration_mode", moved.mode
        yield "migration_ordinal", str(moved.ordinal)
        if moved.started is not None and moved.ended is not None:
            yield "migration_s", f"{moved.ended - moved.started:.3f}"
    if environment is not None:
        yield "testbed", environment.testbed
        yield "cluster_id", environment.cluster_id
        yield "nodes", " ".join(sorted(environment.nodes))
    yield "run", result.run
    yield "repetition", str(result.repetition)


def _system_out(verdict: ScenarioVerdict, files: Sequence[Path], workspace: Path) -> str:
    """Return the verdict and, last, the attachments; as many as fit below Jenkins' cut."""
    first = verdict.judgement.sentence[: _STDOUT_LIMIT // 3]
    attached = [f"[[ATTACHMENT|{_in_workspace(file, workspace)}]]" for file in files]
    while attached and len("\n".join([first, *attached])) > _STDOUT_LIMIT:
        attached.pop()
    return "\n".join([first, *attached])


def _in_workspace(file: Path, workspace: Path) -> str:
    """Return a path relative to the workspace; the absolute one when it lies elsewhere."""
    absolute = os.path.abspath(file)  # noqa: PTH100 - a link is attached under its own name
    relative = os.path.relpath(absolute, workspace.absolute())
    return absolute if relative.startswith("..") else relative


def _duration_s(verdict: ScenarioVerdict) -> float:
    return sum(document.result.duration_s for document in verdict.documents)


def _earliest(verdicts: Iterable[ScenarioVerdict]) -> datetime | None:
    return min((document.started for verdict in verdicts for document in verdict.documents), default=None)


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")
