"""A cache in two levels that many instances share and that does not keep what was invalidated.

Level 1 is a few entries in the memory of the process: a hit costs nothing. Level 2 is Redis, for all instances.
Behind both is `load`, the expensive read. Whoever changes the database calls `invalidate` or `invalidate_tag`
afterwards, on any instance; from then on no instance may hand out what was read before.

Fill in the class. Use redis-py and the standard library; add what you need around it. The checks use only what
stands here.

The promise
    Call a value *old* if the `load` that gave it had begun before `invalidate(key)` was called, or before
    `invalidate_tag(tag)` was called and the value has that tag. When that call has returned, a `get` that begins
    afterwards does not give an old value: on the same instance at once, on all others after 0.1 seconds. It makes no
    difference whether the old value lay in a level, was on its way there, or was still being loaded, on which instance,
    and how slow that was. A `get` that had begun before may still give it. Calling `invalidate` before the database is
    changed is the caller's mistake.
Level 1
    In use between `start` and `stop`, while the instance can hear of what other instances invalidate. If the connection
    that it hears on breaks, level 1 is empty, and stays out of use until it can hear again: within 2 seconds after the
    server can be reached. A network that falls silent without a word counts as broken after 2 seconds at the latest;
    until then, and only then, a `get` may be late by more than 0.1 seconds.
The server
    One Redis 7 or Valkey 8; all instances on it are one cache, and have the same `ttl`. It may forget any key at any
    time, a single one (eviction) or all (restart). What it has forgotten is loaded again, and nothing old may come
    back by that.
The client
    A `redis.asyncio.Redis` with `decode_responses=False` and redis-py's usual pool and protocol, made and closed by the
    caller. It does not retry: after a break, each of its connections may fail once more. A dead server raises
    `redis.exceptions.ConnectionError` at once; a silent one would raise `redis.exceptions.TimeoutError` only after the
    client's own `socket_timeout` of 5 seconds: keep your own time (`patience`). A process has at most 50 calls under
    way at once, and the pool has 100 connections. What you listen on is yours: take it from the pool, or make it like
    those in the pool. On Python 3.11 a task that is cancelled while redis-py sends may go on as if nothing had been
    (`asyncio.wait_for` does that): cancel it again until it has ended.
The keys
    Every key in Redis begins with `cache:`. A key of the cache and a tag are any `str` that UTF-8 can write, but the
    empty one, and may be called alike, or like one of your keys in Redis. The name of an entry that has expired
    is gone after another `ttl` from the index of a tag that lives on. Of a load or an invalidation a trace may
    stay for 60 seconds, in keys of their own. Every key in Redis is gone 60 seconds + 2 * `ttl` after the last
    call, but for two keys at most.
The clock
    All durations are `float` seconds, exact to about 0.01 seconds. Processes' clocks disagree by minutes: measure with
    a monotonic clock, and compare no clock of one process with that of another.
"""

from collections.abc import Awaitable, Callable, Sequence

from redis.asyncio import Redis

Load = Callable[[str], Awaitable[tuple[str, Sequence[str]]]]
"""Gives the value of a key and its tags, at most 100; any `str` that UTF-8 can write is a value, also "".

It may take seconds; what takes up to 10 is kept. It may be called at any time, several times at once, and on several
instances.
"""


class CacheUnavailable(Exception):
    """Redis has not confirmed an invalidation: it may have happened or not. Asking again is safe."""


class CoherentCache:
    """What `load` gives, remembered for at most `ttl` seconds, or until it is invalidated."""

    def __init__(self, redis: Redis, load: Load, ttl: float, size: int = 1000, patience: float = 0.2) -> None:
        """Talk to no server yet.

        `ttl`: seconds after the end of its `load` for which a value may be handed out, both levels together; from
        0.01 to a day. What the value took on its way to Redis may come on top. `size`: entries that level 1
        may hold; which of them it gives up is up to you. `patience`: seconds for which an answer of Redis is
        waited for, whatever the client's own limit is. Raises `ValueError` for a `ttl` under 0.01, a `size`
        under 1, or a `patience` of 0 or less.
        """
        raise NotImplementedError

    async def start(self) -> None:
        """Begin to listen; when it returns, level 1 is in use.

        If the server does not answer, it returns within 1 second all the same, raises nothing, and goes on trying.
        Started already, it changes nothing. It may be started again after `stop`.
        """
        raise NotImplementedError

    async def stop(self) -> None:
        """End what `start` began, within 1 second also if the server is silent: no task is left and no connection open.

        The connections in the caller's pool are not meant. `get` works as it did before `start`. Stopped already, or
        never started, it does nothing.
        """
        raise NotImplementedError

    async def get(self, key: str) -> str:
        """The value: from level 1 without a word to Redis, else from Redis, else from `load`, which fills both levels.

        Before `start` and after `stop` it works without level 1. Several calls for a key at once may share one `load`
        or not, as you like. What `load` raises is raised here, to everyone who shared it, and not remembered. A call
        that is cancelled disturbs no other.

        When Redis is dead or silent it loads, remembers nothing, and takes at most 2 * `patience` + 0.1 seconds longer
        than `load`; nothing of Redis' is raised. What was loaded while something else was invalidated may be remembered
        or not. Raises `ValueError` for an empty key.
        """
        raise NotImplementedError

    async def invalidate(self, key: str) -> None:
        """Forget the value of this key, everywhere, and no other; whether it was there does not matter.

        Raises `CacheUnavailable` within 2 * `patience` + 0.1 seconds when Redis does not confirm it. Level 1 of this
        instance has forgotten it even so. Raises `ValueError` for an empty key.
        """
        raise NotImplementedError

    async def invalidate_tag(self, tag: str) -> None:
        """Forget every value that has this tag, everywhere, and no other; a value's tags are those it was loaded with.

        What it asks of Redis, and what Redis answers, grows with the tag's members only, not with what else is in the
        cache. Otherwise as `invalidate`.
        """
        raise NotImplementedError
