"""The plain settings of the commands: what each is called, its unit, and the range it must lie in.

No field has a default here: every constant stands in conf/, once. The parts of a method (relaxation, hypergradient,
discretisation) declare their own settings beside what they do. Nothing here imports PyTorch, so that a wrong setting
is answered at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from darts.errors import require


@dataclass(frozen=True)
class Augmentation:
    """Which random changes a training image undergoes (Liu et al. 2019: crop of 4 and flip; retraining: cutout 16)."""

    crop_padding: int  # pixels of zero padding on each side before a crop of the original size; 0: no crop
    flip: bool  # mirror left and right every other time
    cutout: int  # side in pixels of a square set to the mean (DeVries and Taylor 2017); 0: none


@dataclass
class Dataset:
    """What every data set has; the classes below say where its images come from."""

    name: str
    root: str  # the folder its files lie in
    fraction: float  # share of the training images that is used, the same of every class
    image_size: int  # pixels; square
    mean: list[float] | None  # by channel, of the range 0 to 1; null: measured on the training images
    std: list[float] | None
    crop_padding: int
    flip: bool

    def __post_init__(self) -> None:
        require(0 < self.fraction <= 1, "dataset.fraction", self.fraction, "above 0 and at most 1")
        require(1 <= self.image_size <= 4096, "dataset.image_size", self.image_size, "from 1 to 4096")
        require(self.crop_padding >= 0, "dataset.crop_padding", self.crop_padding, "at least 0")
        require((self.mean is None) == (self.std is None), "dataset.std", self.std, "given together with dataset.mean")
        for setting, values in (("dataset.mean", self.mean), ("dataset.std", self.std)):
            finite = values is None or all(math.isfinite(value) for value in values)
            require(finite, setting, values, "finite")
        require(self.std is None or min(self.std) > 0, "dataset.std", self.std, "above 0")


@dataclass
class BundledDataset(Dataset):
    """The set that ships with this package; smaller images than `image_size` are padded with zeros."""


class TorchvisionName(Enum):
    """The sets read through torchvision."""

    FASHION_MNIST = "fashion_mnist"
    CIFAR10 = "cifar10"
    CIFAR100 = "cifar100"
    SVHN = "svhn"


@dataclass
class TorchvisionDataset(Dataset):
    """A set that torchvision knows; smaller images than `image_size` are padded with zeros."""

    source: TorchvisionName
    download: bool  # fetch it into `root` if it is not there


@dataclass
class ImageFolderDataset(Dataset):
    """One's own pictures: root/train/CLASS/*.png and root/test/CLASS/*.png, or root/CLASS/*.png alone."""

    channels: int | None  # 1 grey, 3 colour; null: as the first training image
    test_fraction: float  # where root has no test folder: share of each class set aside for the test, the same always
    device_megabytes: int  # a set whose pixels take more than this is streamed from disk instead
    workers: int  # processes that read a streamed set
    cache: str  # folder for measured channel statistics

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.channels in (None, 1, 3), "dataset.channels", self.channels, "1, 3 or null")
        require(0 < self.test_fraction < 1, "dataset.test_fraction", self.test_fraction, "above 0 and below 1")
        require(self.device_megabytes >= 0, "dataset.device_megabytes", self.device_megabytes, "at least 0")
        require(0 <= self.workers <= 256, "dataset.workers", self.workers, "from 0 to 256")


@dataclass
class ParallelSettings:
    """How several processes are one run, where torchrun starts them."""

    synchronised_batch_norm: bool  # true: batch norms see the whole batch, as with one process; false: each its share
    timeout_minutes: float  # how long a process waits for one that does not answer

    def __post_init__(self) -> None:
        minutes = self.timeout_minutes
        require(0 < minutes <= 1e5, "parallel.timeout_minutes", minutes, "above 0 and at most 100000")


@dataclass
class NetworkSettings:
    """Size of a supernet or network (Liu et al. 2019: search 16 channels, 8 cells; retraining 36 and 20)."""

    channels: int  # of the first cells; reduction cells double it
    cells: int
    stem_reductions: int  # how often the stem halves the resolution; 0 is the published CIFAR stem

    def __post_init__(self) -> None:
        require(self.channels >= 2, "network.channels", self.channels, "at least 2")
        require(3 <= self.cells <= 1000, "network.cells", self.cells, "from 3 (both cell types occur) to 1000")
        require(0 <= self.stem_reductions <= 6, "network.stem_reductions", self.stem_reductions, "from 0 to 6")


class CosineUnit(Enum):
    """When a cosine schedule moves."""

    EPOCH = "epoch"
    STEP = "step"


