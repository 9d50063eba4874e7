"""Exactly-once effect: however often something was asked for, delivered or retried, it happened once."""

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence

from faultline.testbed.errors import Broken, Vacuous
from faultline.testbed.history import Operation, Outcome


def exactly_once(
    requested: Iterable[tuple[Hashable, Operation]], effects: Iterable[Hashable], *, at_least: int
) -> None:
    """Every acknowledged request has one effect, an unknown one at most one, a failed one and an unasked one none.

    `requested` are the calls with what they asked for, by an id; retries repeat the id: acknowledged if one call was,
    failed only if all of them were. `effects` are the ids found in the store when everything had settled: an effect
    that comes later is not seen. `failed` must be certain: a call that raised a timeout is unknown, and the check
    says so before it comes here. `Vacuous` if fewer than `at_least` requests were acknowledged; a violation goes
    before that. O(n).
    """
    calls = dict[Hashable, list[Operation]]()
    for request, call in requested:
        calls.setdefault(request, []).append(call)
    found = Counter(effects)
    violations = list(_violations(calls, found))
    if violations:
        message, witness = violations[0]
        more = f"; {len(violations) - 1} more like this" if len(violations) > 1 else ""
        raise Broken(message + more, witness)
    acknowledged = sum(_acknowledged(of_request) for of_request in calls.values())
    if acknowledged < at_least:
        raise Vacuous(f"only {acknowledged} of {at_least} requests were acknowledged: too few to show their effects")


def _violations(
    calls: dict[Hashable, list[Operation]], found: Counter[Hashable]
) -> Iterator[tuple[str, Sequence[Operation]]]:
    for request, of_request in calls.items():
        count = found[request]
        if _acknowledged(of_request) and count == 0:
            yield f"{request!r} was acknowledged and has no effect", of_request
        elif count > 1:
            yield f"{request!r} has {count} effects after {len(of_request)} calls; promised is one", of_request
        elif count and all(call.outcome is Outcome.FAILED for call in of_request):
            yield f"{request!r} failed, and yet has an effect", of_request
    for request in found:
        if request not in calls:
            yield f"{request!r} has an effect, and nobody asked for it", ()


def _acknowledged(calls: Sequence[Operation]) -> bool:
    return any(call.outcome is Outcome.OK for call in calls)
