"""One direction of one connection: bytes leave in the order they came, whatever holds and faults are in between.

    source ──arrived()──▶ queue of pieces ──gate──▶ valves ──▶ sink

With nothing in the way a chunk goes from source to sink within the same call. Otherwise it queues, and the pipe
pumps by event: a timer, a release, a fault removed, a sink that has room again. There is no task. At most `ROOM`
bytes and one chunk queue: then the source is not read, and the sender feels it.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Protocol

from faultline.components.faults import Age, Direction, Fate, Ruling, Valve
from faultline.components.proxy.injected import Injected
from faultline.components.proxy.piece import Ending, Piece

ROOM = 1024 * 1024


class Surroundings(Protocol):
    """What a pipe lies in."""

    def end(self, fate: Fate) -> None:
        """Cut or reset the whole connection."""

    def sender_reset(self) -> None:
        """Everything that the torn away sender had sent is through."""

    def drained(self) -> None:
        """The sender's goodbye is through."""


class Pipe:
    """Carries what `sift` makes of each chunk, and says when a piece is through."""

    def __init__(
        self,
        way: Direction,
        *,
        around: Surroundings,
        sift: Callable[[bytes, float], list[Piece]],
        through: Callable[[int, Piece], None],
    ) -> None:
        self.way = way
        self.finished = False
        self._around = around
        self._sift = sift
        self._through = through
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Piece] = deque()
        self._queued = 0
        self._valves: dict[Injected, Valve] = {}
        self._timer: asyncio.Handle | None = None
        self._source: asyncio.Transport | None = None
        self._sink: asyncio.Transport | None = None
        self._reading = True
        self._source_ended = False
        self._choked = False
        self._pumping = False
        self._has_a_gap = False

    def begins_at(self, source: asyncio.Transport) -> None:
        """Where bytes come from."""
        self._source = source
        self._regulate()

    def ends_at(self, sink: asyncio.Transport) -> None:
        """Where bytes go; until then they queue."""
        self._sink = sink
        self.pump()

    def inject(self, injected: Injected, chance: Random, age: Age) -> None:
        """Put the fault's valve, if it has one for this stream, behind those that are there."""
        if injected.direction.covers(self.way) and (valve := injected.fault.valve(chance, age)):
            self._valves[injected] = valve
            self.pump()

    def cure(self, injected: Injected) -> None:
        """Take the fault's valve away; what it held up goes on at once. A stream with a gap is reset."""
        if self._valves.pop(injected, None) is None:
            return
        now = self._loop.time()
        if self._has_a_gap and all(valve.rule(now).fate is not Fate.SWALLOW for valve in self._valves.values()):
            self._around.end(Fate.RESET)
        else:
            self.pump()

    def arrived(self, data: bytes) -> None:
        """A chunk came from the source."""
        if self.finished:
            return  # the sink is gone: nobody to write to
        pieces = self._sift(data, self._loop.time())
        if self._is_clear() and len(pieces) == 1 and pieces[0].gate is None:
            self._write(pieces[0], len(data))
            return
        for piece in pieces:
            self._enqueue(piece)
        self.pump()
        self._regulate()

    def ended(self, ending: Ending) -> None:
        """The source will send no more."""
        self._source_ended = True
        if not self.finished:
            self._enqueue(Piece(self._loop.time(), ending=ending))
            self.pump()

    def choke(self) -> None:
        """The sink has no room."""
        self._choked = True
        self._regulate()

    def unchoke(self) -> None:
        """The sink has room again."""
        self._choked = False
        self.pump()
        self._regulate()

    def stop(self) -> None:
        """Carry nothing any more; what is queued is lost, what still comes is thrown away."""
        self.finished = True
        self._queue.clear()
        self._queued = 0
        self._set_timer(None)
        self._regulate()

    def pump(self) -> None:
        """Let everything go that may go now, and see to it that the rest goes when it may."""
        if self._pumping:
            return  # a fate or a release, met on the way, comes back here
        self._pumping = True
        try:
            self._set_timer(None)
            while self._queue and self._sink and not self._choked and not self.finished:
                if not self._advance(self._queue[0]):
                    break
        finally:
            self._pumping = False
        self._regulate()

    def _advance(self, piece: Piece) -> bool:
        """Move the head of the queue on; whether to look at once for more."""
        if piece.gate and not piece.gate.is_open:
            return False  # its release pumps
        now = self._loop.time()
        ruling = self._rule(piece, now)
        if ruling.fate is Fate.SWALLOW:
            self._has_a_gap = True
            self._leave(piece)
            return True
        if ruling.fate is not Fate.PASS:
            self._around.end(ruling.fate)
            return False
        if ruling.at > now:
            self._set_timer(self._loop.call_at(ruling.at, self.pump))
            return False
        if piece.ending:
            self._leave(piece)
            self._pass_on(piece.ending)
            return False
        return self._send(piece, ruling.most, now)

    def _send(self, piece: Piece, most: int | None, now: float) -> bool:
        left = len(piece.data) - piece.sent
        count = left if most is None else min(most, left)
        self._write(piece, count)
        for valve in self._valves.values():
            valve.passed(count, now)
        if self._meets_its_end(now):
            return False
        if count == left:
            self._leave(piece)
            return True
        self._set_timer(self._loop.call_soon(self.pump))
        return False

    def _rule(self, piece: Piece, now: float) -> Ruling:
        """The strictest of all rulings on the head of the queue; counts a hit of each fault that is in its way."""
        at = piece.at + sum(delay for injected, delay in piece.delays if injected.active)
        most: int | None = None
        left = len(piece.data) - piece.sent
        for injected, valve in self._valves.items():
            ruling = valve.rule(now)
            if ruling.fate is Fate.SWALLOW or (ruling.fate is not Fate.PASS and left):
                piece.strike(injected)
                return ruling
            if not left or ruling.most is None:
                continue  # an ending waits for no valve
            if valve.slows and (ruling.at > now or ruling.most < left):
                piece.strike(injected)
            at = max(at, ruling.at)
            most = ruling.most if most is None else min(most, ruling.most)
        return Ruling(at, most)

    def _meets_its_end(self, now: float) -> bool:
        for injected, valve in self._valves.items():
            if (fate := valve.rule(now).fate) in {Fate.CUT, Fate.RESET}:
                injected.hit()
                self._around.end(fate)
                return True
        return False

    def _enqueue(self, piece: Piece) -> None:
        for injected, valve in self._valves.items():
            if delay := valve.delay():
                piece.delays += ((injected, delay),)
                piece.strike(injected)
        if piece.gate:
            piece.gate.when_open(self.pump)
        self._queue.append(piece)
        self._queued += len(piece.data)

    def _leave(self, piece: Piece) -> None:
        self._queue.popleft()
        self._queued -= len(piece.data)

    def _write(self, piece: Piece, count: int) -> None:
        assert self._sink
        whole = count == len(piece.data)
        self._sink.write(piece.data if whole else memoryview(piece.data)[piece.sent : piece.sent + count])
        piece.sent += count
        self._through(count, piece)

    def _pass_on(self, ending: Ending) -> None:
        self.finished = True
        if ending is Ending.RESET:
            self._around.sender_reset()
            return
        assert self._sink
        try:
            self._sink.write_eof()
        except OSError:  # the receiver is gone already; asyncio reads no more after an EOF, so nobody noticed
            self._around.end(Fate.RESET)
        else:
            self._around.drained()

    def _is_clear(self) -> bool:
        return not self._queue and not self._valves and not self._choked and self._sink is not None

    def _set_timer(self, timer: asyncio.Handle | None) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = timer

    def _regulate(self) -> None:
        """Read from the source only while there is room; never again after its end (asyncio would report a second)."""
        wanted = self.finished or (not self._choked and self._queued <= ROOM)
        if wanted is self._reading or self._source_ended or self._source is None:
            return
        self._reading = wanted
        if wanted:
            self._source.resume_reading()
        else:
            self._source.pause_reading()
