"""The image: what it says of itself, what is in it, and that it works as any user with a read-only root.

Its time is the processor's: that is what a quiet machine's clock would show, and a busy one's does not matter.
"""

import json
import re
import stat
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from stuntime import __version__
from tests.image.build import COMMIT, Built
from tests.image.inside import RANDOM_UID, cpu_s, run_inside, start
from tests.results import SANDBOX

_IMPORT_ALL = """
import importlib, pkgutil, stuntime
names = [found.name for found in pkgutil.walk_packages(stuntime.__path__, "stuntime.")]
for name in names:
    if name != "stuntime.__main__":
        importlib.import_module(name)
print(len(names))
"""
_WITHOUT_CLIENT_S, _WITH_CLIENT_S = 0.3, 0.5
_PEAK_KB = 128 * 1024


def test_version_and_commit(built: Built) -> None:
    """`stuntime --version` names the version and the commit that the build was given, and needs no git for it."""
    told = run_inside(built, "stuntime", "--version")
    assert (told.code, told.out) == (0, f"stuntime {__version__} ({COMMIT[:12]})\n")


def test_labels(built: Built) -> None:
    """The image names itself, its version, its commit and its licence as OCI wants it, and nothing of its base."""
    labels = built.config["Labels"]
    wanted = {"title": "stuntime", "version": __version__, "revision": COMMIT, "licenses": "Apache-2.0"}
    for name, value in wanted.items():
        assert labels[f"org.opencontainers.image.{name}"] == value
    assert (labels["name"], labels["version"], labels["release"]) == ("stuntime", __version__, COMMIT)


def test_user_is_a_number_and_not_root(built: Built) -> None:
    """The user is numeric, so that runAsNonRoot can be judged, and is not root."""
    assert built.config["User"] == "1001"


@pytest.mark.parametrize("user", [1001, RANDOM_UID])
def test_every_module_can_be_imported(built: Built, user: int) -> None:
    """With what was cut, each module of the package still imports, as the image's own user and as a random one."""
    told = run_inside(built, "python3", "-c", _IMPORT_ALL, user=user)
    assert told.code == 0, told.err
    assert int(told.out) > 50


def test_the_sandbox_is_left_out_and_said_to_be(built: Built) -> None:
    """A command that wants the sandbox ends with the reason and a way out, not with a traceback."""
    told = run_inside(built, "stuntime", "run", "linux-bridge.from-static-node.static.ipv4")
    assert told.code == 3
    assert "--testbed kubevirt" in told.err
    assert "Traceback" not in told.err


@pytest.mark.parametrize("user", [1001, RANDOM_UID])
def test_results_are_judged_with_a_read_only_root(built: Built, user: int, tmp_path: Path) -> None:
    """Verdicts, JUnit and the page come into a folder of the pod, whoever the user is."""
    tmp_path.chmod(0o777)
    results = tmp_path / "results"
    _copy(SANDBOX, results)
    judged = run_inside(built, "stuntime", "aggregate", "/tmp/results", "--output", "/tmp/out", user=user, tmp=tmp_path)
    assert (judged.code, "12 pass" in judged.out) == (0, True), judged.err
    page = run_inside(
        built, "stuntime", "report", "/tmp/results", "--output", "/tmp/out/page.html", user=user, tmp=tmp_path
    )
    assert page.code == 0, page.err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"aggregate.json", "junit.xml", "page.html"}
    assert {path.stat().st_uid for path in (tmp_path / "out").iterdir()} == {user}


def test_the_diagnostics_have_their_client(built: Built) -> None:
    """`oc` is on the PATH, where openshift-client looks for it."""
    told = run_inside(built, "oc", "version", "--client")
    assert told.code == 0, told.err


def test_home_is_there_and_group_0_may_write_it(built: Built) -> None:
    """HOME is a directory of the user that group 0 may write, as OpenShift's random users are in no other group."""
    environment = dict(entry.split("=", 1) for entry in built.config["Env"])
    home = (built.root / environment["HOME"].strip("/")).stat()
    assert (home.st_uid, home.st_gid) == (1001, 0)
    assert home.st_mode & stat.S_IRWXU == (home.st_mode & stat.S_IRWXG) << 3


