"""The grader of redis/07: what a session store promises to users, to thieves, and to calls at the same time."""

import asyncio
import base64
import binascii
import math
import re
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from faultline.testbed import (
    Age,
    Broken,
    LearnerProcess,
    ProxiedRedis,
    Raised,
    RedisServer,
    Remote,
    Reset,
    Testbed,
    TestbedError,
    Vacuous,
)

ANN = "ann"
LETTERS = re.compile(r"[A-Za-z0-9_.~-]{1,200}")
BITS = 126  # of 128: a few thousand letters do not show every letter at every place; a uuid4 shows 122
EXACT = 0.02  # seconds: four times what is promised

Call = Callable[[], Awaitable[Any]]


async def store(
    shop: LearnerProcess, server: RedisServer | ProxiedRedis, *, idle: float = 60.0, absolute: float = 600.0
) -> Remote:
    """The learner's store in that process."""
    return await shop.new("SessionStore", server.at(), idle, absolute)


async def loaded(sessions: Remote, session_id: str) -> Remote | None:
    """The session, or None; whatever else `load` gives is neither."""
    found = await sessions.load(session_id)
    if found is None or isinstance(found, Remote):
        return found
    raise Broken(f"load gave {found!r}; promised is a Session or None")


async def opened(sessions: Remote, session_id: str, when: str) -> Remote:
    """The session, which must be there."""
    found = await loaded(sessions, session_id)
    if found is None:
        raise Broken(f"{when}, and load says None")
    return found


async def gone(sessions: Remote, session_id: str, when: str) -> None:
    """The id must be that of no session."""
    found = await loaded(sessions, session_id)
    if found is not None:
        raise Broken(f"{when}, and its id still loads a session of {found.user_id!r}", (found.operation,))


async def listed(sessions: Remote, user_id: str = ANN) -> dict[str, Remote]:
    """The user's sessions, by handle."""
    found = await sessions.list(user_id)
    if not isinstance(found, list) or not all(isinstance(one, Remote) for one in found):
        raise Broken(f"list gave {found!r}; promised is a list of Sessions")
    by_handle = {one.handle: one for one in found}
    if len(by_handle) < len(found):
        raise Broken(f"list shows {len(found)} sessions with {len(by_handle)} handles")
    return by_handle


async def update(sessions: Remote, session_id: str, fields: dict[str, Any]) -> bool:
    """`update` with fields of any name."""
    told = await sessions.process.request(sessions.ref, "update", (session_id,), fields)
    if not isinstance(told, bool):
        raise Broken(f"update gave {told!r}; promised is True or False")
    return told


async def now(testbed: Testbed, instant: float) -> bool:
    """Whether it is so late."""
    return testbed.history.now() >= instant


async def wait_until(testbed: Testbed, instant: float, what: str) -> None:
    """Return when it is so late."""
    await testbed.until(lambda: now(testbed, instant), what, deadline=30.0)


def asked(one: Remote) -> float:
    """When the call that gave it had begun."""
    return one.operation.start


def answered(one: Remote) -> float:
    """When its answer had come."""
    return one.operation.end or 0.0


# -- the contract ------------------------------------------------------------------------------------------------


async def test_logs_in_and_out(testbed: Testbed) -> None:
    """A login opens a session of its own, known in every process, until it is revoked.

    Look: the docstrings of `Session`, `create`, `load`, `revoke` and `list` in the starter.
    """
    redis = await testbed.redis()
    here, there = [await store(shop, redis) for shop in await testbed.processes(2, "shop")]

    laptop, phone = await here.create(ANN), await there.create(ANN)
    for made in (laptop, phone):
        for what, text in (("id", made.id), ("handle", made.handle)):
            assert isinstance(text, str), f"the {what} of a new session is {text!r}, no text"
            assert LETTERS.fullmatch(text), f"the {what} {text!r} has letters that a cookie cannot have, or too many"
        assert made.id != made.handle, "the handle of a new session is its id"
        as_promised(made, handle=made.handle, fields={}, ends_in=60.0, what="a new session")
        shown = await made.process.request(made.ref, "__repr__", (), {})
        assert without(made.id, made.handle) not in shown, f"the secret is in the session's repr: {shown}"
    assert laptop.id != phone.id, "two sessions have one id"
    assert laptop.handle != phone.handle, "two sessions have one handle"

    seen = await opened(there, laptop.id, "a session was created in another process")
    as_promised(seen, handle=laptop.handle, fields={}, ends_in=60.0, what="loaded, the session")
    assert seen.id == laptop.id, "load gives a session with another id than it was asked for"
    both = await listed(there)
    assert set(both) == {laptop.handle, phone.handle}, f"ann has two sessions, and list shows {len(both)} of them"
    for one in both.values():
        as_promised(one, handle=one.handle, fields={}, ends_in=60.0, what="listed, the session", since=laptop)
        assert one.id == "", f"list gives a session with the id {one.id!r}; it is kept nowhere"

    first, second = await there.revoke(laptop.id), await here.revoke(laptop.id)
    assert (first, second) == (True, False), f"revoked twice, it said {first}, then {second}; promised is True, False"
    await gone(here, laptop.id, "the session was revoked")
    told = await update(here, laptop.id, {"theme": "dark"}), await there.rotate(laptop.id)
    assert told == (False, None), f"of a session that was revoked update and rotate say {told}; promised is False, None"
    await opened(here, phone.id, "another session was revoked, and this one was not")
    ended = await here.revoke_all(ANN), await there.revoke_all(ANN)
    assert ended == (1, 0), f"of one session revoke_all said {ended[0]} are ended, and then {ended[1]}"
    await gone(there, phone.id, "all sessions of ann were revoked")
    assert not await listed(here), "all sessions of ann were revoked, and list still shows some"
    brief = await (await store(here.process, redis, idle=6000.0, absolute=5000.0)).create("bob")
    as_promised(
        brief, user_id="bob", handle=brief.handle, fields={}, ends_in=5000.0, what="at most 5000 s old, a session"
    )


def as_promised(
    seen: Remote,
    *,
    handle: str,
    fields: dict[str, str],
    ends_in: float,
    what: str,
    user_id: str = ANN,
    since: Remote | None = None,
) -> None:
    """What the session says of itself; its time may be less by what has gone by `since` its last use."""
    assert seen.user_id == user_id, f"{what} belongs to {seen.user_id!r}; promised is {user_id!r}"
    assert seen.handle == handle, f"{what} has the handle {seen.handle!r}; promised is {handle!r}"
    assert seen.fields == fields, f"{what} has the fields {seen.fields!r}; promised is {fields!r}"
    least = ends_in - (answered(seen) - asked(since or seen)) - EXACT
    assert least <= seen.ends_in <= ends_in + EXACT, (
        f"{what} says that it ends in {seen.ends_in:.3f} s; promised is {ends_in:g} s from its last use"
    )


