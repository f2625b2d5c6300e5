"""Checkpoints: whole or not there, checked, and only for the run that wrote them."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from engram.checks import tiny_stream
from engram.core.contract import Context, Method
from engram.core.files import digest, sealed
from engram.errors import CheckpointError, EngramError
from engram.learning.checkpoint import KEEP, Checkpoints, write_atomically
from engram.learning.state import Cursor, LoopState
from engram.methods.registry import method
from engram.networks import Mlp
from engram.protocols.protocol import Protocol
from engram.protocols.session import run

IDENTITY = {"seed": 0, "method": {"name": "finetune", "options": {"lr": 0.1, "epochs": 2}}}


def made(value: float = 0.0, outputs: int = 2) -> Method:
    spec = method("finetune", epochs=1)
    m = spec.make(spec.config, Context(Mlp((3,)), (1, 2, 2), 4, "class", 0))
    m.net.head.grow(outputs, 0, 0)  # type: ignore[union-attr]
    with torch.no_grad():
        for p in m.parameters():
            p.fill_(value)
    return m


def state(epochs: int) -> LoopState:
    moments = {
        "net": {
            "net.trunk.layers.0.weight": {
                "exp_avg": torch.full((3, 4), float(epochs)),
                "step": torch.tensor(3.0),
            }
        }
    }
    return LoopState(Cursor(0, 0, epochs), moments)


def store(folder: Path, *values: int) -> Checkpoints:
    c = Checkpoints(folder, IDENTITY)
    for v in values:
        c.save(made(v), state(v), {"rows": [[v / 3]], "tasks": []})
    return c


def restored(folder: Path, identity: Any = IDENTITY) -> tuple[Method, LoopState, dict[str, Any] | None]:
    m, s = made(-1.0, outputs=1), LoopState()
    record = Checkpoints(folder, identity).restore(m, s)
    return m, s, record


def pairs(folder: Path) -> list[str]:
    return sorted(p.stem for p in folder.glob("*.json"))


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 0x01
    path.write_bytes(bytes(content))


def test_a_round_trip_gives_tensors_cursor_optimisers_and_record_exactly(tmp_path: Path) -> None:
    store(tmp_path, 1, 2)
    m, s, record = restored(tmp_path)
    assert record == {"rows": [[2 / 3]], "tasks": []}
    assert s.cursor == Cursor(0, 0, 2)
    assert all((p == 2).all() for p in m.parameters())
    assert m.net.head.sizes == [2]  # type: ignore[union-attr]
    entries = s.optimisers["net"]["net.trunk.layers.0.weight"]
    assert torch.equal(entries["exp_avg"], torch.full((3, 4), 2.0))
    assert torch.equal(entries["step"], torch.tensor(3.0))


def test_no_checkpoint_is_no_error(tmp_path: Path) -> None:
    m, s, record = restored(tmp_path / "nothing")
    assert record is None
    assert s == LoopState()
    assert all((p == -1).all() for p in m.parameters())


def test_only_the_newest_two_are_kept_and_the_last_one_the_disk_has(tmp_path: Path) -> None:
    c = store(tmp_path, *range(6))
    kept = pairs(tmp_path)
    assert kept[-KEEP:] == ["00000004", "00000005"]
    assert len(kept) <= KEEP + 1
    assert c.synced is not None
    assert f"{c.synced[0]:08d}" in kept
    assert sorted(p.stem for p in tmp_path.glob("*.safetensors")) == kept


def test_writing_is_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    write_atomically(path, b"old")
    seen = []
    replace = os.replace

    def watched(source: Any, target: Any) -> None:
        seen.append((Path(target).read_bytes(), Path(source).read_bytes()))
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    write_atomically(path, b"new")
    assert seen == [(b"old", b"new")]
    assert path.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    write_atomically(path, b"old")

    def fail(*_: Any) -> None:
        raise OSError("no space")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(EngramError, match="no space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("kind", ["json", "safetensors"])
@pytest.mark.parametrize("where", [0, 100, -1])
def test_a_flipped_bit_is_found_and_the_checkpoint_before_is_used(
    tmp_path: Path, kind: str, where: int
) -> None:
    store(tmp_path, 1, 2)
    flip(tmp_path / f"00000001.{kind}", where)
    with pytest.warns(UserWarning, match=r"00000001 .* damaged .*The one before it is used") as caught:
        m, s, record = restored(tmp_path)
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    assert record is not None
    assert s.cursor.epochs == 1
    assert all((p == 1).all() for p in m.parameters())
    # The damaged one is gone, and the next one takes its number.
    assert pairs(tmp_path) == ["00000000"]


@pytest.mark.parametrize("kind", ["json", "safetensors"])
def test_every_byte_of_a_checkpoint_is_covered(tmp_path: Path, kind: str) -> None:
    store(tmp_path, 1)
    path = tmp_path / f"00000000.{kind}"
    whole = path.read_bytes()
    for place in range(0, len(whole), max(1, len(whole) // 60)):
        flip(path, place)
        with pytest.raises(CheckpointError):
            restored(tmp_path)
        path.write_bytes(whole)
    restored(tmp_path)


@pytest.mark.parametrize("kind", ["json", "safetensors"])
def test_a_cut_file_is_found(tmp_path: Path, kind: str) -> None:
    store(tmp_path, 1, 2)
    path = tmp_path / f"00000001.{kind}"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.warns(UserWarning, match="damaged"):
        assert restored(tmp_path)[1].cursor.epochs == 1


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("structure", None, "expected object, got null at structure"),
        ("structure", {"head": "many"}, "structure of Finetune"),
        ("cursor", [0, 0, 1], "expected object, got array at cursor"),
        ("cursor", {"task": "0", "phase": 0, "epochs": 1}, "expected int, got str at cursor.task"),
        ("cursor", {"task": 0, "phase": 0}, "missing required field epochs"),
        ("record", [], "expected object, got array at record"),
        ("record", "[" * 10_000 + "]" * 10_000, "damaged .ValueError"),
        ("identity", 3, "expected object, got int at identity"),
        ("tasks", {}, "expected array, got object at tasks"),
        ("tensors_sha256", None, "got null at tensors_sha256"),
    ],
)
def test_another_form_under_a_right_checksum_is_one_line(
    tmp_path: Path, key: str, value: Any, match: str
) -> None:
    store(tmp_path, 1)
    path = tmp_path / "00000000.json"
    meta = {**json.loads(path.read_text()), key: value}
    del meta["sha256"]
    body = json.dumps(meta)
    if key == "record" and isinstance(value, str):
        body = body.replace(f'"{value}"', value)
    path.write_bytes(sealed(body))
    with pytest.raises(CheckpointError, match=match) as caught:
        restored(tmp_path)
    assert "\n" not in str(caught.value)


def test_tensors_that_are_none_under_a_right_checksum_are_one_line(tmp_path: Path) -> None:
    store(tmp_path, 1)
    path = tmp_path / "00000000.json"
    meta = without_seal(path) | {"tensors_sha256": digest(b"no tensors")}
    path.write_bytes(sealed(json.dumps(meta)))
    path.with_suffix(".safetensors").write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match="damaged") as caught:
        restored(tmp_path)
    assert "\n" not in str(caught.value)


def without_seal(path: Path) -> dict[str, Any]:
    return {k: v for k, v in json.loads(path.read_text()).items() if k != "sha256"}


def test_files_of_other_names_are_let_be(tmp_path: Path) -> None:
    store(tmp_path, 1)
    for name in ("²", "0000000²", "٣", "notes", "1" * 200):
        (tmp_path / f"{name}.json").write_text("{}")
    assert restored(tmp_path)[1].cursor.epochs == 1
    store(tmp_path, 2)
    assert restored(tmp_path)[1].cursor.epochs == 2


@pytest.mark.parametrize("change", [{"rows": []}, {"phases": None}, {"peak": "high"}, {"confusion": 3}])
def test_a_record_of_another_form_does_not_resume(tmp_path: Path, change: dict[str, Any]) -> None:
    def go(resume: bool) -> None:
        run(tiny_stream((1, 1)), Mlp((4,)), method("finetune", epochs=1), out=tmp_path, resume=resume)

    go(False)
    for path in (tmp_path / "checkpoints").glob("*.json"):
        meta = without_seal(path)
        meta["record"] |= change
        path.write_bytes(sealed(json.dumps(meta)))
    with pytest.raises(CheckpointError) as caught:
        go(True)
    assert "\n" not in str(caught.value)


def test_all_damaged_is_an_error_of_one_line(tmp_path: Path) -> None:
    store(tmp_path, 1, 2)
    flip(tmp_path / "00000000.json", 90)
    flip(tmp_path / "00000001.safetensors", -1)
    with pytest.raises(CheckpointError, match=r"damaged.*No other one is left: delete") as caught:
        restored(tmp_path)
    assert "\n" not in str(caught.value)


def test_tensors_that_are_missing_count_as_damage(tmp_path: Path) -> None:
    store(tmp_path, 1, 2)
    (tmp_path / "00000001.safetensors").unlink()
    with pytest.warns(UserWarning, match="damaged"):
        assert restored(tmp_path)[1].cursor.epochs == 1


def test_tensors_of_another_checkpoint_are_refused(tmp_path: Path) -> None:
    store(tmp_path, 1, 2)
    (tmp_path / "00000001.safetensors").write_bytes((tmp_path / "00000000.safetensors").read_bytes())
    with pytest.warns(UserWarning, match="its tensors"):
        assert restored(tmp_path)[1].cursor.epochs == 1


def test_a_kill_after_the_tensors_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    c = store(tmp_path, 1, 2)
    # What a kill between the two files, and one in the middle of writing, leave behind.
    (tmp_path / "00000002.safetensors").write_bytes(b"half of it")
    (tmp_path / ".00000002.safetensors.4711.tmp").write_bytes(b"half")
    (tmp_path / ".00000002.json.4711.tmp").write_bytes(b'{"half')
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert restored(tmp_path)[1].cursor.epochs == 2
    # The next save takes the number and is whole.
    c = Checkpoints(tmp_path, IDENTITY)
    c.save(made(7), state(7), {"tasks": []})
    assert restored(tmp_path)[1].cursor.epochs == 7


def test_leftovers_of_dead_processes_are_removed_and_no_others(tmp_path: Path) -> None:
    store(tmp_path, 1)
    dead = subprocess.Popen(["true"])
    dead.wait()
    names = {pid: f".00000001.json.{pid}.tmp" for pid in (dead.pid, os.getpid(), os.getppid(), 10**30)}
    for opened in ("restore", "save"):
        for name in (*names.values(), ".mine.tmp"):
            (tmp_path / name).write_bytes(b"half")
        Checkpoints(tmp_path, IDENTITY).check()  # only looks
        assert len(list(tmp_path.glob(".*.tmp"))) == len(names) + 1
        if opened == "restore":
            restored(tmp_path)
        else:
            store(tmp_path, 2)
        assert {p.name for p in tmp_path.glob(".*.tmp")} == {names[os.getppid()], ".mine.tmp"}


def test_the_folder_is_awaited_after_the_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    replace, fsync = os.replace, os.fsync

    def moved(source: Any, target: Any) -> None:
        seen.append("move")
        replace(source, target)

    def awaited(handle: int) -> None:
        seen.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    monkeypatch.setattr(os, "replace", moved)
    monkeypatch.setattr(os, "fsync", awaited)
    write_atomically(tmp_path / "a", b"a")
    assert seen == ["file", "move", "folder"]
    seen.clear()
    write_atomically(tmp_path / "a", b"a", sync=False)
    assert seen == ["move"]


def test_a_save_that_fails_at_either_file_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for broken in (".safetensors", ".json"):
        folder = tmp_path / broken[1:]
        store(folder, 1, 2)
        replace = os.replace

        def fail(source: Any, target: Any, *, broken: str = broken, replace: Any = replace) -> None:
            if str(target).endswith(broken):
                raise OSError("killed")
            replace(source, target)

        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", fail)
            with pytest.raises(EngramError, match="killed"):
                Checkpoints(folder, IDENTITY).save(made(3), state(3), {"tasks": []})
        m, s, _ = restored(folder)
        assert s.cursor.epochs == 2
        assert all((p == 2).all() for p in m.parameters())


def test_another_run_is_refused_and_the_differing_key_named(tmp_path: Path) -> None:
    store(tmp_path, 1)
    with pytest.raises(CheckpointError, match=r"its seed differ \(0 stored, 1 given\)") as caught:
        restored(tmp_path, {**IDENTITY, "seed": 1})
    assert "\n" not in str(caught.value)
    other = json.loads(json.dumps(IDENTITY))
    other["method"]["options"]["lr"] = 0.2
    with pytest.raises(CheckpointError, match=r"its method differ \(options: lr: 0.1 stored, 0.2 given\)"):
        restored(tmp_path, other)
    with pytest.raises(CheckpointError, match="its more differ"):
        restored(tmp_path, {**IDENTITY, "more": 1})


def test_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engram.learning.checkpoint.FORMAT", 0)
    store(tmp_path, 1)
    monkeypatch.setattr("engram.learning.checkpoint.FORMAT", 1)
    with pytest.raises(CheckpointError, match="must have format 1, got 0"):
        restored(tmp_path)


def test_nothing_is_pickled(tmp_path: Path) -> None:
    store(tmp_path, 1)
    assert {p.suffix for p in tmp_path.iterdir()} == {".json", ".safetensors"}


def test_a_finished_run_resumes_to_the_same_result(tmp_path: Path) -> None:
    def go(resume: bool) -> dict[str, Any]:
        entry = run(
            tiny_stream((1, 1)),
            Mlp((4,)),
            method("finetune", epochs=1),
            Protocol("class", 0),
            out=tmp_path,
            resume=resume,
        )
        return {k: entry[k] for k in ("status", "accuracy_matrix", "confusion", "storage_bytes")}

    first = go(False)
    assert first["status"] == "done"
    assert go(True) == first


def test_a_run_with_other_options_does_not_resume(tmp_path: Path) -> None:
    spec = method("finetune", epochs=1)
    run(tiny_stream((1, 1)), Mlp((4,)), spec, Protocol("class", 0), out=tmp_path)
    with pytest.raises(CheckpointError, match="epochs: 1 stored, 2 given"):
        run(
            tiny_stream((1, 1)),
            Mlp((4,)),
            method("finetune", epochs=2),
            Protocol("class", 0),
            out=tmp_path,
            resume=True,
        )
    with pytest.raises(CheckpointError, match="its stream differ"):
        run(tiny_stream((1, 1), seed=4), Mlp((4,)), spec, Protocol("class", 0), out=tmp_path, resume=True)
    with pytest.raises(CheckpointError, match="its network differ"):
        run(tiny_stream((1, 1)), Mlp((5,)), spec, Protocol("class", 0), out=tmp_path, resume=True)
