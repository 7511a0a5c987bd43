"""Files of a sandbox."""

from __future__ import annotations

import builtins
import os
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from pathlib import PurePosixPath
from typing import IO, Any

from .._api import CopyReport, FileInfo, Written
from .._core import check, files
from .._core.steps import Operation
from .handle import AsyncHandle

Content = str | bytes | IO[bytes] | Iterable[bytes] | AsyncIterable[bytes]


class AsyncFiles:
    """The files of one sandbox. Its paths are absolute; host paths have parameters that say so."""

    def __init__(self, handle: AsyncHandle) -> None:
        self._handle = handle

    async def write(
        self,
        path: str | PurePosixPath,
        data: Content,
        *,
        mode: int | None = None,
        owner: str | None = None,
        append: bool = False,
        sync: bool = False,
        parents: bool = False,
    ) -> Written:
        """Writes a file, whole or not at all: whoever reads it meanwhile finds the old one.

        Args:
            path: an absolute path of the guest.
            data: text (as UTF-8), bytes, a file that is open for reading bytes, or bytes in pieces; any length.
            mode: its permissions, such as 0o644.
            owner: who owns it: name, uid, name:group or uid:gid.
            append: add to what is there instead.
            sync: return when it survives the loss of the machine.
            parents: make missing directories.
        """
        options = {"mode": mode, "owner": owner, "append": append, "sync": sync, "parents": parents}
        return await self._handle.perform(files.write(self._handle.target, path, data, options))

    async def write_many(
        self, content: Mapping[str, Content], *, mode: int | None = None, owner: str | None = None, parents: bool = False
    ) -> builtins.list[Written]:
        """Writes several files, by their paths, one after the other. Each is whole or not there; the first failure ends it."""
        if not isinstance(content, Mapping):
            check.refuse("cannot write the files", "files are a mapping of paths to contents")
        # All paths are looked at before the first file is written.
        for path in content:
            check.guest_path("cannot write the files", path)
        return [await self.write(path, data, mode=mode, owner=owner, parents=parents) for path, data in content.items()]

    async def read(self, path: str | PurePosixPath, *, offset: int = 0, length: int | None = None) -> bytes:
        """The bytes of a regular file, or `length` of them from `offset` on. `stream` reads what is too large for memory."""
        operation = files.read(self._handle.target, path, offset, length)
        return b"".join([piece async for piece in self._pieces(operation)])

    async def read_text(self, path: str | PurePosixPath) -> str:
        """The text of a file in UTF-8; what is none is U+FFFD."""
        operation = files.read(self._handle.target, path, 0, None).known_as("files.read_text")
        return b"".join([piece async for piece in self._pieces(operation)]).decode(errors="replace")

    async def stream(self, path: str | PurePosixPath, *, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """The same as `read`, in pieces, as they come."""
        operation = files.read(self._handle.target, path, offset, length).known_as("files.stream")
        async for piece in self._pieces(operation):
            yield piece

    async def _pieces(self, operation: Operation[Any]) -> AsyncIterator[bytes]:
        async with await self._handle.perform(operation) as stream:
            async for piece in stream.pieces():
                yield piece

    async def list(self, path: str | PurePosixPath) -> tuple[FileInfo, ...]:
        """What is in a directory, by name."""
        return await self._handle.perform(files.listing(self._handle.target, path))

    async def stat(self, path: str | PurePosixPath, *, follow: bool = False) -> FileInfo:
        """What a file is; with `follow` what a symbolic link leads to."""
        return await self._handle.perform(files.stat(self._handle.target, path, follow))

    async def exists(self, path: str | PurePosixPath) -> bool:
        """Whether there is something of this name; a link that leads nowhere is nothing."""
        return await self._handle.perform(files.exists(self._handle.target, path))

    async def mkdir(self, path: str | PurePosixPath, *, parents: bool = False, mode: int | None = None) -> None:
        """Makes a directory; with `parents` those above it too, and is content with one that is there."""
        await self._handle.perform(files.mkdir(self._handle.target, path, parents, mode))

    async def move(self, source: str | PurePosixPath, destination: str | PurePosixPath) -> None:
        """Renames a file, in place of whatever file has that name. Only within one file system."""
        await self._handle.perform(files.move(self._handle.target, source, destination))

    async def remove(self, path: str | PurePosixPath, *, recursive: bool = False) -> None:
        """Removes a file or an empty directory; with `recursive` a directory with all that is in it."""
        await self._handle.perform(files.remove(self._handle.target, path, recursive))

    async def upload(self, *, host_path: str | os.PathLike[str], guest_path: str | PurePosixPath) -> CopyReport:
        """Copies a file or tree of this host into the sandbox. What was left out, such as devices, is in the report."""
        return await self._handle.perform(files.copy(self._handle.target, "upload", host_path, guest_path))

    async def download(self, *, guest_path: str | PurePosixPath, host_path: str | os.PathLike[str]) -> CopyReport:
        """Copies a file or tree out of the sandbox. Whatever the guest does, nothing is written outside of `host_path`."""
        return await self._handle.perform(files.copy(self._handle.target, "download", host_path, guest_path))
