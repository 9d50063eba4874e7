"""The fault proxy: stands between a client and a real server on loopback, injects faults, holds requests, counts."""

from faultline.components.proxy.command import Command, Match, named, saying
from faultline.components.proxy.counts import Counts
from faultline.components.proxy.hold import Barrier, Hold
from faultline.components.proxy.injected import Injected
from faultline.components.proxy.proxy import FaultProxy

__all__ = ["Barrier", "Command", "Counts", "FaultProxy", "Hold", "Injected", "Match", "named", "saying"]
