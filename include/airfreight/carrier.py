"""Carrying the files of one copy: several at a time, each read, hashed, cut into parts, sent, compared and committed.

A bundle, the files that a store wants one after the other (`Store.bundles`), is the work of one task; most are of one
file. Where a store lost what was sent of a bundle (`LostError`), the bundle is begun again.

Memory: two parts for each file under way; where fewer files are, up to four (`airfreight.outbox`). While some are sent,
by threads of their own, another is filled and hashed.

A file that another live run holds is left for the end. Then it is looked at again: it may be there, or its holder may
have died, which shows by a lease that is not renewed. Of two runs that share the files, the one that ends last finds
everything there or takes what is missing; the other ends when it sees a lease of the first renewed.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial

from airfreight import hashing
from airfreight.errors import IntegrityError, RequestError, TemporaryError
from airfreight.interfaces import Source, Store, Upload
from airfreight.manifest import Manifest, ManifestFile
from airfreight.outbox import Outbox, parts_at_once
from airfreight.progress import Progress
from airfreight.retry import Attempts, HeldError, LostError, Patience

# Real progress: a stream that got this far since its last failure may fail as often again. Less would let a server that
# cuts after every few bytes keep us for ever.
PROGRESS_BYTES = 8 * 1024 * 1024
HASHED_AT_ONCE = 1024 * 1024  # bytes; each turn of the hash waits for the interpreter's lock, and this fits a cache
TICK = 1.0  # seconds between looks at progress and leases
LOOK = 5.0  # seconds between looks at what a neighbour holds
SENDERS = 4  # threads that send, for each file under way at most

Bundle = tuple[ManifestFile, ...]


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
    _under_way: int = 1
    _failed: threading.Event = field(default_factory=threading.Event)
    _hopeless: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def carry(self, files: Sequence[ManifestFile], files_at_once: int) -> None:
        """Send files, in bundles, largest first. Those a neighbour holds come last: taken when it is dead, found when
        it is done.

        Raises:
            HeldError: the neighbour is alive, that is, it renewed a lease meanwhile.
        """
        waiting = self._round(self.store.bundles(files), files_at_once)
        end = self.patience.clock() + LOOK + max((error.seconds for error in waiting.values()), default=0.0)
        while waiting:
            pause = max(0.1, min(LOOK, *(error.seconds for error in waiting.values())))
            self.patience.wait(self.patience.stop, pause)
            self.patience.check()
            wanted = [file for bundle in waiting for file in bundle]
            arrived = self.patience.call(partial(self.store.held, wanted))
            there = {bundle for bundle in waiting if all(file.path in arrived for file in bundle)}
            for bundle in there:
                self._arrived(bundle)
            still = self._round([bundle for bundle in waiting if bundle not in there], files_at_once)
            for bundle, error in still.items():
                if waiting[bundle].lease != error.lease or self.patience.clock() > end:
                    raise error
            waiting = still

    def _round(self, bundles: Iterable[Bundle], files_at_once: int) -> dict[Bundle, HeldError]:
        """Send bundles, several at a time; return those a neighbour holds. On a failure or a signal, all end."""
        ordered = sorted(bundles, key=lambda bundle: (-sum(file.size for file in bundle), bundle[0].path))
        held: dict[Bundle, HeldError] = {}
        with (
            ThreadPoolExecutor(files_at_once * SENDERS, thread_name_prefix="airfreight-send") as senders,
            ThreadPoolExecutor(files_at_once, thread_name_prefix="airfreight-copy") as pool,
        ):
            self._under_way = min(files_at_once, len(ordered))
            futures = {pool.submit(self._bring, bundle, senders): bundle for bundle in ordered}
            try:
                pending = set(futures)
                while pending:
                    done, pending = wait(pending, timeout=TICK, return_when=FIRST_EXCEPTION)
                    for future in done:
                        error = future.result()
                        if error is not None:
                            held[futures[future]] = error
                    self._under_way = min(files_at_once, len(pending))
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

    def _bring(self, bundle: Bundle, senders: ThreadPoolExecutor) -> HeldError | None:
        """Make the files of a bundle visible in the store; return the error that says who else is at it."""
        if self._failed.is_set():
            return None  # the round ends with that failure: nothing new is begun between it and its being noticed
        self.patience.check()
        try:
            if self._reuse(bundle):
                self._arrived(bundle)
                return None
            self._send_until_it_stays(bundle, senders)
        except HeldError as error:
            return error
        except BaseException:
            self._failed.set()
            raise
        for _ in bundle:
            self.progress.file_done()
        return None

    def _arrived(self, bundle: Bundle) -> None:
        """Count files that are there without our having sent them."""
        self._count(reused=len(bundle))
        self.progress.present(sum(file.size for file in bundle))
        for _ in bundle:
            self.progress.file_done()

    def _reuse(self, bundle: Bundle) -> bool:
        return all(
            file.path in self.elsewhere and self.patience.call(partial(self.store.reuse, file)) for file in bundle
        )

    def _send_until_it_stays(self, bundle: Bundle, senders: ThreadPoolExecutor) -> None:
        attempts = Attempts(self.patience)  # never reset: a server that loses every bundle makes no progress
        while True:
            try:
                return self._send(bundle, senders)
            except LostError as error:
                attempts.wait_after(error)

    def _send(self, bundle: Bundle, senders: ThreadPoolExecutor) -> None:
        """Send the files of a bundle in turn. What could not be finished is let go, dropped where nobody wants it."""
        trip = _Trip(self.progress)
        upload: Upload | None = None
        resumed = 0
        try:
            for file in bundle:
                upload = self.patience.call(partial(self.store.begin, file))
                self._send_file(file, upload, senders, trip)
                resumed += upload.offset
                self.patience.call(upload.commit)
        except BaseException as error:
            trip.undo()
            if upload is not None:
                if self._hopeless.is_set() or isinstance(error, RequestError | IntegrityError | LostError):
                    upload.abort()
                else:
                    upload.release()
            raise
        self._count(resumed=resumed)

    def _send_file(self, file: ManifestFile, upload: Upload, senders: ThreadPoolExecutor, trip: _Trip) -> None:
        def send(part: memoryview, state: str | None, at: int) -> None:
            self.patience.call(partial(upload.write, part, state, at))

        def limit() -> int:
            return parts_at_once(upload.part_size, upload.parallel, max(1, self._under_way))

        outbox = Outbox(send, senders, limit)
        with closing(outbox):
            self._fill(file, upload, outbox, trip)
            outbox.settle()

    def _fill(self, file: ManifestFile, upload: Upload, outbox: Outbox, trip: _Trip) -> None:
        """Read a file from `upload.offset` on and hand its parts out, each with the state of the hash after it. The
        last part is sent, and the end reached, only if size and digest are the manifest's.
        """
        start, step = upload.offset, upload.part_size
        if start == file.size and upload.state == file.digest:
            trip.present(start)
            return  # killed between the last part, which is only sent when the digest is right, and the commit
        hasher = hashing.resumed(file, upload.state, start) if start < file.size else None
        known = start if hasher is not None else 0  # the bytes before are in the hash
        hasher = hasher or hashing.fresh(file)
        trip.present(known)
        room, at, size, filled, hashed = memoryview(b""), start, 0, 0, 0
        with closing(self._read(file, known, trip)) as chunks:
            for chunk in chunks:
                again = min(len(chunk), start - known)  # bytes the store has, of which only the hash is wanted
                if again:
                    hasher.update(chunk[:again])
                    known += again
                view = memoryview(chunk)[again:]
                while view:
                    if not size:
                        size = min(step, file.size - at)
                        room = outbox.room(size)
                    piece = room[filled : min(size, filled + len(view))]
                    piece[:] = view[: len(piece)]
                    filled, view = filled + len(piece), view[len(piece) :]
                    if filled == size or filled - hashed >= HASHED_AT_ONCE:
                        hasher.update(room[hashed:filled])
                        hashed = filled
                    if filled == size:
                        last = at + size == file.size
                        outbox.post(room, size, self._right(file, hasher) if last else hasher.state(), at)
                        at, size, filled, hashed = at + size, 0, 0, 0
        self._right(file, hasher)

    def _right(self, file: ManifestFile, hasher: hashing.Hasher) -> str:
        """Return the digest of all bytes, if it is the right one."""
        digest = hasher.hexdigest()
        if digest != file.digest:
            raise self._wrong(file, f"has {file.digest_name} {digest}, the manifest says {file.digest}")
        return digest

    def _read(self, file: ManifestFile, offset: int, trip: _Trip) -> Generator[bytes, None, None]:
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
                        trip.moved(len(chunk))
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
            f"{self.source.server} serves damaged bytes and must be repaired."
        )


class _Trip:
    """What one try to send a bundle told the progress, to be taken back when the try was in vain."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._told = 0

    def moved(self, count: int) -> None:
        self._told += count
        self._progress.moved(count)

    def present(self, count: int) -> None:
        self._told += count
        self._progress.present(count)

    def undo(self) -> None:
        self._progress.present(-self._told)
        self._told = 0
