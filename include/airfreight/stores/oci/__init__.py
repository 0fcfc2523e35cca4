"""Registries of the OCI distribution API: images as a store and as a source."""
