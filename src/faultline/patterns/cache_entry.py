"""How a cache's entry is written, so that anything else at its key is a miss and never a wrong value.

    ┌────────┬──────┬───────┬─────────┬─────────
    │ 0xC1 F │ kind │ CRC32 │ took ms │ payload …
    └────────┴──────┴───────┴─────────┴─────────

0xC1 begins no UTF-8 text, no MessagePack and no pickle, so no other program's entry looks like one of these; the
checksum, of the kind and of all that follows it, finds what was cut or changed on its way. `kind` is `v` for a value,
`n` for "there is none".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from zlib import crc32

HEAD = struct.Struct(">2scII")
TOOK = struct.Struct(">I")
MAGIC = b"\xc1F"
VALUE, NONE = b"v", b"n"
LONGEST = 2**32 - 1  # ms that a load can be said to have taken


@dataclass(frozen=True, slots=True)
class Entry:
    """What was kept: the payload (None: it is known that there is no value), and the seconds that loading it took."""

    payload: bytes | None
    took: float


def packed(payload: bytes | None, took: float) -> bytes:
    """The entry as bytes."""
    body = payload or b""
    kind = NONE if payload is None else VALUE
    milliseconds = min(round(took * 1000), LONGEST)
    return HEAD.pack(MAGIC, kind, _checksum(kind, milliseconds, body), milliseconds) + body


def unpacked(raw: object) -> Entry | None:
    """The entry that these bytes are, or None if they are none of ours."""
    if not isinstance(raw, bytes) or len(raw) < HEAD.size:
        return None
    magic, kind, checksum, milliseconds = HEAD.unpack_from(raw)
    body = raw[HEAD.size :]
    if magic != MAGIC or checksum != _checksum(kind, milliseconds, body) or kind not in {VALUE, NONE}:
        return None
    return Entry(body if kind == VALUE else None, milliseconds / 1000)


def _checksum(kind: bytes, milliseconds: int, body: bytes) -> int:
    return crc32(body, crc32(kind + TOOK.pack(milliseconds)))
