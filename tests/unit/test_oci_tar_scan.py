"""Where the files of an archive are, found while its bytes go by: against what `tarfile` writes."""

from __future__ import annotations

import hashlib
import io
import random
import tarfile
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airfreight.stores.oci.tar_scan import BLOCK, CrowdedError, Kind, Scanner, TarError

LONG = "models/" + "nested/" * 20 + "x" * 120 + ".safetensors"
FILES = {
    "models/config.json": b"{}",
    "models/empty": b"",
    "models/größe 模型.json": b"x" * 511,
    "models/weights": random.Random(1).randbytes(70_000),
    LONG: b"y" * 512,
}


def archive(files: dict[str, bytes], form: int) -> bytes:
    room = io.BytesIO()
    with tarfile.open(fileobj=room, mode="w", format=form) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return room.getvalue()


def scan(data: bytes, step: int, digests: bool = True) -> Scanner:
    scanner = Scanner(digests)
    for start in range(0, len(data), step):
        scanner.feed(data[start : start + step])
    scanner.check_end()
    return scanner


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("step", [1 << 20, 511, 512, 7])
def test_all_forms_in_any_steps(form: int, step: int) -> None:
    files = {name: data for name, data in FILES.items() if form != tarfile.USTAR_FORMAT or name != LONG}
    data = archive(files, form)
    found = {member.path: member for member in scan(data, step).members}
    assert list(found) == list(files)
    for path, content in files.items():
        member = found[path]
        assert member.kind is Kind.FILE
        assert data[member.offset : member.offset + member.size] == content
        assert member.sha256 == hashlib.sha256(content).hexdigest()


def test_what_lies_between_headers_need_not_be_fetched() -> None:
    data = archive(FILES, tarfile.GNU_FORMAT)
    scanner, fetched = Scanner(), 0
    while not scanner.ended:
        start = scanner.wanted
        scanner.skip(start)
        scanner.feed(data[start : start + BLOCK])
        fetched += BLOCK
    assert [member.path for member in scanner.members] == list(FILES)
    assert all(member.sha256 is None for member in scanner.members)
    assert fetched < len(data) / 8
    with pytest.raises(ValueError, match="does not lie between"):
        Scanner().skip(1)


def test_other_things_than_files() -> None:
    room = io.BytesIO()
    with tarfile.open(fileobj=room, mode="w") as tar:
        for name, kind, target in (
            ("./models/", tarfile.DIRTYPE, ""),
            ("models/link", tarfile.SYMTYPE, "t" * 200),
            ("/models/hard", tarfile.LNKTYPE, "models/x"),
            ("models/pipe", tarfile.FIFOTYPE, ""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            tar.addfile(info)
    members = scan(room.getvalue(), 100).members
    assert [(member.path, member.kind, member.target) for member in members] == [
        ("models", Kind.DIRECTORY, ""),
        ("models/link", Kind.SYMLINK, "t" * 200),
        ("models/hard", Kind.HARDLINK, "models/x"),
        ("models/pipe", Kind.OTHER, ""),
    ]


def test_forms_that_nearly_nobody_writes() -> None:
    """A directory before POSIX, a sparse file of GNU's in PAX, an empty extension, records that hold no value."""
    info = tarfile.TarInfo("models/old")
    old = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    old[:11] = b"models/old/"
    old[156:157] = b"\0"
    old[148:156] = b" " * 8
    old[148:156] = b"%06o\0 " % sum(old)
    sparse = tarfile.TarInfo("models/sparse")
    sparse.pax_headers = {"GNU.sparse.major": "1"}
    data = bytes(old) + header(kind=b"L", size=b"00000000000\0") + sparse.tobuf(tarfile.PAX_FORMAT) + bytes(1024)
    assert [(member.path, member.kind) for member in scan(data, 300).members] == [
        ("models/old", Kind.DIRECTORY),
        ("models/sparse", Kind.OTHER),
    ]


def test_sizes_of_eight_gibibytes_and_more() -> None:
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        info = tarfile.TarInfo("models/huge")
        info.size = 9 * 1024**3
        scanner = Scanner()
        scanner.feed(info.tobuf(form))
        (member,) = scanner.members
        assert member.size == info.size
        assert scanner.wanted == member.offset + info.size


def header(**changes: bytes) -> bytes:
    info = tarfile.TarInfo("models/x")
    info.size = 3
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    places = {"size": 124, "kind": 156, "sum": 148}
    for name, value in changes.items():
        block[places[name] : places[name] + len(value)] = value
    if "sum" not in changes:
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def records(data: bytes) -> bytes:
    """Return an extension of PAX."""
    return header(kind=b"x", size=b"%011o\0" % len(data)) + data + bytes(-len(data) % BLOCK)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"PK\x03\x04" + bytes(600), "a header that does not sum up"),
        (header(sum=b"000000\0 "), "a header that does not sum up"),
        (header(size=b"12345678xyz\0"), "a size that is no number"),
        (header(size=b"\xff" * 12), "a size below zero"),
        (header(kind=b"L", size=b"77777777777\0"), "a name of 8589934591 bytes"),
        (header(kind=b"x", size=b"00000000005\0") + b"abcde" + bytes(507), "malformed PAX records"),
        (header(kind=b"x", size=b"00000000011\0") + b"9 size=x\n" + bytes(503) + header(), "a size that is no number"),
        (header(kind=b"x", size=b"00000000010\0") + b"8 novalu" + bytes(504), "malformed PAX records"),
        (records(b"1" * 5000 + b" size=1\n"), "malformed PAX records"),
        (records(b"5008 size=" + b"1" * 4997 + b"\n") + header(), "a size that is no number"),
        (header() + b"ab", "it ends in the midst of a file"),
        (header()[:100], "it ends in the midst of a file"),
    ],
)
def test_what_is_no_archive(data: bytes, says: str) -> None:
    with pytest.raises(TarError, match=says):
        scan(data, 1000)


