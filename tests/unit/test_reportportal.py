"""JUnit goes to a ReportPortal as its documentation has it; checked by a server of our own over real HTTP."""

import email
import email.policy
import io
import json
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from stuntime import cli
from stuntime.errors import ExitCode, TestbedError, UsageError
from stuntime.reportportal import Portal, send
from tests.results import EVERY_VERDICT

TOKEN = "lab_Zm9yLWEtdGVzdA"  # noqa: S105 - it opens nothing
JUNIT = b"<testsuites/>"
PLUGIN, OLDER = "/api/v1/plugin/a%20lab/junit/import", "/api/v1/a%20lab/launch/import"


@dataclass
class Received:
    """A request that came in."""

    path: str
    headers: dict[str, str]
    parts: dict[str, EmailMessage]


@dataclass
class FakePortal:
    """A ReportPortal with the routes in `known`; it answers with `status`."""

    known: tuple[str, ...] = (PLUGIN,)
    status: int = 200
    received: list[Received] = field(default_factory=list)
    port: int = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture
def portal() -> Iterator[FakePortal]:
    fake = FakePortal()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            whole = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode() + body
            message = email.message_from_bytes(whole, policy=email.policy.HTTP)
            parts = {part.get_param("name", header="content-disposition"): part for part in message.iter_parts()}
            fake.received.append(Received(self.path, dict(self.headers), parts))
            known = self.path in fake.known
            answer = {"message": "Launch with id = 7 is successfully imported."} if known else {"message": "No route"}
            self.send_response(fake.status if known else 404)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield fake
    server.shutdown()
    thread.join()
    server.server_close()


def zipped(part: EmailMessage) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(part.get_payload(decode=True))) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_request_is_that_of_the_plugin(portal: FakePortal):
    """The JUnit goes as a zip of one file to the project's plugin route, with a bearer token and the launch's name."""
    told = send(Portal(portal.endpoint, "a lab", TOKEN), JUNIT, launch="stuntime", attributes={"run": "r1"})
    assert told == "Launch with id = 7 is successfully imported."
    (request,) = portal.received
    assert request.path == PLUGIN
    assert request.headers["Authorization"] == f"Bearer {TOKEN}"
    assert request.headers["Content-Type"].startswith("multipart/form-data; boundary=")
    assert request.parts["file"].get_filename() == "stuntime.zip"
    assert zipped(request.parts["file"]) == {"junit.xml": JUNIT}
    about = json.loads(request.parts["launchImportRq"].get_payload(decode=True))
    assert request.parts["launchImportRq"].get_content_type() == "application/json"
    assert (about["name"], about["mode"]) == ("stuntime", "DEFAULT")
    assert about["attributes"] == [{"key": "run", "value": "r1"}]


def test_an_older_portal_is_asked_in_its_own_way(portal: FakePortal):
    """Where the plugin's route does not exist, the file alone goes to the route of older releases."""
    portal.known = (OLDER,)
    send(Portal(portal.endpoint + "/", "a lab", TOKEN), JUNIT, launch="stuntime", attributes={})
    assert [request.path for request in portal.received] == [PLUGIN, OLDER]
    assert portal.received[1].parts.keys() == {"file"}


def test_a_refusal_is_told_without_the_token(portal: FakePortal):
    """What ReportPortal answers is told, and the API key is in no message."""
    portal.status = 401
    with pytest.raises(TestbedError, match="answered 401: Launch") as refused:
        send(Portal(portal.endpoint, "a lab", TOKEN), JUNIT, launch="stuntime", attributes={})
    assert TOKEN not in f"{refused.value} {refused.value.way_out} {Portal(portal.endpoint, 'a lab', TOKEN)!r}"


def test_a_portal_that_is_away_is_told():
    """An address where nobody answers is a failure with a way out, not a traceback."""
    with pytest.raises(TestbedError, match="cannot be reached"):
        send(Portal("http://127.0.0.1:9", "lab", TOKEN), JUNIT, launch="stuntime", attributes={})


@pytest.mark.parametrize(
    ("endpoint", "project", "token"),
    [
        ("portal.example", "lab", TOKEN),
        ("https://p", "", TOKEN),
        ("https://p", "lab", ""),
        ("https://p", "lab", "a\nb"),
    ],
)
def test_what_is_missing_is_told_before_anything_is_sent(endpoint: str, project: str, token: str):
    """Address, project and API key are needed, and a key that would break a header is refused."""
    with pytest.raises(UsageError):
        Portal(endpoint, project, token)


def test_the_command_sends_a_file(portal: FakePortal, monkeypatch: pytest.MonkeyPatch, tmp_path, capsys):
    """`stuntime reportportal` sends a JUnit file, with the API key of the environment."""
    assert EVERY_VERDICT.exists()
    (tmp_path / "junit.xml").write_bytes(JUNIT)
    argv = ["reportportal", str(tmp_path / "junit.xml"), f"--endpoint={portal.endpoint}", "--project=a lab"]
    monkeypatch.setattr(cli.logs, "configure", lambda **_: None)  # loggers would keep this test's stderr
    monkeypatch.delenv("STUNTIME_REPORTPORTAL_TOKEN", raising=False)
    assert cli.main(argv) == ExitCode.USAGE
    monkeypatch.setenv("STUNTIME_REPORTPORTAL_TOKEN", TOKEN + "\n")
    assert cli.main(argv) == ExitCode.OK
    assert "successfully imported" in capsys.readouterr().out
    assert len(portal.received) == 1
