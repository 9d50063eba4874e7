"""I12: of all tokens that follow from one consent one is good, and whoever shows an old one has ended them all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from faultline.chaos.finding import Invariant, Violated

if TYPE_CHECKING:
    from faultline.chaos.books import Books
    from faultline.chaos.finding import Findings

LIVE = """
SELECT family_id, count(*) FROM refresh_token JOIN family ON family.id = family_id
WHERE used_at IS NULL AND expires_at > now() AND ends_at > now() AND revoked_at IS NULL
GROUP BY family_id HAVING count(*) > 1 ORDER BY family_id
"""
REUSED = """
SELECT family_id, number FROM refresh_token JOIN family ON family.id = family_id
WHERE reused_at IS NOT NULL AND revoked_at IS NULL ORDER BY family_id, number
"""
SKIPPED = """
SELECT family_id, number FROM refresh_token AS later WHERE number > 1 AND NOT EXISTS (
    SELECT FROM refresh_token AS before
    WHERE before.family_id = later.family_id AND before.number = later.number - 1 AND before.used_at IS NOT NULL
) ORDER BY family_id, number
"""


async def check(books: Books) -> Findings:
    """Each family by itself, as users has it."""
    async with books.of("users") as users:
        for family, count in await users.rows(LIVE):
            yield Violated(f"family {family} has {count} live refresh tokens")
        for family, number in await users.rows(REUSED):
            yield Violated(f"family {family}: token {number} was shown after its use, and the family is not revoked")
        for family, number in await users.rows(SKIPPED):
            yield Violated(f"family {family}: token {number} was given, and the one before it was not used")


FAMILIES = Invariant(
    "I12", "families: one live refresh token each; one that is shown again has ended its family", check
)
