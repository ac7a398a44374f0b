"""What the system says where files cannot be written, as one sentence."""

from __future__ import annotations

import errno
import re

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REMEDIES = {
    **dict.fromkeys(_FULL, "the disk is full; free some space and run the command again"),
    errno.EROFS: "it lies on a read-only file system; choose a place that can be written to",
    errno.EACCES: "permission denied; choose a path that you may read and write",
    errno.EPERM: "permission denied; choose a path that you may read and write",
    errno.ENOENT: "there is no such file or folder, and none can be made there; check the path",
    errno.ENOTDIR: "a part of this path is a file where a folder is needed; choose another path",
    errno.EEXIST: "a file of that name is in the way; choose another path",
    errno.EISDIR: "this is a folder where a file is needed; choose another path",
    errno.ENAMETOOLONG: "this name is too long for the file system; choose a shorter one",
}


def system_error(fault: BaseException) -> int | None:
    """The system's number of a fault, None where there is none. Libraries in Rust (safetensors) have it in their text only."""
    if isinstance(fault, OSError):
        return fault.errno
    said = re.search(r"\(os error (\d+)\)", str(fault)) if type(fault).__name__ == "SafetensorError" else None
    return int(said[1]) if said else None


def disk_is_full(fault: BaseException) -> bool:
    """Whether a fault means that there is no room left (a quota and a limit on the size of files count)."""
    return system_error(fault) in _FULL


def disk_sentence(fault: BaseException, path: object) -> str | None:
    """One sentence about the file that a fault names, or else about `path`; None for faults that are not about where files lie."""
    named = getattr(fault, "filename", None)
    if isinstance(fault, OSError) and named is None and not disk_is_full(fault):
        return None  # sockets and processes are refused with the same numbers
    remedy = _REMEDIES.get(system_error(fault) or 0)
    return None if remedy is None else f"{named or path}: {remedy}."
