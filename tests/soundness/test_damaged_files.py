"""Damaged files end in typed errors; the process that reads them is watched (`python -m campaign` reads more)."""

from __future__ import annotations

import io
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest

pytest.importorskip("onnx")

from campaign import fuzzing
from campaign.fuzz_worker import READERS, SHARES, mutant, outcome
from campaign.fuzzing import Reader, read_files
from campaign.mutations import checksummed, damaged, reheaded, retold
from campaign.onnx_mutations import CHANGES, rearranged
from campaign.seeds import seeds
from jacobound import InvalidRegionError, JacoboundError
from jacobound.inputs.points import read_point

FILES = 400


@pytest.mark.slow
def test_damaged_files_are_refused_or_read(tmp_path: Path) -> None:
    outcomes: Counter[tuple[str, str]] = Counter()
    for number in range(FILES):
        found = outcome(number, tmp_path)
        outcomes[str(found["kind"]), str(found["outcome"])] += 1
        assert found["outcome"] in ("valid", "refused") and not found["said"], (number, found)
    kinds = {kind for kind in SHARES if seeds()[kind]}
    assert {kind for kind, _ in outcomes} == kinds
    assert outcomes["onnx", "valid"] and outcomes["onnx", "refused"] > outcomes["onnx", "valid"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in SHARES if seeds()[kind]])
def test_undamaged_files_are_read(kind: str, tmp_path: Path) -> None:
    """At least one of every kind, so that damage is what is refused."""
    understood = 0
    for data in seeds()[kind]:
        try:
            READERS[kind](data, tmp_path)
            understood += 1
        except JacoboundError:
            continue
    assert understood > 0


def test_every_change_of_a_model_changes_it() -> None:
    from onnx import ModelProto

    random = Random(1)
    for change in CHANGES:
        before = seeds()["onnx"][0]
        changed = 0
        for data in (*seeds()["onnx"][:30], *seeds()["onnx"][-10:]):
            model, before = ModelProto.FromString(data), data
            try:
                change(model, random)
            except (ValueError, TypeError):
                continue
            changed += model.SerializeToString() != before
        assert changed > 0, change


def test_damage_is_the_same_each_time_and_mostly_new() -> None:
    assert [mutant(k) for k in range(20)] == [mutant(k) for k in range(20)]
    contents = {mutant(k)[1] for k in range(200)}
    originals = {data for pool in seeds().values() for data in pool}
    assert len(contents) > 190 and len(contents & originals) < 20
    random, data = Random(0), seeds()["vnnlib"][0]
    assert {retold(data, [data], random) for _ in range(20)} != {data}
    assert damaged(data, [data], random) != data or damaged(data, [data], random) != data
    assert reheaded(seeds()[".npy"][0], random) != seeds()[".npy"][0]
    model = seeds()["onnx"][0]
    assert len({rearranged(model, [model], random) for _ in range(20)}) > 5


def test_checksums_are_mended() -> None:
    if not seeds()[".png"]:
        pytest.skip("pillow is not installed")
    whole = seeds()[".png"][0]
    at = whole.index(b"IHDR") + 8
    broken = whole[:at] + b"\x09" + whole[at + 1 :]
    mended = checksummed(broken)
    assert checksummed(whole) == whole and mended != broken and len(mended) == len(broken)


# --- the watchdog -----------------------------------------------------------------------------------------------


class Scripted(Reader):
    """A reader whose process is a short script."""

    def __init__(self, script: str) -> None:
        super().__init__()
        self.script = script

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", self.script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )


def test_a_crash_is_recorded_and_reading_goes_on() -> None:
    script = (
        "import os, sys\n"
        "for line in sys.stdin:\n"
        "    if int(line) == 7: os.abort()\n"
        '    print(\'{"kind": "onnx", "outcome": "refused", "said": "", "seconds": 0.1}\', flush=True)\n'
    )
    process = Scripted(script)
    try:
        found = read_files([1, 7, 2], process)
    finally:
        process.close()
    assert found.cases == {"onnx refused": 2, "? crashed": 1}
    assert len(found.violations) == 1 and "file 7: crashed" in found.violations[0]


