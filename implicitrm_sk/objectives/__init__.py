"""Training objectives: one class each, chosen by name or passed as an object."""

from ._base import Batch, Objective, TrainingLog, any_action
from ._counterfactual import CounterIF
from ._factorisation import NCRMF, RMF
from ._naive import Balanced, Naive, RootNaive, UpDown
from ._pairwise import BPR, CUBPR, UBPR, UPRL
from ._pu import NNPU, SAREM, UPU, ElkanNoto
from ._recrec import ReCRecF, ReCRecI
from ._stratified import Stratified
from ._weighting import DR, IPS, MTDR, MTIPS, SDR

#: Objectives by the names that `ImplicitRewardEstimator(objective=...)` accepts.
OBJECTIVES = {
    "stratified": Stratified,
    "naive": Naive,
    "balanced": Balanced,
    "root-naive": RootNaive,
    "up-down": UpDown,
    "ips": IPS,
    "dr": DR,
    "mtips": MTIPS,
    "mtdr": MTDR,
    "sdr": SDR,
    "rmf": RMF,
    "ncrmf": NCRMF,
    "upu": UPU,
    "nnpu": NNPU,
    "elkan-noto": ElkanNoto,
    "sar-em": SAREM,
    "recrec-i": ReCRecI,
    "recrec-f": ReCRecF,
    "bpr": BPR,
    "ubpr": UBPR,
    "cubpr": CUBPR,
    "uprl": UPRL,
    "counterif": CounterIF,
}

__all__ = [
    "OBJECTIVES",
    "Batch",
    "Objective",
    "TrainingLog",
    "any_action",
    *sorted(cls.__name__ for cls in OBJECTIVES.values()),
]
