"""One file of a layer on its way, as the engine knows it (an `Upload`): what it does concerns the whole layer."""

from __future__ import annotations

from airfreight.manifest import ManifestFile
from airfreight.stores.oci.uploads import LayerUpload


class FileUpload:
    """See the top of this file.

    Args:
        layer: on its way; shared by its files.
        file: one of them.
    """

    parallel = 1

    def __init__(self, layer: LayerUpload, file: ManifestFile) -> None:
        self._layer = layer
        self._index = layer.layer.files.index(file)
        self.part_size = layer.part_size
        self.offset = layer.begun(self._index)
        self.state = layer.state(self._index)

    def write(self, part: bytearray | memoryview, state: str | None, at: int) -> None:
        """See `Upload.write`."""
        self._layer.write(self._index, at, part, state)

    def commit(self) -> None:
        """See `Upload.commit`."""
        self._layer.end(self._index)

    def release(self) -> None:
        """See `Upload.release`."""
        self._layer.release()

    def abort(self) -> None:
        """See `Upload.abort`."""
        self._layer.abort()
