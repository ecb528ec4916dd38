"""Network interfaces, and the ports that the head of a Ray cluster listens on."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

PORTS = {
    6379: "ray start --head --port",
    8265: "ray start --head --dashboard-port",
    10001: "ray start --head --ray-client-server-port",
    8000: "stylegan-ray serve --port",
}
"""Ports with a number of their own, and the option that chooses another one."""
LISTENING = "0A"
"""A listening socket in /proc/net/tcp."""


def interfaces() -> dict[str, str]:
    """The IPv4 address of each network interface that has one."""
    found = {name: interface_address(name) for _, name in socket.if_nameindex()}
    return {name: address for name, address in found.items() if address}


def interface_address(name: str) -> str | None:
    """The IPv4 address of a network interface."""
    get_address = 0x8915  # SIOCGIFADDR of Linux
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            request = struct.pack("256s", name.encode()[:15])
            return socket.inet_ntoa(fcntl.ioctl(any_socket.fileno(), get_address, request)[20:24])
        except OSError:
            return None


def taken_ports() -> dict[int, str]:
    """Those of PORTS that a program listens on, and which: its name and process id where the system tells."""
    listening = {port: inode for port, inode in _listening() if port in PORTS}
    programs = _programs(set(listening.values()))
    return {port: programs.get(inode, "another program") for port, inode in sorted(listening.items())}


def _listening() -> Iterator[tuple[int, str]]:
    """Port and inode of each listening socket."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                columns = line.split()
                if columns[3] == LISTENING:
                    yield int(columns[1].rpartition(":")[2], 16), columns[9]


def _programs(inodes: set[str]) -> dict[str, str]:
    """Name and process id of the programs that have these sockets, as far as this user may see them."""
    found: dict[str, str] = {}
    links = {f"socket:[{inode}]": inode for inode in inodes}
    for process in Path("/proc").glob("[0-9]*") if inodes else ():
        with suppress(OSError):
            for entry in os.scandir(process / "fd"):
                with suppress(OSError):
                    if (inode := links.get(os.readlink(entry.path))) is not None:
                        found[inode] = f"{(process / 'comm').read_text().strip()} (process {process.name})"
    return found
