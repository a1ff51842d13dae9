"""Files are whole or not there, and errors say what is wrong with which file."""

import errno
import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import gym_dream
from gym_dream.files import atomic_write, load_tensors, read_header, read_json, save_tensors, write_json

TENSORS = {"a": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.array([True, False]), "c": np.zeros((0, 2))}


@pytest.fixture
def old(tmp_path):
    """A folder with one good file, and a check that it alone is left as it was."""
    path = tmp_path / "tensors.safetensors"
    save_tensors(path, {"old": np.ones(3)}, {"age": "old"})
    content = path.read_bytes()
    yield path
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == [path.name], "a temporary file was left behind"


@contextmanager
def file_size_limit(num_bytes):
    """Files can grow no larger than this: the same failure in the middle of a write as on a full disk."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_tensors_come_back_as_they_were(tmp_path):
    path = tmp_path / "made" / "on the way" / "x.safetensors"
    strided = np.arange(24).reshape(4, 6).T[::2]
    save_tensors(path, {**TENSORS, "strided": strided}, {"what": "ü"})
    tensors, metadata = load_tensors(path)
    assert metadata == {"what": "ü"}
    assert set(tensors) == {*TENSORS, "strided"}
    for name, expected in {**TENSORS, "strided": strided}.items():
        np.testing.assert_array_equal(tensors[name], expected, strict=True)
    tensors["a"][0, 0] = 5.0  # writable
    assert os.listdir(path.parent) == [path.name]
    assert path.stat().st_mode & 0o777 == 0o666 & ~current_umask()


def current_umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_header_alone(tmp_path):
    save_tensors(tmp_path / "x.safetensors", TENSORS, {"k": "v"})
    header = read_header(tmp_path / "x.safetensors")
    assert header.shapes == {"a": (3, 4), "b": (2,), "c": (0, 2)}
    assert header.dtypes == {"a": "F32", "b": "BOOL", "c": "F64"}
    assert header.metadata == {"k": "v"}


def test_json(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"game": "Bréakout", "sizes": [1, 2.5, None]})
    assert read_json(path) == {"game": "Bréakout", "sizes": [1, 2.5, None]}
    with pytest.raises(TypeError):
        write_json(path, {"x": object()})
    assert read_json(path)["sizes"] == [1, 2.5, None]
    path.write_text('{"a": 1,\n "b": ')
    with pytest.raises(ValueError, match=r"x\.json is not valid JSON: .* line 2, column 7"):
        read_json(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not even UTF-8"):
        read_json(path)


# Failing writes


def test_failing_block_leaves_the_old_file(old):
    with pytest.raises(KeyboardInterrupt), atomic_write(old) as temporary:
        temporary.write_bytes(b"half of it")
        raise KeyboardInterrupt
    with pytest.raises(ZeroDivisionError), atomic_write(old) as temporary:
        raise ZeroDivisionError
    with pytest.raises(FileNotFoundError), atomic_write(old):
        pass  # nothing was written


def test_disk_fills_up_while_safetensors_writes(old):
    with file_size_limit(1_000_000), pytest.raises(OSError, match="disk or quota is full: free some space") as caught:
        save_tensors(old, {"big": np.zeros(1_000_000)})
    assert str(old) in str(caught.value) and "untouched" in str(caught.value)


def test_disk_fills_up_while_python_writes(old):
    with file_size_limit(1_000_000), pytest.raises(OSError, match=r"tensors\.safetensors.*disk or quota is full"):
        write_json(old, "x" * 2_000_000)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_device(old):
    with pytest.raises(OSError, match="free some space"), atomic_write(old):
        Path("/dev/full").write_bytes(b"x" * 100_000)


@pytest.mark.parametrize(
    ("number", "kind", "advice"),
    [
        (errno.ENOSPC, OSError, "free some space"),
        (errno.EROFS, OSError, "choose another or change its permissions"),
        (errno.EACCES, PermissionError, "choose another or change its permissions"),
        (errno.EISDIR, IsADirectoryError, "Check the path"),
    ],
)
def test_failing_rename(old, monkeypatch, number, kind, advice):
    def fail(source, target):
        raise OSError(number, os.strerror(number), str(source))

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(kind, match=advice) as caught:
        save_tensors(old, TENSORS)
    assert caught.value.errno == number and str(old) in str(caught.value)


@pytest.mark.skipif(not os.path.isdir("/sys/kernel"), reason="needs a folder that even root cannot write to")
def test_folder_that_cannot_be_written_to():
    for write in (lambda path: save_tensors(path, TENSORS), lambda path: write_json(path, {})):
        with pytest.raises(OSError, match=r"cannot write /sys/kernel/x\. The folder cannot be written to"):
            write("/sys/kernel/x")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder(tmp_path):
    path = tmp_path / "folder" / "x.safetensors"
    save_tensors(path, TENSORS)
    path.parent.chmod(0o555)
    try:
        with pytest.raises(PermissionError, match="change its permissions"):
            save_tensors(path, {})
        assert set(load_tensors(path)[0]) == set(TENSORS)
    finally:
        path.parent.chmod(0o755)


def test_parent_is_a_file(old):
    with pytest.raises(OSError, match="cannot write"):
        save_tensors(old / "x.safetensors", TENSORS)


def test_an_error_about_another_file_passes_unchanged(old, tmp_path):
    with pytest.raises(FileNotFoundError) as caught, atomic_write(old):
        (tmp_path / "elsewhere" / "missing").read_bytes()
    assert "cannot write" not in str(caught.value)


def test_without_overwriting(old, monkeypatch):
    with pytest.raises(FileExistsError, match="Remove it or choose another name"):
        save_tensors(old, TENSORS, overwrite=False)

    def no_links(source, target):
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(FileExistsError):
        save_tensors(old, TENSORS, overwrite=False)
    new = old.with_name("new.safetensors")
    save_tensors(new, TENSORS, overwrite=False)
    assert set(load_tensors(new)[0]) == set(TENSORS)
    new.unlink()


def test_sigkill_at_any_time_leaves_a_whole_file(tmp_path):
    path = tmp_path / "x.safetensors"
    program = f"""
