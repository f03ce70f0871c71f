"""The job files: every knob, its default, its limits and what it means. Plain frozen data.

Values that follow from others are computed where they are used, never configured twice. A field whose name is
a word of Python's ends in an underscore here (`from_`) and not in the file (`from`).
"""

from dataclasses import dataclass, field

from monosem.config.fields import axis, choice, number, text

VARIANTS = ("relu", "topk", "batch_topk", "jumprelu", "gated", "matryoshka")
TOP_K = ("topk", "batch_topk", "matryoshka")
"""Variants that keep the k largest, and have AuxK."""
PRECISIONS = ("fp32", "bf16")
LARGEST_FACTOR = 1_048_576
"""The largest expansion factor that a job may ask for."""
CODECS = ("raw", "zstd", "bf16", "int8")


@dataclass(frozen=True, kw_only=True)
class HostOutline:
    """What `monosem plan` needs to know of a host that is not at hand; a sweep checks it against the real one."""

    width: int = number(0, "width of a row at every hook point; 0: the host itself is asked", ge=0, le=2**24)
    parameters: int = number(0, "parameters of the whole model", ge=0, le=10**14)
    depth: float = number(1.0, "share of the model that runs before the last hook point", gt=0.0, le=1.0)
    vocab_size: int = number(0, "tokens in the vocabulary", ge=0, le=2**31)
    context_length: int = number(0, "most tokens that it reads", ge=0, le=2**31)


@dataclass(frozen=True, kw_only=True)
class HostConfig:
    model: str = text(
        "one-layer-a",
        "the host model: a bundled name (one-layer-a, one-layer-b), a host directory's path or URI, a Hugging Face "
        "model's directory, or hf:org/name",
    )
    hook_point: list[str] = axis(["mlp.post"], "where activations are read; all from one forward pass")
    revision: str | None = text(None, "hf: the commit, tag or branch; the commit it means is kept")
    precision: str = choice("fp32", PRECISIONS, "Hugging Face hosts: of weights and forward pass")
    device_map: str = choice("single", ("single", "auto"), "auto: a Hugging Face host spread over a worker's devices")
    outline: HostOutline = field(default_factory=HostOutline)


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    source: str = text(
        "builtin",
        "builtin, a path/glob of .txt, .jsonl (.gz, .zst) or .parquet files, local or s3://, or hf:dataset[/config]",
    )
    split: str = text("train", "hf: which split")
    revision: str | None = text(None, "hf: the commit, tag or branch")
    bos: bool = field(default=False, metadata={"help": "every context starts with the host's begin-of-text token"})
    context_length: int = number(256, "tokens per context", ge=2, le=1_048_576)
    max_tokens: int = number(4_000_000, "stop reading once this many training tokens are packed", ge=1, le=10**13)
    heldout_fraction: float = number(0.05, "share of documents kept for evaluation", gt=0.0, le=0.5)
    text_column: str = text("text", "jsonl/parquet: the column that holds the text")
    domain_column: str = text("domain", "jsonl/parquet: the column with a label, used where it exists")
    seed: int = number(0, "builtin: which corpus is generated", ge=0, le=2**63 - 1)


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    rows_per_context: int = number(128, "token positions sampled from each context", ge=1, le=1_048_576)
    shuffle_rows: int = number(65536, "rows that the shuffle keeps at hand", ge=1, le=2**40)
    contexts_per_item: int = number(16, "contexts in one forward pass of a model worker", ge=1, le=65536)
    skip_positions: int = number(0, "leave out the first positions of every context", ge=0, le=1_048_575)
    skip_special: bool = field(
        default=False, metadata={"help": "leave out positions that hold an end-of-text or begin-of-text token"}
    )
    from_: str | None = text(None, "read the rows of this activation dataset instead of running the host")
    tee: str | None = text(None, "keep the rows that stream by as an activation dataset at this path or URI")
    ahead_rows: int = number(32768, "rows that the stream may run ahead of the slowest run", ge=1, le=2**40)
    detach_after_s: float = number(
        0.0, "seconds that a run may hold others up before it harvests for itself; 0: all wait", ge=0.0, le=1e6
    )
    workers: int = number(1, "model worker actors", ge=1, le=4096)
    shards: int = number(1, "buffer shard actors", ge=1, le=4096)
    threads: int = number(1, "CPU threads of one forward pass", ge=1, le=1024)


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """How `monosem harvest` and `stream.tee` write activation datasets."""

    codec: str = choice("raw", CODECS, "raw and zstd keep every bit; bf16 and int8 round, by a measured error")
    shard_rows: int = number(65536, "rows per file", ge=1, le=2**32)
    first_row: int = number(0, "harvest: where the range begins", ge=0, le=2**60)
    rows: int = number(0, "harvest: how many rows; 0: those that train.steps and train.batch_size use", ge=0, le=2**60)


