"""The one place that knows how the crops of a batch lie in a matrix.

Crop-major: all `B` samples of crop 0, then all of crop 1, ...; row `v * B + b` is crop
`v` of sample `b`. `V` crops, of which those in `crops_for_assign` (the global crops)
give codes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from vissl_swav.core.setting_checks import SettingError, check_whole

CROPS_FOR_ASSIGN = (0, 1)
"""The paper's two global crops, and the default wherever this is an argument."""


@dataclass(frozen=True)
class CropLayout:
    """Number of crops of an image, and which of them give codes.

    Attributes:
        num_crops: V, all crops of an image.
        crops_for_assign: the crops whose codes are computed; distinct, in [0, V).

    Raises:
        SettingError: V < 1, or an assignment crop missing, repeated or out of range.
    """

    num_crops: int
    crops_for_assign: tuple[int, ...] = CROPS_FOR_ASSIGN

    def __init__(
        self, num_crops: int, crops_for_assign: Sequence[int] = CROPS_FOR_ASSIGN
    ):
        object.__setattr__(self, "num_crops", num_crops)
        object.__setattr__(self, "crops_for_assign", tuple(crops_for_assign))
        check_whole("num_crops", num_crops, least=1)
        wrong = [c for c in self.crops_for_assign if not 0 <= c < num_crops]
        if wrong or not self.crops_for_assign:
            raise SettingError(
                f"crops_for_assign is {list(self.crops_for_assign)}; wanted at least "
                f"one crop, each in 0..{num_crops - 1} (num_crops is {num_crops}).",
                "crops_for_assign",
            )
        if len(set(self.crops_for_assign)) != len(self.crops_for_assign):
            raise SettingError(
                f"crops_for_assign is {list(self.crops_for_assign)}; each crop may "
                "stand there once.",
                "crops_for_assign",
            )

    def num_samples(self, rows: Tensor) -> int:
        """B of a crop-major matrix with V * B rows.

        Raises:
            ValueError: the number of rows is no multiple of V.
        """
        if rows.shape[0] % self.num_crops:
            raise ValueError(
                f"got {rows.shape[0]} rows for {self.num_crops} crops; wanted a "
                "multiple: all samples of crop 0, then all of crop 1, ... Check "
                "num_crops against the multi-crop transform."
            )
        return rows.shape[0] // self.num_crops

    def split(self, rows: Tensor) -> Tensor:
        """(V * B, ...) -> a view (V, B, ...)."""
        num_samples = self.num_samples(rows)
        return rows.reshape(self.num_crops, num_samples, *rows.shape[1:])

    def assignment_rows(self, rows: Tensor) -> Tensor:
        """The rows of the assignment crops: (V * B, ...) -> (A, B, ...), a copy."""
        return self.split(rows)[list(self.crops_for_assign)]