@dataclass
class WeightOptimiser:
    """Stochastic gradient descent with a cosine schedule, for the weights of a supernet or network."""

    learning_rate: float
    final_learning_rate: float
    cosine_unit: CosineUnit  # the published settings change the learning rate once an epoch
    momentum: float
    nesterov: bool
    weight_decay: float
    clip: float  # largest norm of the whole gradient

    def __post_init__(self) -> None:
        place = "weight_optimiser"
        require(0 < self.learning_rate < math.inf, f"{place}.learning_rate", self.learning_rate, "above 0, finite")
        within = 0 <= self.final_learning_rate <= self.learning_rate
        require(within, f"{place}.final_learning_rate", self.final_learning_rate, "from 0 to the learning rate")
        require(0 <= self.momentum < 1, f"{place}.momentum", self.momentum, "at least 0 and below 1")
        allowed = "false where momentum is 0"
        require(not self.nesterov or self.momentum > 0, f"{place}.nesterov", self.nesterov, allowed)
        require(0 <= self.weight_decay < math.inf, f"{place}.weight_decay", self.weight_decay, "at least 0, finite")
        require(self.clip > 0, f"{place}.clip", self.clip, "above 0 (inf: no clipping)")


@dataclass
class ArchitectureOptimiser:
    """Adam for the architecture parameters (Liu et al. 2019, section 3.1.1)."""

    learning_rate: float
    beta1: float
    beta2: float
    weight_decay: float

    def __post_init__(self) -> None:
        place = "architecture_optimiser"
        require(0 < self.learning_rate < math.inf, f"{place}.learning_rate", self.learning_rate, "above 0, finite")
        for name, value in (("beta1", self.beta1), ("beta2", self.beta2)):
            require(0 <= value < 1, f"{place}.{name}", value, "at least 0 and below 1")
        require(0 <= self.weight_decay < math.inf, f"{place}.weight_decay", self.weight_decay, "at least 0, finite")


@dataclass
class SearchLoop:
    """How long a search runs and on what."""

    epochs: int
    batch_size: int
    weight_share: float  # share of the training images that trains the weights; the rest trains the architecture
    initial_alpha: float  # standard deviation of the architecture parameters at the start

    def __post_init__(self) -> None:
        require(self.epochs >= 1, "search.epochs", self.epochs, "at least 1")
        require(self.batch_size >= 2, "search.batch_size", self.batch_size, "at least 2 (batch norm)")
        require(0 < self.weight_share < 1, "search.weight_share", self.weight_share, "above 0 and below 1")
        require(0 <= self.initial_alpha < math.inf, "search.initial_alpha", self.initial_alpha, "at least 0, finite")


@dataclass
class TrainLoop:
    """How a network is retrained."""

    epochs: int
    batch_size: int
    cutout: int  # side in pixels; 0: none
    drop_path: float  # probability in the last epoch; it grows linearly from 0
    auxiliary_weight: float  # of the auxiliary head's loss; 0: no head is trained

    def __post_init__(self) -> None:
        require(self.epochs >= 1, "train.epochs", self.epochs, "at least 1")
        require(self.batch_size >= 2, "train.batch_size", self.batch_size, "at least 2 (batch norm)")
        require(self.cutout >= 0, "train.cutout", self.cutout, "at least 0")
        require(0 <= self.drop_path < 1, "train.drop_path", self.drop_path, "at least 0 and below 1")
        finite = 0 <= self.auxiliary_weight < math.inf
        require(finite, "train.auxiliary_weight", self.auxiliary_weight, "at least 0, finite")


class Engine(Enum):
    """How a supernet is computed; the function and the weights are the same."""

    fused = "fused"
    plain = "plain"


class Precision(Enum):
    """Of convolutions and products; sums, batch norms and the architecture parameters are float32 in both."""

    fp32 = "fp32"
    bf16 = "bf16"


@dataclass
class MemorySettings:
    """Ways to need less memory."""

    checkpoint_cells: bool  # keep cells' outputs alone and compute what is within twice: half more time


@dataclass
class CheckpointSettings:
    """When a run is saved besides the end of every epoch."""

    minutes: float  # at most this long between two saves within an epoch

    def __post_init__(self) -> None:
        require(self.minutes > 0, "checkpoint.minutes", self.minutes, "above 0 (inf: at the ends of epochs alone)")


@dataclass
class DiagnosticsSettings:
    """Which costly diagnostics a search measures; the cheap ones are always there."""

    eigenvalue_every: int  # epochs between two dominant eigenvalues of the validation Hessian in alpha; 0: never
    gap_every: int  # epochs between two accuracies of the discretised supernet; 0: never

    def __post_init__(self) -> None:
        for name in ("eigenvalue_every", "gap_every"):
            require(getattr(self, name) >= 0, f"diagnostics.{name}", getattr(self, name), "at least 0 (0: never)")


