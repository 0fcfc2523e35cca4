"""The stand-in hub, driven by the real client: what it answers, whom it refuses, and how it breaks on request."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.hf_api import RepoFile, RepoFolder
from huggingface_hub.utils.tqdm import disable_progress_bars

from devcluster.hub import DEMO_TOKEN, OUTSIDER_TOKEN, Fault, HubServer, Library
from devcluster.hub.faults import Faults
from devcluster.hub.git_objects import describe, tree_ids
from devcluster.hub.publish import publish_demo
from devcluster.hub.repository import check_repo_id
from devcluster.hub.streaming import UnsatisfiableRangeError, parse_range

SHARD = "model-00002-of-00004.safetensors"
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def quiet_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy of this machine, no progress bars."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    disable_progress_bars()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    root = tmp_path_factory.mktemp("hub")
    commits = publish_demo(root, padding_mb=3)
    library = Library(root)
    tree = {f"sub/deep/{i}.txt": f"{i}\n".encode() for i in range(7)}
    library.publish("acme/folders", {**tree, "README.md": b"no card\n", "sub.txt": b"x"}, title="Folders")
    library.publish("acme/secret", {"config.json": b"{}"}, title="Secret", private=True)
    return root, commits


@pytest.fixture
def hub(published: tuple[Path, dict[str, str]]) -> Iterator[HubServer]:
    with HubServer(published[0], page_size=5) as server:
        yield server


@pytest.fixture
def commits(published: tuple[Path, dict[str, str]]) -> dict[str, str]:
    return published[1]


def api(hub: HubServer, token: str | bool = False) -> HfApi:
    return HfApi(endpoint=hub.url, token=token)


def get(hub: HubServer, path: str, **arguments: Any) -> httpx2.Response:
    # verify=False: reading the machine's CAs costs more than all of these requests, and none of them is https
    with httpx2.Client(trust_env=False, verify=False, follow_redirects=arguments.pop("follow", True)) as client:
        return client.get(hub.url + path, **arguments)


def download(hub: HubServer, target: Path, repo_id: str = "acme/pong", **arguments: Any) -> Path:
    token = arguments.pop("token", False)
    local = snapshot_download(repo_id, endpoint=hub.url, token=token, local_dir=target, **arguments)
    return Path(local)


def shard_of(published: tuple[Path, dict[str, str]]) -> bytes:
    library = Library(published[0])
    found = library.find("acme/pong")
    assert found
    return library.blob(found.commits[published[1]["acme/pong@main"]].files[SHARD].sha256).read_bytes()


# ---- what a model is ----


def test_info_names_commit_licence_and_files(hub: HubServer, commits: dict[str, str]) -> None:
    info = api(hub).model_info("acme/pong", files_metadata=True)
    assert info.sha == commits["acme/pong@main"]
    assert (info.private, info.gated, info.author) == (False, False, "acme")
    assert info.card_data is not None
    assert info.card_data.license == "apache-2.0"
    assert info.card_data.tags == ["qwen2", "test-model"]
    assert info.config == {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
    assert info.siblings is not None
    shard = next(sibling for sibling in info.siblings if sibling.rfilename == SHARD)
    assert shard.lfs is not None
    assert (shard.size, len(shard.lfs.sha256)) == (shard.lfs.size, 64)


def test_info_with_expand_holds_only_what_was_asked(hub: HubServer) -> None:
    answer = get(hub, "/api/models/acme/pong?expand=gated&expand=sha").json()
    assert set(answer) == {"_id", "id", "modelId", "gated", "sha"}


@pytest.mark.parametrize("revision", ["main", "v1.0", None])
def test_resolves_branch_and_tag_to_a_commit(
    hub: HubServer, commits: dict[str, str], revision: str | None, tmp_path: Path
) -> None:
    resolved = api(hub).resolve_revision("acme/pong", revision=revision, cache_dir=tmp_path)
    assert resolved.resolved == commits["acme/pong@main"]


def test_resolves_commits_whole_and_shortened(hub: HubServer, commits: dict[str, str]) -> None:
    sha = commits["acme/pong@next"]
    for revision in ("next", sha, sha[:7]):
        assert api(hub).model_info("acme/pong", revision=revision).sha == sha


def test_lists_branches_tags_and_history(hub: HubServer, commits: dict[str, str]) -> None:
    refs = api(hub).list_repo_refs("acme/pong")
    assert {ref.name: ref.target_commit for ref in refs.branches} == {
        "main": commits["acme/pong@main"],
        "next": commits["acme/pong@next"],
    }
    assert [ref.name for ref in refs.tags] == ["v1.0"]
    history = api(hub).list_repo_commits("acme/pong", revision="next")
    assert [commit.title for commit in history] == ["Answer B", "Add the model", "initial commit"]
    assert history[1].commit_id == commits["acme/pong@main"]


def test_tree_comes_in_pages_and_gives_sha256_for_lfs_only(hub: HubServer, commits: dict[str, str]) -> None:
    entries = list(api(hub).list_repo_tree("acme/pong", recursive=True, revision=commits["acme/pong@main"]))
    assert len([request for request in hub.stats.requests if "/tree/" in request.path]) == 3  # 12 files, 5 to a page
    files = {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}
    assert len(files) == len(entries) == 12
    assert files[SHARD].lfs is not None
    assert files["config.json"].lfs is None
    assert list(files) == sorted(files)


def test_tree_has_folders_and_can_be_asked_for_one(hub: HubServer) -> None:
    top = list(api(hub).list_repo_tree("acme/folders"))
    assert [(entry.path, type(entry)) for entry in top] == [
        ("README.md", RepoFile),
        ("sub", RepoFolder),
        ("sub.txt", RepoFile),
    ]
    deep = list(api(hub).list_repo_tree("acme/folders", "sub/deep", recursive=True, expand=True))
    assert [entry.path for entry in deep] == [f"sub/deep/{i}.txt" for i in range(7)]
    assert deep[0].last_commit is not None
    assert deep[0].last_commit.title == "Folders"


def test_paths_info_leaves_out_what_is_not_there(hub: HubServer) -> None:
    found = api(hub).get_paths_info("acme/folders", ["sub", "sub/deep/1.txt", "no"])
    assert [entry.path for entry in found] == ["sub", "sub/deep/1.txt"]


def test_empty_repository_holds_gitattributes_alone(hub: HubServer) -> None:
    assert api(hub).list_repo_files("acme/empty") == [".gitattributes"]


def test_next_differs_from_main_in_one_shard(hub: HubServer) -> None:
    def listing(revision: str) -> dict[str, str]:
        entries = api(hub).list_repo_tree("acme/pong", recursive=True, revision=revision)
        return {entry.path: entry.blob_id for entry in entries if isinstance(entry, RepoFile)}

    main, following = listing("main"), listing("next")
    assert [path for path in main if main[path] != following[path]] == ["model-00004-of-00004.safetensors"]


# ---- files ----


def test_snapshot_download_gives_every_byte(hub: HubServer, tmp_path: Path) -> None:
    local = download(hub, tmp_path / "model")
    for entry in api(hub).list_repo_tree("acme/pong", recursive=True):
        assert isinstance(entry, RepoFile)
        described = describe(entry.path, (local / entry.path).read_bytes())
        assert (described.size, described.blob_id) == (entry.size, entry.blob_id)
        if entry.lfs:
            assert entry.lfs.sha256 == described.sha256
    assert hub.stats.weight_bytes() == sum(path.stat().st_size for path in local.glob("*.safetensors"))


def test_metadata_moves_no_weight_byte(hub: HubServer, commits: dict[str, str]) -> None:
    url = hf_hub_url("acme/pong", SHARD, endpoint=hub.url)
    metadata = get_hf_file_metadata(url, token=False)
    assert metadata.commit_hash == commits["acme/pong@main"]
    info = api(hub).get_paths_info("acme/pong", [SHARD])[0]
    assert isinstance(info, RepoFile)
    assert info.lfs is not None
    assert (metadata.etag, metadata.size) == (info.lfs.sha256, info.lfs.size)
    assert f":{hub.cdn_port}/_cdn/" in metadata.location
    assert hub.stats.weight_bytes() == 0


def test_small_files_move_on_the_same_host_and_keep_their_blob_id(hub: HubServer, commits: dict[str, str]) -> None:
    answer = get(hub, "/acme/pong/resolve/main/config.json", follow=False)
    sha = commits["acme/pong@main"]
    assert answer.status_code == 307
    assert answer.headers["Location"].startswith(f"/api/resolve-cache/models/acme/pong/{sha}/config.json?")
    metadata = get_hf_file_metadata(hf_hub_url("acme/pong", "config.json", endpoint=hub.url), token=False)
    info = api(hub).get_paths_info("acme/pong", ["config.json"])[0]
    assert isinstance(info, RepoFile)
    assert (metadata.etag, metadata.size, metadata.commit_hash) == (info.blob_id, info.size, sha)


def test_cdn_tells_nothing_of_commit_or_sha256(hub: HubServer) -> None:
    """As on the hub: whoever follows the redirect before reading the headers has lost the hash."""
    url = f"/acme/pong/resolve/main/{SHARD}"
    redirect = get(hub, url, follow=False)
    assert (redirect.status_code, len(redirect.headers["X-Linked-ETag"])) == (302, 66)
    followed = get(hub, url)
    assert followed.status_code == 200
    assert not {"x-linked-etag", "x-linked-size", "x-repo-commit"} & set(followed.headers)
    assert followed.headers["ETag"] != redirect.headers["X-Linked-ETag"]


def test_without_a_port_for_the_cdn_the_client_still_finds_the_hash(
    published: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    with HubServer(published[0], cdn_port=None) as server:
        assert not server.has_cdn
        local = download(server, tmp_path / "gated", "acme/pong-gated", token=DEMO_TOKEN)
        metadata = get_hf_file_metadata(hf_hub_url("acme/pong", SHARD, endpoint=server.url), token=False)
    assert metadata.etag == hashlib.sha256(shard_of(published)).hexdigest()
    assert (local / "model-00001-of-00002.safetensors").is_file()


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [("bytes=0-9", 0, 10), ("bytes=100-", 100, None), ("bytes=-7", -7, None), ("bytes=5-99999999", 5, None)],
)
def test_range_gives_that_part(
    hub: HubServer, published: tuple[Path, dict[str, str]], asked: str, start: int, end: int | None
) -> None:
    content = shard_of(published)
    answer = get(hub, f"/acme/pong/resolve/main/{SHARD}", headers={"Range": asked})
    assert answer.status_code == 206
    assert answer.content == content[start:end]
    first = start % len(content)
    last = first + len(answer.content) - 1
    assert answer.headers["Content-Range"] == f"bytes {first}-{last}/{len(content)}"
    assert hub.stats.weight_bytes() == len(answer.content)


def test_range_behind_the_end_is_416_with_the_size(hub: HubServer) -> None:
    size = api(hub).get_paths_info("acme/pong", [SHARD])[0].size  # type: ignore[union-attr]
    answer = get(hub, f"/acme/pong/resolve/main/{SHARD}", headers={"Range": f"bytes={size}-"})
    assert answer.status_code == 416
    assert answer.headers["Content-Range"] == f"bytes */{size}"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, (0, 10, False)),
        ("bytes=", (0, 10, False)),
        ("bytes=-", (0, 10, False)),
        ("lines=1-2", (0, 10, False)),
        ("bytes=1-2,4-5", (0, 10, False)),
        ("bytes=5-4", (0, 10, False)),
        ("bytes=0-0", (0, 1, True)),
        ("bytes=9-", (9, 10, True)),
        ("bytes=-99", (0, 10, True)),
    ],
)
def test_parse_range(header: str | None, expected: tuple[int, int, bool]) -> None:
    span = parse_range(header, 10)
    assert (span.start, span.end, span.partial) == expected


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=10-20", "bytes=-0"])
def test_parse_range_refuses_what_holds_no_byte(header: str) -> None:
    with pytest.raises(UnsatisfiableRangeError):
        parse_range(header, 10)


# ---- who is refused, and how ----


def test_unknown_model_is_401_for_the_anonymous_and_404_with_a_token(hub: HubServer) -> None:
    with pytest.raises(RepositoryNotFoundError, match="Invalid username or password") as anonymous:
        api(hub).model_info("acme/nothing")
    assert anonymous.value.response.status_code == 401
    with pytest.raises(RepositoryNotFoundError, match="Repository Not Found for url") as known:
        api(hub, DEMO_TOKEN).model_info("acme/nothing")
    assert known.value.response.status_code == 404
    assert known.value.response.headers["X-Error-Message"] == "Repository not found"


def test_private_model_looks_as_if_it_were_not_there(hub: HubServer) -> None:
    for token, status in ((False, 401), (OUTSIDER_TOKEN, 404)):
        with pytest.raises(RepositoryNotFoundError) as refused:
            api(hub, token).model_info("acme/secret")
        assert refused.value.response.status_code == status
        with pytest.raises(RepositoryNotFoundError):
            get_hf_file_metadata(hf_hub_url("acme/secret", "config.json", endpoint=hub.url), token=token)
    assert api(hub, DEMO_TOKEN).model_info("acme/secret").private is True


def test_gated_model_shows_its_listing_and_refuses_its_files(hub: HubServer) -> None:
    info = api(hub).model_info("acme/pong-gated")
    assert info.gated == "manual"
    assert "config.json" in api(hub).list_repo_files("acme/pong-gated")
    url = hf_hub_url("acme/pong-gated", "config.json", endpoint=hub.url)
    with pytest.raises(GatedRepoError, match=r"restricted. You must have access to it and be authenticated") as nobody:
        get_hf_file_metadata(url, token=False)
    assert nobody.value.response.status_code == 401
    with pytest.raises(GatedRepoError, match="is restricted and you are not in the authorized list") as outsider:
        hf_hub_download("acme/pong-gated", "config.json", endpoint=hub.url, token=OUTSIDER_TOKEN, force_download=False)
    assert outsider.value.response.status_code == 403
    with pytest.raises(GatedRepoError):
        api(hub, OUTSIDER_TOKEN).auth_check("acme/pong-gated")


def test_gated_file_is_refused_on_the_second_path_too(hub: HubServer, commits: dict[str, str]) -> None:
    sha = commits["acme/pong-gated@main"]
    answer = get(hub, f"/api/resolve-cache/models/acme/pong-gated/{sha}/config.json")
    assert (answer.status_code, answer.headers["X-Error-Code"]) == (401, "GatedRepo")


def test_gated_model_comes_with_a_token_and_the_cdn_never_sees_it(hub: HubServer, tmp_path: Path) -> None:
    local = download(hub, tmp_path / "model", "acme/pong-gated", token=DEMO_TOKEN)
    assert len(list(local.glob("*.safetensors"))) == 2
    cdn = [request for request in hub.stats.requests if request.path.startswith("/_cdn/")]
    assert cdn
    assert not any(request.token for request in cdn)


def test_token_on_a_cdn_link_is_refused(hub: HubServer) -> None:
    location = get(hub, f"/acme/pong/resolve/main/{SHARD}", follow=False).headers["Location"]
    answer = httpx2.get(location, headers={"Authorization": f"Bearer {DEMO_TOKEN}"}, trust_env=False)
    assert answer.status_code == 400
    assert "Only one auth mechanism allowed" in answer.json()["error"]


def test_cdn_link_works_for_its_file_alone_and_expires(published: tuple[Path, dict[str, str]]) -> None:
    with HubServer(published[0]) as server:
        location = get(server, f"/acme/pong/resolve/main/{SHARD}", follow=False).headers["Location"]
        other = location.replace(SHARD, SHARD.replace("00002", "00003", 1))
        assert httpx2.get(other, trust_env=False).status_code == 403
        later = location.replace("Expires=", "Expires=9")
        assert httpx2.get(later, trust_env=False).status_code == 403
        assert httpx2.get(location, trust_env=False).status_code == 200
    with HubServer(published[0], link_ttl_s=-1) as server:
        answer = get(server, f"/acme/pong/resolve/main/{SHARD}")
        assert (answer.status_code, server.stats.weight_bytes()) == (403, 0)
        assert "not valid, or no longer" in answer.json()["error"]


def test_unknown_token_is_refused_even_for_a_public_model(hub: HubServer) -> None:
    with pytest.raises(HfHubHTTPError, match="Invalid credentials in Authorization header") as refused:
        api(hub, "hf_wrong").model_info("acme/pong")
    assert refused.value.response.status_code == 401
    assert not isinstance(refused.value, RepositoryNotFoundError)


def test_whoami_needs_a_token(hub: HubServer) -> None:
    assert api(hub, DEMO_TOKEN).whoami()["type"] == "user"
    assert get(hub, "/api/whoami-v2").status_code == 401


@pytest.mark.parametrize("revision", ["no-such-branch", "f" * 40, "line\nbreak"])
def test_unknown_revision_is_404_with_its_code(hub: HubServer, revision: str) -> None:
    with pytest.raises(RevisionNotFoundError, match="Invalid rev id: ") as refused:
        api(hub).model_info("acme/pong", revision=revision)
    assert refused.value.response.status_code == 404
    with pytest.raises(RevisionNotFoundError):
        list(api(hub).list_repo_tree("acme/pong", revision=revision))


def test_missing_file_and_folder_are_404_with_their_code(hub: HubServer, commits: dict[str, str]) -> None:
    with pytest.raises(RemoteEntryNotFoundError, match="Entry Not Found") as refused:
        get_hf_file_metadata(hf_hub_url("acme/pong", "no.json", endpoint=hub.url), token=False)
    assert refused.value.response.headers["X-Repo-Commit"] == commits["acme/pong@main"]
    with pytest.raises(RemoteEntryNotFoundError, match='no-folder does not exist on "main"'):
        list(api(hub).list_repo_tree("acme/pong", "no-folder"))


@pytest.mark.parametrize("name", ["acme/--pong", "acme/..", "-acme/pong", "acme/pong.git", "acme/" + "x" * 100])
def test_malformed_name_is_400(hub: HubServer, name: str) -> None:
    with pytest.raises(ValueError, match=r"Only regular characters and .* are accepted"):
        check_repo_id(name)
    answer = get(hub, f"/api/models/{name.replace('..', '%2E%2E')}/revision/main")
    assert answer.status_code == 400
    assert answer.headers["X-Error-Message"].startswith("Invalid repo name: ")


def test_files_outside_the_repository_cannot_be_named(hub: HubServer) -> None:
    answer = get(hub, "/acme/pong/resolve/main/%2E%2E/%2E%2E/models/acme/secret.json")
    assert (answer.status_code, answer.headers["X-Error-Code"]) == (404, "EntryNotFound")


# ---- what goes wrong on purpose ----


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record how long the client would have slept between attempts, in seconds, and do not sleep."""
    taken: list[float] = []
    monkeypatch.setattr(time, "sleep", taken.append)
    return taken


