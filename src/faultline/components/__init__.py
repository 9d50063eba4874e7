"""Real servers as plain processes: which there are, where they come from, and who starts and ends them."""

from faultline.components.catalog import CATALOG, describe
from faultline.components.clone import Clone
from faultline.components.component import Address, Command, Component, Site
from faultline.components.errors import (
    BadSettings,
    ComponentError,
    FolderTaken,
    NotOurs,
    NotReady,
    NotRunning,
    PortTaken,
    StartFailed,
    Unavailable,
    Unkillable,
    UnknownComponent,
)
from faultline.components.instance import Instance
from faultline.components.records import Record
from faultline.components.supervisor import Supervisor, sweep

__all__ = [
    "CATALOG",
    "Address",
    "BadSettings",
    "Clone",
    "Command",
    "Component",
    "ComponentError",
    "FolderTaken",
    "Instance",
    "NotOurs",
    "NotReady",
    "NotRunning",
    "PortTaken",
    "Record",
    "Site",
    "StartFailed",
    "Supervisor",
    "Unavailable",
    "Unkillable",
    "UnknownComponent",
    "describe",
    "sweep",
]
