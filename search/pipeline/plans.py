"""The stage that looks at whole networks: from candidates to the plan that holds the budget."""

from __future__ import annotations

from collections.abc import Callable, Collection

from search.clock.stopwatch import Stopwatch
from search.clock.time_limit import BEFORE_SCORES, DENSE, NETWORKS, TimeLimit
from search.clock.times import Effort
from search.clock.timetable import Timetable
from search.folder.recorder import Recorder
from search.folder.scores import Scores
from search.front.choices import Choices, Member
from search.front.sweep import front_members
from search.pipeline.request import Request
from search.whole_network.by_score import Admission, best_by_score
from search.whole_network.contenders import best_of
from search.whole_network.judge import Judge
from search.whole_network.nearby import NetworkStudy
from search.whole_network.plan_clock import NEVER, PlanClock
from search.whole_network.trials import Trials
from search.whole_network.within_latency import not_slower, tell_slower
from sekron.budget import Budget, InfeasibleBudget
from sekron.export.refusal import CannotRun
from sekron.network.plan import Plan
from sekron.profiling.network_profile import NetworkProfile


def begin_clock(
    request: Request,
    stopwatch: Stopwatch,
    limit: TimeLimit,
    profile: NetworkProfile,
    recorded: Timetable | None,
    warn: Callable[[str], None],
) -> Timetable:
    """Return what was measured before in this setting, or the times of the dense network.

    Args:
        request: The search.
        stopwatch: Of the network.
        limit: Of all measuring.
        profile: Of the network.
        recorded: By an earlier search, or None.
        warn: Called where that was in another setting.

    Raises:
        InfeasibleBudget: If the latency is below what the layers take that are not searched.
    """
    timetable = recorded
    if recorded is not None:
        difference = recorded.setting.difference(stopwatch.setting())
        if difference and not request.keep_latency:
            warn(
                "the latencies in the run folder were measured in another setting "
                f"({difference}); they are measured anew."
            )
            timetable = None
        elif recorded.doubt and not request.keep_latency:
            warn(
                "the latencies in the run folder were measured on a busy machine; they are "
                "measured anew."
            )
            timetable = None
    if timetable is None or not (timetable.is_dense_sure or request.keep_latency):
        with limit.running():
            fresh = stopwatch.start(limit.left(DENSE))
        timetable = fresh if timetable is None else timetable.with_dense(fresh)
    _check_latency(request.budget, timetable, profile)
    return timetable


def plan_on_clock(
    request: Request,
    choices: Choices,
    clock: PlanClock,
    trials: Trials,
    beside: Collection[Timetable],
    warn: Callable[[str], None],
) -> Plan:
    """Time the layers, then plans as whole networks until one holds the budget.

    One that an earlier search has found is taken, unless this one has more time or more trials
    than that one, which could have used them, or another runtime has found a better one by now.

    Args:
        request: The search.
        choices: The candidates.
        clock: Measures; it knows the times afterwards.
        trials: Of whole networks, where latency is limited.
        beside: The timetables of the other runtimes of the run folder.
        warn: Called where the plan is slower than the dense network.

    Raises:
        InfeasibleBudget: If no plan holds the budget on the clock.
        CannotRun: If the network of no plan runs, with random factors.
    """
    budget = request.budget.limits
    question = choices.question(budget)
    n_trials = trials.number if budget.is_clocked else 0
    if clock.timetable.is_settled(question, Effort(clock.limit.seconds, n_trials)):
        effort = clock.timetable.efforts.get(question) or clock.effort(n_trials)
        settled = choices.as_it_is(clock.timetable.winners[question])
        winner = best_of(settled, choices, budget, clock, beside) or settled
        tell_slower(winner.plan, budget, clock, warn)
        if winner is not settled:
            clock.crown(question, winner, effort)
    else:
        clock.time_layers(choices)
        winner = _best_on_clock(choices, budget, clock, beside, warn)
        if budget.is_clocked:
            now = choices.retimed(clock.timetable)
            front = _front(now, winner.plan, clock, NETWORKS)
            winner = NetworkStudy(now, budget, winner, front, clock, trials).run()
            winner = best_of(winner, now, budget, clock, beside) or winner
        clock.crown(question, winner, clock.effort(n_trials))
    return winner.plan


def _best_on_clock(
    choices: Choices,
    budget: Budget,
    clock: PlanClock,
    beside: Collection[Timetable],
    warn: Callable[[str], None],
) -> Member:
    """Return the best plan that the program proposes, or that other clocks or forms suggest.

    Raises:
        InfeasibleBudget: If none holds the budget on the clock.
        CannotRun: If none of them runs, with the reason.
    """
    try:
        found = not_slower(choices, budget, clock, warn)
    except (InfeasibleBudget, CannotRun) as error:
        best = best_of(None, choices.retimed(clock.timetable), budget, clock, beside)
        if best is not None:
            return best
        if clock.refusal is not None:
            raise clock.refusal from error
        raise
    return best_of(found, choices.retimed(clock.timetable), budget, clock, beside) or found


