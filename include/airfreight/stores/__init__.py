"""Sources and stores: each file knows one protocol, and the engine none."""
