"""Options that say nothing without another one are refused, each in one line."""

import pytest

from tests.test_search_cli_app import QUICK, SHAPE, files, run_folder, sekron_command

__all__ = ["files", "run_folder", "sekron_command"]

SEARCH = ("search", "cli_networks:small", *QUICK, "--flops", "60%", "--run", "new")
EXPORT = ("export", "small.safetensors", "--model", "cli_networks:small", *SHAPE)
REPORT = ("report", "run", "--output", "new.html")


@pytest.mark.parametrize(
    ("arguments", "needed"),
    [
        ((*EXPORT, "--pt2", "new.pt2", "--opset", "19"), "--onnx"),
        ((*REPORT, "--model", "cli_networks:small"), "--compare"),
        ((*REPORT, "--weights", "good.safetensors"), "--compare"),
        (("worker", "run", "--calibration", "good.safetensors"), "--score"),
        ((*SEARCH, "--output-kind", "values"), "--calibration"),
        ((*SEARCH, "--normalize", "imagenet"), "--calibration"),
        ((*SEARCH, "--images", "8"), "--calibration"),
        ((*SEARCH, "--keep-latency"), "--measure-seconds above 0"),  # `QUICK` does not measure
    ],
)
def test_an_option_that_needs_another_one_is_refused_without(
    sekron_command, run_folder, files, arguments, needed
):
    option = [argument for argument in arguments if argument.startswith("--")][-1]
    code, out, err = sekron_command(*arguments)
    refusal = f"{option} must come with {needed}, without which it says nothing"
    assert (code, out, err) == (2, "", f"sekron: {refusal}; give both or neither.\n")
    assert not [*files.glob("new*")]
