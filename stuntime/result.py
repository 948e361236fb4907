"""The result document: one JSON file per measurement, which carries all that is needed to argue about its number.

Written history of `schema_version`:

1   the first.

Unknown fields are refused on reading: a document of this version that has one was not written by this tool.
"""

from typing import Any

import msgspec
from msgspec import Struct

from stuntime.errors import InvalidError, StuntimeError
from stuntime.outage import Measurement

SCHEMA_VERSION = 1
#: Durations are true to a millisecond at best, stamps are taken in microseconds; more digits would only look precise.
DURATION_DIGITS, TIME_DIGITS = 3, 6


class ErrorRecord(Struct, frozen=True, forbid_unknown_fields=True):
    """What went wrong, and what to do about it (see `errors.StuntimeError`)."""

    reason: str
    message: str
    way_out: str
    exit_code: int

    @classmethod
    def of(cls, error: StuntimeError) -> "ErrorRecord":
        """Return the record of an expected failure."""
        return cls(error.reason, str(error), error.way_out, int(error.exit_code))


class ClockSample(Struct, frozen=True, forbid_unknown_fields=True):
    """A guest's wall clock against the testbed's: `ahead_s` by how much it is ahead, known to +- `error_s`."""

    ahead_s: float
    error_s: float


class ClockSamples(Struct, frozen=True, forbid_unknown_fields=True):
    """Samples of one guest's clock, before and after the measurement; None: not taken."""

    before: ClockSample | None = None
    after: ClockSample | None = None


class MigrationRecord(Struct, frozen=True, forbid_unknown_fields=True):
    """The migration (see `testbed.Migration`), its times in the reference clock; `end_seen` is when we saw its end."""

    requested: float
    started: float | None
    ended: float | None
    end_seen: float
    source: str
    target: str
    uid: str
    mode: str
    ordinal: int
    phases: dict[str, float]
    configuration: dict[str, Any]


class CaptureCheck(Struct, frozen=True, forbid_unknown_fields=True):
    """The same rule on the packets at the static VM's port; `requests_only_s` on the packets alone, for the record.

    `valid` and `reasons` are those of this check (see `outage.Measurement`).
    """

    stuntime_s: float | None
    requests_only_s: float | None
    valid: bool
    reasons: tuple[str, ...]


class Environment(Struct, frozen=True, forbid_unknown_fields=True):
    """Where it was measured. `network` holds the configuration, `nodes` and `guests` what is known of each."""

    testbed: str
    cluster_id: str
    product_versions: dict[str, str]
    network: dict[str, Any]
    nic: str | None
    guest_image: str
    guest_kernel: str | None
    accelerator: str | None
    nodes: dict[str, dict[str, Any]]
    guests: dict[str, dict[str, str]]


class EvidenceFile(Struct, frozen=True, forbid_unknown_fields=True):
    """A file of raw evidence, its path relative to the output directory of the run."""

    file: str
    sha256: str
    bytes: int


class Result(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One measurement. `started` is ISO 8601 with offset, `clocks` holds the samples of both guests.

    `error` says why there is no measurement, or none that may be used.
    """

    schema_version: int = SCHEMA_VERSION
    tool_version: str
    scenario: str
    run: str
    repetition: int
    started: str
    duration_s: float
    interval_s: float
    recovery_probes: int | None
    recovery_timeout_s: float
    measurement: Measurement | None = None
    migration: MigrationRecord | None = None
    capture: CaptureCheck | None = None
    clocks: dict[str, ClockSamples] = {}
    environment: Environment | None = None
    error: ErrorRecord | None = None
    evidence: tuple[EvidenceFile, ...] = ()

    @property
    def valid(self) -> bool:
        """Whether the number, or the word that there was no recovery, may be used."""
        return self.error is None and self.measurement is not None and self.measurement.valid


def rounded(document: Any, name: str = "") -> Any:
    """Return a JSON-like document with its numbers rounded on purpose: durations to 1 ms, times to 1 us."""
    if isinstance(document, dict):
        return {key: rounded(value, name if name == "bounds_s" else key) for key, value in document.items()}
    if isinstance(document, list | tuple):
        return [rounded(value, name) for value in document]
    if isinstance(document, float):
        return round(document, DURATION_DIGITS if name.endswith("_s") else TIME_DIGITS)
    return document


def to_json(document: Struct | dict[str, Any]) -> bytes:
    """Return a document as indented JSON, its numbers rounded."""
    return msgspec.json.format(msgspec.json.encode(rounded(msgspec.to_builtins(document))), indent=2) + b"\n"


def parse_result(text: bytes, source: str) -> Result:
    """Return the result that a JSON text holds; raise InvalidError, naming `source`, when it is none."""
    try:
        version = msgspec.json.decode(text, type=_Versioned).schema_version
        if version > SCHEMA_VERSION:
            raise InvalidError(
                f"{source} was written by a newer stuntime (schema version {version})",
                "read it with that version or a later one",
                reason="result-newer",
            )
        return msgspec.json.decode(text, type=Result)
    except msgspec.ValidationError as error:
        raise InvalidError(
            f"{source} is no result document: {error}", "leave it out", reason="result-foreign"
        ) from error
    except msgspec.DecodeError as error:
        raise InvalidError(f"{source} is torn: {error}", "measure it again", reason="result-torn") from error


class _Versioned(Struct):
    schema_version: int
