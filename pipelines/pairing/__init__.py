"""How pairs are made: a module per strategy, and what they share (a workshop of fits, an index, statistics)."""
