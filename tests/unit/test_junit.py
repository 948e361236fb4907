"""What Jenkins and ReportPortal read of the JUnit file, line by line."""

import re
from datetime import datetime
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from junitparser import Error, Failure, JUnitXml, Skipped

from stuntime.aggregate import aggregate
from stuntime.documents import load
from stuntime.errors import UsageError
from stuntime.junit import junit_xml
from stuntime.policy import Policy, read_policy
from stuntime.published import published_of
from stuntime.requirements import read_requirements
from stuntime.result import to_json
from tests.results import EVERY_VERDICT, SANDBOX, SCENARIO, document, plan, write


def written(*folders, workspace=Path(), policy=None, **options):
    found = aggregate(load(folders), policy or Policy(), **options)
    details = {v.scenario.id: v.decisive.whole() for v in found.verdicts if v.decisive}
    return junit_xml(found, details, read_requirements(), workspace)


@pytest.fixture(scope="module")
def text():
    return written(EVERY_VERDICT, workspace=EVERY_VERDICT)


@pytest.fixture(scope="module")
def root(text):
    return ET.fromstring(text)  # noqa: S314 - our own


@pytest.fixture(scope="module")
def cases(root):
    return {case.get("name"): case for case in root.iter("testcase")}


def properties(case):
    return [(found.get("name"), found.get("value")) for found in case.find("properties")]


def test_an_independent_parser_reads_the_same(text):
    """Another parser counts the cases, failures, errors and skipped ones that the verdicts are."""
    suites = JUnitXml.fromstring(text)
    kinds = [type(case.result[0]) if case.result else None for suite in suites for case in suite]
    assert [kinds.count(kind) for kind in (Failure, Error, Skipped, None)] == [2, 6, 1, 4]
    for suite in suites:
        told = (suite.tests, suite.failures, suite.errors, suite.skipped)
        suite.update_statistics()
        assert told == (suite.tests, suite.failures, suite.errors, suite.skipped)


def test_flat_suites_that_are_not_empty(root):
    """One suite per network, with cases, none nested, no name twice: a nested or empty one kills an import."""
    assert [suite.get("name") for suite in root] == ["linux-bridge", "ovn-localnet", "documents"]
    for suite in root:
        assert suite.tag == "testsuite"
        assert {child.tag for child in suite} == {"testcase"}


def test_names_hold_no_values(cases):
    """History hangs on classname and name: the classname is stuntime.NETWORK, the name the scenario's id."""
    assert len(cases) == 13
    for name, case in cases.items():
        if name != "readable":
            assert case.get("classname") == f"stuntime.{name.split('.')[0]}"


def test_times(root):
    """Suites and cases have a time with three digits and a timestamp in ISO 8601 with offset."""
    for element in [*root, *root.iter("testcase")]:
        assert re.fullmatch(r"\d+\.\d{3}", element.get("time"))
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", element.get("timestamp"))
        assert datetime.fromisoformat(element.get("timestamp")).tzinfo


def test_the_sentence_is_the_message_and_the_first_line_of_the_body(cases):
    """Jenkins shows the message, ReportPortal only the text."""
    told = 0
    for case in cases.values():
        for found in (*case.findall("failure"), *case.findall("error")):
            assert found.get("message")
            assert found.text.splitlines()[0] == found.get("message")
            told += 1
    assert told == 8


