"""What the warm runner is asked; it imports nothing heavy, so that asking is quick."""

import msgspec

CHECK_LIMIT = 12.0  # seconds for a check, unless its module states a budget of more than twice that


class RunRequest(msgspec.Struct, frozen=True):
    """What to grade, and how."""

    checks: str  # path of checks.py
    solution: str  # folder with the exercise's files
    module: str  # the file to load, without .py
    root: str  # the clone
    folder: str  # the run's own folder; removed afterwards
    seed: int
    only: list[str] = []  # names of checks; empty: all
    until_failure: bool = False  # in the order of `only`, verdicts as they come, and no more after the first `fail`
    limit: float = 120.0  # seconds for the whole run
    process_limit: int = 1024  # at once; a learner's process is ended far earlier, by the nursery
    check_limit: float = CHECK_LIMIT  # seconds after which a check that still runs is a hang
    broker: tuple[str, int, int] | None = None  # host, port and management port of the RabbitMQ that checks share
