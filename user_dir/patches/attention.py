"""Which of torch's attention kernels are taken."""

import torch


def without_plans() -> None:
    """Leave cuDNN's out, which torch prefers in half precision from Hopper on.

    It plans anew for each shape of a batch, for longer than the batch takes; where
    lengths differ nearly every batch of the first epoch has a new shape.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)
