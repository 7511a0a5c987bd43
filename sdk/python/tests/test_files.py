"""Files of a sandbox, on both surfaces."""

from __future__ import annotations

import hashlib
import io
import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import pytest
import support

import mvm

PIECE = os.urandom(1 << 20)


@pytest.fixture
def place(box: Any, api: support.Surface, request: pytest.FixtureRequest) -> Iterator[str]:
    """A directory of the guest."""
    path = f"/root/{abs(hash(request.node.name))}"
    box.files.mkdir(path)
    yield path
    box.files.remove(path, recursive=True)


def test_what_is_written_is_read(box: Any, place: str) -> None:
    contents = [
        ("t\u00e9xt\0\n", "t\u00e9xt\0\n".encode()),
        (b"\xff\0", b"\xff\0"),
        (bytearray(b"ab"), b"ab"),
        (memoryview(b"ab"), b"ab"),
        ("", b""),
        (io.BytesIO(b"f" * 300_000), b"f" * 300_000),
        (iter([b"a", b"", b"b"]), b"ab"),
    ]
    for number, (data, wanted) in enumerate(contents):
        path = f"{place}/{number}"
        assert box.files.write(path, data) == mvm.Written(bytes=len(wanted), synced=False)
        assert box.files.read(path) == wanted
    assert box.files.read_text(f"{place}/0") == contents[0][0]
    assert box.files.read_text(f"{place}/1") == "\ufffd\0"


def test_how_it_is_written(box: Any, place: str) -> None:
    path = PurePosixPath(place) / "a/b/file"
    assert box.files.write(path, "one", mode=0o640, owner="65534:65534", parents=True, sync=True).synced
    box.files.write(path, "two", append=True)
    info = box.files.stat(path)
    assert (info.kind, info.name, info.mode, info.uid, info.gid, info.size) == ("file", "file", 0o640, 65534, 65534, 6)
    assert info.mtime.tzinfo is not None
    assert box.files.read(path, offset=1, length=3) == b"net"
    assert box.files.read(path, offset=100) == box.files.read(path, length=0) == b""
    assert b"".join(box.files.stream(path, offset=4)) == b"wo"


def test_many_at_once(box: Any, place: str) -> None:
    written = box.files.write_many({f"{place}/x/a": "1", PurePosixPath(f"{place}/y/b"): b"22"}, parents=True, mode=0o600)
    assert [one.bytes for one in written] == [1, 2]
    assert box.files.stat(f"{place}/y/b").mode == 0o600
    with pytest.raises(mvm.InvalidRequest):
        box.files.write_many({f"{place}/c": "1", "relative": "2"})
    assert not box.files.exists(f"{place}/c")
    for wrong in (5, None, ["/a"], "/a"):
        with pytest.raises(mvm.InvalidRequest):
            box.files.write_many(wrong)


def test_directories(box: Any, place: str) -> None:
    box.files.mkdir(f"{place}/a/b", parents=True, mode=0o700)
    box.files.mkdir(f"{place}/a/b", parents=True)
    box.files.write(f"{place}/a/f", "x")
    assert [(info.name, info.kind) for info in box.files.list(f"{place}/a")] == [("b", "directory"), ("f", "file")]
    box.files.move(f"{place}/a/f", f"{place}/g")
    assert (box.files.exists(f"{place}/a/f"), box.files.read(f"{place}/g")) == (False, b"x")
    with pytest.raises(mvm.AlreadyExists) as there:
        box.files.mkdir(f"{place}/a")
    assert isinstance(there.value, FileExistsError)
    assert there.value.errno == 17
    with pytest.raises(mvm.FileError) as full:
        box.files.remove(f"{place}/a")
    assert full.value.errno == 39
    box.files.remove(f"{place}/a", recursive=True)
    assert not box.files.exists(f"{place}/a")


def test_links(box: Any, place: str) -> None:
    box.commands.run("ln -s f good; ln -s none bad; ln -s loop loop; echo x > f", cwd=place, check=True)
    assert [box.files.exists(f"{place}/{name}") for name in ("f", "good", "bad", "loop", "none", "f/below")] == [
        True, True, False, False, False, False,
    ]  # fmt: skip
    link = box.files.stat(f"{place}/bad")
    assert (link.kind, link.target) == ("symlink", "none")
    assert box.files.stat(f"{place}/good", follow=True).kind == "file"
    with pytest.raises(mvm.NotFound):
        box.files.stat(f"{place}/bad", follow=True)


def test_names_that_are_no_text_are_listed(box: Any, place: str) -> None:
    box.commands.run(r"touch $(printf 'a\377')", cwd=place, check=True)
    (info,) = box.files.list(place)
    assert info.name == "a\ufffd"
    assert info.name_base64 == "Yf8="


def test_what_is_not_there_is_not_found(box: Any, place: str) -> None:
    missing = f"{place}/missing"
    for act in (
        lambda: box.files.read(missing), lambda: list(box.files.stream(missing)), lambda: box.files.list(missing),
        lambda: box.files.stat(missing), lambda: box.files.remove(missing), lambda: box.files.move(missing, f"{place}/x"),
        lambda: box.files.write(f"{missing}/x", "x"), lambda: box.files.mkdir(f"{missing}/x"),
    ):  # fmt: skip
        with pytest.raises(mvm.NotFound) as error:
            act()
        assert isinstance(error.value, FileNotFoundError)
        assert error.value.errno == 2
        assert "missing" in str(error.value)


