"""A disk that takes no more: one line with the file's name, and no half files are left."""

import errno
import os
import resource
from contextlib import contextmanager

import pytest
import torch
from filelock import FileLock
from torch import nn

import sekron
from baselines.rows import COLUMNS, Rows
from search.folder.journal import Journal, open_journal
from search.per_layer.space import Space
from search.per_layer.study import LayerStudy
from sekron.decomposition.metric import Metric
from sekron.rank_curves.curves import Spectra
from sekron.structures.geometry import Geometry
from tests.test_search_folder_run_folder import run
from tests.trained import images_and_labels, loader_of, networks, recipe

PLAN = sekron.Plan({"3": sekron.Structure.parse("sekron:8x1x3x1,1x8x1x3@8")})
IN_METRIC = sekron.Plan(PLAN, metrics={"3": Metric(torch.rand(8), torch.rand(8), 1.0)})
ROW = dict.fromkeys(COLUMNS, 0.0)


@contextmanager
def full_disk(n_bytes=64):
    """Let no file grow beyond some bytes, as the kernel then tells like a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def trained(folder):
    sekron.finetune(
        networks()[1],
        loader_of(*images_and_labels()),
        recipe=recipe(),
        folder=folder / "trained",
        progress=False,
    )


def searched(folder, **changes):
    run(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)),
        torch.zeros(1, 3, 8, 8),
        run=folder / "run",
        n_trials=1,
        include=["*"],
        **changes,
    )


WRITERS = {
    "small.safetensors": lambda folder: sekron.save(networks()[1], folder / "small.safetensors"),
    "plan.json": lambda folder: PLAN.save(folder / "plan.json"),
    "metric-": lambda folder: IN_METRIC.save(folder / "plan.json"),
    "rows.csv": lambda folder: Rows(folder / "rows.csv", "print").add(ROW),
    "epoch-0-": trained,
    "study.log": searched,
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.usefixtures("fresh_process")
def test_the_error_names_the_file_and_nothing_is_left(tmp_path, name):
    with full_disk(), pytest.raises(OSError, match=rf"{name}.*could not be|could not be.*{name}"):
        WRITERS[name](tmp_path)
    left = [path.name for path in tmp_path.rglob("*") if path.name.startswith((".", "tmp"))]
    assert left in ([], [".study.lock"])


@pytest.mark.parametrize("n_bytes", [0, 500, 5000])
def test_a_journal_stays_whole(tmp_path, n_bytes):
    def study(storage):
        weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
        spectra = Spectra(weight, (Geometry.of((4, 3, 3, 3), (6, 6)),), None)
        return LayerStudy("study", spectra, Space((4, 3, 3, 3), 2), storage=storage)

    journal = tmp_path / "study.log"

    def stopped():
        study(open_journal(journal)).run(2)

    with full_disk(n_bytes), pytest.raises(OSError, match=r"could not be .*study\.log"):
        stopped()
    text = journal.read_bytes()
    assert not text or text.endswith(b"\n")
    stopped()  # goes on
    whole = study(None)
    whole.run(2)
    assert study(open_journal(journal)).table.ranks == whole.table.ranks


def test_what_the_disk_refused_is_not_written_once_there_is_room(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    class MakesRoom(FileLock):
        def release(self, force=False):
            super().release(force)
            if not self.is_locked:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    path = tmp_path / "study.log"
    journal = Journal(path, MakesRoom(tmp_path / "lock"))
    for n_bytes in (0, 9):
        with full_disk(n_bytes), pytest.raises(OSError, match=r"could not be .*study\.log"):
            journal.append_logs([{"op_code": 0, "study_name": "one"}])
        assert path.read_bytes() == b""


@pytest.mark.parametrize("why", [errno.ENOTDIR, errno.EACCES], ids=os.strerror)
def test_a_folder_that_cannot_be_made_is_named_before_anything_is_computed(
    tmp_path, monkeypatch, why
):
    asked, place = [], tmp_path / "place"
    if why == errno.ENOTDIR:
        place.write_text("")
    else:  # whoever runs these tests may write anywhere
        place.mkdir()
        may = os.access
        monkeypatch.setattr(os, "access", lambda path, mode: path != place and may(path, mode))
    for folder in (place, place / "new"):
        message = rf"could not be written: {os.strerror(why)}: '{folder}/run'"
        with pytest.raises(OSError, match=message) as caught:
            searched(folder, score=lambda network: asked.append(network) or 1.0)
        assert caught.value.errno == why
    assert asked == []
    assert list(tmp_path.iterdir()) == [place]
    assert place.is_file() or list(place.iterdir()) == []
