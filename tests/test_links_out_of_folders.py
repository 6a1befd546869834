"""A folder that came from elsewhere may hold links: nothing is written through them."""

import os

import pytest
import torch
from torch import nn

import sekron
from baselines.rows import Rows
from sekron.records import write_text
from tests.test_search_folder_run_folder import run
from tests.trained import images_and_labels, loader_of, networks, recipe


def searched(folder):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
    run(network, torch.zeros(1, 3, 8, 8), run=folder, n_trials=1, include=["*"])


def compared(folder):
    Rows(folder / "comparison.csv", "fingerprint")


def trained(folder):
    _, small = networks()
    loader = loader_of(*images_and_labels())
    sekron.finetune(small, loader, recipe=recipe(), folder=folder, progress=False)


WRITERS = {
    "study.log": searched,
    ".study.lock": searched,
    "comparison.csv": compared,
    "epoch-0-*": trained,
    "epoch-0-*/model.safetensors": trained,
}
"""What stands as a link in a folder -> who would write in it."""


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("kept", [None, "precious"], ids=["nothing there", "a line without end"])
@pytest.mark.usefixtures("fresh_process")
def test_nothing_is_written_through_a_link(tmp_path, name, kept):
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    if "*" in name:  # the name of a state tells whose it is
        state = _first_state(tmp_path / "known")
        name = name.replace("epoch-0-*", state)
    (folder / name).parent.mkdir(exist_ok=True)
    if kept is not None:
        (outside / "kept").write_text(kept)
    directory = name.startswith("epoch") and "/" not in name
    (folder / name).symlink_to(outside if directory else outside / "kept")
    writer = next(w for pattern, w in WRITERS.items() if name.startswith(pattern[:5]))
    with pytest.raises(ValueError, match=r"must not be a link, which may lead out of its folder"):
        writer(folder)
    assert [path.read_text() for path in outside.iterdir()] == ([] if kept is None else [kept])


def _first_state(folder):
    """Return the name of the first state of a training, which the same training has elsewhere."""
    trained(folder)
    (last,) = folder.glob("epoch-1-*")
    return last.name.replace("epoch-1-", "epoch-0-")


def test_a_link_that_guesses_the_name_of_a_part_is_replaced(tmp_path):
    (tmp_path / "outside").write_text("precious")
    (tmp_path / f".plan.json.{os.getpid()}").symlink_to(tmp_path / "outside")
    write_text(tmp_path / "plan.json", "new")
    assert (tmp_path / "outside").read_text() == "precious"
    assert (tmp_path / "plan.json").read_text() == "new"
    assert not (tmp_path / "plan.json").is_symlink()
