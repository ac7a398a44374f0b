"""What a person sees while a training runs."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from splatmend.datasets.progress import ConsoleBar
from splatmend.enhance.train.config import LoopConfig

_SECONDS_BETWEEN_LINES = 30.0


class TrainingBar(ConsoleBar):
    """Step, losses, milliseconds a step and time left on standard error: a bar on a terminal, elsewhere a line now and then.

    Where the time is limited, the steps in all are those that the time is expected to allow.
    """

    def __init__(self, config: LoopConfig, step: int, seconds: float) -> None:
        """`step`, `seconds`: where the training stands."""
        super().__init__("train", config.steps)
        self.config = config
        self._step, self._seconds, self._said = step, seconds, seconds

    def __call__(self, step: int, seconds: float, metrics: Mapping[str, float]) -> None:
        """`seconds` of training in all; `metrics`: name -> mean since the last call, `loss` among them."""
        per_step = (seconds - self._seconds) / max(step - self._step, 1)
        self._step, self._seconds = step, seconds
        steps = self.config.steps
        if self.config.max_seconds is not None:
            steps = min(steps, step + round(max(self.config.max_seconds - seconds, 0.0) / max(per_step, 1e-6)))
        pace = f"{per_step * 1000:.0f} ms a step"
        self.show(step, steps, f"loss {metrics['loss']:.4f}  {pace}")
        if not self.console.is_terminal and (seconds - self._said >= _SECONDS_BETWEEN_LINES or step >= steps):
            self._said = seconds
            means = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
            print(f"step {step} of {steps}: {means}, {pace}, {(steps - step) * per_step:.0f} s left", file=sys.stderr, flush=True)
