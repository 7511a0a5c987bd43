"""Ports of the host that lead into a sandbox."""

import os
import socket

from .sandboxed import Sandboxed


class Ports(Sandboxed):
    request = {"name": f"ports-{os.getpid()}", "owner": "tests", "ttl_ms": 3_600_000}

    def test_a_port_from_its_opening_to_its_end(self) -> None:
        server = self.start("nc", "-ll", "-p", "7000", "-e", "cat")
        port = self.ok("POST", "/v1/ports", {"host_port": 0, "guest_port": 7000})
        self.assertEqual((port["address"], port["status"], port["exposed"]), ("127.0.0.1", "open", False))
        self.assertEqual([at["host_port"] for at in self.ok("GET", "/v1/ports")], [port["host_port"]])
        self.until(lambda: self.echoed(port["host_port"]) == b"there and back")
        self.ok("POST", "/v1/ports/remove", {"address": port["address"], "host_port": port["host_port"]})
        self.assertEqual(self.ok("GET", "/v1/ports"), [])
        with self.assertRaises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port["host_port"]), 5)
        self.ok("POST", f"/v1/jobs/{server}/signal", {"signal": 9})
        self.result(server)

    def echoed(self, port: int) -> bytes:
        try:
            with socket.create_connection(("127.0.0.1", port), 5) as peer:
                peer.sendall(b"there and back")
                peer.shutdown(socket.SHUT_WR)
                return b"".join(iter(lambda: peer.recv(4096), b""))
        except ConnectionResetError:
            return b""

    def test_what_is_refused(self) -> None:
        error = self.refused("BackendUnsupported", "POST", "/v1/ports", {"host_port": 0, "guest_port": 7, "protocol": "udp"})
        self.assertEqual(error["capability"], "ports.udp")
        self.refused("InvalidRequest", "POST", "/v1/ports", {"host_port": 0, "guest_port": 0})
        self.refused("NotFound", "POST", "/v1/ports/remove", {"address": "127.0.0.1", "host_port": 1})
