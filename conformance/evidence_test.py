#!/usr/bin/env python3
"""Receipts, checkpoints and proofs, verified by software that is not ours, and by arithmetic written from the specifications.

Needs mvmctl on the PATH, and pip for the verifier, which is put beneath target/. Usage: conformance/evidence_test.py
"""

import base64
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import unittest
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

            for _ in range(5):
                mvmctl("key", "rotate")
            pem, note = mvmctl("key", "export"), mvmctl("audit", "checkpoint")
            origin, size, signed = checkpoint(note, pem)
            entries = bundle(Path(home) / f"audit/tile/entries/000.p/{size}")
            self.assertEqual((size, root([leaf(entry) for entry in entries])), (6, signed))
            for index, entry in enumerate(entries):
                self.assertEqual(proof(mvmctl("audit", "prove", str(index)), pem), (origin, index, json.loads(entry)))
            self.assertEqual(json.loads(entries[5])["fields"]["new"], public_key(pem)[0])


class Arithmetic(unittest.TestCase):
    def test_the_roots_of_the_reference_implementation(self) -> None:
        entries = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
        leaves = [leaf(bytes.fromhex(entry)) for entry in entries]
        self.assertEqual(root(leaves).hex(), "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328")
        self.assertEqual(root([]).hex(), hashlib.sha256().hexdigest())


if __name__ == "__main__":
    unittest.main()
