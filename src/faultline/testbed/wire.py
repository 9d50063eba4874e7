"""What grader and learner process say to each other: length-prefixed MessagePack frames.

A frame is a 4-byte big-endian length, then that many bytes. The grader sends `Request`s, the learner's process
answers each with one `Reply` or `Failure`, in any order; `Cancel` asks for the end of one that runs. The other way
round, the learner's code calls functions of the check: `Calling`, answered by `Returned` or `Threw`.

Plain data travels as it is (tuples as lists). Anything else stays where it is and travels as a `Ref`, with a
snapshot of its public plain attributes, so that a check can read `lease.token`. What MessagePack has no word for
travels as an extension type, so no data can look like it.
"""

import asyncio
import struct
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec.msgpack import Decoder, Encoder, Ext

MAX_FRAME = 4 * 2**20  # bytes; more than that is a mistake, not an answer
TASKS = "asyncio.all_tasks"  # read from the solution itself: the tasks of the learner's code, each in words
_MAX_DIGITS = 8192  # hexadecimal ones of an integer; showing one takes time that grows with their square
_LENGTH = struct.Struct(">I")
_INT64 = range(-(2**63), 2**64)


class TooLarge(ValueError):
    """Refused: nothing was sent, because it is larger than a frame may be."""


class RedisAt(msgspec.Struct, frozen=True):
    """An argument that becomes a `redis.asyncio.Redis` of its own in the learner's process."""

    host: str
    port: int
    socket_timeout: float = 5.0  # seconds


class BrokerAt(msgspec.Struct, frozen=True):
    """An argument that becomes an aio-pika connection of its own in the learner's process; one a process and address.

    It is a plain one: when the broker goes away it is closed, and stays so.
    """

    url: str


class Ref(msgspec.Struct, frozen=True):
    """An object that lives in the learner's process; `attributes` is what it looked like when it was sent."""

    number: int
    kind: str
    attributes: dict[str, Any]
    unreadable: dict[str, str]  # attribute → why reading it failed


class CallbackAt(msgspec.Struct, frozen=True):
    """An argument that becomes a function there, which runs in the check: awaited, or only told if it `tells`."""

    number: int
    name: str
    tells: bool = False


class InterfaceAt(msgspec.Struct, frozen=True):
    """An argument that becomes an object with these async methods, each a callback by its number."""

    methods: dict[str, int]


class ClockAt(msgspec.Struct, frozen=True):
    """An argument that becomes a `Callable[[], float]`; it reads what the check has written into this file."""

    path: str


class Named(msgspec.Struct, frozen=True):
    """An argument that becomes what has this name: in the solution, in Python itself, or in a module by its path."""

    name: str


class Names(msgspec.Struct, frozen=True):
    """A tuple of `Named`s, which stays a tuple, since `except` and `isinstance` want one."""

    names: list[str]


class Request(msgspec.Struct, frozen=True, tag=True):
    """Make an object of class `name` (`target` 0), or call method `name` of the object `target`."""

    number: int
    target: int
    name: str
    args: list[Any]
    kwargs: dict[str, Any]
    read: bool = False  # read the attribute `name` instead of calling it


class Serve(msgspec.Struct, frozen=True, tag=True):
    """Serve the object `target`, an ASGI app, there until the process ends; answered when it accepts connections."""

    number: int
    target: int
    host: str
    port: int


class Cancel(msgspec.Struct, frozen=True, tag=True):
    """Cancel the task of that request; answered by `CancelSeen`, and by the request's own answer when it has ended."""

    number: int


class Returned(msgspec.Struct, frozen=True, tag=True):
    """What the check's function returned."""

    number: int
    value: Any


class Threw(msgspec.Struct, frozen=True, tag=True):
    """The check's function raised: make an exception of this kind there."""

    number: int
    kind: str
    args: list[Any]
    kwargs: dict[str, Any]


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


class CancelSeen(msgspec.Struct, frozen=True, tag=True):
    """Whether the request was still running when it was to be cancelled."""

    number: int
    running: bool