def test_cut_stream_is_resumed_by_the_client(
    hub: HubServer,
    published: tuple[Path, dict[str, str]],
    tmp_path: Path,
    naps: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 16_384)  # the client resumes behind the last whole chunk
    hub.faults.add(Fault("cut", match=f"*{SHARD}", after_bytes=100_000))
    local = download(hub, tmp_path / "model", allow_patterns=[SHARD])
    content = shard_of(published)
    assert (local / SHARD).read_bytes() == content
    ranges = [request.range for request in hub.stats.requests if request.path.startswith("/_cdn/")]
    assert len(ranges) == 2
    assert ranges[0] is None
    assert ranges[1] is not None
    resumed_at = int(ranges[1].removeprefix("bytes=").rstrip("-"))
    assert resumed_at == 98_304
    assert hub.stats.weight_bytes() == 100_000 + len(content) - resumed_at
    assert hub.faults.pending() == []


def test_cut_stream_announced_its_whole_length(hub: HubServer) -> None:
    hub.faults.add(Fault("cut", match="*config.json", after_bytes=10))
    with pytest.raises(httpx2.RemoteProtocolError, match="received 10 bytes"):
        get(hub, "/acme/pong/resolve/main/config.json")
    assert hub.stats.file_bytes == {"acme/pong/config.json": 10}


