"""One running server: what a check reads from it and does to it."""

import asyncio
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import NoReturn

from faultline.components import ports, processes, records
from faultline.components.addresses import shown
from faultline.components.component import LOG, Component, Site
from faultline.components.errors import NotOurs, NotReady, NotRunning, PortTaken, StartFailed
from faultline.components.records import Record


class Instance:
    """A server that its supervisor started, or was given by its address.

    Made by `Supervisor.start`. Nothing here restarts by itself: a server that dies stays dead until `restart`.
    """

    def __init__(self, component: Component, record: Record, site: Site | None) -> None:
        self._component = component
        self._record = record
        self._site = site
        self._process: subprocess.Popen[bytes] | None = None
        self.paused = False

    @property
    def name(self) -> str:
        """Unique within its supervisor, such as `redis-1`."""
        return self._record.name

    @property
    def component(self) -> str:
        """Its name in the catalog."""
        return self._record.component

    @property
    def host(self) -> str:
        """Where it answers."""
        return self._record.host

    @property
    def port(self) -> int:
        """Where it answers; the same after a restart."""
        return self._record.port

    @property
    def ports(self) -> Mapping[str, int]:
        """All that it listens on, by the names of its component; of a given server only the first is known."""
        return self._site.ports if self._site else {next(iter(self._component.ports)): self.port}

    @property
    def url(self) -> str:
        """Where it answers, as a client library takes it."""
        return self._record.url

    @property
    def folder(self) -> Path:
        """Its private folder: record, log, and the data that a restart finds again."""
        return Path(self._record.folder)

    @property
    def log(self) -> Path:
        """What it printed, all starts together."""
        return self.folder / LOG

    @property
    def record(self) -> Record:
        """What is written down about it."""
        return self._record

    @property
    def pid(self) -> int | None:
        """Its first process; None while none of ours runs."""
        return self._record.pid if self.alive else None

    @property
    def alive(self) -> bool:
        """Whether its first process runs (a paused one does); of a given server always False."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """How its last process ended: negative for a signal, None before the end."""
        return self._process.poll() if self._process else None

    def memory(self) -> int:
        """Bytes that its processes hold (PSS); 0 when it does not run."""
        return processes.memory(self._record.kin.members()) if self.alive else 0

    async def kill(self) -> None:
        """SIGKILL to all its processes at once; returns when they are gone, with what they had not yet written."""
        await processes.kill(self._running("kill"))
        self._ended()

    async def pause(self) -> None:
        """SIGSTOP to all its processes: connections stay open, nothing answers, until `resume` or `kill`."""
        await processes.pause(self._running("pause"))
        self.paused = True

    async def resume(self) -> None:
        """SIGCONT to all its processes."""
        await processes.resume(self._running("resume"))
        self.paused = False

    async def restart(self) -> None:
        """Stop it if it still runs, start it on the same port and folder; returns when it is ready."""
        self._ours("restart")
        await self.stop()
        await self.start()

    async def stop(self) -> None:
        """End it as its operator would, after its grace by SIGKILL; nothing to do when it is not ours or not there."""
        kin = self._record.kin
        if kin.leader is None:
            records.erase(self._record)
            return
        try:
            if self.paused:  # or it would not hear the signal
                await processes.resume(kin)
            if self.alive:
                processes.send([kin.leader], self._component.stop_signal)
                await processes.ended(kin.leader, within=self._component.grace)
            await processes.kill(kin)  # too slow, or left by a leader that died by itself
        except BaseException:  # also when cancelled
            self.kill_now()
            self._ended()
            raise
        self._ended()

    def kill_now(self) -> None:
        """SIGKILL to all its processes without waiting for their end; for whoever has no time left."""
        if self._process is not None:
            processes.kill_now(self._record.kin)

    async def start(self) -> None:
        """Start it, or start it again after its end; returns when it is ready."""
        site = self._ours("start")
        self._require_free_ports(site)
        written = self.log.stat().st_size if self.log.exists() else 0
        self._note(None)  # from here on a kill leaves what the next command can find
        try:
            await self._component.prepare(site)
            command = self._component.command(site)
            self._process = processes.spawn(
                [*site.identity.prefix, *command.argv],
                folder=self.folder,
                environment={**site.environment, **command.environment, processes.MARK: str(self.folder)},
                output=self.log,
            )
            self._note(processes.look(self._process.pid))
            await self._until_ready(site, self._process, written)
        except BaseException:  # also when cancelled: nothing may be left half started
            self.kill_now()
            self._ended()
            raise

    async def _until_ready(self, site: Site, process: subprocess.Popen[bytes], written: int) -> None:
        begun, pause, attempt, seen = monotonic(), 0.002, 0.5, ""
        while (spent := monotonic() - begun) < self._component.patience:
            try:
                async with asyncio.timeout(min(attempt, self._component.patience - spent)):
                    return await self._component.ready(self.url)
            except TimeoutError:  # it may be slow, or a stranger's server that never answers
                attempt, seen = attempt * 2, "no answer"
            except (OSError, NotReady) as error:
                seen = str(error)
            if process.poll() is not None:
                self._explain_exit(site, process.returncode, monotonic() - begun, written)
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.05)
        raise StartFailed(self._story(f"was not ready after {spent:.1f} s ({seen})", written))

    def _require_free_ports(self, site: Site) -> None:
        for port in site.ports.values():
            if not ports.is_free(port):
                raise PortTaken(f"{self.name}: port {port} is held by {ports.holder(port)}; end that or choose another")

    def _explain_exit(self, site: Site, code: int, seconds: float, written: int) -> NoReturn:
        self._require_free_ports(site)  # somebody was quicker
        raise StartFailed(self._story(f"exited with {code} after {seconds:.1f} s", written))

    def _story(self, what: str, written: int) -> str:
        said = processes.tail(self.log, after=written) or "(it said nothing)"
        return f"{self.name} on {self.host}:{self.port} {what}; last lines:\n{said}\nfull log: {self.log}"

    def _note(self, leader: processes.Process | None) -> None:
        self._record = replace(
            self._record,
            since=records.now(),
            pid=leader.pid if leader else None,
            started=leader.started if leader else None,
        )
        records.write(self._record)

    def _ended(self) -> None:
        if self._process is not None:
            self._process.wait()
        if self._site is not None:
            self._component.release(self._site.data)
        self.paused = False
        self._record = replace(self._record, pid=None, started=None)
        records.erase(self._record)

    def _ours(self, action: str) -> Site:
        if self._site is None:
            raise NotOurs(
                f"{self.name} was given as {shown(self.url)}: it is not ours to {action}; "
                "unset its address to run our own"
            )
        return self._site

    def _running(self, action: str) -> processes.Kin:
        self._ours(action)
        if not self.alive:
            how = "was never started" if self._process is None else f"had already ended with {self.exit_code}"
            raise NotRunning(f"cannot {action} {self.name}: it {how}; log: {self.log}")
        return self._record.kin
