"""Requests and replies are told apart however the network splits the bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faultline.components.proxy_errors import NotResp
from faultline.components.resp import KEPT, LONGEST_LINE, Reply, ReplyParser, Request, RequestParser


def command(*args: bytes) -> bytes:
    return b"*%d\r\n" % len(args) + b"".join(b"$%d\r\n%b\r\n" % (len(arg), arg) for arg in args)


arguments = st.lists(st.binary(max_size=40), min_size=1, max_size=5)
word = st.text("abcdefgh019", min_size=1, max_size=8).map(str.encode)
requests = st.one_of(
    arguments.map(lambda args: (command(*args), args)),
    st.lists(word, min_size=1, max_size=3).map(lambda args: (b" ".join(args) + b"\r\n", args)),
    st.sampled_from([b"\r\n", b"\n", b"*0\r\n", b"*-1\r\n"]).map(lambda nothing: (nothing, None)),
)

leaves = st.one_of(
    st.sampled_from([b"+OK", b"-ERR no", b":12", b"_", b"#t", b",3.14", b"(12345678901234567890", b"$-1", b"*-1"]),
    st.binary(max_size=20).map(lambda text: b"$%d\r\n%b" % (len(text), text)),
    st.binary(max_size=20).map(lambda text: b"=%d\r\ntxt:%b" % (len(text) + 4, text)),
    st.binary(max_size=20).map(lambda text: b"!%d\r\n%b" % (len(text), text)),
).map(lambda text: text + b"\r\n")


def groups(values: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    pairs = st.lists(st.tuples(values, values), max_size=3)
    lists = st.lists(values, max_size=4)
    return st.one_of(
        lists.map(lambda items: b"*%d\r\n" % len(items) + b"".join(items)),
        lists.map(lambda items: b"~%d\r\n" % len(items) + b"".join(items)),
        pairs.map(lambda items: b"%%%d\r\n" % len(items) + b"".join(map(b"".join, items))),
        st.tuples(pairs, values).map(
            lambda both: b"|%d\r\n" % len(both[0]) + b"".join(map(b"".join, both[0])) + both[1]
        ),
    )


replies = st.recursive(leaves, groups, max_leaves=12)


def split(data: st.DataObject, text: bytes) -> list[bytes]:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=30)))
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True) if start < end]


@given(st.data(), st.lists(requests, max_size=8))
def test_any_split_gives_the_same_requests(data: st.DataObject, sent: list[tuple[bytes, list[bytes] | None]]) -> None:
    chunks = split(data, b"".join(text for text, _ in sent))
    parser = RequestParser()

    seen = [request.args for chunk in chunks for request in parser.feed(chunk)]

    assert seen == [args for _, args in sent if args is not None]
    assert not parser.partial


@given(st.data(), st.lists(replies, max_size=8))
def test_any_split_gives_the_same_replies(data: st.DataObject, sent: list[bytes]) -> None:
    chunks = split(data, b"".join(sent))
    parser = ReplyParser()
    begins: list[int] = []
    ends = 0
    at = 0

    for chunk in chunks:
        for reply in parser.feed(chunk):
            ends += reply.ended
            if reply.start is not None:
                begins.append(at + reply.start)
        at += len(chunk)

    assert ends == len(sent)
    assert begins == [sum(map(len, sent[:index])) for index in range(len(sent))]
    assert not parser.partial


@given(st.data(), arguments)
def test_partial_is_true_exactly_inside_a_message(data: st.DataObject, args: list[bytes]) -> None:
    text = command(*args)
    cut = data.draw(st.integers(0, len(text)))
    parser = RequestParser()

    parser.feed(text[:cut])

    assert parser.partial is (0 < cut < len(text))


def test_a_request_says_where_it_began() -> None:
    parser = RequestParser()
    first, second = command(b"GET", b"a"), command(b"GET", b"b")

    assert parser.feed(first + second[:5]) == [Request([b"GET", b"a"], 0)]
    assert parser.feed(second[5:] + first + b"PING\r\n") == [
        Request([b"GET", b"b"], 0),
        Request([b"GET", b"a"], len(second) - 5),
        Request([b"PING"], len(second) - 5 + len(first)),
    ]


def test_a_reply_is_announced_by_its_first_byte() -> None:
    parser = ReplyParser()

    assert parser.feed(b"+OK\r\n$") == [Reply(b"+", 0, ended=True), Reply(b"$", 5, ended=False)]
    assert parser.feed(b"3\r\nab") == []
    assert parser.feed(b"c\r\n") == [Reply(b"$", None, ended=True)]


@pytest.mark.parametrize(
    ("text", "kind", "first"),
    [
        (b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2\r\nhi\r\n", b"*", b"message"),
        (b">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n", b">", b"invalidate"),
        (b"*1\r\n*1\r\n$7\r\nmessage\r\n", b"*", None),
        (b"*2\r\n$-1\r\n$1\r\nx\r\n", b"*", None),
        (b"|1\r\n+ttl\r\n:3600\r\n*1\r\n$1\r\nk\r\n", b"*", b"k"),
        (b"%1\r\n+message\r\n:1\r\n", b"%", None),
        (b"*0\r\n", b"*", None),
    ],
)
def test_kind_and_first_element_are_those_of_the_reply_itself(text: bytes, kind: bytes, first: bytes | None) -> None:
    assert ReplyParser().feed(text) == [Reply(kind, 0, ended=True, first=first)]


def test_long_arguments_are_kept_in_part_and_counted_in_full() -> None:
    parser = RequestParser()
    text = command(b"SET", b"k", b"x" * 1_000_000) + command(b"PING")

    seen = [request for at in range(0, len(text), 4001) for request in parser.feed(text[at : at + 4001])]

    assert [request.args for request in seen] == [[b"SET", b"k", b"x" * KEPT], [b"PING"]]


def test_a_chunk_that_only_looks_whole_is_not_taken_for_a_request() -> None:
    """An argument may hold what looks like two."""
    args = [b"x\r\n$1\r\ny\r\n", b"z"]
    text = command(*args)
    cut = text.index(b"y\r\n") + 3
    parser = RequestParser()

    assert parser.feed(text[:cut]) == []
    assert [request.args for request in parser.feed(text[cut:])] == [args]


def test_a_long_argument_in_one_chunk_is_kept_in_part_too() -> None:
    assert RequestParser().feed(command(b"SET", b"x" * 20_000)) == [Request([b"SET", b"x" * KEPT], 0)]


@pytest.mark.parametrize(
    "text",
    [b"*x\r\n", b"*-7\r\n", b"*1\r\n+OK\r\n", b"*1\r\n$-1\r\n", b"*1\r\n$?\r\n", b"\x16\x03" + b"x" * LONGEST_LINE],
)
def test_what_is_no_request_is_refused(text: bytes) -> None:
    with pytest.raises(NotResp):
        RequestParser().feed(text)


@pytest.mark.parametrize("text", [b"HTTP/1.1 200 OK\r\n", b"$?\r\n", b"*x\r\n", b"\r\n", b"$-2\r\n"])
def test_what_is_no_reply_is_refused(text: bytes) -> None:
    with pytest.raises(NotResp):
        ReplyParser().feed(text)
