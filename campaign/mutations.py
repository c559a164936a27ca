"""Damage to files: bytes, texts of tokens, and arrays in numpy's format."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from random import Random

NUMBERS = (
    b"0", b"-1", b"1e999", b"-1e999", b"nan", b"inf", b"-0.0", b"1e-999", b"2147483648", b"9223372036854775808",
    b"1" * 400, b"0." + b"3" * 400, b"1e99999999999", b"0x10", b"1_000", b"1/3", b"+5", b".5", b"5.", b"1e", b"--1",
)  # fmt: skip


def flipped(data: bytes, random: Random) -> bytes:
    """A few bits turned over."""
    found = bytearray(data)
    for _ in range(random.randint(1, 8)):
        if found:
            found[random.randrange(len(found))] ^= 1 << random.randrange(8)
    return bytes(found)


def overwritten(data: bytes, random: Random) -> bytes:
    """A few bytes replaced by special or random ones."""
    found = bytearray(data)
    for _ in range(random.randint(1, 4)):
        if found:
            found[random.randrange(len(found))] = random.choice((0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)))
    return bytes(found)


def truncated(data: bytes, random: Random) -> bytes:
    """The end, or now and then the beginning, is missing."""
    cut = random.randint(0, len(data))
    return data[:cut] if random.random() < 0.8 else data[cut:]


def removed(data: bytes, random: Random) -> bytes:
    start, length = random.randint(0, len(data)), random.randint(1, 16)
    return data[:start] + data[start + length :]


def inserted(data: bytes, random: Random) -> bytes:
    start = random.randint(0, len(data))
    return data[:start] + random.randbytes(random.randint(1, 16)) + data[start:]


def repeated(data: bytes, random: Random) -> bytes:
    """A stretch stands there several times."""
    start = random.randint(0, len(data))
    end = min(len(data), start + random.randint(1, 64))
    return data[:start] + data[start:end] * random.choice((2, 3, 50)) + data[end:]


def spliced(data: bytes, other: bytes, random: Random) -> bytes:
    """The beginning of one file and the end of another."""
    return data[: random.randint(0, len(data))] + other[random.randint(0, len(other)) :]


BYTES: tuple[Callable[[bytes, Random], bytes], ...] = (flipped, overwritten, truncated, removed, inserted, repeated)


def damaged(data: bytes, pool: Sequence[bytes], random: Random) -> bytes:
    """One or two changes of any kind to the bytes of a file."""
    for _ in range(random.randint(1, 2)):
        if random.random() < 0.1:
            data = spliced(data, random.choice(pool), random)
        else:
            data = random.choice(BYTES)(data, random)
    return data


def _tokens(data: bytes) -> list[bytes]:
    return re.findall(rb"[()]|[^\s()]+|\s+", data)


def retold(data: bytes, pool: Sequence[bytes], random: Random) -> bytes:
    """A text with tokens exchanged, left out, repeated, replaced by numbers, or nested deeply."""
    tokens = _tokens(data)
    for _ in range(random.randint(1, 3)):
        if not tokens:
            break
        at, kind = random.randrange(len(tokens)), random.randrange(8)
        if kind == 0:
            tokens[at] = random.choice(NUMBERS)
        elif kind == 1:
            tokens[at] = random.choice(_tokens(random.choice(pool)) or [b""])
        elif kind == 2:
            del tokens[at]
        elif kind == 3:
            tokens.insert(at, random.choice(tokens))
        elif kind == 4:
            other = random.randrange(len(tokens))
            tokens[at], tokens[other] = tokens[other], tokens[at]
        elif kind == 5:
            depth = random.choice((3, 100, 20_000))
            tokens[at:at] = [b"(" * depth] if random.random() < 0.5 else [b"(and " * depth + b")" * depth]
        elif kind == 6:
            end = min(len(tokens), at + random.randint(1, 12))
            tokens[at:at] = tokens[at:end] * random.choice((1, 2, 200))
        else:
            tokens[at] = random.randbytes(3)
    return b"".join(tokens)


def reheaded(data: bytes, random: Random) -> bytes:
    """A numpy header that says something else; lengths are kept or not."""
    words = (b"<f8", b"<f4", b"<i8", b"<i4", b"|O", b"|S8", b"<c16", b"<U4", b">f8", b"|b1", b"<f2", b"<m8", b"|u1")
    shapes = (b"(1000000000000,)", b"(2, -1)", b"()", b"(0,)", b"(3,)", b"(2, 2, 2)", b"(-3,)", b"(1e3,)", b"[3]")
    found = data
    for old in random.sample(words, 13) if random.random() < 0.6 else ():
        if old in found:
            found = found.replace(old, random.choice(words), 1)
            break
    if random.random() < 0.6:
        found = re.sub(rb"\([0-9, ]*\)", random.choice(shapes), found, count=1)
    if random.random() < 0.2:
        found = found.replace(b"False", b"True", 1)
    return found if found != data else overwritten(found, random)


def checksummed(data: bytes) -> bytes:
    """A PNG file whose checksums are right again, so that the damage is looked at and not only noticed."""
    found, at = bytearray(data), 8
    while at + 12 <= len(found):
        end = at + 8 + int.from_bytes(found[at : at + 4], "big")
        if end + 4 > len(found):
            break
        found[end : end + 4] = zlib.crc32(found[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(found)
