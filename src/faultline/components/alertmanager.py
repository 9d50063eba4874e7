"""Alertmanager: takes alerts from Prometheus, groups and silences them, tells receivers such as a webhook."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGTERM, Signals
from typing import Any, ClassVar

from faultline.components.component import Command, Site
from faultline.components.debian import SHARE, FromDebian, see_share
from faultline.components.errors import NotReady
from faultline.components.http import ask
from faultline.components.providers import FromAddress, FromPath, Sources


@dataclass(frozen=True, slots=True, kw_only=True)
class Alertmanager:
    """Ready when it says so. One alone: its gossip port is off."""

    name: ClassVar[str] = "alertmanager"
    purpose: ClassVar[str] = "alerts: grouped, silenced, sent on"
    sources: ClassVar[Sources] = Sources(
        "alertmanager",
        (
            FromAddress("LAB_ALERTMANAGER_URL"),
            FromPath(("prometheus-alertmanager", "alertmanager"), companions=("amtool",)),
            FromDebian(
                "alertmanager.debs",
                "usr/bin/prometheus-alertmanager",
                "Alertmanager 0.25 (Debian package)",
                trial=("usr/bin/prometheus-alertmanager", "--version"),
                rewrites={"usr/bin/prometheus-alertmanager": SHARE},
            ),
        ),
        "Debian: apt install prometheus-alertmanager. Or give one that runs: LAB_ALERTMANAGER_URL=http://127.0.0.1:9093",
    )
    ports: ClassVar[Mapping[str, int]] = {"alertmanager": 9093}
    patience: ClassVar[float] = 30.0
    stop_signal: ClassVar[Signals] = SIGTERM
    grace: ClassVar[float] = 5.0
    refuses_root: ClassVar[bool] = False
    memory: ClassVar[int] = 35_000_000
    disk: ClassVar[int] = 42_000_000

    webhook: str | None = None
    """Where to POST every alert at once, also when it is resolved; without it nobody is told."""
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The whole of alertmanager.yml instead."""

    def url(self, host: str, port: int) -> str:
        """Its API is below `/api/v2/`."""
        return f"http://{host}:{port}"

    async def prepare(self, site: Site) -> None:
        """The configuration from the settings; JSON is YAML, too."""
        site.data.mkdir(exist_ok=True)
        see_share(site.program, site.folder)
        (site.folder / "alertmanager.yml").write_text(json.dumps(self.config or self._to_webhook(), indent=1))

    def _to_webhook(self) -> Mapping[str, Any]:
        hooks = [{"url": self.webhook, "send_resolved": True}] if self.webhook else []
        return {
            "route": {
                "receiver": "webhook",
                "group_by": ["alertname"],
                "group_wait": "0s",
                "group_interval": "1s",
                "repeat_interval": "1h",
            },
            "receivers": [{"name": "webhook", "webhook_configs": hooks}],
        }

    def command(self, site: Site) -> Command:
        """A POST to `/-/reload` reads the configuration again."""
        return Command(
            [
                str(site.program.path),
                f"--config.file={site.folder / 'alertmanager.yml'}",
                f"--storage.path={site.data}",
                f"--web.listen-address={site.host}:{site.ports['alertmanager']}",
                "--cluster.listen-address=",
            ]
        )

    async def ready(self, url: str) -> None:
        """What its `/-/ready` says."""
        answer = await ask(f"{url}/-/ready")
        if answer.status != 200:
            raise NotReady(f"{url}/-/ready was answered with {answer.status}")

    @staticmethod
    def release(data: Path) -> None:
        """It keeps nothing elsewhere."""
