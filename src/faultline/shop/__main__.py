"""`python -m faultline.shop [SERVICE…]`: all services, or those that are named; one alone runs in this very process.

`SHOP_REPLICA` says which replica one alone is (1); `SHOP_FOLDER` where a fork-server keeps its logs and what runs.
"""

import os
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import cast

from faultline.shop import forkserver, service
from faultline.shop.errors import ShopError
from faultline.shop.settings import Settings
from faultline.shop.topology import SERVICES, Replica, replicas


def main(names: list[str]) -> int:
    """Run them until SIGTERM or Ctrl-C; returns the exit code."""
    if unknown := [name for name in names if name not in SERVICES]:
        print(f"there is no service {unknown[0]!r}; there are: {', '.join(SERVICES)}", file=sys.stderr)
        return 2
    try:
        if len(names) == 1:
            replica = Replica(SERVICES[names[0]], int(os.environ.get("SHOP_REPLICA", "1")))
            _run_of(names[0])(Settings.read(os.environ, replica))
        else:
            found = replicas(tuple(names or SERVICES))
            folder = os.environ.get("SHOP_FOLDER")
            runs = {replica: _run_of(replica.service.name) for replica in found}
            forkserver.main(runs, os.environ, folder=Path(folder) if folder else None)
    except ShopError as error:
        print(f"faultline.shop: {error}", file=sys.stderr)
        return 2
    return 0


def _run_of(name: str) -> Callable[[Settings], None]:
    """Imported here, before any fork."""
    opened = cast(service.Opened, import_module(f"faultline.shop.{name}.app").opened)
    return partial(service.run, opened)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
