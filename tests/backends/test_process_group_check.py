"""The checked start: equal to torch's where all come, and names where one does not."""

import os
import socket
import subprocess
import sys

import pytest
import torch.distributed as dist

from vissl_swav.backends import network_interface, process_group_check
from vissl_swav.backends.network_interface import interface
from vissl_swav.backends.process_group_check import (
    ProcessGroupError,
    limit_seconds,
)

MODULE = "vissl_swav.backends.process_group_check"
PROGRAM = """
import sys, time
import torch
import torch.distributed as dist
from vissl_swav.backends import process_group_check as check
method, rank, world, seconds, then = sys.argv[1:]
rank, world = int(rank), int(world)
if then == "dies":
    store = check._meet(method, rank, world, float(seconds))
    check._wait_for_all(store, check._HERE, rank, world, float(seconds))
    time.sleep(1)
    sys.exit(0)
try:
    with check.checked_start(seconds=float(seconds)):
        dist.init_process_group(
            backend="gloo", init_method=method, world_size=world, rank=rank
        )
except check.ProcessGroupError as error:
    print(error)
    sys.exit(3)
ones = torch.full((1,), float(rank))
dist.all_reduce(ones)
print("later sum", float(ones), dist.get_backend())
dist.destroy_process_group()
"""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(method, rank, world, *, seconds=3, then="goes on", env=None):
    arguments = [method, str(rank), str(world), str(seconds), then]
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
    )


def end(process):
    out, err = process.communicate(timeout=100)
    return process.returncode, out, err


@pytest.fixture(params=["tcp", "file"])
def method(request, tmp_path):
    if request.param == "tcp":
        return f"tcp://127.0.0.1:{free_port()}"
    return f"file://{tmp_path / 'store'}"


def test_all_come(method):
    processes = [start(method, rank, 2, seconds=60) for rank in range(2)]
    for code, out, err in map(end, processes):
        assert code == 0, err
        assert "later sum 1.0 gloo" in out


def test_one_process_needs_no_other(method):
    code, out, err = end(start(method, 0, 1, seconds=60))
    assert code == 0, err
    assert "later sum 0.0" in out


def test_one_that_never_comes_is_named(method):
    chosen = {"GLOO_SOCKET_IFNAME": "lo"}
    code, out, err = end(start(method, 0, 3, env=chosen))
    assert code == 3, err
    assert f"rank 0 of 3 on host {socket.gethostname()}" in out
    assert "interface lo (GLOO_SOCKET_IFNAME)" in out
    assert "ranks 1, 2 of 3 did not come within 3 s" in out
    assert f"here are 0 on {socket.gethostname()}" in out
    assert process_group_check.LIMIT in out


def test_rank_0_that_never_comes(tmp_path):
    place = f"tcp://127.0.0.1:{free_port()}"
    code, out, err = end(start(place, 1, 2))
    assert code == 3, err
    assert f"the meeting place {place}, which rank 0 opens, does not answer" in out
    assert "rank 1 of 2" in out
    code, out, _ = end(start(f"file://{tmp_path / 'store'}", 1, 2))
    assert code == 3 and "rank 0 of 2 did not come" in out


def test_one_that_dies_between_coming_and_the_sum(method):
    dying = start(method, 1, 2, seconds=30, then="dies")
    code, out, err = end(start(method, 0, 2, seconds=8))
    end(dying)
    assert code == 3, err
    assert "all 2 processes came, but a sum over them did not end within 8 s" in out
    assert "no answer from rank 1" in out


def test_torchs_own_start_is_put_back():
    original = dist.init_process_group
    with pytest.raises(KeyError), process_group_check.checked_start(seconds=1):
        assert dist.init_process_group is not original
        raise KeyError
    assert dist.init_process_group is original


def test_the_program_for_doctor(tmp_path):
    store = tmp_path / "store"
    commands = [
        [sys.executable, "-m", MODULE, str(store), str(rank), "2", "gloo", "60"]
        for rank in range(2)
    ]
    processes = [
        subprocess.Popen(c, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for c in commands
    ]
    for code, out, err in map(end, processes):
        assert code == 0 and out == "summed\n", err
    alone = [*commands[0][:3], str(tmp_path / "other"), "0", "2", "gloo", "1"]
    done = subprocess.run(alone, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1 and "rank 1 of 2 did not come" in done.stderr


def test_the_interface(monkeypatch, tmp_path):
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.delenv(variable, raising=False)
    routes = tmp_path / "route"
    routes.write_text(
        "Iface\tDestination\tGateway\neth1\t0000A8C0\t0\nib0\t00000000\t0102A8C0\n"
    )
    monkeypatch.setattr(network_interface, "_ROUTES", routes)
    assert interface("nccl") == "ib0 (default route; NCCL_SOCKET_IFNAME is not set)"
    monkeypatch.setattr(network_interface, "_ROUTES", tmp_path / "none")
    assert interface("gloo").startswith("unknown (default route")
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "eth7")
    assert interface("nccl") == "eth7 (NCCL_SOCKET_IFNAME)"


def test_the_limit(monkeypatch):
    monkeypatch.delenv(process_group_check.LIMIT, raising=False)
    assert limit_seconds() == process_group_check.DEFAULT_SECONDS
    monkeypatch.setenv(process_group_check.LIMIT, "2.5")
    assert limit_seconds() == 2.5
    for wrong in ("soon", "0", "-3", "nan"):
        monkeypatch.setenv(process_group_check.LIMIT, wrong)
        with pytest.raises(ProcessGroupError, match="positive number of seconds"):
            limit_seconds()
