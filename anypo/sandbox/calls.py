"""Which system calls a program in the jail may not make: a filter for the kernel (seccomp), as bubblewrap takes it.

Denied is what could put up namespaces and file systems of its own (and with them memory that nobody counts), look into other
processes, or reach parts of the kernel that ordinary programs never need. Numbers: the kernel's tables (arch/x86/entry/syscalls,
include/uapi/asm-generic/unistd.h).
"""

from __future__ import annotations

import errno
import platform
import struct

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _DENY, _MISSING, _KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS, 0x80000000
_NUMBER, _MACHINE, _FLAGS = 0, 4, 16
"""Where the kernel puts the number of a call, the kind of machine, and the first argument's lower half."""

NAMESPACES = 0x7E020080
"""The flags of ``clone`` that ask for a namespace."""

COMMON = (424, 425, 426, 427, 428, 429, 430, 431, 432, 433, 442)
"""Numbers that all machines share: pidfd_send_signal, io_uring, and the newer calls for mounting."""

MACHINES: dict[str, tuple[int, int, tuple[int, ...]]] = {
    "x86_64": (
        0xC000003E,
        56,
        (29, 30, 64, 68, 101, 155, 161, 165, 166, 167, 169, 175, 176, 246, 248, 249, 250, 272, 298, 303, 304, 308, 310, 311,
         313, 319, 320, 321, 323),
    ),
    "aarch64": (
        0xC00000B7,
        220,
        (39, 40, 41, 51, 97, 104, 105, 106, 117, 142, 186, 190, 194, 196, 217, 218, 219, 224, 241, 264, 265, 268, 270, 271,
         273, 279, 280, 282, 294),
    ),
}  # fmt: skip
"""By machine: its code, the number of ``clone``, and the denied calls: shmget, shmat, semget, msgget, ptrace, pivot_root, chroot,
mount, umount2, swapon, reboot, init_module, delete_module, kexec_load, add_key, request_key, keyctl, unshare, perf_event_open,
name_to_handle_at, open_by_handle_at, setns, process_vm_readv, process_vm_writev, finit_module, memfd_create, kexec_file_load, bpf,
userfaultfd."""


def program() -> bytes:
    """The filter for this machine; empty where its numbers are not known."""
    if platform.machine() not in MACHINES:
        return b""
    kind, clone, denied = MACHINES[platform.machine()]
    lines = [(_LOAD, 0, 0, _MACHINE), (_EQUAL, 1, 0, kind), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, _NUMBER)]
    lines += [(_AT_LEAST, 0, 1, 0x40000000), (_RETURN, 0, 0, _DENY)]
    for number in (*denied, *COMMON):
        lines += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _DENY)]
    lines += [
        (_EQUAL, 0, 1, 435),
        (_RETURN, 0, 0, _MISSING),
    ]  # clone3, whose flags a filter cannot see: Python then uses clone
    lines += [(_EQUAL, 0, 3, clone), (_LOAD, 0, 0, _FLAGS), (_ANY_BIT, 0, 1, NAMESPACES), (_RETURN, 0, 0, _DENY)]
    lines += [(_RETURN, 0, 0, _ALLOW)]
    return b"".join(struct.pack("HBBI", *line) for line in lines)


__all__ = ["MACHINES", "program"]