async def test_refuses_nonsense(testbed: Testbed) -> None:
    """What means nothing is refused with `ValueError`, any other text is the id of no session, and nothing changes.

    Look: the starter's sentences on `ValueError`; what your code does with an id before it looks it up.
    """
    redis = await testbed.redis()
    shop = await testbed.process("shop-1")
    sessions = await store(shop, redis)
    ann = await sessions.create(ANN)
    await update(sessions, ann.id, {"theme": "dark"})

    for what, call in {
        "create('')": lambda: sessions.create(""),
        "list('')": lambda: sessions.list(""),
        "revoke_all('')": lambda: sessions.revoke_all(""),
        "a number as a value": lambda: update(sessions, ann.id, {"theme": "light", "pages": 3}),
        "a list as a value": lambda: update(sessions, ann.id, {"theme": "light", "pages": ["3"]}),
        "bytes as a value": lambda: update(sessions, ann.id, {"theme": "light", "pages": b"3"}),
        "0 as a value": lambda: update(sessions, ann.id, {"theme": "light", "pages": 0}),
        "False as a value": lambda: update(sessions, ann.id, {"theme": "light", "pages": False}),
        "an idle_ttl of 0": lambda: store(shop, redis, idle=0.0),
        "an absolute_ttl of 0": lambda: store(shop, redis, absolute=0.0),
        "a negative absolute_ttl": lambda: store(shop, redis, absolute=-1.0),
        "an idle_ttl of 0.0009": lambda: store(shop, redis, idle=0.0009),
        "an absolute_ttl of 0.0009": lambda: store(shop, redis, absolute=0.0009),
    }.items():
        try:
            with testbed.raises("ValueError"):
                await call()
        except Broken as error:
            raise Broken(f"{what}: {error}", error.witness) from error
    await store(shop, redis, idle=0.001, absolute=0.001)

    keys = [text(key) for key in await redis.truth.keys()]
    strangers = [
        *("", " ", "*", "ann", ".", "..", ":", "None", "größe", "a\nb", "session:", "x" * 10_000),
        *(ann.handle, f"{ann.handle}.", f"{ann.handle}:", f".{ann.handle}", f"{ann.handle}.{ann.handle}"),
        *(ann.id[:-1], ann.id[1:], f"{ann.id}x", f"{ann.id}.", f"x{ann.id}", f"{ann.id}:", f"*{ann.id}"),
        *(*keys, *(key.removeprefix("session:") for key in keys)),
    ]
    for stranger in strangers:
        told = (
            await loaded(sessions, stranger),
            await update(sessions, stranger, {"theme": "light"}),
            await sessions.rotate(stranger),
        )
        assert told == (None, False, None), (
            f"{stranger[:80]!r} is the id of no session, and load, update and rotate say {told}; promised is None, "
            "False, None"
        )
        if stranger != ann.handle:
            ended = await sessions.revoke(stranger)
            assert ended is False, f"{stranger[:80]!r} is neither id nor handle of a session, and revoke says {ended}"
    seen = await opened(sessions, ann.id, "nothing was asked of it but what was to be refused")
    as_promised(seen, handle=ann.handle, fields={"theme": "dark"}, ends_in=60.0, what="after all that, the session")


async def test_fields_are_kept(testbed: Testbed) -> None:
    """A field has the value that it was given last, whatever it is called; and it is nothing but a field.

    Also if it is called like something that the store itself keeps.

    Look: what your fields and your own notes are called, and what `None` and the empty text mean to `update`.
    """
    redis = await testbed.redis()
    here, there = [await store(shop, redis) for shop in await testbed.processes(2, "shop")]
    ann = await here.create(ANN)

    async def holds(fields: dict[str, str], when: str) -> None:
        seen = await opened(there, ann.id, when)
        as_promised(seen, handle=ann.handle, fields=fields, ends_in=60.0, what=f"{when}, the session")
        in_list = (await listed(here)).get(ann.handle)
        assert in_list is not None, f"{when}, and list does not show the session"
        assert in_list.fields == fields, f"{when}, list shows the fields {in_list.fields!r}; promised is {fields!r}"

    async def changed(fields: dict[str, str | None]) -> None:
        told = await update(here, ann.id, fields)
        assert told is True, f"the session is there, and update({brief(fields)}) says {told!r}"

    await changed({"theme": "dark", "größe": "42 €", "note": ""})
    await expiring(redis, 601.0)
    await changed({"theme": "light", "cart": '{"shoe": 2}\r\n', "a:b": "*"})
    await changed({})
    kept = {"theme": "light", "größe": "42 €", "note": "", "cart": '{"shoe": 2}\r\n', "a:b": "*"}
    await holds(kept, "some fields were set, and one of them again")
    await changed({"note": None, "a:b": None, "never": None, "size": "9"})
    kept = {"theme": "light", "größe": "42 €", "cart": '{"shoe": 2}\r\n', "size": "9"}
    await holds(kept, "two fields were taken away, and another was set")

    own = {name for key in await redis.truth.keys() for name in await words_of_hash(redis, key)}
    usual = ("user_id", "user", "handle", "id", "session_id", "self", "fields", "data", "key", "name")
    times = ("end", "ends", "ends_in", "expires", "expires_at", "absolute_end", "created", "created_at", "last_used")
    odd = dict.fromkeys([*usual, *times, "secret", "hash", "digest", "generation", "version", *sorted(own)], "0")
    await changed({**odd, "user_id": "root"})
    await holds({**kept, **odd, "user_id": "root"}, "fields were called like what the store may keep itself")
    rotated = await here.rotate(ann.id)
    assert rotated is not None, "the session is there, and rotate says None"
    assert (rotated.user_id, rotated.fields) == (ANN, {**kept, **odd, "user_id": "root"}), "rotated, it is not the same"
    await update(here, rotated.id, dict.fromkeys([*odd, *kept]))
    bare = await opened(there, rotated.id, "all its fields were taken away")
    as_promised(bare, handle=ann.handle, fields={}, ends_in=60.0, what="without its fields, the session")


def brief(fields: dict[str, Any]) -> str:
    """The fields, as in a call."""
    return ", ".join(f"{name}={value!r}" for name, value in fields.items())


async def words_of_hash(redis: RedisServer, key: Any) -> list[str]:
    """The names of the fields of a hash; of another type it has none."""
    if await redis.truth.type(key) != b"hash":
        return []
    return [text(name) for name in await redis.truth.hkeys(key)]


def text(word: bytes | str) -> str:
    """A key or a value as it can be read."""
    return word.decode(errors="replace") if isinstance(word, bytes) else word


async def test_users_do_not_meet(testbed: Testbed) -> None:
    """The sessions of one user are nothing to another, whatever their ids look like, and nor is what others keep.

    Look: what your keys are called, and what else could be called so.
    """
    redis = await testbed.redis()
    shop = await testbed.process("shop-1")
    sessions = await store(shop, redis)
    await redis.truth.set("cart:ann", "3 shoes")
    ann = await sessions.create(ANN)
    names = {text(key) for key in await redis.truth.keys()} - {"cart:ann"}
    strange = sorted(name for name in names if not name.startswith("session:"))
    assert not strange, f"a session has made the key {strange[0]!r}; every key starts with 'session:'"
    ends = {end for name in names for end in (name.partition(ANN)[2], name.removeprefix("session:"), name)}

    others = [
        "an",
        "Ann",
        "ann:",
        "ann:ann",
        "ann *",
        "*",
        "größe",
        " ",
        "0",
        ann.handle,
        f"ann:{ann.handle}",
        *sorted(ends - {"", ANN}),
    ]
    for user_id in others:
        assert not await listed(sessions, user_id), f"{user_id!r} has no session, and list shows one"
        other = await sessions.create(user_id)
        seen = await opened(sessions, other.id, f"{user_id!r} has logged in")
        assert seen.user_id == user_id, f"{user_id!r} has logged in, and the session belongs to {seen.user_id!r}"
        assert set(await listed(sessions, user_id)) == {other.handle}, f"{user_id!r} has one session; list shows others"
        assert set(await listed(sessions)) == {ann.handle}, f"{user_id!r} has logged in, and ann's list is not hers"
        ended = await sessions.revoke_all(user_id)
        assert ended == 1, f"{user_id!r} has one session, and revoke_all has ended {ended}"
        await gone(sessions, other.id, f"the sessions of {user_id!r} were revoked")
        await opened(sessions, ann.id, f"the sessions of {user_id!r} were revoked, those of ann were not")
    assert await redis.truth.get("cart:ann") == b"3 shoes", "something that is not the store's was changed"


