"""Where everything of one clone lies: the only place that names the folders under `.lab/`.

<root>/.lab/
  run/           the running lab: its record, and a folder for each instance (record, log, data)
  shop/          the running shop: the same, and its services
  runs/          grading runs, one folder each, removed when the run ends
  components/    what was fetched: one folder for each component and lock, complete or not there
  cache/         what can be made again: database templates, what proofs of the graders have found
  progress.db    what the learner passed; no command but `progress` touches it
<root>/workspace/    the learner's solutions; no command but `start` and `reset` touches it
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Clone:
    """One checkout and the environment that a command was started in."""

    root: Path
    environment: Mapping[str, str]

    @classmethod
    def here(cls) -> "Clone":
        """The checkout that this file belongs to (or `LAB_ROOT`), in this process's environment."""
        root = os.environ.get("LAB_ROOT") or Path(__file__).resolve().parents[3]
        return cls(Path(root), dict(os.environ))

    def without_given_servers(self) -> "Clone":
        """The same, blind to addresses such as `LAB_REDIS_URL`: every server is then one of ours."""
        kept = {name: value for name, value in self.environment.items() if not re.fullmatch(r"LAB_\w+_URL", name)}
        return Clone(self.root, kept)

    @property
    def state(self) -> Path:
        """All of it."""
        return self.root / ".lab"

    @property
    def run(self) -> Path:
        """The running lab."""
        return self.state / "run"

    @property
    def shop(self) -> Path:
        """The running shop."""
        return self.state / "shop"

    @property
    def chaos(self) -> Path:
        """The shop that is swept, and what was found."""
        return self.state / "chaos"

    @property
    def integrate(self) -> Path:
        """The shop with a learner's solution in it, while it is proven."""
        return self.state / "integrate"

    @property
    def runs(self) -> Path:
        """Grading runs."""
        return self.state / "runs"

    @property
    def components(self) -> Path:
        """What was fetched."""
        return self.state / "components"

    @property
    def cache(self) -> Path:
        """What is quickly made again."""
        return self.state / "cache"

    @property
    def locks(self) -> Path:
        """The locked versions and hashes of what may be fetched."""
        return self.root / "requirements" / "components"
