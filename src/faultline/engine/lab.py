"""The running lab: servers that live until somebody asks the lab to end."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from signal import SIG_IGN, SIGHUP, SIGINT, SIGTERM, Signals, getsignal
from types import TracebackType
from typing import Self

from faultline.components import Clone, Instance, Supervisor
from faultline.components.room import require_room

ENDINGS = (SIGINT, SIGTERM, SIGHUP)
LOOK_EVERY = 0.2


class Lab:
    """Owns `.lab/run/` and its servers for as long as an `async with`.

        async with Lab(clone) as lab:
            await lab.start(["redis", "postgres"])
            async for instance in lab.deaths():
                print(f"{instance.name} has ended; its log: {instance.log}")

    Ctrl-C, SIGTERM, `lab down` and the end of the terminal end the block at whatever it waits for, without an error;
    `ended_by` tells which. Asked a second time, the servers are killed instead of stopped. Nothing is restarted.
    """

    def __init__(self, clone: Clone, folder: Path | None = None) -> None:
        """`folder`: another one than `.lab/run/`, where something else runs, with servers of its own."""
        self._folder = folder or clone.run
        self._supervisor = Supervisor(self._folder, clone)
        self._block: asyncio.Task[object] | None = None
        self.ended_by: Signals | None = None

    async def __aenter__(self) -> Self:
        require_room(self._folder)
        await self._supervisor.__aenter__()
        self._block = asyncio.current_task()
        for number in ENDINGS:
            if number != SIGHUP or getsignal(number) is not SIG_IGN:  # ignored: nohup
                asyncio.get_running_loop().add_signal_handler(number, self._asked, number)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        block, self._block = self._block, None
        try:
            await self._supervisor.__aexit__(kind, error, trace)
        finally:
            for number in ENDINGS:
                asyncio.get_running_loop().remove_signal_handler(number)
        asked = self.ended_by is not None and kind is asyncio.CancelledError
        if asked and block is not None:
            block.uncancel()
        return asked

    async def start(
        self, components: Sequence[str], settings: Mapping[str, Mapping[str, object]] | None = None
    ) -> list[Instance]:
        """Start one of each, at the same time, with its settings if there are any; returns when all are ready."""
        given = settings or {}
        try:
            async with asyncio.TaskGroup() as group:
                started = [
                    group.create_task(self._supervisor.start(name, name=name, settings=given.get(name)))
                    for name in components
                ]
        except ExceptionGroup as several:  # the others were cancelled: one reason is enough
            raise several.exceptions[0] from None
        return [task.result() for task in started]

    async def deaths(self) -> AsyncIterator[Instance]:
        """Each server that ends by itself, once; waits for the next one for ever."""
        running = {instance for instance in self._supervisor.instances.values() if instance.alive}
        while True:
            for instance in [instance for instance in running if not instance.alive]:
                running.remove(instance)
                yield instance
            await asyncio.sleep(LOOK_EVERY)

    def _asked(self, number: Signals) -> None:
        if self.ended_by is None:
            self.ended_by = number
            if self._block is not None:
                self._block.cancel()
        else:
            for instance in self._supervisor.instances.values():
                instance.kill_now()