class Calling(msgspec.Struct, frozen=True, tag=True):
    """The learner's code calls a function of the check; it awaits the answer unless the function only `tells`."""

    number: int
    callback: int
    args: list[Any]
    kwargs: dict[str, Any]


class HungUp(msgspec.Struct, frozen=True, tag=True):
    """Whoever awaited that call in the learner's code was cancelled."""

    number: int


ToLearner = Request | Serve | Cancel | Returned | Threw
ToGrader = Reply | Failure | CancelSeen | Calling | HungUp


def pack(value: Any) -> Any:
    """`value` as MessagePack can carry it; raises `TypeError` for what is not plain data."""
    match value:
        case None | bool():
            return value
        case str():
            return str.__str__(value)  # the plain value of a subclass, whatever that has overridden
        case float():
            return float.__float__(value)
        case bytes():
            return bytes(value)
        case int():
            number = int.__int__(value)
            return number if number in _INT64 else _pack_big(number)
        case dict():
            return {key(name): pack(item) for name, item in value.items()}
        case _:
            return _pack_other(value)


def _pack_big(number: int) -> Ext:
    if number.bit_length() > 4 * _MAX_DIGITS:
        raise TooLarge(f"an integer of {number.bit_length():,} bits; {4 * _MAX_DIGITS:,} can travel")
    return Ext(_BIG_INT, hex(number).encode())


def _pack_other(value: Any) -> Any:
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return [pack(item) for item in value]
    for code, kind in _STRUCTS.items():
        if isinstance(value, kind):
            return Ext(code, _encoder.encode(value))
    raise TypeError(f"{type(value).__name__} cannot be sent to the learner's process")


def key(name: Any) -> Any:
    """A key of a dict as it travels: plain data as it is, anything else as its text."""
    return pack(name) if isinstance(name, str | bytes | int | float | None) else str(name)


def _unpack_extension(code: int, data: memoryview) -> Any:
    if code == _BIG_INT and len(data) <= _MAX_DIGITS + 3:  # with a sign and 0x
        return int(bytes(data), 16)
    return _struct_decoders[code](data)


_BIG_INT = 0
_Special = Ref | RedisAt | BrokerAt | CallbackAt | InterfaceAt | ClockAt | Named | Names
_STRUCTS: dict[int, type[_Special]] = dict(
    enumerate((Ref, RedisAt, BrokerAt, CallbackAt, InterfaceAt, ClockAt, Named, Names), start=1)
)
_struct_decoders: dict[int, Callable[[memoryview], _Special]] = {
    code: Decoder(kind, ext_hook=_unpack_extension).decode for code, kind in _STRUCTS.items()
}
_encoder = Encoder()
_to_learner: Decoder[ToLearner] = Decoder(ToLearner, ext_hook=_unpack_extension)
_to_grader: Decoder[ToGrader] = Decoder(ToGrader, ext_hook=_unpack_extension)


def frame(message: ToLearner | ToGrader) -> bytes:
    """The bytes of one message; raises `TooLarge`."""
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME:
        raise TooLarge(f"{len(body):,} bytes in one piece; {MAX_FRAME:,} can travel between your process and the check")
    return _LENGTH.pack(len(body)) + body


async def _body(reader: asyncio.StreamReader) -> bytes:
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    if length > MAX_FRAME:
        raise ConnectionError(f"a frame of {length:,} bytes was announced; no peer of ours sends that")
    return await reader.readexactly(length)


async def read_from_grader(reader: asyncio.StreamReader) -> ToLearner:
    """The next message; raises `asyncio.IncompleteReadError` at the end, `ConnectionError` for what is no frame."""
    return _to_learner.decode(await _body(reader))


async def read_from_learner(reader: asyncio.StreamReader) -> ToGrader:
    """The next message; raises as `read_from_grader` does, and `msgspec.DecodeError` for what is no message."""
    return _to_grader.decode(await _body(reader))
