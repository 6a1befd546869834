"""What the packages promise as a whole: names, files, and what a wheel of them holds."""

import ast
import importlib
import pkgutil
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import torch

import sekron

ROOT = Path(__file__).parents[1]
PACKAGES = ("sekron", "baselines", "search")
SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
MOST_LINES = 300


def modules(package):
    found = importlib.import_module(package)
    return [info.name for info in pkgutil.walk_packages(found.__path__, f"{package}.")]


@pytest.mark.parametrize("name", [name for package in PACKAGES for name in modules(package)])
def test_no_function_hides_a_module(name):
    assert importlib.import_module(name) is sys.modules[name]
    parent, _, last = name.rpartition(".")
    assert getattr(sys.modules[parent], last) is sys.modules[name]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_short_and_a_room_exports_nothing(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_LINES
    if path.name == "__init__.py" and path.parent.name not in PACKAGES:
        assert text == f'"""{ast.get_docstring(ast.parse(text))}"""\n'


@pytest.mark.slow
def test_a_wheel_holds_all_that_the_ten_lines_need(tmp_path):

    def run(*command, **options):
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, **{"cwd": tmp_path, **options}
        )
        assert done.returncode == 0, done.stdout + done.stderr

    source = tmp_path / "sekron"  # a build leaves files beside what it builds
    for name in (*PACKAGES, "pyproject.toml", "README.md"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        source.mkdir(exist_ok=True)
        copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run(*pip, "wheel", "--no-deps", "--wheel-dir", tmp_path, source)
    (wheel,) = tmp_path.glob("sekron-*.whl")
    templates = {
        path.relative_to(ROOT).as_posix() for path in ROOT.glob("search/report/template/*")
    }
    assert templates <= set(zipfile.ZipFile(wheel).namelist())
    fresh, editable = tmp_path / "fresh", tmp_path / "editable"
    for folder, what in (fresh, [wheel]), (editable, ["--editable", source]):
        run(sys.executable, "-m", "venv", "--without-pip", folder)
        run(*pip, "--python", folder / "bin" / "python", "install", "--no-deps", *what)
    names = [name for package in PACKAGES for name in modules(package)]
    # The dependencies come by path: without the checkout's own link, which stands in a .pth file.
    environment = {"PYTHONPATH": sysconfig.get_path("purelib"), "OMP_NUM_THREADS": "1"}
    code = f"""
import doctest, importlib, sys, search
assert search.__file__.startswith({str(fresh)!r}), search.__file__
for name in {names!r}:
    importlib.import_module(name)
failed, tried = doctest.testfile({str(ROOT / "README.md")!r}, module_relative=False)
sys.exit(failed or not tried)
"""
    run(fresh / "bin" / "python", "-c", code, cwd=fresh, env=environment)
    # Beside a clone whose folder is called as the package in it.
    run(editable / "bin" / "python", "-c", "import sekron; sekron.repair", env=environment)


def in_a_fresh_process(code, *arguments):
    """Run code on the packages of this checkout and return what it prints."""
    environment = {"PYTHONPATH": f"{ROOT}:{sysconfig.get_path('purelib')}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


HEAVY = (
    *("accelerate", "fvcore", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "openvino"),
    *("optuna", "pandas", "plotly", "rich", "scipy", "sklearn", "sqlalchemy", "tensorly", "typer"),
)
"""What only those import who search, export or train."""


def test_a_network_that_runs_needs_neither_tables_nor_a_terminal():
    """Imports that would cost more than torch's own are left to those who search."""
    code = f"import sys, sekron; print([name for name in {HEAVY} if name in sys.modules])"
    assert in_a_fresh_process(code) == "[]\n"


def test_a_compressed_network_loads_and_runs_with_sekron_and_torch_alone(small_network, tmp_path):
    """In a process in which nothing else of the project's, or for searching, can be imported."""
    structures = {
        "0": "cp:8x1x1x1,1x3x1x1,1x1x3x1,1x1x1x3@4",
        "3": "sekron:3x2x3x1,4x4x1x3@6",
        "6": "ring:12x1x3x1,1x12x1x3@2,3",
        "8": "chain:20x1x1x1,1x12x1x1@5",
        "11": "chain:30x1,1x20@9",
    }
    plan = sekron.Plan({name: sekron.Structure.parse(text) for name, text in structures.items()})
    small, image = plan.apply(small_network), torch.ones(1, 3, 14, 11)
    sekron.save(small, tmp_path / "small.safetensors")
    torch.save(small_network, tmp_path / "dense.pt")
    code = f"""
import sys
for name in (*{HEAVY}, "search", "baselines"):
    sys.modules[name] = None
import torch, sekron
dense = torch.load(sys.argv[1], weights_only=False)
print(sekron.load(dense, sys.argv[2])(torch.ones(1, 3, 14, 11)).tolist())
"""
    printed = in_a_fresh_process(code, tmp_path / "dense.pt", tmp_path / "small.safetensors")
    torch.testing.assert_close(torch.tensor(ast.literal_eval(printed)), small(image).detach())
