"""What runs in the guests while it is measured: ping at the initiator, the observer at the static VM, and their logs.

Every command bears being run twice, since a console may drop under it.
"""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import pairwise
from statistics import median

import structlog

from stuntime.errors import InvalidError, StuntimeError, TestbedError, UnfitError
from stuntime.gaps import SILENT_SPACINGS
from stuntime.guest import GuestCommandError
from stuntime.ping import SEQUENCE_NUMBERS, Reply, unwrapped
from stuntime.result import ClockSample
from stuntime.testbed import Shell, Testbed
from stuntime.waiting import wait_until

log = structlog.get_logger()

_ANSWERING_S = 30.0
_CLOCK_LOOKS = 3
_CLOCK_ERROR_S = 0.03
_LOOK_S = 0.02
_TAIL = 12


@dataclass(frozen=True)
class Prober:
    """A ping at the initiator, and the observer at the static VM, in a folder of each guest that is theirs."""

    testbed: Testbed
    initiator: Shell
    static: Shell
    peer: str
    peer_mac: str | None
    observed: str
    interval_s: float
    folder: str

    def check(self) -> dict[str, str]:
        """Return ping's version and kernel of the initiator; raise UnfitError when it cannot ping the peer so often."""
        _make(self.initiator, self.folder)
        try:
            facts = self.initiator.run("uname -r; LC_ALL=C ping -V").splitlines()
        except GuestCommandError as error:
            raise UnfitError(
                f"the initiator has no iputils ping: {error.output.strip()}",
                "use a guest image that has the package iputils",
                reason="ping-missing",
            ) from error
        self._first_answers()
        self._require_peer()
        version = next((line for line in facts if "iputils" in line), "unknown")
        return {"kernel": facts[0] if facts else "unknown", "ping": version}

    def _first_answers(self) -> None:
        command = f"LC_ALL=C ping -n -c 3 -i {self.interval_s:g} -W 1 {self.peer} 2>&1"

        def answers() -> bool:
            try:
                self.initiator.run(command)
            except GuestCommandError as error:
                _require_interval(error.output, self.interval_s)
                return False
            return True

        try:
            wait_until(answers, timeout_s=_ANSWERING_S, what=f"an answer of {self.peer}", step_s=0.2)
        except TestbedError as error:
            raise UnfitError(
                str(error), "look at the network: no migration has been asked for yet", reason="peer-silent"
            ) from error

    def _require_peer(self) -> None:
        """Raise UnfitError when it is somebody else who answers at the peer's address."""
        if self.peer_mac is None:
            return
        known = self.initiator.run(f"ip neigh show {self.peer}")
        found = re.findall(r"lladdr ([0-9a-f:]{17})", known.lower())
        if found and self.peer_mac.lower() not in found:
            raise UnfitError(
                f"{self.peer} is in use: {found[0]} answers there, and the peer is {self.peer_mac}",
                "give the VMs addresses of a subnet that nobody else uses on this network",
                reason="address-in-use",
            )

    def start_observer(self) -> None:
        """Start the observer; `observes` tells whether it came to run (Python takes a while to start)."""
        _make(self.static, self.folder)
        script = f"{self.folder}/observer.py"
        self.static.write(script, files("stuntime").joinpath("observer.py").read_bytes())
        self.static.run(
            _background(f"python3 {script} {self.observed} {self.folder}/observer.log", self._stem("observer"))
        )

    def observes(self) -> bool:
        """Wait until the observer notes what arrives; return False, said aloud, where the static VM cannot run it."""
        out, stem = f"{self.folder}/observer.log", self._stem("observer")
        try:
            self.static.run(
                f"for _ in $(seq 400); do [ -s {out} ] && break; {_alive(stem)} || break; sleep 0.05; done;"
                f" cat {stem}.err; [ -s {out} ]"
            )
        except GuestCommandError as error:
            log.warning("observer.unavailable", why=error.output.strip()[-200:])
            return False
        return True

    def start_ping(self) -> None:
        """Start ping, which writes its log in the background."""
        family = "-6 " if ":" in self.peer else ""
        command = f"ping -n -D -O {family}-i {self.interval_s:g} {self.peer}"
        self.initiator.run(_background(f"env LC_ALL=C {command}", self._stem("ping")))

    def wait_for_answers(self, count: int, *, after: int | None, timeout_s: float) -> bool:
        """Wait until the last `count` probes were answered in a row, all sent after `after`; False when in vain.

        It looks only when the answers could be there: each look costs the guest time that the measurement wants.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            missing = count - in_a_row(self._last_replies(count), after)
            if missing <= 0:
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(min(missing * self.interval_s, max(0.0, deadline - time.monotonic())) + _LOOK_S)

    def last_seq(self) -> int:
        """Return the sequence number of the latest probe that the log knows of, modulo 65536."""
        found = re.findall(r"icmp_seq=(\d{1,5})", self.initiator.run(f"tail -n {_TAIL} {self.folder}/ping.out"))
        if not found:
            raise self._died()
        # The last line may be of an old probe that was answered late.
        return max((int(seq) for seq in found), key=lambda seq: unwrapped(seq, int(found[-1])))

    def stop(self) -> None:
        """End ping and the observer, and wait until both have.

        Ping heeds SIGINT only. Python ignores that one while it starts in the background, and would never end.
        """
        for shell, name, signal in ((self.initiator, "ping", "INT"), (self.static, "observer", "TERM")):
            stem = self._stem(name)
            shell.run(
                f"if [ -s {stem}.pid ]; then kill -{signal} $(cat {stem}.pid) 2>/dev/null;"
                f" for _ in $(seq 200); do {_alive(stem)} || break; sleep 0.05; done;"
                f" {_alive(stem)} && kill -KILL $(cat {stem}.pid); rm -f {stem}.pid; fi"
            )

    def ping_log(self) -> bytes:
        """Return ping's log."""
        return self.initiator.read(f"{self.folder}/ping.out")

    def observer_log(self) -> bytes:
        """Return the observer's log."""
        return self.static.read(f"{self.folder}/observer.log")

    def clear(self) -> None:
        """Remove what was put into the guests."""
        for shell in (self.initiator, self.static):
            shell.run(f"rm -rf {self.folder}")

    def _last_replies(self, count: int) -> list[Reply]:
        # Twice as many lines: each reply may have come with a duplicate or after a `no answer yet`.
        lines = self.initiator.run(
            f"{_alive(self._stem('ping'))} || echo gone; "
            f"tail -n {2 * count + _TAIL} {self._stem('ping.out')} | "
            "sed -n 's/^\\[\\([0-9.]*\\)].*bytes from.*icmp_seq=\\([0-9]*\\) .*time=\\([0-9.]*\\) ms$/\\1 \\2 \\3/p' | "
            f"tail -n {count + _TAIL}"
        ).splitlines()
        if "gone" in lines:
            raise self._died()
        found = [re.fullmatch(r"(\d+\.\d+) (\d{1,5}) ([\d.]+)", line.strip()) for line in lines]
        return [Reply(int(match[2]), float(match[1]), float(match[3]) / 1000) for match in found if match]

    def _stem(self, name: str) -> str:
        return f"{self.folder}/{name}"

    def _died(self) -> StuntimeError:
        said = self.initiator.run(f"tail -n 1 {self.folder}/ping.out {self.folder}/ping.err 2>&1 || true")
        return TestbedError(f"ping does not run any more: {said.strip()}", "measure again", reason="ping-died")


