"""Damage to files: bytes flipped, cut, swapped; values of other types, sizes and depths."""

import json
import random

STRANGE = [
    None, True, -1, 0, 10**30, -(10**400), 1e308, float("nan"), float("inf"), "", "x" * 100_000,
    "\x1b[2J\x07\u202e", "evil:Class", {"class_path": "evil.Class", "init_args": {}},
    {"class_path": "os:system", "init_args": {"command": "touch ran"}}, "os:system:touch ran",
    "../../../x", [], {}, [[]], [1, 2, 3], {"a": 1}, "1" * 5000, b"\0".decode(), "NaN", 3.5,
]  # fmt: skip


def damaged_bytes(content, chance):
    """The content with one kind of damage."""
    content, kind = bytearray(content), chance.randrange(6)
    size = len(content)
    at = chance.randrange(size)
    if kind == 0:
        for _ in range(chance.choice((1, 3, 20))):
            content[chance.randrange(size)] ^= 1 << chance.randrange(8)
    elif kind == 1:
        del content[at:]
    elif kind == 2:
        content[at : at + 8] = chance.randbytes(8)
    elif kind == 3:
        other, length = chance.randrange(size), chance.randrange(1, 200)
        content[at : at + length], content[other : other + length] = (
            content[other : other + length], content[at : at + length],
        )  # fmt: skip
    elif kind == 4:
        content[at:at] = chance.choice(
            (b"\xff" * 8, b"\0" * 100, b"9" * 400, b"[" * 5000, b"\x1b[2J")
        )
    else:
        content[at : at + chance.randrange(1, 100)] = b""
    return bytes(content)


def damaged_values(values, chance):
    """Plain values with one entry, somewhere, replaced, removed, added, moved or made deep."""
    values = json.loads(json.dumps(values))
    places = list(_places(values))
    parent, key = chance.choice(places)
    kind = chance.randrange(8)
    if kind < 5:
        parent[key] = chance.choice(STRANGE)
    elif kind == 5:
        del parent[key]
    elif kind == 6:
        other, name = chance.choice(places)
        parent[key] = json.loads(json.dumps(other.get(name) if isinstance(other, dict) else None))
    else:
        parent[key] = json.loads("[" * 500 + "]" * 500)
    return values


def damaged_text(values, chance):
    """JSON of damaged values, or damaged JSON; sometimes nested without an end."""
    kind = chance.randrange(10)
    if kind < 6:
        return json.dumps(damaged_values(values, chance)).encode()
    if kind < 9:
        return damaged_bytes(json.dumps(values).encode(), chance)
    opened = chance.choice(('{"a":', "["))
    return (json.dumps(values)[:20] + opened * chance.choice((50, 20_000))).encode()


def _places(values):
    entries = values.items() if isinstance(values, dict) else enumerate(values)
    for key, value in list(entries):
        yield values, key
        if isinstance(value, dict | list):
            yield from _places(value)


def chance_of(name, number):
    """A stream of random numbers of its own for each file."""
    return random.Random(f"{name} {number}")
