"""Payment and its provider alone, on real servers, with a proxy each way between them."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from aio_pika import DeliveryMode, Message
from tests.shop.conftest import Reply, Shop, opened, until

from faultline.components.ports import reserved
from faultline.components.proxy import FaultProxy
from faultline.shop.contracts import Capture, Command, Money, Refund, said
from faultline.shop.settings import peer_variable, port_variable
from faultline.shop.signatures import Signatures
from faultline.shop.topology import replicas

SECRET = "of the tests"
ONE, OUTSIDE = "payment-1", "provider-1"
PRICE = Money(1999)
LEDGER = """
SELECT transaction_id, json_object_agg(account, cents) FROM entry JOIN transaction ON id = transaction_id
WHERE order_id = %s GROUP BY transaction_id ORDER BY transaction_id
"""


@dataclass(frozen=True, slots=True)
class Paying:
    """The two services, and what is between them."""

    shop: Shop
    before_provider: FaultProxy
    before_payment: FaultProxy
    """On the webhooks' way."""

    async def heal(self) -> None:
        """Mend what a test has broken."""
        self.before_provider.heal()
        self.before_payment.heal()
        await self.misbehave()

    async def misbehave(self, **faults: dict[str, object]) -> None:
        """Have the provider do so from now on: `decline_refund={"next": 1}`."""
        asked = {name.replace("_", "-"): one for name, one in faults.items()}
        assert (await self.shop.ask(OUTSIDE, "/v1/behaviour", asked, method="PUT")).status == 200

    async def say(self, *commands: Command, id_: str = "") -> None:
        """Publish these as orders would."""
        for command in commands:
            event = said(
                command,
                subject=command.order,
                sequence=1,
                time=_now(),
                correlation=f"c-{command.order}",
                source="orders",
            )
            await self.publish(event.type, json.dumps(event.data).encode(), id_ or event.id, event.headers)

    async def publish(self, type_: str, body: bytes, id_: str, headers: object = None) -> None:
        """Publish anything as a command."""
        async with self.shop.broker.connected() as connection:
            channel = await connection.channel()
            exchange = await channel.get_exchange("shop.commands")
            told = headers if isinstance(headers, dict) else {}
            message = Message(body, message_id=id_, type=type_, headers=told, delivery_mode=DeliveryMode.PERSISTENT)
            await exchange.publish(message, type_, mandatory=True)

    async def state(self, order: str) -> str:
        """What payment says of it, with its code."""
        reply = await self.shop.ask(ONE, f"/v1/captures/{order}")
        if reply.status == 404:
            return "unknown"
        return " ".join(filter(None, (reply.body["state"], reply.body["code"])))

    async def becomes(self, order: str, state: str) -> None:
        """Wait until it is that."""

        async def there() -> bool:
            return await self.state(order) == state

        await until(there)

    async def signed(self, method: str, path: str, body: object = None, *, key: str = "") -> Reply:
        """Ask the provider as payment would."""
        raw = b"" if body is None else json.dumps(body).encode()
        return await self.shop.ask(
            OUTSIDE, path, body, method=method, **Signatures(SECRET).headers(method, path, raw, key=key)
        )

    async def moves(self, order: str) -> list[tuple[str, int]]:
        """What the provider's statement says of the order."""
        asked = "SELECT key, cents::int FROM statement_line WHERE key LIKE %s || ':%%' ORDER BY position"
        return [(key, cents) for key, cents in await self.shop.rows("provider", asked, order)]

    async def ledger(self, order: str) -> dict[str, dict[str, int]]:
        """What ours says: each transaction, by account."""
        return dict(await self.shop.rows("payment", LEDGER, order))

    async def told(self, order: str) -> tuple[list[str], list[str]]:
        """The events and the replies of the order, in order."""
        asked = "SELECT type || coalesce(' ' || (data->>'outcome'), '') FROM {} WHERE subject = %s ORDER BY position"
        events = await self.shop.rows("payment", asked.format("outbox"), order)
        replies = await self.shop.rows("payment", asked.format("replies"), order)
        return [word for (word,) in events], [word for (word,) in replies]

    async def require_captured_once(self, order: str) -> None:
        """Exactly one charge, one transaction that sums to zero, one event, one reply."""
        assert await self.moves(order) == [(f"{order}:capture", PRICE.cents)]
        assert await self.ledger(order) == {f"{order}:capture": {"provider": PRICE.cents, "revenue": -PRICE.cents}}
        assert await self.told(order) == (["payment.captured.v1"], ["payment.capture-replied.v1 captured"])

    async def require_nothing_moved(self, order: str) -> None:
        """No charge, no entry; it was declined, and said so once."""
        assert await self.moves(order) == []
        assert await self.ledger(order) == {}
        assert (await self.told(order))[1][0] == "payment.capture-replied.v1 declined"

    async def at_the_provider(self, key: str) -> None:
        """Wait until the provider has moved it."""
        await until(lambda: self.shop.rows("provider", "SELECT key FROM move WHERE key = %s", key))


@asynccontextmanager
async def paying(folder: Path, where: tuple[str, int, int]) -> AsyncIterator[Paying]:
    """Both, as long as the block lasts."""
    payment, provider = (*replicas(("payment",)), *replicas(("provider",)))
    async with AsyncExitStack() as stack:
        environment = {"SHOP_PROVIDER_SECRET": SECRET}
        before: list[FaultProxy] = []
        for caller, callee in (("payment", provider), ("provider", payment)):
            port = stack.enter_context(reserved())
            environment[port_variable(callee)] = str(port)
            proxy = await stack.enter_async_context(FaultProxy("127.0.0.1", port))
            environment[peer_variable(caller, callee)] = f"127.0.0.1:{proxy.port}"
            before.append(proxy)
        shop = await stack.enter_async_context(opened(folder, where, ("payment", "provider"), **environment))
        yield Paying(shop, *before)


def capture(order: str, *, seconds: float = 60.0, amount: Money = PRICE) -> Capture:
    """A command, to be begun within so many seconds."""
    return Capture(order=order, amount=amount, until=_now() + timedelta(seconds=seconds))


def refund(order: str) -> Refund:
    """Likewise."""
    return Refund(order=order, amount=PRICE, reason="not-held")


def _now() -> datetime:
    return datetime.now(UTC)
