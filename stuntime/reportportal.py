"""JUnit sent to a ReportPortal: its import takes a zip of it, by a plugin (24.1 and newer) or by the API itself."""

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from stuntime.errors import TestbedError, UsageError

_LARGEST = 32 << 20
_TIMEOUT_S = 60.0
_NOT_FOUND = 404


@dataclass(frozen=True)
class Portal:
    """A project of a ReportPortal. `endpoint` is what its page has in the address bar, without a path of the page."""

    endpoint: str
    project: str
    token: str

    def __post_init__(self) -> None:
        """Raise UsageError when something is missing."""
        parts = urlsplit(self.endpoint)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise UsageError(f"{self.endpoint!r} is no address of a ReportPortal", "write https://reportportal.example")
        if not self.project:
            raise UsageError("ReportPortal needs the name of a project", "name it")
        if not self.token or not self.token.isascii() or not self.token.isprintable():
            raise UsageError("there is no API key for ReportPortal", "put one into STUNTIME_REPORTPORTAL_TOKEN")

    def __repr__(self) -> str:
        """Return it without its token."""
        return f"Portal({self.endpoint!r}, {self.project!r})"


def send(portal: Portal, junit: bytes, *, launch: str, attributes: Mapping[str, str]) -> str:
    """Import a JUnit document as a launch; return what ReportPortal says of it.

    An older ReportPortal, which has no route for the plugin, is asked by the older one. Raise TestbedError when it
    does not take it.
    """
    content = _zipped(junit)
    if len(content) > _LARGEST:
        raise UsageError(f"the JUnit is too large for ReportPortal: {len(content)} bytes", "judge fewer results")
    base, project = portal.endpoint.rstrip("/"), quote(portal.project, safe="")
    about = {
        "name": launch,
        "description": "stuntimes of live migrations",
        "mode": "DEFAULT",
        "attributes": [{"key": key, "value": value} for key, value in attributes.items()],
    }
    archive = ("file", (f"{launch}.zip", content, "application/zip"))
    fields = [archive, ("launchImportRq", (None, json.dumps(about), "application/json"))]
    answer = _post(portal, f"{base}/api/v1/plugin/{project}/junit/import", fields)
    if answer.status == _NOT_FOUND:
        answer = _post(portal, f"{base}/api/v1/{project}/launch/import", [archive])
    told = _told(answer.data)
    if not 200 <= answer.status < 300:  # noqa: PLR2004 - success
        raise TestbedError(
            f"ReportPortal answered {answer.status}: {told}",
            "see whether the address, the project and the API key are right, and its JUnit plugin is enabled",
            reason="reportportal-refused",
        )
    return told


def _post(portal: Portal, url: str, fields: list[Any]) -> Any:
    import urllib3

    headers = {"Authorization": f"Bearer {portal.token}", "Accept": "application/json"}
    try:
        with urllib3.PoolManager() as pool:
            return pool.request("POST", url, fields=fields, headers=headers, timeout=_TIMEOUT_S, retries=False)
    except urllib3.exceptions.HTTPError as error:
        raise TestbedError(
            f"ReportPortal at {portal.endpoint} cannot be reached: {error}",
            "see whether this machine may speak to it, and trusts its certificate (SSL_CERT_FILE)",
            reason="reportportal-away",
        ) from error


def _zipped(junit: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("junit.xml", junit)
    return packed.getvalue()


def _told(answer: bytes) -> str:
    try:
        found = json.loads(answer)
        told = found.get("message") or found.get("msg") or found
    except (ValueError, AttributeError):
        told = answer.decode(errors="replace")
    return " ".join(str(told).split())[:500]
