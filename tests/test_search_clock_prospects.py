"""What plans may gain from timing another structure: against sums over levels, one by one."""

from dataclasses import replace

import numpy as np
import pytest

from search.clock.prospects import LEVELS, Prospects
from search.clock.times import LayerTime
from sekron.rank_curves.table import CandidateTable
from sekron.structures.structure import Structure
from tests.test_search_clock_timetable import (
    CHAIN,
    DENSE_FLOPS,
    DENSE_MS,
    LAYER,
    SPLIT,
    at,
    timetable,
    total,
)

TWIN = replace(LAYER, name="body.4")


@pytest.fixture
def table():
    """Two structures whose every rank is on the front."""
    structures = [Structure(*point, (rank,)) for rank in range(1, 6) for point in (SPLIT, CHAIN)]
    structures.sort(key=total)
    return CandidateTable(
        DENSE_FLOPS,
        LAYER.params,
        points=[SPLIT, CHAIN],
        ranks=[s.ranks for s in structures],
        point=np.array([[SPLIT, CHAIN].index((s.family, s.shapes)) for s in structures]),
        errors=np.geomspace(0.9, 0.1, len(structures)),
        flops=np.array(list(map(total, structures))),
        params=np.array([s.n_params for s in structures]),
    )


def least(table, level, costs):
    """Least cost, at most 1, of the candidates with no larger error."""
    pairs = zip(table.errors, costs, strict=True)
    return min([1.0, *(cost for error, cost in pairs if error <= level)])


def mean(values):
    return sum(values) / len(LEVELS)


def of(table, times, layers=(LAYER,)):
    return Prospects.of(layers, {layer.name: table for layer in layers}, times)


def first_of(prospects):
    structure = prospects.first.structures[0]
    return structure.family, structure.shapes


def on_front(table, point):
    """FLOPs over the dense layer's of a structure's rows on the front; infinite elsewhere."""
    own = np.array([table.points[i] == point for i in table.point])
    own &= np.isin(np.arange(len(table)), table.front(1.0))
    return np.where(own, table.flops / DENSE_FLOPS, np.inf)


def test_before_anything_is_timed_time_goes_with_flops(table):
    found = of(table, timetable())
    gains = {
        point: DENSE_MS * mean([1.0 - least(table, e, on_front(table, point)) for e in LEVELS])
        for point in (SPLIT, CHAIN)
    }
    assert first_of(found) == max(gains, key=lambda point: gains[point])
    assert found.first.promise == pytest.approx(max(gains.values()))
    assert found.n_left == 2
    both = np.minimum(on_front(table, SPLIT), on_front(table, CHAIN))
    assert found.ahead_ms == pytest.approx(
        DENSE_MS * mean([1.0 - least(table, e, both) for e in LEVELS])
    )
    assert max(gains.values()) < found.ahead_ms < sum(gains.values())


@pytest.mark.parametrize("slowness", [0.5, 1.0, 1.7])
def test_what_was_timed_tells_how_well_others_may_run(table, slowness):
    chains = [table.structure(row) for row in range(len(table)) if table.point[row] == 1]
    ratios = {s.ranks[0]: slowness * total(s) / DENSE_FLOPS for s in chains}
    times = timetable(chain=at(ratios))
    found = of(table, times)
    chain = np.array([table.points[i] == CHAIN for i in table.point])
    now = np.where(chain, slowness * table.flops / DENSE_FLOPS, np.inf)
    could = slowness * on_front(table, SPLIT)
    gain = mean([max(least(table, e, now) - least(table, e, could), 0.0) for e in LEVELS])
    assert (first_of(found), found.n_left) == (SPLIT, 1)
    assert found.first.promise == found.ahead_ms == pytest.approx(DENSE_MS * gain)


def test_what_does_not_run_saves_nothing_and_is_not_wanted_again(table):
    found = of(table, timetable(chain=at({5: np.inf})))
    assert (first_of(found), found.n_left) == (SPLIT, 1)
    gain = mean([1.0 - least(table, e, on_front(table, SPLIT)) for e in LEVELS])
    assert found.first.promise == found.ahead_ms == pytest.approx(DENSE_MS * gain)


def test_layers_of_one_kind_add_up(table):
    alone = of(table, timetable())
    times = timetable()
    twins = replace(times, layers=times.layers | {TWIN.name: LayerTime("key", DENSE_MS)})
    both = of(table, twins, (LAYER, TWIN))
    assert both.ahead_ms == pytest.approx(2 * alone.ahead_ms)
    assert both.first.promise == pytest.approx(2 * alone.first.promise)
    assert both.n_left == alone.n_left


def test_where_all_was_timed_nothing_is_ahead(table):
    times = timetable(chain=at({1: 0.2, 9: 0.8}), split=at({1: 0.3, 9: 0.9}))
    assert of(table, times) == Prospects(None, 0, 0.0)
