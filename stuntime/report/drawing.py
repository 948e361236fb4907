"""The page's drawings: SVG whose look is in attributes, so that it shows where styles are forbidden. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import floor, log10
from xml.etree import ElementTree as ET

from stuntime.ranges import Range
from stuntime.report.evidence import Evidence
from stuntime.result import Result
from stuntime.text import printable

#: Colours that stand out on white and on black alike; everything else is drawn in the colour of the text.
OUTAGE, MIGRATION, PAUSED, BASELINE, LIMIT = "#d64545", "#3d85c6", "#9a6ad6", "#3d9a6a", "#d08a1e"
_WIDTH, _LEFT, _RIGHT = 480.0, 6.0, 474.0


@dataclass(frozen=True)
class Moment:
    """Something that happened: its number in the drawing, what, and when after the migration was asked for."""

    number: int
    what: str
    after_s: float
    drawn: bool


@dataclass(frozen=True)
class _Scale:
    begin: float
    end: float

    def __call__(self, time: float) -> float:
        share = (time - self.begin) / (self.end - self.begin)
        return round(_LEFT + min(1.0, max(0.0, share)) * (_RIGHT - _LEFT), 1)

    def holds(self, time: float) -> bool:
        return self.begin <= time <= self.end


def timeline(result: Result, evidence: Evidence, name: str) -> tuple[str, list[Moment]] | None:
    """Return the drawing of a measurement and what its numbers stand for; None when there is nothing to draw.

    Above the whole log, below it the time around the longest outage, enlarged.
    """
    measured = result.measurement
    if measured is None:
        return None
    events = list(_events(result))
    probes = [*evidence.answered, *evidence.lost]
    times = [*probes, *(time for _, time in events), *(outage.start for outage in measured.outages)]
    times += [outage.end for outage in measured.outages if outage.end is not None]
    if len(times) < 2 or max(times) <= min(times):  # noqa: PLR2004 - a stretch of time has two ends
        return None
    whole = _Scale(min(times), max(times))
    zero = result.migration.requested if result.migration else whole.begin
    outages = [(outage.start, whole.end if outage.end is None else outage.end) for outage in measured.outages]
    zoom = _zoom(whole, outages, events)
    svg = _svg(_WIDTH, 196, name, _told(result))
    _overview(svg, whole, zoom, outages, events)
    for start, end in outages:
        if end > zoom.begin and start < zoom.end:
            _rect(svg, zoom(start), 44, zoom(end), 106, fill=OUTAGE, opacity="0.18")
            middle = min(max((zoom(start) + zoom(end)) / 2, _LEFT + 40), _RIGHT - 40)
            _text(svg, middle, 40, f"{end - start:.3f} s", size=12, **{"font-weight": "600"})
            for x in (zoom(start), zoom(end)):
                _line(svg, x, 44, x, 150, stroke=OUTAGE, **{"stroke-width": "1.5"})
    _probes(svg, zoom, evidence)
    _phases(svg, zoom, result)
    moments = _moments(svg, zoom, events, zero)
    _axis(svg, zoom, zero)
    return ET.tostring(svg, encoding="unicode"), moments


def _told(result: Result) -> str:
    measured = result.measurement
    if measured is None:
        return "Nothing was measured."
    number = (
        f"The longest outage lasted {measured.stuntime_s:.3f} s"
        if measured.stuntime_s is not None
        else "The VMs never talked again"
    )
    return (
        f"{number}; {measured.probes_sent} probes were sent, {measured.probes_answered} answered, "
        f"{measured.probes_lost} lost. The list beside the drawing says when what happened."
    )


def _events(result: Result) -> Iterable[tuple[str, float]]:
    """Return what happened and when, in order; what was reported for the same instant under several names is one."""
    moved, measured = result.migration, result.measurement
    named: list[tuple[float, str]] = []
    if moved is not None:
        named.append((moved.requested, "migration asked for"))
        named += [(time, name) for name, time in moved.phases.items()]
        named += [(moved.started, "reported start")] if moved.started is not None else []
        named += [(moved.ended, "reported end")] if moved.ended is not None else []
        named.append((moved.end_seen, "its end was seen"))
    if measured is not None:
        named += [(time, f"clock stepped by {step:+.3f} s") for time, step in measured.clock_steps]
    merged: dict[float, list[str]] = {}
    for time, name in sorted(named, key=lambda item: item[0]):
        merged.setdefault(time, []).append(name)
    return [(", ".join(names), time) for time, names in merged.items()]


def _zoom(whole: _Scale, outages: Sequence[tuple[float, float]], events: Sequence[tuple[str, float]]) -> _Scale:
    """Return the time around the longest outage; without one that of the migration; without that all."""
    if outages:
        start, end = max(outages, key=lambda outage: outage[1] - outage[0])
    elif events:
        start, end = events[0][1], events[-1][1]
    else:
        return whole
    margin = max(0.35, 0.8 * (end - start))
    return _Scale(max(whole.begin, start - margin), min(whole.end, end + margin))


def _overview(
    svg: ET.Element,
    whole: _Scale,
    zoom: _Scale,
    outages: Sequence[tuple[float, float]],
    events: Sequence[tuple[str, float]],
) -> None:
    _text(svg, _LEFT, 10, f"the whole log, {whole.end - whole.begin:.1f} s", anchor="start", size=10)
    _rect(svg, _LEFT, 16, _RIGHT, 24, fill="currentColor", opacity="0.15")
    for start, end in outages:
        _rect(svg, whole(start), 16, max(whole(end), whole(start) + 1.5), 24, fill=OUTAGE, opacity="1")
    for _, time in events:
        _line(svg, whole(time), 14, whole(time), 26, stroke="currentColor", opacity="0.6")
    for inner, outer in ((whole(zoom.begin), _LEFT), (whole(zoom.end), _RIGHT)):
        _line(svg, inner, 16, inner, 26, stroke="currentColor", opacity="0.6")
        _line(svg, inner, 26, outer, 42, stroke="currentColor", opacity="0.35", **{"stroke-dasharray": "3 2"})


def _probes(svg: ET.Element, zoom: _Scale, evidence: Evidence) -> None:
    if not evidence.answered:
        _text(svg, _WIDTH / 2, 62, "the logs are not here: no probes drawn", size=11)
        return
    for time in evidence.answered:
        if zoom.holds(time):
            _line(svg, zoom(time), 48, zoom(time), 68, stroke="currentColor", **{"stroke-width": "1.6"})
    for time in evidence.lost:
        if zoom.holds(time):
            x = zoom(time)
            for one, other in ((53, 63), (63, 53)):
                _line(svg, x - 5, one, x + 5, other, stroke=OUTAGE, **{"stroke-width": "2"})


def _phases(svg: ET.Element, zoom: _Scale, result: Result) -> None:
    """Draw the migration from its reported start to its end, and the time its VM was paused, if that was reported."""
    moved = result.migration
    if moved is None:
        return
    begin = moved.requested if moved.started is None else moved.started
    end = moved.end_seen if moved.ended is None else moved.ended
    if end > zoom.begin and begin < zoom.end:
        _rect(svg, zoom(begin), 80, max(zoom(end), zoom(begin) + 1), 94, fill=MIGRATION, opacity="0.75")
    paused, running = moved.phases.get("paused"), moved.phases.get("running")
    if paused is not None and running is not None and running > paused and running > zoom.begin and paused < zoom.end:
        _rect(svg, zoom(paused), 76, zoom(running), 98, fill=PAUSED, opacity="1")


def _moments(svg: ET.Element, zoom: _Scale, events: Sequence[tuple[str, float]], zero: float) -> list[Moment]:
    """Draw a numbered mark for each event, side by side where they are close, and return them."""
    moments = []
    last_x = [-99.0, -99.0, -99.0]
    for number, (what, time) in enumerate(events, 1):
        moments.append(Moment(number, what, time - zero, zoom.holds(time)))
        if not zoom.holds(time):
            continue
        x = zoom(time)
        row = next((row for row in range(3) if x - last_x[row] >= 16), min(range(3), key=lambda r: last_x[r]))  # noqa: PLR2004
        last_x[row] = x
        y = 116 + 17 * row
        _line(svg, x, 72, x, y - 7, stroke="currentColor", opacity="0.7")
        centre = min(max(x, _LEFT + 2), _RIGHT - 2)
        ET.SubElement(svg, "circle", cx=f"{centre}", cy=f"{y}", r="7.5", fill="currentColor", opacity="0.12")
        _text(svg, centre, y + 3.6, str(number), size=10)
    return moments


def _axis(svg: ET.Element, zoom: _Scale, zero: float) -> None:
    _line(svg, _LEFT, 170, _RIGHT, 170, stroke="currentColor", opacity="0.6")
    step = nice_step((zoom.end - zoom.begin) / 5)
    tick = (floor((zoom.begin - zero) / step) + 1) * step
    digits = max(0, -floor(log10(step)))
    while zero + tick < zoom.end:
        x = zoom(zero + tick)
        _line(svg, x, 167, x, 173, stroke="currentColor", opacity="0.6")
        if _LEFT + 16 < x < _RIGHT - 16:
            _text(svg, x, 188, "0" if abs(tick) < step / 2 else f"{tick:+.{digits}f} s", size=11)
        tick += step


def nice_step(least: float) -> float:
    """Return the smallest of 1, 2, 5 times a power of ten that is not below `least`."""
    power = 10.0 ** floor(log10(least))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least * (1 - 1e-9))


def range_bar(
    name: str, found: Range | None, baseline: Range | None, limit_s: float, *, widest_s: float, endless: bool
) -> str:
    """Return a small drawing of values against the baseline's range and the threshold, from 0 to `widest_s`."""
    width, left, right = 200.0, 4.0, 196.0
    largest = widest_s * 1.06

    def place(value: float) -> float:
        return round(left + value / largest * (right - left), 1)

    told = [f"values {found}" if found else "no value", f"threshold {limit_s:.3f} s"]
    told += [f"baseline {baseline}"] if baseline else []
    told += ["at least one never recovered"] if endless else []
    svg = _svg(width, 20, name, ", ".join(told))
    _line(svg, left, 10, right, 10, stroke="currentColor", opacity="0.35")
    if baseline:
        _rect(
            svg,
            place(baseline.smallest_s),
            5,
            max(place(baseline.largest_s), place(baseline.smallest_s) + 3),
            15,
            fill=BASELINE,
            opacity="0.55",
        )
    _line(svg, place(limit_s), 1, place(limit_s), 19, stroke=LIMIT, **{"stroke-width": "2.5"})
    for x in dict.fromkeys(place(value) for value in (found.values_s if found else ())):
        ET.SubElement(svg, "circle", cx=f"{x}", cy="10", r="3.2", fill="currentColor")
    if endless:
        ET.SubElement(svg, "path", d=f"M{right - 8} 4 L{right} 10 L{right - 8} 16 Z", fill=OUTAGE)
    return ET.tostring(svg, encoding="unicode")


