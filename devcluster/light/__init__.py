"""A light model server for tests: it really loads a model (mlx-lm on the CPU) and speaks as much of vLLM's API as
Airfreight uses. 220 MB and four seconds to start, where vLLM takes 2.9 GB and forty.

`server.py` is the server, `image.py` its image and its ServingRuntime, which has the probes of the CPU runtime that is
shipped. It is no part of the product, and no model of a user is ever served by it.
"""
