"""The grader of redis/08: what a ranking promises while it is written, grows old, and is watched."""

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable, Sequence

from faultline.testbed import (
    Age,
    Broken,
    BudgetMissed,
    Call,
    LearnerProcess,
    Named,
    Operation,
    ProxiedRedis,
    Raised,
    RedisServer,
    Remote,
    Reset,
    Testbed,
    TestbedError,
    Vacuous,
)

Row = tuple[int, str, int]  # rank, sku, score
Window = tuple[float, float]

HOUR: Window = (3600.0, 60.0)
# Longer ones for a machine that is too slow. Three buckets each, but not as floats: 0.6 / 0.2 is 2.9999999999999996.
GROWING: tuple[Window, ...] = ((0.6, 0.2), (1.2, 0.4), (2.4, 0.8))
TOO_SLOW = "this machine is too slow to look at a window of 3 s; close what you can and check again"


async def trending(
    process: LearnerProcess, server: RedisServer | ProxiedRedis, window: Window = HOUR, *, socket_timeout: float = 5.0
) -> Remote:
    """The learner's ranking in that process."""
    return await process.new("Trending", server.at(socket_timeout=socket_timeout), window=window[0], bucket=window[1])


def rows(answer: object) -> list[Row]:
    """Entries as plain rows."""
    if not isinstance(answer, list):
        raise Broken(f"the answer is {answer!r}; promised was a list of Entry")
    return [(entry.rank, entry.sku, entry.score) for entry in answer]


def ranked(*scores: tuple[str, int], first: int = 1) -> list[Row]:
    """The rows of these products, in this order."""
    return [(rank, sku, score) for rank, (sku, score) in enumerate(scores, first)]


async def now(testbed: Testbed, instant: float) -> bool:
    """Whether it is so late."""
    return testbed.history.now() >= instant


async def wait_for(testbed: Testbed, instant: float, what: str) -> None:
    """Return when it is so late."""
    await testbed.until(lambda: now(testbed, instant), what, deadline=instant - testbed.history.now() + 5)


def last(testbed: Testbed, what: str) -> Operation:
    """The last operation of that kind."""
    return testbed.history.operations(what)[-1]


def ended(operation: Operation) -> float:
    """When its answer had come."""
    return operation.end or 0.0


async def record(testbed: Testbed, ranking: Remote, *records: tuple[str, int]) -> Operation:
    """Record them one after the other; the last operation."""
    for sku, weight in records:
        await ranking.record(sku, weight)
    return last(testbed, "record")


async def record_many(rankings: Sequence[Remote], skus: Sequence[str]) -> None:
    """Record each of them once, from all processes, 50 at a time in each."""

    async def work(ranking: Remote, share: list[str]) -> None:
        while share:
            await ranking.record(share.pop())

    shares = [list(skus[number :: len(rankings)]) for number in range(len(rankings))]
    await asyncio.gather(
        *(work(ranking, share) for ranking, share in zip(rankings, shares, strict=True) for _ in range(50))
    )


async def entered(ranking: Remote) -> tuple[Remote, Remote]:
    """The block of `changes()`, and the iterator that it gives."""
    block = await ranking.changes()
    changes = await block.__aenter__()
    if not isinstance(changes, Remote):
        raise Broken(f"`async with changes()` gives {changes!r}; promised was an iterator")
    iterator = await changes.__aiter__()  # as `async for` does
    if not isinstance(iterator, Remote):
        raise Broken(f"`async for` gets {iterator!r} from what `changes()` gives; promised was an iterator")
    return block, iterator


async def left(block: Remote) -> None:
    """The block ends without an exception."""
    await block.__aexit__(None, None, None)


async def following(testbed: Testbed, changes: Remote, after: str) -> tuple[str, int]:
    """The next change, as sku and score."""
    patience = 3.0 * testbed.patience
    try:
        async with asyncio.timeout(patience):
            change = await changes.__anext__()
    except TimeoutError:
        seen = f"{after}, and no change came within {patience:g} s"
        raise BudgetMissed(seen, promise="a change came", took=patience) from None
    return change.sku, change.score


# -- the contract ------------------------------------------------------------------------------------------------


async def test_ranks_what_was_recorded(testbed: Testbed) -> None:
    """The best come first, with their scores and ranks from 1; who was not recorded is not there.

    Look: the docstrings of `Entry` and `Trending` in the starter.
    """
    redis = await testbed.redis()
    shop = await testbed.process("shop-1")
    ranking = await shop.new("Trending", redis.at())

    assert rows(await ranking.top(3)) == [], "nothing was recorded, and something is on top"
    assert await ranking.rank("hat") is None, "nothing was recorded, and the hat has a rank"
    assert rows(await ranking.around("hat", 2)) == [], "nothing was recorded, and the hat has neighbours"

    await ranking.record("cap")
    await record(testbed, ranking, ("hat", 2), ("shoe", 5), ("belt:red", 3), ("hat", 4), ("0 Mütze:1", 2))
    expected = ranked(("hat", 6), ("shoe", 5), ("belt:red", 3), ("0 Mütze:1", 2), ("cap", 1))
    for n in (1, 3, 5, 6, 100):
        answer = await ranking.top(n)
        assert rows(answer) == expected[:n], f"top({n}) is {rows(answer)}"
        odd = [entry for entry in answer if type(entry.score) is not int or type(entry.rank) is not int]
        assert not odd, f"score and rank are promised to be int: {odd[0]}"
    for rank, sku, _ in expected:
        assert await ranking.rank(sku) == rank, f"{sku!r} is number {rank} of top(5), and has another rank"
        for k in (0, 1, 2, 9):
            answer = rows(await ranking.around(sku, k))
            promised = expected[max(0, rank - 1 - k) : rank + k]
            assert answer == promised, f"of {expected}, around({sku!r}, {k}) is {answer}"
    await record(testbed, ranking, ("Hat", 60), (" hat", 50), ("hat ", 40), ("hat\n", 30), ("HAT", 20))
    alike = ranked(("Hat", 60), (" hat", 50), ("hat ", 40), ("hat\n", 30), ("HAT", 20), ("hat", 6))
    answer = rows(await ranking.top(6))
    assert answer == alike, f"recorded were products whose names look alike, {alike}, and top(6) is {answer}"
    for rank, sku, _ in alike:
        assert await ranking.rank(sku) == rank, f"{sku!r} is number {rank} of top(6), and has another rank"
    assert await ranking.rank("glove") is None, "the glove was never recorded, and has a rank"
    assert rows(await ranking.around("glove", 2)) == [], "the glove was never recorded, and has neighbours"


