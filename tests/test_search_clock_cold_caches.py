import pytest
import torch

from search.clock.cold_caches import OWN_CACHE, displacing


@pytest.mark.parametrize("others", [0, 100, 1 << 40])
def test_the_inputs_are_read_and_nothing_else(others):
    inputs = [torch.randn(2, 3), torch.randn(4)]
    copies = [x.clone() for x in inputs]
    displace = displacing(inputs, others)
    displace()
    assert all(torch.equal(x, y) for x, y in zip(inputs, copies, strict=True))


def test_no_more_is_touched_than_the_others_do_or_the_caches_hold(monkeypatch):
    sizes = []
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda n, **how: sizes.append(n) or zeros(n, **how))
    for others in (100, 1 << 40):
        displacing([torch.randn(2)], others)
    assert sizes == [100, OWN_CACHE * torch.get_num_threads()]
