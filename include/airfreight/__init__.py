"""Airfreight: carries model weights from where they are published to where they are served."""

__version__ = "0.1.0"
