"""What every factorized convolution is checked against: its own dense kernel."""

from itertools import permutations, product

import torch

from sekron import reconstruct
from sekron.layers.operations import Form


def check_forms(make, x):
    """Every order of the factors, with matrix products and without, is the dense convolution.

    Args:
        make: From `form=` to a layer.
        x: Input.
    """
    first = make()
    factors = first.factors()
    with torch.no_grad():
        expected = first.to_conv()(x)
        torch.testing.assert_close(first(x), expected)
        torch.testing.assert_close(first(x[0]), expected[0])
        for order, matmul in product(permutations(range(first.structure.length)), (False, True)):
            layer = make(form=Form(order, matmul))
            layer.set_factors(factors)
            layer.load_state_dict({"bias": first.bias} if first.bias is not None else {}, False)
            assert layer.order == order
            torch.testing.assert_close(layer(x), expected)


def check_gradients(layer, x):
    """Gradients of the input, the bias and the factors are those through the rebuilt kernel."""
    x = x.requires_grad_()
    factors = [a.detach().requires_grad_() for a in layer.factors()]
    dense, bias = layer.to_conv(), layer.bias.detach().requires_grad_()
    y = torch.func.functional_call(
        dense, {"weight": reconstruct(factors, layer.structure), "bias": bias}, x
    )
    direction = torch.randn_like(y)
    expected = torch.autograd.grad(y, [x, bias, *factors], direction)
    found = torch.autograd.grad(layer(x), [x, layer.bias, *layer.weights], direction)
    torch.testing.assert_close(found[:2], expected[:2])
    for operation, gradient in zip(layer.operations, found[2:], strict=True):
        torch.testing.assert_close(operation.unpack(gradient), expected[2 + operation.factor])