def test_corrupt_stream_differs_in_one_byte_and_only_once(
    hub: HubServer, published: tuple[Path, dict[str, str]]
) -> None:
    url = f"/acme/pong/resolve/main/{SHARD}"
    content = shard_of(published)
    hub.faults.add(Fault("corrupt", match=f"*{SHARD}", after_bytes=1000))
    assert get(hub, url, headers={"Range": "bytes=2000-"}).content == content[2000:]  # not in this range: still to come
    wrong = get(hub, url).content
    assert [i for i, (a, b) in enumerate(zip(wrong, content, strict=True)) if a != b] == [1000]
    assert get(hub, url).content == content


@pytest.mark.parametrize("by_bytes", [7, -7])
def test_a_stream_of_another_length_tells_that_length(
    hub: HubServer, published: tuple[Path, dict[str, str]], by_bytes: int
) -> None:
    url = f"/acme/pong/resolve/main/{SHARD}"
    content = shard_of(published)
    told = content + bytes(by_bytes) if by_bytes > 0 else content[:by_bytes]
    hub.faults.add(Fault("length", match=f"*{SHARD}", by_bytes=by_bytes, times=2))
    whole = get(hub, url)
    assert (whole.content, whole.headers["Content-Length"]) == (told, str(len(told)))
    part = get(hub, url, headers={"Range": "bytes=2000-"})
    assert (part.content, part.headers["Content-Range"]) == (told[2000:], f"bytes 2000-{len(told) - 1}/{len(told)}")
    assert get(hub, url).content == content


