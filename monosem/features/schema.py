"""What the feature pass leaves in the store: tables, columns, and what lies where. Light: neither pyarrow nor torch.

    <store>/sweeps/<sweep>/features/              of the whole sweep
        vocab.parquet                             VOCAB: what each token id is as text
        related.parquet                           RELATED: features of other runs that do the same
        neurons[-<hook point>]/                   the baseline: the host's neurons as if they were features; holds the
                                                  same files as a run does, and `RELATED.run` calls it by that name
        manifest.json                             written last
    <store>/sweeps/<sweep>/runs/<run>/features/   of one dictionary
        features-00000.parquet ...                FEATURES: a row per feature, in order; a file per slice of features
        examples-00000.parquet ...                EXAMPLES: of the same slice, by feature, group and rank
        texts.parquet                             TEXTS: the data view
        manifest.json                             written last: a directory without it is not finished

A manifest has: `format`, `sweep`, `run`, `kind` ("dictionary" or "neurons"), `hook_point`, `write_point` (where the
decoder writes: the hook point, or a transcoder's target), `d_in`, `d_sae`, `fingerprint` (of everything the tables
depend on), `depends` (that itself: digests of dictionary, host and corpus, the features section of the job), `tokens`
(how many the pass saw), `related_tokens` (how many of them, at random, correlations are over), `contexts`,
`context_length`, `side`, `domains` (in the order of `domain_counts`), `files` (name to SHA-256, in order of the
features), `counts` (features, dead, ultralow, examples, entries), `logits` (whether direct logit effects exist at
this hook point), `ablations` ("exact" or "none"). The sweep's own has `tokens`, `related_tokens`, `runs` and
`neurons` (names), `files`, `fingerprint`, `depends`.

Text is never in the tables of a run, token ids are: VOCAB has the text. Numbers are not rounded. Lists have one length
unless said otherwise. A value that was not measured is null.
"""

from dataclasses import dataclass

FORMAT = 1
DIRECTORY = "features"
MANIFEST, VOCAB_FILE, RELATED_FILE, TEXTS_FILE = "manifest.json", "vocab.parquet", "related.parquet", "texts.parquet"

INTERVALS = 11
GROUPS = ("top", *(f"interval_{k}" for k in range(INTERVALS)), "bottom")
"""Groups of examples, 13 as published. interval_0 is the strongest: its centre is at 10/11 of the maximum, that of
interval_k at (10 - k)/11; the examples of an interval are those of the random sample nearest to it. `bottom` has the
weakest of the sample. A feature with fewer activations than `top` has places has that group only.
Bricken et al. 2023, published data; `Subsample Interval k` there."""

BUCKETS = 40
"""Of both histograms, equal widths from lo to hi; the last one includes hi. As published."""


@dataclass(frozen=True)
class Column:
    """kind: int8 .. int64, float32, float64, bool, string, binary, or list<...> of one of them."""

    name: str
    kind: str
    doc: str
    nullable: bool = False


FEATURES = (
    Column("feature", "int32", "index in the dictionary"),
    Column("density", "float64", "share of tokens on which it is active (f > 0)"),
    Column("n_active", "int64", "tokens on which it is active"),
    Column("max_activation", "float32", "largest activation; 0 if dead"),
    Column("mean_activation", "float32", "mean activation where it is active; 0 if dead"),
    Column("dead", "bool", "active on none of the tokens"),
    Column("ultralow", "bool", "active, on less than 1e-6 of them; null: fewer than a million tokens", True),
    Column("label", "string", "single-token label: all top examples have the same strongest token; else null", True),
    Column("label_token", "int32", "that token's id", True),
    Column("importance", "float64", "mean of (f |d|)^2 over all tokens, as a share of the variance where it writes"),
    Column("decoder_norm", "float32", "|d|"),
    Column("encoder_bias", "float32", "with density and encoder_cosine it separates the ultralow cluster"),
    Column("encoder_cosine", "float32", "of encoder and decoder vector; null for transcoders", True),
    Column("act_hist_counts", "list<int32>", "BUCKETS counts of the random sample of its activations (all, if few)"),
    Column("act_hist_lo", "float32", "0"),
    Column("act_hist_hi", "float32", "the sample's largest activation"),
    Column("logit_hist_counts", "list<int32>", "BUCKETS counts of direct logit effects over the vocabulary", True),
    Column("logit_hist_lo", "float32", "smallest effect", True),
    Column("logit_hist_hi", "float32", "largest effect", True),
    Column("top_logit_tokens", "list<int32>", "10 tokens with the largest direct logit effect, largest first", True),
    Column("top_logit_values", "list<float32>", "their effects, median-centred, per unit of activation", True),
    Column("bottom_logit_tokens", "list<int32>", "10 tokens with the smallest, smallest first", True),
    Column("bottom_logit_values", "list<float32>", "their effects", True),
    Column("neuron_indices", "list<int32>", "3 coordinates with the largest |decoder weight|; null: no neurons", True),
    Column("neuron_weights", "list<float32>", "those weights, signed", True),
    Column("neuron_cosines", "list<float32>", "weight / |d|: cosine of decoder vector and coordinate", True),
    Column("neuron_l1_shares", "list<float32>", "|weight| / sum of |weights| of the feature", True),
    Column("correlated_neuron_indices", "list<int32>", "3 coordinates whose values correlate most with f", True),
    Column("correlated_neuron_r", "list<float32>", "Pearson correlation over the manifest's related_tokens", True),
    Column("correlated_neuron_cosines", "list<float32>", "cosine of decoder vector and that coordinate", True),
    Column("n_examples", "int32", "rows in EXAMPLES"),
    Column("domain_counts", "list<int64>", "tokens on which it is active, by the manifest's `domains`"),
)
"""A row per feature, dead ones too (their lists of logits and neurons are there, correlations and label are null)."""