def test_kinds(cases):
    """Over the threshold and not recovered are failures; trouble and missing are errors; not asked for is skipped."""
    kinds = {
        name: [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        for name, case in cases.items()
    }
    assert kinds["linux-bridge.from-static-node.static.ipv4"] == ["failure"]
    assert kinds["linux-bridge.to-static-node.migrated.ipv4"] == ["failure"]
    assert kinds["linux-bridge.to-static-node.static.ipv4"] == ["error"]
    assert kinds["ovn-localnet.from-static-node.migrated.ipv4"] == ["error"]
    assert kinds["ovn-localnet.to-static-node.static.ipv4"] == ["skipped"]
    assert kinds["linux-bridge.from-static-node.migrated.ipv4"] == []
    assert kinds["readable"] == ["error"]


def test_properties_hold_the_numbers():
    """Numbers, bounds, both views, threshold, nodes, migration, tier, priority and requirement are properties."""
    name = "ovn-localnet.from-static-node.static.ipv4"
    case = next(c for c in ET.fromstring(written(SANDBOX)).iter("testcase") if c.get("name") == name)  # noqa: S314
    found = dict(properties(case))
    assert found["stuntime_s"] == "0.419"
    assert found["initiator_view_s"] == "0.418"
    assert found["upper_bound_s"] == "0.419"
    assert {"lower_bound_s", "spacing_s", "noise_s", "probes_lost", "migration_uid", "migration_ordinal"} <= set(found)
    assert found["threshold_s"] == "5.000"
    assert found["nodes"] == "node-a node-b node-c"
    assert found["migration"] == "node-a to node-b"
    assert (found["tier"], found["priority"], found["requirement"]) == ("2", "P0", "CNV-72773")
    assert found["polarion-testcase-id"] == "CNV-15261"


def test_attributes_for_reportportal(cases):
    """An attribute is `key:value` with no further colon; between properties stands no text, which would be one."""
    for name, case in cases.items():
        if name == "readable":
            continue
        attributes = [value for key, value in properties(case) if key == "attribute"]
        assert all(re.fullmatch(r"[^:]+:[^:]+", value) for value in attributes)
        assert {"tier:2", "priority:P0", "requirement:CNV-72773"} <= set(attributes)
        element = case.find("properties")
        assert not element.text
        assert not any(found.tail for found in element)


def test_attachments_are_last_and_short(cases):
    """system-out stays below Jenkins' cut; its last lines are attachments that exist, relative to the workspace."""
    attached = 0
    for case in cases.values():
        out = case.findtext("system-out")
        if out is None:
            continue
        assert len(out) < 1000
        lines = out.splitlines()
        files = [re.fullmatch(r"\[\[ATTACHMENT\|(.+)\]\]", line) for line in lines]
        assert all(files[index] for index in range(1, len(lines)))
        for found in filter(None, files):
            assert not Path(found[1]).is_absolute()
            assert (EVERY_VERDICT / found[1]).is_file()
            attached += 1
    assert attached > 10


def test_evidence_outside_the_workspace_is_named_absolutely(tmp_path):
    """What does not lie in the workspace has no path in it."""
    text = written(SANDBOX, workspace=tmp_path).decode()
    assert f"[[ATTACHMENT|{SANDBOX}/evidence/" in text


def test_no_character_that_xml_forbids(tmp_path):
    """Messages from consoles are full of ESC; the file can be read all the same."""
    error = {"reason": "x", "message": "\x1b[31mred\x00\ufffe \ud7ff]]>&<", "way_out": "\x0bup", "exit_code": 5}
    plan(write(tmp_path, document(error=error, run="r\x07")), [SCENARIO], run="r\x07")
    text = written(tmp_path)
    found = ET.fromstring(text)  # noqa: S314
    assert "red" in found.find(".//error").get("message")


def test_families_not_asked_for_are_absent(tmp_path):
    """Without IPv6 in the plan there is no case of it; with it there are all."""
    ids = [SCENARIO.replace("ipv4", family) for family in ("ipv4", "ipv6")]
    four = ET.fromstring(written(plan(tmp_path / "4", ids[:1])))  # noqa: S314
    six = ET.fromstring(written(plan(tmp_path / "6", ids)))  # noqa: S314
    assert len(list(four.iter("testcase"))) == 12
    assert len(list(six.iter("testcase"))) == 24


def test_published_range_and_baseline_are_properties(tmp_path):
    """What a verdict is judged by stands beside it."""
    file = tmp_path / "published.json"
    file.write_bytes(to_json(published_of(load([SANDBOX]), None)))
    text = written(SANDBOX, policy=read_policy(None, None, file)).decode()
    assert 'name="published_s" value="0.4 to 0.5"' in text


def test_a_lab_may_have_other_requirements(tmp_path):
    """The mapping can be replaced; one that cannot be is refused with its line."""
    file = tmp_path / "requirements.yaml"
    file.write_text(f"requirement: ABC-1\ncases:\n  {SCENARIO}: ABC-2\n")
    found = read_requirements(file)
    assert (found.requirement, found.tier, found.cases) == ("ABC-1", None, {SCENARIO: "ABC-2"})
    for text in ("cases:\n  nonsense: A-1", f"cases:\n  {SCENARIO}: 'a:b'", "other: x", "cases:\n  - x"):
        file.write_text(text)
        with pytest.raises(UsageError, match=r"yaml:[12]:"):
            read_requirements(file)


def test_no_case_fails_silently_when_its_sentence_is_empty(tmp_path):
    """A failure with neither message nor text would vanish and the case pass: the sentence is never empty."""
    error = {"reason": "", "message": "\x1b", "way_out": "", "exit_code": 5}
    found = ET.fromstring(written(plan(write(tmp_path, document(error=error)), [SCENARIO])))  # noqa: S314
    assert found.find(".//testcase/error").get("message").strip()
