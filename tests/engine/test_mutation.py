"""Automatic mutants are valid programs, all different, that differ in one place and keep their names."""

import ast
import re
from pathlib import Path
from textwrap import dedent

import pytest

from faultline.engine.mutation import variants

REFERENCE = Path(__file__).parents[2] / "sandbox" / "redis-learning" / "05-distributed-locks" / "solution" / "lock.py"


def made(source: str) -> dict[str, str]:
    """The mutants of a source by name."""
    return {one.name: one.source for one in variants(dedent(source))[0]}


def changes(source: str) -> set[str]:
    """What the mutants change, without the place."""
    return {re.sub(r' in ".*"( #\d)?$', "", name.split(": ", 1)[1]) for name in made(source)}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("return a >= b", {">= → >", ">= → <", "returns None"}),
        ("return a if a >= b else c", {">= → >", "negated", "returns None"}),
        ("return a == b", {"== → !=", "returns None"}),
        ("return a is not b", {"is not → is", "returns None"}),
        ("return a not in b", {"not in → in", "returns None"}),
        ("return a and b", {"and → or", 'without "a"', 'without "b"', "returns None"}),
        ("return a // b", {"// → /", "returns None"}),
        ("return -a", {'without - before "a"', "returns None"}),
        ("return max(a, b)", {"max → min", "returns None"}),
        ("return [x for x in a if x]", {'without the filter "x"', "negated", "returns None"}),
        ("return c(a, b, key=1)", {"arguments swapped: a, b", "without key=1", "1 → 2", "1 → 0", "returns None"}),
        ("return c(key=1)", {"without key=1", "1 → 2", "1 → 0", "returns None"}),
        ('return c("word")', {'"word" → ""', "returns None"}),
        ('return c(f"{a}:lock")', {'without "{a}"', 'without ":lock"', "returns None"}),
        ("a.b = 0.5", {'without "a.b = 0.5"', "0.5 → 1.5", "0.5 → -0.5"}),
        ("a += b", {'without "a += b"', "+= → -="}),
        ("raise ValueError('a message')", {"without \"raise ValueError('a message')\""}),
        ("await a.release()", {'without "await a.release()"'}),
        ("c(a, c=True)", {'without "c(a, c=True)"', "without c=True", "True → False"}),
        ("name = a", set[str]()),  # as None it could only crash
        ("log.info('a message', 3)", set[str]()),
        ("import os", set[str]()),
    ],
)
def test_each_change_is_made(line: str, expected: set[str]) -> None:
    assert changes(f"async def f(a, b, c, log):\n    {line}\n") == expected


def test_blocks_are_changed_as_blocks() -> None:
    source = """
        def f(a, b):
            try:
                with a.b():
                    while a:
                        if b:
                            break
            except (KeyError, OSError):
                a.x()
            finally:
                a.y()
    """
    assert changes(source) >= {
        'without "with a.b():" around it',
        "negated",
        "break → continue",
        "raises again",
        "without KeyError",
        "without OSError",
        "finally does nothing",
        'without "a.x()"',
    }


def test_a_default_argument_is_changed_and_a_type_is_not() -> None:
    assert changes("def f(a: 'str' = 3) -> 'int':\n    '''Documentation.'''\n") == {"3 → 4", "3 → 2"}


SCRIPT = '''
    TAKE = """
    -- a comment == nothing
    if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) and 1 < 2 then
        return redis.call('INCR', KEYS[2])
    end
    return 0
    """
'''


def test_a_script_within_a_string_is_changed_by_its_words() -> None:
    assert changes(SCRIPT) == {
        "negated",
        "and → or",
        "< → <=",
        "KEYS[1] → KEYS[2]",
        "KEYS[2] → KEYS[1]",
        "ARGV[1] → ARGV[2]",
        "ARGV[2] → ARGV[1]",
        "without NX",
        "without PX",
        "without line \"return redis.call('INCR', KEYS[2])\"",
        'without line "return 0"',
        *("1 → 2", "1 → 0", "2 → 3", "2 → 1", "0 → 1", "0 → -1"),
    }
    changed = made(SCRIPT)[
        "TAKE: without PX in \"if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) and 1 < 2 then\""
    ]
    assert "'NX') and" in changed


def test_sql_within_a_string_is_changed_by_its_words() -> None:
    source = 'NEXT = "SELECT id FROM jobs WHERE owner = %s AND state < 3 ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED"\n'
    assert changes(source) == {
        "negated WHERE",
        "= → <>",
        "< → <=",
        'without "AND state < 3"',
        'without "LIMIT 1"',
        'without "FOR UPDATE"',
        'without "SKIP LOCKED"',
    }


def in_common(left: str, right: str) -> int:
    """How many characters are the same from the beginning."""
    return next((n for n, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


def test_every_mutant_of_the_real_reference_is_another_valid_program() -> None:
    source = REFERENCE.read_text()
    found, _ = variants(source)
    assert len(found) > 100
    assert len({one.source for one in found}) == len({one.name for one in found}) == len(found)
    for one in found:
        ast.parse(one.source)
        head = in_common(source, one.source)
        tail = in_common(source[head:][::-1], one.source[head:][::-1])
        assert len(source) - head - tail < 150, one.name  # the change is in one place, the rest is as it was


def test_a_change_that_means_the_same_to_python_or_the_same_as_another_is_told_and_not_made() -> None:
    found, same = variants("def f():\n    return 2 ** 1\n")
    assert same == {'f: ** → * in "return 2 ** 1"', 'f: 1 → 0 in "return 2 ** 1"'}
    assert not same & {one.name for one in found}


def test_names_survive_edits_elsewhere_and_tell_equal_statements_apart() -> None:
    before = "def f(a):\n    a.go(1)\n    a.go(1)\n"
    after = f"import os\n\n\ndef g(a):\n    return a + 1\n\n\n{before}"
    assert set(made(before)) <= set(made(after))
    assert {'f: 1 → 2 in "a.go(1)"', 'f: 1 → 2 in "a.go(1)" #2'} <= set(made(before))


def test_text_that_is_not_ascii_keeps_its_place() -> None:
    source = 'def f(a):\n    return a.get("Größe", "ß") + 1  # größer\n'
    assert made(source)['f: + → - in "return a.get("Größe", "ß") + 1"'] == source.replace("+ 1", "- 1")
