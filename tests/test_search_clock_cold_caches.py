"""What a layer finds in the caches, by the memory that every operation in between takes."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from search.clock.cold_caches import OWN_CACHE, displacing


class Touched(TorchDispatchMode):
    """Keeps the memory that every operation takes, and which of its elements were written."""

    def __init__(self):
        super().__init__()
        self.memory, self.written = [], []

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        before = arguments[0].clone()
        result = function(*arguments, **(named or {}))
        if not function.is_view:  # which takes none
            self.memory.append(arguments[0])
            self.written.append((arguments[0] != before).flatten())
        return result


@pytest.fixture
def set_threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("n_threads", "others", "displaced"),
    [
        (1, 0, 0),
        (1, 101, 101),
        (1, OWN_CACHE + 7, OWN_CACHE),
        (3, OWN_CACHE + 7, OWN_CACHE + 7),
        (3, 1 << 40, 3 * OWN_CACHE),
    ],
)
def test_what_the_caches_hold_of_the_others_is_written_then_the_inputs_are_read(
    n_threads, others, displaced, set_threads
):
    set_threads(n_threads)
    inputs = [torch.randn(2, 3), torch.randn(5)]
    displace = displacing(inputs, others)
    for _ in range(2):
        with Touched() as touched:
            displace()
        (first, *rest), (written, *changed) = touched.memory, touched.written
        assert first.nbytes == displaced
        assert written.all()
        assert all(x is own for x, own in zip(rest, inputs, strict=True))
        assert not torch.cat(changed).any()
