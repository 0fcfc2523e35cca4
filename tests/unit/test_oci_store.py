"""A repository of a registry as a store: the contract of all stores, and what is a registry's own."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from airfreight.environment import RegistrySettings
from airfreight.errors import IntegrityError, RequestError
from airfreight.leases import Tenure
from airfreight.manifest import ManifestFile
from airfreight.stores.oci.folder import OciFolder
from airfreight.stores.oci.image import PlacedLayer, assemble
from airfreight.stores.oci.layers import manifest_layer, plan
from airfreight.stores.oci.records import Ledger, MemoryShelf, Note
from airfreight.stores.oci.reference import parse_image
from airfreight.stores.oci.registry import OCI_LAYER, OCI_MANIFEST, Repository
from airfreight.stores.oci.store import OciStore
from airfreight.stores.oci.uploads import part_size_for
from airfreight.transfer import Store, copy, seal
from airfreight.verify import verify
from tests.standins.images import packed, tar
from tests.standins.registry import Fault, Registry
from tests.unit.memory_store import COMMIT, MemorySource, describe
from tests.unit.oci_yard import FAST, MODEL, NO_LOGINS, PART, SIZE, Yard, carry, paths_in, unpacked
from tests.unit.store_contract import CONTENTS, StoreContract, put_all


@pytest.fixture
def yard() -> Iterator[Yard]:
    with Registry() as registry:
        yield Yard(registry)


class TestOciStore(StoreContract):
    @pytest.fixture
    def store(self, yard: Yard) -> OciStore:
        return yard.store(describe(CONTENTS))

    @pytest.fixture
    def rival(self, yard: Yard) -> OciStore:
        return yard.store(describe(CONTENTS))

    @pytest.fixture(autouse=True)
    def keep(self, yard: Yard) -> None:
        self.registry = yard.registry

    def read(self, store: Any, path: str) -> bytes:
        (content,) = [files[path] for data in self.registry.blobs.values() if path in (files := paths_in(data))]
        return content

    def test_seal_returns_the_artifact_and_is_read_back(self, store: Store) -> None:
        put_all(store, CONTENTS)
        assert store.seal(describe(CONTENTS)) == store.artifact
        assert "@sha256:" in store.artifact
        assert store.sealed() == describe(CONTENTS)

    def test_seal_may_be_repeated(self, store: Store) -> None:
        put_all(store, CONTENTS)
        assert store.seal(describe(CONTENTS)) == store.seal(describe(CONTENTS))

    def test_seal_refuses_another_manifest(self, store: Store) -> None:
        put_all(store, CONTENTS)
        store.seal(describe(CONTENTS))
        other = describe({"model.safetensors": b"other"})
        with pytest.raises(RequestError, match=r"already holds another manifest .* a version is never overwritten"):
            store.seal(other)
        assert store.sealed() == describe(CONTENTS)


BUMPED = {**MODEL, "model-2.safetensors": b"other weights" * 900}
NEXT = "77" * 20


def test_an_image_holds_the_files_and_the_manifest_and_nothing_is_left_behind(yard: Yard) -> None:
    store = carry(yard)
    manifest = describe(MODEL)
    assert yard.files(store) == {**MODEL, "airfreight.json": manifest.canonical}
    assert store.artifact.startswith(f"oci://{yard.registry.host}/models/acme/pong@sha256:")
    facts = store.facts()
    assert (facts["tag"], facts["image_digest"]) == (manifest.version, store.artifact.rpartition("@")[2])
    assert facts["sent_bytes"] == sum(len(data) for data in yard.registry.blobs.values())
    assert yard.registry.uploads == {}
    assert yard.store(manifest).sealed() == manifest
    assert {name for folder, shelf in yard.shelves.items() if "uploads" in folder for name in shelf.names()} == set()


def test_the_same_again_sends_nothing(yard: Yard) -> None:
    first = carry(yard)
    yard.registry.requests.clear()
    store, source = yard.store(describe(MODEL)), MemorySource(MODEL)
    result = copy(source, store, patience=FAST)
    assert (result.moved_bytes, result.reused_files, result.artifact) == (0, len(MODEL), first.artifact)
    assert source.opened == []
    assert {request.method for request in yard.registry.requests} == {"GET", "HEAD"}
    assert store.facts()["sent_bytes"] == 0


def test_any_registry_and_any_ledger_give_one_digest(yard: Yard) -> None:
    with Registry() as other:
        digests = {carry(one, ledger=Ledger.in_memory()).artifact.rpartition("@")[2] for one in (yard, Yard(other))}
        assert len(digests) == 1
    again = carry(yard, image=yard.image("models/elsewhere", tag="latest"))
    assert {again.artifact.rpartition("@")[2]} == digests


@pytest.mark.parametrize("ledger", ["kept", "gone"])
def test_the_next_version_sends_only_what_changed(yard: Yard, ledger: str) -> None:
    """Without the ledger the annotations of the earlier image say the same."""
    carry(yard)
    if ledger == "gone":
        yard.shelves.clear()
        yard.ledger = Ledger(lambda folder: yard.shelves.setdefault(folder, MemoryShelf()))
    before = set(yard.registry.blobs)
    manifest = describe(BUMPED, NEXT)
    store, source = yard.store(manifest), MemorySource(BUMPED, manifest)
    result = copy(source, store, patience=FAST)
    assert result.moved_bytes == len(BUMPED["model-2.safetensors"])
    assert {path for path, _ in source.opened} == {"model-2.safetensors"}
    new = set(yard.registry.blobs) - before  # one layer, the last layer and the config
    assert store.facts()["sent_bytes"] == sum(len(yard.registry.blobs[digest]) for digest in new)
    assert len(new) == 3
    assert yard.files(store) == {**BUMPED, "airfreight.json": manifest.canonical}


def test_layers_of_another_repository_of_the_registry_are_mounted(yard: Yard) -> None:
    carry(yard)
    store = carry(yard, image=yard.image("models/team-b/pong"))
    assert store.facts()["sent_bytes"] == 0 or yard.registry.counted("PATCH", "team-b") == 0
    assert yard.files(store)["model-1.safetensors"] == MODEL["model-1.safetensors"]


def test_a_repository_that_may_not_be_read_has_nothing_for_us(yard: Yard) -> None:
    carry(yard)
    yard.registry.faults.append(Fault("status", "HEAD", match="models/acme", status=403, times=100))
    store = carry(yard, image=yard.image("models/team-b/pong"))
    assert yard.registry.faults[0].times < 100
    assert yard.files(store)["model-1.safetensors"] == MODEL["model-1.safetensors"]


def test_what_cannot_be_mounted_is_sent() -> None:
    with Registry(mounts=False) as registry:
        yard = Yard(registry)
        carry(yard)
        store = carry(yard, image=yard.image("models/team-b/pong"))
        assert yard.files(store)["model-1.safetensors"] == MODEL["model-1.safetensors"]
        assert registry.uploads == {}


def test_a_note_is_only_believed_where_the_registry_has_the_blob(yard: Yard) -> None:
    store = carry(yard)
    (lost,) = [digest for digest, data in yard.registry.blobs.items() if "model-1.safetensors" in paths_in(data)]
    yard.registry.links.remove(("models/acme/pong", lost))
    source = MemorySource(MODEL)
    copy(source, yard.store(describe(MODEL)), patience=FAST)
    assert {path for path, _ in source.opened} == {"model-1.safetensors"}
    assert yard.files(store)["model-1.safetensors"] == MODEL["model-1.safetensors"]
    assert len(yard.registry.manifests) == 1, "the digest stayed"


class KilledError(Exception):
    """A process that is no more."""


def killed_after(yard: Yard, patches: int, monkeypatch: pytest.MonkeyPatch, every: float = 0.0) -> None:
    """Send a model with a process that dies at its so-many-th chunk: no lease is let go, nothing is cleaned up."""
    from airfreight.stores.oci import uploads

    count = 0
    real = uploads.LayerUpload._record

    def record(self: Any, *args: Any) -> None:
        nonlocal count
        count += 1
        if count > patches:
            raise KilledError
        real(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(uploads.LayerUpload, "_record", record)
        patched.setattr(uploads, "WRITE_EVERY", every)
        patched.setattr(uploads.LayerUpload, "release", lambda self: None)
        patched.setattr(uploads.LayerUpload, "abort", lambda self: None)
        with pytest.raises(KilledError):
            store = yard.store(describe(MODEL), tenure=Tenure("the-task"))
            copy(MemorySource(MODEL), store, patience=FAST, files_at_once=1)


@pytest.mark.parametrize(("patches", "every"), [(1, 0), (2, 9), (5, 0), (9, 9), (13, 0), (17, 9), (19, 0), (20, 9)])
def test_a_killed_run_is_gone_on_with_and_what_is_there_is_not_sent_again(
    yard: Yard, monkeypatch: pytest.MonkeyPatch, patches: int, every: float
) -> None:
    """Killed after a chunk arrived and before it was noted: the registry has more than the checkpoint tells."""
    killed_after(yard, patches, monkeypatch, every)
    store = yard.store(describe(MODEL), tenure=Tenure("the-task"))
    copy(MemorySource(MODEL), store, patience=FAST)
    assert yard.files(store) == {**MODEL, "airfreight.json": describe(MODEL).canonical}
    blobs = sum(map(len, yard.registry.blobs.values()))
    sent = yard.registry.received("PATCH") + yard.registry.received("PUT")
    documents = sum(len(data) for _, data in yard.registry.manifests.values())
    assert sent - documents == blobs, "no byte was sent twice"
    assert yard.registry.uploads == {}


def test_a_layer_that_was_finished_unnoticed_costs_one_head(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    def dead(*_: Any) -> None:
        raise KilledError

    from airfreight.stores.oci import uploads

    with monkeypatch.context() as patched:
        patched.setattr(OciStore, "_keep", dead)
        patched.setattr(uploads.LayerUpload, "release", lambda self: None)
        with pytest.raises(KilledError):
            copy(MemorySource(MODEL), yard.store(describe(MODEL), tenure=Tenure("the-task")), patience=FAST)
    before = set(yard.registry.blobs)
    source = MemorySource(MODEL)
    copy(source, yard.store(describe(MODEL), tenure=Tenure("the-task")), patience=FAST)
    finished = {path for digest in before for path in paths_in(yard.registry.blobs[digest])}
    assert finished
    assert not finished & {path for path, _ in source.opened}


def test_what_a_neighbour_placed_since_we_looked_is_not_sent_again(yard: Yard) -> None:
    class Slow(OciStore):
        """Another run carries the whole model between our look at what is held and our first file."""

        def prepare(self, files: Any) -> None:
            super().prepare(files)
            carry(yard)

    place = yard.image(tag=describe(MODEL).version)
    store = Slow(place, describe(MODEL), Repository(place, NO_LOGINS), ledger=yard.ledger, part_size=4096)
    source = MemorySource(MODEL)
    assert copy(source, store, patience=FAST).moved_bytes == 0
    assert source.opened == []
    assert yard.files(store) == {**MODEL, "airfreight.json": describe(MODEL).canonical}


def test_another_machine_goes_on_when_the_lease_is_over(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_after(yard, 5, monkeypatch)
    for shelf in yard.shelves.values():
        for name, (data, tag, written) in list(shelf._objects.items()):
            shelf._objects[name] = (data, tag, written - 100)  # it is 100 s later
    result = copy(MemorySource(MODEL), yard.store(describe(MODEL), tenure=Tenure("another")), patience=FAST)
    assert result.resumed_bytes > 0
    assert yard.registry.uploads == {}


def test_without_a_hash_state_a_killed_layer_begins_again(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airfreight.hashing._native", lambda: None)
    killed_after(yard, 5, monkeypatch)
    store = yard.store(describe(MODEL), tenure=Tenure("the-task"))
    assert copy(MemorySource(MODEL), store, patience=FAST).resumed_bytes == 0
    assert yard.files(store) == {**MODEL, "airfreight.json": describe(MODEL).canonical}


@pytest.mark.parametrize(
    "fault",
    [
        Fault("lose", "PATCH", skip=3),
        Fault("lose", "PUT"),
        Fault("cut", "PATCH", skip=2, after=1000, times=3),
        Fault("mute", "PATCH", skip=2, times=2),
        Fault("lose", "PUT", match="uploads", skip=3),  # the layer of airfreight.json
        Fault("lose", "PUT", match="uploads", skip=4),  # the config
        Fault("mute", "PUT", match="uploads", times=2),
        Fault("mute", "PUT", match="manifests", times=2),
        Fault("mute", "POST", times=2),
        Fault("flip", "PATCH", skip=4),
        Fault("flip", "PUT", match="uploads"),
        Fault("status", "PATCH", status=503, skip=1, times=3),
        Fault("status", "PATCH", status=429, headers={"Retry-After": "0"}, times=3),
        Fault("status", "HEAD", status=500, times=2),
        Fault("status", "GET", status=502, times=2),
    ],
    ids=lambda fault: f"{fault.kind} {fault.method} {fault.status if fault.kind == 'status' else fault.match}",
)
@pytest.mark.parametrize("generation", [2, 3])
def test_what_a_registry_does_wrong_heals(fault: Fault, generation: int) -> None:
    with Registry(generation=generation) as registry:
        yard = Yard(registry)
        registry.faults.append(Fault(**vars(fault)))
        store = carry(yard)
        assert registry.faults[0].times == 0, "the fault was met"
        assert yard.files(store) == {**MODEL, "airfreight.json": describe(MODEL).canonical}


def test_small_layers_whose_uploads_are_lost_are_sent_again(yard: Yard) -> None:
    model = {"model.safetensors": b"weights", "config.json": b"{}"}
    manifest = describe(model)
    place = yard.image(tag=manifest.version)
    store = OciStore(place, manifest, Repository(place, NO_LOGINS), ledger=yard.ledger)
    yard.registry.faults.append(Fault("lose", "PUT", match="uploads", times=2))
    copy(MemorySource(model, manifest), store, patience=FAST)
    assert yard.registry.faults[0].times == 0, "the fault was met"
    assert yard.registry.counted("PATCH") == 0, "each is one PUT"
    assert yard.files(store) == {**model, "airfreight.json": manifest.canonical}


class RenewingSource(MemorySource):
    """Somebody renews the password while the second file is read."""

    def __init__(self, renew: Callable[[], object]) -> None:
        super().__init__(MODEL, describe(MODEL))
        self._renew = renew

    def open(self, file: ManifestFile, offset: int = 0) -> Generator[bytes, None, None]:
        for number, chunk in enumerate(super().open(file, offset)):
            if file.path == "model-2.safetensors" and number == 20:
                self._renew()
            yield chunk


def set_password(registry: Registry, login_file: Path, password: str) -> None:
    login_file.write_text(json.dumps({"auths": {registry.host: {"username": "me", "password": password}}}))
    registry.accounts = {"me": password}
    registry.tokens.clear()


@pytest.mark.parametrize("auth", ["basic", "token"])
def test_a_copy_outlives_the_password_that_it_began_with(auth: str, tmp_path: Path) -> None:
    """That of Amazon ECR ends after 12 hours; a job of the site writes the next one into the mounted file."""
    manifest, login_file = describe(MODEL), tmp_path / "config.json"
    with Registry(auth=auth) as registry:
        set_password(registry, login_file, "first")
        place = Yard(registry).image(tag=manifest.version)
        repository = Repository(place, RegistrySettings(str(login_file)))
        store = OciStore(place, manifest, repository, part_size=PART)
        source = RenewingSource(lambda: set_password(registry, login_file, "second"))
        copy(source, store, patience=FAST)
        assert registry.accounts == {"me": "second"}
        found = unpacked(repository, store.artifact.rpartition("@")[2])
        assert found == {**MODEL, "airfreight.json": manifest.canonical}
        assert registry.uploads == {}


def test_a_robot_that_may_not_list_tags_sends_what_it_cannot_look_up(yard: Yard) -> None:
    carry(yard)
    yard.registry.faults.append(Fault("status", "GET", match="tags/list", status=403, times=100))
    manifest = describe(BUMPED, "b" * 40)
    store = yard.store(manifest, ledger=Ledger.in_memory())
    copy(MemorySource(BUMPED, manifest), store, patience=FAST)
    assert yard.registry.faults[0].times < 100, "the fault was met"
    assert yard.files(store) == {**BUMPED, "airfreight.json": manifest.canonical}


@pytest.mark.parametrize(
    "options",
    [{"chunks": False}, {"body_limit": 2_000_000}, {"least_chunk": 2_000_000}, {"tells_digest": False},
     {"auth": "token", "token_uses": 5}],
    ids=lambda options: next(iter(options)),
)  # fmt: skip
def test_what_registries_differ_in(options: dict[str, Any], tmp_path: Any) -> None:
    weights = {"model.safetensors": bytes(range(256)) * 24_000, "config.json": b"{}"}  # 6 MB
    with Registry(**options) as registry:
        yard = Yard(registry)
        manifest = describe(weights)
        place = yard.image(tag=manifest.version)
        store = OciStore(place, manifest, Repository(place, NO_LOGINS), ledger=yard.ledger, part_size=1024 * 1024)
        copy(MemorySource(weights, chunk=300_000), store, patience=FAST)
        assert unpacked(Repository(place, NO_LOGINS), store.artifact.rpartition("@")[2])["config.json"] == b"{}"
        (data,) = [data for data in registry.blobs.values() if "model.safetensors" in paths_in(data)]
        assert paths_in(data)["model.safetensors"] == weights["model.safetensors"]
        assert registry.uploads == {}


def test_wrong_bytes_make_nothing_visible(yard: Yard) -> None:
    lying = MemorySource({**MODEL, "model-2.safetensors": b"\1" + MODEL["model-2.safetensors"][1:]}, describe(MODEL))
    with pytest.raises(IntegrityError, match=r"model-2\.safetensors has sha256 .*; nothing was published"):
        copy(lying, yard.store(describe(MODEL)), patience=FAST)
    assert yard.registry.tags == {}
    assert not any("model-2.safetensors" in paths_in(data) for data in yard.registry.blobs.values())
    assert yard.registry.uploads == {}


def test_a_wrong_small_file_takes_its_layer_with_it(yard: Yard) -> None:
    lying = MemorySource({**MODEL, "tokenizer.json": b"z" * 9000}, describe(MODEL))
    with pytest.raises(IntegrityError, match=r"tokenizer\.json has git_blob_id"):
        copy(lying, yard.store(describe(MODEL)), patience=FAST)
    assert not any("config.json" in paths_in(data) for data in yard.registry.blobs.values())
    assert yard.registry.uploads == {}


def test_slices_share_the_work_through_the_ledger(yard: Yard) -> None:
    manifest = describe(MODEL)
    moved = 0
    for bundle in yard.store(manifest).bundles(manifest.files):
        store = yard.store(manifest)
        moved += copy(MemorySource(MODEL), store, patience=FAST, share=bundle).moved_bytes
        assert store.facts()["image_digest"] is None
        assert yard.registry.tags == {}
    assert moved == SIZE
    store = yard.store(manifest)
    assert seal(manifest, store, FAST) == store.artifact == carry(yard).artifact


def test_sealing_before_all_layers_are_there_is_refused(yard: Yard) -> None:
    with pytest.raises(RequestError, match=r"lacks layers of hf://acme/pong@.*: copy it there first, every slice"):
        yard.store(describe(CONTENTS)).seal(describe(CONTENTS))


def test_an_image_of_somebody_else_is_not_overwritten(yard: Yard) -> None:
    document = {"schemaVersion": 2, "config": {}, "layers": []}
    yard.registry.put_manifest(
        "models/acme/pong",
        "application/vnd.oci.image.manifest.v1+json",
        json.dumps(document).encode(),
        tag=describe(MODEL).version,
    )
    with pytest.raises(RequestError, match=r"is an image that airfreight did not make, and it is not overwritten"):
        carry(yard)


def put_by_buildah(yard: Yard) -> str:
    """Place an image of the same manifest whose archives somebody else wrote; return its digest."""
    manifest, placed = describe(MODEL), []
    for layer in plan(manifest.files):
        data = b"another archive of " + layer.key.encode()
        digest = yard.registry.put_blob("models/acme/pong", data)
        placed.append(PlacedLayer.of(layer, digest, size=len(data), recipe="buildah/1"))
    image = assemble(manifest, placed, recipe="buildah/1")
    for data in (*image.configs, manifest_layer(manifest)):
        yard.registry.put_blob("models/acme/pong", data)
    return yard.registry.put_manifest("models/acme/pong", OCI_MANIFEST, image.top.data, tag=manifest.version)


def test_an_image_that_buildah_wrote_is_this_version_too(yard: Yard) -> None:
    digest = put_by_buildah(yard)
    source, store = MemorySource(MODEL), yard.store(describe(MODEL))
    result = copy(source, store, patience=FAST)
    assert (result.moved_bytes, result.reused_files, source.opened) == (0, len(MODEL), [])
    assert result.artifact == f"oci://{yard.registry.host}/models/acme/pong@{digest}"
    assert store.facts()["sent_bytes"] == 0


def test_layers_that_buildah_wrote_are_never_taken_for_ours(yard: Yard) -> None:
    put_by_buildah(yard)
    store = carry(yard, BUMPED, NEXT)
    assert yard.files(store) == {**BUMPED, "airfreight.json": describe(BUMPED, NEXT).canonical}


def pack_again(yard: Yard, tag: str, repository: str = "models/acme/pong", count: int = 99) -> str:
    """Put the image of `MODEL` under another tag as a tool that packs layers does, every annotation kept."""
    value = yard.document()
    for layer in value["layers"][:count]:
        data = packed(yard.registry.blobs[layer["digest"]])
        layer |= {"mediaType": f"{OCI_LAYER}+gzip", "digest": yard.registry.put_blob(repository, data)}
        layer["size"] = len(data)
    for layer in [*value["layers"][count:], value["config"]]:
        yard.registry.put_blob(repository, yard.registry.blobs[layer["digest"]])
    return yard.registry.put_manifest(repository, OCI_MANIFEST, json.dumps(value).encode(), tag=tag)


def seal_wrongly(yard: Yard) -> None:
    """Place the image that was made where packed layers were taken for ours: it calls them plain, with plain sizes."""
    manifest, placed = describe(MODEL), []
    for layer in plan(manifest.files):
        placed.append(PlacedLayer.of(layer, yard.registry.put_blob("models/acme/pong", packed(layer.key.encode()))))
    image = assemble(manifest, placed)
    for data in (*image.configs, manifest_layer(manifest)):
        yard.registry.put_blob("models/acme/pong", data)
    yard.registry.put_manifest("models/acme/pong", OCI_MANIFEST, image.top.data, tag=manifest.version)


def check(yard: Yard, store: OciStore, contents: dict[str, bytes], commit: str = COMMIT) -> None:
    """Every layer is what the image says of it, and every file what its manifest says."""
    image = parse_image("", store.artifact)
    for layer in yard.document(str(image.digest), image.repository)["layers"]:
        assert layer["size"] == len(yard.registry.blobs[layer["digest"]])
        assert layer["mediaType"] == OCI_LAYER
    verify(OciFolder(image, NO_LOGINS), FAST).check()
    assert yard.files(store) == {**contents, "airfreight.json": describe(contents, commit).canonical}


@pytest.mark.parametrize("repository", ["models/acme/pong", "models/team-b/pong"])
def test_layers_that_another_tool_packed_are_never_taken_for_ours(yard: Yard, repository: str) -> None:
    carry(yard)
    pack_again(yard, "packed", repository)
    place = yard.image(repository, describe(BUMPED, NEXT).version)
    check(yard, carry(yard, BUMPED, NEXT, image=place, ledger=Ledger.in_memory()), BUMPED, NEXT)


@pytest.mark.parametrize("repository", ["models/acme/pong", "models/team-b/pong"])
def test_a_note_of_another_size_is_not_believed(yard: Yard, repository: str) -> None:
    """Neither here nor in another repository, although its blob has the size that it says."""
    data = packed(b"another archive")
    digest = yard.registry.put_blob(repository, data)
    for layer in plan(describe(MODEL).files):
        yard.ledger.keep(layer, Note(digest, len(data), f"{yard.registry.host}/{repository}"))
    check(yard, carry(yard), MODEL)


@pytest.mark.parametrize("ledger", ["kept", "gone"])
def test_an_image_whose_layers_have_other_sizes_is_sealed_again(yard: Yard, ledger: str) -> None:
    seal_wrongly(yard)
    assert yard.store().sealed() is None
    assert yard.store().artifact.endswith(f":{COMMIT[:12]}")
    check(yard, carry(yard, ledger=Ledger.in_memory() if ledger == "gone" else None), MODEL)
    assert yard.store().sealed() == describe(MODEL)


def test_the_slices_of_an_image_whose_layers_have_other_sizes(yard: Yard) -> None:
    seal_wrongly(yard)
    manifest = describe(MODEL)
    for bundle in yard.store(manifest).bundles(manifest.files):
        copy(MemorySource(MODEL), yard.store(manifest), patience=FAST, share=bundle)
    store = yard.store(manifest)
    seal(manifest, store, FAST)
    check(yard, store, MODEL)


def test_another_version_whose_layers_have_other_sizes_is_not_overwritten(yard: Yard) -> None:
    seal_wrongly(yard)
    with pytest.raises(RequestError, match=r"already holds another manifest .* a version is never overwritten"):
        carry(yard, BUMPED, NEXT, image=yard.image())


@pytest.mark.parametrize("count", [99, 1], ids=["all", "one"])
def test_a_tag_that_another_tool_packed_is_this_version_too(yard: Yard, count: int) -> None:
    carry(yard)
    digest = pack_again(yard, COMMIT[:12], count=count)
    source, store = MemorySource(MODEL), yard.store(ledger=Ledger.in_memory())
    result = copy(source, store, patience=FAST)
    assert (result.moved_bytes, result.reused_files, source.opened) == (0, len(MODEL), [])
    assert result.artifact == f"oci://{yard.registry.host}/models/acme/pong@{digest}"
    assert store.facts()["sent_bytes"] == 0
    again = yard.store(ledger=Ledger.in_memory())
    assert seal(describe(MODEL), again, FAST) == result.artifact


def test_a_tag_that_another_tool_packed_and_that_lost_a_layer_is_sealed_again(yard: Yard) -> None:
    carry(yard)
    pack_again(yard, COMMIT[:12])
    yard.registry.links.remove(("models/acme/pong", yard.document()["layers"][0]["digest"]))
    check(yard, carry(yard, ledger=Ledger.in_memory()), MODEL)


def last_layer(yard: Yard, data: bytes) -> None:
    """Replace the layer of the manifest in the image of `MODEL`."""
    value = yard.document()
    value["layers"][-1] |= {"digest": yard.registry.put_blob("models/acme/pong", data), "size": len(data)}
    yard.registry.put_manifest("models/acme/pong", OCI_MANIFEST, json.dumps(value).encode(), tag=COMMIT[:12])


@pytest.mark.parametrize(
    "data",
    [
        packed(tar({"models/airfreight.json": bytes(3_000_000)})),
        packed(b"x" * 100_000)[:100],
        b"\x1f\x8b but no gzip",
        b"no archive",
        manifest_layer(describe(MODEL))[:1500],
        tar({"models/other.json": b"{}"}),
        tar({"models/airfreight.json": b"[]"}),
    ],
    ids=["bomb", "cut gzip", "no gzip", "no tar", "cut tar", "without", "no manifest"],
)
def test_a_last_layer_that_is_none(yard: Yard, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    carry(yard)
    last_layer(yard, data)
    monkeypatch.setattr("airfreight.stores.oci.sealed_image.MANIFEST_LIMIT", 1_000_000)
    with pytest.raises(
        RequestError, match=r"holds no airfreight\.json of airfreight in its last layer: remove the tag"
    ):
        yard.store().sealed()


def test_a_packed_last_layer_is_unpacked_within_bounds(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a few bytes of gzip become is never in memory as a whole."""
    carry(yard)
    last_layer(yard, packed(tar({"models/airfreight.json": bytes(64 * 1024 * 1024)})))
    monkeypatch.setattr("airfreight.stores.oci.sealed_image.MANIFEST_LIMIT", 1024 * 1024)
    tracemalloc.start()
    try:
        with pytest.raises(RequestError, match="in its last layer"):
            yard.store().sealed()
        assert tracemalloc.get_traced_memory()[1] < 16 * 1024 * 1024
    finally:
        tracemalloc.stop()


def test_more_weight_files_than_can_be_stacked(yard: Yard) -> None:
    contents = {f"model-{number:03}.safetensors": bytes([number]) * 10 for number in range(130)}
    store = carry(yard, contents)
    assert len(json.loads(next(iter(yard.registry.manifests.values()))[1])["layers"]) == 99
    assert yard.files(store) == {**contents, "airfreight.json": describe(contents).canonical}


def test_the_first_try_to_write_says_what_is_refused() -> None:
    with Registry(auth="basic", accounts={"ann": "secret"}) as registry, pytest.raises(RequestError) as caught:
        carry(Yard(registry))
    assert "login" in caught.value.message


@pytest.mark.parametrize(("weights", "mebibytes"), [(1, 64), (2, 32), (3, 16), (4, 16), (9, 16)])
def test_the_fewer_large_layers_there_are_the_larger_are_their_parts(weights: int, mebibytes: int) -> None:
    files = [ManifestFile(f"{n}.safetensors", 2**30, sha256=f"{n:064x}") for n in range(weights)]
    small = ManifestFile("config.json", 600, git_blob_id="0" * 40)
    assert part_size_for(plan([*files, small])) == mebibytes * 2**20
