"""A real single-node Kubernetes with KServe, MinIO, a registry and vLLM, for machines that have none.

    python -m devcluster up | down | status | logs | kubectl … | preflight | clean

Everything is built from source by its published name (`binaries/`, `versions.py`), kept in a cache keyed by version,
and runs in one network namespace from which nothing outside can be reached. Read in this order:

    config.py      where things lie and which addresses they have
    shell.py steps.py    run a command; a step, and the runner of a graph of them
    preflight.py   may it run here, and what will it do
    toolchain.py binaries.py engine.py    what is made once and cached, in scratch.py until it is whole
    images.py recipes.py    the images: how one is built and remembered, and what is in each
    network.py daemons.py pki.py control_plane.py node.py kernel.py    Kubernetes itself
    leftovers.py state.py mounts.py lock.py    and nothing left of it after `down`
    addons.py tenant.py    what runs on it: DNS, MinIO, KServe; Airfreight's own objects
    light/ gateway/    what only tests serve with, and send through: a light model server, nginx
    demo.py        `make demo`: Airflow on the host, one delivery through REST, the summary
"""
