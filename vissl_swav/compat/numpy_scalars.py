"""numpy >= 2.4 no longer takes an array of one element for a number.

Symptom: ``TypeError: only 0-dimensional arrays can be converted to Python scalars``, or
    ``ValueError: setting an array element with a sequence``, when the SVM tools test.
    `tools.train_svm` then reports an average precision of -1 and succeeds.
Host lines: `vissl/utils/svm_utils/svm_trainer.py:256` and
    `vissl/utils/svm_utils/svm_low_shot_trainer.py:174,178`.
Remedy: the host's `calculate_ap` gives a float, and the low-shot trainer's `np.mean` a
    number where its result has one element.
Delete it when: the host stores floats there.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from vissl_swav.compat.import_hook import after_import
from vissl_swav.compat.module_proxy import overlay
from vissl_swav.compat.wrapping import wrap

NAME = "numpy_scalars"


def needed() -> bool:
    """Always: older versions of numpy warn, and are given the same numbers."""
    return True


def apply() -> None:
    """Arm both patches."""
    after_import("vissl.utils.svm_utils.evaluate", give_a_float)
    after_import("vissl.utils.svm_utils.svm_low_shot_trainer", average_to_a_number)


def give_a_float(module: ModuleType) -> None:
    """Make `calculate_ap` return a float."""

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        def calculate_ap(rec: Any, prec: Any) -> float:
            import numpy

            return float(numpy.asarray(original(rec, prec)).item())

        return calculate_ap

    wrap(module, "calculate_ap", around, shim=NAME)


def average_to_a_number(module: ModuleType) -> None:
    """Let the module see an `np.mean` that unwraps a single element."""
    import numpy

    def mean(values: Any, axis: int | None = None) -> Any:
        result = numpy.mean(values, axis=axis)
        return result if numpy.size(result) > 1 else numpy.float64(result.item())

    overlay(module, "np", mean=mean)