def test_more_members_than_any_model_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few bytes of gzip can become many: what is kept of them has a bound."""
    monkeypatch.setattr("airfreight.stores.oci.tar_scan.MEMBERS_LIMIT", 50)
    entry = archive({"models/a": b""}, tarfile.GNU_FORMAT)[:BLOCK]
    assert len(scan(entry * 50, 1 << 20).members) == 50
    with pytest.raises(CrowdedError, match="holds more than 50 files"):
        scan(entry * 51, 1 << 20)


def test_longer_names_than_any_model_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airfreight.stores.oci.tar_scan.NAMES_LIMIT", 2000)
    for kind in (tarfile.REGTYPE, tarfile.SYMTYPE):
        info = tarfile.TarInfo("models/a" if kind == tarfile.SYMTYPE else "x" * 900)
        info.type, info.linkname = kind, "x" * 900 if kind == tarfile.SYMTYPE else ""
        entry = info.tobuf(tarfile.GNU_FORMAT)
        assert len(scan(entry * 2, 1 << 20).members) == 2
        with pytest.raises(CrowdedError, match="MiB of names"):
            scan(entry * 3, 1 << 20)


def test_records_that_nobody_looks_at_are_not_kept() -> None:
    """Nothing bounds how many extensions stand before one member."""
    scanner = Scanner()
    scanner.feed(b"".join(records(b"%d comment%d=x\n" % (len(str(n)) + 13, n)) for n in range(1000, 1050)))
    assert scanner._extended == {}


def test_many_records_take_time_in_proportion() -> None:
    def seconds(count: int) -> float:
        data = records(b"6 a=b\n" * count)
        started = time.process_time()
        Scanner().feed(data)
        return time.process_time() - started

    seconds(1000)
    # Sixteen times as many; where the rest is copied for each, it takes more than a hundred times as long.
    assert seconds(160_000) < 64 * max(0.001, min(seconds(10_000) for _ in range(3)))


def test_what_follows_the_end_does_not_count() -> None:
    data = archive({"models/a": b"1"}, tarfile.GNU_FORMAT) + b"rubbish" * 1000
    assert [member.path for member in scan(data, 333).members] == ["models/a"]


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.text("abü/模", min_size=1, max_size=200), st.binary(max_size=3000), max_size=6), st.data())
def test_any_files(files: dict[str, bytes], data: st.DataObject) -> None:
    named = {
        f"models/{number}{name.replace('/', '_')}": content for number, (name, content) in enumerate(files.items())
    }
    packed = archive(named, data.draw(st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])))
    found = scan(packed, data.draw(st.integers(1, 5000)), digests=True).members
    assert {member.path: member.sha256 for member in found} == {
        name: hashlib.sha256(content).hexdigest() for name, content in named.items()
    }
