"""The learner: parameters, Adam, the unit-norm constraint and the dead-feature clock of one dictionary.

It knows nothing of streams, stores or clusters: `step` takes a batch, `resample` takes rows. State is tensors
and one integer; the learning rate and everything else follow from the step.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from monosem.config.fields import check_fields
from monosem.config.job import TOP_K, TrainConfig
from monosem.errors import Diverged
from monosem.learn.adam import MATRICES, MOMENTS, Adam, hold_by_feature
from monosem.learn.captured import Captured, can_capture
from monosem.learn.mesh import Mesh
from monosem.learn.schedules import lr_at, now_at, steps_with_last_k
from monosem.sae.config import SaeConfig
from monosem.sae.gradients import rows_of, with_statistic
from monosem.sae.heads import HEADS, Now
from monosem.sae.init import init_part
from monosem.sae.kernels import kernels_for
from monosem.sae.model import FEATURE_AXIS, Sae
from monosem.sae.resample import resample
from monosem.sae.slot import Manner, Step, node_sums
from monosem.sae.sums import Result, finish
from monosem.sae.use import for_use

THRESHOLD_STEPS, THRESHOLD_SHARE = 1000, 1 / 20
"""dictionary_learning's decay of 0.999, and of a short training its last steps; see `Learner._follow_threshold`."""


