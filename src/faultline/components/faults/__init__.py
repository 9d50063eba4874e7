"""Network faults as values: hand one to `FaultProxy.add`, and it strikes until it is removed."""

from faultline.components.faults.bandwidth import Bandwidth
from faultline.components.faults.black_hole import BlackHole
from faultline.components.faults.cut import Cut
from faultline.components.faults.direction import Direction
from faultline.components.faults.fault import Age, Fate, Fault, Ruling, Valve
from faultline.components.faults.latency import Latency
from faultline.components.faults.partial_writes import PartialWrites
from faultline.components.faults.refuse import Refuse
from faultline.components.faults.reset import Reset
from faultline.components.faults.slow_drip import SlowDrip

__all__ = [
    "Age",
    "Bandwidth",
    "BlackHole",
    "Cut",
    "Direction",
    "Fate",
    "Fault",
    "Latency",
    "PartialWrites",
    "Refuse",
    "Reset",
    "Ruling",
    "SlowDrip",
    "Valve",
]
