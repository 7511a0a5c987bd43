#!/usr/bin/env python3
"""Receipts, checkpoints and proofs, verified by software that is not ours, and by arithmetic written from the specifications.

Needs mvmctl on the PATH, what `mvmctl setup --image base` prepares, and pip for the verifier, which is put beneath target/.
Usage: conformance/evidence_test.py
"""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parent.parent
VECTORS = ROOT / "docs/evidence/vectors"
REQUIREMENTS = ROOT / "conformance/evidence-requirements.txt"
LIBRARY = ROOT / "target/evidence-python" / hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:16]
PIP = ["-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--disable-pip-version-check",
       "--root-user-action=ignore", "--only-binary", ":all:"]

if not LIBRARY.exists():
    with tempfile.TemporaryDirectory(dir=ROOT / "target") as making:
        subprocess.run([sys.executable, *PIP, "--target", f"{making}/library", "-r", REQUIREMENTS], check=True)
        LIBRARY.parent.mkdir(exist_ok=True)
        os.rename(f"{making}/library", LIBRARY)
sys.path.insert(0, str(LIBRARY))

from securesystemslib.dsse import Envelope  # noqa: E402
from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError  # noqa: E402
from securesystemslib.signer import Signature, SSlibKey  # noqa: E402


def public_key(pem: str) -> tuple[str, bytes]:
    """A key's id and its 32 bytes."""
    der = base64.b64decode("".join(pem.splitlines()[1:-1]), validate=True)
    assert der[:12] == bytes.fromhex("302a300506032b6570032100") and len(der) == 44, "not an Ed25519 key"
    return hashlib.sha256(der).hexdigest(), der[12:]


def library_key(pem: str) -> SSlibKey:
    keyid, raw = public_key(pem)
    return SSlibKey(keyid, "ed25519", "ed25519", {"public": raw.hex()})


def dsse(receipt: bytes, pem: str) -> dict[str, object]:
    """What a receipt says, by the word of the library alone."""
    envelope = Envelope.from_dict(json.loads(receipt))
    envelope.verify([library_key(pem)], 1)
    assert envelope.payload_type == "application/vnd.in-toto+json"
    return json.loads(envelope.payload)


def node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


def leaf(entry: bytes) -> bytes:
    return hashlib.sha256(b"\0" + entry).digest()


