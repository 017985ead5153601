"""Folders on the submitter's machine: read one to upload it, write outputs into one.

A folder that is read becomes a manifest of regular files, without what its `.gitignore` files leave
out. A folder that is written to receives files from a server that is not trusted: every path is
walked component by component without following links, and a file appears under its name only
when its content has the promised size and digest.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from dure.agent.wire import FILE_BYTES_MAX, FILES_MAX, TREE_BYTES_MAX, FileEntry, Manifest
from dure.errors import RefusedError
from dure.text import check_relative_path, shown

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

    from dure.client import Client

Progress = Callable[[int], None]
"""Told how many bytes more are done."""

_CHUNK: Final = 1 << 20
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_WRITE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def _bad(sentence: str) -> RefusedError:
    return RefusedError("bad-workdir", sentence)


# ---- reading -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tree:
    """A folder as it was read; `sources` says where each content lies."""

    manifest: Manifest
    sources: dict[str, Path]


def collect(folder: Path) -> Tree:
    """Read a folder: all regular files that its `.gitignore` files do not leave out; no `.git`.

    Only `.gitignore` files in the folder itself count, those of a repository around it do not.

    Raises:
        RefusedError: `bad-workdir`: no such folder, a link or special file in it, or too much.
    """
    if not folder.is_dir():
        raise _bad(f"workdir {shown(str(folder))} is not a folder.")
    entries: list[FileEntry] = []
    sources: dict[str, Path] = {}
    for path, file in _within_limits(_walk(folder)):
        entry = _entry(path, file)
        entries.append(entry)
        sources[entry.sha256] = file
    try:
        return Tree(Manifest(tuple(sorted(entries, key=lambda entry: entry.path))), sources)
    except ValueError as error:
        raise _bad(f"workdir {error}.") from None


def _within_limits(found: Iterable[tuple[str, Path, int]]) -> Iterator[tuple[str, Path]]:
    """All of a walk, once its counts and sizes have been seen to be allowed."""
    kept: list[tuple[str, Path]] = []
    size = 0
    for path, file, file_size in found:
        kept.append((path, file))
        size += file_size
        if len(kept) > FILES_MAX:
            raise _bad(
                f"workdir holds more than {FILES_MAX:,} files; "
                "leave out data and environments with .gitignore."
            )
        if file_size > FILE_BYTES_MAX:
            raise _bad(
                f"workdir file {shown(path)} has {file_size:,} bytes; at most {FILE_BYTES_MAX:,} "
                "are allowed, so leave it out with .gitignore."
            )
        if size > TREE_BYTES_MAX:
            raise _bad(
                f"workdir is larger than {TREE_BYTES_MAX:,} bytes; leave out data with .gitignore."
            )
    return iter(kept)


def _walk(folder: Path) -> Iterator[tuple[str, Path, int]]:
    """Path inside the folder, place and size of each file that is not left out."""
    open_folders: list[tuple[str, tuple[_Ignore, ...]]] = [("", ())]
    while open_folders:
        prefix, ignores = open_folders.pop()
        place = folder / prefix
        ignores = (*_ignore_file(place, prefix), *ignores)
        with os.scandir(place) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
        for entry in entries:
            path = f"{prefix}{entry.name}"
            is_folder = entry.is_dir(follow_symlinks=False)
            if entry.name == ".git" or _ignored(f"{path}/" if is_folder else path, ignores):
                continue
            if is_folder:
                open_folders.append((f"{path}/", ignores))
                continue
            status = entry.stat(follow_symlinks=False)
            _check_regular(path, status.st_mode)
            yield path, place / entry.name, status.st_size


def _check_regular(path: str, mode: int) -> None:
    try:
        check_relative_path("workdir file", path)
    except ValueError as error:
        raise _bad(f"{error}.") from None
    if stat.S_ISLNK(mode):
        raise _bad(
            f"workdir file {shown(path)} is a link, and links are not uploaded; "
            "put the file in its place or leave it out with .gitignore."
        )
    if not stat.S_ISREG(mode):
        raise _bad(f"workdir file {shown(path)} is no regular file; leave it out with .gitignore.")


@dataclass(frozen=True, slots=True)
class _Ignore:
    """One `.gitignore`; its patterns are relative to `prefix`, the folder that it lies in."""

    prefix: str
    spec: GitIgnoreSpec


def _ignore_file(place: Path, prefix: str) -> tuple[_Ignore, ...]:
    from pathspec import GitIgnoreSpec  # noqa: PLC0415 (only where a folder is read)

    file = place / ".gitignore"
    if file.is_symlink() or not file.is_file():  # git follows no link here either
        return ()
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    try:
        return (_Ignore(prefix, GitIgnoreSpec.from_lines(lines)),)
    except ValueError as error:
        raise _bad(f"{shown(prefix + '.gitignore')} cannot be read: {error}.") from None


def _ignored(path: str, ignores: tuple[_Ignore, ...]) -> bool:
    """The deepest `.gitignore` that says anything decides (gitignore(5)); they come deepest first.

    What a left-out folder holds is never looked at, so nothing in it can be brought back.
    """
    for ignore in ignores:
        include = ignore.spec.check_file(path.removeprefix(ignore.prefix)).include
        if include is not None:
            return include
    return False


def _entry(path: str, file: Path) -> FileEntry:
    digest, size = hashlib.sha256(), 0
    with os.fdopen(os.open(file, _READ), "rb") as content:
        executable = bool(os.fstat(content.fileno()).st_mode & stat.S_IXUSR)
        while chunk := content.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    try:
        return FileEntry(path, size, digest.hexdigest(), executable)
    except ValueError as error:  # it grew while it was read
        raise _bad(f"workdir file: {error}.") from None


def upload(client: Client, project: str, tree: Tree, progress: Progress = lambda _: None) -> str:
    """Upload what the control plane lacks of a tree. Returns the digest that names it there."""
    answer = client.register_workdir(project, tree.manifest)
    sizes = {entry.sha256: entry.size for entry in tree.manifest.files}
    for sha256 in answer.missing:
        if sha256 not in tree.sources:
            raise _bad("The control plane asks for a file that is not in the folder.")
        client.upload(project, sha256, tree.sources[sha256])
        progress(sizes[sha256])
    return answer.sha256


# ---- writing -------------------------------------------------------------------------------------


def fetch(
    files: Iterable[tuple[str, FileEntry]],
    content: Callable[[FileEntry], Iterable[bytes]],
    folder: Path,
    *,
    overwrite: bool = False,
    progress: Progress = lambda _: None,
) -> int:
    """Write files below a folder, each as (path, entry). Returns how many were not there already.

    A file that is there with the right content is left alone, so that a fetch that broke off goes
    on where it was. No link is followed, whoever made it.

    Raises:
        RefusedError: `bad-output`: another file is in the way, or content is not what was promised.
    """
    folder.mkdir(parents=True, exist_ok=True)
    root = os.open(folder, _FOLDER & ~os.O_NOFOLLOW)  # the user named this one
    written = 0
    try:
        for path, entry in files:
            _check_output(path)
            with _parent(root, path) as (parent, name):
                if _is_there(parent, name, entry, path, overwrite=overwrite):
                    progress(entry.size)
                    continue
                _write(parent, name, entry, _counted(content(entry), progress))
                written += 1
    finally:
        os.close(root)
    return written


def _output(sentence: str) -> RefusedError:
    return RefusedError("bad-output", sentence)


def _check_output(path: str) -> None:
    try:
        check_relative_path("output", path)
    except ValueError as error:
        raise _output(f"{error}.") from None


@contextmanager
def _parent(root: int, path: str) -> Iterator[tuple[int, str]]:
    """The folder that a path lies in, made where needed, and the name in it."""
    *folders, name = path.split("/")
    here = os.dup(root)
    try:
        for part in folders:
            with suppress(FileExistsError):
                os.mkdir(part, dir_fd=here)
            try:
                below = os.open(part, _FOLDER, dir_fd=here)
            except OSError:
                raise _output(
                    f"{shown(part)} of {shown(path)} is not a plain folder; move it away."
                ) from None
            os.close(here)
            here = below
        yield here, name
    finally:
        os.close(here)


def _is_there(parent: int, name: str, entry: FileEntry, path: str, *, overwrite: bool) -> bool:
    """Whether the right content is there already."""
    try:
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    if stat.S_ISDIR(status.st_mode):
        raise _output(f"{shown(path)} is a folder here; move it away.")
    regular = stat.S_ISREG(status.st_mode)
    if regular and status.st_size == entry.size and _digest(parent, name) == entry.sha256:
        return True
    if not overwrite:
        raise _output(
            f"{shown(path)} is here with other content; fetch to another folder or overwrite it."
        )
    return False


def _digest(parent: int, name: str) -> str:
    with os.fdopen(os.open(name, _READ, dir_fd=parent), "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _counted(chunks: Iterable[bytes], progress: Progress) -> Iterator[bytes]:
    for chunk in chunks:
        yield chunk
        progress(len(chunk))


def _write(parent: int, name: str, entry: FileEntry, chunks: Iterable[bytes]) -> None:
    """Write beside the name and move there once size and digest are right."""
    part = f".dure-{entry.sha256[:16]}-{os.getpid()}.part"
    mode = 0o777 if entry.executable else 0o666  # less the umask
    try:
        with os.fdopen(os.open(part, _WRITE, mode, dir_fd=parent), "wb") as file:
            _pour(chunks, entry, file)
        os.replace(part, name, src_dir_fd=parent, dst_dir_fd=parent)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(part, dir_fd=parent)
        raise


def _pour(chunks: Iterable[bytes], entry: FileEntry, file: BinaryIO) -> None:
    """Write what comes, and no more than was promised, and see that it is what was promised."""
    digest, size = hashlib.sha256(), 0
    for chunk in chunks:
        size += len(chunk)
        if size > entry.size:
            break
        digest.update(chunk)
        file.write(chunk)
    if size != entry.size or digest.hexdigest() != entry.sha256:
        raise _output(
            f"The content of {shown(entry.path)} is not what its manifest says; "
            "nothing was kept of it."
        )
