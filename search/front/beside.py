"""The same candidates on the clock of another runtime of the run folder."""

from __future__ import annotations

from collections.abc import Mapping

from search.clock.race import EAGER
from search.clock.timetable import Timetable
from search.folder.scores import Scores
from search.front.choices import Choices
from sekron.budget import Budget
from sekron.network.plan import Plan


def choices_in(
    runtime: str, choices: Choices, beside: Mapping[str, Timetable]
) -> tuple[Choices, Mapping[str, Timetable]]:
    """Return choices on the clock of a runtime, and what the other ones said.

    Args:
        runtime: Its name.
        choices: On the clock of the search.
        beside: Runtime -> timetable, of the other ones.

    Raises:
        ValueError: If it was not timed.
    """
    own = choices.timetable
    timed = dict(beside) if own is None else {own.setting.runtime: own, **beside}
    if runtime not in timed:
        raise ValueError(
            "`runtime` must be one that was timed in this run folder: "
            f"{', '.join(timed) or 'none was'}, got {runtime!r}; search again with it, in the same "
            "folder."
        )
    return choices.retimed(timed.pop(runtime)), timed


def winner_on_clock(choices: Choices, budget: Budget) -> Plan | None:
    """Return the plan that a search for a budget has chosen on the clock of these choices.

    Returns:
        None where there was no such search.
    """
    winners = {} if choices.timetable is None else choices.timetable.winners
    return winners.get(choices.question(budget.limits))


def winner_by_score(choices: Choices, budget: Budget, scores: Scores | None) -> Plan | None:
    """Return the plan that scored best for a budget, on the clock of these choices if any.

    Returns:
        None where there was no such search.
    """
    winners = {} if scores is None else scores.winners
    question = choices.question(budget)
    if choices.timetable is None and question not in winners:
        question = choices.question(budget, EAGER)  # as earlier releases asked without a clock
    return winners.get(question)


def winner(choices: Choices, budget: Budget, scores: Scores | None) -> Plan | None:
    """Return the plan that a search has chosen, by score where networks were scored.

    Returns:
        None where there was no such search; a least score is none of the clock's.
    """
    best = winner_by_score(choices, budget, scores)
    if best is None and budget.min_score is None:
        best = winner_on_clock(choices, budget)
    return best