def sample_clock(testbed: Testbed, shell: Shell) -> ClockSample:
    """Return how far a guest's wall clock is ahead of the testbed's: the quickest of up to three looks by `ping -D`."""
    samples: list[ClockSample] = []
    while len(samples) < _CLOCK_LOOKS and not any(sample.error_s <= _CLOCK_ERROR_S for sample in samples):
        before = testbed.now()
        said = shell.run("LC_ALL=C ping -n -D -c 1 127.0.0.1")
        after = testbed.now()
        found = re.search(r"\[(\d+\.\d+)\]", said)
        if not found:
            raise InvalidError(
                "the guest's clock cannot be read through `ping -D`", "use iputils' ping", reason="no-clock"
            )
        samples.append(ClockSample(float(found[1]) - (before + after) / 2, (after - before) / 2))
    return min(samples, key=lambda sample: sample.error_s)


def in_a_row(replies: Sequence[Reply], after: int | None) -> int:
    """Return how many of the last replies are a recovery so far: none lost, none silent, all sent after `after`.

    The first one counts, and then such whose probe was sent after it came (see `gaps`). The sequence numbers are those
    of the wire.
    """
    spacings = [b.sent - a.sent for a, b in pairwise(replies) if (b.seq - a.seq) % SEQUENCE_NUMBERS == 1]
    silent_s = SILENT_SPACINGS * median(spacings) if spacings else 0.0
    first = before = None
    count = 0
    for reply in replies:
        if before is not None and reply.seq == before.seq:
            continue
        joined = (
            first is not None
            and before is not None
            and (reply.seq - before.seq) % SEQUENCE_NUMBERS == 1
            and reply.time - before.time < silent_s
        )
        fresh = after is None or 0 < (reply.seq - after) % SEQUENCE_NUMBERS < SEQUENCE_NUMBERS // 2
        if not fresh:
            first, count = None, 0
        elif joined and first is not None:
            count += reply.sent >= first.time
        else:
            first, count = reply, 1
        before = reply
    return count


def _make(shell: Shell, folder: str) -> None:
    shell.run(f"mkdir -p {folder}")


def _background(command: str, stem: str) -> str:
    """Return a command line that starts a command of its own session, once, its pid and outputs in files."""
    return (
        f"[ -s {stem}.pid ] || {{ setsid sh -c 'echo $$ > {stem}.pid; exec {command}'"
        f" > {stem}.out 2> {stem}.err < /dev/null & while ! [ -s {stem}.pid ]; do sleep 0.01; done; }}"
    )


def _alive(stem: str) -> str:
    """Return a condition: the process whose pid file this is runs (one that nobody reaped yet does not)."""
    return f"grep -q '^State:.[^Z]' /proc/$(cat {stem}.pid)/status 2>/dev/null"


def _require_interval(said: str, interval_s: float) -> None:
    if "minimal interval" in said or "flood" in said:
        raise UnfitError(
            f"ping refuses the interval of {interval_s:g} s to this user: {said.strip().splitlines()[-1]}",
            "be root in the guest, give ping CAP_NET_RAW, or use iputils 20210722 or newer",
            reason="interval-refused",
        )