async def test_refuses_nonsense(testbed: Testbed) -> None:
    """What cannot be counted or asked is refused with `ValueError`, and changes nothing.

    Look: the last sentences of the docstrings in the starter.
    """
    redis = await testbed.redis()
    shop = await testbed.process("shop-1")
    ranking = await trending(shop, redis)
    await ranking.record("hat", 7)

    cases: dict[str, Callable[[], Awaitable[object]]] = {
        "an empty sku": lambda: ranking.record("", 1),
        "a weight of 0": lambda: ranking.record("hat", 0),
        "a weight of -1": lambda: ranking.record("hat", -1),
        "a weight of 1.5": lambda: ranking.record("hat", 1.5),
        "a weight of 2.0": lambda: ranking.record("hat", 2.0),
        "a weight of '2'": lambda: ranking.record("hat", "2"),
        "a weight of 10**15 + 1": lambda: ranking.record("hat", 10**15 + 1),
        "top(0)": lambda: ranking.top(0),
        "top(-1)": lambda: ranking.top(-1),
        "around('hat', -1)": lambda: ranking.around("hat", -1),
        "a bucket of 0 s": lambda: trending(shop, redis, (10.0, 0.0)),
        "a bucket of 0.009 s": lambda: trending(shop, redis, (9.0, 0.009)),
        "a window smaller than a bucket": lambda: trending(shop, redis, (0.5, 1.0)),
    }
    for what, call in cases.items():
        try:
            with testbed.raises("ValueError"):
                await call()
        except Broken as error:
            raise Broken(f"{what}: {error}", error.witness) from error
    answer = rows(await ranking.top(9))
    assert answer == ranked(("hat", 7)), f"after calls that were to be refused the ranking is {answer}"
    await ranking.record("cap", 10**15)
    assert await ranking.rank("cap") == 1, "the heaviest weight that is allowed does not count"
    await trending(shop, redis, (0.01, 0.01))


# -- the order ---------------------------------------------------------------------------------------------------


async def test_ties_go_to_the_earlier(testbed: Testbed) -> None:
    """Of equal scores the one that was reached earlier is first, for everybody, on every call.

    Look: what a sorted set does with members of the same score.
    """
    redis = await testbed.redis()
    here, there = [await trending(shop, redis) for shop in await testbed.processes(2, "shop")]

    for number, sku in enumerate(("pear", "apple", "zucchini", "kiwi", "mango", "lime")):
        await (here, there)[number % 2].record(sku)
    order = ["pear", "apple", "zucchini", "kiwi", "mango", "lime"]
    await same_for_all((here, there), ranked(*((sku, 1) for sku in order)), "six products were recorded once each")

    await record(testbed, there, ("lime", 2), ("apple", 1), ("kiwi", 2), ("apple", 1), ("zucchini", 2))
    order = ["lime", "kiwi", "apple", "zucchini"]
    expected = ranked(*((sku, 3) for sku in order), ("pear", 1), ("mango", 1))
    await same_for_all((here, there), expected, "of four products with 3, in this order they got their last record")


