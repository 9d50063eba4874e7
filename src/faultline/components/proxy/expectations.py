"""How many replies a Redis server owes for each request, and which messages are nobody's reply."""

from faultline.components.resp import Reply

_SUBSCRIBE = frozenset({b"SUBSCRIBE", b"PSUBSCRIBE", b"SSUBSCRIBE"})
_UNSUBSCRIBE = {b"UNSUBSCRIBE": b"SUBSCRIBE", b"PUNSUBSCRIBE": b"PSUBSCRIBE", b"SUNSUBSCRIBE": b"SSUBSCRIBE"}
_CONFIRMATIONS = frozenset(name.lower() for name in (*_SUBSCRIBE, *_UNSUBSCRIBE))
_MESSAGES = frozenset({b"message", b"pmessage", b"smessage"})
_PLAIN_STREAM = frozenset({b"PSYNC", b"SYNC"})


def is_confirmation(reply: Reply) -> bool:
    """Whether this confirms one channel of a SUBSCRIBE or UNSUBSCRIBE, as an array (RESP 2) or a push (RESP 3)."""
    return reply.kind in b"*>" and reply.first in _CONFIRMATIONS


def confirms(args: list[bytes]) -> bool:
    """Whether this request is answered by confirmations."""
    name = args[0].upper()
    return name in _SUBSCRIBE or name in _UNSUBSCRIBE


def ends_resp(args: list[bytes]) -> bool:
    """Whether the connection carries a replica's stream from here on."""
    return args[0].upper() in _PLAIN_STREAM


class Expectations:
    """Follows one connection's requests in order."""

    def __init__(self) -> None:
        self._channels: dict[bytes, set[bytes]] = {kind: set() for kind in _SUBSCRIBE}
        self._resp3 = False
        self._muted = False
        self._skip = False

    def owed(self, args: list[bytes]) -> int:
        """How many replies or confirmations will answer this request."""
        name = args[0].upper()
        if name == b"CLIENT" and len(args) > 2 and args[1].upper() == b"REPLY":
            return self._reply_mode(args[2].upper())
        if self._muted or self._skip:
            self._skip = False
            return 0
        if name == b"RESET":
            self._reset()
        if name in _SUBSCRIBE:
            self._channels[name].update(args[1:])
            return max(1, len(args) - 1)
        if name in _UNSUBSCRIBE:
            return self._unsubscribe(self._channels[_UNSUBSCRIBE[name]], args[1:])
        return 1

    def answered(self, args: list[bytes], reply: Reply) -> None:
        """Learn the protocol from the answer to HELLO: a map is RESP 3."""
        if args[0].upper() == b"HELLO" and reply.kind in b"%*":
            self._resp3 = reply.kind == b"%"

    def is_push(self, reply: Reply, *, confirming: bool) -> bool:
        """Whether nobody asked for this: a RESP 3 push, or a RESP 2 message to a subscriber.

        Messages still come while the request that ends the last subscription is being confirmed.
        """
        if reply.kind == b">":
            return True
        listening = confirming or any(self._channels.values())
        return listening and not self._resp3 and reply.kind == b"*" and reply.first in _MESSAGES

    def _reset(self) -> None:
        for channels in self._channels.values():
            channels.clear()
        self._resp3 = False

    def _reply_mode(self, mode: bytes) -> int:
        self._muted = mode == b"OFF" or (self._muted and mode != b"ON")
        self._skip = mode == b"SKIP"
        return 1 if mode == b"ON" else 0

    @staticmethod
    def _unsubscribe(subscribed: set[bytes], channels: list[bytes]) -> int:
        count = max(1, len(channels) or len(subscribed))
        subscribed.difference_update(channels or set(subscribed))
        return count
