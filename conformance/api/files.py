"""Every operation on a sandbox's files: what it does, and what it refuses."""

import base64
import os
import shutil
import tempfile
from pathlib import Path

from .contract import BYTES
from .sandboxed import Sandboxed

MIB = 1 << 20


class Files(Sandboxed):
    def test_write_and_read(self) -> None:
        written = self.ok("PUT", "/v1/files", content=b"0123456789", path="/root/new/f", parents=True, mode=0o600,
                          owner="user", sync=True)
        self.assertEqual(written, {"bytes": 10, "synced": True})
        self.ok("PUT", "/v1/files", content=b"ab", path="/root/new/f", append=True)
        self.assertEqual(self.ok("GET", "/v1/files", path="/root/new/f", offset=8, len=3), b"89a")
        self.assertEqual(self.ok("GET", "/v1/files", path="/root/new/f", offset=1000), b"")
        shown = self.ok("GET", "/v1/files/stat", path="/root/new/f")
        self.assertEqual((shown["kind"], shown["size"], shown["mode"], shown["uid"]), ("file", 12, 0o600, 1000))
        content = os.urandom(3 * MIB)
        self.ok("PUT", "/v1/files", content=(content[at:at + 65_536] for at in range(0, len(content), 65_536)),
                path="/root/ü %2F&=?#")
        self.assertEqual(self.ok("GET", "/v1/files", path="/root/ü %2F&=?#"), content)

    def test_directories_and_links(self) -> None:
        self.output("sh", "-c", "mkdir /d && cd /d && ln -s /etc link && mkfifo pipe && touch $(printf '\\377')")
        entries = {entry["name"]: entry for entry in self.ok("GET", "/v1/files/list", path="/d")}
        self.assertEqual([entries[name]["kind"] for name in ("link", "pipe", "\ufffd")], ["symlink", "fifo", "file"])
        self.assertEqual(base64.b64decode(entries["\ufffd"]["name_base64"]), b"\xff")
        self.assertEqual(self.ok("GET", "/v1/files/stat", path="/d/link")["target"], "/etc")
        self.assertEqual(self.ok("GET", "/v1/files/stat", path="/d/link", follow=True)["kind"], "directory")
        self.refused("FileError", "GET", "/v1/files", path="/d/pipe")

    def test_mkdir(self) -> None:
        self.ok("POST", "/v1/files/mkdir", {"path": "/m/a/b", "parents": True, "mode": 0o700})
        self.assertEqual(self.ok("GET", "/v1/files/stat", path="/m/a/b")["mode"], 0o700)

    def test_rename(self) -> None:
        self.ok("PUT", "/v1/files", content=b"moved", path="/root/from")
        self.ok("POST", "/v1/files/rename", {"from": "/root/from", "to": "/root/to"})
        self.assertEqual(self.ok("GET", "/v1/files", path="/root/to"), b"moved")

    def test_remove(self) -> None:
        self.ok("PUT", "/v1/files", content=b"", path="/r/f", parents=True)
        self.ok("POST", "/v1/files/remove", {"path": "/r", "recursive": True})
        self.refused("NotFound", "GET", "/v1/files/stat", path="/r")

    def test_what_files_refuse(self) -> None:
        missing, host = "/nowhere/f", "/nowhere/on-the-host"
        for code, path, body in (
            ("NotFound", "mkdir", {"path": missing}),
            ("AlreadyExists", "mkdir", {"path": "/etc"}),
            ("NotFound", "remove", {"path": missing}),
            ("FileError", "remove", {"path": "/etc"}),
            ("NotFound", "rename", {"from": missing, "to": "/f"}),
            ("NotFound", "copy-in", {"host_path": host, "guest_path": "/f"}),
            ("NotFound", "copy-out", {"host_path": host, "guest_path": "/etc/passwd"}),
            ("NotFound", "copy-out", {"host_path": "/tmp/never", "guest_path": missing}),
        ):
            with self.subTest(path=path, body=body):
                self.assertIsInstance(self.refused(code, "POST", f"/v1/files/{path}", body)["errno"], int)
        for path in ("/v1/files", "/v1/files/stat", "/v1/files/list"):
            self.assertEqual(self.refused("NotFound", "GET", path, path=missing)["errno"], 2)
        self.assertEqual(self.refused_put("NotFound", "/v1/files", path=missing)["errno"], 2)

    def test_paths_that_are_none(self) -> None:
        for path in ("", "etc", "/etc/../etc", "/a\0b", "/" + "x" * 5000):
            with self.subTest(path=path[:20]):
                self.refused("InvalidRequest", "GET", "/v1/files", path=path)
                self.refused_put("InvalidRequest", "/v1/files", path=path)
                self.refused("InvalidRequest", "POST", "/v1/files/mkdir", {"path": path})
                self.refused("InvalidRequest", "POST", "/v1/files/rename", {"from": "/etc", "to": path})
        self.refused("InvalidRequest", "POST", "/v1/files/copy-in", {"host_path": "relative", "guest_path": "/f"})
        self.refused("InvalidRequest", "POST", "/v1/files/copy-out", {"host_path": "/a\0b", "guest_path": "/etc"})

    def test_numbers_out_of_bounds(self) -> None:
        self.refused("FileError", "GET", "/v1/files", path="/etc/passwd", offset=2**63)
        for bad, legal in ({"offset": -1}, False), ({"offset": 2**64}, True), ({"len": "much"}, False):
            self.refused("InvalidRequest", "GET", "/v1/files", path="/etc/passwd", legal=legal, **bad)

    def test_a_write_that_breaks_off_leaves_the_old_file(self) -> None:
        self.ok("PUT", "/v1/files", content=b"old", path="/root/whole")
        answer = self.api.raw("PUT", "/v1/files?path=/root/whole", b"new", content_type=BYTES, missing=100)
        self.is_error("InvalidRequest", answer)
        self.assertEqual(self.ok("GET", "/v1/files", path="/root/whole"), b"old")

    def test_copies(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            source, back = Path(directory, "src"), Path(directory, "back")
            (source / "sub").mkdir(parents=True)
            (source / "sub" / "f").write_bytes(b"12345")
            (source / "inside").symlink_to("sub/f")
            shutil.copy("/bin/true", source / "program")
            report = self.ok("POST", "/v1/files/copy-in", {"host_path": str(source), "guest_path": "/copied"})
            self.assertEqual((report["files"], report["links"], report["skipped"]), (2, 1, []))
            self.output("sh", "-c", "ln -s /etc/shadow /copied/outside; mkfifo /copied/pipe")
            report = self.ok("POST", "/v1/files/copy-out", {"host_path": str(back), "guest_path": "/copied"})
            self.assertEqual((report["files"], report["links"]), (2, 1))
            self.assertEqual(sorted(Path(s["path"]).name for s in report["skipped"]), ["outside", "pipe"])
            self.assertEqual((back / "inside").read_bytes(), b"12345")
            self.assertEqual((back / "program").stat().st_mode, (source / "program").stat().st_mode)
            onto = {"host_path": str(back), "guest_path": "/copied/program"}
            self.refused("FileError", "POST", "/v1/files/copy-out", onto)
