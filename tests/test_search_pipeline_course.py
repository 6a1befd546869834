"""The one progress bar of a search: the time that is left of all its stages; times are made up."""

import pytest
import torch
from torch import nn

import search
from search.pipeline.course import Course, clock_text, seconds_left
from search.pipeline.foresight import (
    CALIBRATION,
    CLOCK,
    DENSE_CLOCK,
    DENSE_SCORE,
    FRONT,
    LAYERS,
    PROFILE,
    SCORES,
)
from tests.test_search_whole_network_within_latency import World
from tests.test_search_whole_network_within_latency import run as run_in


def test_time_left_follows_what_was_done():
    assert seconds_left(0.0, 100.0, 0.0, 0.0) == 100.0
    assert seconds_left(0.0, 100.0, 0.0, 30.0) == 70.0
    assert seconds_left(50.0, 100.0, 50.0, 0.0) == 50.0
    assert 90.0 < seconds_left(50.0, 100.0, 100.0, 0.0) < 100.0  # twice as slow as foreseen
    assert 25.0 < seconds_left(50.0, 100.0, 25.0, 0.0) < 30.0
    assert seconds_left(99.0, 100.0, 99.0, 500.0) == 0.0


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def bar_of(course):
    (task,) = course.shown.tasks
    return task.description, task.completed, task.total


def test_before_anything_is_foreseen_the_time_is_not_known(clock):
    course = Course(False, clock)
    with course.stage("profile"):
        assert course.left is None
        assert bar_of(course) == ("profile", 0.0, None)
    assert course.left is None


def test_the_time_left_is_that_of_all_stages(clock):
    course = Course(False, clock)
    course.foresee({"calibration": 10.0, "layers": 100.0, "clock": 30.0})
    assert course.left == 140.0
    with course.stage("calibration") as seconds:
        assert seconds == 10.0
        clock.now = 4.0
        assert course.left == 136.0  # it goes by where nothing is told
        clock.now = 40.0
        assert course.left == 130.0  # what takes longer takes nothing of the others
    assert bar_of(course) == ("calibration", 10.0, 140.0)
    with course.stage("layers"):
        course.tell("layer1", 50.0)
        assert course.left == pytest.approx((0.0 + 5.0) / 55.0 * 50.0 + 30.0)  # faster, so far
        clock.now = 140.0
        course.tell("layer2", 25.0)
        assert course.left == pytest.approx((100.0 + 5.0) / 80.0 * 25.0 + 30.0)
        assert bar_of(course) == ("layer2", 85.0, 140.0)
        course.skip(15.0)
        assert course.left == pytest.approx((100.0 + 5.0) / 80.0 * 10.0 + 30.0)
        assert bar_of(course) == ("layer2", 85.0, 125.0)
    assert course.left == 30.0
    course.foresee({"scores": 7.0})
    assert course.left == 37.0
    with course.stage("clock"):
        course.tell("measuring", 99.0)  # no more than there is
        assert bar_of(course) == ("measuring", 125.0, 132.0)
    with course.stage("nobody knew"):
        clock.now = 999.0
        assert course.left == 7.0
    with course.stage("scores"):
        pass
    assert course.left == 0.0
    assert bar_of(course)[1:] == (132.0, 132.0)


def test_work_that_was_done_before_is_no_work(clock):
    course = Course(False, clock)
    course.foresee({"layers": 10.0})
    with course.stage("layers"):
        for _ in range(4):
            course.skip(2.5)
        assert course.left is None  # nothing is left that could be foreseen
    assert bar_of(course)[1] == 0.0


@pytest.fixture
def stages(monkeypatch):
    """Note the stages of a search with what was foreseen of each, and the time left meanwhile."""
    noted = []

    class Noted(Course):
        def stage(self, name):
            noted.append((name, dict(self._foreseen), self.left))
            return super().stage(name)

    monkeypatch.setattr("search.pipeline.search.Course", Noted)
    return noted


def test_every_stage_of_a_search_is_foreseen_once_the_network_is_profiled(stages, monkeypatch):
    torch.manual_seed(0)
    network = nn.Sequential(*(nn.Conv2d(6, 6, 3, padding=1) for _ in range(4)))
    network.eval().requires_grad_(False)
    example = torch.randn(2, 6, 9, 7)
    run_in(
        World(search.profile(network, example)),
        network,
        example,
        budget=search.Budget(flops=0.6),
        calibration=[torch.randn(8, 6, 9, 7)],
        output="values",
        score=lambda net: -float((net(example) - network(example)).norm()),
        n_network_trials=2,
        progress=True,
    )
    names = [name for name, _, _ in stages]
    assert names == [PROFILE, DENSE_SCORE, DENSE_CLOCK, CALIBRATION, LAYERS, CLOCK, SCORES, FRONT]
    assert stages[0][2] is None
    after_profile = stages[1]
    assert set(after_profile[1]) == {*names} - {PROFILE, DENSE_SCORE, SCORES}
    assert min(after_profile[1].values()) > 0.0
    assert SCORES in stages[2][1]  # once the dense network was scored
    for name, foreseen, left in stages[1:]:
        assert name == DENSE_SCORE or name in foreseen
        assert left == pytest.approx(sum(foreseen.values()))


def test_a_search_without_clock_score_and_calibration_has_none_of_their_time(
    stages, small_network, small_input
):
    search.run(
        small_network, small_input, budget=search.Budget(flops=0.6), n_trials=1, measure_seconds=0
    )
    assert [name for name, seconds in stages[1][1].items() if seconds] == [LAYERS, FRONT]
    assert [name for name, _, _ in stages] == [PROFILE, DENSE_SCORE, CALIBRATION, LAYERS, FRONT]


def test_times_on_a_clock():
    assert [clock_text(seconds) for seconds in (0.4, 59.6, 3600)] == [
        *("0:00:00", "0:01:00", "1:00:00")
    ]
