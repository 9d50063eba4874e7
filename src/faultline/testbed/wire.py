"""What grader and learner process say to each other: length-prefixed MessagePack frames.

A frame is a 4-byte big-endian length, then that many bytes. The grader sends `Request`s, the learner's process
answers each with one `Reply`, in any order. Plain data travels as it is. Anything else stays where it is and
travels as a `Ref`, with a snapshot of its public plain attributes, so that a check can read `lease.token`.
"""

import asyncio
import struct
from collections.abc import Mapping
from typing import Any

import msgspec

_LENGTH = struct.Struct(">I")
MAX_FRAME = 16 * 2**20  # bytes; more than that is a mistake, not an answer


class RedisAt(msgspec.Struct, frozen=True, tag=True):
    """An argument that becomes a `redis.asyncio.Redis` of its own in the learner's process."""

    host: str
    port: int
    socket_timeout: float = 0.25  # seconds


class Ref(msgspec.Struct, frozen=True, tag=True):
    """An object that lives in the learner's process; `attributes` is what it looked like when it was sent."""

    number: int
    kind: str
    attributes: dict[str, Any]
    unreadable: dict[str, str]  # attribute → why reading it failed


class BigInt(msgspec.Struct, frozen=True, tag=True):
    """An integer beyond 64 bits."""

    digits: str


class Request(msgspec.Struct, frozen=True, tag=True):
    """Make an object of class `name` (`target` 0), or call method `name` of the object `target`."""

    number: int
    target: int
    name: str
    args: list[Any]
    kwargs: dict[str, Any]
    read: bool = False  # read the attribute `name` instead of calling it


class Reply(msgspec.Struct, frozen=True, tag=True):
    """The request's result."""

    number: int
    value: Any


class Failure(msgspec.Struct, frozen=True, tag=True):
    """The request raised."""

    number: int
    kind: str
    bases: list[str]
    message: str
    where: str


_PACKED = {kind.__name__: kind for kind in (RedisAt, Ref, BigInt)}
_encoder = msgspec.msgpack.Encoder()
_requests = msgspec.msgpack.Decoder(Request)
_answers = msgspec.msgpack.Decoder(Reply | Failure)
_int64 = range(-(2**63), 2**64)


def pack(value: Any) -> Any:
    """`value` with everything in it that MessagePack cannot carry made explicit; raises `TypeError` for the rest."""
    if isinstance(value, bool | float | str | bytes | None | RedisAt | Ref):
        return value
    if isinstance(value, int):
        return value if value in _int64 else BigInt(str(value))
    if isinstance(value, list | tuple):
        return [pack(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): pack(item) for key, item in value.items()}
    raise TypeError(f"{type(value).__name__} cannot be sent to the learner's process")


def unpack(value: Any) -> Any:
    """What `pack` made explicit, as the objects it stands for."""
    if isinstance(value, list):
        return [unpack(item) for item in value]
    if not isinstance(value, dict):
        return value
    if (kind := _PACKED.get(value.get("type", ""))) is None:
        return {key: unpack(item) for key, item in value.items()}
    packed = msgspec.convert(value, kind)
    if isinstance(packed, BigInt):
        return int(packed.digits)
    if isinstance(packed, Ref):
        attributes = {name: unpack(item) for name, item in packed.attributes.items()}
        return msgspec.structs.replace(packed, attributes=attributes)
    return packed


def frame(message: Request | Reply | Failure) -> bytes:
    """The bytes of one message."""
    body = _encoder.encode(message)
    return _LENGTH.pack(len(body)) + body


async def _body(reader: asyncio.StreamReader) -> bytes:
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    if length > MAX_FRAME:
        raise asyncio.IncompleteReadError(b"", length)
    return await reader.readexactly(length)


async def read_request(reader: asyncio.StreamReader) -> Request:
    """The next request; raises `asyncio.IncompleteReadError` at the end."""
    return _requests.decode(await _body(reader))


async def read_answer(reader: asyncio.StreamReader) -> Reply | Failure:
    """The next answer; raises `asyncio.IncompleteReadError` at the end."""
    return _answers.decode(await _body(reader))
