"""The engine: carry one model from a source to a store, verified, in bounded memory, and only what is missing.

It knows two small interfaces and nothing else. A `Source` tells its manifest and opens a file at a byte offset. A
`Store` is the place of one version of one model: it tells what it holds, takes a file in parts through an `Upload`, and
is sealed.

    manifest ── sealed already? ── what is held? ── access? ──┬─ file: read, hash ═ part ═ part ─ compare ─ commit ┐
                (then 0 bytes)                                ├─ file: copied inside the store                     ├─
                seal ── tidy                                  ├─ file: a live neighbour's: later                   │
                                                              └─ file: ...                     (4 files at a time) ┘

Nothing of a file is visible before its size and digest matched the manifest, and the manifest is written last.
Failures that heal are retried here and nowhere else (`airfreight.retry`): a broken read goes on at its byte offset with
the state of the hash kept, a failed part is sent again, a bundle whose upload a server lost is begun again. Memory: two
to four parts per file under way, one being filled while the others are sent (`airfreight.outbox`).

A run that ends before its work is done, killed or not, leaves what it sent for the next one (`Upload.release`), except
when the request or the bytes are wrong: then nobody comes back for it, and it is removed (`Upload.abort`). Two runs of
one version share the files: each takes what the other does not hold, and at its end looks again. So the one that ends
last seals, and the other ends with one sentence.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from airfreight.carrier import PROGRESS_BYTES, Carrier
from airfreight.errors import RequestError
from airfreight.interfaces import Source, Store, Upload
from airfreight.manifest import Manifest, ManifestFile
from airfreight.prechecks import check_publishable
from airfreight.progress import Progress
from airfreight.retry import Patience

__all__ = ["PROGRESS_BYTES", "CopyResult", "Source", "Store", "Upload", "copy", "published", "refuse_other", "seal"]
FILES_AT_ONCE = 4


@dataclass(frozen=True)
class CopyResult:
    """What a copy did.

    Attributes:
        artifact: URI of the place of the copy.
        manifest: its manifest.
        moved_bytes: bytes taken from the source.
        reused_files: files that were in the store already, or were copied inside it.
        resumed_bytes: bytes that an earlier run had sent and this one did not send again.
        seconds: wall time.
    """

    artifact: str
    manifest: Manifest
    moved_bytes: int
    reused_files: int
    seconds: float
    resumed_bytes: int = 0


def copy(
    source: Source,
    store: Store,
    progress: Progress | None = None,
    patience: Patience | None = None,
    files_at_once: int = FILES_AT_ONCE,
    *,
    share: Sequence[ManifestFile] | None = None,
    deadline_s: float | None = None,
    check: Callable[[Manifest], object] = check_publishable,
) -> CopyResult:
    """Make `store` a complete, verified copy of `source`'s manifest and seal it; what it already holds is not sent
    again, and what another version of the model has there is copied inside the store.

    Args:
        progress: told what happens; None prints nothing.
        patience: how often failures that heal are tried again.
        files_at_once: bundles under way at the same moment; memory is two parts for each, or what `airfreight.outbox`
            allows where it is less.
        share: the files of the manifest to carry, where several runs share the work; then nothing is sealed (`seal`).
            Whole bundles of the store.
        deadline_s: seconds for the whole, from now; None for `patience`'s own deadline.
        check: refuses a model that may not be published, by raising RequestError.
    Raises:
        RequestError: the model is refused, the store holds another manifest, or access is missing.
        IntegrityError: a file is not what the manifest says; neither it nor a manifest became visible.
        TemporaryError: something that heals did not heal in time, the time is over, or another run is at work
            (`HeldError`); what was sent is kept for the next run.
    """
    progress = progress or Progress(write=lambda _: None)
    patience = replace(patience or Patience(), stop=threading.Event(), on_retry=progress.retried)
    started = patience.clock()
    if deadline_s is not None:
        patience = replace(patience, deadline=started + deadline_s)
    manifest = patience.call(source.manifest)
    check(manifest)
    files = manifest.files if share is None else tuple(share)
    sealed = patience.call(store.sealed)
    refuse_other(store.artifact, sealed, manifest)
    held = patience.call(lambda: store.held(files))
    missing = [file for file in files if file.path not in held]
    size, missing_size = (sum(file.size for file in some) for some in (files, missing))
    progress.start(len(files), size, len(held), size - missing_size)
    carrier = Carrier(source, store, manifest, progress, patience)
    if missing:
        patience.call(lambda: store.prepare(files))
        carrier.elsewhere = patience.call(lambda: store.elsewhere(missing))
        carrier.carry(missing, files_at_once)
    if share is None and sealed is None:
        patience.call(lambda: store.seal(manifest))
    patience.call(lambda: store.tidy(files))
    progress.finish()
    return CopyResult(
        store.artifact,
        manifest,
        carrier.moved,
        len(held) + carrier.reused,
        patience.clock() - started,
        carrier.resumed,
    )


def seal(manifest: Manifest, store: Store, patience: Patience | None = None) -> str:
    """Seal a store whose files were carried by several runs, each a share; return the artifact. Safe to repeat.

    Raises:
        RequestError: a file is missing, or the store holds another manifest.
    """
    patience = patience or Patience()
    refuse_other(store.artifact, patience.call(store.sealed), manifest)
    held = patience.call(lambda: store.held(manifest.files))
    missing = [file.path for file in manifest.files if file.path not in held]
    if missing:
        raise RequestError(
            f"{store.artifact} cannot be sealed, because {len(missing)} of {len(manifest.files)} files are missing, "
            f"{missing[0]} among them: copy them first, every slice."
        )
    artifact = patience.call(lambda: store.seal(manifest))
    patience.call(lambda: store.tidy(()))
    return artifact


def published(store: Store, manifest: Manifest) -> bool:
    """Whether a complete copy of exactly this manifest is in the store.

    Raises:
        RequestError: the store holds another manifest in this place, or access is missing.
    """
    sealed = store.sealed()
    refuse_other(store.artifact, sealed, manifest)
    return sealed is not None and len(store.held(manifest.files)) == len(manifest.files)


def refuse_other(artifact: str, sealed: Manifest | None, manifest: Manifest) -> None:
    """Refuse a version that already holds another manifest.

    Raises:
        RequestError: it does.
    """
    if sealed is not None and sealed.sha256 != manifest.sha256:
        raise RequestError(
            f"{artifact} already holds another manifest (sha256 {sealed.sha256[:12]}… of {sealed.source}, this one is "
            f"{manifest.sha256[:12]}…) and a version is never overwritten: give another destination or remove it first."
        )
