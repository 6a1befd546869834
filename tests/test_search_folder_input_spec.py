"""Inputs as text, as tensors, and as a run folder keeps them."""

import json
import re

import pytest
import torch

from search.folder.input_spec import InputSpec
from search.folder.run_record import RunRecord
from search.folder.settings import Source


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("1x3x224X13", InputSpec((1, 3, 224, 13))),
        (" 5 ", InputSpec((5,))),
        ("pixel_values:1x3x8x8", InputSpec((1, 3, 8, 8), "pixel_values")),
        ("1x7:int64", InputSpec((1, 7), dtype="int64")),
        ("x:1x7:bool", InputSpec((1, 7), "x", "bool")),
        ("ids:1x7:int32:30522", InputSpec((1, 7), "ids", "int32", 30522)),
        ("1x7:uint8:256", InputSpec((1, 7), "", "uint8", 256)),
        ("1x3x5x7:channels_last", InputSpec((1, 3, 5, 7), channels_last=True)),
        ("x:1x3x5x7:float16:channels_last", InputSpec((1, 3, 5, 7), "x", "float16", 2, True)),
    ],
)
def test_inputs_as_text(text, spec):
    assert InputSpec.parse(text) == spec
    assert InputSpec.parse(str(spec)) == spec
    assert str(spec) == text.strip().lower()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "1x",
        "1x-3",
        "3,4",
        "1.5x2",
        ":1x2",
        "x:y:1x2",
        "1x2:int64:9:9",
        "1x2:int64:",
        "channels_last",
    ],
)
def test_text_that_is_no_input(text):
    message = f"'ids:1x128:int64:30522', got {text!r}."
    with pytest.raises(ValueError, match=re.escape(message)):
        InputSpec.parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1x0x3", "must have sizes from 1 on and at most 2,147,483,648 numbers, got '1x0x3'"),
        ("65536x65536", "at most 2,147,483,648 numbers, got '65536x65536'"),
        ("a b:1", "name must be one of Python's, got 'a b'"),
        ("1x2:float", "dtype must be one of float32, float64, .*, got 'float'"),
        ("1x2:int8:129", "an input of int8 must have its integers below 1 to 128, got 129"),
        ("1x2:int64:0", "must have its integers below 1 to 2147483648, got 0"),
        ("1x2:bool:3", "an input of bool must have its integers below 1 to 2, got 3"),
        ("1x2:channels_last", "an input with its channels last must have four sizes, got '1x2'"),
    ],
)
def test_inputs_that_cannot_be(text, message):
    with pytest.raises(ValueError, match=message):
        InputSpec.parse(text)


def test_numbers_are_such_that_a_network_takes_them():
    def tensor(text):
        return InputSpec.parse(text).tensor(torch.Generator().manual_seed(0))

    plain = torch.randn(2, 300, generator=torch.Generator().manual_seed(0))
    assert torch.equal(tensor("2x300"), plain)
    assert torch.equal(tensor("2x300:bfloat16"), plain.bfloat16())
    assert tensor("2x300:bool").all()
    for text, dtype, below in [
        ("2x300:int64", torch.int64, 2),  # of any embedding, one of token types too
        ("2x300:uint8:256", torch.uint8, 256),
        ("2x300:int32:7", torch.int32, 7),
    ]:
        assert tensor(text).dtype == dtype
        assert tensor(text).min() == 0
        assert below * 0.9 < int(tensor(text).max()) + 1 <= below


def test_channels_last_is_an_order_in_memory_of_the_same_numbers():
    plain, last = (
        InputSpec.parse(f"2x3x5x7{order}").tensor(torch.Generator().manual_seed(0))
        for order in ("", ":channels_last")
    )
    assert torch.equal(plain, last)
    assert plain.is_contiguous()
    assert not last.is_contiguous()
    assert last.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": []}, "an input must have sizes from 1 on"),
        ({"shape": [1, -3]}, "an input must have sizes from 1 on"),
        ({"shape": "1x3"}, "Expected `array`, got `str`"),
        ({"shape": [1, 2.5]}, "Expected `int`, got `float`"),
        ({"shape": [2**40, 2**40]}, "at most 2,147,483,648 numbers"),
        ({"name": "a b"}, "name must be one of Python's"),
        ({"name": "other"}, "the name of an input must stand once, got 'other' again"),
        ({"dtype": "object"}, "Invalid enum value 'object'"),
        ({"dtype": "int64", "below": 0}, "integers below 1 to"),
        ({"below": 3}, "an input of float32 must have its integers below 1 to 2, got 3"),
    ],
)
def test_records_of_inputs_that_cannot_be_are_refused(small_run, change, message):
    text = (small_run / "run.json").read_bytes()
    record = json.loads(text)
    spec = {"shape": [1, 3, 8, 8], "name": "", "dtype": "float32", "below": 2}
    other = spec | {"name": "other", "channels_last": True}  # which older records do not have
    record["source"] = {"model": "a:b", "weights": "", "inputs": [other, spec]}
    read = RunRecord.from_json(json.dumps(record), "run.json").source
    first = InputSpec((1, 3, 8, 8), "other", channels_last=True)
    assert read == Source("a:b", "", (first, InputSpec((1, 3, 8, 8))))
    record["source"]["inputs"] = [other, spec | change]
    with pytest.raises(ValueError, match=f"run.json is damaged: .*{message}"):
        RunRecord.from_json(json.dumps(record), "run.json")