async def test_all_of_many(testbed: Testbed) -> None:
    """Of 150 sessions of one user the list shows all, and `revoke_all` ends all.

    Look: how many your code reads at a time, and what it does about the rest.
    """
    redis = await testbed.redis()
    sessions = await store(await testbed.process("shop-1"), redis)
    made = [await sessions.create(ANN) for _ in range(150)]

    shown = await listed(sessions)
    ended = await sessions.revoke_all(ANN)

    missing = {one.handle for one in made} - set(shown)
    assert not missing, f"ann has 150 sessions, of 1,000 that she may have, and list lacks {len(missing)} of them"
    assert ended == 150, f"ann had 150 sessions, of 1,000 that she may have, and revoke_all says that it ended {ended}"
    for one in made[::10]:
        await gone(sessions, one.id, "all of 150 sessions were revoked")


async def test_rotating_kills_the_old_id(testbed: Testbed) -> None:
    """Rotating gives the session another id and leaves it otherwise as it was; the old id is nothing any more.

    Look: `rotate` in the starter; what is left in Redis of the old id.
    """
    redis = await testbed.redis()
    here, there = [await store(shop, redis) for shop in await testbed.processes(2, "shop")]
    ann, fields = await here.create(ANN), {"theme": "dark"}
    await update(here, ann.id, {"theme": "dark"})

    ids = [ann.id]
    for _ in range(3):
        rotated = await there.rotate(ids[-1])
        assert isinstance(rotated, Remote), f"the session is there, and rotate gave {rotated!r}"
        assert rotated.id not in ids, "rotated, the session has an id that it had before"
        assert LETTERS.fullmatch(rotated.id), f"the id {rotated.id!r} has letters that a cookie cannot have"
        as_promised(rotated, handle=ann.handle, fields=fields, ends_in=60.0, what="rotated, the session")
        ids.append(rotated.id)
        for old in ids[:-1]:
            await gone(here, old, "the session was rotated")
            told = await update(here, old, {"theme": "light"}), await here.rotate(old), await here.revoke(old)
            assert told == (False, None, False), (
                f"by an id that was rotated away update, rotate and revoke say {told}; promised is False, None, False"
            )
        seen = await opened(here, ids[-1], "the session was rotated, and an old id was tried")
        as_promised(seen, handle=ann.handle, fields=fields, ends_in=60.0, what="after its rotation, the session")
        assert set(await listed(here)) == {ann.handle}, "a session was rotated, and list does not show it alone"
    assert await here.revoke(ids[-1]) is True, "a rotated session could not be revoked by its id"
    await gone(there, ids[-1], "the rotated session was revoked")


# -- thieves -----------------------------------------------------------------------------------------------------


async def test_a_handle_only_revokes(testbed: Testbed) -> None:
    """A handle revokes its session, also if that was rotated since it was listed, and opens nothing.

    Look: what `list` gives a page to send back, and what else could be done with it.
    """
    redis = await testbed.redis()
    here, there = [await store(shop, redis) for shop in await testbed.processes(2, "shop")]
    laptop, phone = await here.create(ANN), await here.create(ANN)

    handle = next(one for one in await listed(there) if one != phone.handle)
    await gone(there, handle, "a handle was tried as an id")
    told = await update(there, handle, {"theme": "light"}), await there.rotate(handle)
    assert told == (False, None), f"by a handle update and rotate say {told}; promised is False, None"
    rotated = await here.rotate(laptop.id)
    assert rotated is not None, "the session is there, and rotate says None"

    assert await there.revoke(handle) is True, "the session was listed, then rotated, and its handle does not revoke it"
    await gone(here, rotated.id, "the session was revoked by its handle")
    assert await here.revoke(handle) is False, "revoked a second time by its handle, it said that there was one"
    assert set(await listed(here)) == {phone.handle}, "one of two sessions was revoked by its handle"
    await opened(here, phone.id, "another session was revoked by its handle")


async def test_a_stolen_copy_logs_nobody_in(testbed: Testbed) -> None:
    """Nothing in Redis is an id, contains one, or can be put in the place of one.

    Look: what of the id is written to the server, and what `load` does with the id before it compares.
    """
    redis = await testbed.redis()
    shop = await testbed.process("shop-1")
    sessions = await store(shop, redis)
    laptop, phone, bob = await sessions.create(ANN), await sessions.create(ANN), await sessions.create("bob")
    await update(sessions, phone.id, {"theme": "dark"})
    rotated = await sessions.rotate(phone.id)
    await loaded(sessions, laptop.id)

    stolen = [word for key in await redis.truth.keys() for word in await words_of(redis, key)]
    if len(stolen) < 3:
        raise Vacuous("there is next to nothing in Redis: nothing could be looked for")
    ids = {laptop.id: laptop.handle, rotated.id: laptop.handle, phone.id: phone.handle, bob.id: bob.handle}
    for session_id, handle in ids.items():
        for secret in {session_id, without(session_id, handle)}:
            for how, spelt in spellings(secret):
                found = next((word for word in stolen if spelt in word), None)
                assert found is None, (
                    f"an id, or what is secret of it, lies in Redis{how}: it is in {text(found or b'')[:60]!r}, and "
                    "whoever has a copy is logged in"
                )

    tried = sorted({piece for word in stolen for piece in pieces(text(word)) if len(piece) < 1000})
    for piece in tried:
        for attempt in {piece, *(one.replace(without(one, handle), piece) for one, handle in ids.items())}:
            await gone(sessions, attempt, f"{piece[:60]!r} was found in Redis and tried as an id")


async def words_of(redis: RedisServer, key: Any) -> list[bytes]:
    """Everything that is written at this key, and the key."""
    truth: Any = redis.truth
    match text(await truth.type(key)):
        case "string":
            found = [await truth.get(key)]
        case "hash":
            found = [word for pair in (await truth.hgetall(key)).items() for word in pair]
        case "list":
            found = await truth.lrange(key, 0, -1)
        case "set":
            found = list(await truth.smembers(key))
        case "zset":
            found = await truth.zrange(key, 0, -1)
        case _:
            found = [await truth.dump(key)]
    return [bytes(key), *(bytes(word or b"") for word in found)]


def without(session_id: str, handle: str) -> str:
    """What of the id is not in the handle, which is no secret."""
    return session_id.replace(handle, "").strip("._~-") or session_id


