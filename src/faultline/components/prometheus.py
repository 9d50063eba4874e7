"""Prometheus: scrapes numbers, keeps them, evaluates rules; `promtool` comes with it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGTERM, Signals
from typing import Any, ClassVar

from faultline.components.component import Address, Command, Site
from faultline.components.debian import SHARE, FromDebian, see_share
from faultline.components.errors import NotReady
from faultline.components.http import ask
from faultline.components.providers import FromAddress, FromPath, Sources


@dataclass(frozen=True, slots=True, kw_only=True)
class Prometheus:
    """Ready when it says so: old data is loaded, rules are read."""

    name: ClassVar[str] = "prometheus"
    purpose: ClassVar[str] = "metrics, recording and alerting rules"
    sources: ClassVar[Sources] = Sources(
        "prometheus",
        (
            FromAddress("LAB_PROMETHEUS_URL"),
            FromPath(("prometheus",), companions=("promtool",)),
            FromDebian(
                "prometheus.debs",
                "usr/bin/prometheus",
                "Prometheus 2.42 (Debian package)",
                trial=("usr/bin/prometheus", "--version"),
                rewrites={"usr/bin/prometheus": SHARE},
                without=("usr/share/javascript/moment-timezone/data",),  # 200 MB; what the pages load has its own
            ),
        ),
        "Debian: apt install prometheus. Or give one that runs: LAB_PROMETHEUS_URL=http://127.0.0.1:9090",
    )
    ports: ClassVar[Mapping[str, int]] = {"prometheus": 9090}
    patience: ClassVar[float] = 30.0
    stop_signal: ClassVar[Signals] = SIGTERM
    grace: ClassVar[float] = 10.0
    refuses_root: ClassVar[bool] = False
    memory: ClassVar[int] = 60_000_000
    disk: ClassVar[int] = 108_000_000

    targets: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    """What to scrape at `/metrics`: job → addresses, such as `{"shop": ["127.0.0.1:8000"]}`."""
    scrapes: Sequence[Mapping[str, Any]] = ()
    """Further entries of `scrape_configs`, as in prometheus.yml."""
    groups: Sequence[Mapping[str, Any]] = ()
    """Rule groups, as in a rule file."""
    interval: float = 1.0
    """Seconds between two scrapes, and between two evaluations of the rules."""
    alertmanagers: Sequence[Address] = ()
    """Where alerts go."""
    arguments: Sequence[str] = ()
    """Any other argument, such as `--web.enable-remote-write-receiver`."""

    def url(self, host: str, port: int) -> str:
        """Its API is below `/api/v1/`."""
        return f"http://{host}:{port}"

    async def prepare(self, site: Site) -> None:
        """Configuration and rules from the settings; JSON is YAML, too."""
        site.data.mkdir(exist_ok=True)
        see_share(site.program, site.folder)
        (site.folder / "rules.yml").write_text(json.dumps({"groups": self.groups}, indent=1))
        (site.folder / "prometheus.yml").write_text(json.dumps(self._configuration(), indent=1))

    def _configuration(self) -> Mapping[str, Any]:
        every = f"{round(self.interval * 1000)}ms"
        jobs = [
            {"job_name": job, "static_configs": [{"targets": list(addresses)}]}
            for job, addresses in self.targets.items()
        ]
        managers = [f"{address.host}:{address.port}" for address in self.alertmanagers]
        return {
            "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
            "rule_files": ["rules.yml"],
            "scrape_configs": [*jobs, *self.scrapes],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": managers}]}]},
        }

    def command(self, site: Site) -> Command:
        """A POST to `/-/reload` reads the configuration again."""
        return Command(
            [
                str(site.program.path),
                f"--config.file={site.folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={site.data}",
                f"--web.listen-address={site.host}:{site.ports['prometheus']}",
                "--web.enable-lifecycle",
                *self.arguments,
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
