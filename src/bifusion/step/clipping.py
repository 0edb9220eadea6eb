"""How large a gradient may be: a fixed norm, or one that follows the run's own gradients.

AutoClip (Seetharaman et al., "AutoClip: Adaptive Gradient Clipping for Source Separation Networks",
MLSP 2020) clips at a percentile of the norms so far, ZClip (Kumar et al., "ZClip: Adaptive Spike
Mitigation for LLM Pre-Training", 2025) at a number of standard deviations above a moving average. A
moving average is moved by the spikes it is to find, and one NaN makes it NaN for ever. Here the limit
is a number of robust deviations above the median of the last finite norms: half of them may be wrong,
and what is not finite is never taken in.
"""

from __future__ import annotations

import math

from bifusion.config.optim import OptimConfig
from bifusion.step.robust import Windows, centre_and_spread

NORMS = "norms"


class Clipping:
    """The largest total gradient norm of each step; larger gradients are scaled down to it.

    `limit` before a step, `took` after one that reached the weights.
    """

    def __init__(self, config: OptimConfig):
        self.config = config
        self._norms = Windows(config.clip_window)

    def limit(self) -> float:
        """Norm that the next step's gradient may have; infinity where nothing is clipped.

        "adaptive": median + `clip_deviations` · (scaled) MAD of the last `clip_window` norms before
        clipping, `clip_norm` while there are fewer than `clip_history`. It follows the norms up as well
        as down, so a stage that brings larger gradients is not held back for longer than half a window.
        """
        if self.config.clip_mode == "off":
            return math.inf
        norms = self._norms.last(NORMS, self.config.clip_window)
        if self.config.clip_mode == "fixed" or len(norms) < self.config.clip_history:
            return self.config.clip_norm
        centre, spread = centre_and_spread(norms)
        return centre + self.config.clip_deviations * spread

    def took(self, norm: float) -> None:
        """Takes in the norm, before clipping, of a step that was taken; one that is not finite is left
        out, and so is 0, the norm of a step in which nothing had a gradient."""
        if self.config.clip_mode == "adaptive" and norm > 0:
            self._norms.push(NORMS, norm)

    def state_dict(self) -> dict[str, list[float]]:
        """The norms remembered, for a checkpoint; exact."""
        return self._norms.state_dict()

    def load_state_dict(self, state: dict[str, list[float]]) -> None:
        """Takes what `state_dict` gave."""
        self._norms.load_state_dict(state)