import numpy as np
from gym_dream.files import save_tensors
for number in range(1_000_000):
    save_tensors({str(path)!r}, {{"x": np.full(300_000, number)}}, {{"number": str(number)}})
"""
    env = {**os.environ, "PYTHONPATH": str(Path(gym_dream.__file__).parents[1])}
    rng = np.random.default_rng(0)
    for _ in range(3):
        path.unlink(missing_ok=True)
        with subprocess.Popen([sys.executable, "-c", program], env=env) as process:
            deadline = time.monotonic() + 60
            while not path.exists():
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 0.05))
            process.kill()
        tensors, metadata = load_tensors(path, required=["x"])
        assert (tensors["x"] == int(metadata["number"])).all()


# Damaged and foreign files


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-1], "damaged safetensors file: .* Was it cut short"),
        (lambda data: data[:40], "damaged safetensors file: .* Was it cut short"),
        (lambda data: data + b"more", "damaged safetensors file"),
        (lambda data: data[:5], "only 5 bytes"),
        (lambda data: b"", "only 0 bytes"),
        (
            lambda data: b"PK\x03\x04 a zip archive, such as torch.save writes",
            "no safetensors file: it begins with b'PK",
        ),
        (lambda data: b"version https://git-lfs.github.com/spec/v1\n", "no safetensors file: it begins with b'version"),
        (lambda data: b'{"a": [1, 2], "b": "some JSON"}', "no safetensors file"),
    ],
)
def test_damaged_or_foreign_file(tmp_path, damage, message):
    path = tmp_path / "x.safetensors"
    path.write_bytes(damage(safetensors.numpy.save(TENSORS)))
    for read in (load_tensors, read_header):
        with pytest.raises(ValueError, match=message) as caught:
            read(path)
        assert str(path) in str(caught.value)


def test_no_file(tmp_path):
    for read in (load_tensors, read_header, read_json):
        with pytest.raises(FileNotFoundError, match=r"no such file.*its folder does exist"):
            read(tmp_path / "x")
        with pytest.raises(FileNotFoundError, match=r"no such file.*its folder does not exist"):
            read(tmp_path / "y" / "x")
        with pytest.raises(IsADirectoryError, match="this is a folder"):
            read(tmp_path)


def test_required_and_optional_names(tmp_path):
    path = tmp_path / "x.safetensors"
    save_tensors(path, TENSORS)
    assert set(load_tensors(path, required=["a"], optional=["b", "c", "d"])[0]) == {"a", "b", "c"}
    with pytest.raises(
        ValueError, match=r"misses 'd' and has 'c' that should not be there\. Expected .* optionally 'b'"
    ):
        load_tensors(path, required=["a", "d"], optional=["b"])


def test_a_type_numpy_lacks(tmp_path):
    header = json.dumps({"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    assert read_header(path).dtypes == {"a": "BF16"}
    with pytest.raises(ValueError, match=r"holds a type that NumPy cannot read.*BF16"):
        load_tensors(path)
