"""What a gate answers, the study's (`fusion.py`) or one from outside the package.

Letters in shapes: K voxels that a view sees, D channels of both paths.
"""

from __future__ import annotations

from torch import Tensor, nn

from bifusion.models.outside import outside_part

FUNCTION = "model.fusion.gate_function"


class Gate(nn.Module):
    """α of each voxel, base of all gates: what is fused is α f2d + (1 - α) f3d, α scaled by the stage.

    Its parameters train as the group "gate"; it may have none.
    """

    def forward(self, f2d: Tensor, f3d: Tensor, code: Tensor) -> Tensor:
        """α (K,) in [0, 1] of both paths' features (K, D), after FiLM, and the geometric code (K, 64) of
        `models/geometric_code.py`, which it leaves as they are; floating point. K may be 0, as where no
        view sees anything, or 1. In evaluation the same at every call."""
        raise NotImplementedError


def outside_gate(name: str, dim: int) -> Gate:
    """The gate that the function `name`, "module:function" of a package that you have named as trusted
    (`plugins.py`), makes for features of `dim` channels. Raises InputError where it makes none."""
    return outside_part(name, FUNCTION, Gate, dim)
