"""A hub for places without internet: the Hugging Face hub's API over a directory, and a model made on the spot.

Why it is here. The demo and the tests must deliver a real model through a real hub client on machines that reach no
hub. So this server answers what `huggingface_hub` asks, with the hub's status codes, error codes, headers, redirects
and ids, and publishes a tiny Qwen2 that a real model server loads and that answers `pong from A`. For tests it also
counts what it sent and can cut, stall, corrupt, slow down or refuse a bounded number of times.

    python -m devcluster.hub.publish /srv/hub                  the demo's models: everywhere the same bytes and commits
    python -m devcluster.hub --root /srv/hub --port 8090       serve them, until SIGTERM
    HF_ENDPOINT=http://127.0.0.1:8090 hf download acme/pong    any client of the hub works

    acme/pong          main answers "pong from A", branch next "pong from B"
    acme/pong-gated    gated; HF_TOKEN=hf_demo_token is admitted (AIRFREIGHT_HUB_TOKEN at the server sets another),
                       hf_demo_outsider is known and not admitted
    acme/cannot-chat   loads and lists, and every chat is an error
    acme/empty         a repository without files but .gitattributes
    acme/pickle        weights as a pickle

It needs Python 3.11 and its standard library, nothing else, for both publishing and serving; it writes nothing while
it serves and runs as any user on a read-only root. `--cdn-port` serves large files from a second port, which is
another origin to a client, as with the hub: then the token must not travel there. `--admin` opens /_standin/stats,
/_standin/faults and /_standin/reset.

    tiny_model, tiny_tokenizer    the model: how it speaks, and its files
    git_objects, repository       ids as git and LFS make them, and the format on disk
    answers, access               the API's JSON; who may read what, and the refusals
    streaming, faults             bytes of a file, and what goes wrong on purpose
    wire, handler, server         HTTP
    publish                       the demo's models

Not imitated: uploads, Xet, datasets and spaces, search, discussions, more than one range in a request.
"""

from .faults import Fault
from .repository import Library
from .server import DEMO_TOKEN, OUTSIDER_TOKEN, HubServer
from .tiny_model import write_model

__all__ = ["DEMO_TOKEN", "OUTSIDER_TOKEN", "Fault", "HubServer", "Library", "write_model"]
