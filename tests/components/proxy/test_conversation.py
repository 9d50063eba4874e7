"""A conversation that is cut anywhere is counted the same, and not a byte of it is changed."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from faultline.components.proxy import Counts
from faultline.components.proxy.conversation import RedisConversation
from faultline.components.proxy.ledger import Ledger
from faultline.components.proxy.turns_conversation import TurnsConversation

OK = b"+OK\r\n"
# What a client sends in one go, what the server answers to that, and what comes unasked before the answer.
STEPS = {
    "get": (b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", b"$5\r\nvalue\r\n"),
    "inline": (b"PING\r\n", b"+PONG\r\n"),
    "pipeline": (b"*1\r\n$4\r\nPING\r\n" * 5, b"+PONG\r\n" * 5),
    "transaction": (b"MULTI\r\nINCR n\r\nEXEC\r\n", OK + b"+QUEUED\r\n*1\r\n:1\r\n"),
    "subscribe": (
        b"SUBSCRIBE a b\r\n",
        b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n*3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:2\r\n",
    ),
    "unsubscribe": (
        b"UNSUBSCRIBE\r\n",
        b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$2\r\nhi\r\n*3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:1\r\n*3\r\n$11\r\nunsubscribe\r\n$1\r\nb\r\n:0\r\n",
    ),
    "resp3": (b"HELLO 3\r\n", b"%1\r\n$6\r\nserver\r\n$5\r\nredis\r\n"),
    "tracked": (b"GET k\r\n", b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n|1\r\n+ttl\r\n:9\r\n_\r\n"),
    "quiet": (b"CLIENT REPLY SKIP\r\nINCR n\r\nPING\r\n", b"+PONG\r\n"),
    "silence": (b"CLIENT REPLY OFF\r\nINCR n\r\nCLIENT REPLY ON\r\n", OK),
    "list": (b"LRANGE l 0 -1\r\n", b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$2\r\nhi\r\n"),
    "error": (b"SUBSCRIBE\r\n", b"-ERR wrong number of arguments\r\n"),
}
CONVERSATION = [
    "get", "inline", "pipeline", "transaction", "list", "subscribe", "unsubscribe", "list", "error",
    "resp3", "tracked", "subscribe3", "list", "quiet", "silence", "get",
]  # fmt: skip
STEPS["subscribe3"] = (b"SUBSCRIBE a\r\n", b">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n")
EXPECTED = Counts(requests=26, round_trips=16, pushes=2)


@given(st.integers(0, 2**32))
def test_any_split_gives_the_same_counts(seed: int) -> None:
    chance = Random(seed)
    ledger = Ledger()
    conversation = RedisConversation(1, ledger)

    for step in CONVERSATION:
        sent, answer = STEPS[step]
        for chunk in split(chance, sent):
            assert b"".join(piece.data for piece in conversation.from_client(chunk, 0.0)) == chunk
        for chunk in split(chance, answer):
            pieces = conversation.from_server(chunk, 0.0)
            assert b"".join(piece.data for piece in pieces) == chunk
            for piece in pieces:
                conversation.passed_on(piece.answers or [])

    assert ledger.tally.counts() == EXPECTED
    assert len(ledger.commands) == EXPECTED.requests


@given(st.data())
def test_a_pipeline_answered_while_a_request_is_half_sent_is_one_round_trip(data: st.DataObject) -> None:
    """The first replies come back before the rest is read: the client has not waited for them."""
    ledger = Ledger()
    conversation = RedisConversation(1, ledger)
    request = b"*1\r\n$4\r\nPING\r\n"
    whole = data.draw(st.integers(1, 9))
    cut = whole * len(request) + data.draw(st.integers(1, len(request) - 1))

    conversation.from_client((request * 10)[:cut], 0.0)
    conversation.passed_on(conversation.from_server(b"+PONG\r\n" * whole, 0.0)[0].answers or [])
    conversation.from_client((request * 10)[cut:], 0.0)
    conversation.passed_on(conversation.from_server(b"+PONG\r\n" * (10 - whole), 0.0)[0].answers or [])
    conversation.from_client(request, 0.0)

    assert (ledger.tally.requests, ledger.tally.round_trips) == (11, 2)


def test_a_round_trip_lasts_until_nothing_is_owed() -> None:
    ledger = Ledger()
    conversation = RedisConversation(1, ledger)

    def answer(text: bytes) -> None:
        conversation.passed_on(conversation.from_server(text, 0.0)[0].answers or [])

    conversation.from_client(b"PING\r\n" * 3, 0.0)
    answer(b"+PONG\r\n")
    conversation.from_client(b"PING\r\n", 0.0)
    answer(b">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n" * 3)
    conversation.from_client(b"PING\r\n", 0.0)
    assert ledger.tally.round_trips == 1
    answer(b"+PONG\r\n" * 4)
    conversation.from_client(b"PING\r\n", 0.0)

    assert ledger.tally.counts() == Counts(requests=6, round_trips=2, pushes=3)


def split(chance: Random, text: bytes) -> list[bytes]:
    cuts = sorted(chance.sample(range(1, len(text)), chance.choice([0, 1, 2, min(12, len(text) - 1), len(text) - 1])))
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def test_turns_begin_with_the_clients_first_bytes_after_the_servers() -> None:
    ledger = Ledger()
    conversation = TurnsConversation(1, ledger)
    for chunk in (b"GET /a HTTP/1.1\r\n", b"Host: b\r\n\r\n"):
        assert b"".join(piece.data for piece in conversation.from_client(chunk, 0.0)) == chunk
    for chunk in (b"HTTP/1.1 200 OK\r\n", b"\r\n"):
        assert b"".join(piece.data for piece in conversation.from_server(chunk, 0.0)) == chunk
    conversation.from_client(b"\x00\x01", 0.0)
    assert [command.args for command in ledger.commands] == [[b"GET", b"/a", b"HTTP/1.1"], [b"\x00\x01"]]
    assert ledger.tally.counts() == Counts(requests=2, round_trips=2)
