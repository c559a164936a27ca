"""Reading files that nobody vouches for: sizes are known before bytes are held, also those inside gzip."""

from __future__ import annotations

import hashlib
import os
import zlib
from pathlib import Path

from jacobound.errors import InvalidModelError, InvalidRegionError

GZIP = b"\x1f\x8b"
FREE = 1 << 26  # bytes that a gzip file may always become
GROWTH = 100  # and how many times its own size beyond that; weights hardly shrink, text about 20 times


def read_file(path: str | os.PathLike[str], limit: int, wrong: type[InvalidModelError | InvalidRegionError]) -> bytes:
    """The bytes of a file, decompressed when they are gzip.

    Args:
        path: the file.
        limit: most bytes, compressed or not.
        wrong: the error to raise.

    Raises:
        wrong: when the file can not be read, is too large or is damaged gzip.
    """
    name = f"'{os.fspath(path)}'"
    try:
        size = os.stat(path).st_size
        data = Path(path).read_bytes() if size <= limit else b""
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise wrong(f"{name}: can not be read ({error}); check the path") from error
    if size > limit:
        raise wrong(f"{name}: {size} bytes; at most {limit} are read")
    return unpacked(data, limit, wrong, name)


def unpacked(data: bytes, limit: int, wrong: type[InvalidModelError | InvalidRegionError], name: str) -> bytes:
    """The bytes themselves, or what they are as gzip (one member or several).

    Raises:
        wrong: when gzip is damaged, ends early or would become too large; nothing larger is ever held.
    """
    if not data.startswith(GZIP):
        return data
    most = min(limit, max(FREE, GROWTH * len(data)))
    parts: list[bytes] = []
    held, rest = 0, data
    while rest.startswith(GZIP):
        member = zlib.decompressobj(wbits=31)
        try:
            part = member.decompress(rest, most - held + 1)
        except zlib.error as error:
            raise wrong(f"{name}: gzip-compressed and damaged ({error}); download or compress it again") from error
        held += len(part)
        if held > most:
            raise wrong(f"{name}: gzip-compressed, and more than {most} bytes inside; decompress it yourself to look")
        if not member.eof:
            raise wrong(f"{name}: gzip-compressed and cut off; download or compress it again")
        parts.append(part)
        rest = member.unused_data
    if rest.strip(b"\0"):
        raise wrong(f"{name}: gzip-compressed, with something else behind; compress it again")
    return b"".join(parts)


def name_of(source: str | os.PathLike[str] | bytes) -> str:
    """The name of a file without its folder, for answers that others read; bytes have none."""
    return "bytes in memory" if isinstance(source, bytes) else Path(os.fspath(source)).name


def sha256_of(source: str | os.PathLike[str] | bytes) -> str:
    """SHA-256 of bytes, or of a file that has been read before."""
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    with open(source, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