def test_what_is_no_file_is_not_read(box: Any, place: str) -> None:
    for path in (place, "/dev/null"):
        with pytest.raises(mvm.MvmError):
            box.files.read(path)


NO_PATHS = ["", "relative", "../etc/passwd", ".", b"/bytes", None, 5, "/half\ud800", PureWindowsPath("/a")]


@pytest.mark.parametrize("path", NO_PATHS, ids=ascii)
def test_paths_that_are_none(box: Any, path: Any) -> None:
    for act in (
        lambda: box.files.write(path, "x"), lambda: box.files.read(path), lambda: list(box.files.stream(path)),
        lambda: box.files.list(path), lambda: box.files.stat(path), lambda: box.files.exists(path),
        lambda: box.files.mkdir(path), lambda: box.files.move(path, "/a"), lambda: box.files.move("/a", path),
        lambda: box.files.remove(path), lambda: box.files.upload(host_path="/etc/hosts", guest_path=path),
        lambda: box.files.download(guest_path=path, host_path="/tmp/x"),
    ):  # fmt: skip
        with pytest.raises(mvm.InvalidRequest):
            act()


@pytest.mark.parametrize("path", ["/a\0b", "/tmp/../etc/x", "/tmp/a/../../x", "/.."], ids=ascii)
def test_paths_that_lead_elsewhere_are_refused_by_the_sandbox(box: Any, path: str) -> None:
    with pytest.raises(mvm.MvmError) as refused:
        box.files.write(path, "x")
    assert isinstance(refused.value, (mvm.InvalidRequest, mvm.FileError))


NO_CONTENTS = [None, 5, {"a": b"b"}, "\ud800", object(), [1], ["text"], [None]]


@pytest.mark.parametrize("data", NO_CONTENTS, ids=ascii)
def test_contents_that_are_none(box: Any, place: str, data: Any) -> None:
    with pytest.raises(mvm.InvalidRequest):
        box.files.write(f"{place}/never", data)
    assert not box.files.exists(f"{place}/never")


def test_a_file_of_text_is_no_content(box: Any, place: str) -> None:
    with pytest.raises(mvm.InvalidRequest, match="binary mode"):
        box.files.write(f"{place}/never", io.StringIO("text"))
    assert not box.files.exists(f"{place}/never")


NO_OPTIONS = [
    {"mode": -1}, {"mode": 0o10000}, {"mode": "644"}, {"mode": True}, {"owner": 5}, {"append": 1}, {"sync": "yes"},
    {"parents": None},
]  # fmt: skip


@pytest.mark.parametrize("options", NO_OPTIONS, ids=str)
def test_options_that_make_no_sense(box: Any, place: str, options: dict[str, Any]) -> None:
    with pytest.raises(mvm.InvalidRequest):
        box.files.write(f"{place}/never", "x", **options)


@pytest.mark.parametrize("number", [-1, True, "1", 1.0, math.nan, 2**64], ids=str)
def test_offsets_that_are_none(box: Any, number: Any) -> None:
    with pytest.raises(mvm.InvalidRequest):
        box.files.read("/etc/hostname", offset=number)
    with pytest.raises(mvm.InvalidRequest):
        box.files.read("/etc/hostname", length=number)


def test_a_source_that_fails_leaves_nothing(box: Any, place: str) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"half"
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        box.files.write(f"{place}/half", pieces())
    # The sandbox removes what it had when it sees that no more comes.
    support.until(lambda: box.files.list(place) == (), "nothing is left of it")


def test_a_large_file_goes_there_and_back_in_pieces(box: Any, place: str) -> None:
    written = box.files.write(f"{place}/large", (PIECE for _ in range(64)))
    assert written.bytes == 64 << 20
    back, size = hashlib.sha256(), 0
    for piece in box.files.stream(f"{place}/large"):
        back.update(piece)
        size += len(piece)
    assert size == 64 << 20
    assert back.digest() == hashlib.sha256(PIECE * 64).digest()


def test_a_stream_may_be_left(box: Any, place: str) -> None:
    box.files.write(f"{place}/large", PIECE * 4)
    stream = box.files.stream(f"{place}/large")
    assert next(stream)
    stream.close()
    assert box.files.exists(f"{place}/large")


def test_trees_are_copied(box: Any, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tree/deep").mkdir(parents=True)
    (tmp_path / "tree/deep/file").write_bytes(b"x" * 1000)
    (tmp_path / "tree/link").symlink_to("deep/file")
    os.mkfifo(tmp_path / "tree/fifo")
    monkeypatch.chdir(tmp_path)
    report = box.files.upload(host_path="tree", guest_path=f"{place}/tree")
    assert (report.files, report.links, report.bytes) == (1, 1, 1000)
    assert [os.path.basename(skipped.path) for skipped in report.skipped] == ["fifo"]
    report = box.files.download(guest_path=PurePosixPath(place) / "tree", host_path=tmp_path / "back")
    assert report.files == 1
    assert (tmp_path / "back/deep/file").read_bytes() == b"x" * 1000
    assert os.readlink(tmp_path / "back/link") == "deep/file"
    with pytest.raises(mvm.NotFound):
        box.files.upload(host_path="none", guest_path=f"{place}/none")
    for wrong in (5, None, "", "a\0b", b"tree"):
        with pytest.raises(mvm.InvalidRequest):
            box.files.upload(host_path=wrong, guest_path=f"{place}/none")
