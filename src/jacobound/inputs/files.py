"""Reading files that nobody vouches for: sizes are known before bytes are held, also those inside gzip."""

from __future__ import annotations

import os
import stat
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
        wrong: when the file can not be read, is too large, is no plain file or is damaged gzip.
    """
    return unpacked(stored_bytes(path, limit, wrong), limit, wrong, f"'{os.fspath(path)}'")


def stored_bytes(
    path: str | os.PathLike[str], limit: int, wrong: type[InvalidModelError | InvalidRegionError]
) -> bytes:
    """The bytes of a file as they are; never more than its size says, and nothing of a device, pipe or socket.

    Raises:
        wrong: as `read_file` does.
    """
    if not isinstance(path, str | os.PathLike):
        raise wrong(f"a path is a text or a pathlib.Path, not {type(path).__name__}; content is given as bytes")
    name = f"'{os.fspath(path)}'"
    try:
        require_plain(os.stat(path), name, wrong)
        # Whatever takes the file's place meanwhile is not waited for either.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(descriptor, "rb") as stream:
            found = os.fstat(descriptor)
            require_plain(found, name, wrong)
            size = found.st_size
            data = stream.read(size + 1) if 0 < size <= limit else b""
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        if isinstance(error, wrong):
            raise
        raise wrong(f"{name}: can not be read ({error}); check the path") from error
    if size > limit:
        raise wrong(f"{name}: {size} bytes; at most {limit} are read")
    if len(data) != size:
        raise wrong(f"{name}: changed while it was read; wait until it is written")
    return data


def require_plain(found: os.stat_result, name: str, wrong: type[InvalidModelError | InvalidRegionError]) -> None:
    """Refuse what is no plain file before it is opened: some are endless, some wait for ever.

    Raises:
        wrong: with what it is.
    """
    kinds = (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    )
    if not stat.S_ISREG(found.st_mode):
        what = next((kind for test, kind in kinds if test(found.st_mode)), "something else")
        raise wrong(f"{name}: can not be read: it is {what}, no plain file. Save its content to a file first")


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