def root(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962, section 2.1."""
    if len(leaves) < 2:
        return leaves[0] if leaves else hashlib.sha256().digest()
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return node(root(leaves[:split]), root(leaves[split:]))


def root_of(place: int, size: int, hash: bytes, path: list[bytes]) -> bytes:
    """The root to which an inclusion proof leads: PATH of RFC 6962, section 2.1.1, read from its end."""
    if size == 1:
        assert not path, "the proof is too long"
        return hash
    split = 1 << (size - 1).bit_length() - 1
    if place < split:
        return node(root_of(place, split, hash, path[:-1]), path[-1])
    return node(path[-1], root_of(place - split, size - split, hash, path[:-1]))


def checkpoint(note: str, pem: str) -> tuple[str, int, bytes]:
    """Origin, size and root of a checkpoint whose signature by this key fits."""
    text, signatures = note.split("\n\n")
    text += "\n"
    origin, size, encoded = text.splitlines()
    keyid, raw = public_key(pem)
    expected = hashlib.sha256(origin.encode() + b"\n\1" + raw).digest()[:4]
    for line in signatures.splitlines():
        dash, name, signature = line.split(" ")
        decoded = base64.b64decode(signature, validate=True)
        if (dash, name, decoded[:4]) == ("\u2014", origin, expected):
            library_key(pem).verify_signature(Signature(keyid, decoded[4:].hex()), text.encode())
            return origin, int(size), base64.b64decode(encoded, validate=True)
    raise AssertionError("no signature by this key")


def proof(text: str, pem: str) -> tuple[str, int, dict[str, object]]:
    """Origin, index and entry that a proof proves."""
    head, note = text.split("\n\n", 1)
    first, extra, index, *path = head.splitlines()
    assert first == "c2sp.org/tlog-proof@v1" and extra.startswith("extra ") and index.startswith("index ")
    entry, place = base64.b64decode(extra[6:], validate=True), int(index[6:])
    origin, size, signed = checkpoint(note, pem)
    assert place < size, "behind the end"
    reached = root_of(place, size, leaf(entry), [base64.b64decode(line, validate=True) for line in path])
    assert reached == signed, "the proof leads elsewhere"
    return origin, place, json.loads(entry)


def commitment(field: str, salt: bytes, value: bytes) -> str:
    return hashlib.sha256(b"mvm-commitment-v1\n" + field.encode() + b"\n" + salt + value).hexdigest()


def opening(content: bytes, stated: dict[str, object]) -> tuple[str, bytes]:
    """The field and the value that an opening proves beside a statement."""
    said = json.loads(content)
    assert json.dumps(said, separators=(",", ":"), sort_keys=True).encode() + b"\n" == content, "another spelling"
    assert sorted(said) == ["field", "run_id", "salt", "type", "value"] and said["type"] == "urn:mvm:opening:v1"
    field, value = said["field"], base64.b64decode(said["value"], validate=True)
    assert said["run_id"] == stated["predicate"]["run"]["run_id"], "of another run"
    made = commitment(field, bytes.fromhex(said["salt"]), value)
    assert made == stated["predicate"]["commitments"][field], "not what was committed to"
    return field, value


def bundle(path: Path) -> list[bytes]:
    """The entries of a bundle of C2SP tlog-tiles."""
    content, entries = path.read_bytes(), []
    while content:
        length = int.from_bytes(content[:2], "big")
        entries.append(content[2:2 + length])
        content = content[2 + length:]
    return entries


class Vectors(unittest.TestCase):
    def setUp(self) -> None:
        self.pem = (VECTORS / "key.pem").read_text()
        self.expected = json.loads((VECTORS / "expected.json").read_text())

    def test_a_library_that_is_not_ours_verifies_a_receipt(self) -> None:
        said = dsse((VECTORS / "receipt.json").read_bytes(), self.pem)
        self.assertEqual(said, json.loads((VECTORS / "payload.json").read_bytes()))
        self.assertEqual(said["_type"], "https://in-toto.io/Statement/v1")

    def test_it_refuses_what_was_tampered_with(self) -> None:
        refused = [row["file"] for row in self.expected["receipts"] if row["refusal"] in ("bad-signature", "unknown-key")]
        self.assertGreaterEqual(len(refused), 3)
        for name in refused:
            with self.subTest(name), self.assertRaises(VerificationError):
                dsse((VECTORS / name).read_bytes(), self.pem)
        good = json.loads((VECTORS / "receipt.json").read_bytes())
        payload = base64.b64decode(good["payload"])
        for place in range(0, len(payload), 97):
            tampered = bytes([*payload[:place], payload[place] ^ 1, *payload[place + 1:]])
            with self.subTest(place), self.assertRaises(VerificationError):
                dsse(json.dumps({**good, "payload": base64.b64encode(tampered).decode()}).encode(), self.pem)

    def test_the_proof_is_of_this_receipt(self) -> None:
        origin, index, entry = proof((VECTORS / "receipt.json.tlog-proof").read_text(), self.pem)
        receipt = (VECTORS / "receipt.json").read_bytes()
        run = dsse(receipt, self.pem)["predicate"]["run"]
        self.assertEqual((origin, index, entry["event"]), (run["log"], 3, "receipt"))
        self.assertEqual((entry["run"], entry["sandbox"]), (run["run_id"], run["sandbox_id"]))
        payload = (VECTORS / "payload.json").read_bytes()
        self.assertEqual(entry["fields"]["envelope"], hashlib.sha256(receipt).hexdigest())
        self.assertEqual(entry["fields"]["statement"], hashlib.sha256(payload).hexdigest())

    def test_tampered_proofs_prove_nothing(self) -> None:
        names = [row["file"] for row in self.expected["proofs"] if row["refusal"]]
        self.assertGreaterEqual(len(names), 4)
        proof((VECTORS / "receipt.json.tlog-proof").read_text(), self.pem)
        for name in names:
            with self.subTest(name), self.assertRaises((AssertionError, UnverifiedSignatureError)):
                proof((VECTORS / name).read_text(), self.pem)

    def test_commitments_open(self) -> None:
        opened = json.loads((VECTORS / "commitments.json").read_text())
        salt, stated = bytes.fromhex(opened["salt"]), json.loads((VECTORS / "payload.json").read_bytes())
        for field, value in opened["values"].items():
            if not isinstance(value, str):
                value = json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
            own = hashlib.sha256(b"mvm-salt-v1\n" + field.encode() + b"\n" + salt).digest()
            self.assertEqual(own.hex(), opened["salts"][field], field)
            digest = commitment(field, own, value.encode())
            self.assertEqual(digest, opened["commitments"][field], field)
            self.assertEqual(digest, stated["predicate"]["commitments"][field], field)

    def test_an_opening_proves_one_value(self) -> None:
        stated = dsse((VECTORS / "receipt.json").read_bytes(), self.pem)
        proven = {row["file"]: opening((VECTORS / row["file"]).read_bytes(), stated)
                  for row in self.expected["openings"] if not row["refusal"]}
        self.assertEqual(proven, {"opening.json": ("stdout", b"hello\n"),
                                  "opening-of-argv.json": ("argv", b'["sh","-c","echo hello"]')})
        others = [row["file"] for row in self.expected["openings"] if row["refusal"]]
        self.assertGreaterEqual(len(others), 9)
        for name in others:
            with self.subTest(name), self.assertRaises((AssertionError, KeyError, ValueError)):
                opening((VECTORS / name).read_bytes(), stated)

    def test_the_log_is_a_tiled_one(self) -> None:
        _, size, signed = checkpoint((VECTORS / "log/checkpoint").read_text(), self.pem)
        leaves = [leaf(entry) for entry in bundle(VECTORS / f"log/tile/entries/000.p/{size}")]
        self.assertEqual((len(leaves), root(leaves)), (size, signed))
        self.assertEqual((VECTORS / f"log/tile/0/000.p/{size}").read_bytes(), b"".join(leaves))


class Live(unittest.TestCase):
    """The same with what mvmctl writes now."""

    def test_a_log_and_its_proofs(self) -> None:
        with tempfile.TemporaryDirectory() as home:
            def mvmctl(*args: str) -> str:
                done = subprocess.run(["mvmctl", *args], env={**os.environ, "MVM_HOME": home}, capture_output=True, text=True,
                                      check=True)
                return done.stdout

            # A first key comes from setup, which takes longer than a copy of one.
            keys = json.loads(subprocess.run(["mvmctl", "key", "show", "--json"], capture_output=True, check=True).stdout)
            shutil.copytree(keys["directory"], Path(home) / "keys")
            for _ in range(6):
                mvmctl("key", "rotate")
            pem, note = mvmctl("key", "export"), mvmctl("audit", "checkpoint")
            origin, size, signed = checkpoint(note, pem)
            entries = bundle(Path(home) / f"audit/tile/entries/000.p/{size}")
            self.assertEqual((size, root([leaf(entry) for entry in entries])), (6, signed))
            for index, entry in enumerate(entries):
                self.assertEqual(proof(mvmctl("audit", "prove", str(index)), pem), (origin, index, json.loads(entry)))
            self.assertEqual(json.loads(entries[5])["fields"]["new"], public_key(pem)[0])


class Demonstration(unittest.TestCase):
    """A run under the strictest profile, and its receipt on a machine that has nothing but a public key."""

    RUN = ["run", "--image", "base", "--profile", "restrictive", "--json"]
    COMMAND = ["--", "sh", "-c", "cat; echo done >&2; exit 3"]
    # What every way of changing a byte can be refused for; 125 would be that nobody looked.
    REFUSALS = {20, 21, 22, 23, 24, 25, 30, 31, 32, 33, 34, 40, 41, 42, 50, 51, 52}

    @classmethod
    def setUpClass(cls) -> None:
        directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(directory.cleanup)
        cls.place = Path(directory.name)
        cls.receipt, cls.proof, cls.key = (cls.place / name for name in ("r.json", "r.json.tlog-proof", "key.pem"))
        cls.key.write_text(cls.here("key", "export"))
        cls.plan = json.loads(cls.here(*cls.RUN, "--dry-run", *cls.COMMAND))
        cls.result = json.loads(cls.here(*cls.RUN, "-i", "--receipt", str(cls.receipt), *cls.COMMAND, input="asked\n"))

    @classmethod
    def here(cls, *args: str, input: str = "") -> str:
        return subprocess.run(["mvmctl", *args], input=input, stdout=subprocess.PIPE, text=True).stdout

    def elsewhere(self, receipt: Path, proof: Path) -> int:
        """The exit status of a verifier that never had a home."""
        command = ["mvmctl", "receipt", "verify", str(receipt), "--proof", str(proof), "--key", str(self.key)]
        env = {"PATH": os.environ["PATH"], "MVM_HOME": str(self.place / "home")}
        return subprocess.run(command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, close_fds=False).returncode

    def statuses(self, original: Path, check: Callable[[Path], int]) -> Counter[int]:
        """How often each exit status comes of the file with one byte changed, for each of its bytes."""
        content = original.read_bytes()

        def changed(place: int) -> int:
            copy = self.place / f"{original.name}-{place}"
            copy.write_bytes(bytes([*content[:place], content[place] ^ 1 << place % 8, *content[place + 1:]]))
            status = check(copy)
            copy.unlink()
            return status

        with ThreadPoolExecutor((os.cpu_count() or 1) + 1) as pool:
            return Counter(pool.map(changed, range(len(content))))

    def test_every_byte_counts(self) -> None:
        self.assertEqual(self.elsewhere(self.receipt, self.proof), 0)
        of_receipt = self.statuses(self.receipt, lambda receipt: self.elsewhere(receipt, self.proof))
        of_proof = self.statuses(self.proof, lambda proof: self.elsewhere(self.receipt, proof))
        self.assertLessEqual(set(of_receipt) | set(of_proof), self.REFUSALS)
        self.assertEqual(of_receipt.total(), self.receipt.stat().st_size)
        self.assertGreater(of_receipt[34], of_receipt.total() / 2, "most of it is signed")
        self.assertEqual(self.elsewhere(self.receipt, self.proof), 0)
        self.assertFalse((self.place / "home").exists(), "looking makes nothing")

    def test_a_library_that_is_not_ours_reads_the_same(self) -> None:
        pem, result = self.key.read_text(), self.result
        statement = dsse(self.receipt.read_bytes(), pem)
        said = statement["predicate"]
        self.assertEqual([subject["name"] for subject in statement["subject"]], [result["run_id"]])
        run = said["run"]
        self.assertEqual([run[name] for name in ("run_id", "sandbox_id", "audit_id")],
                         [result[name] for name in ("run_id", "sandbox_id", "audit_id")])
        self.assertEqual(said["guest_reported"], {"exit_code": 3, "signal": None, "oom_killed": False, "not_started": None})
        observed = said["host_observed"]
        self.assertEqual([observed[f"{name}_bytes"] for name in ("stdin", "stdout", "stderr")], [6, 6, 5])
        self.assertEqual(f"sha256:{said['image']['digest']}", result["image_digest"])
        self.assertEqual({layer["layer"]: layer["applied"] for layer in said["isolation"]["layers"]},
                         {layer["layer"]: layer["applied"] for layer in result["isolation"]["layers"]})
        origin, index, entry = proof(self.proof.read_text(), pem)
        self.assertEqual((origin, entry["run"]), (run["log"], run["run_id"]))
        self.assertGreater(index, run["audit_id"])

    def test_it_ran_as_the_plan_had_said(self) -> None:
        said = dsse(self.receipt.read_bytes(), self.key.read_text())["predicate"]
        canonical = json.dumps(self.plan, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        self.assertEqual(said["policy"]["plan_digest"], hashlib.sha256(canonical.encode()).hexdigest())
        self.assertEqual(said["policy"]["profile_digest"], self.plan["profile_digest"])
        self.assertEqual((said["policy"]["profile"], said["policy"]["allowed_missing"]), ("restrictive", []))
        for limit in ("cpus", "memory_mib", "disk_bytes", "scratch_bytes", "processes", "output_bytes", "timeout_ms"):
            self.assertEqual(said["limits"][limit], self.plan["enforced"][limit], limit)
        missing = [layer["layer"] for layer in said["isolation"]["layers"] if layer["mandatory"] and not layer["applied"]]
        self.assertEqual(missing, [])

    def test_what_it_commits_to_is_what_went_in_and_came_out(self) -> None:
        commitments = dsse(self.receipt.read_bytes(), self.key.read_text())["predicate"]["commitments"]
        argv = json.dumps(self.COMMAND[1:], separators=(",", ":"))
        for field, value in (("argv", argv), ("stdin", "asked\n"), ("stdout", "asked\n"), ("stderr", "done\n")):
            (self.place / "value").write_text(value)
            opened = json.loads(self.here("receipt", "open", str(self.receipt), field, "--value", str(self.place / "value")))
            hashed = f"mvm-commitment-v1\n{field}\n".encode() + bytes.fromhex(opened["salt"]) + value.encode()
            self.assertEqual(hashlib.sha256(hashed).hexdigest(), commitments[field], field)
            self.assertEqual(base64.b64decode(opened["value"]), value.encode())


class Arithmetic(unittest.TestCase):
    def test_the_roots_of_the_reference_implementation(self) -> None:
        entries = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
        leaves = [leaf(bytes.fromhex(entry)) for entry in entries]
        self.assertEqual(root(leaves).hex(), "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328")
        self.assertEqual(root([]).hex(), hashlib.sha256().hexdigest())


if __name__ == "__main__":
    unittest.main()