def front_on_clock(request: Request, choices: Choices, best: Plan, clock: PlanClock) -> None:
    """Time the plans of the front as whole networks, those first that are near the best.

    Args:
        request: The search.
        choices: The candidates.
        best: The plan for the budget.
        clock: Measures; it knows the times afterwards.
    """
    share = 1.0 if request.score is None else BEFORE_SCORES
    members = _front(choices.retimed(clock.timetable), best, clock, share)
    flops = choices.profile.totals(best)["flops"]
    members.sort(key=lambda member: abs(member.used["flops"] - flops))
    clock.time_front(members, share)


def _front(choices: Choices, best: Plan, clock: PlanClock, share: float) -> list[Member]:
    """Return the front, as much of it as is found in half of the time left of a share."""
    half = clock.limit.left(share) / 2

    def has_time() -> bool:
        if clock.limit.left(share) > half:
            return True
        clock.leave_out("plans of the front", "most")
        return False

    return front_members(choices, best, None, has_time)


def plan_by_score(
    request: Request,
    choices: Choices,
    start: Plan | None,
    judge: Judge,
    clock: PlanClock | None,
    trials: Trials,
    say: Callable[[str], None],
    warn: Callable[[str], None],
) -> Plan:
    """Return the plan with the best score, or the cheapest with the least one.

    Args:
        request: The search.
        choices: The candidates, with the times of the clock.
        start: The plan that holds the limits on the clock, None without one.
        judge: Scores plans.
        clock: Measures, or None.
        trials: Of whole networks.
        say: Called with what is being scored.
        warn: Called where the plan is slower than the dense network.

    Raises:
        InfeasibleBudget: If no plan within the limits has the least score.
    """
    budget = request.budget
    first = choices.best(budget.limits) if start is None else start
    admits = _admission(budget, first, clock)
    return best_by_score(choices, budget, first, judge, admits, trials, say, warn)


def judge_of(
    request: Request, recorder: Recorder, recorded: Scores | None, warn: Callable[[str], None]
) -> Judge | None:
    """Return what scores the networks of this search, None without a score.

    Raises:
        InfeasibleBudget: If the dense network has not the least score itself.
        ValueError: If its score is not finite.
    """
    if request.score is None:
        return None
    judge = Judge(
        request.model, request.score, request.calibration, recorded, recorder.keep_scores, warn
    )
    judge.check(request.budget)
    return judge


def _admission(budget: Budget, start: Plan, clock: PlanClock | None) -> Admission:
    """Return what says by how much a plan exceeds the budget on the clock, by measuring it.

    Where only FLOPs are limited, it must not be slower than the dense network, or than the best
    plan by error if that one is slower already. Once there is a plan that holds the budget and no
    time is left, none is measured.
    """
    if clock is None:
        return lambda _: 0.0
    is_found = False
    first = clock.timetable.of(start) if budget.min_score is None else None
    slowest = 1.0
    if first is not None and first.runs and first.is_sure:
        slowest = max(1.0, first.ratio)

    def admits(member: Member) -> float:
        nonlocal is_found
        if not member.plan and not budget.is_clocked:
            return 0.0
        if is_found and not clock.has_time and not clock.knows(member, budget):
            clock.leave_out("plans that score better", "some")
            return NEVER
        excess = excess_of(member)
        is_found = is_found or excess <= 0.0
        return excess

    def excess_of(member: Member) -> float:
        with clock.limit.running():
            excess = clock.excess(member, budget)
        if budget.is_clocked or budget.params is not None or excess >= NEVER:
            return excess
        measured = clock.time(member)  # by `excess`
        return measured.ratio - slowest if measured.is_sure else 0.0

    return admits


def _check_latency(budget: Budget, timetable: Timetable, profile: NetworkProfile) -> None:
    """Refuse a latency below what the layers take that are not searched.

    Raises:
        InfeasibleBudget: With the least that is reachable, were the searched layers free.
    """
    limit = budget.limit_ms(timetable.network_ms)
    if limit is None:
        return
    fixed = timetable.fixed_ms
    if limit < fixed:
        share = fixed / timetable.network_ms
        kinds = ", ".join(sorted({layer.kind for layer in profile.layers if layer.reason}))
        raise InfeasibleBudget(
            f"the latency must leave {fixed:.3g} ms ({share:.4f} of the dense network) for "
            f"what is not searched ({f'{kinds}, ' if kinds else ''}everything without a weight), "
            f"got {budget}; raise the budget or search more layers with `include`."
        )
