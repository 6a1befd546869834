"""What all threads of a process share is as it was after two that would interleave."""

import logging
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
import torch
from torch._dynamo import eval_frame

from sekron.export import int8
from sekron.export.packages import quiet
from sekron.forward.evaluation import uncompiled
from sekron.profiling.count import modules_alone


def state():
    return (
        (sys.stdout, sys.stderr, logging.root.manager.disable),
        torch.backends.mha.get_fastpath_enabled(),
        eval_frame._stance.stance,
    )


@pytest.mark.parametrize("switch", [quiet, modules_alone, uncompiled])
def test_a_switch_is_back_whichever_thread_ends_first(switch):
    before = state()
    is_in, may_end = Event(), Event()

    def second():
        with switch():
            is_in.set()
            may_end.wait()

    with ThreadPoolExecutor(1) as pool:
        with switch():
            assert state() != before
            done = pool.submit(second)
            is_in.wait(0.1)  # in vain, as it may not begin before this one ends
        may_end.set()
        done.result()
    assert state() == before


@pytest.mark.parametrize("value", ["0", None])
def test_a_variable_of_the_environment_is_as_it_was(value, monkeypatch):
    found = []
    monkeypatch.setattr(int8, "needed", lambda *_: found.append(os.environ[int8.SILENT]))
    monkeypatch.delenv(int8.SILENT, raising=False)
    if value is not None:
        monkeypatch.setenv(int8.SILENT, value)
    int8.nncf()
    assert found == ["1"]
    assert os.environ.get(int8.SILENT) == value
