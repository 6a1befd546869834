"""How often what happened, and what should not have: for people, at the end."""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Finding:
    """What has come of one attack.

    Attributes:
        attack: Its name, by which `--only` repeats it.
        place: The command, file or option that was attacked.
        how: It was attacked.
        outcome: In a word or two.
        fault: What is wrong with that; empty for nothing.
    """

    attack: str
    place: str
    how: str
    outcome: str
    fault: str = ""


@dataclass
class Tally:
    """All findings, printed as they come and counted at the end."""

    findings: list[Finding] = field(default_factory=list)

    def take(self, findings: Iterable[Finding]) -> None:
        """Take findings in; a line is printed of each that is a fault."""
        for finding in findings:
            self.findings.append(finding)
            if finding.fault:
                print(_line(finding), flush=True)
            elif sys.stderr.isatty():
                print(f"\r{finding.attack}  ", end="", file=sys.stderr, flush=True)

    @property
    def faults(self) -> list[Finding]:
        """Those that should not have been."""
        return [finding for finding in self.findings if finding.fault]

    def print(self, seed: int) -> None:
        """Print counts by place and outcome, then every fault again."""
        for title, key in (
            ("by place and outcome", lambda f: (f.attack.partition(":")[0], f.place, f.outcome)),
            ("by attack and outcome", lambda f: (f.attack.partition(":")[0], f.how, f.outcome)),
            ("by outcome", lambda f: (f.attack.partition(":")[0], f.outcome)),
        ):
            print(f"\n{title}")
            for row in _counted(map(key, self.findings)):
                print(row)
        print(f"\n{len(self.findings)} attacks with seed {seed}, {len(self.faults)} faults")
        for finding in self.faults:
            print(_line(finding))


def _counted(keys: Iterable[tuple[str, ...]]) -> Iterator[str]:
    for key, n in sorted(Counter(keys).items()):
        yield f"{n:6d}  {'  '.join(key)}"


def _line(finding: Finding) -> str:
    return (
        f"FAULT {finding.attack}: {finding.place}, {finding.how}: {finding.outcome}; "
        f"{finding.fault}"
    )
