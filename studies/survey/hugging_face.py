"""Networks of transformers in small sizes; what they take is given by keyword, as they want it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sekron.forward.inputs import Inputs
from studies.survey.made import Made, Networks, images

NARROW = {
    "hidden_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 384,
}

WORDS = {"vocab_size": 1000, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}


def _made(kind: str, config: str, example: dict[str, Tensor], **settings: Any) -> Made:
    import transformers  # noqa: PLC0415  heavy, and needed by these networks only

    inputs: Inputs = example
    return getattr(transformers, kind)(getattr(transformers, config)(**settings)), inputs


def _text(length: int = 24, masked: int = 6) -> dict[str, Tensor]:
    """Word numbers, the last of which are none."""
    mask = torch.ones(1, length, dtype=torch.int64)
    mask[:, length - masked :] = 0
    return {"input_ids": torch.randint(3, 1000, (1, length)), "attention_mask": mask}


def _translator() -> Made:
    example = {**_text(), "decoder_input_ids": torch.randint(3, 1000, (1, 12))}
    return _made(
        *("T5Model", "T5Config", example),
        **{"d_model": 96, "d_kv": 24, "d_ff": 384, "num_layers": 2, "num_heads": 4},
        **{"vocab_size": 1000, "decoder_start_token_id": 0},
    )


def _speech() -> Made:
    return _made(
        *("Wav2Vec2Model", "Wav2Vec2Config", {"input_values": torch.randn(1, 3000)}),
        **{**NARROW, "conv_dim": (64,) * 4, "conv_kernel": (10, 3, 3, 2)},
        **{"conv_stride": (5, 4, 4, 2), "num_feat_extract_layers": 4},
        **{"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4},
    )


def _both() -> Made:
    text = {**NARROW, **WORDS, "max_position_embeddings": 32}
    seen = {**NARROW, "image_size": 64, "patch_size": 16}
    return _made(
        *("CLIPModel", "CLIPConfig", {**_text(), "pixel_values": images(64)}),
        **{"text_config": text, "vision_config": seen, "projection_dim": 64},
    )


def _regions() -> Made:
    return _made(
        *("SegformerForSemanticSegmentation", "SegformerConfig", {"pixel_values": images(64)}),
        **{"depths": [1, 1, 1, 1], "hidden_sizes": [16, 32, 64, 96], "num_labels": 8},
        **{"num_attention_heads": [1, 2, 4, 4], "decoder_hidden_size": 96},
    )


NETWORKS: Networks = {
    "transformers/bert, masked": lambda: _made(
        "BertModel", "BertConfig", _text(), **NARROW, vocab_size=1000
    ),
    "transformers/llama, with its cache": lambda: _made(
        *("LlamaForCausalLM", "LlamaConfig", _text()),
        **{**NARROW, **WORDS, "num_key_value_heads": 2, "use_cache": True},
    ),
    "transformers/vit": lambda: _made(
        *("ViTForImageClassification", "ViTConfig", {"pixel_values": images(64)}),
        **{**NARROW, "image_size": 64, "patch_size": 8, "num_labels": 10},
    ),
    "transformers/resnet": lambda: _made(
        *("ResNetForImageClassification", "ResNetConfig", {"pixel_values": images(64)}),
        **{"embedding_size": 32, "hidden_sizes": [64, 128, 192, 256], "depths": [1, 1, 1, 1]},
        **{"num_labels": 10},
    ),
    "transformers/t5": _translator,
    "transformers/wav2vec2": _speech,
    "transformers/clip": _both,
    "transformers/segformer": _regions,
}
