"""How a migration is brought about on a platform of others: by a command of the user's, or by a person."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from stuntime.errors import MigrationError, TestbedError
from stuntime.ssh.command import CommandHangsError, Template, run_command, wait_a_step

_LOOK_S = 1.0
_IN_VAIN = "look at the platform: what was begun may still go on there"

#: Says, by a verification, whether the VM is on the target now; None where nothing verifies it.
Arrived = Callable[[], bool] | None


class Answer(Enum):
    """What a person said."""

    YES = "yes"
    NO = "no"
    NOTHING_YET = "nothing yet"
    GONE = "gone"


class Person(Protocol):
    """Somebody at a terminal."""

    def tell(self, text: str) -> None:
        """Show a text; what was typed before is no answer to it."""

    def answer(self, timeout_s: float) -> Answer:
        """Return what was answered since, waiting at most so long."""


@dataclass(frozen=True)
class Moved:
    """A migration that nobody says failed.

    `ended` is in the monotonic clock, None when nobody knows. `proven`: somebody vouches for its end.
    """

    ended: float | None
    proven: bool
    configuration: Mapping[str, Any] = field(default_factory=dict)


class Mover(Protocol):
    """Migrates the VM."""

    @property
    def mode(self) -> str:
        """The word for it in results."""

    def begin(self, node: str, deadline: float) -> None:
        """Take it that the VM is on the node, where nothing can verify it; raise TestbedError when it is not."""

    def move(self, source: str, target: str, deadline: float, arrived: Arrived, started: Callable[[], None]) -> Moved:
        """Migrate until the deadline (monotonic), calling `started` at the moment it is asked for.

        Raise MigrationError when it failed or did not end in time.
        """


@dataclass(frozen=True)
class ByCommand:
    """A command migrates the VM. One that only asks for it and does not wait is waited for by the verification."""

    template: Template

    @property
    def mode(self) -> str:
        """The word for it in results."""
        return "by-command"

    def begin(self, node: str, deadline: float) -> None:
        """Take the user's word."""

    def move(self, source: str, target: str, deadline: float, arrived: Arrived, started: Callable[[], None]) -> Moved:
        """Run it; see `Mover.move`."""
        what = f"the migrate command ({self.template.program})"
        begun = time.monotonic()
        started()
        try:
            told = run_command(self.template.argv(source, target), what, timeout_s=deadline - begun)
        except CommandHangsError as error:
            raise MigrationError(str(error), error.way_out, reason="migration-timeout") from error
        ended = time.monotonic()
        if told.status:
            raise MigrationError(f"{what} ended with status {told.status}: {told.last_words}", _IN_VAIN)
        configuration = {"program": self.template.program, "command_s": ended - begun}
        if arrived is None:
            # A command may only have asked for it: its word is not enough to publish that there was no outage.
            return Moved(ended, proven=False, configuration=configuration)
        while not arrived():
            if not wait_a_step(deadline, _LOOK_S):
                raise MigrationError(
                    f"{what} ended well, and the VM is still on {source}, not on {target}",
                    "look at the platform; does the verify command tell of the right VM?",
                    reason="migration-elsewhere",
                )
            ended = time.monotonic()
        return Moved(ended, proven=True, configuration=configuration)


@dataclass(frozen=True)
class ByHand:
    """A person migrates the VM, is told when to, and confirms the end; a verification sees it too."""

    person: Person

    @property
    def mode(self) -> str:
        """The word for it in results."""
        return "by-hand"

    def begin(self, node: str, deadline: float) -> None:
        """Ask whether the VM is there."""
        self.person.tell(f"The VM has to be on {node} now; bring it there if it is not. Press Enter when it is.")
        if self._answered(deadline) is not Answer.YES:
            raise TestbedError(
                f"nobody said that the VM is on {node}",
                "measure again when it is, or give a --verify-command",
                reason="vm-misplaced",
            )

    def move(self, source: str, target: str, deadline: float, arrived: Arrived, started: Callable[[], None]) -> Moved:
        """Say when to start, and wait for the end; see `Mover.move`."""
        begun = time.monotonic()
        started()
        self.person.tell(
            f"NOW start the live migration from {source} to {target}. When it has ended, press Enter"
            " (or type no if it failed)."
        )
        if arrived is None:
            answer = self._answered(deadline)
            _require_no_failure(answer)
            ended = time.monotonic() if answer is Answer.YES else None
        else:
            self._watch(source, target, deadline, arrived)
            ended = time.monotonic()
        configuration = {} if ended is None else {"confirmed_after_s": ended - begun}
        return Moved(ended, proven=ended is not None, configuration=configuration)

    def _answered(self, deadline: float) -> Answer:
        """Wait for an answer until the deadline."""
        answer = Answer.NOTHING_YET
        while answer is Answer.NOTHING_YET and time.monotonic() < deadline:
            answer = self.person.answer(min(_LOOK_S, max(0.0, deadline - time.monotonic())))
        return answer

    def _watch(self, source: str, target: str, deadline: float, arrived: Callable[[], bool]) -> None:
        """Wait until the verification sees the VM at the target: an answer alone is not enough then."""
        while not arrived():
            answer = self.person.answer(_LOOK_S)
            _require_no_failure(answer)
            if not wait_a_step(deadline, _LOOK_S if answer is Answer.GONE else 0.0):
                raise MigrationError(
                    f"no migration brought the VM from {source} to {target} in the time allowed",
                    "start it when it is asked for, or allow more time with --migration-timeout",
                    reason="migration-timeout",
                )


def _require_no_failure(answer: Answer) -> None:
    if answer is Answer.NO:
        raise MigrationError("the migration failed, says who started it", "look at the platform")
