"""The learner: parameters, Adam, the unit-norm constraint and the dead-feature clock of one dictionary.

It knows nothing of streams, stores or clusters: `step` takes a batch, `resample` takes rows. State is tensors
and one integer; the learning rate and everything else follow from the step.
"""

import torch
from torch import Tensor

from monosem.config.job import TrainConfig
from monosem.errors import Diverged
from monosem.sae.config import SaeConfig
from monosem.sae.gradients import batch_gradients
from monosem.sae.init import init_sae
from monosem.sae.model import PARAMETERS, Sae
from monosem.sae.resample import resample

MOMENTS = ("exp_avg", "exp_avg_sq")


def finite_rows(x: Tensor) -> Tensor:
    """Rows [n, d_in] without the masked ones, which hold NaN."""
    return x[~x[:, 0].isnan()]


class Learner:
    """One SAE in training.

    b_dec   where the decoder bias starts, [d_in]; the recipe wants the data's geometric median
            (`monosem.sae.init.geometric_median`)
    slots   fixed parts that a batch's gradient is summed from
    """

    def __init__(
        self,
        sae: SaeConfig,
        train: TrainConfig,
        device: str = "cpu",
        b_dec: Tensor | None = None,
        slots: int = 1,
    ):
        self.config, self.train, self.slots = sae, train, slots
        self.sae: Sae = init_sae(sae, b_dec).to(device)
        self.steps_done, self.masked_rows = 0, 0
        self.last_fired_F = torch.zeros(sae.d_sae, dtype=torch.int64, device=device)
        self.adam = torch.optim.Adam(
            [{"params": [self.sae.tensors()[name]]} for name in PARAMETERS],
            lr=train.lr,
            betas=(train.beta1, train.beta2),
            eps=train.eps,
            fused=True,
        )

    @torch.no_grad()
    def step(self, x: Tensor) -> dict[str, Tensor]:
        """One optimiser step on a batch [batch, d_in]. Rows that hold a NaN at their start count for nothing.

        Returns scalars, still on the device: loss, mse, fvu (of this batch), l1, l0.
        """
        if x.ndim != 2 or x.shape[1] != self.config.d_in:
            raise ValueError(f"a batch must be [rows, {self.config.d_in}], got {tuple(x.shape)}")
        x, masked_B = self._unmasked(x.to(self.sae.W_enc))
        result = batch_gradients(self.sae, x, self.slots, self.train.precision, masked_B)
        self._update(result.gradients)
        self.steps_done += 1
        self.last_fired_F.masked_fill_(result.fired_F, self.steps_done)
        B, D = x.shape
        mse, l1 = result.squared_error / (B * D), result.l1 / B
        kept = x if masked_B is None else x[~masked_B]
        total = (kept - kept.mean(dim=0)).square().sum()
        return {
            "loss": mse + self.config.l1_coefficient * l1,
            "mse": mse,
            "fvu": result.squared_error / total,
            "l1": l1,
            "l0": result.active / B,
        }

    @torch.no_grad()
    def resample(self, x: Tensor) -> int:
        """Resample features silent in the last `resample_window` steps, on rows [n, d_in]. Returns how many."""
        dead_F = self.dead(self.train.resample_window)
        x = finite_rows(x)
        chunk = self.train.batch_size // self.slots
        reborn = resample(self.sae, dead_F, x, self.steps_done, chunk, self.train.precision, self._reset_moments)
        self.last_fired_F[reborn] = self.steps_done
        return len(reborn)

    def dead(self, window: int) -> Tensor:
        """Features that fired in none of the last `window` steps. bool [d_sae]; none before that many steps."""
        return self.last_fired_F <= self.steps_done - window

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
        for name in PARAMETERS:
            for key in MOMENTS:
                tensors[f"adam.{name}.{key}"] = self._moments(name)[key]
        return tensors

    def load_state(self, tensors: dict[str, Tensor], steps_done: int) -> None:
        for name, t in self.sae.tensors().items():
            t.copy_(tensors[name])
            moments = self._moments(name)
            for key in MOMENTS:
                moments[key].copy_(tensors[f"adam.{name}.{key}"])
            moments["step"].fill_(float(steps_done))
        self.last_fired_F.copy_(tensors["last_fired"])
        self.masked_rows = int(tensors["masked_rows"])
        self.steps_done = steps_done

    def _unmasked(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The batch with zeros for masked rows, and which they are; almost always none."""
        masked_B = x[:, 0].isnan()
        n = int(masked_B.sum())
        if n == 0:
            return x, None
        if n == len(x):
            raise Diverged(f"all {n} rows of step {self.steps_done + 1} are masked: the host gave NaN or infinity")
        self.masked_rows += n
        return x.masked_fill(masked_B[:, None], 0.0), masked_B

    def _update(self, gradients: dict[str, Tensor]) -> None:
        """Adam on all parameters; decoder rows keep unit norm and move only at right angles to themselves."""
        W_dec = self.sae.W_dec
        g = gradients["W_dec"]
        g -= (g * W_dec).sum(dim=1, keepdim=True) * W_dec
        for name, t in self.sae.tensors().items():
            t.grad = gradients[name]
        self.adam.step()
        W_dec /= W_dec.norm(dim=1, keepdim=True)
        for t in self.sae.tensors().values():
            t.grad = None

    def _moments(self, name: str) -> dict[str, Tensor]:
        """Adam's state of a parameter, made as Adam makes it if there was no step yet."""
        t = self.sae.tensors()[name]
        state = self.adam.state[t]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=t.device)
            for key in MOMENTS:
                state[key] = torch.zeros_like(t)
        return state

    def _reset_moments(self, features: Tensor) -> None:
        for key in MOMENTS:
            self._moments("W_dec")[key][features] = 0.0
            self._moments("W_enc")[key][:, features] = 0.0
            self._moments("b_enc")[key][features] = 0.0
