"""Attack the commands, count what comes of it, and end with 1 if there are faults."""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from tests.soak.disks import disks
from tests.soak.files import damages
from tests.soak.ground import make_ground
from tests.soak.kills import kills
from tests.soak.options import odd_options
from tests.soak.tally import Tally

ATTACKS = {"kills": kills, "files": damages, "options": odd_options, "disks": disks}


def soak(counts: dict[str, int], seed: int, only: str, parent: Path) -> Tally:
    """Attack as often as is said, and return what came of it.

    Args:
        counts: Kind of attack -> how often.
        seed: Of all that is drawn.
        only: Kind of attack, or `kind:number` for a single one; empty for all.
        parent: Folder in which everything happens.
    """
    user, tally = make_ground(parent / "ground"), Tally()
    kind, _, number = only.partition(":")
    for name, attack in ATTACKS.items():
        if kind in ("", name):
            numbers = [int(number)] if number else range(counts[name])
            tally.take(attack(user, parent, seed, numbers))
    return tally


def main() -> int:
    """Read the arguments, attack, and print the counts."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=100, help="commands that are killed")
    parser.add_argument("--damages", type=int, default=1000, help="files and options, by halves")
    parser.add_argument("--disks", type=int, default=0, help="ill disks; to mount them takes root")
    parser.add_argument("--only", default="", help=f"{', '.join(ATTACKS)}; or kills:17")
    given = parser.parse_args()
    counts = {"kills": given.kills, "files": given.damages - given.damages // 2}
    counts |= {"options": given.damages // 2, "disks": given.disks}
    print(f"seed {given.seed}, {counts}", flush=True)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        os.environ["XDG_STATE_HOME"] = f"{folder}/state"  # the notes of the command line
        os.environ["OMP_NUM_THREADS"] = "1"
        tally = soak(counts, given.seed, given.only, Path(folder).resolve())
    tally.print(given.seed)
    return 1 if tally.faults else 0


if __name__ == "__main__":
    sys.exit(main())
