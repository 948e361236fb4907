"""The page is whole in itself, and readable by whoever cannot see it or gets it without its style."""

import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from stuntime.aggregate import aggregate
from stuntime.baseline import baseline_of
from stuntime.documents import load
from stuntime.policy import Policy
from stuntime.report import page
from stuntime.report.drawing import nice_step
from stuntime.report.evidence import read_evidence
from tests.results import EVERY_VERDICT, SANDBOX, SCENARIO, copy_of, document, plan, write

VOID = {"meta", "link", "br"}


def written(*folders, baseline=None, **options):
    policy = Policy(baseline=baseline)
    found = aggregate(load(folders), policy, **options)
    return page(found, {v.scenario.id: v.decisive.whole() for v in found.verdicts if v.decisive}, policy).decode()


class Reader(HTMLParser):
    """All elements with their attributes, the text, and what was opened and never closed."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.shown, self.wrong = [], [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        """Note it."""
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        """Note it."""
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        """Note it."""
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        """Note it."""
        if "style" not in self.open:
            self.shown += data

    def of(self, tag):
        """Return the attributes of all elements of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module", params=[SANDBOX, EVERY_VERDICT], ids=lambda path: path.name)
def text(request):
    return written(request.param)


def test_elements_nest(text):
    """Every element is closed where it was opened."""
    read = Reader(text)
    assert (read.open, read.wrong) == ([], [])


def test_nothing_is_asked_of_anybody(text):
    """No script, no frame, no address: it works from an attachment, and where a policy forbids all that."""
    read = Reader(text)
    assert not {"script", "iframe", "object", "embed", "img", "base", "form"} & {name for name, _ in read.elements}
    for _, attributes in read.elements:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:,"))
    assert not re.search(r"url\(|@import|https?:(?!//www\.w3\.org)", text)


def test_the_look_of_drawings_is_in_attributes(text):
    """Where a policy forbids styles the drawings still show: no style attribute anywhere."""
    read = Reader(text)
    assert not any("style" in attributes for _, attributes in read.elements)
    for svg in read.of("svg"):
        assert {"width", "height", "viewbox", "role", "aria-label"} <= set(svg)


def test_tables_and_drawings_have_names(text):
    """Tables have captions and scopes, drawings a title and a description, the page a language."""
    read = Reader(text)
    assert len(read.of("caption")) == len(read.of("table"))
    assert all(attributes.get("scope") in ("col", "row") for attributes in read.of("th"))
    assert len(read.of("svg")) * 2 == len(read.of("title")) - 1 + len(read.of("desc"))
    assert read.of("html")[0]["lang"] == "en"


def test_links_lead_somewhere(text):
    """Every link is to a place on the page; no id stands twice."""
    read = Reader(text)
    ids = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {a["href"].removeprefix("#") for a in read.of("a")} <= set(ids)


def test_it_says_all_that_was_asked_for():
    """Verdicts, ranges, both views, thresholds, baseline, exit criteria, environment and what was invalid are there."""
    baseline = baseline_of(load([SANDBOX]), author="A. Person", created="2026-11-24", at_least=1)
    read = Reader(written(SANDBOX, baseline=baseline))
    for said in (
        "All 12 scenarios passed",
        "0.419 s",
        "initiator's view",
        "1.676 s (the baseline)",
        "A. Person",
        "qemu",
        "met:",
    ):
        assert said in read.shown
    assert "not met" not in read.shown
    read = Reader(written(EVERY_VERDICT))
    for said in (
        "2 of 11 scenarios failed, 5 without a verdict",
        "never recovered",
        "observer-incomplete",
        "newer.json was written by a newer stuntime",
        "not met: All expected scenarios",
        "none was given (--baseline)",
        "timeout",
    ):
        assert re.sub(r"\s+", " ", said) in re.sub(r"\s+", " ", read.shown)
    assert "\x1b" not in read.shown


def test_a_zero_says_what_could_hide_in_it(tmp_path):
    """In the matrix a 0 stands with the longest outage that could lie between two probes."""
    measured = {"bounds_s": {"lower": 0.0, "upper": 0.187}, "outages": [], "gaps": []}
    page = written(write(tmp_path, document(stuntime_s=0.0, measurement=measured)))
    assert "0.187 s (between two probes)" in page


