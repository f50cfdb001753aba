"""Files as the readers and writers of checkpoints need them: bounded, whole, or not at all."""

from __future__ import annotations

import os
import tempfile
from os import PathLike
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

# Of what is read as a whole: headers, pickles, a zip's directory. Arrays are not bound by it. The
# directory of a zip takes about 70 bytes a tensor, its pickle about 150: for 400,000 tensors.
MAX_WHOLE_BYTES = 1 << 26


class BoundedFile:
    """A binary file whose reads cost no more memory than the file can fill.

    ``read`` and ``readline`` are what ``zipfile`` and ``pickletools`` call with lengths that stand
    in the file: ``BufferedReader.read(n)`` would allocate n bytes first.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.size = os.fstat(file.fileno()).st_size
        self.seek, self.tell = file.seek, file.tell

    def seekable(self) -> bool:
        return True

    def read(self, count: int = -1) -> bytes:
        left = max(0, self.size - self._file.tell())
        count = left if count is None or count < 0 else min(count, left)
        if count > MAX_WHOLE_BYTES:
            raise ValueError(f"a part that is no array has {count} bytes, more than any real file")
        return self._file.read(count)

    def readline(self) -> bytes:
        return self._file.readline(MAX_WHOLE_BYTES)

    def bytes_at(self, begin: int, count: int) -> NDArray[np.uint8]:
        """``count`` bytes from ``begin`` as an aligned, writeable array."""
        if begin < 0 or count < 0 or begin + count > self.size:
            raise ValueError(
                f"bytes {begin} to {begin + count} are wanted, but the file has {self.size}"
            )
        array = np.empty(count, np.uint8)
        self.seek(begin)
        if self._file.readinto(array.data) != count:  # type: ignore[attr-defined]
            raise ValueError("the file became shorter while it was read")
        return array


class atomic_file:
    """A binary file that takes the place of ``path`` only when it is complete and on the disk."""

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)

    def __enter__(self) -> IO[bytes]:
        handle, self.temporary = tempfile.mkstemp(
            dir=self.path.parent, prefix=f".{self.path.name}.", suffix=".part"
        )
        self.file = os.fdopen(handle, "wb")
        return self.file

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            if kind is None:
                self.file.flush()
                os.fsync(self.file.fileno())
                self.file.close()
                os.chmod(self.temporary, 0o666 & ~_umask())  # mkstemp gives 0600
                os.replace(self.temporary, self.path)
        finally:
            self.file.close()
            if os.path.exists(self.temporary):
                os.unlink(self.temporary)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
