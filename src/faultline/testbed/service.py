"""A learner's process that serves HTTP: an ASGI app of the solution, on a port of its own, to be asked and broken.

```
process = await testbed.process("shop")
service = await testbed.serve(process, await process.new("create_app", upstream.url))
answer = await service.ask("/ready")
assert answer.status == 200
```

It is served by uvicorn inside the process and ends with it. Another process may serve on its port afterwards.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from faultline.components import ports
from faultline.components.http import Answer, ask
from faultline.testbed.errors import Unanswered
from faultline.testbed.history import History, Outcome
from faultline.testbed.process import LearnerProcess
from faultline.testbed.until import until

if TYPE_CHECKING:
    from faultline.testbed.upstream import ProxiedUpstream


@dataclass(frozen=True, slots=True, eq=False)
class Service:
    """Where it serves; made by `Testbed.serve`, which returns when it accepts connections."""

    process: LearnerProcess
    port: int
    history: History
    host: str = ports.HOST

    @property
    def name(self) -> str:
        """As it appears in timelines: its process's."""
        return self.process.name

    @property
    def url(self) -> str:
        """Where it serves, without a slash at the end."""
        return f"http://{self.host}:{self.port}"

    async def ask(
        self,
        target: str = "/",
        *,
        method: str = "GET",
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        over: "ProxiedUpstream | None" = None,
    ) -> Answer:
        """What it answers one request, on a connection for this alone, straight or over a way of `testbed.proxy`.

        Raises `Unanswered` where nothing accepts, or what comes is no whole answer, and `ProcessDied` if that is so
        because its process has ended. How long it may take is said by the check: `testbed.within`.
        """
        operation = self.history.invoke(self.name, f"{method} {target}")
        try:
            answer = await ask(f"{(over or self).url}{target}", method=method, body=body, headers=headers)
        except OSError as error:
            self.history.complete(operation, Outcome.FAILED, str(error))
            await self.process.require_life(f"was asked {method} {target}")
            raise Unanswered(f"{self.name} did not answer {method} {target}: {error}") from error
        except BaseException:
            self.history.complete(operation, Outcome.UNKNOWN, "nobody waits any more")
            raise
        self.history.complete(operation, Outcome.OK, answer.status)
        return answer

    async def forgotten(self, ports_of_callers: Sequence[int]) -> None:
        """Return when it has closed the connections that came from these ports, which are closed there."""

        async def closed() -> bool:
            return not ports.connected(self.port, ports_of_callers)

        await until(closed, f"{self.name} had closed the connections of the dead")
