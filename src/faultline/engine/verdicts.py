"""What a grading run says, event by event: `Began`, one `Judged` a check, `Ended`.

They travel as JSON lines from the grader to whoever asked, and `--json` prints them as they are.
"""

from enum import StrEnum

import msgspec


class Verdict(StrEnum):
    """What is known of one promise."""

    PASS = "pass"  # noqa: S105 - the word, no secret
    FAIL = "fail"
    UNKNOWN = "unknown"
    ERROR = "error"


class Began(msgspec.Struct, frozen=True, tag="began"):
    """The run will judge these checks, in this order; the `seed` repeats it."""

    seed: int
    checks: list[str]


class Judged(msgspec.Struct, frozen=True, tag="judged"):
    """One check's verdict with all that its reader needs."""

    check: str
    promise: str
    verdict: Verdict
    seconds: float
    seen: str = ""  # what was observed, for all but `pass`
    picture: str = ""  # the timeline
    look: str = ""  # where to look
    printed: str = ""  # the end of what the learner's code printed


class Ended(msgspec.Struct, frozen=True, tag="ended"):
    """The run is over and everything it started is gone; `trouble` is empty unless it was cut short.

    `theirs`: by the learner's code, not by a fault of ours.
    """

    seconds: float
    trouble: str = ""
    theirs: bool = False


Event = Began | Judged | Ended

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)


def to_line(event: Event) -> bytes:
    """One JSON line."""
    return _encoder.encode(event) + b"\n"


def from_line(line: bytes) -> Event:
    """The event of one JSON line; raises `msgspec.DecodeError`."""
    return _decoder.decode(line)


def overall(judged: list[Judged], ended: Ended) -> Verdict:
    """The verdict on the whole: `error` before `fail` before `unknown`; no check at all is an error."""
    if ended.theirs:
        return Verdict.FAIL
    if ended.trouble or not judged:
        return Verdict.ERROR
    found = {one.verdict for one in judged}
    return next(
        (verdict for verdict in (Verdict.ERROR, Verdict.FAIL, Verdict.UNKNOWN) if verdict in found),
        Verdict.PASS,
    )


EXIT_CODES = {Verdict.PASS: 0, Verdict.FAIL: 1, Verdict.UNKNOWN: 3, Verdict.ERROR: 3}
