"""Assets: bodies that can be put into a scene, with what light needs to know of their surfaces."""
