"""Where a branch of the hub is now, and nothing else: one call, and one more when the first one fails for a moment."""

from __future__ import annotations

from huggingface_hub import HfApi

from airfreight.environment import HubSettings
from airfreight.retry import Patience
from airfreight.source import parse_source
from airfreight.stores.hub_errors import READ_TIMEOUT, Asked

CALLS = 2


def tip_of(source: str, settings: HubSettings) -> str:
    """Return the commit, 40 hex digits, at which the branch or tag of a source is.

    Raises:
        RequestError: no such model or revision, no right to it.
        TemporaryError: the hub cannot be reached, or is not well.
    """
    model = parse_source(source)

    def ask() -> str:
        with Asked(model, settings).translated():
            api = HfApi(endpoint=settings.endpoint, token=settings.token or False)
            return str(api.model_info(model.repo_id, revision=model.revision, timeout=READ_TIMEOUT).sha)

    return Patience(attempts=CALLS, base=2.0, longest_asked=60.0).call(ask)
