"""The learner: parameters, Adam, the unit-norm constraint and the dead-feature clock of one dictionary.

It knows nothing of streams, stores or clusters: `step` takes a batch, `resample` takes rows. State is tensors
and one integer; the learning rate and everything else follow from the step.
"""

import math

import torch
from torch import Tensor

from monosem.config.job import TOP_K, TrainConfig
from monosem.errors import Diverged
from monosem.learn.adam import MOMENTS, Adam, hold_by_feature
from monosem.learn.schedules import lr_at, now_at
from monosem.sae.config import SaeConfig
from monosem.sae.gradients import batch_gradients
from monosem.sae.init import init_sae
from monosem.sae.kernels import kernels_for
from monosem.sae.model import Sae
from monosem.sae.resample import FEATURE_AXIS, resample
from monosem.sae.slot import Manner
from monosem.sae.use import for_use

THRESHOLD_STEPS = 1000
"""dictionary_learning's decay of 0.999; see `Learner._follow_threshold`."""


def masked_rows(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Which rows of x [n, d_in], or of their targets y, are masked: they hold NaN. bool [n]."""
    masked = x[:, 0].isnan()
    return masked if y is None else masked | y[:, 0].isnan()


def finite_rows(x: Tensor) -> Tensor:
    """Rows [n, d_in] without the masked ones, which hold NaN."""
    return x[~masked_rows(x)]


class Learner:
    """One SAE in training.

    b_dec   where the decoder bias starts, [d_out]; the 2023 recipe wants the data's geometric median
            (`monosem.sae.init.geometric_median`)
    slots   fixed parts that a batch's gradient is summed from
    scale   what rows are multiplied by before anything else (`train.input_scale`); `dictionary()` folds it back
    """

    def __init__(
        self,
        sae: SaeConfig,
        train: TrainConfig,
        device: str = "cpu",
        b_dec: Tensor | None = None,
        slots: int = 1,
        scale: float = 1.0,
    ):
        self.config, self.train, self.slots, self.scale = sae, train, slots, scale
        self.manner = Manner(train.precision, train.sparse_share)
        self.device = device
        self.sae: Sae = hold_by_feature(init_sae(sae, None if b_dec is None else b_dec * scale).to(device))
        self.steps_done, self.masked_rows = 0, 0
        self.threshold = 0.0  # of batch-wide variants, for use: a running mean of the least activation
        self.last_fired_F = torch.zeros(sae.d_sae, dtype=torch.int64, device=device)
        self.adam = Adam(self.sae, train)

    @torch.no_grad()
    def step(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """One optimiser step on a batch [batch, d_in]. Rows that hold a NaN at their start count for nothing.

        y   a transcoder's target, [batch, d_out]

        Returns scalars, still on the device: loss, mse, fvu (of this batch), l1, l0.
        """
        x, y = self._taken(x, y)
        masked_B = self._masked(x, y)
        now = now_at(self.steps_done, self.config, self.train)
        result = batch_gradients(self.sae, x, self.slots, self.manner, masked_B, y, now, self._aux_features())
        self._update(result.gradients)
        self._follow_threshold(result.least)
        self.steps_done += 1
        self.last_fired_F.masked_fill_(result.fired_F, self.steps_done)
        B = len(x)
        target = x if y is None else y
        kept = target if masked_B is None else target[~masked_B]
        total = kernels_for(kept.device).spread(kept)
        return {
            "loss": result.loss,
            "mse": result.squared_error / (B * self.config.width_out),
            "fvu": result.squared_error / total,
            "l1": result.l1 / B,
            "l0": result.active / B,
        }

    @torch.no_grad()
    def resample(self, x: Tensor, y: Tensor | None = None) -> int:
        """Resample features silent in the last `resample_window` steps, on rows [n, d_in]. Returns how many."""
        dead_F = self.dead(self.train.resample_window)
        kept = ~masked_rows(x, y)
        x, y = self._scaled(x[kept]), None if y is None else self._scaled(y[kept])
        chunk = self.train.batch_size // self.slots
        reborn = resample(self.sae, dead_F, x, self.steps_done, chunk, self.manner, self._reset_moments, y)
        self.last_fired_F[reborn] = self.steps_done
        return len(reborn)

    def dead(self, window: int) -> Tensor:
        """Features that fired in none of the last `window` steps. bool [d_sae]; none before that many steps."""
        return self.last_fired_F <= self.steps_done - window

    def dictionary(self) -> Sae:
        """The SAE for use on rows as they come: scale and decoder norms folded in, batch-wide variants as jumprelu."""
        return for_use(self.sae, self.scale, self.threshold)

    def check_finite(self) -> None:
        """Raise Diverged if a parameter is NaN or infinite."""
        for name, t in self.sae.tensors().items():
            if not torch.isfinite(t).all():
                raise Diverged(
                    f"{name} has values that are not finite after step {self.steps_done}; try a lower train.lr"
                )

    def state(self) -> dict[str, Tensor]:
        """Everything a checkpoint needs besides `steps_done`."""
        tensors = dict(self.sae.tensors()) | {"last_fired": self.last_fired_F}
        tensors["masked_rows"] = torch.tensor(self.masked_rows)
        tensors["scale"] = torch.tensor(self.scale, dtype=torch.float64)
        tensors["use_threshold"] = torch.tensor(self.threshold, dtype=torch.float64)
        for name in self.sae.tensors():
            for key in MOMENTS:
                tensors[f"adam.{name}.{key}"] = self.adam.moments[name][key]
        return tensors

    def load_state(self, tensors: dict[str, Tensor], steps_done: int) -> None:
        for name, t in self.sae.tensors().items():
            t.copy_(tensors[name])
            for key in MOMENTS:
                self.adam.moments[name][key].copy_(tensors[f"adam.{name}.{key}"])
        self.last_fired_F.copy_(tensors["last_fired"])
        self.masked_rows = int(tensors["masked_rows"])
        self.scale, self.threshold = float(tensors["scale"]), float(tensors["use_threshold"])
        self.steps_done = steps_done

    def _taken(self, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The batch as the SAE wants it, checked."""
        if (y is not None) != self.config.transcoder:
            raise ValueError("a transcoder needs a target y, other variants have none")
        for what, rows, width in (("batch", x, self.config.d_in), ("target", y, self.config.width_out)):
            if rows is not None and (rows.ndim != 2 or rows.shape[1] != width or len(rows) != len(x)):
                raise ValueError(f"a {what} must be [rows, {width}], got {tuple(rows.shape)}")
        return self._scaled(x), None if y is None else self._scaled(y)

    def _scaled(self, x: Tensor) -> Tensor:
        x = x.to(self.sae.W_enc)
        return x if self.scale == 1.0 else x * self.scale

    def _masked(self, x: Tensor, y: Tensor | None) -> Tensor | None:
        """Which rows are masked; None if there are none, as almost always."""
        masked_B = masked_rows(x, y)
        n = int(masked_B.sum())
        if n == 0:
            return None
        if n == len(x):
            raise Diverged(f"all {n} rows of step {self.steps_done + 1} are masked: the host gave NaN or infinity")
        self.masked_rows += n
        return masked_B

    def _aux_features(self) -> Tensor | None:
        """The features that AuxK is for, int64 [n]; None if there are none."""
        if self.config.variant not in TOP_K or self.config.aux_coefficient == 0:
            return None
        dead = self.dead(-(-self.train.dead_rows // self.train.batch_size)).nonzero().flatten()
        return dead if len(dead) else None

    def _follow_threshold(self, least: Tensor) -> None:
        """The mean of the least activations, over all steps at first and the last THRESHOLD_STEPS or so later."""
        value = float(least)
        if math.isfinite(value):
            self.threshold += (value - self.threshold) / min(self.steps_done + 1, THRESHOLD_STEPS)

    def _update(self, gradients: dict[str, Tensor]) -> None:
        """Adam on all parameters. Decoder rows of unit norm stay so and move only at right angles to themselves."""
        unit = self.config.decoder == "unit"
        if self.train.clip_norm:
            if unit:  # what Adam will take away must not count
                g, W_dec = gradients["W_dec"], self.sae.W_dec
                g -= (g * W_dec).sum(dim=1, keepdim=True) * W_dec
            clip(gradients, self.train.clip_norm)
        self.adam.step(gradients, self.steps_done + 1, lr_at(self.steps_done, self.train), unit)
        if self.config.variant == "jumprelu":
            self.sae.threshold.clamp_(min=0.0)

    def _reset_moments(self, features: Tensor) -> None:
        for name in self.sae.tensors():
            if name in FEATURE_AXIS:
                for key in MOMENTS:
                    self.adam.moments[name][key].index_fill_(FEATURE_AXIS[name], features, 0.0)


def clip(gradients: dict[str, Tensor], most: float) -> None:
    """Scale all gradients, in place, so that their norm together is at most `most`."""
    norm = torch.stack([g.norm() for g in gradients.values()]).norm()
    factor = (most / (norm + 1e-6)).clamp(max=1.0)
    for g in gradients.values():
        g.mul_(factor)
