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


def points(prospects):
    return [(w.structures[0].family, w.structures[0].shapes) for w in prospects.wanted]


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
    assert points(found) == sorted(gains, key=lambda point: -gains[point])
    assert [w.promise for w in found.wanted] == pytest.approx(sorted(gains.values(), reverse=True))
    both = np.minimum(on_front(table, SPLIT), on_front(table, CHAIN))
    assert found.ahead_ms == pytest.approx(
        DENSE_MS * mean([1.0 - least(table, e, both) for e in LEVELS])
    )
    assert found.ahead_ms < sum(w.promise for w in found.wanted)


@pytest.mark.parametrize("slowness", [0.5, 1.0, 1.7])
def test_what_was_timed_tells_how_well_others_may_run(table, slowness):
    chains = [table.structure(row) for row in range(len(table)) if table.point[row] == 1]
    ratios = {s.ranks[0]: slowness * total(s) / DENSE_FLOPS for s in chains}
    times = timetable(chain=at(ratios))
    (wanted,) = of(table, times).wanted
    chain = np.array([table.points[i] == CHAIN for i in table.point])
    now = np.where(chain, slowness * table.flops / DENSE_FLOPS, np.inf)
    could = slowness * on_front(table, SPLIT)
    gain = mean([max(least(table, e, now) - least(table, e, could), 0.0) for e in LEVELS])
    assert wanted.promise == pytest.approx(DENSE_MS * gain)
    assert of(table, times).ahead_ms == pytest.approx(DENSE_MS * gain)


def test_what_does_not_run_saves_nothing_and_is_not_wanted_again(table):
    times = timetable(chain=at({5: np.inf}))
    assert points(of(table, times)) == [SPLIT]
    before = dict(zip(points(of(table, timetable())), of(table, timetable()).wanted, strict=True))
    assert of(table, times).wanted[0].promise == pytest.approx(before[SPLIT].promise)


def test_layers_of_one_kind_add_up(table):
    alone = of(table, timetable())
    times = timetable()
    twins = replace(times, layers=times.layers | {TWIN.name: LayerTime("key", DENSE_MS)})
    both = of(table, twins, (LAYER, TWIN))
    assert both.ahead_ms == pytest.approx(2 * alone.ahead_ms)
    assert [w.promise for w in both.wanted] == pytest.approx([2 * w.promise for w in alone.wanted])


def test_where_all_was_timed_nothing_is_ahead(table):
    times = timetable(chain=at({1: 0.2, 9: 0.8}), split=at({1: 0.3, 9: 0.9}))
    assert of(table, times) == Prospects((), 0.0)