@dataclass
class ConstraintSettings:
    """What the network that is made of the found cell may cost; null: no limit."""

    parameters: float | None
    macs: float | None  # multiply-adds of one image
    latency_ms: float | None  # of one image on the search's device
    weight: float  # of the penalty while the expected cost is above a limit
    network: NetworkSettings  # the size at which the found cell is to be used

    def __post_init__(self) -> None:
        for name in ("parameters", "macs", "latency_ms"):
            limit = getattr(self, name)
            require(limit is None or 0 < limit < math.inf, f"constraints.{name}", limit, "above 0, finite, or null")
        require(0 <= self.weight < math.inf, "constraints.weight", self.weight, "at least 0, finite")

    @property
    def any(self) -> bool:
        """Whether anything is limited."""
        return any(limit is not None for limit in (self.parameters, self.macs, self.latency_ms))


@dataclass
class BenchmarkTable:
    """A table that knows the true accuracy of every cell of the space, for the record alone."""

    table: str | None  # a CSV file, or an official file or folder of NAS-Bench-201 or NATS-Bench
    column: str  # the accuracy that counts


@dataclass
class Budget:
    """What a search may spend; null: no limit. It ends before what would go beyond."""

    evaluations: int | None  # of genotypes; differentiable methods make none
    epochs: float | None  # passes over all training images
    minutes: float | None

    def __post_init__(self) -> None:
        for name in ("evaluations", "epochs", "minutes"):
            limit = getattr(self, name)
            require(limit is None or 0 < limit < math.inf, f"budget.{name}", limit, "above 0, finite, or null")


@dataclass
class Rules:
    """Which cells may be drawn at all, besides what `constraints` allows them to cost."""

    most_skips: int | None  # skip connections in a cell
    required: list[str]  # operations that every cell must have
    forbidden: list[str]  # and that none may have
    least_depth: int | None  # operations on the longest way from an input to the output
    most_depth: int | None
    uniform: bool  # draw all valid cells alike, by drawing again; false: find one by going back, which is quicker

    def __post_init__(self) -> None:
        for name in ("most_skips", "least_depth", "most_depth"):
            limit = getattr(self, name)
            require(limit is None or limit >= 0, f"rules.{name}", limit, "at least 0, or null")
        both = sorted(set(self.required) & set(self.forbidden))
        require(not both, "rules.required", self.required, "without what rules.forbidden names")


@dataclass
class Evaluator:
    """How a black-box search scores a genotype; the classes below are its kinds (darts/blackbox/evaluators.py)."""

    network: NetworkSettings  # of the networks that are made of genotypes


@dataclass
class ShortTraining(Evaluator):
    """Train on the weights' half of the training images, count right answers on the other."""

    train: TrainLoop
    weight_optimiser: WeightOptimiser


@dataclass
class InheritedWeights(Evaluator):
    """Accuracy of the path through a trained supernet, on the architecture's half (Bender et al. 2018)."""

    supernet: str  # the folder of a finished search
    batch_statistics: bool  # batches normalise themselves; false: by the supernet's running statistics


@dataclass
class TableLookup(Evaluator):
    """A column of benchmark.table, in place of training."""

    column: str


class Proxy(Enum):
    """Scores of an untrained network (Abdelfattah et al. 2021; Mellor et al. 2021)."""

    SYNFLOW = "synflow"
    SNIP = "snip"
    GRAD_NORM = "grad_norm"
    NASWOT = "naswot"
    JACOB_COV = "jacob_cov"
    PARAMETERS = "parameters"
    MACS = "macs"


@dataclass
class ZeroCost(Evaluator):
    """A score of the untrained network on one batch."""

    proxy: Proxy
    batch_size: int

    def __post_init__(self) -> None:
        require(self.batch_size >= 2, "evaluator.batch_size", self.batch_size, "at least 2 (batch norm)")


@dataclass
class MultiObjective(Evaluator):
    """Another evaluator's score times (cost / target) ^ exponent for every cost that has a target (Tan et al. 2019,
    MnasNet, equation 2); the cells that no other beats in accuracy and all costs are kept as the Pareto front."""

    accuracy: Evaluator
    targets: dict[str, float | None]  # parameters, macs, latency_ms
    exponent: float

    def __post_init__(self) -> None:
        names = ["parameters", "macs", "latency_ms"]
        require(sorted(self.targets) == sorted(names), "evaluator.targets", sorted(self.targets), ", ".join(names))
        for name, target in self.targets.items():
            sound = target is None or 0 < target < math.inf
            require(sound, f"evaluator.targets.{name}", target, "above 0, finite, or null")
        require(-math.inf < self.exponent <= 0, "evaluator.exponent", self.exponent, "at most 0, finite")
        require(not isinstance(self.accuracy, MultiObjective), "evaluator.accuracy", "multi_objective", "a single one")


@dataclass
class SearchMethod:
    """A way to search: by gradients (darts/method.py) or by asking for scores (darts/blackbox/strategy.py)."""

    name: str
