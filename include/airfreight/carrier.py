"""Carrying the files of one copy: several at a time, each read, hashed, cut into parts, sent, compared and committed.

Memory: two parts for each file under way. While one is sent, by a thread of its own, the other is filled and hashed.

A file that another live run holds is left for the end. Then it is looked at again: it may be there, or its holder may
have died, which shows by a lease that is not renewed. Of two runs that share the files, the one that ends last finds
everything there or takes what is missing; the other ends when it sees a lease of the first renewed.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial

from airfreight import hashing
from airfreight.errors import IntegrityError, RequestError, TemporaryError
from airfreight.interfaces import Source, Store, Upload
from airfreight.manifest import Manifest, ManifestFile
from airfreight.progress import Progress
from airfreight.retry import Attempts, HeldError, Patience

# Real progress: a stream that got this far since its last failure may fail as often again. Less would let a server that
# cuts after every few bytes keep us for ever.
PROGRESS_BYTES = 8 * 1024 * 1024
TICK = 1.0  # seconds between looks at progress and leases
LOOK = 5.0  # seconds between looks at what a neighbour holds


@dataclass
class Carrier:
    """Sends files; one for a whole copy. `moved`, `reused` and `resumed` count what the result tells."""

    source: Source
    store: Store
    manifest: Manifest
    progress: Progress
    patience: Patience
    elsewhere: frozenset[str] = frozenset()
    moved: int = 0
    reused: int = 0
    resumed: int = 0
    _hopeless: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def carry(self, files: Sequence[ManifestFile], files_at_once: int) -> None:
        """Send files, largest first. Those a neighbour holds come last: taken when it is dead, found when it is done.

        Raises:
                HeldError: the neighbour is alive, that is, it renewed a lease meanwhile.
        """
        waiting = self._round(files, files_at_once)
        end = self.patience.clock() + LOOK + max((error.seconds for error in waiting.values()), default=0.0)
        while waiting:
            pause = max(0.1, min(LOOK, *(error.seconds for error in waiting.values())))
            self.patience.wait(self.patience.stop, pause)
            self.patience.check()
            arrived = self.patience.call(partial(self.store.held, tuple(waiting)))
            for file in waiting:
                if file.path in arrived:
                    self._count(reused=1)
                    self.progress.file_done()
            still = self._round([file for file in waiting if file.path not in arrived], files_at_once)
            for file, error in still.items():
                if waiting[file].lease != error.lease or self.patience.clock() > end:
                    raise error
            waiting = still

    def _round(self, files: Iterable[ManifestFile], files_at_once: int) -> dict[ManifestFile, HeldError]:
        """Send files, several at a time; return those a neighbour holds. On a failure or a signal, all end."""
        ordered = sorted(files, key=lambda file: (-file.size, file.path))
        held: dict[ManifestFile, HeldError] = {}
        with (
            ThreadPoolExecutor(files_at_once, thread_name_prefix="airfreight-send") as senders,
            ThreadPoolExecutor(files_at_once, thread_name_prefix="airfreight-copy") as pool,
        ):
            futures = {pool.submit(self._bring, file, senders): file for file in ordered}
            try:
                pending = set(futures)
                while pending:
                    done, pending = wait(pending, timeout=TICK, return_when=FIRST_EXCEPTION)
                    for future in done:
                        error = future.result()
                        if error is not None:
                            held[futures[future]] = error
                    self.progress.tick()
                    self.store.renew()
                    self.patience.check()
            except BaseException as error:
                if isinstance(error, RequestError | IntegrityError):
                    self._hopeless.set()
                self.patience.stop.set()
                for future in futures:
                    future.cancel()
                raise
        return held

    def _bring(self, file: ManifestFile, senders: ThreadPoolExecutor) -> HeldError | None:
        """Make a file visible in the store; return the error that says who else is at it."""
        self.patience.check()
        try:
            if file.path in self.elsewhere and self.patience.call(partial(self.store.reuse, file)):
                self._count(reused=1)
            else:
                self._send(file, senders)
        except HeldError as error:
            return error
        self.progress.file_done()
        return None

    def _send(self, file: ManifestFile, senders: ThreadPoolExecutor) -> None:
        upload = self.patience.call(partial(self.store.begin, file))
        sending: Future[None] | None = None
        try:
            with closing(self._parts(file, upload)) as parts:
                for part, state in parts:
                    if sending is not None:
                        sending.result()
                    sending = senders.submit(self.patience.call, partial(upload.write, part, state))
            if sending is not None:
                sending.result()
            self._count(resumed=upload.offset)
            self.patience.call(upload.commit)
        except BaseException as error:
            if sending is not None:
                wait([sending])
            if self._hopeless.is_set() or isinstance(error, RequestError | IntegrityError):
                upload.abort()
            else:
                upload.release()
            raise

    def _parts(self, file: ManifestFile, upload: Upload) -> Generator[tuple[memoryview, str | None], None, None]:
        """Yield the parts from `upload.offset` on, each with the state of the hash after it. The last part is yielded,
        and the end reached, only if size and digest are the manifest's. The memory of a part is used again for the next
        but one.
        """
        start, step = upload.offset, upload.part_size
        if start == file.size and upload.state == file.digest:
            return  # killed between the last part, which is only sent when the digest is right, and the commit
        hasher = hashing.resumed(file, upload.state, start) if start < file.size else None
        known = start if hasher is not None else 0  # the bytes before are in the hash
        hasher = hasher or hashing.fresh(file)
        left, filled = file.size - start, 0
        part = memoryview(bytearray(min(step, left)))
        spare = memoryview(bytearray(min(step, max(0, left - step))))
        with closing(self._read(file, known)) as chunks:
            for chunk in chunks:
                again = min(len(chunk), start - known)  # bytes the store has, of which only the hash is wanted
                if again:
                    hasher.update(chunk[:again])
                    known += again
                view = memoryview(chunk)[again:]
                while view:
                    piece = part[filled : filled + len(view)]
                    piece[:] = view[: len(piece)]
                    hasher.update(piece)
                    filled, view = filled + len(piece), view[len(piece) :]
                    if filled == len(part):
                        left -= filled
                        yield part, hasher.state() if left else self._right(file, hasher)
                        part, spare, filled = spare[: min(step, left)], part, 0
        self._right(file, hasher)

    def _right(self, file: ManifestFile, hasher: hashing.Hasher) -> str:
        """Return the digest of all bytes, if it is the right one."""
        digest = hasher.hexdigest()
        if digest != file.digest:
            raise self._wrong(file, f"has {file.digest_name} {digest}, the manifest says {file.digest}")
        return digest

    def _read(self, file: ManifestFile, offset: int) -> Generator[bytes, None, None]:
        """Yield the file's bytes from `offset`, through failures that heal; end normally only at the right size."""
        credit = 0
        attempts = Attempts(self.patience)
        while True:
            try:
                with closing(self.source.open(file, offset)) as chunks:
                    for chunk in chunks:
                        self.patience.check()
                        offset += len(chunk)
                        credit += len(chunk)
                        if offset > file.size:
                            raise self._wrong(file, f"has more than {file.size} bytes, the size the manifest says")
                        self._count(moved=len(chunk))
                        self.progress.moved(len(chunk))
                        yield chunk
                break
            except TemporaryError as error:
                if credit >= PROGRESS_BYTES:
                    attempts.reset()
                credit = 0
                attempts.wait_after(error)
        if offset != file.size:
            raise self._wrong(file, f"has {offset} bytes, the manifest says {file.size}")

    def _count(self, moved: int = 0, reused: int = 0, resumed: int = 0) -> None:
        with self._lock:
            self.moved += moved
            self.reused += reused
            self.resumed += resumed

    def _wrong(self, file: ManifestFile, finding: str) -> IntegrityError:
        return IntegrityError(
            f"{self.manifest.source}: {file.path} {finding}; nothing was published: "
            "the hub, or a mirror or proxy before it, serves damaged bytes and must be repaired."
        )
