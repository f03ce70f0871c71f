"""The data view: some texts, and on each of their tokens every feature that is active. Bricken et al. 2023."""

import numpy as np
import torch

from monosem.features.entries import Entries, by_place
from monosem.features.state import State
from monosem.features.tables import Ragged, make_table, to_parquet
from monosem.features.tiles import active_entries


def chosen_texts(state: State) -> np.ndarray:
    """Contexts of the pass (by number) to show: each domain in turn gives the next of those that are mostly its own."""
    names, domain_N = state.domains
    T, length = state.plan.context_length, min(state.plan.config.text_tokens, state.plan.context_length)
    begins = domain_N.reshape(-1, T)[:, :length]
    lists = [np.flatnonzero((begins == d).sum(axis=1) * 2 > length) for d in range(len(names))]
    mixed = np.setdiff1d(np.arange(len(begins)), np.concatenate([np.zeros(0, np.int64), *lists]))
    turns = [(i, d, c) for d, found in enumerate([*lists, mixed]) for i, c in enumerate(found)]
    return np.array([c for _, _, c in sorted(turns)[: state.plan.config.texts]], np.int64)


def texts_table(state: State, subject: int) -> bytes:
    """The table TEXTS of a subject, as Parquet."""
    plan, s = state.plan, state.plan.subjects[subject]
    T, length = plan.context_length, min(plan.config.text_tokens, plan.context_length)
    numbers, model = chosen_texts(state), state.host(s.host).model
    parts = [_text(state, subject, model, i, c, length) for i, c in enumerate(numbers)]
    rows = len(numbers) * length
    joined = {name: np.concatenate([p[name] for p in parts]) if parts else np.zeros(0, np.int32) for name in _NAMES}
    position = np.tile(np.arange(length, dtype=np.int32), len(numbers))
    place = np.repeat(numbers * T, length) + position
    columns = {
        "text": np.repeat(np.arange(len(numbers), dtype=np.int32), length),
        "context": np.repeat(state.contexts[numbers].astype(np.int32), length),
        "domain": state.domains[1][place],
        "position": position,
        "token": joined["token"].astype(np.int32),
        "loss": [None if np.isnan(x) else float(x) for x in joined["loss"]],
        "features": Ragged(joined["features"].astype(np.int32), joined["count"]),
        "activations": Ragged(joined["activations"].astype(np.float32), joined["count"]),
    }
    return to_parquet("texts", make_table("texts", columns, rows))


_NAMES = ("token", "loss", "count", "features", "activations")


def _text(state: State, subject: int, model, number: int, context: int, length: int) -> dict[str, np.ndarray]:
    """One text: tokens, losses, and by token the number of active features, then all of these, strongest first."""
    tokens = state.tokens(np.array([context]))[:, :length]
    x = model.capture(tokens, [state.plan.subjects[subject].hook_point])
    kept = np.flatnonzero(state.kept(np.array([context]))[0, :length])
    found = active_entries(state.sae(subject), next(iter(x.values())).flatten(0, 1).float()[torch.from_numpy(kept)])
    found = Entries(found.start, kept.astype(np.int32)[found.place], found.value)
    start, feature, value = by_place(found, length)
    row = np.repeat(np.arange(length), np.diff(start))
    order = np.lexsort((feature, -value, row))
    logits = model(tokens, {})[0, :-1].float()
    loss = torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="none")
    return {
        "token": tokens[0].numpy(),
        "loss": np.concatenate([[np.nan], loss.numpy()]),
        "count": np.diff(start),
        "features": feature[order],
        "activations": value[order],
    }
