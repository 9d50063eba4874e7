"""AMQP and HTTP/2 as the proxy reads them, whatever pieces the bytes come in."""

import asyncio

import aio_pika
import pytest

from faultline.components.proxy import Command, FaultProxy
from faultline.components.proxy.amqp_conversation import AmqpConversation
from faultline.components.proxy.http2_conversation import Http2Conversation
from faultline.components.proxy.ledger import Ledger

HELLO = b"AMQP\x00\x00\x09\x01"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Watcher:
    """Notes what it is told, and stops what it is asked to."""

    def __init__(self, *stopped: str) -> None:
        self.told: list[str] = []
        self.stopped = asyncio.Event()
        self._stops = stopped

    def _note(self, phase: str, command: Command) -> bool:
        word = f"{phase} {b' '.join(command.args).decode().strip()}"
        self.told.append(word)
        if word in self._stops:
            self.stopped.set()
        return word in self._stops

    def arrived(self, command: Command) -> bool:
        return self._note("arrived", command)

    def executed(self, command: Command) -> bool:
        return self._note("executed", command)

    def answered(self, command: Command) -> None:
        self._note("answered", command)


def method(channel: int, code: bytes, rest: bytes = b"") -> bytes:
    body = code + rest
    return b"\x01" + channel.to_bytes(2) + len(body).to_bytes(4) + body + b"\xce"


def published(channel: int, key: bytes) -> bytes:
    names = b"\x00\x00" + b"\x02ex" + bytes([len(key)]) + key + b"\x00"
    content = b"\x02" + channel.to_bytes(2) + (3).to_bytes(4) + b"abc\xce"
    return method(channel, b"\x00\x3c\x00\x28", names) + content


def settled(channel: int, number: int, *, several: bool = False) -> bytes:
    return method(channel, b"\x00\x3c\x00\x50", number.to_bytes(8) + bytes([several]))


def frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return len(body).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + body


def told(kind: type[AmqpConversation | Http2Conversation], turns: list[tuple[bytes, bytes]], size: int) -> list[str]:
    """What a watcher hears of these turns (client, server) when they come in chunks of that size."""
    ledger = Ledger()
    watcher = ledger.watcher = Watcher()
    conversation = kind(1, ledger)
    for turn in turns:
        for data, feed in zip(turn, (conversation.from_client, conversation.from_server), strict=True):
            passed = b""
            for at in range(0, len(data), size):
                for piece in feed(data[at : at + size], 0.0):
                    assert piece.gate is None or piece.gate.is_open
                    passed += piece.data
                    conversation.passed_on(piece.answers or [])
            assert passed == data
    return watcher.told


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_message_is_answered_by_its_confirm_and_an_acknowledgement_by_nothing(size: int) -> None:
    select = HELLO + method(1, b"\x00\x55\x00\x0a", b"\x00")
    two = published(1, b"a") + published(1, b"b")
    turns = [
        (select, b""),
        (two, settled(1, 2)),
        (published(1, b"c"), settled(1, 3, several=True)),
        (settled(1, 9), b""),
        (published(2, b"unconfirmed"), b""),
    ]
    assert told(AmqpConversation, turns, size) == [
        *("arrived PUBLISH ex a", "arrived PUBLISH ex b", "executed PUBLISH ex b", "answered PUBLISH ex b"),
        *("arrived PUBLISH ex c", "executed PUBLISH ex a", "executed PUBLISH ex c"),
        *("answered PUBLISH ex a", "answered PUBLISH ex c"),
        *("arrived ACK", "answered ACK", "arrived PUBLISH ex unconfirmed"),
    ]


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_call_ends_with_its_stream(size: int) -> None:
    asked = PREFACE + frame(4, 0, 0, b"") + frame(1, 4, 1, b"\x83\x04\x09/a.Shop/B\x86") + frame(0, 1, 1, b"\x00")
    begun = frame(1, 4, 1, b"\x88") + frame(0, 0, 1, b"body")
    ended = frame(1, 5, 1, b"\x40")
    turns = [(asked, begun), (frame(1, 4, 3, b"\x83\xbe"), ended), (b"", frame(3, 0, 3, b"\x00\x00\x00\x08"))]
    assert told(Http2Conversation, turns, size) == [
        *("arrived CALL /a.Shop/B", "executed CALL /a.Shop/B", "arrived CALL", "answered CALL /a.Shop/B"),
        *("executed CALL", "answered CALL"),
    ]


@pytest.mark.once
@pytest.mark.timeout(120)
async def test_a_message_that_is_stopped_is_not_there_and_a_stopped_confirm_leaves_it_there(
    shared_broker: tuple[str, int, int],
) -> None:
    host, port, _ = shared_broker
    async with (
        FaultProxy(host, port, protocol="amqp") as proxy,
        await aio_pika.connect(f"amqp://guest:guest@{host}:{port}/") as direct,
    ):
        queue = await (await direct.channel()).declare_queue(auto_delete=True)
        watcher = Watcher(f"arrived PUBLISH  {queue.name}")
        there = (0, 1)
        for expected in there:
            proxy.watch(watcher)
            client = await aio_pika.connect(f"amqp://guest:guest@{proxy.host}:{proxy.port}/")
            exchange = (await client.channel()).default_exchange
            sending = asyncio.ensure_future(exchange.publish(aio_pika.Message(b"x"), queue.name))
            async with asyncio.timeout(10):
                await watcher.stopped.wait()
            assert sorted(proxy.client_ports()) == [1 + expected]
            await proxy.hang_up(list(proxy.client_ports()))
            assert proxy.client_ports() == {}
            with pytest.raises(Exception):  # noqa: B017, PT011 -- whatever the client makes of it
                await sending
            await client.close()
            message = await queue.get(fail=False)
            assert (message is not None) == bool(expected)
            watcher = Watcher(f"executed PUBLISH  {queue.name}")
