"""A learner's solution in the shop, in the place of ours, and for each module the proof that the shop stands it."""

from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path

from faultline.integration import flash_sale, rate_limit, trending
from faultline.integration.stage import Finding, NotProven, Report, Stage

Proof = Callable[[Stage, Path], Coroutine[object, object, Report]]
"""With the solution's file. Raises `NotProven`."""

PROOFS: Mapping[str, Proof] = {
    "redis/05": flash_sale.proof,
    "redis/06": rate_limit.proof,
    "redis/08": trending.proof,
}

__all__ = ["PROOFS", "Finding", "NotProven", "Proof", "Report", "Stage"]
