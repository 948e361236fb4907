"""Machines and users that cannot be a sandbox, and an ordinary user who can."""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from stuntime.sandbox import image, preflight
from tests.sandbox.harness import ROOT, STUNTIME, Commands, Finished, results

pytestmark = pytest.mark.sandbox

SCENARIO = "linux-bridge.from-static-node.migrated.ipv4"
RUN = ("run", SCENARIO, "--capture", "--output")
UNFIT = 3
_NOBODY = 65534
_TOO_LITTLE = 1 << 30


def _refused(finished: Finished, output: Path) -> str:
    """Return what was said: that the machine is unfit, in two lines; nothing has been begun."""
    assert finished.code == UNFIT, finished.stderr
    assert "Traceback" not in finished.stderr
    said = finished.stderr[finished.stderr.index("stuntime: ") :]
    assert len(said.splitlines()) == 2, said
    assert not list(output.glob("results/*"))
    return said


@dataclass(frozen=True)
class OrdinaryUser:
    """Runs stuntime as a user who owns nothing, on a machine of which they see what matters here."""

    commands: Commands
    home: Path

    def run(self, *arguments: str, tun: str = "0666", namespaces: bool = True) -> Finished:
        """Run it; `tun` is the mode of /dev/net/tun, and `namespaces` says whether they may make user namespaces."""
        setup = [
            "mount -t tmpfs -o mode=0755 tmpfs /mnt",
            "mkdir /mnt/stuntime /mnt/packages /mnt/home",
            f"mount --bind {ROOT / 'stuntime'} /mnt/stuntime",
            f"mount --bind {sysconfig.get_path('purelib')} /mnt/packages",
            f"mount --bind {self.home} /mnt/home",
            "mount -t tmpfs tmpfs /dev/net",
            f"mknod -m {tun} /dev/net/tun c 10 200",
            "cd /mnt",
            'exec "$@"',
        ]
        limits = [] if namespaces else _WITHOUT_NAMESPACES
        user = ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"]
        places = {"HOME": "/mnt/home", "TMPDIR": "/mnt/home", "PYTHONPATH": "/mnt:/mnt/packages"}
        return self.commands.run(
            "unshare", "--mount", "sh", "-ec", "\n".join(setup), "sh", *user, *limits,
            "/usr/bin/python3", "-m", "stuntime", *arguments,
            environment={**places, "XDG_CACHE_HOME": "/mnt/home/.cache"},
        )  # fmt: skip


# In a user namespace where none may be made: the honest way to a kernel that allows none. Nothing else is different.
_WITHOUT_NAMESPACES = [
    "unshare", "--user", f"--map-user={_NOBODY}", f"--map-group={_NOBODY}", "--keep-caps", "sh", "-ec",
    'echo 0 > /proc/sys/user/max_user_namespaces; exec setpriv --ambient-caps=-all --inh-caps=-all "$@"', "sh",
]  # fmt: skip


@pytest.fixture
def built() -> image.GuestImage:
    """Return the guest image, built if need be."""
    preflight.add_system_directories()
    return image.guest_image()


@pytest.fixture
def ordinary_user(commands: Commands, tmp_path: Path, built: image.GuestImage) -> OrdinaryUser:
    """Return an ordinary user with a home of their own, in which the guest image has been built already."""
    if os.geteuid() != 0:
        pytest.skip("only root can be somebody else")
    if sys.version_info[:2] != _system_python():
        pytest.skip("the packages of this Python are not for /usr/bin/python3, the only one open to all users")
    home = tmp_path / "home"
    shutil.copytree(built.kernel.parent, home / ".cache" / "stuntime" / built.kernel.parent.name)
    subprocess.run(["chown", "-R", f"{_NOBODY}:{_NOBODY}", home], check=True)
    return OrdinaryUser(commands, home)


def _system_python() -> tuple[int, ...]:
    program = "import sys; print(*sys.version_info[:2])"
    told = subprocess.run(["/usr/bin/python3", "-c", program], capture_output=True, text=True, check=True)
    return tuple(map(int, told.stdout.split()))


def test_ordinary_user_measures(ordinary_user: OrdinaryUser) -> None:
    """Without root, where /dev/net/tun and user namespaces are open, a real migration is measured."""
    finished = ordinary_user.run(*RUN, "/mnt/home/output")
    assert finished.code == 0, finished.stderr
    result = results(ordinary_user.home / "output")[SCENARIO]
    assert result.valid
    assert result.migration is not None
    assert result.capture is not None
    assert all(path.stat().st_uid == _NOBODY for path in (ordinary_user.home / "output").rglob("*"))


def test_no_user_namespaces(ordinary_user: OrdinaryUser) -> None:
    """Without root and where user namespaces are not allowed, the error names them and how to allow them."""
    said = _refused(ordinary_user.run(*RUN, "/mnt/home/output", namespaces=False), ordinary_user.home / "output")
    assert "user namespaces are not allowed to this user" in said
    for way_out in ("run as root", "user.max_user_namespaces", "apparmor_restrict_unprivileged_userns"):
        assert way_out in said
    assert "/dev/net/tun" not in said


