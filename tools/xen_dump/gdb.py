"""Read system registers through QEMU's gdb stub: as much of gdb's remote protocol as that takes."""

from __future__ import annotations

import re
import socket
from pathlib import Path

from xen_dump import DumpError

CHUNK = 0x800


class Gdb:
    """A connection to the stub at a Unix socket. Connecting stops the machine."""

    def __init__(self, path: Path, timeout: float) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout)
        self._socket.connect(str(path))
        self._stream = self._socket.makefile("rb")
        # The stub knows registers beyond the core's only after their description was read.
        self._registers = self._read_description("target.xml", 0)[0]

    def __enter__(self) -> Gdb:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._socket.close()

    def register(self, name: str, cpu: str) -> int:
        """The value of a register of one CPU (an id from `cpus`)."""
        if name not in self._registers:
            raise DumpError(f"QEMU's gdb stub has no register {name}: its version is too old?")
        self._call(f"Hg{cpu}", "OK")
        reply = self._call(f"p{self._registers[name]:x}")
        if not re.fullmatch("([0-9a-f]{2})+", reply):
            raise DumpError(f"QEMU's gdb stub does not tell {name}: {reply!r}")
        return int.from_bytes(bytes.fromhex(reply), "little")

    def cpus(self) -> list[str]:
        """The ids of all CPUs."""
        ids: list[str] = []
        reply = self._call("qfThreadInfo")
        while reply.startswith("m"):
            ids += reply[1:].split(",")
            reply = self._call("qsThreadInfo")
        return ids

    # ---- The target's description ----

    def _read_description(self, annex: str, number: int) -> tuple[dict[str, int], int]:
        """The numbers of the registers in a description and those it includes, and the next one's.

        A register without a number of its own follows the one before it.
        """
        numbers: dict[str, int] = {}
        # No XML parser: QEMU does not declare the prefix "xi".
        for tag, text in re.findall(r"<(xi:include|reg)\s([^>]*)>", self._read_annex(annex)):
            attributes = dict(re.findall(r'(\w+)="([^"]*)"', text))
            if tag == "reg":
                number = int(attributes.get("regnum", number))
                numbers[attributes["name"]] = number
                number += 1
            else:
                included, number = self._read_description(attributes["href"], number)
                numbers |= included
        return numbers, number

    def _read_annex(self, annex: str) -> str:
        text, more = "", True
        while more:
            reply = self._call(f"qXfer:features:read:{annex}:{len(text):x},{CHUNK:x}")
            if reply[:1] not in ("m", "l"):
                raise DumpError(f"QEMU's gdb stub does not describe {annex}: {reply!r}")
            text += reply[1:]
            more = reply.startswith("m")
        return text

    # ---- Packets ----

    def _call(self, command: str, expected: str | None = None) -> str:
        data = command.encode()
        self._socket.sendall(b"$%s#%02x" % (data, sum(data) & 0xFF))
        reply = self._receive()
        while re.match("[TS][0-9a-f]{2}", reply):  # the machine has stopped: nobody asked
            reply = self._receive()
        if expected is not None and reply != expected:
            raise DumpError(f"QEMU's gdb stub answers {command} with {reply!r}")
        return reply

    def _receive(self) -> str:
        """The next packet. Acknowledged as it is: a Unix socket loses and mangles nothing."""
        while (byte := self._stream.read(1)) != b"$":
            if not byte:
                raise DumpError("QEMU's gdb stub has closed the connection")
        data = bytearray()
        while (byte := self._stream.read(1)) not in (b"#", b""):
            data += bytes([self._stream.read(1)[0] ^ 0x20]) if byte == b"}" else byte
        self._stream.read(2)
        self._socket.sendall(b"+")
        return data.decode("latin-1")
