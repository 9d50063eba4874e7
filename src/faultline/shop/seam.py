"""Where a learner's file takes the place of ours: one with the same classes, named by a setting.

SHOP_LOCK=workspace/redis-learning/05-distributed-locks/lock.py
SHOP_RATE_LIMITER=workspace/redis-learning/06-rate-limiting/rate_limiter.py
SHOP_TRENDING=workspace/redis-learning/08-leaderboard-sorted-sets/trending.py
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING

from faultline.shop.errors import BadSettings

if TYPE_CHECKING:
    from types import ModuleType


def loaded(name: str) -> ModuleType:
    """The module of that name, or in that file. Raises `BadSettings` where there is none, and what it raises itself."""
    if not name.endswith(".py"):
        return import_module(name)
    spec = spec_from_file_location(f"learner_{Path(name).stem}", name)
    if spec is None or spec.loader is None or not Path(name).is_file():
        raise BadSettings(f"{name} is no Python file that could be read")
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