@dataclass(frozen=True, kw_only=True)
class SaeJobConfig:
    """`monosem.sae.config.SaeConfig` says what each field does, and to which variants."""

    variant: list[str] = axis(["relu"], "architecture", options=VARIANTS)
    expansion_factor: list[int] = axis([8], "features per input dimension", ge=1, le=LARGEST_FACTOR)
    target: str | None = text(None, "the hook point to reconstruct, if it is not the one that is read: a transcoder")
    skip: bool = field(default=False, metadata={"help": "transcoder: a linear map from input to output beside it"})
    l1_coefficient: list[float] = axis(
        [0.004], "relu, gated, jumprelu with tanh: weight of the L1 penalty beside the error", ge=0.0, le=1e6
    )
    l0_coefficient: list[float] = axis([1e-5], "jumprelu: weight of L0 beside the error", ge=0.0, le=1e6)
    k: list[int] = axis([32], "topk, batch_topk, matryoshka: active features per row", ge=1, le=2**31)
    seed: list[int] = axis([0], "initialisation seed", ge=0, le=2**63 - 1)
    error: str = choice("mean", ("mean", "sum"), "squared error averaged over elements (2023), or summed (2024)")
    subtract_b_dec: bool = field(default=True, metadata={"help": "the encoder sees x - b_dec; false: x itself"})
    decoder: str = choice("unit", ("unit", "free"), "decoder rows keep unit norm, or do not")
    init: str = choice("kaiming", ("kaiming", "transposed"), "2023; or W_enc = W_dec^T")
    init_norm: float = number(1.0, "of decoder rows at the start, where the decoder is free", gt=0.0, le=1e6)
    l1_weight: str = choice("plain", ("plain", "decoder_norm"), "L1 of activations, or of activations by decoder norm")
    l1_power: float = number(1.0, "relu: exponent of the L1 penalty at the end of p-annealing", gt=0.0, le=1.0)
    gate_decoder: str = choice(
        "frozen", ("frozen", "shared"), "gated: the gate's reconstruction leaves the decoder alone, or trains it too"
    )
    aux_coefficient: float = number(1 / 32, "top-k variants: weight of AuxK; 0: off", ge=0.0, le=1e6)
    aux_k: int = number(0, "top-k variants: dead features that AuxK uses per row; 0: d_in / 2", ge=0, le=2**31)
    prefixes: list[float] = field(
        default_factory=lambda: [0.0625, 0.125, 0.25, 0.5, 1.0],
        metadata={"help": "matryoshka: rising shares of the features, the last one 1", "gt": 0.0, "le": 1.0},
    )
    sparsity: str = choice("step", ("step", "tanh"), "jumprelu: L0 by straight-through estimate (2024), or tanh (2025)")
    bandwidth: float = number(1e-3, "jumprelu: width of the straight-through kernel", gt=0.0, le=1e6)
    threshold_init: float = number(1e-3, "jumprelu: where thresholds start", ge=0.0, le=1e6)
    tanh_scale: float = number(4.0, "jumprelu with tanh: c in tanh(c f |d|)", gt=0.0, le=1e6)
    pre_act_coefficient: float = number(
        3e-6, "jumprelu with tanh: weight of the loss that lifts what is below its threshold", ge=0.0, le=1e6
    )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Optimisation of one dictionary; the recipe is that of Bricken et al. (2023)."""

    steps: int = number(2000, "optimiser steps", ge=1, le=10**9)
    batch_size: int = number(4096, "rows per step", ge=1, le=2**30)
    lr: float = number(1e-3, "Adam's learning rate", gt=0.0, le=10.0)
    beta1: float = number(0.9, "Adam's first decay", ge=0.0, le=0.9999999)
    beta2: float = number(0.999, "Adam's second decay", ge=0.0, le=0.9999999)
    eps: float = number(1e-8, "Adam's epsilon", gt=0.0, le=1.0)
    lr_warmup: float = number(0.0, "share of the steps over which lr rises from zero", ge=0.0, le=1.0)
    lr_decay: float = number(0.0, "share of the steps, at the end, over which lr falls to zero", ge=0.0, le=1.0)
    sparsity_warmup: float = number(0.0, "share of the steps over which L1 or L0 coefficients rise", ge=0.0, le=1.0)
    k_start: int = number(0, "top-k variants: k at the first step, annealed to sae.k; 0: off", ge=0, le=2**31)
    k_anneal: float = number(0.5, "share of the steps over which k goes from k_start to sae.k", ge=0.0, le=1.0)
    power_from: float = number(0.5, "share of the steps after which the L1 power falls to l1_power", ge=0.0, le=1.0)
    clip_norm: float = number(0.0, "gradients above this norm (over all parameters) are scaled; 0: off", ge=0.0, le=1e9)
    input_scale: str = choice(
        "none", ("none", "sqrt_d", "unit"),
        "rows times one constant, folded back on save: mean norm sqrt(d_in), or mean squared norm 1",
    )
    dead_rows: int = number(10_000_000, "AuxK: a feature silent for this many rows is dead", ge=1, le=10**15)
    precision: str = choice("fp32", PRECISIONS, "of the matrix products; parameters, moments and sums stay fp32")
    sparse_share: float = number(
        1 / 16, "share of active features up to which steps work on those alone; 0: on all", ge=0.0, le=1.0
    )
    resample_steps: list[int] = field(
        default_factory=list, metadata={"help": "steps at which dead features are resampled", "ge": 1}
    )
    resample_window: int = number(12500, "a feature is dead if silent for this many steps before", ge=1, le=10**9)
    resample_rows: int = number(819200, "rows whose loss decides where features are reborn", ge=1, le=2**32)
    init_rows: int = number(8192, "rows whose geometric median initialises the decoder bias", ge=1, le=2**26)
    checkpoint_every: int = number(500, "steps between checkpoints", ge=1, le=10**9)
    log_every: int = number(10, "steps between logged metrics", ge=1, le=10**9)


@dataclass(frozen=True, kw_only=True)
class LearnerConfig:
    replicas: int = number(
        1, "ranks that share out a batch's slots, 0: as many as there is room for; results do not depend on it unless "
        "exchange is ring", ge=0, le=4096,
    )  # fmt: skip
    feature_shards: int = number(1, "ranks that share out a dictionary's features", ge=1, le=4096)
    slots: int = number(1, "fixed parts that a batch's gradient is summed from; at least replicas", ge=1, le=4096)
    exchange: str = choice(
        "tree", ("tree", "ring"), "between replicas: tree, the same bits on any number; ring, plain all-reduce"
    )
    threads: int = number(2, "CPU threads of one learner process", ge=1, le=1024)
    pack_parameters: int = number(
        50_000_000, "dictionaries are packed into one process up to this many parameters", ge=0, le=10**13
    )


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    contexts: int = number(64, "held-out contexts for loss recovered", ge=1, le=2**24)
    rows: int = number(65536, "held-out rows for L0, FVU and density", ge=1, le=2**32)


@dataclass(frozen=True, kw_only=True)
class FeaturesConfig:
    """The feature pass: what the features of finished dictionaries mean. `monosem.features.schema` has its tables."""

    enabled: bool = field(default=True, metadata={"help": "false: `monosem sweep` ends without it"})
    tokens: int = number(262_144, "tokens that it reads, whole contexts; all there are, if fewer", ge=1, le=2**40)
    side: str = choice("train", ("train", "heldout"), "which contexts")
    seed: int = number(0, "which contexts, and which activations are in the random sample", ge=0, le=2**63 - 1)
    top: int = number(20, "examples in the group `top`", ge=1, le=100)
    interval: int = number(5, "examples in each interval group", ge=1, le=100)
    bottom: int = number(20, "examples in the group `bottom`", ge=1, le=100)
    sample: int = number(1000, "activations in the random sample of a feature", ge=1, le=1_000_000)
    beside: int = number(4, "tokens shown on each side of an example's", ge=0, le=64)
    ablations: str = choice(
        "auto", ("auto", "all", "top", "none"),
        "examples that get ablation effects; auto: all, or none where attention follows the hook point (slow)",
    )
    texts: int = number(25, "texts of the data view", ge=0, le=10_000)
    text_tokens: int = number(128, "tokens of such a text", ge=1, le=1_048_576)
    neurons: bool = field(default=True, metadata={"help": "the host's neurons as a baseline, at mlp.post"})
    compare: list[str] = field(
        default_factory=list, metadata={"help": "URIs of other runs to relate features to; hosts of the same tokenizer"}
    )
    related_tokens: int = number(131_072, "tokens over which correlations are measured, at most", ge=1, le=2**40)
    slice_tokens: int = number(32_768, "tokens of one task; bounds memory", ge=1, le=2**32)
    slice_features: int = number(4096, "features of one task; bounds memory", ge=1, le=2**31)


@dataclass(frozen=True, kw_only=True)
class TrackConfig:
    wandb: str = choice(
        "auto", ("auto", "online", "offline", "disabled"), "auto: online if WANDB_API_KEY is set, else offline"
    )
    project: str = text("monosem", "W&B project")
    group: str = text("${name}", "W&B group of the sweep's runs")


@dataclass(frozen=True, kw_only=True)
class SweepJob:
    """`monosem sweep`: a ladder of dictionaries on one stream."""

    name: str = text("sweep", "names the sweep in the store")
    recipe: str | None = text(None, "a published recipe whose sae and train values hold where this file has none")
    seed: int = number(0, "of the stream's order", ge=0, le=2**63 - 1)
    store: str = text("./monosem-store", "where everything is kept: a path or any fsspec URL")
    host: HostConfig = field(default_factory=HostConfig)
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    stream: StreamConfig = field(default_factory=StreamConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    sae: SaeJobConfig = field(default_factory=SaeJobConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    evaluate: EvalConfig = field(default_factory=EvalConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    track: TrackConfig = field(default_factory=TrackConfig)


@dataclass(frozen=True, kw_only=True)
class TruthSection:
    """Rows with known features, see `monosem.truth.generator`."""

    features: int = number(1024, "true features", ge=2, le=2**20)
    d_in: int = number(256, "width of a row", ge=2, le=2**16)
    active: float = number(12.0, "features active per row, on average", gt=0.0, le=2**16)
    zipf: float = number(0.7, "frequency falls as rank^-zipf", ge=0.0, le=4.0)
    correlation: float = number(0.0, "probability that a feature takes its group's draw", ge=0.0, le=1.0)
    group: int = number(8, "features that share a draw", ge=2, le=2**16)
    hierarchy: float = number(0.0, "share of features that are active only with a parent", ge=0.0, le=1.0)
    noise: float = number(0.0, "standard deviation of the noise on each element", ge=0.0, le=1e3)
    bias: float = number(0.5, "standard deviation of the constant that all rows share", ge=0.0, le=1e3)
    seed: int = number(0, "of the directions and the rows", ge=0, le=2**63 - 1)


@dataclass(frozen=True, kw_only=True)
class TruthJob:
    """`monosem truth`: a recipe's exam, on rows whose features are known."""

    name: str = text("truth", "names the exam")
    recipe: str | None = text(None, "a published recipe whose sae and train values hold where this file has none")
    truth: TruthSection = field(default_factory=TruthSection)
    sae: SaeJobConfig = field(default_factory=SaeJobConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    rows: int = number(32768, "rows that mark, after those of training", ge=1024, le=2**32)


@dataclass(frozen=True, kw_only=True)
class TransformerSizes:
    vocab_size: int = number(4096, "tokens in the vocabulary", ge=257, le=65536)
    d_model: int = number(128, "residual stream", ge=1, le=16384)
    d_mlp: int = number(512, "MLP neurons", ge=1, le=131072)
    n_heads: int = number(4, "attention heads", ge=1, le=1024)


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    steps: int = number(5000, "optimiser steps", ge=1, le=10**9)
    batch_contexts: int = number(32, "contexts per step", ge=1, le=2**20)
    lr: float = number(2e-3, "AdamW's peak learning rate", gt=0.0, le=1.0)
    warmup_steps: int = number(100, "linear warm-up", ge=0, le=10**9)
    weight_decay: float = number(0.01, "AdamW's weight decay", ge=0.0, le=10.0)
    precision: str = choice("auto", ("auto", *PRECISIONS), "auto: bf16 on a GPU, fp32 on a CPU")
    threads: int = number(2, "CPU threads", ge=1, le=1024)
    checkpoint_every: int = number(500, "steps between checkpoints", ge=1, le=10**9)
    tokenizer_documents: int = number(8000, "documents that the tokenizer is trained on", ge=1, le=10**8)
    eval_contexts: int = number(256, "held-out contexts for the model card", ge=1, le=2**24)


@dataclass(frozen=True, kw_only=True)
class PretrainJob:
    """`monosem pretrain`: one-layer transformers on the same data, one per seed (a, b, c ...)."""

    name: str = text("one-layer", "hosts are stored as hosts/<name>-a, -b ...")
    store: str = text("./monosem-store", "where everything is kept: a path or any fsspec URL")
    seeds: list[int] = axis([1, 2], "initialisation seeds, one host each", ge=0, le=2**63 - 1)
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    model: TransformerSizes = field(default_factory=TransformerSizes)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
