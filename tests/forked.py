"""Commands in processes of their own, forked from one that has imported the command line."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
CODE = """
import json, os, sys
from search.cli.app import main
for place, (arguments, environment) in enumerate(json.loads(sys.argv[1])):
    if child := os.fork():
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{sys.argv[2]}/{place}.{name}", os.O_CREAT | os.O_WRONLY), number)
    os.environ.update(environment)
    sys.argv = ["sekron", *arguments]
    main()
"""


def answers_of(folder, commands):
    """Run commands, each with further environment, in a folder; return code, stdout and stderr."""
    with tempfile.TemporaryDirectory() as private:
        done = subprocess.run(
            [sys.executable, "-c", CODE, json.dumps(commands), private],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        return [
            (int(code), *(Path(private, f"{place}.{name}").read_text() for name in ("out", "err")))
            for place, code in enumerate(done.stdout.split())
        ]
