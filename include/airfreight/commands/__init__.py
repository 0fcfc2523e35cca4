"""The commands of the `airfreight` command line, one file per subject; each has a `register(app)`."""
