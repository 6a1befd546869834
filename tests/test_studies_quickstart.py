"""The picture of the quickstart's front: drawn of a frame, and the one that the READMEs show."""

import re
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from studies.quickstart.picture import FASTER, INK, SLOWER, draw

ROOT = Path(__file__).parents[1]
SHOWN = ROOT / "studies" / "quickstart" / "front.svg"
FRONT = pd.DataFrame(
    {
        "error": [5.0, 3.0, 2.0, 1.0, 0.0],
        "flops_ratio": [0.1, 0.3, 0.4, 0.5, 1.0],
        "speedup": [1.5, np.nan, 0.7, 1.1, np.nan],
    }
)


def texts(path):
    return [e.text for e in ElementTree.parse(path).iter() if e.tag.endswith("}text")]


def marks(path, panel):
    """Colour -> points of that colour in a panel; those of its legend are not cut by its frame."""
    (axes,) = (g for g in ElementTree.parse(path).iter() if g.get("id") == f"axes_{panel}")
    groups = [group for group in axes.iter() if "PathCollection" in group.get("id", "")]
    cut = [e for group in groups for e in group.iter() if e.get("clip-path")]
    points = [point for e in cut for point in ([*e] or [e])]
    colours = (re.findall("(?:fill|stroke): (#[0-9a-f]{6})", e.get("style"))[0] for e in points)
    return dict(Counter(colours))


def test_every_plan_is_a_point_and_the_slower_ones_are_told(tmp_path):
    path = tmp_path / "front.svg"
    draw(FRONT, 3, 0.5, path)
    assert marks(path, 1) == {FASTER: 3, SLOWER: 1, INK: 1}  # the dense network is not slower
    assert marks(path, 2) == {FASTER: 3, SLOWER: 1}  # what was not timed has no place there
    assert texts(path).count("row 3, the plan") == 2
    first = path.read_bytes()
    draw(FRONT, 3, 0.5, path)
    assert path.read_bytes() == first
    draw(FRONT, None, 0.5, tmp_path / "front.png")
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("colour", [INK, FASTER, SLOWER])
def test_it_is_read_on_white_and_on_black(colour):
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    assert 1.05 / (luminance + 0.05) >= 3  # WCAG's contrast of graphics
    assert (luminance + 0.05) / 0.05 >= 3


def test_the_picture_in_the_readmes_is_there_and_asks_for_nothing():
    for readme in (ROOT / "README.md", SHOWN.parent / "README.md"):
        (link,) = re.findall(r"!\[[^]]*\]\(([^)]*front\.svg)\)", readme.read_text("utf-8"))
        assert (readme.parent / link).resolve() == SHOWN.resolve()
    text = SHOWN.read_text("utf-8")
    assert len(text) < 100_000
    links = re.findall(r'href="([^"]*)"', text)
    assert all(link.startswith("#") for link in links)
    assert "url(http" not in text
    fills = set(re.findall("(?:fill|stroke): (#[0-9a-f]{6})", text))
    assert fills == {INK, FASTER, SLOWER}  # nothing white or black, and nothing behind it