def spellings(secret: str) -> Iterator[tuple[str, bytes]]:
    """Ways in which a secret may be written down, each with its name."""
    plain = secret.encode()
    yield "", plain
    yield " backwards", plain[::-1]
    yield " in hexadecimal", plain.hex().encode()
    yield " in base 64", base64.b64encode(plain).rstrip(b"=")[:-1]
    yield " in base 64", base64.urlsafe_b64encode(plain).rstrip(b"=")[:-1]
    for decode in (bytes.fromhex, lambda word: base64.urlsafe_b64decode(word + "=" * (-len(word) % 4))):
        try:
            raw = decode(secret)
        except (ValueError, binascii.Error):
            continue
        if len(raw) >= 8:
            yield " as the bytes that it stands for", raw
            yield " as the bytes that it stands for, in hexadecimal", raw.hex().encode()


def pieces(word: str) -> Iterator[str]:
    """A word from Redis, and what a thief would cut out of it."""
    yield word
    yield from re.split(r"[^A-Za-z0-9_.~-]+", word)
    yield from re.split(r"[^A-Za-z0-9]+", word)


async def test_ids_have_128_bits(testbed: Testbed) -> None:
    """An id has 128 bits of chance or more, drawn anew for each session and for each rotation.

    Of 300 ids it is counted how many letters each place shows. The handle does not count: it is public.

    Look: how many bytes you draw, how often, and which parts of the text are always the same.
    """
    redis = await testbed.redis()
    shops = await testbed.processes(2, "shop")
    stores = [await store(shop, redis) for shop in shops]
    made: list[Remote] = []
    rotated: list[Remote] = []
    for start in range(0, 300, 75):
        numbers = range(start, start + 75)
        made += await asyncio.gather(*(stores[number % 2].create(f"user-{number}") for number in numbers))
        new = await asyncio.gather(*(stores[number % 2].rotate(made[number].id) for number in numbers))
        assert all(isinstance(one, Remote) for one in new), "sessions were there, and rotate gave None"
        rotated += new

    for what, group in (("create", made), ("rotate", rotated)):
        secrets = [without(one.id, one.handle) for one in group]
        same = len(secrets) - len(set(secrets))
        assert not same, f"of {len(secrets)} ids that {what} gave, {same} have a secret that another one has"
        width = max(map(len, secrets))
        bits = sum(math.log2(len({secret[place : place + 1] for secret in secrets})) for place in range(width))
        assert bits >= BITS, f"the ids that {what} gives have {bits:.0f} bits of chance; promised are 128"


async def test_ids_cannot_be_foreseen(testbed: Testbed) -> None:
    """Who knows the time, the state of `random` and all that is in Redis does not know the next id.

    Two processes in which all that is the same do the same; they must draw different ids.

    Look: where the chance in your ids comes from, and what a rotation makes the new id of.
    """
    servers = await testbed.redises(2)
    shops = [await testbed.process(f"shop-{number}", foreseeable=True) for number in (1, 2)]
    first, second = [await store(shop, server) for shop, server in zip(shops, servers, strict=True)]

    one, other = await first.create(ANN), await second.create(ANN)
    assert without(one.id, one.handle) != without(other.id, other.handle), (
        "two processes with the same `random`, at the same time, have created sessions with the same id: who knows "
        "the one can compute the other"
    )
    here, there = [server.truth for server in servers]
    await there.flushall()
    for key in await here.keys():
        await there.restore(key, max(await here.pttl(key), 0), await here.dump(key) or b"")
    new, again = await first.rotate(one.id), await second.rotate(one.id)
    if again is None:
        raise Vacuous("a copy of Redis does not know the session")
    assert without(new.id, new.handle) != without(again.id, again.handle), (
        "two processes that know the same have rotated the same session to the same id: who knew the old id can "
        "compute the new one"
    )


# -- many at once ------------------------------------------------------------------------------------------------


async def at_each_request(
    testbed: Testbed,
    way: ProxiedRedis,
    what: str,
    *,
    fresh: Call,
    call: Callable[[Any], Awaitable[Any]],
    meanwhile: Callable[[Any], Awaitable[Any]],
    judge: Callable[[Any, Any, Any, str], Awaitable[None]],
) -> None:
    """Hold back each request of `call` in turn until `meanwhile` is done, and judge what came of both."""
    for position in range(1, 200):
        state = await fresh()
        hold = way.proxy.hold(Steps(), skip=position - 1)
        running = asyncio.create_task(outcome(call(state)))
        try:
            await testbed.until(
                lambda running=running, hold=hold: asyncio.sleep(0, hold.arrived or running.done()),
                f"{what} sent its request {position}, or ended",
            )
            held = bool(hold.arrived)
            if held:
                testbed.history.note("network", f"request {position} of {what} is held back")
            other = await meanwhile(state) if held else None
        finally:
            hold.release()
            result = await running
        if isinstance(result, Raised):
            raise result
        if not held:
            if position == 1:
                raise Vacuous(f"{what} sent no request through the proxy: nothing could be held back")
            return
        testbed.history.note("network", "and goes on")
        await judge(state, result, other, f"before request {position} of {what}")


class Steps:
    """Matches each request that does something by itself: of a transaction its beginning, and nothing inside it."""

    def __init__(self) -> None:
        self.queueing = False

    def __call__(self, args: list[bytes]) -> bool:
        name = args[0].upper()
        inside, self.queueing = self.queueing, name == b"MULTI" or (self.queueing and name not in {b"EXEC", b"DISCARD"})
        return not inside


async def outcome(call: Awaitable[Any]) -> Any:
    """What became of it."""
    try:
        return await call
    except Raised as error:
        return error


async def test_no_update_is_lost(testbed: Testbed) -> None:
    """Of updates of different fields at the same time every one counts.

    One is held back, at each of its requests in turn, until another has been made; then 40 at once, in 4 processes.

    Look: what is written besides the field that was asked for.
    """
    redis = await testbed.redis()
    shops = await testbed.processes(4, "shop")
    way = await testbed.proxy(redis)
    slow, quick = await store(shops[0], way), await store(shops[1], redis)
    await update(slow, (await slow.create(ANN)).id, {"warm": "1"})

    async def fresh() -> Remote:
        session = await quick.create(ANN)
        await update(quick, session.id, {"old": "1", "taken": "1"})
        return session

    async def judge(session: Remote, told: bool, other: bool, when: str) -> None:
        assert (told, other) == (True, True), f"two updates at the same time said {told} and {other}"
        kept = (await opened(quick, session.id, "it was updated twice at the same time")).fields
        promised = {"old": "1", "slow": "1", "quick": "1"}
        assert kept == promised, f"another update came {when}, and the fields are {kept}; promised is {promised}"

    await at_each_request(
        testbed,
        way,
        "update",
        fresh=fresh,
        call=lambda session: update(slow, session.id, {"slow": "1"}),
        meanwhile=lambda session: update(quick, session.id, {"quick": "1", "taken": None}),
        judge=judge,
    )

    session = await quick.create(ANN)
    stores = [await store(shop, redis) for shop in shops]
    await asyncio.gather(
        *(update(stores[number % 4], session.id, {f"field-{number}": str(number)}) for number in range(40))
    )
    kept = (await opened(quick, session.id, "it was updated 40 times")).fields
    lost = 40 - len(kept)
    assert not lost, f"of 40 updates of 40 fields at the same time {lost} are lost"


