"""What a plan says: one record, which goes out as JSON with these keys or as lines of text."""

from __future__ import annotations

from dataclasses import dataclass

VERSION = 1  # of the keys below


@dataclass(frozen=True)
class Rows:
    """Rows of the corpus, `exact` or estimated as `how` says; those that would be admitted, and of these the duplicates and the
    ones that would be scored, with bounds; the share that would be rejected, in all and by reason."""

    corpus: int
    exact: bool
    how: str
    sampled: int
    admitted: int
    duplicates: int
    scored: int
    scored_low: int
    scored_high: int
    rejected_share: float
    rejected: dict[str, float]


@dataclass(frozen=True)
class Tokens:
    """Tokens of the rows that would be scored: of their prompts, of their outputs; the same of a row."""

    prompt: int
    target: int
    prompt_of_row: float
    target_of_row: float


@dataclass(frozen=True)
class Instructions:
    """Distinct instructions, with bounds."""

    distinct: int
    low: int
    high: int
    exact: bool
    pool: int  # that are offered as alternatives


@dataclass(frozen=True)
class Pairs:
    """Pairs of a prompt and an output: those that rows ask for, those of them that an equal one answers, the rest; and what is
    left to compute after the store has answered."""

    asked: int
    equal: int
    distinct: int
    stored: int
    left: int


@dataclass(frozen=True)
class Forward:
    """Tokens of the pairs that are left; those of them that go through the model, in batches as a CPU and as a GPU takes them.
    `spread`: by how much blocks that were worked through differ, as a share."""

    in_pairs: int
    on_cpu: int
    on_gpu: int
    batch_on_cpu: int
    batch_on_gpu: int
    shared_prefixes: bool
    blocks_worked: int
    blocks: int
    spread: float


@dataclass(frozen=True)
class Scorer:
    """The scorer, the dtype that is taken, and its parameters, in all and those that work on each token."""

    model: str
    dtype: str
    fingerprint: str
    parameters: int
    working_parameters: int


@dataclass(frozen=True)
class GpuHours:
    """Hours of one GPU for all forward tokens, from stated rates: `teraflops` of dense bfloat16 times `utilisation`."""

    gpu: str
    hours: float
    teraflops: float
    utilisation: float


@dataclass(frozen=True)
class CpuHours:
    """Hours of this machine's cores, and how their speed is known."""

    hours: float
    cores: int
    tokens_a_second: float
    measured: bool
    how: str


@dataclass(frozen=True)
class Space:
    """Bytes: of memory, by stage, of one process; of disk, by folder of the output."""

    memory: dict[str, int]
    disk: dict[str, int]


@dataclass(frozen=True)
class Hazard:
    """What will hurt: a name that does not change, and words."""

    kind: str
    words: str


@dataclass(frozen=True)
class Plan:
    """What a run would take."""

    k: int
    rows: Rows
    tokens: Tokens
    instructions: Instructions
    pairs: Pairs
    forward: Forward
    scorer: Scorer
    gpu: list[GpuHours]
    cpu: CpuHours
    space: Space
    hazards: list[Hazard]
    notes: list[str]
    version: int = VERSION
