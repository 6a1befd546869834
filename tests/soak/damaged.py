"""Ways to damage a file, each from a random generator and repeated by its seed."""

import json
import os
import pickle
import random
import re
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.soak.odd_values import JSON, TEXTS

Damage = Callable[[Path, random.Random], None]


class Payload:
    """Loading this makes a file."""

    def __reduce__(self):
        return os.mkdir, ("../executed",)


def _bytes(change: Callable[[bytes, random.Random], bytes]) -> Damage:
    return lambda path, draw: _write(path, change(path.read_bytes(), draw))


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _flipped(content: bytes, draw: random.Random, n: int = 1) -> bytes:
    changed = bytearray(content or b"\0")
    for _ in range(n):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _letter(content: bytes, draw: random.Random) -> bytes:
    """Exchange one digit or letter for another, which leaves the form as it is."""
    places = [match.start() for match in re.finditer(rb"[0-9a-zA-Z]", content)] or [0]
    place = draw.choice(places)
    return content[:place] + draw.choice(b"0123456789abcX").to_bytes() + content[place + 1 :]


def _line(content: bytes, draw: random.Random) -> bytes:
    """Take a line out, give it twice, or put another in its place."""
    lines = content.splitlines(keepends=True) or [b""]
    index = draw.randrange(len(lines))
    put = draw.choice(([], [lines[index]] * 2, [draw.choice(lines)], [b"\n"], [b"{}\n"]))
    return b"".join([*lines[:index], *put, *lines[index + 1 :]])


def _value(content: bytes, draw: random.Random) -> bytes:
    """Put an odd value in the place of one in a text of JSON, or of a line in it."""
    text = content.decode(errors="surrogateescape")
    token = r'"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*|true|false|null|[^\s,;:]+'
    places = list(re.finditer(token, text))
    if not places:
        return draw.choice(JSON).encode()
    place = draw.choice(places)
    changed = text[: place.start()] + draw.choice(JSON) + text[place.end() :]
    return changed.encode(errors="surrogateescape")


def _replaced(make: Callable[[Path, random.Random], object]) -> Damage:
    def damage(path: Path, draw: random.Random) -> None:
        path.unlink()
        make(path, draw)

    return damage


OUTSIDE = ("precious.txt", "empty.txt", "made.txt")


def _outside(path: Path, draw: random.Random) -> None:
    """Put a link to a file of somebody else's, or to one that is not there yet."""
    user = next(parent for parent in path.parents if parent.name == "user")
    path.symlink_to(user.parent / "outside" / draw.choice(OUTSIDE))


def _moved(path: Path, draw: random.Random) -> None:
    """Put a link to the file itself, moved elsewhere."""
    user = next(parent for parent in path.parents if parent.name == "user")
    shutil.move(path, user.parent / "outside" / "moved")
    path.symlink_to(user.parent / "outside" / "moved")


ANY: dict[str, Damage] = {
    "a bit": _bytes(_flipped),
    "bits": _bytes(lambda content, draw: _flipped(content, draw, 20)),
    "cut": _bytes(lambda content, draw: content[: draw.randrange(len(content) or 1)]),
    "begin cut": _bytes(lambda content, draw: content[draw.randrange(len(content) or 1) :]),
    "empty": _bytes(lambda *_: b""),
    "twice": _bytes(lambda content, _: content * 2),
    "noise behind": _bytes(lambda content, draw: content + draw.randbytes(50)),
    "noise": _bytes(lambda _, draw: draw.randbytes(1000)),
    "zeros": _bytes(lambda content, _: bytes(len(content))),
    "another file": lambda path, draw: shutil.copy(_sibling(path, draw), path),
    "pickle": _bytes(lambda *_: pickle.dumps(Payload())),
    "torch pickle": lambda path, _: torch.save({"x": Payload()}, path),
    "gone": lambda path, _: path.unlink(),
    "folder": _replaced(lambda path, _: path.mkdir()),
    "FIFO": _replaced(lambda path, _: os.mkfifo(path)),
    "link outside": _replaced(_outside),
    "link to itself": _replaced(lambda path, _: path.symlink_to(path.name)),
    "link to zeros": _replaced(lambda path, _: path.symlink_to("/dev/zero")),
    "moved": _moved,
}
TEXT: dict[str, Damage] = {
    name: _bytes(change)
    for name, change in {"a letter": _letter, "a line": _line, "a value": _value}.items()
}