async def test_rotating_is_one_step(testbed: Testbed) -> None:
    """While a session is rotated it is there once, under one id; no update is lost, and one of two rotations wins.

    Each request of a rotation is held back in turn until something else has been done; then the other way round.
    The list shows it all the time.

    Look: how many steps the server sees, and which of them look whether the old id is still the session's.
    """
    redis = await testbed.redis()
    here, there = await testbed.processes(2, "shop")
    way = await testbed.proxy(redis)
    slow, quick = await store(here, way), await store(there, redis)
    warm = await slow.create(ANN)
    await update(slow, warm.id, {"warm": "1"})
    await loaded(slow, (await slow.rotate(warm.id)).id)
    await listed(slow)

    async def fresh() -> Remote:
        await quick.revoke_all(ANN)
        session = await quick.create(ANN)
        await update(quick, session.id, {"color": "blue"})
        return session

    async def judge(session: Remote, one: Any, other: Any, when: str) -> None:
        handles = await listed(quick)
        assert set(handles) == {session.handle}, f"{when} came another call, and list shows {len(handles)} sessions"
        await gone(quick, session.id, f"the session was rotated; {when} came another call")
        rotated = [result for result in (one, other) if isinstance(result, Remote)]
        assert len(rotated) == 1, (
            f"{when} came another call; {len(rotated)} rotations of the session say that it is theirs; promised is 1"
        )
        seen = await opened(quick, rotated[0].id, f"the session was rotated; {when} came another call")
        expected = {"color": "blue", **({"size": "42"} if True in (one, other) else {})}
        assert seen.fields == expected, (
            f"an update by the old id came {when} and said {True in (one, other)}; rotated, the session has the fields "
            f"{seen.fields}; promised is {expected}"
        )

    async def look(session: Remote, sessions: Remote = quick) -> None:
        handles = await listed(sessions)
        assert set(handles) == {session.handle}, f"while it is being rotated, list shows {len(handles)} sessions"

    size = {"size": "42"}
    for what, call, meanwhile in (
        ("rotate", lambda one: slow.rotate(one.id), look),
        ("rotate", lambda one: slow.rotate(one.id), lambda one: update(quick, one.id, size)),
        ("rotate", lambda one: slow.rotate(one.id), lambda one: quick.rotate(one.id)),
        ("update", lambda one: update(slow, one.id, size), lambda one: quick.rotate(one.id)),
        ("load", lambda one: loading(slow, one), lambda one: quick.rotate(one.id)),
        ("list", lambda one: look(one, slow), lambda one: quick.rotate(one.id)),
    ):
        await at_each_request(testbed, way, what, fresh=fresh, call=call, meanwhile=meanwhile, judge=judge)


async def loading(sessions: Remote, session: Remote) -> None:
    """Load it, whatever comes of it."""
    await loaded(sessions, session.id)


async def test_nothing_comes_back(testbed: Testbed) -> None:
    """A session that is revoked stays so, also if a load, an update or a rotation of it was under way.

    Each of their requests is held back in turn until the session is revoked: by its id, its handle, or all of them.

    Look: what your calls write without looking, in the same step, whether the session is still there.
    """
    redis = await testbed.redis()
    here, there = await testbed.processes(2, "shop")
    way = await testbed.proxy(redis)
    slow, quick = await store(here, way), await store(there, redis)
    warm = await slow.create(ANN)
    await update(slow, warm.id, {"warm": "1"})
    await loaded(slow, (await slow.rotate(warm.id)).id)

    async def fresh() -> Remote:
        await quick.revoke_all(ANN)
        session = await quick.create(ANN)
        await update(quick, session.id, {"color": "blue"})
        return session

    for name, end in {
        "revoke_all": lambda _: quick.revoke_all(ANN),
        "revoke": lambda session: quick.revoke(session.id),
        "revoke by its handle": lambda session: quick.revoke(session.handle),
    }.items():

        async def judge(session: Remote, result: Any, ended: bool | int, when: str, name: str = name) -> None:
            told = f"{name} came {when}"
            if name == "revoke" and ended is False and isinstance(result, Remote):  # by an id that was rotated away
                await opened(quick, result.id, f"{told} and said that there is none of this id")
                return
            assert ended in (True, 1), f"{told}; there was one session, and it said {ended}"
            for session_id in {session.id, result.id if isinstance(result, Remote) else session.id}:
                await gone(quick, session_id, f"{told}, and the session was ended")
            left = await listed(quick)
            assert not left, f"{told}, and list still shows {len(left)} sessions"
            await expiring(redis, 601.0)

        for what, call in {
            "load": lambda session: loaded(slow, session.id),
            "update": lambda session: update(slow, session.id, {"size": "42"}),
            "rotate": lambda session: slow.rotate(session.id),
        }.items():
            await at_each_request(testbed, way, what, fresh=fresh, call=call, meanwhile=end, judge=judge)


async def expiring(redis: RedisServer, longest: float) -> None:
    """Every key will be gone by itself."""
    for key in await redis.truth.keys():
        left = await redis.truth.pttl(key)
        if left == -2:
            continue
        assert left != -1, f"the key {text(key)!r} never expires: what is left of a session stays for ever"
        assert left <= longest * 1000, f"the key {text(key)!r} stays for {left / 1000:g} s; promised is {longest:g}"


async def test_revoke_all_has_one_moment(testbed: Testbed) -> None:
    """Revoking all sessions leaves none of before, and none out of reach that was created or rotated meanwhile.

    Each of its requests is held back in turn while two sessions are created and one is rotated.

    Look: what happens to a session that comes between reading the list and deleting it.
    """
    redis = await testbed.redis()
    here, there = await testbed.processes(2, "shop")
    way = await testbed.proxy(redis)
    slow, quick = await store(here, way), await store(there, redis)
    await slow.create(ANN)
    await slow.revoke_all(ANN)

    async def fresh() -> list[Remote]:
        await quick.revoke_all(ANN)
        return [await quick.create(ANN) for _ in range(3)]

    async def meanwhile(before: list[Remote]) -> tuple[Remote, Remote, Remote | None]:
        return await quick.create(ANN), await quick.create(ANN), await quick.rotate(before[1].id)

    async def judge(before: list[Remote], ended: int, made: tuple[Remote, Remote, Remote | None], when: str) -> None:
        first, second, rotated = made
        for session in (*before, *([rotated] if rotated else [])):
            how = "was rotated" if session is rotated else "was there before revoke_all"
            await gone(quick, session.id, f"a session {how}, {when}")
        alive = [one for one in (first, second) if await loaded(quick, one.id)]
        assert alive != [first], f"of two sessions that were created {when}, the second was ended and the first was not"
        found = set(await listed(quick))
        assert found == {one.handle for one in alive}, (
            f"of two sessions that were created {when}, {len(alive)} can still be loaded, and list shows {len(found)}"
        )
        assert ended == 5 - len(alive), f"revoke_all has ended {5 - len(alive)} sessions, and said {ended}"
        again = await quick.revoke_all(ANN)
        assert again == len(alive), f"{len(alive)} sessions were left, and the next revoke_all has ended {again}"
        for one in alive:
            await gone(quick, one.id, f"a session was created {when}, and the next revoke_all came")

    await at_each_request(
        testbed,
        way,
        "revoke_all",
        fresh=fresh,
        call=lambda _: slow.revoke_all(ANN),
        meanwhile=meanwhile,
        judge=judge,
    )


