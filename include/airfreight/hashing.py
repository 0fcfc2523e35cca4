"""sha256 whose state can be kept and taken up again, on another machine too.

hashlib cannot export its state (nor can `cryptography`, which offers a copy within the process only), so a killed copy
would have to read all it sent once more, only to hash it. OpenSSL's own `SHA256_Init/Update/Final` work on a structure
in the caller's memory, which can be read and written. They are called here by ctypes: measured against hashlib, on the
same bytes and machine, 1,590 to 1,620 MiB/s (SHA-NI, calls of 64 KiB), 2 % apart.

A state is 64 hex digits, the eight words of FIPS 180-4, 6.2.2, and is only taken after a multiple of 64 bytes, where
nothing is buffered. So it does not depend on OpenSSL's layout, its version, or the machine's byte order.

These calls are deprecated since OpenSSL 3.0 though present, and a library may lack them (FIPS builds, other systems).
They are tried against a known digest before first use; where they fail, hashlib takes their place, `state` returns
None, and whoever goes on reads the bytes before its offset from the source again, hashes them and sends none: one pass
of sha256 and of the source over what was sent. The same holds for git blob ids (sha1): such files are small.
"""

from __future__ import annotations

import ctypes
import hashlib
from functools import cache
from typing import Protocol, Self

from airfreight.manifest import ManifestFile

BLOCK = 64  # bytes
LIBRARIES = ("libcrypto.so.3", "libcrypto.so.1.1")
_PROBE = bytes(range(256)) * 3
_MASK = 0xFFFFFFFF


class Hasher(Protocol):
    """What the engine needs of a hash."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Hash bytes; a memoryview must be of writable memory."""
        ...

    def hexdigest(self) -> str: ...

    def state(self) -> str | None:
        """Return the state for `resumed`, or None where it cannot be had here and now."""
        ...


def fresh(file: ManifestFile) -> Hasher:
    """Return a hash object, at byte 0, whose `hexdigest` over the whole content equals `file.digest`."""
    native = _native() if file.sha256 is not None else None
    return native.fresh() if native is not None else _Plain(file)


def resumed(file: ManifestFile, state: str | None, offset: int) -> Hasher | None:
    """Return a hash object that goes on after `offset` bytes.

    Args:
        state: after these bytes, as another hasher of this file gave it.
    Returns:
        None where the state cannot be taken up: the bytes before `offset` must be hashed again.
    """
    if offset == 0:
        return fresh(file)
    native = _native() if file.sha256 is not None else None
    if native is None or state is None or offset % BLOCK or not _is_state(state):
        return None
    return native.resumed(state, offset)


def _is_state(text: str) -> bool:
    return len(text) == 64 and set(text) <= set("0123456789abcdef")


class _Plain:
    """hashlib, which keeps its state to itself."""

    def __init__(self, file: ManifestFile) -> None:
        self._hash = file.hasher()

    def update(self, data: bytes | memoryview, /) -> None:
        self._hash.update(data)  # type: ignore[arg-type]  # any buffer will do

    def hexdigest(self) -> str:
        return self._hash.hexdigest()

    def state(self) -> str | None:
        return None


class _Context(ctypes.Structure):
    """SHA256_CTX of OpenSSL's include/openssl/sha.h, the same since 0.9.8; checked by `_native` before use."""

    _fields_ = (
        ("h", ctypes.c_uint32 * 8),
        ("low", ctypes.c_uint32),  # bits so far, lower and upper half
        ("high", ctypes.c_uint32),
        ("data", ctypes.c_uint32 * 16),
        ("num", ctypes.c_uint),  # bytes buffered in `data`
        ("length", ctypes.c_uint),
    )


class _Native:
    """sha256 by libcrypto, on memory of ours."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._context = _Context()
        if library.SHA256_Init(ctypes.byref(self._context)) != 1:
            raise OSError("SHA256_Init failed")

    def fresh(self) -> Self:
        return type(self)(self._library)

    def resumed(self, state: str, offset: int) -> Self:
        other = self.fresh()
        for index in range(8):
            other._context.h[index] = int(state[8 * index : 8 * index + 8], 16)
        other._context.low, other._context.high = offset * 8 & _MASK, offset * 8 >> 32 & _MASK
        return other

    def update(self, data: bytes | memoryview, /) -> None:
        """Hash memory in place; ctypes frees the interpreter's lock meanwhile."""
        if len(data):
            start = data if isinstance(data, bytes) else ctypes.byref(ctypes.c_char.from_buffer(data))
            if self._library.SHA256_Update(ctypes.byref(self._context), start, len(data)) != 1:
                raise OSError("SHA256_Update failed")

    def hexdigest(self) -> str:
        final = _Context.from_buffer_copy(self._context)
        digest = (ctypes.c_char * 32)()
        if self._library.SHA256_Final(digest, ctypes.byref(final)) != 1:
            raise OSError("SHA256_Final failed")
        return bytes(digest).hex()

    def state(self) -> str | None:
        if self._context.num:
            return None
        return "".join(f"{word:08x}" for word in self._context.h)


@cache
def _native() -> _Native | None:
    """Return a hash of libcrypto that was seen to stop, go on elsewhere and end right; None where there is none."""
    for name in LIBRARIES:
        try:
            library = ctypes.CDLL(name)
            library.SHA256_Init.argtypes = (ctypes.c_void_p,)
            library.SHA256_Update.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
            library.SHA256_Final.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
            native = _Native(library)
            if _works(native):
                return native
        except (OSError, AttributeError):
            continue
    return None


def _works(native: _Native) -> bool:
    half = 5 * BLOCK
    first = native.fresh()
    first.update(_PROBE[:half])
    state = first.state()
    if state is None:
        return False
    second = native.resumed(state, half)
    second.update(_PROBE[half:])
    return second.hexdigest() == hashlib.sha256(_PROBE).hexdigest()
