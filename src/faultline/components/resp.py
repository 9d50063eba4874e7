"""Tells requests and replies apart in RESP 2 and 3, fed with chunks that are split anywhere.

Only the boundaries and what a proxy needs to know are kept: a request's arguments (each to 4 KiB), a reply's kind
and, of an array or push, its first element. Streamed strings and aggregates (`$?`, `*?`), which no server sends,
are refused with `NotResp`, as is everything else that is not RESP.
"""

from dataclasses import dataclass

from faultline.components.proxy_errors import NotResp

KEPT = 4096
"""Bytes of each argument that are kept."""

LONGEST_LINE = 64 * 1024
_SCALARS = frozenset(b"+-:_#,(")
_BULKS = frozenset(b"$=!")
_GROUPS = {
    ord("*"): (1, -1),
    ord("~"): (1, -1),
    ord(">"): (1, -1),
    ord("%"): (2, -1),
    ord("|"): (2, 0),
}
"""Children per counted element, and what the group itself changes: an attribute is no value, it precedes one."""


@dataclass(frozen=True, slots=True)
class Request:
    """A complete request; it began at `start` in the chunk that completed it, at 0 if before."""

    args: list[bytes]
    start: int


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply that began (`start`) or ended in this chunk; None for what lies in another one.

    `kind` is the byte that announces it (`+ - : $ * % ~ >` …); `first` the first element of an array or push.
    """

    kind: bytes
    start: int | None
    ended: bool
    first: bytes | None = None


class _Walk:
    """Walks over lines and counted strings; a subclass says what they mean."""

    def __init__(self) -> None:
        self._line = b""
        self._string = bytearray()
        self._string_left = 0  # with its line end; 0: the next thing is a line

    @property
    def partial(self) -> bool:
        """Whether the last chunk ended inside a message."""
        return bool(self._line) or self._inside()

    def _walk(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            at = self._take_string(data, at) if self._string_left else self._take_line(data, at)

    def _take_line(self, data: bytes, at: int) -> int:
        if not self._line and not self._inside():
            self._begin(data, at)
        end = data.find(b"\n", at) + 1
        line = self._line + data[at : end or len(data)]
        if len(line) > LONGEST_LINE:
            raise NotResp(f"a line of more than {LONGEST_LINE} bytes, beginning {line[:40]!r}")
        if not end:
            self._line = line
            return len(data)
        self._line = b""
        self._on_line(line.rstrip(b"\r\n"))
        return end

    def _take_string(self, data: bytes, at: int) -> int:
        count = min(self._string_left, len(data) - at)
        if (room := KEPT - len(self._string)) > 0:
            # the last two bytes are the line end
            self._string += data[at : at + min(count, room, max(0, self._string_left - 2))]
        self._string_left -= count
        if not self._string_left:
            self._on_string(bytes(self._string))
        return at + count

    def _expect_string(self, size: int) -> None:
        self._string.clear()
        self._string_left = size + 2

    def _inside(self) -> bool:
        raise NotImplementedError

    def _begin(self, data: bytes, at: int) -> None:
        raise NotImplementedError

    def _on_line(self, line: bytes) -> None:
        raise NotImplementedError

    def _on_string(self, string: bytes) -> None:
        raise NotImplementedError


def _size(line: bytes) -> int:
    try:
        size = int(line[1:])
    except ValueError:
        size = -2
    if size < -1:
        raise NotResp(f"no length in {line[:40]!r}")
    return size


class RequestParser(_Walk):
    """Gives each request once its last byte has come; inline commands are split at blanks, without quoting."""

    def __init__(self) -> None:
        super().__init__()
        self._start = 0
        self._left = 0
        self._args: list[bytes] = []
        self._done: list[Request] = []

    def feed(self, data: bytes) -> list[Request]:
        """The requests that these bytes complete."""
        self._start = 0
        self._done = []
        if self.partial or not self._is_one_whole(data):
            self._walk(data)
        return self._done

    def _is_one_whole(self, data: bytes) -> bool:
        """Take the usual chunk, one request and nothing else, in a third of the time that walking takes."""
        words = data.split(b"\r\n")
        lengths = words[1:-1:2]
        args = words[2:-1:2]
        if not args or words[-1] or words[0] != b"*%d" % len(args) or len(lengths) != len(args):
            return False
        if len(data) > KEPT or any(length != b"$%d" % len(arg) for length, arg in zip(lengths, args, strict=True)):
            return False  # an argument with a line end in it
        self._done.append(Request(args, 0))
        return True

    def _inside(self) -> bool:
        return self._left > 0

    def _begin(self, data: bytes, at: int) -> None:
        del data
        self._start = at

    def _on_line(self, line: bytes) -> None:
        if self._left:
            if line[:1] != b"$" or (size := _size(line)) < 0:
                raise NotResp(f"expected the length of an argument, got {line[:40]!r}")
            self._expect_string(size)
        elif line[:1] == b"*":
            self._left = max(0, _size(line))
            self._args = []
        elif args := line.split():
            self._done.append(Request(args, self._start))

    def _on_string(self, string: bytes) -> None:
        self._args.append(string)
        self._left -= 1
        if not self._left:
            self._done.append(Request(self._args, self._start))


class ReplyParser(_Walk):
    """Tells where top-level replies begin and end; an attribute belongs to the reply that it precedes."""

    def __init__(self) -> None:
        super().__init__()
        self._left = 0  # values until the reply is complete; 0 between replies
        self._kind = b""
        self._start: int | None = None
        self._first: bytes | None = None
        self._first_is_next = False
        self._headed = False  # whether the line that names the reply's own type has come
        self._found: list[Reply] = []

    def feed(self, data: bytes) -> list[Reply]:
        """The replies that begin or end in these bytes."""
        if not self.partial and data[0] in _SCALARS and data.find(b"\n") == len(data) - 1:
            return [Reply(data[:1], 0, ended=True)]  # the usual chunk, a third of the time that walking takes
        self._start = None
        self._found = []
        self._walk(data)
        return self._found + self._only_begun()

    def _only_begun(self) -> list[Reply]:
        return [] if self._start is None else [Reply(self._kind, self._start, ended=False)]

    def _inside(self) -> bool:
        return self._left > 0

    def _begin(self, data: bytes, at: int) -> None:
        self._left = 1
        self._start = at
        self._kind = data[at : at + 1]
        self._headed = False
        self._first = None
        self._first_is_next = False

    def _on_line(self, line: bytes) -> None:
        sign = line[0] if line else 0
        at_top = not self._headed and self._left == 1
        if at_top and sign != ord("|"):
            self._headed = True
            self._kind = line[:1]
        if sign in _SCALARS:
            self._value(line[1:])
        elif sign in _BULKS:
            self._bulk(_size(line))
        elif sign in _GROUPS:
            self._group(sign, _size(line), at_top=at_top)
        else:
            raise NotResp(f"no reply begins with {line[:40]!r}")

    def _on_string(self, string: bytes) -> None:
        self._value(string)

    def _bulk(self, size: int) -> None:
        if size < 0:
            self._value(None)
        else:
            self._expect_string(size)

    def _group(self, sign: int, size: int, *, at_top: bool) -> None:
        each, more = _GROUPS[sign]
        children = each * max(0, size)
        self._first_is_next = at_top and each == 1 and children > 0
        self._close(children + more)

    def _value(self, content: bytes | None) -> None:
        if self._first_is_next:
            self._first = content
            self._first_is_next = False
        self._close(-1)

    def _close(self, change: int) -> None:
        self._left += change
        if not self._left:
            self._found.append(Reply(self._kind, self._start, ended=True, first=self._first))
            self._start = None
