import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import safetensors.torch
import torch

from bbpyro import checkpoint
from bbpyro.checkpoint import CheckpointError

TENSORS = {
    "float32": torch.arange(12.0).reshape(3, 4),
    "float64": torch.tensor([1e-300, -0.0, float("inf")], dtype=torch.float64),
    "float16": torch.tensor([0.5, 65504.0], dtype=torch.float16),
    "int64": torch.tensor([-(2**63), 2**63 - 1]),
    "uint8": torch.arange(256, dtype=torch.uint8),
    "bool": torch.tensor([True, False]),
    "scalar": torch.tensor(7.25),
    "step": torch.tensor(3),
    "empty": torch.zeros(0, 5),
    "transposed": torch.arange(6.0).reshape(2, 3).T,
    "with gradient": torch.ones(2, requires_grad=True),
}
META = {"epoch": 3, "rate": 0.1, "history": [{"loss": 1e-17, "π": None}], "text": 'q"\\\n'}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint.safetensors"
    checkpoint.save(path, TENSORS, META)
    return path


def assert_refused(path: Path, *mentions: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(path)
    for mention in (str(path), *mentions):
        assert mention in str(caught.value)


def flip(path: Path, position: int, bit: int = 1) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= bit
    path.write_bytes(content)


def test_load_gives_back_tensors_and_meta(saved: Path) -> None:
    tensors, meta = checkpoint.load(saved)
    assert meta == META
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert tensors[name].shape == tensor.shape
        assert tensors[name].numpy().tobytes() == tensor.detach().contiguous().numpy().tobytes(), name


def test_tensors_that_share_memory_are_saved_apart(tmp_path: Path) -> None:
    whole = torch.arange(6.0)
    checkpoint.save(tmp_path / "c", {"whole": whole, "same": whole, "part": whole[2:4]}, {})
    tensors, _ = checkpoint.load(tmp_path / "c")
    assert tensors["same"].tolist() == whole.tolist()
    assert tensors["part"].tolist() == [2.0, 3.0]


def test_no_tensors_and_no_meta_are_a_checkpoint_too(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "c", {}, {})
    assert checkpoint.load(tmp_path / "c") == ({}, {})


def test_bfloat16_is_saved_as_any_other(tmp_path: Path) -> None:
    tensor = torch.tensor([1.0, -2.5], dtype=torch.bfloat16)
    checkpoint.save(tmp_path / "c", {"w": tensor}, {})
    assert torch.equal(checkpoint.load(tmp_path / "c")[0]["w"], tensor)


def test_other_tools_can_read_the_tensors(saved: Path) -> None:
    assert torch.equal(safetensors.torch.load_file(saved)["float32"], TENSORS["float32"])


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 100, 0.5, 0.9, -1])
def test_a_truncated_file_is_refused(saved: Path, length: float) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[: int(length * len(content)) if 0 < length < 1 else int(length)])
    assert_refused(saved, "truncated")


def test_a_lengthened_file_is_refused(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes() + b"\0")
    assert_refused(saved)


@pytest.mark.parametrize("place", [0.0, 0.3, 0.7, 1.0])
def test_a_flipped_bit_in_the_tensors_is_refused(saved: Path, place: float) -> None:
    content = saved.read_bytes()
    first = 8 + int.from_bytes(content[:8], "little")
    flip(saved, first + round(place * (len(content) - 1 - first)), bit=16)
    assert_refused(saved, "altered")


@pytest.mark.parametrize("before", [b'epoch\\": ', b'rate\\": 0.', b'"sha256":"', b'"dtype":"', b'"float'])
def test_a_flipped_bit_in_the_metadata_is_refused(saved: Path, before: bytes) -> None:
    flip(saved, saved.read_bytes().index(before) + len(before))
    assert_refused(saved, "altered")


def test_no_flipped_bit_gives_other_numbers(tmp_path: Path) -> None:
    path = tmp_path / "c"
    checkpoint.save(path, {"w": torch.tensor([1.5, -2.0]), "step": torch.tensor(3)}, {"epoch": 3})
    whole, num_refused = path.read_bytes(), 0
    for position in range(len(whole)):
        for bit in range(8):
            path.write_bytes(whole)
            flip(path, position, 1 << bit)
            try:
                tensors, meta = checkpoint.load(path)
            except CheckpointError as error:
                assert str(path) in str(error)
                num_refused += 1
            else:  # the letters of the word "format" are no number
                assert (tensors["w"].tolist(), tensors["step"].item(), meta) == ([1.5, -2.0], 3, {"epoch": 3})
    assert num_refused > 0.95 * 8 * len(whole)


