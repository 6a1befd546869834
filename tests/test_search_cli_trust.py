"""A run folder is data: what it names runs only if its user has named it on this machine."""

import json
import shutil

import platformdirs
import pytest

from search.cli.trust import model_of
from search.folder.run_folder import RunFolder
from tests.test_search_cli_app import QUICK, files, run_folder, sekron_command

__all__ = ["files", "run_folder", "sekron_command"]  # fixtures are found by their names

COMMANDS = [("apply", "--output", "out.safetensors"), ("compare", "--max-seconds", "1")]


@pytest.fixture
def strange(run_folder, files):
    """A folder from elsewhere, whose record names a module that lies in it."""
    folder = files / "strange"
    shutil.copytree(run_folder, folder, dirs_exist_ok=True)
    record = json.loads((folder / "run.json").read_text())
    record["source"]["model"] = "strange.payload:small"
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "payload.py").write_text(
        "import pathlib\npathlib.Path('executed').touch()\nfrom cli_networks import small\n"
    )
    return folder


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_a_model_that_only_the_folder_names_does_not_run(sekron_command, strange, files, command):
    code, out, err = sekron_command(command[0], "strange", *command[1:])
    assert (code, out) == (2, "")
    assert "says that its model is 'strange.payload:small', which nobody has named" in err
    assert "add --model strange.payload:small." in err
    assert err.count("\n") == 1
    assert not (files / "executed").exists()


def test_what_the_user_names_runs_then_and_afterwards(sekron_command, strange, files):
    arguments = ("apply", "strange", "--output", "out.safetensors")
    code, _, err = sekron_command(*arguments, "--model", "cli_networks:small")
    assert code == 0, err
    assert sekron_command(*arguments)[0] == 2  # another one was named
    assert not (files / "executed").exists()
    code, _, err = sekron_command(*arguments, "--model", "strange.payload:small")
    assert code == 0, err
    assert sekron_command(*arguments)[0] == 0
    (files / "executed").unlink()


def test_a_copy_of_a_folder_is_another_folder(sekron_command, run_folder, files):
    shutil.copytree(run_folder, files / "copied")
    arguments = ("apply", "copied", "--output", "out.safetensors")
    code, _, err = sekron_command(*arguments)
    assert code == 2
    assert "add --model cli_networks:small." in err
    assert sekron_command(*arguments, "--model", "cli_networks:small")[0] == 0
    assert sekron_command("apply", "run", "--output", "out.safetensors")[0] == 0


def test_other_weights_are_refused(sekron_command, run_folder):
    code, _, err = sekron_command(
        *("apply", "run", "--output", "out.safetensors"),
        *("--model", "cli_networks:small", "--weights", "changed.safetensors"),
    )
    assert code == 2
    assert "layer '2' has other weights; use the same." in err


def test_trials_in_a_database_are_read_where_it_is_given(sekron_command, files):
    url = "sqlite:///trials.db"
    arguments = ("search", "cli_networks:small", *QUICK, "--flops", "70%", "--run", "stored")
    assert sekron_command(*arguments, "--storage", url)[0] == 0
    code, _, err = sekron_command("front", "stored")
    assert code == 2
    assert f"are in the database {url}; give its URL again, as `storage=` or `--storage`." in err
    assert sekron_command("front", "stored", "--storage", url)[0] == 0
    output = ("--output", "out.safetensors")
    assert sekron_command("apply", "stored", *output, "--storage", url)[0] == 0


def test_a_folder_behind_a_link_to_itself_is_one_line(sekron_command, files):
    (files / "loop").symlink_to("loop")
    arguments = ("search", "cli_networks:small", *QUICK, "--flops", "70%", "--run", "loop/run")
    code, out, err = sekron_command(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "--traceback" not in err
    assert "loop/run" in err


def test_a_user_without_a_home_is_asked_every_time(run_folder, monkeypatch):
    def homeless(_):
        raise RuntimeError("could not determine the home directory")

    record = RunFolder(run_folder).read()
    monkeypatch.setattr(platformdirs, "user_state_path", homeless)
    assert model_of(str(run_folder), record, record.source.model) == record.source.model
    with pytest.raises(ValueError, match="which nobody has named for it on this machine"):
        model_of(str(run_folder), record, "")


def test_words_of_a_folder_command_neither_terminal_nor_shell(sekron_command, strange):
    record = json.loads((strange / "run.json").read_text())
    record["source"]["model"] = "a:b\x1b[2K; touch executed"
    (strange / "run.json").write_text(json.dumps(record))
    code, _, err = sekron_command("apply", "strange", "--output", "out.safetensors")
    assert code == 2
    assert "\x1b" not in err
    assert "add --model 'a:b\\x1b[2K; touch executed'." in err