async def test_tidying_loses_nobody(testbed: Testbed) -> None:
    """Tidying up after expired sessions leaves out of the list none that is created or rotated meanwhile.

    Each request of `create` and of `list`, for a user with expired sessions, is held back in turn.

    Look: what happens to a session that comes between seeing that another has ended and taking that out of the list.
    """
    redis = await testbed.redis()
    here, there = await testbed.processes(2, "shop")
    way = await testbed.proxy(redis)
    slow, quick = await store(here, way), await store(there, redis)
    hasty = await store(there, redis, idle=0.03)
    await slow.create("bob")
    await slow.list("bob")

    async def fresh() -> None:
        await quick.revoke_all(ANN)
        last = [await hasty.create(ANN) for _ in range(2)][-1]
        await wait_until(testbed, answered(last) + 0.03 + EXACT, "two sessions had expired")

    async def meanwhile(_: None) -> Remote:
        await quick.list(ANN)
        made = await quick.create(ANN)
        rotated = await quick.rotate(made.id)
        assert isinstance(rotated, Remote), "a session is there, and rotate said None"
        await quick.list(ANN)
        return rotated

    async def judge(_: None, result: Any, rotated: Remote, when: str) -> None:
        alive = [rotated, *([result] if isinstance(result, Remote) else [])]
        for one in alive:
            await opened(quick, one.id, f"a session was created {when}")
        found = set(await listed(quick))
        assert found == {one.handle for one in alive}, (
            f"{len(alive)} sessions can be loaded, one of them made {when}, and list shows {len(found)}"
        )
        ended = await quick.revoke_all(ANN)
        assert ended == len(alive), f"{len(alive)} sessions are there, one made {when}; revoke_all has ended {ended}"
        for one in alive:
            await gone(quick, one.id, f"a session was made {when}, and revoke_all came")

    for what, call in (("create", lambda _: slow.create(ANN)), ("list", lambda _: slow.list(ANN))):
        await at_each_request(testbed, way, what, fresh=fresh, call=call, meanwhile=meanwhile, judge=judge)


# -- time --------------------------------------------------------------------------------------------------------


async def test_idle_sessions_end(testbed: Testbed) -> None:
    """A session ends when it was idle for too long: load, update and rotate are uses, also an update without fields.

    Looking at the list is none, and neither is trying an id that is not quite right.

    Look: which of your calls set the expiry, and which of its keys they set it for.
    """
    redis = await testbed.redis()
    shop = await testbed.process("shop-1")
    for round_, idle in enumerate((0.5, 1.3, 2.6)):  # longer ones for a machine that is too slow for short ones
        user = f"ann-{round_}"
        sessions = await store(shop, redis, idle=idle)
        left, used, changed, touched, turned = [await sessions.create(user) for _ in range(5)]
        await wait_until(testbed, answered(turned) + 0.55 * idle, "0.55 of the idle time had gone by")

        began = testbed.history.now()
        found, told = await loaded(sessions, used.id), await update(sessions, changed.id, {"theme": "dark"})
        told_bare = await update(sessions, touched.id, {})
        rotated = await sessions.rotate(turned.id)
        shown = (await listed(sessions, user)).get(left.handle)
        for wrong in (left.handle, f"{left.id[:-1]}{'A' if left.id[-1] != 'A' else 'B'}", f"{left.id}x"):
            await gone(sessions, wrong, "an id was tried that is none")
            await update(sessions, wrong, {"theme": "dark"})
            await sessions.rotate(wrong)
        if testbed.history.now() > asked(left) + idle - EXACT:
            continue
        early = f"a session that may be idle for {idle:g} s has ended before that"
        assert found is not None, early
        assert rotated is not None, early
        assert (told, told_bare) == (True, True), early
        assert shown is not None, f"{early}, and list does not show it"
        most, least = idle - (asked(shown) - answered(left)), idle - (answered(shown) - asked(left))
        assert least - EXACT <= shown.ends_in <= most + EXACT, (
            f"a session ends in {least:.3f} to {most:.3f} s, and list says that it ends in {shown.ends_in:.3f} s"
        )
        await wait_until(testbed, answered(left) + idle + EXACT, "the session had been idle for its time")

        await gone(sessions, left.id, f"it was idle for {idle:g} s, and meanwhile listed, and tried by wrong ids")
        ids = (used.id, changed.id, touched.id, rotated.id)
        alive = [await loaded(sessions, one) for one in ids]
        ago = testbed.history.now() - began
        if ago > idle - EXACT:
            continue
        for what, one in zip(("loaded", "updated", "updated without fields", "rotated"), alive, strict=True):
            assert one is not None, (
                f"a session that may be idle for {idle:g} s was {what} {ago:.3f} s ago and has ended"
            )
        for one, of, what in ((found, used, "loaded"), (rotated, turned, "rotated")):
            as_promised(one, user_id=user, handle=of.handle, fields={}, ends_in=idle, what=f"{what}, the session")
        await wait_until(testbed, testbed.history.now() + idle + EXACT, "all sessions had been idle for their time")
        for one in ids:
            await gone(sessions, one, f"the session was idle for {idle:g} s after its last use")
        assert not await listed(sessions, user), "all sessions were idle for too long, and list still shows some"
        ended = await sessions.revoke_all(user)
        assert ended == 0, f"all sessions were idle for too long, and revoke_all says that it ended {ended}"
        return
    raise TestbedError("this machine is too slow for a few calls within 1 s; close what you can and check again")


async def test_the_absolute_end_comes(testbed: Testbed) -> None:
    """A session ends when it is too old, however much it is loaded, updated and rotated.

    Look: how long a use lets a session live that has little time left; what a rotated session knows of its age.
    """
    redis = await testbed.redis()
    shop = await testbed.process("shop-1")
    for round_, idle in enumerate((0.4, 0.8, 1.6)):  # longer ones for a machine that is too slow for short ones
        user, absolute = f"ann-{round_}", 2.2 * idle
        sessions = await store(shop, redis, idle=idle, absolute=absolute)
        made = await sessions.create(user)
        session_id, last, uses, ended = made.id, made, 0, False
        while not ended and answered(last) + 0.4 * idle < asked(made) + absolute - EXACT:
            await wait_until(testbed, answered(last) + 0.4 * idle, "0.4 of the idle time had gone by")
            if uses % 3 == 2:
                await update(sessions, session_id, {"uses": str(uses)})
            found = await (sessions.rotate if uses % 3 == 1 else sessions.load)(session_id)
            ended = found is None
            if not ended:
                session_id, last, uses = found.id, found, uses + 1
                most = absolute - (asked(found) - answered(made))
                assert found.ends_in <= most + EXACT, (
                    f"a session that is too old in {most:.3f} s says that it ends in {found.ends_in:.3f} s"
                )
        late = testbed.history.now()
        if uses < 3 or late > asked(last) + idle - EXACT or (ended and late > asked(made) + absolute - EXACT):
            continue
        assert not ended, f"used all the time, a session of {absolute:g} s has ended after {late - asked(made):.3f} s"
        await wait_until(testbed, answered(made) + absolute + EXACT, "the session was too old")

        await gone(sessions, session_id, f"the session could be {absolute:g} s old and is older")
        if testbed.history.now() > asked(last) + idle:
            continue  # it had been idle for too long, too
        told = (
            await update(sessions, session_id, {"theme": "dark"}),
            await sessions.rotate(session_id),
            await sessions.revoke(session_id),
            await sessions.list(user),
            await sessions.revoke_all(user),
        )
        assert told == (False, None, False, [], 0), (
            f"the session has ended, and update, rotate, revoke, list and revoke_all say {told}"
        )
        return
    raise TestbedError("this machine is too slow for a few calls within 1 s; close what you can and check again")


