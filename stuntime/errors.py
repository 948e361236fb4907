"""Expected failures: each knows its exit code, a reason a machine can match and a way out for a person."""

from enum import IntEnum


class ExitCode(IntEnum):
    """What the command line returns."""

    OK = 0
    FAIL = 1
    USAGE = 2
    UNFIT = 3
    INVALID = 4
    TESTBED = 5
    UNEXPECTED = 70
    INTERRUPTED = 130


class StuntimeError(Exception):
    """What happened, in one sentence; `way_out` says what to do about it.

    `reason` is a stable slug that also stands in the result document.
    """

    exit_code = ExitCode.TESTBED
    reason = "testbed-failed"

    def __init__(self, what: str, way_out: str, *, reason: str | None = None) -> None:
        super().__init__(what)
        self.way_out = way_out
        if reason is not None:
            self.reason = reason


class UsageError(StuntimeError):
    """The command was asked for something that does not exist or does not fit."""

    exit_code = ExitCode.USAGE
    reason = "usage"


class UnfitError(StuntimeError):
    """The testbed, or a guest in it, is not fit to measure; nothing was measured."""

    exit_code = ExitCode.UNFIT
    reason = "testbed-unfit"


class InvalidError(StuntimeError):
    """What was measured, or handed in to be judged, must not be used as a number."""

    exit_code = ExitCode.INVALID
    reason = "invalid"


class TestbedError(StuntimeError):
    """The testbed failed on the way."""

    __test__ = False  # not a pytest class


class MigrationError(TestbedError):
    """The migration failed, was aborted, never converged or reached another node than asked for."""

    reason = "migration-failed"
