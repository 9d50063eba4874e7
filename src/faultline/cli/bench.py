"""`./lab bench TOPIC`: our patterns beside popular libraries, as ratios in one run."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from faultline.components.processes import tied

BENCHES: dict[str, tuple[str, ...]] = {
    "redis": (
        "bench.cache",
        "bench.write_behind",
        "bench.coherent_cache",
        "bench.lock",
        "bench.rate_limiter",
        "bench.sessions",
        "bench.leaderboard",
    ),
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("topic", choices=sorted(BENCHES))


def run(args: argparse.Namespace, root: Path) -> int:
    """Run the topic's benchmarks one after the other; 1 if one of them could not measure."""
    codes = [
        subprocess.run(tied([sys.executable, "-m", module], os.environ), cwd=root, check=False).returncode
        for module in BENCHES[args.topic]
    ]
    return 1 if any(codes) else 0
