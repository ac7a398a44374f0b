"""Scenes of 3D Gaussians: what they are, how they are fitted to a log, rendered and stored.

`splatmend.recon.fit.fit` makes a scene, `splatmend.recon.render.render` draws a shot of it and `splatmend.recon.render_clip.render_clip` a
whole trajectory (functions with the names of their modules are imported from these).
"""

from splatmend.recon.exposure import ExposureTable
from splatmend.recon.gaussians import Gaussians
from splatmend.recon.nodes import DeformableActor, Node, RigidActor, StaticNode
from splatmend.recon.ply import export_ply, import_ply
from splatmend.recon.scene import RecordedShot, Scene
from splatmend.recon.scene_files import load_scene, save_scene
from splatmend.recon.sky import SkyMap
from splatmend.recon.trajectory import Trajectory, TrajectoryConfig, build_trajectory

__all__ = [
    "DeformableActor",
    "ExposureTable",
    "Gaussians",
    "Node",
    "RecordedShot",
    "RigidActor",
    "Scene",
    "SkyMap",
    "StaticNode",
    "Trajectory",
    "TrajectoryConfig",
    "build_trajectory",
    "export_ply",
    "import_ply",
    "load_scene",
    "save_scene",
]
