"""The page that explains a run: one HTML file that needs nothing else, no network and no script."""

from collections.abc import Mapping
from pathlib import Path

from stuntime import __version__
from stuntime.aggregate import Aggregate
from stuntime.policy import Policy
from stuntime.result import Result
from stuntime.text import printable

_HERE = Path(__file__).parent


def page(aggregate: Aggregate, details: Mapping[str, Result], policy: Policy) -> bytes:
    """Return the page as HTML; `details` are the decisive results, whole; their evidence is read where it lies."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from stuntime.report.evidence import read_evidence
    from stuntime.report.model import page_of

    evidence = {
        verdict.scenario.id: read_evidence(details[verdict.scenario.id], verdict.decisive.root)
        for verdict in aggregate.verdicts
        if verdict.decisive is not None
    }
    templates = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: printable(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    style = (_HERE / "page.css").read_text(encoding="utf-8")
    told = page_of(aggregate, details, evidence, policy)
    return templates.get_template("page.html.j2").render(page=told, style=style, version=__version__).encode()
