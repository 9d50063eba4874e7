"""What can go wrong with a component.

ComponentError
├── UnknownComponent    no such name in the catalog; nothing was started
├── BadSettings         the component has no such setting, or not that value; nothing was started
├── Unavailable         no provider has it; the message says what to install; nothing was started
├── PortTaken           somebody else holds the port that was asked for; nothing was started
├── FolderTaken         another supervisor runs in this folder; nothing was started
├── StartFailed         it exited or was not ready in time; nothing is left running
├── NotRunning          it had already ended: the fault did not hit
├── NotOurs             it was given by its address: we neither stop nor break it
└── Unkillable          it outlived SIGKILL; it may still run
"""


class ComponentError(Exception):
    """Root of the tree: a sentence that says what was seen, where, and what to do next."""


class UnknownComponent(ComponentError):
    """Refused: the catalog has no component of this name."""


class BadSettings(ComponentError):
    """Refused: the component cannot be started with these settings."""


class Unavailable(ComponentError):
    """Refused: this machine has no such program and none could be fetched."""


class PortTaken(ComponentError):
    """Refused: somebody else listens on the port."""


class FolderTaken(ComponentError):
    """Refused: one supervisor a folder."""


class StartFailed(ComponentError):
    """The process ended or stayed silent; it is not running any more."""


class NotRunning(ComponentError):
    """Refused: there is no process to act on, so the fault did not hit."""


class NotOurs(ComponentError):
    """Refused: whoever started this server stops it."""


class Unkillable(ComponentError):
    """Unknown: a process did not end although it was killed (a disk or network file system hangs?)."""


class NotReady(Exception):
    """Not a failure but the answer 'ask again': the server is there and does not serve yet."""