def masked_rows(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Which rows of x [n, d_in], or of their targets y, are masked: they hold NaN. bool [n]."""
    masked = x[:, 0].isnan()
    return masked if y is None else masked | y[:, 0].isnan()


def finite_rows(x: Tensor) -> Tensor:
    """Rows [n, d_in] without the masked ones, which hold NaN."""
    return x[~masked_rows(x)]


class Learner:
    """One SAE in training, or this rank's part of it: every rank of a mesh takes the same steps on the same batches.

    b_dec   where the decoder bias starts, [d_out]; the 2023 recipe wants the data's geometric median
            (`monosem.sae.init.geometric_median`)
    slots   fixed parts that a batch's gradient is summed from
    train   `input_scale` and `resample_steps` are a sweep's: here the caller gives `scale`, and calls `resample`
    scale   what rows are multiplied by before anything else (`sae.init.input_scale`); `dictionary()` folds it back
    mesh    the ranks that train it together
    """

    def __init__(
        self,
        sae: SaeConfig,
        train: TrainConfig,
        device: str = "cpu",
        b_dec: Tensor | None = None,
        slots: int = 1,
        scale: float = 1.0,
        mesh: Mesh | None = None,
    ):
        check_fields(train, lambda name: "TrainConfig")
        self.config, self.train, self.slots, self.scale = sae, train, slots, scale
        self.mesh = mesh or Mesh()
        self.first, self.end = self.mesh.features(sae.d_sae)
        self.manner = Manner(train.precision, train.sparse_share)
        self.device = device
        start = init_part(sae, self.first, self.end, None if b_dec is None else b_dec * scale)
        self.sae: Sae = hold_by_feature(start.to(device), self.mesh.part(sae.d_sae))
        self.steps_done, self.masked_rows = 0, 0
        self.threshold = 0.0  # of batch-wide variants, for use: a running mean of the least activation
        self.last_fired_F = torch.zeros(self.end - self.first, dtype=torch.int64, device=device)
        self.own = self.mesh.own(self.end - self.first)  # of the features held here
        self.adam = Adam(self.sae, train, self.own)
        self.captured = Captured(device) if can_capture(sae, device, self.mesh) else None
        if self.captured:
            self.manner = replace(self.manner, expected=self.captured.asking)

    @torch.no_grad()
    def step(
        self, x: Tensor, y: Tensor | None = None, masked: int | None = None, figures: bool = True
    ) -> dict[str, Tensor]:
        """One optimiser step on a batch [batch, d_in]. Rows that hold a NaN at their start count for nothing.

        y         a transcoder's target, [batch, d_out]
        masked    how many such rows there are; a GPU that has to be asked for it stands still meanwhile
        figures   whether they are wanted

        Returns scalars, still on the device: loss, mse, fvu (of this batch), l1, l0; fvu is left to the leading rank.
        """
        x, y = self._taken(x, y)
        masked_B = None if masked == 0 else self._masked(x, y)
        now, aux = now_at(self.steps_done, self.config, self.train), self._aux_features()
        told = self.captured.step(self, x, y, now) if self.captured and masked_B is None and not aux[1] else None
        if told is None:
            told = self._told(self.gradients(x, y, masked_B, now, aux, self.manner))
        self.steps_done += 1
        if HEADS[self.config.variant].has_least:
            self._follow_threshold(told["least"])
        return self._figures(told, x if y is None else y, masked_B) if figures else {}

    def _told(self, result: Result) -> dict[str, Tensor]:
        """Move by a batch's gradients. Returns its scalars."""
        self.update(result.gradients)
        self.last_fired_F.masked_fill_(result.fired_F, self.steps_done + 1)
        return result.scalars()

    def _figures(self, told: dict[str, Tensor], target: Tensor, masked_B: Tensor | None) -> dict[str, Tensor]:
        B, kept = len(target), target if masked_B is None else target[~masked_B]
        total = kernels_for(kept.device).spread(kept) if self.mesh.leads else torch.nan
        return {
            "loss": told["loss"],
            "mse": told["squared_error"] / (B * self.config.width_out),
            "fvu": told["squared_error"] / total,
            "l1": told["l1"] / B,
            "l0": told["active"] / B,
        }

    @torch.no_grad()
    def resample(self, x: Tensor, y: Tensor | None = None) -> int:
        """Resample features silent in the last `resample_window` steps, on rows [n, d_in]. Returns how many."""
        dead_F = self.dead(self.train.resample_window)
        kept = ~masked_rows(x, y)
        if not kept.all():
            x, y = x[kept], None if y is None else y[kept]
        x, y = self._scaled(x), None if y is None else self._scaled(y)
        chunk = self.train.batch_size // self.slots
        now = now_at(self.steps_done, self.config, self.train)
        reborn = resample(self.sae, dead_F, x, self.steps_done, chunk, self.manner, self.adam.reset, y, self.mesh, now)
        self.last_fired_F[reborn] = self.steps_done
        return int(self.sae.part.add(torch.tensor(len(reborn), device=self.device)))

    def dead(self, window: int) -> Tensor:
        """Features held here that fired in none of the last `window` steps. bool; none before that many steps."""
        return self.last_fired_F <= self.steps_done - window

    def dead_fraction(self, window: int) -> float:
        """Share of all features that fired in none of the last `window` steps."""
        return float(self.sae.part.add(self.dead(window).sum())) / self.config.d_sae

    def whole(self) -> Sae:
        """The SAE with the features of all parts, on CPU: all ranks ask for it together."""
        part, tensors = self.sae.part, {}
        if part.count == 1:
            return self.sae.to("cpu")
        for name, t in self.sae.tensors().items():
            if name not in FEATURE_AXIS:
                tensors[name] = t.cpu()
                continue
            rows = t.T if FEATURE_AXIS[name] else t
            found = torch.cat([each.view(-1, *rows.shape[1:]).cpu() for each in part.every(rows.flatten())])
            tensors[name] = found.T if FEATURE_AXIS[name] else found
        return Sae.of(self.config, tensors)

    def dictionary(self) -> Sae:
        """The SAE for use on rows as they come: scale and decoder norms folded in, batch-wide variants as jumprelu."""
        return for_use(self.whole(), self.scale, self.threshold)

    def check_finite(self) -> None:
        """Raise Diverged, on all ranks, if a parameter is NaN or infinite on any."""
        bad = [name for name, t in self.sae.tensors().items() if not torch.isfinite(t).all()]
        if self.mesh.any(bool(bad)):
            which = bad[0] if bad else "a parameter of another rank"
            raise Diverged(
                f"{which} has values that are not finite after step {self.steps_done}; try a lower train.lr"
            )

    def state(self) -> dict[str, Tensor]:
        """This rank's share of a checkpoint, besides `steps_done`: what belongs to the features of `held`, and on the
        leading rank everything that belongs to none."""
        tensors = {"last_fired": self.last_fired_F[slice(*self._shown)]}
        for name, t in self.sae.tensors().items():
            if name in FEATURE_AXIS or self.mesh.leads:
                tensors[name] = self._cut(name, t)
                for key in MOMENTS:
                    moment = self.adam.moments[name][key]
                    owned = name in MATRICES and self.mesh.tree
                    tensors[f"adam.{name}.{key}"] = moment if owned else self._cut(name, moment)
        if self.mesh.leads:
            tensors["masked_rows"] = torch.tensor(self.masked_rows)
            tensors["scale"] = torch.tensor(self.scale, dtype=torch.float64)
            tensors["use_threshold"] = torch.tensor(self.threshold, dtype=torch.float64)
        return tensors

    def held(self) -> tuple[int, int]:
        """The features of the whole dictionary that `state` is of; an empty range if another rank tells as much."""
        lo, hi = self._shown
        return self.first + lo, self.first + hi

    def load_state(self, tensors: dict[str, Tensor], steps_done: int) -> None:
        """Go on from a state of all features from `first` to `end`, whoever wrote it."""
        lo, hi = self.own
        for name, t in self.sae.tensors().items():
            t.copy_(tensors[name])
            for key in MOMENTS:
                moment = tensors[f"adam.{name}.{key}"]
                if name in MATRICES:
                    moment = moment.narrow(FEATURE_AXIS[name], lo, hi - lo)
                self.adam.moments[name][key].copy_(moment)
        self.last_fired_F.copy_(tensors["last_fired"])
        self.masked_rows = int(tensors["masked_rows"])
        self.scale, self.threshold = float(tensors["scale"]), float(tensors["use_threshold"])
        self.steps_done = steps_done

    @property
    def _shown(self) -> tuple[int, int]:
        """Those of the features held here that this rank writes to checkpoints: with all-reduce one replica does."""
        return self.own if self.mesh.tree or self.mesh.seat.replica == 0 else (0, 0)

    def _cut(self, name: str, t: Tensor) -> Tensor:
        lo, hi = self._shown
        return t.narrow(FEATURE_AXIS[name], lo, hi - lo) if name in FEATURE_AXIS else t

    def gradients(
        self, x: Tensor, y: Tensor | None, masked_B: Tensor | None, now: Now, aux: tuple[Tensor | None, int],
        manner: Manner,
    ) -> Result:  # fmt: skip
        """Of the whole batch, by the slots of all ranks."""
        mesh = self.mesh
        step = Step(self.sae, len(x), manner, now, *aux)
        nodes = mesh.nodes(self.slots)
        rows = rows_of(x, y, masked_B, self.slots, nodes)
        counted = len(x) if masked_B is None else len(x) - int(masked_B.sum())
        step.now, products = with_statistic(step, rows, self.slots, counted, mesh.gather_slots(self.slots))
        found = {
            node: node_sums(step, part, product) for node, part, product in zip(nodes, rows, products, strict=True)
        }
        constant = step.constant()
        sums = mesh.combine(self.slots, found, constant.dead_F)
        return finish(self.sae, sums, replace(constant, own=self.own))

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

    def _aux_features(self) -> tuple[Tensor | None, int]:
        """The features held here that AuxK is for, int64 [n], and how many there are in all parts."""
        if self.config.variant not in TOP_K or self.config.aux_coefficient == 0:
            return None, 0
        dead = self.dead(-(-self.train.dead_rows // self.train.batch_size)).nonzero().flatten()
        return dead, int(self.sae.part.add(torch.tensor(len(dead), device=dead.device)))

    def _follow_threshold(self, least: Tensor) -> None:
        """The mean of the least activations of steps with the k of the end: of all at first, later of the last
        THRESHOLD_STEPS or so, or of this share of the training if that is less. Earlier parameters want another one."""
        value = float(least)
        if math.isfinite(value):
            window = max(1, min(THRESHOLD_STEPS, round(self.train.steps * THRESHOLD_SHARE)))
            steps = min(steps_with_last_k(self.steps_done, self.train), window)
            self.threshold += (value - self.threshold) / (steps if self.threshold and steps else 1)

    def update(self, gradients: dict[str, Tensor], on_device: tuple[Tensor, Tensor] | None = None) -> None:
        """Adam on all parameters. Decoder rows of unit norm stay so and move only at right angles to themselves.

        on_device   what a GPU's Adam needs to know of the step, and whether it is to take it
        """
        unit = self.config.decoder == "unit"
        if self.train.clip_norm:
            if unit:  # what Adam will take away must not count
                g, W_dec = gradients["W_dec"], self.sae.W_dec[slice(*self.own)]
                g -= (g * W_dec).sum(dim=1, keepdim=True) * W_dec
            self._clip(gradients)
        self.adam.step(gradients, self.steps_done + 1, lr_at(self.steps_done, self.train), unit, on_device)
        self.mesh.spread(self.sae.W_dec, self.sae.W_enc.T)
        if self.config.variant == "jumprelu":
            self.sae.threshold.clamp_(min=0.0)

    def _clip(self, gradients: dict[str, Tensor]) -> None:
        """Scale all gradients, in place, so that their norm together is at most `train.clip_norm`.

        Squares are summed by feature first: these sums are the same whoever owns the feature.
        """
        squares_F = gradients["W_dec"].square().sum(dim=1) + gradients["W_enc"].T.square().sum(dim=1)
        others = {name: g.square().sum() for name, g in gradients.items() if name not in MATRICES}
        by_feature = [square for name, square in others.items() if name in FEATURE_AXIS]
        square = self.sae.part.add(self.mesh.own_rows(squares_F).sum() + sum(by_feature))
        norm = (square + sum(s for name, s in others.items() if name not in FEATURE_AXIS)).sqrt()
        factor = (self.train.clip_norm / (norm + 1e-6)).clamp(max=1.0)
        for g in gradients.values():
            g.mul_(factor)
