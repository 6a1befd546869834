"""Choices are values: equal candidates are equal questions, and what is timed makes new ones."""

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest

import search
import sekron
from search import Budget
from search.clock.times import LayerTime, NetworkTime, Setting, TimedPoint
from search.clock.timetable import Timetable
from search.folder.scores import Scores
from search.front.beside import winner_by_score
from sekron.layers.operations import DEFAULT_FORM


@pytest.fixture(scope="module")
def choices(small_run):
    return search.load(small_run).choices


@pytest.fixture
def timetable(choices):
    """Every structure of the first layer takes half of its time; nothing else was timed."""
    layers = {layer.name: LayerTime(layer.name, 2.0) for layer in choices.profile.searched}
    name = next(iter(layers))
    table = choices.tables[name]
    rows = zip(table.point, table.ranks, strict=True)
    points = {table.points[p]: TimedPoint(DEFAULT_FORM, {ranks: 0.5}) for p, ranks in rows}
    setting = Setting("abacus", 1, "2", "float32", "contiguous", ((1, 3),))
    return Timetable(setting, 20.0, layers, {name: points})


def test_choices_cannot_be_changed(choices, timetable):
    with pytest.raises(FrozenInstanceError):
        choices.timetable = timetable
    with pytest.raises(FrozenInstanceError):
        timetable.network_ms = 1.0


def test_times_make_other_choices_and_leave_these(choices, timetable):
    name, *others = choices.layers
    timed = choices.retimed(timetable)
    assert np.isfinite(timed.layers[name].ms).all()
    assert all(np.isnan(timed.layers[other].ms[:-1]).all() for other in others)
    assert all(np.isnan(layer.ms).all() for layer in choices.layers.values())
    assert timed.retimed(None).digest == timed.digest == choices.digest
    faster = timetable.with_network(choices.best(Budget(flops=0.5)), NetworkTime(0.9, 0.05, 1, 1))
    assert (len(timetable.networks), len(faster.networks)) == (0, 1)
    assert timed.timetable.effect() != timed.retimed(faster).timetable.effect()


def test_a_budget_of_latency_takes_only_what_was_timed(choices, timetable):
    name = next(iter(choices.layers))
    timed = choices.retimed(timetable)
    assert set(timed.best(Budget(latency=0.96))) == {name}
    with pytest.raises(ValueError, match=r"needs measurements, got latency ≤ 96\.0%"):
        choices.best(Budget(latency=0.96))


def test_a_question_is_candidates_and_a_budget(choices):
    question = choices.question(Budget(flops=0.5))
    assert question == choices.question(Budget(flops=0.5))
    assert question != choices.question(Budget(flops=0.4))
    name, table = next(iter(choices.tables.items()))
    # As many candidates, one of them another.
    errors = np.append(np.nextafter(table.errors[0], 1.0), table.errors[1:])
    other = replace(choices, tables={**choices.tables, name: replace(table, errors=errors)})
    assert [len(t) for t in other.tables.values()] == [len(t) for t in choices.tables.values()]
    assert question != other.question(Budget(flops=0.5))
    assert question != choices.weighted(dict.fromkeys(choices.tables, 2.0)).question(
        Budget(flops=0.5)
    )


def test_without_a_clock_it_is_another_question(choices, timetable):
    budget = Budget(flops=0.5)
    untimed, timed = choices.retimed(None), choices.retimed(timetable)
    assert untimed.question(budget) != timed.question(budget)
    plan, other = untimed.best(budget), untimed.best(Budget(flops=0.4))
    before = Scores(1.0).with_winner(timed.question(budget), plan)  # by an earlier release
    assert [winner_by_score(c, budget, before) for c in (untimed, timed)] == [plan, plan]
    now = before.with_winner(untimed.question(budget), other)
    assert [winner_by_score(c, budget, now) for c in (untimed, timed)] == [other, plan]


def test_the_order_in_which_candidates_were_found_does_not_matter(choices):
    def shuffled(table):
        order = np.random.default_rng(0).permutation(len(table))
        return replace(
            table,
            points=table.points[::-1],
            point=len(table.points) - 1 - table.point[order],
            ranks=[table.ranks[row] for row in order],
            errors=table.errors[order],
            flops=table.flops[order],
            params=table.params[order],
        )

    tables = {name: shuffled(table) for name, table in choices.tables.items()}
    assert replace(choices, tables=tables).digest == choices.digest


def test_a_choice_gives_its_plan_and_a_plan_its_choice(choices):
    for share in (0.4, 0.6, 1.0):
        choice = choices.allocate(Budget(flops=share)).choice
        assert choices.choice(choices.plan(choice)) == choice
        member = choices.member(choice)
        assert member.used == choices.profile.totals(member.plan)
        assert choices.excess(member, Budget(flops=share)) <= 0.0
        if member.plan:
            assert choices.excess(member, Budget(flops=1)) == member.used["flops"] - 1


@pytest.mark.parametrize("name", ["nowhere", "0"])
def test_a_plan_of_layers_that_were_not_searched_is_refused(small_run, name):
    result = search.load(small_run)
    plan = sekron.Plan({name: sekron.Structure.parse("chain:8x1x3x1,1x3x1x3@4")})
    for ask in (result.layers, result.choices.choice):
        with pytest.raises(ValueError, match=f"must take its layers, but it has '{name}', which"):
            ask(plan)
