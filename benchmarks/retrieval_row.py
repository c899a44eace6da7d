"""One line of `benchmarks.retrieval_scale`: a retriever over a catalogue of one size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

TRIE, DENSE = "trie", "dense"
ENGINE = "onnxruntime"


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalRow:
    """What one retriever costs at N items; a field that was not measured is null in the JSON.

    A row that could not run has `note` = "not run: <reason>" and null in every measured field. Milliseconds are of one
    request, B = 1, requests in turn.
    """

    case: str  # <retriever>-n<N>
    retriever: str  # trie: beam search over semantic IDs | dense: Eq. 4 over item_vectors
    engine: str = ENGINE
    items: int  # N: what was asked for, or all of a checkpoint's own where those are more
    levels: int = 0  # L
    codes: int = 0  # V
    beams: int = 0  # W, of each head
    heads: int = 0  # M
    candidates: int = 0  # C
    nodes: int | None = None  # P of the trie
    samples: int = 0  # timed runs of the stage, after the warm-up
    p50_ms: float | None = None  # of the retriever stage alone: its exported graph over bound memory
    p90_ms: float | None = None
    p99_ms: float | None = None
    reference_p50_ms: float | None = None  # the same of a catalogue of `reference_items`, rounds of both in turn
    reference_items: int | None = None
    p50_vs_reference: float | None = None  # p50_ms / reference_p50_ms; what else the machine does is in both
    filtered_ms: float | None = None  # p50 of the stage and of filling one row of eligibility: 100 items excluded
    lookup_ms: float | None = None  # p50 of looking 500 ids up, the call as a whole
    peak_memory_mib: float | None = None  # of the serving process; a swap needs room for two indexes, mapped or not
    users: int = 0  # user embeddings that recall is the mean of
    recall_at_c: float | None = None  # of the C best over all items and heads, the share that the beams found too
    recall_at_10: float | None = None  # of the 10 best over all items and heads, the share among the beams' 10 best
    recall_s: float | None = None  # of the exhaustive search, all users
    index_build_s: float | None = None  # write_item_index: sort, trie, checks, file, hash
    index_bytes: int | None = None  # on disk
    index_open_s: float | None = None  # ItemIndex.read: hash, checks, lookup
    swap_s: float | None = None  # Pipeline.swap_items in a thread beside one that serves
    swap_slowest_ms: float | None = None  # longest generate + enhance + retrieve of that serving thread meanwhile
    bytes_per_item: float | None = None  # file without item_table and item_vectors, all of it, + what the process took
    resident_bytes_per_item: float | None = None  # by which the resident set grew, without item_vectors
    build_peak_mib: float | None = None  # of the process that wrote the index, model's item table included
    threads: int = 1
    weights: str = ""
    machine: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    commit: str | None = None  # of the source tree, "+changes" if it differs from that
    command: str = ""
    date: str = ""
    note: str = ""
