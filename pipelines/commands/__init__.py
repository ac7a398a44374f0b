"""One module per verb: a dataclass `Options` that tyro turns into flags, and `run(options)` that returns the exit code."""
