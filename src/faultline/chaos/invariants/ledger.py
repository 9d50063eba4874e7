"""I3: the ledger balances, and says of the outside world what the outside world says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from faultline.chaos.finding import Invariant, Violated

if TYPE_CHECKING:
    from faultline.chaos.books import Books
    from faultline.chaos.finding import Findings

UNBALANCED = """
SELECT transaction_id, currency, sum(cents)::bigint FROM entry GROUP BY transaction_id, currency
HAVING sum(cents) <> 0 ORDER BY transaction_id
"""
ACCOUNTS = "SELECT currency, sum(cents)::bigint FROM entry GROUP BY currency HAVING sum(cents) <> 0 ORDER BY currency"
BOOKED = "SELECT transaction_id, cents FROM entry WHERE account = 'provider'"
STATEMENT = "SELECT key, cents FROM statement_line"


async def check(books: Books) -> Findings:
    """Each transaction by itself, all accounts together, and each line of the provider's statement."""
    async with books.of("provider") as provider:  # first: what is booked meanwhile was moved before
        moved = dict(await provider.rows(STATEMENT))
    async with books.of("payment") as payment:
        for transaction, currency, cents in await payment.rows(UNBALANCED):
            yield Violated(f"transaction {transaction} sums to {cents} cents ({currency})")
        for currency, cents in await payment.rows(ACCOUNTS):
            yield Violated(f"all accounts sum to {cents} cents ({currency})")
        booked = dict(await payment.rows(BOOKED))
    for key in sorted(moved.keys() | booked.keys()):
        if moved.get(key) != booked.get(key):
            told = f"{key}: the provider's statement has {_cents(moved.get(key))}, the ledger {_cents(booked.get(key))}"
            yield Violated(told)


def _cents(cents: int | None) -> str:
    return "nothing" if cents is None else f"{cents} cents"


LEDGER = Invariant("I3", "ledger: every transaction sums to 0; its lines are the provider's, one by one", check)
