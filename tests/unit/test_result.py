"""The document: what it refuses, and that it is read back as it was written."""

import json
from pathlib import Path

import msgspec
import pytest

from stuntime.errors import InvalidError
from stuntime.outage import analyze
from stuntime.ping import parse_ping_log
from stuntime.result import SCHEMA_VERSION, Result, parse_result, rounded, to_json
from tests.unit.pinglog import log_lines, probes

VERSIONS = Path(__file__).parent.parent / "data" / "results" / "versions"


def result(**changes) -> Result:
    measured = analyze(parse_ping_log(log_lines(probes(60, lost=(31, 32)))))
    document = Result(
        tool_version="0.1.0",
        scenario="linux-bridge.from-static-node.static.ipv4",
        run="a-run",
        repetition=1,
        started="2026-03-04T10:11:12+00:00",
        duration_s=7.0,
        interval_s=0.1,
        recovery_probes=None,
        recovery_timeout_s=60.0,
        measurement=measured,
    )
    return msgspec.structs.replace(document, **changes)


def test_a_document_is_read_back_as_it_was_written() -> None:
    """Writing what was read gives the same bytes."""
    text = to_json(result())
    assert to_json(parse_result(text, "here")) == text


def test_numbers_are_rounded_on_purpose() -> None:
    """Durations have milliseconds, times microseconds, and nothing more."""
    document = {"a_s": 0.123456, "bounds_s": {"lower": 0.98765}, "end": 1.23456789, "list": [{"b_s": 1 / 3}]}
    assert rounded(document) == {
        "a_s": 0.123,
        "bounds_s": {"lower": 0.988},
        "end": 1.234568,
        "list": [{"b_s": 0.333}],
    }


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"surprise": 1}, "result-foreign"),
        ({"schema_version": SCHEMA_VERSION + 1, "surprise": 1}, "result-newer"),
        ({"repetition": "one"}, "result-foreign"),
        ({"measurement": {"stuntime_s": 1}}, "result-foreign"),
    ],
)
def test_what_this_version_never_wrote_is_refused(change: dict, reason: str) -> None:
    """Unknown fields, wrong types and newer versions are refused, and the file is named."""
    document = {**json.loads(to_json(result())), **change}
    with pytest.raises(InvalidError, match="here") as refused:
        parse_result(json.dumps(document).encode(), "here")
    assert refused.value.reason == reason


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b'{"schema_version": 1,'])
def test_torn_documents_are_told(text: bytes) -> None:
    """A document that is no JSON is torn."""
    with pytest.raises(InvalidError) as refused:
        parse_result(text, "here")
    assert refused.value.reason == "result-torn"


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION + 1))
def test_every_version_is_read_for_ever(version: int) -> None:
    """A sample of each schema version is still read."""
    samples = list(VERSIONS.glob(f"v{version}-*.json"))
    assert samples
    for sample in samples:
        assert parse_result(sample.read_bytes(), sample.name).schema_version == version