def test_tun_not_open(ordinary_user: OrdinaryUser) -> None:
    """Where /dev/net/tun is not open to the user the error names it and how to open it."""
    said = _refused(ordinary_user.run(*RUN, "/mnt/home/output", tun="0600"), ordinary_user.home / "output")
    assert "/dev/net/tun is not open to this user" in said
    assert "chmod 0666 /dev/net/tun" in said


def test_missing_programs(commands: Commands, tmp_path: Path) -> None:
    """All programs that are missing are named at once, and what installs them."""
    empty = tmp_path / "empty"
    empty.mkdir()
    finished = commands.run(*STUNTIME, *RUN, str(tmp_path / "output"), environment={"PATH": str(empty)})
    said = _refused(finished, tmp_path / "output")
    directories = os.pathsep.join((str(empty), "/usr/sbin", "/sbin"))
    programs = ("qemu-system-x86_64", "ovs-vswitchd", "ovs-vsctl", "ovn-controller", "ovn-nbctl", "busybox", "tcpdump")
    for program in programs:
        assert (program in said) == (shutil.which(program, path=directories) is None)
    assert "make install" in said


def test_output_that_would_vanish(commands: Commands) -> None:
    """Results in /run would vanish with the sandbox, which has one of its own: they are refused before it begins."""
    finished = commands.run(*STUNTIME, *RUN, "/run/stuntime-results")
    assert finished.code == 2
    assert "/run" in finished.stderr
    assert not Path("/run/stuntime-results").exists()


def test_one_core(commands: Commands, tmp_path: Path) -> None:
    """A machine with one core is refused: two guests and their networks would time each other."""
    core = str(min(os.sched_getaffinity(0)))
    finished = commands.run("taskset", "-c", core, *STUNTIME, *RUN, str(tmp_path / "output"))
    assert "1 processor core" in _refused(finished, tmp_path / "output")


@pytest.fixture
def small_group() -> Iterator[Path]:
    """Hold a control group that may use little memory."""
    kinds = ((Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"), (Path("/sys/fs/cgroup"), "memory.max"))
    for base, limit in kinds:
        group = base / f"stuntime-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / limit).write_text(str(_TOO_LITTLE))
        except OSError:
            group.rmdir()
            continue
        try:
            yield group
        finally:
            group.rmdir()
        return
    pytest.skip("no control group for memory can be made here")


def test_control_group_with_little_memory(commands: Commands, tmp_path: Path, small_group: Path) -> None:
    """A control group (a container) that leaves too little memory is refused, however much the machine has."""
    enter = f'echo $$ > {small_group}/cgroup.procs; exec "$@"'
    finished = commands.run("sh", "-ec", enter, "sh", *STUNTIME, *RUN, str(tmp_path / "output"))
    said = _refused(finished, tmp_path / "output")
    assert "MiB of memory are available" in said
    assert f"{preflight._MEMORY >> 20} are needed" in said


def test_little_memory(commands: Commands, tmp_path: Path) -> None:
    """A machine with too little memory left is refused, and told how much is needed."""
    if os.geteuid() != 0:
        pytest.skip("only root can put another /proc/meminfo there")
    fake = tmp_path / "meminfo"
    fake.write_text("MemTotal: 1048576 kB\nMemAvailable: 716800 kB\n")
    pretend = f'mount --bind {fake} /proc/meminfo; exec "$@"'
    finished = commands.run("unshare", "--mount", "sh", "-ec", pretend, "sh", *STUNTIME, *RUN, str(tmp_path / "output"))
    assert "700 MiB of memory are available" in _refused(finished, tmp_path / "output")


@pytest.fixture
def kvm_that_boots_nothing(built: image.GuestImage, tmp_path: Path) -> dict[str, str]:
    """Return an environment with a cache that holds the image, and no proof yet of what KVM can do."""
    cache = tmp_path / "cache"
    shutil.copytree(built.kernel.parent, cache / "stuntime" / built.kernel.parent.name)
    return {"XDG_CACHE_HOME": str(cache)}


def _kvm_works(finished: Finished) -> bool:
    return "accelerator=kvm" in finished.stderr


def test_kvm_asked_for(commands: Commands, tmp_path: Path, kvm_that_boots_nothing: dict[str, str]) -> None:
    """KVM that was asked for and boots no guest is refused, with what the guest or QEMU said."""
    output = tmp_path / "output"
    arguments = ("-v", *RUN, str(output), "--accelerator", "kvm")
    finished = commands.run(*STUNTIME, *arguments, environment=kvm_that_boots_nothing)
    if _kvm_works(finished):
        pytest.skip("KVM works on this machine")
    said = _refused(finished, output)
    assert "KVM does not work here: " in said
    assert "--accelerator tcg" in said


def test_accelerator_is_found(commands: Commands, tmp_path: Path, kvm_that_boots_nothing: dict[str, str]) -> None:
    """Without a wish, a guest decides: where KVM boots none it is software emulation, said aloud and in the result."""
    output = tmp_path / "output"
    finished = commands.run(*STUNTIME, *RUN, str(output), environment=kvm_that_boots_nothing)
    result = results(output)[SCENARIO]
    assert result.environment is not None
    if result.environment.accelerator == "kvm":
        pytest.skip("KVM works on this machine")
    assert result.environment.accelerator == "tcg"
    assert "tcg" in finished.stderr
