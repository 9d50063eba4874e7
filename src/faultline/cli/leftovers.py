"""What commands that were killed have left running: every command ends it first, and says so."""

import sys
from pathlib import Path

from faultline.cli.obstacles import explain

HOMES = {"lab": "run", "shop": "shop", "chaos": "chaos", "integrate": "integrate"}
"""What may have died, and its folder in `.lab`."""


def end_leftovers(root: Path) -> None:
    """End and remove it, if there is any; a lab or a run that still has its owner is left alone.

    What is in the way of that is said and does not keep the command from its own work.
    """
    state = root / ".lab"
    if not any(
        any(state.glob(trace))
        for trace in (*(f"{name}/*/instance.json" for name in HOMES.values()), "runs/*", "*/.*.draft")
    ):
        return  # nearly always, and without an import
    from faultline.cli import endings
    from faultline.components import ComponentError, sweep
    from faultline.components.fetching import sweep_drafts
    from faultline.engine.run_folders import sweep_runs

    async def end() -> None:
        for name, home in HOMES.items():
            if ended := await sweep(state / home):
                left = ", ".join(one.name for one in ended)
                print(f"The {name} had died; ended what it left running: {left}.", file=sys.stderr)
        await sweep_runs(root)
        for folder in (state / "components", state / "cache"):
            await sweep_drafts(folder)

    try:
        endings.run(end())
    except ComponentError as error:
        print(f"lab: {error}", file=sys.stderr)
    except OSError as error:
        print(f"lab: cannot look for what a killed command left: {explain(error) or error}", file=sys.stderr)
