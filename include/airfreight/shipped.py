"""Files that come with the library and are no Python: the model server templates and the catalog of examples.

In a checkout they lie beside the package, where people edit them; an installed package has them below
`share/airfreight` of its environment (`[tool.setuptools.data-files]` in pyproject.toml).
"""

from __future__ import annotations

import sys
from pathlib import Path

_CHECKOUT = Path(__file__).parents[1]
_INSTALLED = Path(sys.prefix) / "share" / "airfreight"


def shipped(relative: str) -> Path:
    """The path of a shipped file or directory, given relative to `include/`; in a checkout, the checkout's own."""
    beside = _CHECKOUT / relative
    return beside if beside.exists() else _INSTALLED / relative