def _sibling(path: Path, draw: random.Random) -> Path:
    others = sorted(other for other in path.parent.iterdir() if other.is_file() and other != path)
    return draw.choice(others or [path.parents[1] / "data.safetensors"])


def _header(path: Path, draw: random.Random) -> None:
    """Put an odd value into the header of a safetensors file, the plan in it included."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    inner = header.get("__metadata__", {})
    texts = sorted(name for name, text in inner.items() if text.startswith("{"))
    if texts and draw.random() < 0.7:
        changed = _value(inner[texts[0]].encode(), draw)
        inner[texts[0]] = changed.decode(errors="replace")
        text = json.dumps(header).encode()
    else:
        text = _value(content[8 : 8 + length], draw)
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


def _tensors(path: Path, draw: random.Random) -> None:
    """Write a file of other tensors: not finite, of other types and shapes, others or fewer."""
    tensors = load_file(path)
    name = draw.choice(sorted(tensors))
    tensor = tensors.pop(name)
    change = draw.randrange(8)
    if change < 3 and tensor.numel():
        tensor = tensor.clone()
        odd = (float("nan"), float("inf"), 1e30) if tensor.is_floating_point() else (0, 1, 127)
        tensor.view(-1)[draw.randrange(tensor.numel())] = odd[change]
    made = {
        3: {name: tensor.to(draw.choice((torch.int64, torch.bool, torch.float16)))},
        4: {name: tensor.reshape(-1)[:1].clone()},
        5: {},
        6: {draw.choice(TEXTS) or "x": tensor},
        7: {name: tensor.unsqueeze(0).clone()},
    }.get(change, {name: tensor})
    save_file({**tensors, **made}, path)


def _cell(path: Path, draw: random.Random) -> None:
    """Put an odd value into a cell of a database."""
    with sqlite3.connect(path) as database:
        named = database.execute("SELECT name FROM sqlite_master WHERE type='table'").fetchall()
        filled = [t for (t,) in named if database.execute(f"SELECT 1 FROM {t}").fetchone()]
        table = draw.choice(sorted(filled))
        columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
        rows = [row for (row,) in database.execute(f"SELECT rowid FROM {table}")]
        value = draw.choice((*TEXTS, 0, -1, 2**62, 1e308, None, float("inf")))
        database.execute(
            f"UPDATE OR IGNORE {table} SET {draw.choice(columns)} = ? WHERE rowid = ?",
            (value, draw.choice(rows)),
        )
    database.close()


def _relaxed(path: Path, draw: random.Random) -> None:
    """Put a value, or noise where the database refuses it."""
    try:
        _cell(path, draw)
    except sqlite3.Error:
        path.write_bytes(_flipped(path.read_bytes(), draw, 50))


BY_ENDING: dict[str, dict[str, Damage]] = {
    ".json": TEXT,
    ".log": TEXT,
    ".csv": TEXT,
    ".safetensors": {"the header": _header, "the tensors": _tensors},
    ".db": {"a cell": _relaxed},
}


def damage(path: Path, draw: random.Random) -> str:
    """Damage a file, and return how; half of the time in a way that suits its ending."""
    fitting = BY_ENDING.get(path.suffix, {})
    ways = fitting if fitting and draw.random() < 0.6 else ANY
    name = draw.choice(sorted(ways))
    ways[name](path, draw)
    return name
