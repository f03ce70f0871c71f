"""Train the one-layer host: next-token loss, AdamW, warm-up then linear decay to zero.

The batch of a step is a pure function of the step (a fresh permutation of the contexts per epoch),
so a stopped training resumes from its last checkpoint as if nothing had happened.
"""

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from monosem.config.job import PretrainConfig
from monosem.host.model import next_token_loss
from monosem.host.transformer import OneLayerTransformer, TransformerConfig
from monosem.rows.permute import PRETRAIN, shuffled
from monosem.store.checkpoints import CheckpointLog

Report = Callable[[int, float], None]


def learning_rate(step: int, config: PretrainConfig) -> float:
    """Linear warm-up, then linear decay to zero at the last step."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    return config.lr * warm * (1 - step / config.steps)


def batch_of_step(step: int, seed: int, n_contexts: int, batch_contexts: int) -> np.ndarray:
    """Which contexts step `step` sees. int64 [min(batch_contexts, n_contexts)]."""
    batch_contexts = min(batch_contexts, n_contexts)
    epoch, place = divmod(step, n_contexts // batch_contexts)
    order = shuffled(seed, PRETRAIN, epoch, n_contexts)
    return order[place * batch_contexts : (place + 1) * batch_contexts]


def precision_on(device: str, precision: str) -> str:
    """What `pretrain.precision` means on a device: fp32 or bf16."""
    return ("fp32" if device == "cpu" else "bf16") if precision == "auto" else precision


def pretrain(
    sizes: TransformerConfig,
    tokens_NT: np.ndarray,
    seed: int,
    config: PretrainConfig,
    checkpoints: CheckpointLog,
    report: Report = lambda step, loss: None,
    device: str = "cpu",
) -> OneLayerTransformer:
    """A trained transformer; continues from the last checkpoint if there is one."""
    torch.manual_seed(seed)
    model = OneLayerTransformer(sizes).to(device)
    _scale_init(model)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=config.weight_decay)
    start = _resume(model, optimizer, checkpoints)
    low = precision_on(device, config.precision) == "bf16"
    for step in range(start, config.steps):
        ids = batch_of_step(step, seed, len(tokens_NT), config.batch_contexts)
        batch = torch.from_numpy(tokens_NT[ids].astype(np.int64)).to(device)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config)
        with torch.autocast(device_type=torch.device(device).type, dtype=torch.bfloat16, enabled=low):
            loss = next_token_loss(model(batch), batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        report(step + 1, loss.item())
        if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
            checkpoints.commit(step + 1, _state(model, optimizer), {"time": round(time.time())})
    return model.cpu().requires_grad_(False).eval()


@torch.no_grad()
def evaluate(model: OneLayerTransformer, tokens_NT: np.ndarray, n_contexts: int) -> float:
    """Mean next-token loss in nats over the first `n_contexts` contexts."""
    losses = []
    for ids in np.array_split(np.arange(min(n_contexts, len(tokens_NT))), max(1, n_contexts // 16)):
        if len(ids):
            batch = torch.from_numpy(tokens_NT[ids].astype(np.int64))
            losses.append((next_token_loss(model(batch), batch).item(), len(ids)))
    return sum(loss * n for loss, n in losses) / sum(n for _, n in losses)


def _scale_init(model: OneLayerTransformer) -> None:
    """Small normal weights: a start near the uniform prediction."""
    for name, p in model.named_parameters():
        if p.dim() == 2:
            torch.nn.init.normal_(p, std=0.02)
        elif name.endswith("bias"):
            torch.nn.init.zeros_(p)


def _state(model: OneLayerTransformer, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    tensors = {f"model.{name}": t for name, t in model.state_dict().items()}
    for name, p in model.named_parameters():
        for key, value in optimizer.state[p].items():
            tensors[f"adam.{name}.{key}"] = torch.as_tensor(value)
    return tensors


def _resume(model: OneLayerTransformer, optimizer: torch.optim.Optimizer, log: CheckpointLog) -> int:
    checkpoint = log.last()
    if checkpoint is None:
        return 0
    t = checkpoint.tensors
    model.load_state_dict({n.removeprefix("model."): v for n, v in t.items() if n.startswith("model.")})
    for name, p in model.named_parameters():
        moments = {key: t[f"adam.{name}.{key}"].to(p.device) for key in ("exp_avg", "exp_avg_sq")}
        optimizer.state[p] = {"step": t[f"adam.{name}.step"], **moments}
    return checkpoint.step