def test_stalled_stream_says_nothing_and_then_goes_on(hub: HubServer, published: tuple[Path, dict[str, str]]) -> None:
    url = f"/acme/pong/resolve/main/{SHARD}"
    hub.faults.add(Fault("stall", match=f"*{SHARD}", after_bytes=50_000, seconds=60))
    with pytest.raises(httpx2.ReadTimeout):
        get(hub, url, timeout=0.2)
    hub.faults.add(Fault("stall", match=f"*{SHARD}", after_bytes=50_000, seconds=0.05))
    assert get(hub, url).content == shard_of(published)


def test_closing_the_server_ends_a_stalled_stream(published: tuple[Path, dict[str, str]]) -> None:
    with HubServer(published[0]) as server:
        server.faults.add(Fault("stall", match="*", after_bytes=1, seconds=600))
        url = f"{server.url}/acme/pong/resolve/main/{SHARD}"
        client = httpx2.Client(trust_env=False, follow_redirects=True, timeout=60)
        with client, client.stream("GET", url) as answer:
            server.close()
            with pytest.raises(httpx2.RemoteProtocolError):  # a stream that goes on stalling is a ReadTimeout
                answer.read()


def test_slow_stream_keeps_its_rate(hub: HubServer) -> None:
    size = api(hub).get_paths_info("acme/pong", [SHARD])[0].size  # type: ignore[union-attr]
    hub.faults.add(Fault("slow", match=f"*{SHARD}", bytes_per_second=size * 5))
    begun = time.monotonic()
    assert len(get(hub, f"/acme/pong/resolve/main/{SHARD}").content) == size
    assert time.monotonic() - begun > 0.15