def test_what_results_say_is_text(tmp_path):
    """Whatever a document holds, it is shown and never becomes markup."""
    error = {"reason": "<b>", "message": "<script>alert(1)</script>", "way_out": "&amp;", "exit_code": 5}
    read = Reader(written(write(tmp_path, document(error=error))))
    assert "<script>alert(1)</script>" in read.shown
    assert not read.of("script")


def test_the_verdict_is_never_in_colour_alone(text):
    """Each verdict has its word and a mark beside its colour."""
    for word in re.findall(r'class="verdict (\w+)"', text):
        assert re.search(rf'class="verdict {word}"><span aria-hidden="true">[^<]+</span> {word}<', text)


def test_probes_are_drawn_from_the_evidence():
    """All answered and lost probes of the log are known, on the clock of the outage they lie in."""
    result = next(d for d in load([SANDBOX]).documents if d.result.scenario == SCENARIO).whole()
    evidence = read_evidence(result, SANDBOX)
    measured = result.measurement
    assert evidence.intact
    assert (len(evidence.answered), len(evidence.lost)) == (measured.probes_answered, measured.probes_lost)
    outage = measured.outages[0]
    assert all(outage.start < time < outage.end for time in evidence.lost)
    assert not any(outage.start + 1e-6 < time < outage.end - 1e-6 for time in evidence.answered)


def test_clock_steps_and_the_second_ip_family_are_shown(tmp_path):
    """A step of the clock is an event of the drawing; IPv6 is a matrix of its own."""
    requested = document()["migration"]["requested"]
    steps = {"clock_steps": [[requested + 0.1, -1.5]]}
    six = SCENARIO.replace("ipv4", "ipv6")
    read = Reader(written(plan(write(tmp_path, document(measurement=steps), document(six)), [SCENARIO, six])))
    assert "clock stepped by -1.500 s: +0.100 s" in read.shown
    for name in ("linux-bridge, ipv4", "linux-bridge, ipv6", "ovn-localnet, ipv6"):
        assert name in read.shown


def test_evidence_that_is_changed_or_gone_is_said(tmp_path):
    """A file that is not what the result lists is not drawn from, and named."""
    folder = copy_of(SANDBOX, tmp_path)
    (folder / "evidence" / SCENARIO / "ping.log").write_text("changed")
    (folder / "evidence" / SCENARIO / "observer.log").unlink()
    read = Reader(written(folder))
    assert "observer.log (missing), ping.log (changed)" in read.shown
    assert "the logs are not here" in read.shown
    assert "of 11 all files are here and unchanged" in read.shown


def test_drawings_are_wellformed_and_hold_their_texts():
    """SVG is XML, and no text in it begins or ends outside."""
    drawings = re.findall(r"<svg.*?</svg>", written(SANDBOX), re.DOTALL)
    assert len(drawings) == 24
    for drawing in drawings:
        svg = ET.fromstring(drawing)  # noqa: S314
        width, height = map(float, svg.get("viewBox").split()[2:])
        for text in svg.iter("text"):
            half = (
                len(text.text) * float(text.get("font-size")) * 0.6 / (1 if text.get("text-anchor") == "start" else 2)
            )
            assert 0 <= float(text.get("y")) <= height
            assert float(text.get("x")) + half <= width


@pytest.mark.parametrize(("least", "step"), [(0.1, 0.1), (0.11, 0.2), (0.3, 0.5), (0.7, 1.0), (12, 20)])
def test_axis_steps_are_round(least, step):
    """Ticks are at 1, 2, 5 times a power of ten."""
    assert nice_step(least) == pytest.approx(step)


def test_a_hundred_repetitions_are_one_page(tmp_path):
    """Many values stay readable: the largest are listed, and how many there are."""
    write(tmp_path, *(document(repetition=n, stuntime_s=n / 1000) for n in range(1, 101)))
    read = Reader(written(tmp_path, expect=SCENARIO))
    assert "(the largest 40 of 100)" in read.shown
    assert len(read.shown) < Path(__file__).stat().st_size * 2
