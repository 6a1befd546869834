"""`sekron funnel`: ranks by training, from files."""

from __future__ import annotations

from typing import Annotated

import torch
import typer
from torch.utils.data import DataLoader, TensorDataset

from search.cli.arguments import (
    Inputs,
    Json,
    Limit,
    Model,
    Patterns,
    Weights,
    budget_of,
    example_of,
    source_of,
)
from search.cli.output import note, print_json
from search.cli.sources import load_labelled, load_model
from sekron.network.checkpoint import save
from sekron.profiling.count import count_flops
from sekron.profiling.profile import profile
from sekron.records import check_folder
from sekron.training.funnel import GATE_RATE
from sekron.training.funnel import funnel as close_gates
from sekron.training.funnel_penalty import Funnel
from sekron.training.recipe import Recipe


def funnel(
    model: Model,
    inputs: Inputs,
    data: Annotated[str, typer.Option(help="Safetensors file with `images` and `labels`.")],
    output: Annotated[str, typer.Option(help="File to write: weights and plan.")],
    weights: Weights = "",
    flops: Limit = None,
    params: Limit = None,
    include: Patterns = None,
    exclude: Patterns = None,
    epochs: Annotated[int, typer.Option(help="Passes over the data.")] = 10,
    learning_rate: Annotated[float, typer.Option(help="First one; falls along a cosine.")] = 0.01,
    batch_size: Annotated[int, typer.Option(help="Images of a step.")] = 64,
    schedule: Annotated[str, typer.Option(help="gate or global.")] = "gate",
    strength: Annotated[
        float | None, typer.Option(help="Of the penalty; default 0.01 for gate, 0.002 for global.")
    ] = None,
    gate_rate: Annotated[
        float, typer.Option(help="Learning rate of the gates over that of the weights.")
    ] = GATE_RATE,
    folder: Annotated[str | None, typer.Option(help="Keeps the state of the training.")] = None,
    seed: Annotated[int, typer.Option(help="Of the order of the images.")] = 0,
    as_json: Json = False,
) -> None:
    """Choose ranks by training with a penalty on gates; write the trained network."""
    budget = budget_of(flops, params)
    check_folder(output)  # before hours of training
    example = example_of(source_of(model, weights, inputs))
    if example.named or len(example.values) > 1:
        raise ValueError("funnel trains on one tensor of images: give one --input, without a name.")
    network = load_model(model, weights)
    images, labels = load_labelled(data)
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    loader = DataLoader(
        TensorDataset(images, labels),
        batch_size,
        shuffle=True,
        generator=torch.Generator().manual_seed(seed),
    )
    result = close_gates(
        network,
        loader,
        example,
        budget=budget,
        dense=network,
        penalty=Funnel(schedule, strength),
        recipe=Recipe(epochs=epochs, learning_rate=learning_rate),
        gate_rate=gate_rate,
        include=include,
        exclude=exclude,
        folder=folder,
    )
    save(result.network, output)
    counted, _ = count_flops(result.network, example.images(0, 1))
    dense = profile(network, example).flops
    if as_json:
        found = {"layers": len(result.plan), "flops": counted, "flops_ratio": counted / dense}
        print_json({"output": output, "wanted": str(budget), **found})
    else:
        note(
            f"{output}: {len(result.plan)} layers replaced, {counted:,} FLOPs "
            f"({counted / dense:.1%}), for {budget}; next: `sekron.recalibrate`, then "
            "`sekron.finetune`"
        )
