"""A clone of its own for a test, with one small module in it."""

import os
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

from faultline.components import Clone
from faultline.engine.shared_servers import SharedServers

# A test that calls the shop leaves gRPC's threads in this process. A nursery that is forked from it later must not be
# led into what they were doing: gRPC would close the child's files under its feet.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
hypothesis.settings.register_profile("lab", deadline=None)  # how long an example takes is the machine's affair
hypothesis.settings.load_profile("lab")

REAL = Path(__file__).parents[1]
BROKER = pytest.StashKey[SharedServers]()
GROUP = re.compile(r'xdist_group\("(\w+)"\)')
MODULE = "05-distributed-locks"
FILES = {
    "module.toml": """
        title = "A counter"
        summary = "It counts."
        minutes = 5
        difficulty = 1
        concepts = ["counting"]
        requires = []
        components = []
        files = ["counter.py"]
    """,
    "checks.py": '''
        from faultline.testbed import Testbed


        async def test_counts(testbed: Testbed) -> None:
            """Adding one three times gives three.

            Look: the method `add`.
            """
            process = await testbed.process("till-1")
            counter = await process.new("Counter")
            for _ in range(3):
                await counter.add(1)
            total = await counter.total()
            assert total == 3, f"after three times one the total is {total}"


        async def test_refuses_less_than_nothing(testbed: Testbed) -> None:
            """Adding less than nothing is refused."""
            counter = await (await testbed.process("till-1")).new("Counter")
            await counter.add(0)
            with testbed.raises("ValueError"):
                await counter.add(-1)


        async def test_adds_more_than_one(testbed: Testbed) -> None:
            """Adding five gives five."""
            counter = await (await testbed.process("till-1")).new("Counter")
            await counter.add(5)
            assert await counter.total() == 5, "after five the total is not five"


        async def test_begins_at_zero(testbed: Testbed) -> None:
            """A new counter is at zero."""
            counter = await (await testbed.process("till-1")).new("Counter")
            assert await counter.total() == 0, "a new counter is not at zero"
    ''',
    "exercise/counter.py": """
        class Counter:
            def add(self, number):
                raise NotImplementedError

            def total(self):
                raise NotImplementedError
    """,
    "solution/counter.py": """
        class Counter:
            def __init__(self):
                self._total = 0

            def add(self, number):
                if number < 0:
                    raise ValueError(number)
                self._total += number

            def total(self):
                return self._total
    """,
    "alternatives/list/counter.py": """
        class Counter:
            def __init__(self):
                self._numbers = []

            async def add(self, number):
                if number < 0:
                    raise ValueError(number)
                self._numbers.append(number)

            async def total(self):
                return sum(self._numbers)
    """,
    "mutants.toml": """
        [[mutants]]
        name = "adds one too many"
        why = "Off by one."
        caught_by = ["counts", "adds_more_than_one"]
        looks_like = "the total is 6"
        diagnosis = "what happens when one is added to what is added."
        replace = "+= number"
        with = "+= number + 1"
    """,
    "hints.md": "# Hints\n\n## Nudge\n\nCount.\n\n## Push\n\nAdd up.\n\n## Nearly\n\n`self._total += number`\n",
    "README.md": "# A counter\n\n`counts` `refuses_less_than_nothing` `adds_more_than_one` `begins_at_zero` "
    + "word " * 800,
    "example.py": "print('one', 'two')\n",
}


class ByGroup(LoadScopeScheduling):
    """What `--dist loadgroup` promises: files of one `xdist_group` go to one worker, all other tests one by one.

    The plugin's own tells the groups by the tests' names, which it cannot change since pytest 9.2.
    """

    def __init__(self, config: pytest.Config, log: Producer) -> None:
        super().__init__(config, log)
        named = ((path, GROUP.search(path.read_text())) for path in Path(__file__).parent.rglob("test_*.py"))
        self._groups = {str(path.relative_to(REAL)): found[1] for path, found in named if found}

    def _split_scope(self, nodeid: str) -> str:
        return self._groups.get(nodeid.partition("::")[0], nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByGroup | None:
    """Deal by our groups if groups are asked for."""
    return ByGroup(config, log) if config.getvalue("dist") == "loadgroup" else None


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--write`: write what was measured into docs/containment.md, instead of comparing with it."""
    parser.addoption("--write", action="store_true", help="write docs/containment.md as measured")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: WorkerController) -> None:
    """Have all workers that deal by groups share a RabbitMQ and an OpenSearch: their start is most of a test's cost."""
    if node.config.getvalue("dist") == "loadgroup":
        servers = node.config.stash.setdefault(BROKER, SharedServers(dict(os.environ)))
        node.workerinput["broker"] = servers.broker(threading.Event())
        node.workerinput["opensearch"] = servers.opensearch(threading.Event())


def pytest_unconfigure(config: pytest.Config) -> None:
    """End it."""
    if servers := config.stash.get(BROKER, None):
        servers.close()


@pytest.fixture(scope="session")
def shared_broker(request: pytest.FixtureRequest) -> Iterator[tuple[str, int, int]]:
    """A RabbitMQ for all who do not break it: `RabbitServer(*shared_broker)`."""
    if given := getattr(request.config, "workerinput", {}).get("broker"):
        yield given
        return
    with SharedServers(dict(os.environ)) as servers:
        address = servers.broker(threading.Event())
        assert address
        yield address


@pytest.fixture(scope="session")
def shared_opensearch(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of an OpenSearch for all who do not break it, each with index names of their own."""
    if given := getattr(request.config, "workerinput", {}).get("opensearch"):
        yield given
        return
    with SharedServers(dict(os.environ)) as servers:
        url = servers.opensearch(threading.Event())
        assert url
        yield url


@pytest.fixture
def tiny_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone in which redis/05 is a counter that needs no server; `LAB_ROOT` points there."""
    return _cloned(tmp_path / "clone", monkeypatch)


@pytest.fixture(scope="module")
def shared_tiny_clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The same for all tests of a file."""
    with pytest.MonkeyPatch.context() as patch:
        yield _cloned(tmp_path_factory.mktemp("shared") / "clone", patch)


def _cloned(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    module = root / "sandbox" / "redis-learning" / MODULE
    for name, text in FILES.items():
        write(module / name, text)
    shutil.copy(REAL / "sandbox" / "roadmap.toml", root / "sandbox")
    (root / ".lab").mkdir()
    (root / ".lab" / "components").symlink_to(Clone.here().components)
    (root / ".lab" / "cache").mkdir()
    for cached in Clone.here().cache.glob("*"):
        if not cached.name.startswith("proof."):  # what is remembered of proofs is each clone's own
            (root / ".lab" / "cache" / cached.name).symlink_to(cached)
    (root / "requirements").symlink_to(Clone.here().root / "requirements")
    monkeypatch.setenv("LAB_ROOT", str(root))
    return root


@pytest.fixture
def tiny_module(tiny_clone: Path) -> Path:
    """The folder of the counter in the test's clone."""
    return tiny_clone / "sandbox" / "redis-learning" / MODULE


def write(path: Path, text: str) -> None:
    """Put a text that is indented like the code around it."""
    from textwrap import dedent

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dedent(text))
