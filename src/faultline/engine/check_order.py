"""Which checks judge an automatic mutant first: those that are likely to refuse it, and quick."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from faultline.engine.verdicts import Judged, Verdict

_QUICK = 0.2  # seconds; how much quicker than that a check is makes no difference: a run has its own cost


@dataclass(slots=True)
class CheckOrder:
    """Learns from every verdict; `seconds` says how long each check takes on the reference."""

    seconds: Mapping[str, float]
    _judged: Counter[tuple[str, str]] = field(default_factory=Counter)
    _refused: Counter[tuple[str, str]] = field(default_factory=Counter)

    def note(self, scope: str, judged: Sequence[Judged]) -> None:
        """What came of a mutant in that function."""
        for one in judged:
            for where in (scope, ""):
                self._judged[where, one.check] += 1
                self._refused[where, one.check] += one.verdict is Verdict.FAIL

    def checks(self, scope: str) -> list[str]:
        """All checks, the best one for that function first."""
        return sorted(self.seconds, key=lambda check: -self._worth(scope, check))

    def _worth(self, scope: str, check: str) -> float:
        """Refusals to be expected in a second: mostly from this function, else from the whole file."""
        everywhere = (self._refused["", check] + 1) / (self._judged["", check] + 4)
        here = (self._refused[scope, check] + 2 * everywhere) / (self._judged[scope, check] + 2)
        return here / max(_QUICK, self.seconds[check])
