import pytest

from vissl_swav.host.config_values import check_kinds, misfits
from vissl_swav.host.errors import StartError

DEFAULTS = {"config": {"A": 1, "B": {"C": 0.5, "D": None}, "E": [], "F": "1e-08"}}


def tree(**changes):
    return {"config": {**DEFAULTS["config"], **changes}}


@pytest.mark.parametrize(
    "changes",
    [{}, {"A": -3}, {"B": {"C": 2, "D": [1]}}, {"E": [[1]]}, {"F": 1e-8}, {"new": 1}],
)
def test_values_of_the_defaults_kinds(changes):
    assert list(misfits(tree(**changes), DEFAULTS)) == []
    check_kinds(tree(**changes), DEFAULTS, [])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"A": "x"}, "config.A is 'x'; wanted a whole number"),
        ({"A": True}, "config.A is True; wanted a whole number"),
        ({"B": {"C": None, "D": 1}}, "config.B.C is None; wanted a number"),
        ({"B": {"C": 0.5}}, "config.B.D is missing"),
        ({"B": 3}, "config.B is 3; wanted a mapping"),
        ({"E": {}}, "config.E is {}; wanted a list"),
    ],
)
def test_other_kinds(changes, said):
    with pytest.raises(StartError, match=said.replace("(", r"\(")):
        check_kinds(tree(**changes), DEFAULTS, [])


def test_a_kind_that_a_file_of_the_host_uses():
    with pytest.raises(StartError):
        check_kinds(tree(A=0.1), DEFAULTS, [{"config": {"A": "text"}}, None])
    check_kinds(tree(A=0.1), DEFAULTS, [{"other": 1}, {"config": {"A": 2.5}}])