EXAMPLES = (
    Column("feature", "int32", "index in the dictionary"),
    Column("group", "int8", "place in GROUPS"),
    Column("rank", "int8", "place in the group, strongest first"),
    Column("context", "int32", "context of the token index"),
    Column("position", "int32", "of the example's token in the context"),
    Column("centre", "int8", "of the example's token in the window: 4, less at the start of a context"),
    Column("domain", "int16", "place in the manifest's `domains`"),
    Column("tokens", "list<int32>", "the window: 9 tokens, fewer at the ends of a context"),
    Column("activations", "list<float32>", "of the feature on each token of the window"),
    Column("loss_effects", "list<float32>",
           "by how much the loss ON token j rises (nats) with the feature ablated on every token of the context, so "
           "that what it does at j shows at j + 1; positive: the feature helped; null: not computed", True),
    Column("up_tokens", "list<int32>", "5 tokens whose logits after the example's token ablation raises most", True),
    Column("up_values", "list<float32>", "by how much", True),
    Column("down_tokens", "list<int32>", "5 tokens whose logits it lowers most", True),
    Column("down_values", "list<float32>", "by how much (negative)", True),
    Column("repeated", "bool", "the same token was an example of an earlier group already"),
)  # fmt: skip
"""A row per feature, group and rank. Lists vary in length with the window."""

TEXTS = (
    Column("text", "int32", "number of the text"),
    Column("context", "int32", "context of the token index"),
    Column("domain", "int16", "place in the manifest's `domains`"),
    Column("position", "int32", "of the token in the text"),
    Column("token", "int32", "its id"),
    Column("loss", "float32", "of the untouched host on this token, nats; null for the first", True),
    Column("features", "list<int32>", "features active on it, strongest first; any number"),
    Column("activations", "list<float32>", "their activations"),
)
"""The data view: a row per text and position. The texts are the same for all runs of a sweep."""

RELATED = (
    Column("run", "string", "a run of this sweep, or neurons"),
    Column("feature", "int32", "its feature"),
    Column("other_sweep", "string", "the other run's sweep: this one, or that of another host"),
    Column("other_run", "string", "the other run"),
    Column("other_feature", "int32", "its feature"),
    Column("rank", "int8", "among the other run's features, by r, largest first"),
    Column("cosine", "float32", "of the decoder vectors; null where they do not live in the same space", True),
    Column("r", "float32", "Pearson correlation of the activations over the manifest's related_tokens", True),
)
"""Up to 3 features by r for each feature and other run, and the nearest by cosine if it is none of them (r null, rank
after the others'). Ordered by run, feature, other run and rank."""

VOCAB = (
    Column("token", "int32", "id"),
    Column("text", "string", "as it is shown: UTF-8 where the bytes are whole characters, else \\xNN; "
           "of a token that has \\xNN in its own text the backslash is \\x5c"),
    Column("count", "int64", "how often it stands in the tokens of the pass"),
)

TABLES = {"features": FEATURES, "examples": EXAMPLES, "texts": TEXTS, "related": RELATED, "vocab": VOCAB}

RUBRIC_COLUMNS = ("key", "item", "interval", "question", "answer")
"""Of the CSV that the blind rubric's page exports. `key` names the exercise, `item` what was shown (an opaque name),
`interval` one of GROUPS, `question` one of RUBRIC or "interpretation" (free text, not scored)."""
RUBRIC = {"confidence": 3, "consistency": 5, "logits": 3, "gap": 1, "specificity": 3}
"""Questions and their most points; whole numbers from 0. The sum is at most 14: `gap` counts only where `logits` is
less than 3. Bricken et al. 2023, appendix on the human rubric."""
RUBRIC_KEY_FIELDS = ("key", "items")
"""Of the key file (JSON): `items` is a mapping of item to {"kind": "feature" or "neuron", "run", "feature"}."""


def slice_file(table: str, slice_number: int) -> str:
    """Name of a table's file for one slice of features."""
    return f"{table}-{slice_number:05d}.parquet"
