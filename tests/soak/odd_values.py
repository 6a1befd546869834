"""Values that nobody should give: for fields of JSON, cells of tables, and options."""

import json
import os

HUGE = 10**400
DEEP = 200_000
"""Brackets within brackets."""

NUMBERS = (0, -1, 1, 2, 7, 1.5, -0.0, 1e308, 2**31, 2**62, 2**63, -(2**63), 2**64, HUGE, -HUGE)
TEXTS = (
    *("", " ", "x", "\n", "a\tb", "\u2028", "é" * 50, "x" * 100_000, "=1+1", "@x", "-x", "+x"),
    *("<script>alert(1)</script>", "';--", "{{7*7}}", "%s%n", "[", "*", "..", "../../outside"),
    *("run.payload:small", "os:getcwd", "chain:1x1", "sekron:8x1x3x1,1x8x1x3@99999", "1" * 5000),
    *("sqlite:///../outside/made.db", "float32", "0" * 64, "epoch-1-00000000", "/etc/hostname"),
)
JSON = (
    *(json.dumps(value) for value in (*NUMBERS[:-2], *TEXTS)),
    *("9" * 400, "-" + "9" * 400, "1e999", "NaN", "-Infinity", "null", "true", "false"),
    *("[]", "{}", "[[]]", '{"a":1}', '"\\ud800"', '"\\u0000"', "[" * DEEP + "]" * DEEP),
    *('{"a":' * DEEP + "1" + "}" * DEEP, "[" + "0," * 5000 + "0]", "", "'x'"),
)
"""Texts that stand in the place of a value of JSON; not all are JSON."""

GIVEN = (
    *("", " ", "-", "--", "x", "0", "-1", "1", "2", "1.5", "-0", "00", "+1", "1e9", "1e-400"),
    *("1e999", "nan", "inf", "-inf", str(2**31), str(2**63), "-" + str(2**64), "9" * 400),
    *("0x10", "½", "١", "1_0", "50%", "%", "0%", "-5%", "101%", "nan%", "x:y", "os:getcwd", ":"),
    *("no_such:x", "soak_network:none", "soak_network:score", "sys:exit", "1x3", "1x3x9x9"),
    *("1x3x99999999999x9", "1x3x0x9", "ids:1x64:int64:9", "x:1x3x11x9", "2x3x11x9,2x3x11x9"),
    *("1x99999x99999", "float32", "[", "*", "**", "(", "2*", "a" * 10_000, "é\u2028\x1b[31m"),
    *(os.fsdecode(b"\xff\xfe"), "=1+1", "<script>alert(1)</script>", "true", "None"),
    *("weights.safetensors", "weights.pt", "data.safetensors", "images.safetensors", "pictures"),
    *("run", "stored", "train", "run/run.json", "run/study.log", "small.safetensors", "fifo"),
    *("loop", "loop/x", "none/none", "none.safetensors", "run/payload.py", "../outside"),
    *("sqlite:///none.db", "sqlite:///run/run.json", "sqlite:////none/none.db", "sqlite://"),
    *("postgresql+psycopg://u:secret@127.0.0.1:1/x", "mysql://u:secret@h/x", "redis://x"),
    *("imagenet", "0.5/0", "0/1", "nan/1", "0.1,0.2/0.3", "run.payload:small"),
)
"""Texts that stand in the place of an argument."""