async def test_clocks_do_not_matter(testbed: Testbed) -> None:
    """Processes whose clocks are four minutes apart agree on when a session ends.

    Look: whose clock says when a session was created and what time it is.
    """
    redis = await testbed.redis()
    behind = await testbed.process("shop-1", clock_offset=-120.0)
    ahead = await testbed.process("shop-2", clock_offset=120.0)
    shops = [await store(shop, redis, idle=40.0, absolute=60.0) for shop in (behind, ahead)]

    for here, there in (shops, shops[::-1]):
        where = f"created in {here.process.name}, whose clock is 240 s from that of {there.process.name}, the session"
        made = await here.create(ANN)
        as_promised(made, handle=made.handle, fields={}, ends_in=40.0, what=where)
        for using in (there.load, here.load, there.rotate, here.load):
            seen = await using(made.id)
            assert seen is not None, f"{where} is found to have ended"
            as_promised(seen, handle=made.handle, fields={}, ends_in=40.0, what=where)
            made = seen
        shown = await listed(there)
        assert set(shown) == {made.handle}, f"{where} is not in the list"
        as_promised(shown[made.handle], handle=made.handle, fields={}, ends_in=40.0, what=where, since=made)
        await there.revoke_all(ANN)
        await gone(here, made.id, f"{where} was revoked there")


async def test_other_ttls_do_not_change_its_end(testbed: Testbed) -> None:
    """A session keeps the absolute end that it was created with, whatever ttls the store has that uses it.

    Of that store it gets the idle time.

    Look: which of the two ends is written down, and which is computed by whoever uses the session.
    """
    redis = await testbed.redis()
    old, new = await testbed.processes(2, "shop")
    calm, hasty = await store(old, redis), await store(new, redis, idle=30.0, absolute=0.3)

    long, short, unused = await calm.create(ANN), await hasty.create("bob"), await hasty.create("eve")
    seen = await loaded(calm, short.id)
    if seen is None and testbed.history.now() < asked(short) + 0.3 - EXACT:
        raise Broken("a session that may be 0.3 s old has ended before that, when a store with longer ttls used it")
    await wait_until(testbed, answered(unused) + 0.3 + EXACT, "the sessions were too old")
    assert not await listed(calm, "eve"), "a session that could be 0.3 s old, and idle for longer, is older, and listed"
    await gone(calm, unused.id, "the session could be 0.3 s old, and idle for longer; it is older, and was never used")
    await gone(calm, short.id, "the session could be 0.3 s old and is older; it was used through a store with more")
    for number in range(9):  # again, if a busy machine took 0.3 s for two calls
        changed = await hasty.create(f"joe-{number}")
        if await update(calm, changed.id, {"theme": "dark"}):
            break
    else:
        raise TestbedError("this machine is too slow for two calls within 0.3 s; close what you can and check again")
    await wait_until(testbed, answered(changed) + 0.3 + EXACT, "the session was too old")
    await gone(
        calm, changed.id, "the session could be 0.3 s old and is older; it was updated through a store with more"
    )

    for using in (hasty.load, hasty.rotate, hasty.load):
        seen = await using(long.id)
        assert isinstance(seen, Remote), (
            "a session of 600 s is used through a store with an absolute_ttl of 0.3 s: None"
        )
        as_promised(seen, handle=long.handle, fields={}, ends_in=30.0, what="used through another store, the session")
        long = seen
    await wait_until(testbed, answered(long) + 0.3 + EXACT, "the other store's absolute_ttl had gone by")
    seen = await opened(calm, long.id, "a session of 600 s was used through a store with an absolute_ttl of 0.3 s")
    as_promised(seen, handle=long.handle, fields={}, ends_in=60.0, what="used through its own store again, the session")
    dark = {"theme": "dark"}
    assert await update(hasty, long.id, dark) is True, "a session is updated through another store: False"
    shown = (await listed(calm)).get(long.handle)
    assert shown is not None, "a session was updated through another store, and list does not show it"
    as_promised(
        shown,
        handle=long.handle,
        fields=dark,
        ends_in=30.0,
        what="updated through another store, the session",
        since=seen,
    )


async def test_the_list_lives_as_long_as_they(testbed: Testbed) -> None:
    """As long as a session lives it is in the list and within reach of `revoke_all`.

    It lives by being used; the user has also logged in through a store with shorter ttls, before it and after it.

    Look: when the key expires in which you keep who has which sessions, and who sets that.
    """
    redis = await testbed.redis()
    shop = await testbed.process("shop-1")
    for round_, idle in enumerate((0.4, 0.8, 1.6)):  # longer ones for a machine that is too slow for short ones
        user = f"ann-{round_}"
        busy = await store(shop, redis, idle=idle)
        hasty = await store(shop, redis, idle=0.3 * idle, absolute=0.5 * idle)
        short = [await hasty.create(user)]
        last = used = await busy.create(user)
        short.append(await hasty.create(user))
        for _ in range(6):
            await wait_until(testbed, answered(last) + 0.4 * idle, "0.4 of the idle time had gone by")
            found = await loaded(busy, used.id)
            if found is None:
                break
            last = found
        else:
            found = last
        newcomer = await busy.create(user)
        shown = await listed(busy, user)
        if testbed.history.now() > asked(last) + idle - EXACT:
            continue
        assert found is not None, "a session that was used all the time has ended"
        assert not {one.handle for one in short} & set(shown), "a session that has ended is in the list"
        assert set(shown) == {used.handle, newcomer.handle}, (
            f"two sessions of the user live, one of them since it is used; list shows {len(shown)}"
        )
        ended = await busy.revoke_all(user)
        if testbed.history.now() > asked(last) + idle - EXACT:
            continue
        assert ended == 2, f"two sessions of the user live, one since it is used; revoke_all has ended {ended}"
        for one in (used, newcomer):
            await gone(busy, one.id, "all sessions of the user were revoked")
        return
    raise TestbedError("this machine is too slow for a few calls within 1 s; close what you can and check again")


# -- what it costs -----------------------------------------------------------------------------------------------


async def test_expired_sessions_leave_nothing(testbed: Testbed) -> None:
    """Of expired sessions nothing is left after the user's next login, and all keys expire by themselves.

    Look: who takes an expired session out of the list of its user.
    """
    redis = await testbed.redis()
    shop = await testbed.process("shop-1")
    sessions, hasty = await store(shop, redis), await store(shop, redis, idle=0.2, absolute=0.4)
    await hasty.create("bob")
    await expiring(redis, 1.4)

    sizes: list[int] = []
    for _ in range(3):
        expired: list[Remote] = []
        for _ in range(5):
            expired += await asyncio.gather(*(hasty.create(ANN) for _ in range(4)))
        await wait_until(testbed, max(map(answered, expired)) + 0.2 + EXACT, "20 sessions had expired")
        made = await sessions.create(ANN)
        written = b"\n".join([word for key in await redis.truth.keys() for word in await words_of(redis, key)])
        left = [one.handle for one in expired if one.handle.encode() in written]
        assert not left, f"20 sessions of ann have expired, she has logged in again, and {len(left)} are still kept"
        sizes.append(sum([await redis.truth.memory_usage(key, samples=0) or 0 for key in await redis.truth.keys()]))
        ended = await sessions.revoke_all(ANN)
        assert ended == 1, f"one session of ann was alive, 20 had expired, and revoke_all says that it ended {ended}"
        await gone(sessions, made.id, "all sessions of ann were revoked")
    assert sizes[-1] <= 1.3 * sizes[0] + 200, (
        f"each time 20 sessions of ann have expired and one is alive, and what is kept grows: {sizes} bytes"
    )
    await expiring(redis, 601.0)