def test_nothing_of_ours_can_be_changed(built: Built) -> None:
    """What the image adds to its base is root's, readable by all, writable by nobody else, and never setuid."""
    for path in (built.root / "opt/stuntime").rglob("*"):
        found = path.lstat()
        assert (found.st_uid, found.st_gid) == (0, 0), path
        assert not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH | stat.S_ISUID | stat.S_ISGID), path
        assert found.st_mode & stat.S_IROTH, path


def test_what_only_builds_need_is_not_there(built: Built) -> None:
    """No compiler, no package cache, no build context; of the packages no pip, no generated classes, no sandbox."""
    for name in ("usr/bin/gcc", "usr/bin/cc", "build", "root/.cache", "home/stuntime/.cache"):
        assert not (built.root / name).exists(), name
    packages = built.root / "opt/stuntime/lib"
    for name in ("pip", "qemu", "pygments", "tzdata", "bin", "stuntime/sandbox", "kubernetes/client/api"):
        assert not (packages / name).exists(), name
    assert [path.name for path in (packages / "kubernetes/client/models").glob("*.py")] == ["__init__.py"]


def test_all_is_compiled(built: Built) -> None:
    """Each module has its bytecode: with a read-only root none can be made later, at every single start."""
    for source in (built.root / "opt/stuntime/lib").rglob("*.py"):
        assert list((source.parent / "__pycache__").glob(f"{source.stem}.*.pyc")), source


def test_the_surroundings_are_not_imported(built: Built, tmp_path: Path) -> None:
    """A module in the working directory or on PYTHONPATH cannot take the place of one of the image's."""
    (tmp_path / "jinja2.py").write_text("raise SystemExit('taken over')\n")
    (tmp_path / "stuntime.py").write_text("raise SystemExit('taken over')\n")
    tmp_path.chmod(0o755)
    argv = ["env", "--chdir=/tmp", "stuntime", "--version"]
    assert run_inside(built, *argv, tmp=tmp_path, environment={"PYTHONPATH": "/tmp"}).code == 0


def test_start_without_a_cluster_is_quick(built: Built) -> None:
    """A command that needs no cluster answers within 0.3 s of processor time."""
    assert min(run_inside(built, "stuntime", "scenarios").cpu_s for _ in range(3)) <= _WITHOUT_CLIENT_S


def test_first_request_is_quick_and_small(built: Built, tmp_path: Path) -> None:
    """From the entry point to the first request to the API pass 0.5 s of processor time, in at most 128 MB."""
    measured = [_first_request(built, tmp_path) for _ in range(3)]
    assert min(seconds for seconds, _ in measured) <= _WITH_CLIENT_S
    assert max(peak for _, peak in measured) <= _PEAK_KB


def _first_request(built: Built, folder: Path) -> tuple[float, int]:
    """Return the processor time that a measuring step had taken, and its largest size, when it asked the API."""
    seen: list[tuple[float, int]] = []
    asked = threading.Event()

    class Refuses(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not asked.is_set():
                status = Path(f"/proc/{step.pid}/status").read_text()
                seen.append((cpu_s(step.pid), int(re.search(r"VmHWM:\s+(\d+)", status).group(1))))
                asked.set()
            self.send_response(403)
            self.end_headers()

        do_POST = do_GET  # noqa: N815 - the base class looks for it

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Refuses)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    folder.chmod(0o755)
    cluster = {"server": f"http://127.0.0.1:{server.server_port}"}
    kubeconfig = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "n"}}],
        "current-context": "x",
    }
    (folder / "kubeconfig").write_text(json.dumps(kubeconfig))
    argv = [
        "stuntime",
        "run",
        "linux-bridge.from-static-node.static.ipv4",
        "--testbed=kubevirt",
        "--output=/tmp/results",
    ]
    step = start(built, [*argv, "--kubeconfig=/tmp/kubeconfig"], tmp=folder)
    try:
        assert asked.wait(60), step.communicate(timeout=5)[1]
    finally:
        step.kill()
        step.communicate()
        server.shutdown()
        server.server_close()
    return seen[0]


def _copy(source: Path, target: Path) -> None:
    """Copy results so that any user may read them."""
    for path in source.rglob("*"):
        if path.is_file():
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
            copy.chmod(0o644)
    for directory in (target, *(path for path in target.rglob("*") if path.is_dir())):
        directory.chmod(0o755)
