"""Workers that train together: that they meet, and that none is lost unnoticed."""

import functools
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import psutil
import torch
from torch import nn
from torch.distributed import DistNetworkError, DistStoreError
from torch.nn.parallel import DistributedDataParallel

from ..errors import UserError
from .quiet import only_the_first


def check_workers(world_size: int, environment: Mapping[str, str] = os.environ) -> None:
    """Refuse to train N copies that never talk to each other.

    Raises:
        UserError: a launcher started more workers than fairseq knows of.

    """
    for name in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        started = environment.get(name, "1")
        if started.isdigit() and int(started) > 1 and world_size == 1:
            raise UserError(
                f"{started} workers were started ({name}), but each of them would "
                "train alone, as torchrun's do on a machine without GPUs; start them "
                "with scripts/launch/local.sh"
            )


def with_the_plugin(call: Callable[..., Any]) -> Callable[..., Any]:
    """Have the workers that fairseq spawns import the plugin before anything else."""

    @functools.wraps(call)
    def call_main(cfg: Any, main: Callable[..., Any], **kwargs: Any) -> Any:
        from . import durable, spawned

        parallel = cfg.distributed_training
        _check_spawning(parallel)
        # fairseq decides between now and then.
        with durable.stopped_as_one(lambda: _spawns(parallel)):
            return call(cfg, functools.partial(spawned.run, main), **kwargs)

    return call_main


def _spawns(parallel: Any) -> bool:
    """Whether fairseq starts a worker for each GPU, going by its section."""
    return bool(parallel.distributed_init_method and not parallel.distributed_no_spawn)


def _check_spawning(parallel: Any) -> None:
    """Refuse what fairseq would end without a word, having started no worker."""
    if _spawns(parallel) and not torch.cuda.device_count():
        raise UserError(
            "--distributed-init-method has fairseq start one worker a GPU, and there "
            "is none here: add --distributed-no-spawn to each worker's command, or "
            "start CPU workers with scripts/launch/local.sh"
        )


def interface_to(host: str, port: int) -> str | None:
    """Name of this machine's network interface that reaches a host, if one does."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, port))  # sends nothing
        except OSError:
            return None
        own = probe.getsockname()[0]
    for name, addresses in psutil.net_if_addrs().items():
        if own in (address.address for address in addresses):
            return str(name)
    return None


def meeting(distributed_init: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Have gloo tell the other machines an address at which they reach this one.

    Left to itself it tells what the host's name stands for here, often 127.0.0.1.
    """

    @functools.wraps(distributed_init)
    def wrapped(cfg: Any) -> Any:
        only_the_first(cfg.distributed_training.distributed_rank)
        with naming_the_place(cfg.distributed_training):
            place = urlsplit(cfg.distributed_training.distributed_init_method or "")
            if place.scheme == "tcp" and place.hostname and place.port:
                name = interface_to(place.hostname, place.port)
                if name:
                    os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
            return distributed_init(cfg)

    return wrapped


@contextmanager
def naming_the_place(parallel: Any) -> Iterator[None]:
    """Say in one line that workers do not meet.

    Raises:
        UserError: names the worker, the place and the reason.

    """
    try:
        yield
    except (ValueError, DistNetworkError, DistStoreError) as error:
        raise UserError(
            f"worker {parallel.distributed_rank} cannot meet the others at "
            f"{parallel.distributed_init_method} ({str(error).splitlines()[0]}): see "
            "that the address is worker 0's, its port is free, and worker 0 still runs"
        ) from None


def broadcast(obj: Any, src_rank: int, group: Any, dist_device: torch.device) -> Any:
    """In place of fairseq's, whose ``torch.load`` refuses the configuration it sent."""
    found = [obj]
    torch.distributed.broadcast_object_list(found, src_rank, group, dist_device)
    return found[0]


#: What torch's backends say when a peer is gone or does not answer.
_LOST_SIGNS = ("closed by peer", "reset by peer", "Timed out", "timeout", "Broken pipe")
#: Seconds for the others to say that they are there.
_ROLL_CALL = 5.0


@contextmanager
def naming_the_lost() -> Iterator[None]:
    """Turn a lost connection into one line that names the workers that are gone.

    Raises:
        UserError: names them.

    """
    try:
        yield
    except RuntimeError as error:
        known = any(sign.lower() in str(error).lower() for sign in _LOST_SIGNS)
        if not (known and torch.distributed.is_initialized()):
            raise
        gone = ", ".join(str(rank) for rank in _absent()) or "unknown"
        own = torch.distributed.get_rank()
        raise UserError(
            f"worker {own} stops: worker {gone} died, or did not answer for "
            "--steady-peer-timeout seconds; see its log. Started again, the run goes "
            "on from the last checkpoint"
        ) from None


def _absent() -> list[int]:
    """Ranks that do not answer a roll call.

    Worker 0 keeps the list of answers: where nobody can read it, worker 0 is gone.
    """
    world = torch.distributed.get_world_size()
    try:
        store = torch.distributed.distributed_c10d._get_default_store()
        store.set(f"steady/{torch.distributed.get_rank()}", "1")
        time.sleep(_ROLL_CALL)
        return [r for r in range(world) if not store.check([f"steady/{r}"])]
    except RuntimeError:
        return [0]
    except AttributeError:  # a private name: the table says if it is gone
        return []


def set_timeout(seconds: float) -> None:
    """How long a worker waits for the others in one exchange."""
    c10d = torch.distributed.distributed_c10d
    with suppress(AttributeError):  # private names: the table says if they are gone
        for group in list(c10d._world.pg_map):
            c10d._set_pg_timeout(timedelta(seconds=seconds), group)


def in_parallel(
    module: nn.Module, device_ids: Any, output_device: Any, **options: Any
) -> DistributedDataParallel:
    """Torch's wrapper; fairseq names GPU 0 also for a model on the CPU."""
    if next(module.parameters()).device.type == "cpu":
        device_ids = output_device = None
    return DistributedDataParallel(module, device_ids, output_device, **options)
