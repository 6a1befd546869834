"""What every sampler keeps, and what the one that follows the front proposes."""

import math

import optuna
import pytest
from optuna.storages import InMemoryStorage

from search.per_layer.samplers import (
    N_CONSIDERED,
    PRIOR,
    SAMPLERS,
    VOTE,
    VOTERS,
)
from search.per_layer.space import DEFAULT_FAMILIES, Space
from search.per_layer.study import TEMPLATE, LayerStudy
from sekron.rank_curves.curves import Spectra
from sekron.rank_curves.pareto import MIXES
from sekron.structures.geometry import Geometry

N_PROPOSED = 60
"""More than `tpe` draws at random at first, and than a generation of `nsga2`."""

every_sampler = pytest.mark.parametrize("sampler", SAMPLERS)


@pytest.fixture
def study_of(small_weight):
    """Make a study of the small weight."""
    geometry = Geometry.of(tuple(small_weight.shape), (7, 5))
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def make(sampler, seed=0, storage=None, max_length=3, families=DEFAULT_FAMILIES):
        space = Space(tuple(small_weight.shape), max_length, families)
        spectra = Spectra(small_weight, (geometry,))
        return LayerStudy("layer", spectra, space, sampler=sampler, seed=seed, storage=storage)

    yield make
    optuna.logging.set_verbosity(before)


def proposed(study):
    return [t.params for t in study.study.trials if TEMPLATE not in t.user_attrs]


@every_sampler
def test_same_seed_same_trials(study_of, sampler):
    first, second, other = study_of(sampler), study_of(sampler), study_of(sampler, seed=1)
    for study in (first, second, other):
        study.run(40)
    assert len(proposed(first)) == 40
    assert proposed(first) == proposed(second)
    assert proposed(first) != proposed(other)


@every_sampler
def test_every_proposal_is_a_point_or_the_dense_weight(study_of, sampler):
    study = study_of(sampler)
    study.run(14)
    bounds = study.space.distributions()
    for params in proposed(study):
        assert list(params) == study.space.names(params["length"])
        assert all(bounds[name].low <= value <= bounds[name].high for name, value in params.items())
        point = study.space.point(params)
        assert point is None or point in study.table.points


@every_sampler
def test_interrupted_between_trials_gives_the_same_trials(study_of, sampler):
    straight = study_of(sampler)
    straight.run(N_PROPOSED)
    storage = InMemoryStorage()
    for n_trials in (0, 3, 55, N_PROPOSED):
        resumed = study_of(sampler, storage=storage)
        resumed.run(n_trials)
    assert proposed(resumed) == proposed(straight)


def test_neighbour_proposes_unseen_points_next_to_the_front(study_of):
    study = study_of("neighbour")
    study.run(0)
    pairs, followed = set(study.space.pairs()), 0
    for _ in range(40):
        scored = set(study.table.points)
        voters = {study.table.points[i] for mix in VOTERS for i in study.table.exclusive_areas(mix)}
        nearby = {n for point in voters for n in study.space.neighbours(point)} - scored
        study.propose()
        (point,) = set(study.table.points) - scored  # not one was scored before
        assert point in nearby | pairs
        followed += point in nearby
    assert followed >= 30  # a tenth of the trials wander among the pairs


@pytest.mark.parametrize("families", [("ring", "cp"), ("tucker", "cp")], ids=str)
def test_neighbour_proposes_nothing_twice_beside_a_cp_of_two_factors(study_of, families):
    study = study_of("neighbour", max_length=2, families=families)
    study.run(0)
    for _ in range(12):
        n_scored = study.n_scored
        study.propose()
        assert study.n_scored == n_scored + 1
        assert study.table.points[-1][0] == families[0]


def elected(study, mix):
    """Return what the voters of a front elect, counted one by one; None where nothing is fresh."""
    table, neighbours = study.table, study.space.neighbours
    scored = set(table.points)
    on_front = {table.points[i] for other in MIXES for i in table.exclusive_areas(other)}
    votes = {}
    for index, share in table.exclusive_areas(mix).items():
        for point in neighbours(table.points[index]):
            if point not in scored:
                votes[point] = votes.get(point, 0.0) + share**VOTE

    def success(point):
        tried = scored.intersection(neighbours(point))
        return (len(tried & on_front) + PRIOR[0]) / (len(tried) + PRIOR[1])

    most_voted = sorted(votes, key=votes.get)[-N_CONSIDERED:]
    return max(most_voted, key=lambda p: math.sqrt(votes[p]) * success(p), default=None)


def test_neighbour_elects_what_counting_one_by_one_elects(study_of):
    study = study_of("neighbour")
    study.run(0)
    for _ in range(40):
        scored, by_front = set(study.table.points), [elected(study, mix) for mix in VOTERS]
        study.propose()
        (point,) = set(study.table.points) - scored
        assert point in by_front or not any(by_front)


def test_neighbour_draws_at_random_when_nothing_nearby_is_left(study_of):
    study = study_of("neighbour", max_length=2)
    every = set(study.space.pairs())
    study.run(len(every) + 10)
    assert study.n_scored == len(set(study.table.points)) <= len(every)
    assert len(proposed(study)) == len(every) + 10


def test_exclusive_areas_fill_the_hypervolume(study_of):
    study = study_of("neighbour")
    study.run(5)
    for mix in VOTERS:
        areas = study.table.exclusive_areas(mix)
        rows = study.table.front(mix)
        assert set(areas) == set(study.table.point[rows].tolist())
        assert all(area >= 0.0 for area in areas.values())
        assert sum(areas.values()) < 1.0
