"""Checks of the machine: devices, exchange between processes, disk, memory, files."""

from __future__ import annotations

from dataclasses import replace

from vissl_swav.health.doctor import (
    FAIL,
    GIB,
    LEAST_DISK,
    LEAST_FILES,
    LEAST_SHARED,
    OK,
    WARN,
    Check,
    Facts,
    Finding,
)
from vissl_swav.health.probes import Answer

_IN_TORCH = "reinstall torch; the command shows the whole error: python -c '{}'"


def imports(facts: Facts) -> list[Finding]:
    """torch, torchvision and the host import, each in a process of its own."""
    found: list[Finding] = []
    for name, cure in (
        ("torch", _IN_TORCH.format("import torch")),
        ("torchvision", "install torch and torchvision from the same index"),
        ("vissl", "pip install --no-deps vissl==0.1.6, and what vissl_swav requires"),
    ):
        answer = facts.probes.get(name)
        if answer is None:
            continue
        if answer.ok:
            found.append(Finding(OK, f"import {name}", answer.out or "works"))
        else:
            found.append(Finding(FAIL, f"import {name}", answer.error, cure))
            if name == "torchvision" and _works_with_shims(facts):
                found[-1] = replace(
                    found[-1],
                    level=WARN,
                    text=f"{answer.error} (VISSL imports all the same, by a shim)",
                )
    return found


def _works_with_shims(facts: Facts) -> bool:
    host = facts.probes.get("vissl")
    return host is not None and host.ok


def cuda(facts: Facts) -> list[Finding]:
    """GPUs and NCCL: usable, absent, or there but not usable."""
    driver, torch = facts.probes.get("driver"), facts.probes.get("cuda")
    devices = [line for line in driver.out.splitlines() if line] if driver else []
    if torch is None or not torch.ok:
        if not devices:
            return [Finding(OK, "CUDA", "no GPU; MACHINE.DEVICE=cpu and gloo work")]
        return [_unusable(devices, torch)]
    found = [Finding(OK, "CUDA", torch.out)]
    nccl = facts.probes.get("nccl")
    if nccl is not None and not nccl.ok:
        found.append(
            Finding(
                FAIL,
                "NCCL",
                f"a sum on one GPU fails: {nccl.error}",
                "set config.DISTRIBUTED.BACKEND=gloo, or install a torch built for "
                "this driver; NCCL_DEBUG=INFO tells more",
            )
        )
    elif nccl is not None:
        found.append(Finding(OK, "NCCL", "a sum on one GPU works"))
    return found


def _unusable(devices: list[str], torch: Answer | None) -> Finding:
    reason = "not asked" if torch is None else torch.error
    return Finding(
        FAIL,
        "CUDA",
        f"the driver shows {len(devices)} GPU(s) ({devices[0]}), but torch cannot use "
        f"them: {reason}",
        "install a torch built for CUDA, of a version that the driver supports "
        "(nvidia-smi shows it); look at CUDA_VISIBLE_DEVICES",
    )


def gloo(facts: Facts) -> list[Finding]:
    """Two processes of this machine sum a number."""
    answers = [facts.probes.get(f"gloo{rank}") for rank in range(2)]
    if any(answer is None for answer in answers):
        return []
    bad = [answer for answer in answers if answer is not None and not answer.ok]
    what = "sum over 2 processes"
    if not bad:
        return [Finding(OK, what, "works (gloo)")]
    return [
        Finding(
            FAIL,
            what,
            bad[0].error,
            "set GLOO_SOCKET_IFNAME=lo on one machine, else the interface that joins "
            "the machines; check that the host's name resolves (getent hosts "
            "$(hostname)) and that no firewall stands between",
        )
    ]


def disk(facts: Facts) -> list[Finding]:
    """Room for checkpoints: each one is written beside the last good one."""
    free, what = facts.free_bytes, f"disk at {facts.folder}"
    if isinstance(free, str):
        return [Finding(FAIL, what, free, "name a folder to write to: --folder PATH")]
    if free is None:
        return [Finding(WARN, what, "free space is not known", "look at it by df -h")]
    if free >= LEAST_DISK:
        return [Finding(OK, what, f"{free / GIB:.1f} GiB free")]
    return [
        Finding(
            WARN,
            what,
            f"{free / GIB:.2f} GiB free; a checkpoint of a ResNet-50 is 0.2 GiB, and "
            "a run keeps several",
            "make room, name another config.CHECKPOINT.DIR, or write fewer: "
            "config.CHECKPOINT.CHECKPOINT_FREQUENCY",
        )
    ]


def shared_memory(facts: Facts) -> list[Finding]:
    """Data-loader workers hand their batches over in /dev/shm."""
    free, what = facts.shared_bytes, "shared memory"
    if free is None:
        return [Finding(OK, what, "no /dev/shm to look at")]
    if free >= LEAST_SHARED:
        return [Finding(OK, what, f"{free / GIB:.1f} GiB free in /dev/shm")]
    return [
        Finding(
            WARN,
            what,
            f"{free / 2**20:.0f} MiB free in /dev/shm: workers may die with a bus "
            "error",
            "start the container with --shm-size=8g (or --ipc=host), or set "
            "config.DATA.NUM_DATALOADER_WORKERS=0",
        )
    ]


def open_files(facts: Facts) -> list[Finding]:
    """Workers and shards need file handles."""
    limit, what = facts.open_files, "open files"
    if limit is None or limit >= LEAST_FILES:
        words = "no limit known" if limit is None else f"at most {limit}"
        return [Finding(OK, what, words)]
    return [
        Finding(
            WARN,
            what,
            f"at most {limit}: many workers end in 'Too many open files'",
            "ulimit -n 4096",
        )
    ]


CHECKS: list[Check] = [imports, cuda, gloo, disk, shared_memory, open_files]