def test_a_hang_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzzing, "WATCH", 0.5)
    process = Scripted("import time; time.sleep(60)")
    try:
        found = read_files([3], process)
    finally:
        process.close()
    assert found.cases == {"? hung": 1} and "file 3: hung" in found.violations[0]


@pytest.mark.parametrize(
    ("told", "wrong"),
    [
        ({"outcome": "valid", "said": "", "seconds": 1.0}, False),
        ({"outcome": "valid", "said": "", "seconds": 9.0, "entries": 100}, True),
        ({"outcome": "valid", "said": "", "seconds": 9.0, "entries": 2_000_000}, False),
        ({"outcome": "refused", "said": "", "seconds": 0.0}, False),
        ({"outcome": "refused", "said": "an error without a message", "seconds": 0.0}, True),
        ({"outcome": "raised", "said": "KeyError('x')", "seconds": 0.0}, True),
    ],
)
def test_what_counts_as_a_violation(told: dict[str, object], wrong: bool) -> None:
    class Told(Reader):
        def ask(self, number: int) -> dict[str, object]:
            return {"kind": "onnx", **told}

    assert bool(read_files([0], Told()).violations) == wrong


@pytest.mark.slow
def test_the_reading_process_answers() -> None:
    process = Reader()
    try:
        found = read_files([0, 1], process)
    finally:
        process.close()
    assert sum(found.cases.values()) == 2 and not found.violations


# --- what was found ---------------------------------------------------------------------------------------------


def saved(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def refuse(tmp_path: Path, name: str, data: bytes) -> None:
    file = tmp_path / name
    file.write_bytes(data)
    with pytest.raises(InvalidRegionError, match="damaged"):
        read_point(file, (2,))


def test_an_archive_that_begins_before_its_file_is_refused(tmp_path: Path) -> None:
    data = bytearray(saved(x=np.zeros(2)))
    at = data.rindex(b"PK\x05\x06")  # the end record holds where the directory begins
    data[at + 16 : at + 20] = (int.from_bytes(data[at + 16 : at + 20], "little") + 10**6).to_bytes(4, "little")
    refuse(tmp_path, "x.npz", bytes(data))


def test_a_member_whose_name_is_no_text_is_refused(tmp_path: Path) -> None:
    data = bytearray(saved(x=np.zeros(2)))
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.index(mark)
        data[at + place + 1] |= 0x08  # names are UTF-8
    name = data.rindex(b"x.npy")
    data[name] = 0xFF
    refuse(tmp_path, "x.npz", bytes(data))


def test_a_header_that_is_no_literal_is_refused(tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.save(stream, np.zeros(2))
    for old, new in ((b"}", b" "), (b"(2,)", b"(2,("), (b"(2,)", b"'''2")):
        refuse(tmp_path, "x.npy", stream.getvalue().replace(old, new, 1))


def test_an_image_header_that_ends_early_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    whole = seeds()[".png"][0]
    at = whole.index(b"IHDR") - 4
    short = checksummed(whole[:at] + (5).to_bytes(4, "big") + whole[at + 4 : at + 13] + bytes(4) + whole[at + 25 :])
    refuse(tmp_path, "x.png", short)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gemm_wide_c", "does not fit"),  # a Gemm whose C is wider than the result
        ("split_outputs", "outputs, not 2"),  # a Split with more outputs than it promises, which ended the process
        ("resize_infinite", "no finite number"),
        ("resize_nan", "no finite number"),
    ],
)
def test_files_that_once_ended_in_foreign_errors(name: str, message: str) -> None:
    import jacobound as jb

    with pytest.raises(JacoboundError, match=message):
        jb.from_onnx((Path(__file__).parent / "damaged" / f"{name}.onnx").read_bytes())
