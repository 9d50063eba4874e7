"""A grading run in the terminal: one line a promise as it is judged, the first failure in full."""

import shutil
import textwrap
from collections.abc import Iterator

from faultline.cli.columns import cells, pad
from faultline.cli.paint import Paint
from faultline.engine.exercise import Exercise
from faultline.engine.grades import Grade
from faultline.engine.verdicts import Ended, Event, Judged, Verdict

_SIGNS = {
    Verdict.PASS: ("✓", "green"),
    Verdict.FAIL: ("✗", "red"),
    Verdict.UNKNOWN: ("?", "yellow"),
    Verdict.ERROR: ("!", "magenta"),
}
_LABEL = 10  # columns


class VerdictLines:
    """Turns the events of a run into lines; `everything`: every failure in full, not only the first."""

    def __init__(self, exercise: Exercise, paint: Paint, *, command: str, everything: bool = False) -> None:
        self._exercise = exercise
        self._paint = paint
        self._command = command
        self._everything = everything
        self._told = False
        self._width = min(max(shutil.get_terminal_size((100, 24)).columns, 60), 120)
        self.grade = Grade()

    def lines(self, event: Event) -> Iterator[str]:
        """What to print for the run's next event."""
        self.grade.add(event)
        match event:
            case Judged():
                yield self._line(event)
                if event.verdict is not Verdict.PASS and (self._everything or not self._told):
                    self._told = True
                    yield from self._in_full(event)
                elif event.verdict is not Verdict.PASS:
                    yield self._paint.dim(f"    {self._cut(event.seen.partition(chr(10))[0], 4)}")
            case Ended():
                yield from self._summary(event)

    def _line(self, judged: Judged) -> str:
        sign, colour = _SIGNS[judged.verdict]
        time = f"{judged.seconds:6.2f} s"
        promise = self._cut(judged.promise, 4 + len(time) + 1)
        room = self._width - 5 - len(time)
        return f"{self._paint.in_(colour, f'  {sign} ')}{pad(promise, room)} {self._paint.dim(time)}"

    def _in_full(self, judged: Judged) -> Iterator[str]:
        why = self._exercise.diagnosis(judged.check, judged.seen) if judged.verdict is Verdict.FAIL else ""
        yield ""
        yield from self._labelled("promised", judged.promise)
        yield from self._labelled("seen", judged.seen)
        if judged.picture:
            yield ""
            for line in judged.picture.splitlines():
                yield f"    {self._cut(line, 4)}"
            yield ""
        if why:
            yield from self._labelled("this is", why)
        if judged.look:
            yield from self._labelled("look at", judged.look)
        if judged.printed.strip():
            yield from self._labelled("printed", judged.printed.strip()[-400:])
        yield from self._labelled("check", f"{judged.check}, seed {self.grade.seed}")
        yield ""

    def _labelled(self, label: str, text: str) -> Iterator[str]:
        left = f"    {label:<{_LABEL}}"
        for paragraph in text.splitlines():
            for line in textwrap.wrap(paragraph, self._width - len(left)) or [""]:
                yield f"{self._paint.dim(left)}{line}"
                left = " " * len(left)

    def _summary(self, ended: Ended) -> Iterator[str]:
        grade = self.grade
        kept, total = len(grade.named(Verdict.PASS)), len(grade.checks)
        yield ""
        if ended.trouble:
            yield from self._labelled("trouble", ended.trouble)
            if ended.theirs:
                yield f"  Your code broke the run off; {kept} of {total} promises had been kept by then."
            else:
                yield "  The grader itself broke: nothing is known of your code. Please report it with the lines above."
            return
        match grade.verdict:
            case Verdict.PASS:
                yield self._paint.in_("green", f"  All {total} promises kept, in {ended.seconds:.1f} s.")
            case Verdict.FAIL:
                yield f"  {kept} of {total} promises kept, in {ended.seconds:.1f} s. Again with the same choices:"
                yield f"  {self._command} --seed {grade.seed}"
            case Verdict.UNKNOWN:
                yield f"  {kept} of {total} promises kept; of the rest nothing is certain on this machine right now."
            case Verdict.ERROR:
                yield "  A check could not be run properly: no verdict. Its line above says why."

    def _cut(self, text: str, margin: int) -> str:
        room = self._width - margin
        if cells(text) <= room:
            return text
        return text[: room - 1].rstrip() + "…"