async def same_for_all(rankings: Sequence[Remote], expected: list[Row], when: str) -> None:
    """All of them answer so, twice."""
    for ranking in [*rankings, *rankings]:
        answer = rows(await ranking.top(len(expected) + 1))
        assert answer == expected, f"{when}: {[row[1:] for row in expected]}; {ranking.process.name} says {answer}"
        ranks = [await ranking.rank(sku) for _, sku, _ in expected]
        assert ranks == [rank for rank, _, _ in expected], f"top says {answer}, and rank says {ranks}"
        middle = expected[len(expected) // 2]
        neighbours = rows(await ranking.around(middle[1], 1))
        assert neighbours == expected[middle[0] - 2 : middle[0] + 1], (
            f"top says {answer}, and around({middle[1]!r}, 1) says {neighbours}"
        )


async def test_scores_are_exact(testbed: Testbed) -> None:
    """A score is exact up to 2**53, and ties of large scores go to the earlier as those of small ones do.

    Look: how many digits a score of a sorted set has, and what yours are used for.
    """
    redis = await testbed.redis()
    ranking = await trending(await testbed.process("shop-1"), redis)

    large = 9 * 10**15
    for sku in ("mango", "apple", "zucchini"):
        await record(testbed, ranking, *[(sku, 10**15)] * 9)
    await record(testbed, ranking, *[("kiwi", 10**15)] * 9, ("kiwi", 1))
    await record(testbed, ranking, ("pear", 10**15 - 1), ("lime", 10**15 - 2), ("plum", 10**15 - 1))

    expected = ranked(
        ("kiwi", large + 1),
        ("mango", large),
        ("apple", large),
        ("zucchini", large),
        ("pear", 10**15 - 1),
        ("plum", 10**15 - 1),
        ("lime", 10**15 - 2),
    )
    answer = rows(await ranking.top(9))
    assert answer == expected, f"recorded was {[row[1:] for row in expected]}, and the ranking is {answer}"


# -- many at once ------------------------------------------------------------------------------------------------


async def test_counts_every_record_once(testbed: Testbed) -> None:
    """Of 160 records from 4 processes at once none is lost, and every answer meanwhile is a ranking that was.

    Look: the step between reading a score and writing it.
    """
    redis = await testbed.redis()
    shops = [await trending(shop, redis) for shop in await testbed.processes(4, "shop")]
    home = await trending(await testbed.process("home-1"), redis)
    skus = [f"product-{number}" for number in range(8)]
    weights = [(skus[number % 8], 1 + number // 8 % 3) for number in range(160)]
    answers: list[list[Row]] = []

    writing = asyncio.gather(*(shops[number % 4].record(*one) for number, one in enumerate(weights)))
    while not writing.done():
        answers.append(rows(await home.top(8)))
        answers.append(rows(await home.around(skus[3], 2)))
    await writing

    recorded = list(zip(testbed.history.operations("record"), weights, strict=True))
    asked = [*testbed.history.operations("top"), *testbed.history.operations("around")]
    for answer, operation in zip(answers, sorted(asked, key=lambda one: one.start), strict=True):
        a_ranking(answer, operation, recorded)
    if not any(one.start < ended(operation) < ended(one) for operation in asked for one, _ in recorded):
        raise Vacuous("no answer came while records were made")
    total = {sku: sum(weight for one, weight in weights if one == sku) for sku in skus}
    for ranking in (*shops, home):
        answer = rows(await ranking.top(9))
        assert {sku: score for _, sku, score in answer} == total, (
            f"160 records were made, {total}, and {ranking.process.name} says {answer}"
        )
        assert answer == rows(await shops[0].top(9)), "two processes were told different orders, and nothing changed"


def a_ranking(answer: list[Row], asked: Operation, recorded: Sequence[tuple[Operation, tuple[str, int]]]) -> None:
    """In order, and each score at least what had been recorded before the call, at most what had been begun."""
    for one, other in zip(answer, answer[1:], strict=False):
        if other[0] != one[0] + 1 or other[2] > one[2] or other[1] == one[1]:
            raise Broken(f"while records were made, {one} was followed by {other}", (asked,))
    if asked.what.startswith("top") and answer and answer[0][0] != 1:
        raise Broken(f"while records were made, the first of top was {answer[0]}", (asked,))
    for _, sku, score in answer:
        of_it = [(operation, weight) for operation, (one, weight) in recorded if one == sku]
        least = sum(weight for operation, weight in of_it if ended(operation) < asked.start)
        most = sum(weight for operation, weight in of_it if operation.start < ended(asked))
        if not least <= score <= most:
            seen = f"records of {sku} worth {least} had been answered, worth {most} begun, and its score was {score}"
            raise Broken(seen, (asked,))


async def test_every_answer_is_one_moment(testbed: Testbed) -> None:
    """An answer shows one moment, however long its parts are on their way.

    Each request of `top`, `rank` and `around` in turn is held back until a product has risen from rank 3 to the top.

    Look: what may happen between two requests of the same call.
    """
    redis = await testbed.redis()
    way = await testbed.proxy(redis)
    shop, home = await testbed.processes(2, "shop")
    direct, delayed = await trending(shop, redis), await trending(home, way)
    await record(testbed, direct, ("hat", 5), ("cap", 4), ("shoe", 3), ("belt", 2), ("sock", 1))
    questions: dict[str, Callable[[Remote, str], Awaitable[object]]] = {
        "top(4)": lambda ranking, _: ranking.top(4),
        "rank": lambda ranking, sku: ranking.rank(sku),
        "around": lambda ranking, sku: ranking.around(sku, 1),
    }
    height = 10

    for what, ask in questions.items():
        await ask(delayed, "hat")  # connections and scripts are there from now on
        sent = way.requests
        await ask(delayed, "hat")
        requests = way.requests - sent
        if not requests:
            raise Vacuous(f"{what} sent no request through the proxy: nothing could be held back")
        for position in range(1, requests + 1):
            height += 10
            rising = rows(await direct.top(3))[2][1]
            hold = way.proxy.hold(lambda _: True, skip=position - 1)
            earlier = plain(await ask(direct, rising))
            asking = asyncio.ensure_future(ask(delayed, rising))
            await hold.reached(5.0)
            await direct.record(rising, height)
            hold.release()
            answer, later = plain(await asking), plain(await ask(direct, rising))
            assert answer in (earlier, later), (
                f"{rising} rose to the top while request {position} of {what} was on its way: before it was "
                f"{earlier}, after it {later}, and the answer was {answer}"
            )


def plain(answer: object) -> object:
    """A rank, or rows."""
    return rows(answer) if isinstance(answer, list) else answer


async def test_a_record_is_all_or_nothing(testbed: Testbed) -> None:
    """Killed at any point of a record, it has counted wholly or not at all, and leaves when its window ends.

    Look: what is left behind by a record that gets no further than its first request.
    """
    window = (1.0, 0.2)
    redis = await testbed.redis()
    way = await testbed.proxy(redis)
    home = await trending(await testbed.process("home-1"), redis, window)
    begun = []

    async for edge in testbed.edges(way):
        shop = await testbed.process(f"shop-{edge.number}")
        ranking = await trending(shop, way, window)
        sku, start = f"hat-{edge.number}", testbed.history.now()
        async with edge.kills(shop):
            await ranking.record(sku, 3)
        begun.append((sku, edge))
        answer = [row[1:] for row in rows(await home.top(99)) if row[1] == sku]
        if ended(last(testbed, "top")) < start + window[0]:
            assert answer in ([], [(sku, 3)]), f"of a record of 3 there is {answer}; {edge}"
    over = testbed.history.now() + sum(window) + 0.01
    while testbed.history.now() < over:  # or all would be forgotten with the last key, in silence
        await record(testbed, home, ("evergreen", 1))
        await wait_for(testbed, min(over, testbed.history.now() + window[0] / 3), "part of the window had gone by")
    answer = [row[1:] for row in rows(await home.top(99)) if row[1] != "evergreen"]
    assert not answer, f"all records but those of 'evergreen' have left their window, and the ranking holds {answer}"
    for sku, edge in begun:
        await home.record(sku, 1)
        found = [row[1:] for row in rows(await home.around(sku, 0))]
        if ended(last(testbed, "around")) < last(testbed, "record").start + window[0]:
            assert found == [(sku, 1)], f"recorded anew with 1, there is {found}; {edge}"


async def test_no_answer_is_no_second_record(testbed: Testbed) -> None:
    """A record whose answer does not come in the client's time has counted once, or not at all, and never twice.

    Look: what your code does with an error of the client, and what the server has done by then.
    """
    redis = await testbed.redis()
    way = await testbed.proxy(redis)
    shop, home = await testbed.processes(2, "shop")
    hurried, direct = await trending(shop, way, socket_timeout=0.25), await trending(home, redis)
    await hurried.record("hat")
    sent = way.requests
    await hurried.record("hat")
    requests = way.requests - sent
    if not requests:
        raise Vacuous("a record sent no request through the proxy: no answer could be held back")

    for position in range(1, requests + 1):
        sku = f"cap-{position}"
        hold = way.proxy.hold_reply(lambda _: True, skip=position - 1)
        recording = asyncio.create_task(hurried.record(sku, 3))
        await hold.reached(5.0)
        await asyncio.wait([recording])
        hold.release()
        error = recording.exception()
        if error is not None and not (isinstance(error, Raised) and "TimeoutError" in error.bases):
            raise error
        found = [row[1:] for row in rows(await direct.around(sku, 0))]
        assert found in ([], [(sku, 3)]), (
            f"one record of 3 was made, and the answer to its request {position} was lost: there is {found}"
        )
        assert found or error, "a record was made without an error, and has not counted"


async def test_no_answer_is_no_ranking(testbed: Testbed) -> None:
    """When the server is dead, every call raises what the client raises, also entering `changes()`.

    Look: what your code makes of an error of the client; nobody is on top of a ranking that could not be read.
    """
    redis = await testbed.redis()
    ranking = await trending(await testbed.process("shop-1"), redis)
    await ranking.record("hat")
    assert rows(await ranking.top(1)) == ranked(("hat", 1)), "the hat was recorded, and is not on top"

    await redis.kill()
    cases: dict[str, Callable[[], Awaitable[object]]] = {
        "record": lambda: ranking.record("hat"),
        "top": lambda: ranking.top(1),
        "rank": lambda: ranking.rank("hat"),
        "around": lambda: ranking.around("hat", 1),
        "entering changes()": lambda: asyncio.wait_for(entered(ranking), 5.0),
    }
    for what, call in cases.items():
        try:
            with testbed.raises("ConnectionError"):
                await call()
        except TimeoutError:
            raise Broken(f"{what}, with a dead server: after 5 s there is neither an error nor an answer") from None
        except Broken as error:
            raise Broken(f"{what}, with a dead server: {error}", error.witness) from error


# -- the window --------------------------------------------------------------------------------------------------


async def test_leaves_when_its_window_ends(testbed: Testbed) -> None:
    """A record counts for the whole window, and is gone a bucket later at the most; what stays keeps its order.

    Look: which buckets count at a given moment, and who takes out the others.
    """
    redis = await testbed.redis()
    shop, other = await testbed.processes(2, "shop")
    for window, bucket in GROWING:
        await redis.truth.flushall()
        ranking, witness = await trending(shop, redis, (window, bucket)), await trending(other, redis, (window, bucket))
        if await looked_in_time(testbed, redis, ranking, witness, (window, bucket)):
            return
    raise TestbedError(TOO_SLOW)


async def looked_in_time(testbed: Testbed, redis: RedisServer, one: Remote, two: Remote, window: Window) -> bool:
    """Look at the ranking while, and after, records are in their window; False if the machine was too slow to say."""
    length, bucket = window
    await testbed.until(
        lambda: in_bucket(redis, bucket, 0.6, 0.8, across=length), "a bucket was nearly over", deadline=9 * length
    )
    number = await bucket_number(redis, bucket)
    began = testbed.history.now()
    old = await record(testbed, one, ("hat", 3), ("shoe", 1), ("cap", 2), ("sock", 1), ("scarf", 1))
    in_one = await bucket_number(redis, bucket) == number
    await testbed.until(lambda: later_bucket(redis, bucket, number + 1), "the next bucket had begun")
    alone = await record(testbed, two, ("glove", 1))
    await testbed.until(lambda: later_bucket(redis, bucket, number + 3), "two more buckets had begun")
    again = testbed.history.now()
    new = await record(testbed, two, ("sock", 1), ("belt", 1), ("cap", 1), ("apron", 1), ("hat", 1), ("shoe", 5))

    await wait_for(testbed, began + 0.85 * length, "most of a window had gone by")
    first = rows(await one.top(9))
    if not in_one or ended(last(testbed, "top")) >= began + length:
        return False
    ones = [(sku, 1) for sku in ("scarf", "glove", "belt", "apron")]
    expected = ranked(("shoe", 6), ("hat", 4), ("cap", 3), ("sock", 2), *ones)
    assert first == expected, f"nothing has left a window of {length:g} s, and the ranking is {first}, not {expected}"

    # Each of top, rank and around is once the first call after records have left.
    await wait_for(testbed, ended(old) + length + bucket + 0.01, "the first records had left")
    best = rows(await two.around("shoe", 0))
    assert best == [(1, "shoe", 5)], (
        f"of a window of {length:g} s and buckets of {bucket:g} s the records that are older than both together have "
        f"left, 1 of the shoe's 6; and around('shoe', 0) is {best}"
    )
    await wait_for(testbed, ended(alone) + length + bucket + 0.01, "one more had left")
    second, rank, neighbours = rows(await two.top(9)), await one.rank("hat"), rows(await two.around("cap", 1))
    if ended(last(testbed, "around")) >= again + length:
        return False
    expected = ranked(("shoe", 5), ("sock", 1), ("belt", 1), ("cap", 1), ("apron", 1), ("hat", 1))
    assert second == expected, (
        f"of a window of {length:g} s and buckets of {bucket:g} s the records that are older than both together have "
        f"left: {expected}; the ranking is {second}"
    )
    assert rank == 6, f"the hat is number 6 of top, and its rank is {rank}"
    assert neighbours == expected[2:5], f"top says {second}, and around('cap', 1) {neighbours}"

    await wait_for(testbed, ended(new) + length + bucket + 0.01, "all records had left")
    third = await one.rank("shoe"), rows(await one.around("hat", 3)), rows(await two.top(9))
    assert third == (None, [], []), f"all records have left the window, and rank, around and top say {third}"
    return True


async def in_bucket(redis: RedisServer, bucket: float, least: float, most: float, *, across: float) -> bool:
    """Whether so much of a bucket has gone by, and a window `across` that begins now crosses a border of its own."""
    seconds, microseconds = await redis.truth.time()
    at = seconds + microseconds / 1e6
    return least < at % bucket / bucket < most and at % across / across > 0.3


async def bucket_number(redis: RedisServer, bucket: float) -> int:
    """The number of the bucket by the server's clock."""
    seconds, microseconds = await redis.truth.time()
    return int((seconds + microseconds / 1e6) / bucket)


async def later_bucket(redis: RedisServer, bucket: float, number: int) -> bool:
    """Whether that bucket has begun."""
    return await bucket_number(redis, bucket) >= number


async def test_a_rank_counts_nobody_who_has_left(testbed: Testbed) -> None:
    """Whoever asks for a rank first, after records have left, is told the rank among those that count.

    Look: which of your calls take out what is over; a product leaves `top`, `around` and `rank` at once.
    """
    redis = await testbed.redis()
    shop = await testbed.process("shop-1")
    for length, bucket in GROWING:
        await redis.truth.flushall()
        ranking = await trending(shop, redis, (length, bucket))
        old = await record(testbed, ranking, ("hat", 5))
        await wait_for(testbed, ended(old) + 0.6 * length, "more than half of the window had gone by")
        new = await record(testbed, ranking, ("cap", 1))
        await wait_for(testbed, ended(old) + length + bucket + 0.01, "the hat had left")
        rank, gone = await ranking.rank("cap"), await ranking.rank("hat")
        if ended(last(testbed, "rank")) >= new.start + length:
            continue
        assert rank == 1, (
            f"the hat's only record is older than the window of {length:g} s and the bucket of {bucket:g} s, the cap "
            f"is alone, and its rank is {rank}"
        )
        assert gone is None, f"the hat's only record has left, and its rank is {gone}"
        return
    raise TestbedError(TOO_SLOW)


async def test_writers_need_no_readers(testbed: Testbed) -> None:
    """What is over counts no more although nobody has asked for the ranking: a change tells the score that stands.

    Look: which calls take out what is over, and what is left to do so when nobody looks.
    """
    window = (1.0, 0.2)
    redis = await testbed.redis()
    shop, page = await testbed.processes(2, "shop")
    writer, reader = await trending(shop, redis, window), await trending(page, redis, window)
    block, changes = await entered(reader)

    old = await record(testbed, writer, ("hat", 100))
    over = ended(old) + sum(window) + 0.01
    while testbed.history.now() < over:  # or all would be forgotten with the last key, in silence
        await record(testbed, writer, ("evergreen", 1))
        await wait_for(testbed, min(over, testbed.history.now() + 0.2), "some of the window had gone by")
    await record(testbed, writer, ("hat", 1))
    heard = ("", 0)
    while heard[0] != "hat" or heard[1] == 100:
        heard = await following(testbed, changes, "the hat was recorded twice")
    assert heard == ("hat", 1), (
        f"100 of the hat are older than window and bucket together, then it was recorded with 1; meanwhile there were "
        f"only records, and its change says {heard[1]}"
    )
    await left(block)


async def test_clocks_do_not_matter(testbed: Testbed) -> None:
    """Processes whose clocks are four minutes apart keep one ranking, in the order of the server.

    Look: whose clock says in which bucket a record is, and which of two came first.
    """
    redis = await testbed.redis()
    ahead = await trending(await testbed.process("shop-1", clock_offset=120.0), redis, (60.0, 10.0))
    behind = await trending(await testbed.process("shop-2", clock_offset=-120.0), redis, (60.0, 10.0))
    right = await trending(await testbed.process("shop-3"), redis, (60.0, 10.0))

    await record(testbed, behind, ("apple", 1))
    await record(testbed, ahead, ("pear", 1))
    await record(testbed, right, ("zucchini", 1))
    await record(testbed, behind, ("kiwi", 1))
    await record(testbed, ahead, ("zucchini", 1))
    expected = ranked(("zucchini", 2), ("apple", 1), ("pear", 1), ("kiwi", 1))
    for ranking in (right, ahead, behind, right):
        answer = rows(await ranking.top(9))
        assert answer == expected, (
            f"recorded within a moment was {[row[1:] for row in expected]}, and {ranking.process.name} says {answer}; "
            "the clocks of the shops are 240 s apart, the window is 60 s"
        )


# -- what it costs -----------------------------------------------------------------------------------------------


async def test_rank_is_a_lookup(testbed: Testbed) -> None:
    """Of 800 products, `top(10)` brings 10 rows, and keeps the server no longer than of 10; so `rank` and `around`.

    Bytes are counted by the proxy, the time is the server's own account of its commands.

    Look: what is done when somebody asks, and could have been done when somebody recorded.
    """
    redis = await testbed.redis()
    for kind in ("hash", "zset"):  # small ones are packed, and looked through from one end: here none counts as small
        await redis.truth.config_set(f"{kind}-max-listpack-entries", 8)
    way = await testbed.proxy(redis)
    shops = [await trending(shop, redis) for shop in await testbed.processes(2, "shop")]
    home = await trending(await testbed.process("home-1"), way)
    skus = [f"product-of-the-shop-{number:04}" for number in range(800)]
    questions = {"top": 10, "rank": 0, "around": 11}  # and how many rows may come

    await record_many(shops, skus[:10])
    few = {question: await busy(redis, home, question, skus[6]) for question in questions}
    await record_many(shops, skus[10:])

    for question, most in questions.items():
        before = way.proxy.counts
        answer = await ask(home, question, skus[6])
        got = (way.proxy.counts - before).bytes_to_client
        if not got:
            raise Vacuous(f"{question} went past the proxy: nothing could be counted")
        rank = answer[len(answer) // 2].rank if isinstance(answer, list) else answer
        assert isinstance(rank, int), f"of 800 products {question} says {answer}"
        assert got <= 300 + 300 * most, (
            f"of 800 products, {question} brought {got:,} bytes from the server; promised are {most} rows at most"
        )
        enough, many = 3 * few[question] + 30, await busy(redis, home, question, skus[6])
        for _ in range(2):  # a busy machine makes a command slow now and then, and not a look at 800 rows fast
            if many > enough:
                many = await busy(redis, home, question, skus[6])
        assert many <= enough, (
            f"{question} keeps the server busy for {few[question]} us with 10 products, and for {many} us "
            "with 800: it looks at all of them"
        )


async def ask(ranking: Remote, question: str, sku: str) -> object:
    """One of the three questions."""
    match question:
        case "top":
            return await ranking.top(10)
        case "rank":
            return await ranking.rank(sku)
        case _:
            return await ranking.around(sku, 5)


async def busy(redis: RedisServer, ranking: Remote, question: str, sku: str) -> int:
    """Microseconds of the server for that question: the least of several, in which nothing else came between."""
    marks = [await spent(redis)]
    for _ in range(20):
        await ask(ranking, question, sku)
        marks.append(await spent(redis))
    return min(after - before for before, after in itertools.pairwise(marks))


async def spent(redis: RedisServer) -> int:
    """Microseconds that the server has been in commands, those of scripts included, but for the question itself."""
    stats = await redis.truth.info("commandstats")
    return sum(int(of["usec"]) for name, of in stats.items() if name != "cmdstat_info")


async def test_memory_is_bounded(testbed: Testbed) -> None:
    """What is kept grows with products and buckets, not with records; every key has the prefix, and an end.

    Look: what is kept of one record, and of a second one of the same product in the same bucket.
    """
    redis = await testbed.redis()
    shops = [await trending(shop, redis) for shop in await testbed.processes(2, "shop")]
    skus = [f"a-product-with-a-rather-long-name-{number:02}" for number in range(40)]

    await record_many(shops, skus)
    began = testbed.history.operations("record")[-1].start
    once = await size(redis)
    await record_many(shops, skus * 14)
    often = await size(redis)

    assert often <= 2 * once + 32 * 1024, (
        f"40 products, recorded once each, take {once:,} bytes; after 560 more records of the same products it is "
        f"{often:,}: what is kept grows with the records"
    )
    longest = await bounded_life(redis, HOUR)
    assert longest >= HOUR[0] - (testbed.history.now() - began), (
        f"all that is known will be gone in {longest:g} s; a record counts for {HOUR[0]:g} s"
    )


async def size(redis: RedisServer) -> int:
    """Bytes of all keys."""
    return sum([await redis.truth.memory_usage(key, samples=0) or 0 for key in await redis.truth.keys()])


async def bounded_life(redis: RedisServer, window: Window) -> float:
    """Every key is the ranking's by its name, and ends in time; the seconds for which the last one is there."""
    longest, allowed = 0.0, 2 * sum(window) + 1
    for key in await redis.truth.keys():
        name, remaining = text(key), await redis.truth.pttl(key)
        assert name.startswith("trending:"), f"there is a key {name!r}; every key starts with 'trending:'"
        assert remaining != -1, f"the key {name!r} never expires: a product is known for ever"
        assert remaining <= allowed * 1000, (
            f"the key {name!r} stays for {remaining / 1000:g} s; promised are {allowed:g} at most, with windows of "
            f"{window[0]:g} s and buckets of {window[1]:g} s"
        )
        longest = max(longest, remaining / 1000)
    return longest


def text(key: bytes | str) -> str:
    """A key as it can be read."""
    return key.decode(errors="replace") if isinstance(key, bytes) else key


async def test_forgets_what_has_left(testbed: Testbed) -> None:
    """Products that nobody records any more leave nothing behind, neither under traffic nor in silence.

    Look: what becomes of a bucket that counts no more, and of a product without any.
    """
    window = (0.5, 0.1)
    redis = await testbed.redis()
    ranking = await trending(await testbed.process("shop-1"), redis, window)
    await ranking.record("evergreen")
    base = await size(redis)

    skus = [f"a-product-with-a-rather-long-name-{number:03}" for number in range(200)]
    await record_many([ranking], skus)
    gone = ended(last(testbed, "record")) + 2 * sum(window) + 1
    full = await size(redis)
    if full < 10_000 + base:
        raise Vacuous(f"200 products take {full:,} bytes: it could not be seen that they go")
    while (kept := await size(redis)) > 12 * base + full / 20:
        if testbed.history.now() > gone:
            raise Broken(
                f"200 products took {full:,} bytes; {2 * sum(window) + 1:g} s after their last record {kept:,} bytes "
                f"are still there, and only one product was recorded meanwhile"
            )
        await ranking.record("evergreen")
        await ranking.top(3)
    await bounded_life(redis, window)

    early = await record(testbed, ranking, ("early", 1))
    await wait_for(testbed, ended(early) + 0.9 * window[0], "most of a window had gone by")
    late = await record(testbed, ranking, ("late", 1))
    await wait_for(testbed, ended(late) + 1.5 * sum(window), "all had left")
    answer = rows(await ranking.top(9))
    assert not answer, f"nobody has called for longer than a window and a bucket, and the ranking is {answer}"


# -- live --------------------------------------------------------------------------------------------------------


async def test_changes_tell_every_record(testbed: Testbed) -> None:
    """Whoever has entered hears of every record, once, with the whole score; also when he reads late.

    160 records from 4 processes are made between entering and the first read, later 1,101; two listen in one process.

    Look: `changes` in the starter; what is subscribed, and when.
    """
    redis = await testbed.redis()
    shops = [await trending(shop, redis) for shop in await testbed.processes(4, "shop")]
    await record(testbed, shops[0], ("hat", 5), ("old", 1))
    page = await trending(await testbed.process("page-1"), redis)
    blocks = [await entered(page) for _ in range(2)]

    skus = ["hat", "cap", "shoe:red", "Mütze"]
    await asyncio.gather(*(shops[number % 4].record(skus[number // 4 % 4], 2) for number in range(160)))
    await record(testbed, shops[1], ("belt", 7), ("hat", 3), ("belt", 10**15))

    (block, changes), (other_block, other) = blocks
    heard = [await following(testbed, changes, f"163 records were made, {count} changes came") for count in range(163)]
    also = [await following(testbed, other, f"163 records were made, {count} changes came") for count in range(20)]
    for sku, base in (("hat", 5), ("cap", 0), ("shoe:red", 0), ("Mütze", 0)):
        scores = [score for one, score in heard[:160] if one == sku]
        promised = [base + 2 * count for count in range(1, 41)]
        assert scores == promised, f"{sku!r} had {base} and was recorded 40 times with 2; its changes were {scores}"
    assert heard[160:] == [("belt", 7), ("hat", 88), ("belt", 10**15 + 7)], (
        f"recorded was belt 7, hat 3 to its 85, belt 10**15; the changes were {heard[160:]}"
    )
    assert also == heard[:20], f"two listened to the same records; one heard {heard[:20]}, the other {also}"
    await left(other_block)
    await record(testbed, shops[2], ("sock", 4))
    change = await following(testbed, changes, "one of two listeners had left, then the sock was recorded")
    assert change == ("sock", 4), f"one of two listeners had left; after a record of sock, 4 the other heard {change}"

    await record(testbed, shops[3], ("first of many", 1))
    await record_many(shops, ["sock"] * 1100)
    change = await following(testbed, changes, "1,101 records were made while nobody read")
    assert change == ("first of many", 1), (
        f"1,101 records were made while nobody read; the first that came was {change}"
    )
    await left(block)


async def test_nothing_is_missed_after_entering(testbed: Testbed) -> None:
    """What is recorded after `async with changes()` was entered comes, however slow the network was meanwhile.

    Each request of entering in turn is held back on its way.

    Look: what the server knows of the subscription when `changes()` says that it is there.
    """
    redis = await testbed.redis()
    way = await testbed.proxy(redis)
    shop, page = await testbed.processes(2, "shop")
    writer, reader, pulse = await trending(shop, redis), await trending(page, way), await trending(page, redis)
    await writer.record("hat")
    await reader.rank("hat")

    sent = way.requests
    block, changes = await entered(reader)
    requests = way.requests - sent
    await writer.record("cap")
    change = await following(testbed, changes, "entered, and then the cap was recorded")
    assert change == ("cap", 1), f"entered, and then the cap was recorded with 1; the first change is {change}"
    await left(block)

    for position in range(1, requests + 1):
        sku = f"shoe-{position}"
        hold = way.proxy.hold(lambda _: True, skip=position - 1)
        entering = asyncio.create_task(entered(reader))
        await hold.reached(5.0)
        for _ in range(30):  # an `async with` that does not wait has long been entered after so many answers
            await pulse.rank("hat")
        if position == 1:  # nor has anybody a second's patience and goes on then
            await wait_for(testbed, last(testbed, "rank").start + 1.1, "a second had gone by")
        early = entering.done()
        if early:
            await writer.record(sku)
        hold.release()
        block, changes = await entering
        if not early:
            await writer.record(sku)
        when = f"entered while its request {position} was still on its way" if early else "entered"
        change = await following(testbed, changes, f"{when}, and then {sku} was recorded")
        assert change == (sku, 1), f"{when}, and then {sku} was recorded with 1; the first change is {change}"
        await left(block)


async def test_the_last_change_is_what_stands(testbed: Testbed) -> None:
    """Changes come in the order in which the server has counted: the last one says what stands.

    Each request of one record in turn is held back until another process has recorded the same product.

    Look: the moment between counting and telling.
    """
    redis = await testbed.redis()
    way = await testbed.proxy(redis)
    shop, slow, page = await testbed.processes(3, "shop")
    quick, delayed, reader = await trending(shop, redis), await trending(slow, way), await trending(page, redis)
    await delayed.record("hat")
    sent = way.requests
    await delayed.record("hat")
    requests = way.requests - sent
    if not requests:
        raise Vacuous("a record sent no request through the proxy: nothing could be held back")
    block, changes = await entered(reader)

    for position in range(1, requests + 1):
        hold = way.proxy.hold(lambda _: True, skip=position - 1)
        recording = asyncio.ensure_future(delayed.record("hat"))
        await hold.reached(5.0)
        await quick.record("hat", 10)
        hold.release()
        await recording
        heard = [await following(testbed, changes, f"two records were made, {count} came") for count in range(2)]
        stands = rows(await quick.top(1))[0][1:]
        assert heard[1] == stands, (
            f"two processes recorded the hat, request {position} of one was late: the changes were {heard}, and what "
            f"stands is {stands}"
        )
        assert heard[0][1] < heard[1][1], f"the hat only rose, and its changes were {heard}"
    await left(block)


async def test_a_reader_may_give_up_and_come_again(testbed: Testbed) -> None:
    """A reader who waits longer than the client's own limit, is cancelled and comes again, has lost nothing.

    Look: what a cancelled `__anext__` leaves of the iterator; what ends a wait in which nothing comes.
    """
    redis = await testbed.redis()
    shop, page = await testbed.processes(2, "shop")
    writer, reader = await trending(shop, redis), await trending(page, redis, socket_timeout=0.25)
    block, changes = await entered(reader)

    for number in range(3):
        waiting = page.call(changes, "__anext__")
        await wait_for(testbed, waiting.operation.start + (0.6, 0.05, 0.01)[number], "nothing had happened for a while")
        if waiting.ended:
            raise Broken(f"nothing was recorded, and the reader's wait has ended: {await outcome(waiting)}")
        await waiting.cancel()
        await record(testbed, writer, (f"hat-{number}", 1), (f"cap-{number}", 2))
        for expected in ((f"hat-{number}", 1), (f"cap-{number}", 2)):
            change = await following(testbed, changes, "a reader gave up waiting, then two records were made")
            assert change == expected, f"a reader gave up waiting, then came {expected}, and was told {change}"
    await left(block)


async def outcome(waiting: Awaitable[Remote]) -> str:
    """What came of a wait for a change, in a word."""
    try:
        change = await waiting
    except Raised as error:
        return error.kind
    return f"{change!r}"


async def test_a_lost_connection_is_told(testbed: Testbed) -> None:
    """A listener whose connection breaks is told so, or misses nothing: a gap never goes unnoticed.

    Look: what the client does on its own when a connection is lost, and who learns of it.
    """
    redis = await testbed.redis()
    way = await testbed.proxy(redis)
    shop, page = await testbed.processes(2, "shop")
    writer, reader = await trending(shop, redis), await trending(page, way)

    for number, waits in enumerate((True, False)):
        block, changes = await entered(reader)
        await writer.record("hat")
        await following(testbed, changes, "the hat was recorded")
        waiting = page.call(changes, "__anext__") if waits else None
        await (await trending(page, redis)).rank("hat")  # answered after the wait has begun
        testbed.inject(way, Reset(ages=frozenset({Age.OPEN})))
        missed = [f"missed-{number}-{count}" for count in range(3)]
        await record(testbed, writer, *((sku, 1) for sku in missed))
        lost = False
        for sku in missed:
            with testbed.within(1.0, "a listener with a broken connection was told something"):
                told = await heard_or_lost(waiting or page.call(changes, "__anext__"))
            waiting = None
            lost = lost or told == "ChangesLost"
            assert told == ("ChangesLost" if lost else sku), (
                f"the connection broke, then {', '.join(missed)} were recorded; where {sku} or ChangesLost was "
                f"promised, came {told}{', after ChangesLost' if lost else ''}"
            )
        await left(block)
        block, changes = await entered(reader)
        await writer.record("cap")
        change = await following(testbed, changes, "the connection broke, it was entered again, the cap was recorded")
        assert change[0] == "cap", f"after a broken connection it was entered again; the first change is {change}"
        await left(block)

    block, changes = await entered(reader)
    await redis.kill()
    with testbed.within(1.0, "a listener was told that the server is dead"):
        told = await heard_or_lost(page.call(changes, "__anext__"))
    assert told == "ChangesLost", f"the server is dead, and the listener was told {told}"
    await left(block)


async def heard_or_lost(waiting: Awaitable[Remote]) -> str:
    """The sku of the change, or the exception's name."""
    try:
        async with asyncio.timeout(5.0):
            return str((await waiting).sku)
    except TimeoutError:
        return "nothing for 5 s"
    except Raised as error:
        return "ChangesLost" if "ChangesLost" in error.bases else f"{error}"


async def test_leaving_ends_it_cleanly(testbed: Testbed) -> None:
    """Leaving ends whoever waits, gives the connections back, and nothing listens any more.

    Look: what is opened when `changes()` is entered, and who closes it on each way out.
    """
    redis = await testbed.redis()
    shop, page = await testbed.processes(2, "shop")
    writer, reader = await trending(shop, redis), await trending(page, redis)
    await writer.record("hat")
    await reader.rank("hat")
    before, tasks = len(await redis.truth.client_list()), await page.tasks()

    for number in range(15):
        block, changes = await entered(reader)
        if number % 3:
            await writer.record("hat")
        if number % 3 == 2:
            await following(testbed, changes, "the hat was recorded")
        assert not await block.__aexit__(None, None, None), "`__aexit__` must not swallow the block's exception"
        with testbed.raises("StopAsyncIteration"):
            await changes.__anext__()
    await settled(testbed, redis, before + 4)
    block, _ = await entered(reader)
    with contextlib.suppress(Raised):  # it may raise the exception itself
        assert not await block.__aexit__(Named("ValueError"), None, None), "`__aexit__` has swallowed a ValueError"
    await settled(testbed, redis, before + 4)

    block, changes = await entered(reader)
    waiting = page.call(changes, "__anext__")
    for _ in range(5):
        await reader.rank("hat")  # answered after the wait has begun
    if waiting.ended:
        raise Broken(f"nothing was recorded, and the reader's wait has ended: {await outcome(waiting)}")
    with testbed.within(1.0, "the block was left, and whoever waited in it had an answer"):
        await left(block)
        told = await ending(waiting)
    assert told == "StopAsyncIteration", f"the block was left while a task waited in it; the task was told {told}"
    await settled(testbed, redis, before + 4)

    await asyncio.gather(*(reader.record("cap") for _ in range(50)))
    answer = rows(await reader.top(1))
    assert answer == ranked(("cap", 50)), f"after all have left, 50 records were made, and top(1) is {answer}"
    end = testbed.history.now() + 2.0 * testbed.patience
    while more := [task for task in await page.tasks() if task not in tasks]:
        if testbed.history.now() > end:
            raise Broken(f"all blocks were left, and {len(more)} tasks run that did not before: {', '.join(more[:3])}")
        await asyncio.sleep(0.005)


async def ending(waiting: Call) -> str:
    """How a wait has ended."""
    try:
        async with asyncio.timeout(5.0):
            return await outcome(waiting)
    except TimeoutError:
        return "nothing for 5 s"


async def settled(testbed: Testbed, redis: RedisServer, most: int) -> None:
    """Nobody listens any more, and at most so many connections are there; the server may need a moment to see it."""
    end = testbed.history.now() + 2.0 * testbed.patience
    while True:
        clients = await redis.truth.client_list()
        listening = sum(int(client["sub"]) + int(client["psub"]) for client in clients)
        if len(clients) <= most and not listening:
            return
        if testbed.history.now() > end:
            raise Broken(
                f"blocks of `changes()` were entered and left, one after the other, and {len(clients)} connections "
                f"are there, of {most} that may be, and {listening} subscriptions are still open"
            )
        await asyncio.sleep(0.005)
