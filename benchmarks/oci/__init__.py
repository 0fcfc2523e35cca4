"""The benchmark of images: the same files into the same registry, by Airfreight and by what people use today.

registry.py     one docker-registry for each measurement, and what it counts
material.py     the directories that are packed, and the base image
peers.py        the command lines that are compared
rounds.py       every measurement; `scratchdisk` watches the disk meanwhile
raw.py          the upload alone: bytes whose digests are known, no image
tables.py       medians, ratios, goals
tools.py        oras and modctl from their Go modules, olot from its package
"""
