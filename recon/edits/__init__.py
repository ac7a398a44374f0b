"""Edits of a scene as data: what a file says of actors to take out, move, swap, copy or put in, and a scene that was edited so."""
