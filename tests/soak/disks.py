"""Commands on a disk that is full, has no inodes left or takes nothing, or whose folders go.

Each is run again once the disk is well: as if nothing had been. Mounting a disk of its own takes
root.
"""

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.soak.command import answer_of
from tests.soak.kills import COMMANDS, LIMIT, begun, fault_of, undisturbed_in
from tests.soak.tally import Finding
from tests.soak.verdict import refusal, snapshot

SIZE = "256m"
"""Of a disk that is well."""

MOST_BYTES, MOST_INODES = 400_000, 12
"""That are left on one that is not, at most."""


def full(disk: Path, draw: random.Random) -> str:
    """Leave some bytes, perhaps none."""
    return f"size={shutil.disk_usage(disk).used + draw.choice((0, draw.randint(1, MOST_BYTES)))}"


def without_inodes(disk: Path, draw: random.Random) -> str:
    """Leave room for some more files, perhaps none."""
    status = os.statvfs(disk)
    return f"nr_inodes={status.f_files - status.f_ffree + draw.randint(0, MOST_INODES)}"


def read_only(_disk: Path, _draw: random.Random) -> str:
    """Take nothing at all."""
    return "ro"


ILLS = {"full": full, "no inodes": without_inodes, "read-only": read_only, "folders go": None}


def disks(user: Path, parent: Path, seed: int, numbers: Iterator[int]) -> Iterator[Finding]:
    """Run a command on an ill disk for each number, in turn, and yield what came of it.

    Args:
        user: Folder of the user on the ground.
        parent: Where disks are mounted.
        seed: Together with a number, decides how ill they are.
        numbers: Of the attacks.
    """
    undisturbed = undisturbed_in(parent, user)
    for number in numbers:
        name = list(COMMANDS)[number % len(COMMANDS)]
        ill = list(ILLS)[number // len(COMMANDS) % len(ILLS)]
        draw = random.Random(f"{seed}/disks/{number}")
        whole, wanted = undisturbed(name)
        with mounted(parent / f"disk-{number}") as disk:
            folder = begun(name, user, disk / "ground")
            outside = snapshot(folder.parent / "outside")
            if ill == "folders go":
                at = draw.randint(1, whole.n_changes)
                answer = answer_of(COMMANDS[name].arguments, folder, LIMIT, at, deletes=True)
            else:
                remount(disk, ILLS[ill](disk, draw))
                answer = answer_of(COMMANDS[name].arguments, folder, LIMIT)
                remount(disk, f"rw,size={SIZE},nr_inodes=0")
            outcome, fault = refusal(answer) if answer.code else ("ended well", "")
            ended = answer_of(COMMANDS[name].arguments, folder, LIMIT)
            if ended.code and ill == "folders go":
                fault = fault or refusal(ended)[1]  # what it reads may be gone
            else:
                fault = fault or fault_of(name, ended, folder, wanted)
            if not fault and snapshot(folder.parent / "outside") != outside:
                fault = "wrote outside of the folder"
            left = [path.name for path in folder.rglob(".*.tmp*")]
        yield Finding(f"disks:{number}", name, ill, outcome, fault)
        if left:
            yield Finding(f"disks:{number}", name, ill, "leaves parts")


@contextmanager
def mounted(disk: Path) -> Iterator[Path]:
    """Mount a disk in memory until the end of the block."""
    disk.mkdir()
    _run("mount", "-t", "tmpfs", "-o", f"size={SIZE}", "soak", str(disk))
    try:
        yield disk
    finally:
        _run("umount", "--lazy", str(disk))
        disk.rmdir()


def remount(disk: Path, options: str) -> None:
    """Mount a disk with other options."""
    _run("mount", "-o", f"remount,{options}", str(disk))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
