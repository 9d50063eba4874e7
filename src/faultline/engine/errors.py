"""What the engine may end with.

EngineError                  a sentence for the learner: what was seen, where, what to do
├── BadRoadmap               sandbox/roadmap.toml or a module.toml cannot be used; nothing was done
├── BadModule                a module's folder does not hold what it must; nothing was done
├── NotBuilt                 the roadmap names the module, but its folder is not there yet
├── NotStarted               the learner has no copy of the exercise yet
├── RunnerDied               a grading run ended without its last word: nothing is known
├── NotRemembered            results of the proof could not be read or kept; running it again is safe
├── UnknownName              no module or topic has this name; nothing was done
├── NotWritten               a file could not be written; the old one, if any, is untouched
└── ProgressError            progress could not be read or recorded; what was recorded before is untouched
    ├── ProgressUnavailable  the folder, the disk or another process is in the way; safe to retry
    ├── ProgressDamaged      the file is not a progress file, or no longer one
    ├── ProgressTooNew       a later version of Faultline wrote it
    └── BadExport            the file to import is not an export; nothing was imported
"""


class EngineError(Exception):
    """Root of the tree: nothing happened, and the message says what to do instead."""


class BadRoadmap(EngineError):
    """The roadmap's data is wrong at the place that the message names."""


class BadModule(EngineError):
    """A file of a module is wrong at the place that the message names: the author's to mend."""


class NotBuilt(EngineError):
    """There is nothing to run yet under this name."""


class NotStarted(EngineError):
    """Refused: the learner's copy of the exercise is not there; the message says how to get it."""


class RunnerDied(EngineError):
    """Unknown: the process that graded is gone. Grading again is safe."""


class NotRemembered(EngineError):
    """What a proof has found was not kept, or cannot be read; what was kept before still is."""


class UnknownName(EngineError):
    """No module or topic is called that; the message names the nearest ones."""


class NotWritten(EngineError):
    """A file was not written; a file that was there before is still whole."""


class ProgressError(EngineError):
    """Progress was neither read nor recorded."""


class ProgressUnavailable(ProgressError):
    """Refused by the folder, the disk or another process: safe to retry once that is mended."""


class ProgressDamaged(ProgressError):
    """The file cannot be read as progress; retrying does not help."""


class ProgressTooNew(ProgressError):
    """A later version wrote it: this one leaves it alone."""


class BadExport(ProgressError):
    """The file to import is not an export that this version reads."""
