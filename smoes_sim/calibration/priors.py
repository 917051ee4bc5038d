"""What is assumed of a constant before any data: a log-normal around a stated value, wide on purpose."""

from __future__ import annotations

import math
from dataclasses import dataclass

_FACTOR_10 = math.log(10.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """A positive constant.

    Attributes:
        value: Median before any data.
        spread: Standard deviation of its logarithm.
        most: Largest possible value; infinite for times and sizes.
        meaning: Meaning of the constant, with its unit.
    """

    value: float
    spread: float
    meaning: str
    most: float = math.inf

    @property
    def is_share(self) -> bool:
        """Whether the constant is a share, so that times fall as it grows."""
        return self.most == 1.0


_PRIORS = {
    # Shares of nominal that published all-to-alls reach: 0.75 NVLink, 0.60-0.67 xGMI, 0.93-0.97 InfiniBand
    # (measurements README); 0.94 TCP payload in Ethernet frames of 1,500 bytes.
    "efficiency": Prior(value=0.8, spread=0.4, most=1.0, meaning="share of the nominal link rate that is reached"),
    # From some us (RDMA, shared memory) to a ms (TCP in an emulated network); a factor of 10 either way, and the same for
    # both, so that nothing but data says which of the two a start-up is made of.
    "per_exchange": Prior(value=20e-6, spread=_FACTOR_10, meaning="software seconds per exchange"),
    "per_message": Prior(value=20e-6, spread=_FACTOR_10, meaning="software seconds per message"),
    "per_receive": Prior(value=20e-6, spread=_FACTOR_10, meaning="software seconds per message made ready to receive"),
    # Single-node NCCL all-to-alls of published.csv were best fitted by 0.1 to 6 MB and exponents of 0.4 to 0.9.
    "half_size": Prior(value=1e6, spread=_FACTOR_10, meaning="bytes of a message that reaches half of that share"),
    "curve": Prior(value=0.5, spread=0.3, most=2.0, meaning="exponent of the loss of small messages"),
    # 8 ms after a second in an emulated network (docs/accuracy/lab-accuracy.md); hardware has less: smaller packets.
    "jitter": Prior(value=1e-3, spread=_FACTOR_10, meaning="scatter of a link's finish, s per root of seconds"),
    # Assumptions: from an untuned loop over experts to a tuned grouped kernel; microseconds to a ms of launches.
    "flops_efficiency": Prior(value=0.3, spread=1.0, most=1.0, meaning="share of peak that the experts reach"),
    "memory_efficiency": Prior(value=0.6, spread=0.5, most=1.0, meaning="share of memory bandwidth that is reached"),
    "launch": Prior(value=10e-6, spread=_FACTOR_10, meaning="fixed seconds per piece of computation"),
}


def prior_of(name: str) -> Prior:
    """The prior of a constant; of ``efficiency.nvlink`` that of ``efficiency``."""
    return _PRIORS[name.partition(".")[0]]
