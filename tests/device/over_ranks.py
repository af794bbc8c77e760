"""One of two ranks that find tickets on the device together: its number, and where the outcomes go."""

import sys
from pathlib import Path

import checks
import torch
import torch.distributed as dist

folder, rank = Path(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)


def find(way):
    (found,) = checks.outcomes("rtl", checks.DEVICE, parallel=way, normalization="frozen")
    state = found.tickets.state_dict()
    assert all(t.device.type == checks.DEVICE.type for t in state.values())
    torch.save({name: t.cpu() for name, t in state.items()}, folder / f"{way}{rank}.pt")


dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
for way in ("ranks", "joint_ranks", "batched_ranks"):
    find(way)
dist.barrier()
dist.destroy_process_group()
