"""splatmend: driving logs to Gaussian splats to novel views, mended by a one-step video model.

Sub-packages, in the direction the data travels: `splatmend.datasets` (logs and clips), `splatmend.recon` (the scene of
Gaussians), `splatmend.enhance` (the truncated decoder and the one-step model), `splatmend.pipelines` (stages and commands).
"""

from importlib.metadata import version

__version__ = version("splatmend")