async def test_what_it_costs(testbed: Testbed) -> None:
    """A load costs one round trip, ending all sessions at most one for each, and nothing looks through all keys.

    Look: how often your code awaits the server, and how it finds the sessions of one user.
    """
    redis = await testbed.redis()
    shop = await testbed.process("shop-1")
    way = await testbed.proxy(redis)
    sessions = await store(shop, way)
    many = 12

    async def cost(what: str, call: Awaitable[Any], most: int, *, least: int = 1) -> Any:
        before = way.proxy.counts
        result = await call
        trips = (way.proxy.counts - before).round_trips
        if trips < least:
            raise Vacuous(f"{what} went past the proxy: nothing could be counted")
        assert trips <= most, f"{what} cost {trips} round trips; promised {'is' if most == 1 else 'are at most'} {most}"
        return result

    for measured in (False, True):
        await redis.truth.config_resetstat()
        for _ in range(many - 1):
            await sessions.create(ANN)
        most = (1, 4, many + 4) if measured else (99, 99, 999)
        ann = await cost("create", sessions.create(ANN), most[1])
        await cost("load", sessions.load(ann.id), most[0])
        await cost("load of an id of nobody", sessions.load("nobody"), most[0], least=0)
        await cost("update", update(sessions, ann.id, {"theme": "dark", "size": None}), most[1])
        ann = await cost("rotate", sessions.rotate(ann.id), most[1])
        assert isinstance(ann, Remote), "the session is there, and rotate said None"
        assert await cost("revoke", sessions.revoke(ann.id), most[1]) is True, "the session is there: revoke said no"
        shown = await cost(f"list of {many - 1} sessions", sessions.list(ANN), most[2])
        ended = await cost(f"revoke_all of {many - 1} sessions", sessions.revoke_all(ANN), most[2])
        assert (len(shown), ended) == (many - 1, many - 1), (
            f"of {many - 1} sessions list shows {len(shown)}, and revoke_all has ended {ended}"
        )
        used = await redis.truth.info("commandstats")
        for command in ("keys", "scan"):
            assert f"cmdstat_{command}" not in used, (
                f"something has looked through all keys ({command.upper()}): that costs more the more others keep there"
            )


async def test_no_answer_is_no_logout(testbed: Testbed) -> None:
    """When the server is dead, calls raise what the client raises; when it is back, all are still logged in.

    Look: what your code makes of an exception, and of a server that has forgotten your scripts.
    """
    redis = await testbed.redis(durable=True)
    shop = await testbed.process("shop-1")
    sessions = await store(shop, redis)
    ann, bob = await sessions.create(ANN), await sessions.create("bob")
    await update(sessions, ann.id, {"theme": "dark"})

    await redis.kill()
    for what, call in {
        "load": lambda: sessions.load(ann.id),
        "update": lambda: update(sessions, ann.id, {"theme": "light"}),
        "rotate": lambda: sessions.rotate(ann.id),
        "create": lambda: sessions.create(ANN),
        "revoke": lambda: sessions.revoke(ann.id),
        "revoke_all": lambda: sessions.revoke_all(ANN),
        "list": lambda: sessions.list(ANN),
    }.items():
        try:
            with testbed.raises("ConnectionError"):
                await call()
        except Broken as error:
            raise Broken(f"{what}, with a dead server: {error}", error.witness) from error
    await redis.restart()

    seen = await opened(sessions, ann.id, "the server is back, with all that was in it")
    assert seen.fields == {"theme": "dark"}, f"the server is back, and the fields are {seen.fields}"
    await update(sessions, ann.id, {"theme": "light"})
    rotated = await sessions.rotate(ann.id)
    assert isinstance(rotated, Remote), "the server is back, and rotate says None"
    shown = await listed(sessions)
    assert set(shown) == {ann.handle}, "the server is back, and list does not show the session"
    await sessions.create(ANN)
    assert await sessions.revoke(bob.handle) is True, "the server is back, and a session of before cannot be revoked"
    assert await sessions.revoke_all(ANN) == 2, "the server is back, and revoke_all does not end the two sessions"

    bare = await sessions.create("eve")
    await redis.truth.config_set("min-replicas-to-write", 1)
    for what, refused in {
        "load": lambda: sessions.load(bare.id),
        "update": lambda: update(sessions, bare.id, {"theme": "dark"}),
        "rotate": lambda: sessions.rotate(bare.id),
        "revoke": lambda: sessions.revoke(bare.id),
        "revoke_all": lambda: sessions.revoke_all("eve"),
    }.items():
        try:
            with testbed.raises("ResponseError"):
                await refused()
        except Broken as error:
            raise Broken(f"{what}, with a server that refuses to write: {error}", error.witness) from error


async def test_a_lost_answer_is_no_no(testbed: Testbed) -> None:
    """Who gets no answer to a rotation or a revocation is not told that there was no session.

    The connection breaks when the server has done what it was asked; each answer of a call is lost in turn.

    Look: what a second try finds of what the first one has done.
    """
    redis = await testbed.redis()
    here, there = await testbed.processes(2, "shop")
    way = await testbed.proxy(redis)
    shaky, sound = await store(here, way), await store(there, redis)
    warm = await shaky.create(ANN)
    turned = await shaky.rotate(warm.id)
    assert isinstance(turned, Remote), "the session is there, and rotate says None"
    await shaky.revoke(turned.id)
    await shaky.revoke_all(ANN)

    calls: dict[str, Callable[[str], Awaitable[Any]]] = {
        "rotate": shaky.rotate,
        "revoke": shaky.revoke,
        "revoke_all": lambda _: shaky.revoke_all(ANN),
    }
    for what, call in calls.items():
        for position in range(1, 6):
            session = await sound.create(ANN)
            hold = way.proxy.hold_reply(lambda _: True, skip=position - 1)
            calling = asyncio.create_task(outcome(call(session.id)))
            await testbed.until(
                lambda calling=calling, hold=hold: asyncio.sleep(0, hold.arrived or calling.done()),
                f"the server answered request {position} of {what}, or {what} ended",
            )
            held = bool(hold.arrived)
            if held:
                testbed.inject(way, Reset(ages=frozenset({Age.OPEN})))
            hold.release()
            told = await calling
            await sound.revoke_all(ANN)
            if not held:
                if position == 1:
                    raise Vacuous(f"{what} sent no request through the proxy: no answer could be lost")
                break
            if isinstance(told, Raised):
                if "ConnectionError" not in told.bases:
                    raise told
                continue
            assert told, (
                f"the session was there, and the answer to request {position} of {what} was lost; {what} said {told}, "
                "promised is what the client raises"
            )
