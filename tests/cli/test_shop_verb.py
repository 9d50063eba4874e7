"""`./lab shop`, as typed, on a clone of its own."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aio_pika
import pytest

from faultline.chaos.checker import INVARIANTS
from faultline.components import Clone, records
from faultline.components.processes import look
from faultline.engine.shop import STORES
from faultline.shop.topology import replicas

pytestmark = [pytest.mark.once, pytest.mark.timeout(240)]
RETIRED = "catalog.product-retired.v1"
COMMAND = (sys.executable, "-m", "faultline.cli")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    here = Clone.here()
    (tmp_path / ".lab").mkdir()
    (tmp_path / ".lab" / "components").symlink_to(here.components)
    (tmp_path / "requirements").symlink_to(here.root / "requirements")
    tmp_path.chmod(0o755)  # PostgreSQL runs as another user
    return tmp_path


def environment(root: Path) -> dict[str, str]:
    return {**os.environ, "LAB_ROOT": str(root), "NO_COLOR": "1"}


def shop(root: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return lab(root, "shop", *words)


def lab(root: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*COMMAND, *words], env=environment(root), capture_output=True, text=True, check=False, timeout=90
    )


@contextmanager
def up(root: Path) -> Iterator["subprocess.Popen[str]"]:
    """A shop that is ready."""
    with subprocess.Popen([*COMMAND, "shop", "up"], env=environment(root), stdout=subprocess.PIPE, text=True) as opened:
        assert opened.stdout
        try:
            for line in opened.stdout:
                if line.startswith("The services were ready"):
                    break
            assert opened.poll() is None
            yield opened
        finally:
            opened.kill()


def running(root: Path) -> list[int]:
    """The processes that `status` names and that are there."""
    parts = json.loads(shop(root, "status", "--json").stdout)["parts"]
    return [part["pid"] for part in parts if part["pid"] and look(part["pid"])]


async def say_nonsense(root: Path) -> None:
    """What breaks its contract, to the catalog; returns when that has parked it."""
    url = next(record.url for record in records.read(root / ".lab" / "shop") if record.component == "rabbitmq")
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        nonsense = aio_pika.Message(b'{"sku": 1}', message_id="1", type=RETIRED, headers={"subject": "hat"})
        await (await channel.get_exchange("shop.events")).publish(nonsense, RETIRED)
        queue = await channel.get_queue("catalog.events.parked")
        async with asyncio.timeout(30), queue.iterator() as messages:
            async for message in messages:
                await message.nack(requeue=True)
                break


@pytest.mark.slow
def test_up_status_seed_logs_parked_and_down_which_leaves_nothing_running(root: Path) -> None:
    with up(root) as opened:
        pids = running(root)
        assert len(pids) == len(STORES) + 1 + len(replicas())  # servers, the fork-server, services
        assert shop(root, "seed", "--products", "20").stdout == "20 products are new, 0 were there.\n"
        bought = shop(root, "buy")
        assert bought.returncode == 0, bought
        told = [line.split(maxsplit=2)[2] for line in bought.stdout.splitlines() if " s  " in line]
        # Who says something later may be heard earlier: only what one service says is in order.
        assert [word for word in told if word.startswith("orders.")] == [
            "orders.order-placed.v1",
            "orders.order-confirmed.v1",
        ]
        checked = lab(root, "chaos", "check")
        assert checked.returncode == 0, checked
        states = {line.split()[0]: line.split()[1] for line in checked.stdout.splitlines() if line.startswith("I")}
        assert states == dict.fromkeys(INVARIANTS, "held")
        assert shop(root, "up").returncode == 2
        assert "catalog-1, catalog-2, fork-server" in shop(root, "logs").stderr
        assert "Nothing is parked" in shop(root, "parked").stdout
        asyncio.run(say_nonsense(root))
        parked = json.loads(shop(root, "parked", "--json").stdout)
        assert {(one["queue"], one["type"], one["subject"]) for one in parked} == {
            ("cart.events", RETIRED, "hat"),
            ("catalog.events", RETIRED, "hat"),
            ("gateway.events", RETIRED, "hat"),
            ("search.events", RETIRED, "hat"),
        }
        assert "Expected `str`, got `int`" in " ".join(shop(root, "parked").stdout.split())
        said = [shop(root, "logs", f"catalog-{number}").stdout for number in (1, 2)]
        assert sum("hearing catalog.events: parked" in text for text in said) == 1
        assert shop(root, "redrive", "catalog.evens").returncode == 2
        assert shop(root, "redrive", "catalog.events").stdout == "1 messages are on their way again.\n"
        assert shop(root, "down").stdout == "The shop has stopped.\n"
        assert opened.wait(30) == 0
    assert not [pid for pid in pids if look(pid)]
    assert not records.read(root / ".lab" / "shop")
    assert shop(root, "down").stdout == "The shop is closed; nothing to stop.\n"
    assert shop(root, "seed").returncode == shop(root, "parked").returncode == 2
    assert shop(root, "logs", "catalog-1").returncode == 0
    assert {shop(root, "seed").returncode, shop(root, "buy").returncode, lab(root, "chaos", "check").returncode} == {2}


@pytest.mark.slow
def test_a_shop_whose_command_is_killed_is_ended_by_the_next_command(root: Path) -> None:
    with up(root) as opened:
        pids = running(root)
        os.kill(opened.pid, signal.SIGKILL)
        opened.wait(10)
    assert "closed" in shop(root, "status").stdout
    assert not [pid for pid in pids if look(pid)]


def test_where_opensearch_is_not_to_be_had_it_says_what_goes_without_it(root: Path) -> None:
    away = {**environment(root), "LAB_OPENSEARCH_URL": "http://127.0.0.1:1"}
    opened = subprocess.run([*COMMAND, "shop", "up"], env=away, capture_output=True, text=True, check=False, timeout=90)
    assert opened.returncode == 2
    assert "opensearch" in opened.stderr
    assert "./lab shop up --without-search" in opened.stderr
