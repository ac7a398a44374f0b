"""Pictures of edited scenes: what bodies that were put in show, which pixels are theirs, and their boxes."""
