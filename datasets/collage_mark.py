"""What tells a collage from anybody's photos, which look the same on disk: the entry `made_by` of its `transforms.json`."""

from __future__ import annotations

MADE_BY = "splatmend collage"
