"""Files that are whole or not there: atomic writing, JSON, and NumPy tensors as safetensors with plain errors."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def atomic_write(path: str | os.PathLike[str], *, overwrite: bool = True) -> Iterator[Path]:
    """Hand out a temporary name beside `path`; what was written there becomes `path` when the block ends well.

    A reader, a crash or a power cut sees the old file or the new one, never a part of either. If the block fails, the
    temporary file is removed and `path` is as it was. Missing parent folders are made.

    Args:
        path: The file to write.
        overwrite: False never replaces an existing file, even one that another process makes in the meantime.

    Yields:
        The temporary path, in the same folder, to be written by the block (safetensors' own writers included).

    Raises:
        FileExistsError: `overwrite` is False and `path` is there.
        OSError: The disk is full, the folder is read-only, or the like; of the same kind as the system's own error,
            naming `path` and what to do.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = _usual_mode(temporary)
        yield temporary
        os.chmod(temporary, mode)  # safetensors makes files that only their owner can read
        _sync(temporary)
        if overwrite:
            os.replace(temporary, path)
        else:
            _move_to_new(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        if error.filename in (None, str(temporary), str(path), str(path.parent)) and error.errno is not None:
            raise _write_error(path, error.errno, error.strerror or str(error)) from error
        raise
    except safetensors.SafetensorError as error:  # which hides the system's error in its text
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise _write_error(path, int(number[1]), os.strerror(int(number[1]))) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: str | os.PathLike[str], contents: Collection[str], kind: str) -> Iterator[Path]:
    """Hand out an empty folder beside `folder`; what was put there becomes `folder` when the block ends well.

    If the block fails, what was put there is removed and `folder` is as it was.

    Args:
        folder: Where to; it may exist, if it holds nothing but such contents.
        contents: The names of all files that belong there.
        kind: What the folder is, for error messages.

    Yields:
        The temporary folder.

    Raises:
        FileExistsError: `folder` holds something else, which is left as it is.
        OSError: The disk is full or the folder cannot be written; what was there stays.
    """
    folder = Path(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise OSError(
            error.errno,
            f"{error.strerror}: cannot write the {kind} {folder}. Choose another folder or change the permissions of "
            "the one above it. What was there before is untouched",
        ) from error
    try:
        temporary.chmod(0o755)
        yield temporary
        _replace_folder(temporary, folder, contents, kind)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as indented UTF-8 JSON, atomically.

    Raises:
        TypeError, ValueError: `value` holds something that JSON cannot, such as infinity; the file is as it was.
        OSError: As in `atomic_write`.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not JSON; the message names the file, line and column.
    """
    path = _existing_file(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}. "
            "The file was cut short or edited: restore it."
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not JSON: it is not even UTF-8 text. Is it another kind of file?") from error


def save_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None = None,
    *,
    overwrite: bool = True,
) -> None:
    """Write arrays and string metadata as one safetensors file, atomically.

    Args:
        path: The file to write.
        tensors: Arrays by name; strided ones are copied.
        metadata: Strings by name, kept in the file's header.
        overwrite: As in `atomic_write`.

    Raises:
        OSError: As in `atomic_write`.
    """
    contiguous = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    with atomic_write(path, overwrite=overwrite) as temporary:
        safetensors.numpy.save_file(contiguous, temporary, metadata=dict(metadata or {}))


def load_tensors(
    path: str | os.PathLike[str],
    *,
    required: Collection[str] | None = None,
    optional: Collection[str] = (),
    mapped: bool = False,
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read a whole safetensors file.

    Args:
        path: The file to read.
        required: If given, the names that must be there; then nothing else may, save the `optional` ones.
        optional: Names that may be there.
        mapped: Leave the arrays on disk, mapped into memory: what is used is read when it is used, and kept by the
            system's cache, which processes share and which gives way to other needs. On a local POSIX file system,
            replacing the file (as `atomic_write` does) changes nothing for who has mapped it; it must not be changed or
            cut in place.

    Returns:
        Writable arrays by name (what is written never reaches the file), and the header's strings.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is cut short, of another kind, holds a type that NumPy lacks, or misses a tensor or has
            one too many.
    """
    header = read_header(path)
    if required is not None:
        _check_names(path, set(header.shapes), set(required), set(optional))
    try:
        if not mapped:
            return safetensors.numpy.load_file(path), header.metadata
        from safetensors.torch import load_file  # its tensors are mapped; those of safetensors.numpy are read

        return {name: tensor.numpy() for name, tensor in load_file(path).items()}, header.metadata
    except (TypeError, AttributeError, KeyError) as error:
        types = ", ".join(sorted(set(header.dtypes.values())))
        raise ValueError(f"{path} holds a type that NumPy cannot read ({error}); its types: {types}.") from error


@dataclass(frozen=True)
class TensorsHeader:
    """What a safetensors file says about itself; read without reading the data.

    Attributes:
        shapes: Shape by tensor name.
        dtypes: safetensors' name of the type ("U8", "I64", "F32", …) by tensor name.
        metadata: The header's strings.
    """

    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    metadata: dict[str, str]


def read_header(path: str | os.PathLike[str]) -> TensorsHeader:
    """Read the header of a safetensors file, and check that the file is as long as the header says.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is cut short, or of another kind.
    """
    path = _existing_file(path)
    try:
        with safetensors.safe_open(path, framework="np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
            return TensorsHeader(
                shapes={name: tuple(part.get_shape()) for name, part in slices.items()},
                dtypes={name: part.get_dtype() for name, part in slices.items()},
                metadata=dict(file.metadata() or {}),
            )
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} {_what_is_wrong(path)} ({error}).") from error


def _existing_file(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, f"expected a file, but this is a folder: {path}")
    if not path.exists():
        where = "its folder does not exist either" if not path.parent.exists() else "its folder does exist"
        raise FileNotFoundError(errno.ENOENT, f"no such file: {path} ({where})")
    return path


def _check_names(path: str | os.PathLike[str], names: set[str], required: set[str], optional: set[str]) -> None:
    problems = []
    if missing := required - names:
        problems.append(f"misses {_listed(missing)}")
    if extra := names - required - optional:
        problems.append(f"has {_listed(extra)} that should not be there")
    if problems:
        expected = _listed(required) + (f", optionally {_listed(optional)}" if optional else "")
        raise ValueError(f"{path} {' and '.join(problems)}. Expected the tensors {expected}. Is it the right file?")


def _listed(names: set[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names))


def _what_is_wrong(path: Path) -> str:
    """Tell a safetensors file that was cut short from a file of another kind."""
    size = path.stat().st_size
    with path.open("rb") as file:
        begin = file.read(9)
    if size < 9:
        return f"is no safetensors file: it has only {size} bytes. Was it cut short? Fetch it again"
    header_size = int.from_bytes(begin[:8], "little")
    if begin[8:] != b"{" or header_size > 100_000_000:
        return f"is no safetensors file: it begins with {begin!r}. Is it another kind of file, or still compressed?"
    return f"is a damaged safetensors file: its {size} bytes do not fit its header. Was it cut short? Fetch it again"


def _write_error(path: Path, number: int, text: str) -> OSError:
    if number in _FULL:
        advice = "The disk or quota is full: free some space or write elsewhere."
    elif number in _FORBIDDEN:
        advice = "The folder cannot be written to: choose another or change its permissions."
    elif number == errno.EEXIST:
        advice = "Remove it or choose another name."
    else:
        advice = "Check the path."
    # OSError makes itself into the subclass of its number: PermissionError, FileExistsError, …
    return OSError(number, f"{text}: cannot write {path}. {advice} What was there before is untouched")


def _usual_mode(path: Path) -> int:
    """The permissions of a file made here, which Python tells only by making one; fails early if none can be."""
    path.touch(exist_ok=False)
    mode = path.stat().st_mode
    path.unlink()
    return mode


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make the renaming itself survive a power cut, where the system allows it (Windows does not)."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _move_to_new(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)  # unlike a rename, fails if the name is taken
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: as good as can be had there
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        os.replace(temporary, path)


def _replace_folder(new: Path, folder: Path, contents: Collection[str], kind: str) -> None:
    """Put ``new`` where ``folder`` is. Folders cannot be swapped in one step: the old one waits under another name."""
    if not folder.exists():
        new.rename(folder)
        return
    if foreign := sorted({path.name for path in folder.iterdir()} - set(contents)):
        raise FileExistsError(
            f"{folder} is no {kind}, for it holds {', '.join(foreign)}: it is left as it is. Choose another."
        )
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
    try:
        folder.rename(old / folder.name)
        try:
            new.rename(folder)
        except BaseException:
            (old / folder.name).rename(folder)
            raise
    except BaseException:
        with suppress(OSError):
            old.rmdir()  # which spares it if the old one could not be moved back
        raise
    shutil.rmtree(old, ignore_errors=True)


def digest(paths: Iterable[Path]) -> str:
    """What files hold, as a short string: other contents give another."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]