def _svg(width: float, height: float, title: str, description: str) -> ET.Element:
    description = printable(description)
    svg = ET.Element("svg", viewBox=f"0 0 {width:g} {height:g}", width=f"{width:g}", height=f"{height:g}", role="img")
    svg.set("font-family", "system-ui, sans-serif")
    svg.set("aria-label", f"{title}: {description}")
    ET.SubElement(svg, "title").text = title
    ET.SubElement(svg, "desc").text = description
    return svg


def _rect(svg: ET.Element, x: float, y: float, right: float, bottom: float, **attributes: str) -> None:
    size = {"x": f"{x:g}", "y": f"{y:g}", "width": f"{max(0.0, right - x):g}", "height": f"{bottom - y:g}"}
    ET.SubElement(svg, "rect", size, **attributes)


def _line(svg: ET.Element, x: float, y: float, to_x: float, to_y: float, **attributes: str) -> None:
    ET.SubElement(svg, "line", {"x1": f"{x:g}", "y1": f"{y:g}", "x2": f"{to_x:g}", "y2": f"{to_y:g}"}, **attributes)


def _text(svg: ET.Element, x: float, y: float, text: str, *, anchor: str = "middle", size: float, **more: str) -> None:
    attributes = {"x": f"{x:g}", "y": f"{y:g}", "font-size": f"{size:g}", "text-anchor": anchor, "fill": "currentColor"}
    ET.SubElement(svg, "text", attributes, **more).text = text
