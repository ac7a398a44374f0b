"""What decides a collage: one seed, a few numbers, and the pictures it is cut from."""

from __future__ import annotations

from dataclasses import dataclass

from splatmend.datasets.errors import UserError


@dataclass(frozen=True, kw_only=True)
class CollageConfig:
    """A collage and the camera's way through it. Equal configurations and pictures give equal collages."""

    seed: int = 0
    """Decides everything that is not given: layout, cut-outs, colours, the camera's way."""
    frames: int = 33
    """Pictures of the camera."""
    width: int = 256
    """Picture width in pixels."""
    height: int = 256
    """Picture height in pixels."""
    field_of_view_deg: float = 62.0
    """Horizontal field of view."""
    cards: int = 44
    """Cut-outs beside ground and backdrop."""
    moving: int = 2
    """How many of them move, so that a static fit smears them."""
    supersample: int = 2
    """Rays a pixel along each axis."""
    points: int = 4000
    """Sparse points, as structure from motion would find them on what stands still."""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise UserError(f"collage: seed {self.seed} is negative; give 0 or more.")
        if self.frames < 2:
            raise UserError(f"collage: {self.frames} frames are no clip; give 2 or more.")
        if self.width < 16 or self.height < 16:
            raise UserError(f"collage: pictures of {self.width}x{self.height} pixels are too small; give 16 or more each way.")
        if not 10 <= self.field_of_view_deg <= 120:
            raise UserError(f"collage: a field of view of {self.field_of_view_deg} degrees is not between 10 and 120; change it.")
        if not 0 <= self.moving <= self.cards:
            raise UserError(f"collage: {self.moving} of {self.cards} cut-outs cannot move; give 0 up to their number.")
        if not 1 <= self.supersample <= 4:
            raise UserError(f"collage: supersample {self.supersample} is not between 1 and 4; change it.")
        if self.points < 1:
            raise UserError(f"collage: {self.points} sparse points start no fit; give 1 or more.")