def test_429_tells_the_client_how_long_to_wait(hub: HubServer, naps: list[float]) -> None:
    hub.faults.add(Fault("status", match="/api/models/acme/pong/tree/*", status=429, retry_after_s=7, times=2))
    assert len(list(api(hub).list_repo_tree("acme/pong"))) == 12
    assert naps == [8.0, 8.0]  # the client adds a second


def test_503_without_advice_is_retried_by_the_client(hub: HubServer, naps: list[float]) -> None:
    hub.faults.add(Fault("status", match="*/tree/*", status=503, times=2))
    assert len(list(api(hub).list_repo_tree("acme/pong"))) == 12
    assert [request.status for request in hub.stats.requests][:3] == [503, 503, 200]


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"kind": "explode"}, "kind must be one of status, cut, stall, corrupt, slow, length"),
        ({"kind": "cut", "times": 0}, "times must be 1 to 1000"),
        ({"kind": "stall", "seconds": 601}, "seconds must be 0 to 600"),
        ({"kind": "status", "status": 200}, "status must be one of 408, 429"),
        ({"kind": "slow", "bytes_per_second": 1}, "bytes_per_second must be 1000 or more"),
        ({"kind": "length"}, "by_bytes must not be 0, nor beyond 1048576"),
        ({"kind": "cut", "after_bytes": -1}, "after_bytes must not be negative"),
        ({"kind": "cut", "times": "many"}, "a value has the wrong type"),
        ({"match": "*"}, "a fault is an object with 'kind'"),
        ({"kind": "cut", "when": 1}, "a fault is an object with 'kind'"),
        (["cut"], "a fault is an object with 'kind'"),
    ],
    ids=str,
)
def test_rejects_a_fault_without_bounds(wrong: object, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Fault.from_json(wrong)


def test_oldest_matching_fault_strikes_first_and_is_used_up() -> None:
    faults = Faults()
    faults.add(Fault("status", match="/a*", status=503))
    faults.add(Fault("status", status=429))
    assert [fault.status if (fault := faults.take_status(path)) else None for path in ("/b", "/ab", "/b")] == [
        429,
        503,
        None,
    ]


def test_faults_and_counters_are_reached_over_http_only_with_the_flag(published: tuple[Path, dict[str, str]]) -> None:
    with HubServer(published[0]) as closed:
        assert get(closed, "/_standin/stats").status_code == 404
    with HubServer(published[0], admin=True) as server, httpx2.Client(base_url=server.url, trust_env=False) as client:
        set_ = client.post(
            "/_standin/faults", json=[{"kind": "status", "match": "/api/models/*", "status": 503, "times": 2}]
        )
        assert set_.json()["faults"][0]["times"] == 2
        assert client.get("/api/models/acme/pong").status_code == 503
        assert client.get("/healthz").status_code == 200
        assert client.get("/_standin/faults").json()["faults"][0]["times"] == 1
        client.get("/acme/pong/resolve/main/config.json", follow_redirects=True)
        stats = client.get("/_standin/stats").json()
        assert stats["files"]["acme/pong/config.json"]["requests"] == 1
        assert (stats["weight_bytes_sent"], stats["bytes_sent"] > 100) == (0, True)
        assert client.post("/_standin/reset").json() == {"faults": []}
        assert client.get("/_standin/stats").json()["files"] == {}
        assert client.get("/api/models/acme/pong").status_code == 200
        refused = client.post("/_standin/faults", json={"kind": "cut", "times": 0})
        assert (refused.status_code, "No fault was set" in refused.json()["error"]) == (400, True)
        assert client.post("/_standin/faults", content=b"{").status_code == 400


def test_log_holds_neither_token_nor_signature(published: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    lines: list[str] = []
    with HubServer(published[0], log=lines.append) as server:
        download(server, tmp_path / "model", "acme/pong-gated", token=DEMO_TOKEN)
    assert any(line.startswith("GET /_cdn/acme/pong-gated/") and line.endswith(" 200") for line in lines)
    assert any(line.endswith(" 302 token") for line in lines)
    assert not any(DEMO_TOKEN in line or "Signature" in line for line in lines)


# ---- what is on disk ----


def test_publishing_again_changes_nothing_and_elsewhere_gives_the_same(
    published: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    def listing(root: Path, repo_id: str) -> bytes:
        return (root / "models" / f"{repo_id}.json").read_bytes()

    root, commits = published
    before = listing(root, "acme/pong")
    assert publish_demo(root, padding_mb=3) == commits
    assert listing(root, "acme/pong") == before
    assert publish_demo(tmp_path, padding_mb=3) == commits
    assert listing(tmp_path, "acme/pong") == before


def test_ids_are_those_that_git_gives(tmp_path: Path) -> None:
    """Compared with git itself: trees with folders sort in a way of their own."""
    files = {"a/b/c.txt": b"1\n", "a.txt": b"2\n", "a/z": b"3\n", "a0": b""}
    described = {path: describe(path, content) for path, content in files.items()}
    for path, content in files.items():
        target = tmp_path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "GIT_CONFIG_GLOBAL": os.devnull}

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init", "-q")
    git("add", ".")
    assert tree_ids(described)[""] == git("write-tree")
    assert described["a.txt"].blob_id == git("hash-object", "a.txt")


def test_rejects_a_path_that_leaves_the_repository(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no path inside a repository"):
        Library(tmp_path).publish("acme/pong", {"../x": b""}, title="x")


def test_what_is_published_while_serving_is_served(tmp_path: Path) -> None:
    library = Library(tmp_path)
    first = library.publish("acme/moving", {"a.txt": b"1"}, title="one")
    with HubServer(tmp_path) as server:
        assert api(server).model_info("acme/moving").sha == first
        second = library.publish("acme/moving", {"a.txt": b"2"}, title="two")
        assert api(server).model_info("acme/moving").sha == second != first
        assert get(server, f"/acme/moving/resolve/{first}/a.txt").content == b"1"


# ---- as a program ----


def test_serves_as_a_program_until_sigterm_with_the_standard_library_alone(
    published: tuple[Path, dict[str, str]],
) -> None:
    """-S -E hide every installed package: the pod has a plain Python."""
    command = [sys.executable, "-S", "-E", "-m", "devcluster.hub", "--root", str(published[0])]
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", "0", "--cdn-port", "0"],
        cwd=REPOSITORY,
        env={"AIRFREIGHT_HUB_TOKEN": "hf_mine"},
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout
            port = process.stdout.readline().strip().rpartition(":")[2]
            with httpx2.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, follow_redirects=True) as client:
                assert client.get("/healthz").json() == {"status": "ok"}
                for token, status in (("hf_mine", 200), (DEMO_TOKEN, 401)):
                    headers = {"Authorization": f"Bearer {token}"}
                    answer = client.get("/acme/pong-gated/resolve/main/config.json", headers=headers)
                    assert answer.status_code == status
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.stdout.read().endswith("hub: stopped\n")
        assert process.wait(timeout=10) == 0


def test_program_says_what_is_missing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "devcluster.hub", "--root", str(tmp_path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert f"{tmp_path} holds no models; run: python -m devcluster.hub.publish {tmp_path}" in done.stdout


def test_publish_prints_every_commit(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-S", "-E", "-W", "error", "-m", "devcluster.hub.publish", str(tmp_path), "--padding-mb", "1"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    names = [line.split()[1] for line in done.stdout.splitlines()]
    assert names == [f"acme/{name}@main" for name in ("pong",)] + ["acme/pong@next"] + [
        f"acme/{name}@main" for name in ("pong-gated", "cannot-chat", "empty", "pickle")
    ]
    assert json.loads((tmp_path / "models" / "acme" / "pong.json").read_text())["format"] == 1
