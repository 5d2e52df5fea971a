"""What stays out of the graphs that `torch.compile` makes.

Bookkeeping (a queue's pointer, a bank's rows, the iterations of k-means) looks at
numbers: inside a graph each value would be a constant, and every step would compile
anew until torch gives up. There is nothing to fuse either. Such a function is called
from compiled code as it is: one break of the graph, no compilation.
"""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def outside_graphs(
    function: Callable[_Arguments, _Result],
) -> Callable[_Arguments, _Result]:
    """Runs `function` eagerly, wherever it is called from.

    As `torch.compiler.disable`, which would import the compiler, seconds of work, at
    the import of this package.
    """

    @functools.wraps(function)
    def call(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        if torch.compiler.is_compiling():
            eager: Callable[_Arguments, _Result] = torch.compiler.disable(function)  # pyright: ignore
            return eager(*args, **kwargs)
        return function(*args, **kwargs)

    return call