# Hugging Face's libraries write {"format": "pt"}; it is the commonest metadata of all.
@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"format": "1"}, {"format": "1", "meta": "{}"}])
def test_a_safetensors_file_that_is_no_checkpoint_is_refused(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file({"w": torch.ones(3)}, path, metadata)
    assert_refused(path, "no bbpyro checkpoint")


def test_a_safetensors_file_of_bfloat16_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file({"w": torch.ones(3, dtype=torch.bfloat16)}, path)
    assert_refused(path, "no bbpyro checkpoint")


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    torch.save({"w": torch.ones(3)}, path)
    assert_refused(path)


def test_a_newer_format_is_refused_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c"
    with monkeypatch.context() as newer:
        newer.setattr(checkpoint, "FORMAT", checkpoint.FORMAT + 1)
        checkpoint.save(path, TENSORS, META)
    assert_refused(path, f"format {checkpoint.FORMAT + 1}", "upgrade bbpyro")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path / "nothing")
    assert_refused(tmp_path)


def test_write_atomic_replaces_and_leaves_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in (b"old", b"", b"new" * 1000):
        checkpoint.write_atomic(path, content)
        assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_write_atomic_makes_a_file_that_others_may_read(tmp_path: Path) -> None:
    checkpoint.write_atomic(tmp_path / "file", b"")
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_fails_midway_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    checkpoint.write_atomic(path, b"old")
    with files_no_larger_than(1 << 20), pytest.raises(OSError):
        checkpoint.write_atomic(path, bytes(2 << 20))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_cannot_be_renamed_leaves_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "folder" / "in it").mkdir(parents=True)
    with pytest.raises(OSError):
        checkpoint.write_atomic(tmp_path / "folder", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_meta_that_is_no_json_leaves_the_old_checkpoint(saved: Path) -> None:
    before = saved.read_bytes()
    with pytest.raises(TypeError):
        checkpoint.save(saved, TENSORS, {"a set": {1, 2}})
    assert saved.read_bytes() == before


def test_write_json_can_be_read_by_anyone(tmp_path: Path) -> None:
    checkpoint.write_json(tmp_path / "c.json", META)
    assert json.loads((tmp_path / "c.json").read_text()) == META


WRITER = """
import sys
from pathlib import Path
import torch
from bbpyro import checkpoint
for i in range(1_000_000):
    checkpoint.save(Path(sys.argv[1]), {"w": torch.full((200_000,), float(i))}, {"i": i})
    print(i, flush=True)
"""


def test_a_reader_beside_a_writer_and_after_its_sigkill_finds_a_whole_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE)
    try:
        assert writer.stdout is not None
        writer.stdout.readline()
        seen = [one_number(path) for _ in range(100)]
        writer.stdout.readline()
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
    assert seen == sorted(seen)
    assert one_number(path) >= seen[-1]


def one_number(path: Path) -> int:
    tensors, meta = checkpoint.load(path)
    assert tensors["w"].unique().tolist() == [meta["i"]]
    number: int = meta["i"]
    return number


@pytest.mark.parametrize("content", [None, b"", b"no safetensors file"])
def test_weights_that_cannot_be_read_are_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "weights.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load_weights(path)
    assert str(path) in str(caught.value)


def test_check_state_dict_accepts_the_same_names_and_shapes() -> None:
    checkpoint.check_state_dict(
        "f", {"a": torch.ones(2), "b": torch.ones(())}, {"b": torch.zeros(()), "a": TENSORS["bool"]}
    )


@pytest.mark.parametrize(
    ("found", "mentions"),
    [
        ({"a": (2,)}, ["no tensor 'b'"]),
        ({"a": (2,), "b": (3,), "c": (1,)}, ["'c'"]),
        ({"a": (2,), "b": (3, 1)}, ["'b'", "(3, 1)", "(3,)"]),
    ],
)
def test_check_state_dict_names_the_first_difference(found: dict[str, tuple[int, ...]], mentions: list[str]) -> None:
    wanted = {"a": torch.ones(2), "b": torch.ones(3)}
    with pytest.raises(CheckpointError) as caught:
        checkpoint.check_state_dict("file.x", {name: torch.ones(shape) for name, shape in found.items()}, wanted)
    for mention in ("file.x", *mentions):
        assert mention in str(caught.value)


def test_what_a_dead_process_left_is_cleared_and_what_a_live_one_writes_is_not(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for owner in (os.getppid(), dead.pid, os.getpid()):
        (tmp_path / f".file-{owner}-ab_1").touch()
    (tmp_path / ".file-x1y2z3").touch()  # as files were called before
    checkpoint.clear_unfinished(tmp_path, "file")
    assert [path.name for path in tmp_path.iterdir()] == [f".file-{os.getppid()}-ab_1"]
