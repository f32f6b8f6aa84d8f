"""A fit as the job of several processes: how it is spread, where its run is, what all of them must have alike."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fourfold.core.errors import UserError
from fourfold.core.folders import all_runs, read_toml
from fourfold.core.options import construct
from fourfold.core.parts import Data, Split
from fourfold.core.ranks import Parallel, Ranks
from fourfold.core.run import Run


def spread_over(ranks: Ranks, given: Parallel | dict[str, Any] | None) -> Parallel:
    """How a fit is spread, checked.

    Raises:
        UserError: an unknown field, one that needs several processes, or one in which the ranks differ.
    """
    spread = given if isinstance(given, Parallel) else construct(Parallel, given or {})
    if ranks.several:
        ranks.timeout = spread.timeout
        ranks.agree("how the fit is spread", spread.model_dump())
    elif spread.shard or spread.tensor > 1:
        what = "shard" if spread.shard else f"tensor {spread.tensor}"
        raise UserError(
            f"--parallel.{what}: needs several processes and this is one; start them with "
            "torchrun --nproc-per-node N -m fourfold fit ..."
        )
    return spread


def job() -> str | None:
    """What torchrun calls this job, the same after it restarted the processes; None without torchrun."""
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    if name is None:
        return None
    return name if name not in ("", "none") else f"{socket.gethostname()}:{os.getppid()}"


def restarted(ranks: Ranks, out: Any) -> str | None:
    """The run that this job had begun before torchrun restarted it; None where it begins now."""
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) == 0:
        return None
    found = None
    if ranks.main:
        places = [Path(out)] if isinstance(out, (str, os.PathLike)) else all_runs()
        mine = [p for p in places if (p / "system.toml").exists() and _is_of(p, job())]
        found = str(mine[-1]) if mine else None
    told: str | None = ranks.tell(found)
    return told


def _is_of(folder: Path, name: str | None) -> bool:
    try:
        return bool(read_toml(folder / "system.toml").get("job") == name)
    except UserError:
        return False


def told_folder(ranks: Ranks, choose: Callable[[], Path | None]) -> Path | None:
    """The folder that rank 0 chooses."""
    folder = choose() if ranks.main else None
    told = ranks.tell(None if folder is None else str(folder))
    return folder if ranks.main or told is None else Path(told)


def begin_together(run: Run, ranks: Ranks, spread: Parallel) -> None:
    """Let the processes fit a run together, all by the same configuration.

    Raises:
        UserError: its search is for one process, or the ranks' configurations differ.
    """
    run.shared_by(ranks, spread)
    if (name := job()) is not None:
        run.about["job"] = name
    if not ranks.several:
        return
    optimizer = run.system.optimizer
    if not optimizer.shared:
        raise UserError(
            f"{run.system.name}: its search ({type(optimizer).__name__}) is made by one process, this is one of "
            f"{ranks.size}; run it without torchrun"
        )
    told = {"system": run.system.name, "seed": run.seed}
    ranks.agree("the configuration", {**told, **_flat(run.system.model_dump(mode="json"))})


def agree_on_data(ranks: Ranks, data: Data) -> None:
    """Refuse to go on where the ranks read other data.

    Raises:
        UserError: the ranks' data differ.
    """
    if not ranks.several:
        return  # what data are may have to be read first, as documents are
    splits: tuple[Split, ...] = ("train", "valid", "test")
    sizes = {f"examples of {split}": data.size(split) for split in splits}
    ranks.agree("the data", {**sizes, "fingerprint": data.fingerprint})


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            found.update(_flat(value, f"{prefix}{name}."))
        else:
            found[f"{prefix}{name}"] = value
    return found
