"""Light of a scene: where it comes from, what it does to assets, and the shadows that they cast and take."""
