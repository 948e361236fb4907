"""Verdicts as JUnit XML that both Jenkins and ReportPortal take: one flat suite per network, every case present.

Jenkins' history hangs on classname and name, so no value is in them. ReportPortal logs only the body of a failure, so
the sentence stands there too, and aborts an import on a suite without cases or on a time it cannot read.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from xml.etree import ElementTree as ET

from junit_xml import TestCase, TestSuite

from stuntime.aggregate import ScenarioVerdict
from stuntime.result import Result
from stuntime.threshold import Verdict

_STDOUT_LIMIT = 900


def junit_xml(verdicts: Sequence[ScenarioVerdict], root: Path | None = None) -> bytes:
    """Return the JUnit document; evidence is attached relative to `root`, the folder that the results lie in."""
    suites = ET.Element("testsuites")
    for network, cases in groupby(verdicts, key=lambda verdict: verdict.scenario.network):
        suites.append(_suite(network, list(cases), root))
    ET.indent(suites)
    text: bytes = ET.tostring(suites, encoding="utf-8", xml_declaration=True)
    ET.fromstring(text)  # noqa: S314 - our own; it must be well-formed before it counts as written
    return text + b"\n"


def _suite(network: str, verdicts: Sequence[ScenarioVerdict], root: Path | None) -> ET.Element:
    suite = TestSuite(network, [_case(verdict) for verdict in verdicts], timestamp=_earliest(verdicts))
    element: ET.Element = suite.build_xml_doc()
    element.set("time", f"{sum(_duration_s(verdict) for verdict in verdicts):.3f}")
    for case, verdict in zip(element.iter("testcase"), verdicts, strict=True):
        case.set("time", f"{_duration_s(verdict):.3f}")
        case.set("timestamp", _started(verdict.worst))
        case.insert(0, _properties(verdict))
        if stdout := _system_out(verdict, root):
            ET.SubElement(case, "system-out").text = stdout
    return element


def _case(verdict: ScenarioVerdict) -> TestCase:
    sentence = verdict.judgement.sentence
    case = TestCase(verdict.scenario.id, classname=f"stuntime.{verdict.scenario.network}")
    match verdict.verdict:
        case Verdict.FAIL:
            case.add_failure_info(sentence, _body(verdict))
        case Verdict.ERROR:
            case.add_error_info(sentence, _body(verdict))
        case Verdict.SKIPPED:
            case.add_skipped_info(sentence)
    return case


def _body(verdict: ScenarioVerdict) -> str:
    lines = [verdict.judgement.sentence]
    if verdict.worst is not None and verdict.worst.error is not None:
        lines.append(verdict.worst.error.way_out)
    return "\n".join(lines)


def _properties(verdict: ScenarioVerdict) -> ET.Element:
    element = ET.Element("properties")
    scenario, result = verdict.scenario, verdict.worst
    attributes = (("network", scenario.network), ("path", scenario.path), ("initiator", scenario.initiator))
    values = [("attribute", f"{key}:{value}") for key, value in attributes]
    values += [("attribute", f"ip-family:{scenario.ip_family}"), ("attribute", f"verdict:{verdict.verdict}")]
    values += list(_numbers(result)) if result else []
    for name, value in values:
        ET.SubElement(element, "property", name=name, value=value)
    return element


def _numbers(result: Result) -> Iterable[tuple[str, str]]:
    measured, moved = result.measurement, result.migration
    if measured is not None:
        for name in ("stuntime_s", "initiator_view_s", "spacing_s", "noise_s"):
            value = getattr(measured, name)
            yield name, "none" if value is None else f"{value:.3f}"
        if measured.bounds_s is not None:
            yield "lower_bound_s", f"{measured.bounds_s.lower:.3f}"
        for name in ("probes_sent", "probes_answered", "probes_lost", "probes_in_flight"):
            yield name, str(getattr(measured, name))
        if measured.reasons:
            yield "reasons", " ".join(measured.reasons)
    if moved is not None:
        yield "migration", f"{moved.source} to {moved.target}"
    yield "run", result.run


def _system_out(verdict: ScenarioVerdict, root: Path | None) -> str:
    """Return one line per repetition and, last, the attachments: Jenkins cuts long output in its middle."""
    result = verdict.worst
    if result is None:
        return ""
    files = [f"[[ATTACHMENT|{root / file.file if root else file.file}]]" for file in result.evidence]
    while files and len("\n".join(files)) > _STDOUT_LIMIT:
        files.pop()
    return "\n".join(files)


def _duration_s(verdict: ScenarioVerdict) -> float:
    return sum(result.duration_s for result in verdict.results)


def _started(result: Result | None) -> str:
    return result.started if result else datetime.now(UTC).isoformat(timespec="seconds")


def _earliest(verdicts: Sequence[ScenarioVerdict]) -> str:
    known = [result.started for verdict in verdicts for result in verdict.results]
    return min(known, key=datetime.fromisoformat) if known else _started(None)
