"""The training loop: Lightning's Trainer, quiet, inside a time budget, resumed from its last checkpoint.

What an epoch draws at random (order, augmentation, dropout) depends on the seed and the epoch's number alone, so a
training that was killed and runs again ends with the same weights as one that was not.
"""
# ruff: noqa: TID253 - this file is imported inside functions only

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray
from torch import Tensor, nn

from loopworks.core.contracts import Arrays, Context
from loopworks.core.errors import Cancelled, Failed, NoSpace
from loopworks.train import machine
from loopworks.train.batches import Batches, Split, draw
from loopworks.train.budget import Budget
from loopworks.train.checkpoint import CHECKPOINT, Progress, resume, save_atomically
from loopworks.train.objectives import Changes
from loopworks.train.team import ALONE, Team

log = logging.getLogger(__name__)

CHECKPOINT_EVERY_S = 1.0
TICK_EVERY_S = 0.3
Judge = Callable[[Arrays], float]
"""Takes the answers for the validation items, named as the model's outputs, and gives the headline metric."""
Show = Callable[[NDArray[np.uint8], NDArray[Any], Arrays], bytes]
"""Takes a few validation images, their targets and the answers, and gives a PNG of them."""
LOGGERS = ("lightning.pytorch", "lightning.fabric", "lightning")
"""Lightning advertises and advises through them."""
SHOWN, SHOW_EVERY_S = 4, 5.0
"""Validation images in a picture, and the seconds between pictures, at least."""


class Objective(Protocol):
    """What is learnt: how a batch is prepared, what is wrong with the network's guess, and what its answer is."""

    @property
    def augment(self) -> Changes:
        """The random changes of its batches."""

    def seed(self, seed: int) -> None:
        """Begin the random draws of an epoch: the same seed, the same changes of the same batches."""

    def prepare(self, images: Tensor, targets: Tensor, *, is_training: bool) -> tuple[Tensor, Any]:
        """A batch for the network, changed at random where ``is_training``, and its targets changed alike.

        Args:
            images: uint8, shape ``(n, height, width, 3)``.
            targets: the rows of ``Split.targets``.
            is_training: whether to change it.
        Returns: normalized float32 ``(n, 3, height, width)``, and what ``loss`` takes.
        """

    def loss(self, raw: Any, targets: Any) -> Tensor:
        """Mean loss of a batch, a scalar; ``raw`` is what the network gave."""

    def answer(self, raw: Any) -> dict[str, Tensor]:
        """The network's output as the served model's outputs; the first axis is the batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Numbers of one training."""

    epochs: int
    batch: int
    rate: float
    """Highest learning rate of AdamW."""
    weight_decay: float
    patience: int
    """Epochs without a better validation result after which to stop."""
    threads: int
    warmup: float = 0.1
    """Share of the training in which the rate rises."""
    checkpoint_every_s: float = CHECKPOINT_EVERY_S
    """Seconds between checkpoints, at least; 0 writes one after each epoch."""


def rate_share(progress: float, warmup: float) -> float:
    """Learning rate as a share of the highest: up along a line, then down along half a cosine; ``progress`` 0..1."""
    if progress < warmup:
        return max(0.02, progress / warmup)
    rest = min(1.0, (progress - warmup) / (1 - warmup))
    return max(1e-3, 0.5 * (1 + math.cos(math.pi * rest)))


class Learner(LightningModule):
    """Network, objective and optimizer."""

    def __init__(self, network: nn.Module, objective: Objective, plan: Plan) -> None:
        """Wrap ``network``, which maps normalized images to what the objective's ``loss`` takes."""
        super().__init__()
        self.network = network
        self.objective = objective
        self.plan = plan
        self.loss_sum = torch.zeros(())
        self.shared: nn.Module | None = None
        """The network as a team trains it: its gradients are the mean over all processes."""
        self.weight = 1.0
        """Of the next piece of a batch in the loss."""

    def training_step(self, batch: tuple[Tensor, Tensor], _index: int) -> Tensor:
        """Loss of one batch."""
        x, targets = self.objective.prepare(*batch, is_training=True)
        loss = machine.in_full(self.objective.loss, (self.shared or self.network)(x), targets)
        if self.weight != 1.0:
            loss = loss * self.weight
        self.loss_sum += loss.detach()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW; norms and biases do not decay."""
        decay = [p for p in self.network.parameters() if p.requires_grad and p.ndim > 1]
        free = [p for p in self.network.parameters() if p.requires_grad and p.ndim <= 1]
        groups = [
            {"params": decay, "weight_decay": self.plan.weight_decay},
            {"params": free, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.plan.rate, fused=True)


def evaluate(
    learner: Learner, split: Split, batch: int, tick: Callable[[], None]
) -> tuple[dict[str, NDArray[Any]], float]:
    """Answers for a split, named as the model's outputs, and the mean loss.

    Args:
        learner: whose network answers.
        split: at least one item.
        batch: items at once.
        tick: called before each batch; may raise ``Cancelled``.
    """
    network = learner.network.eval()
    answers: list[dict[str, NDArray[Any]]] = []
    total = 0.0
    with torch.inference_mode():
        for start in range(0, len(split), batch):
            tick()
            places = slice(start, start + batch)
            images, wanted = split.images[places].to(learner.device), split.targets[places].to(learner.device)
            x, targets = learner.objective.prepare(images, wanted, is_training=False)
            raw = network(x)
            total += float(learner.objective.loss(raw, targets)) * len(images)
            answers.append({name: tensor.cpu().numpy() for name, tensor in learner.objective.answer(raw).items()})
    network.train()
    found = {name: np.concatenate([part[name] for part in answers]) for name in answers[0]}
    return found, total / len(split)


class Coach(Callback):
    """Watches over a training: rate, validation, best weights, checkpoint, budget, cancel."""

    def __init__(
        self,
        plan: Plan,
        progress: Progress,
        optimizer_state: dict[str, Any] | None,
        batches: Batches,
        val: Split | None,
        judge: Judge,
        budget: Budget,
        ctx: Context,
        show: Show | None = None,
        team: Team = ALONE,
    ) -> None:
        """Keep what to watch; ``progress`` is changed as the training goes on."""
        self.team = team
        self.plan, self.progress, self.batches, self.val = plan, progress, batches, val
        self.optimizer_state = optimizer_state
        self.judge, self.budget, self.ctx, self.show = judge, budget, ctx, show
        self._shown = -math.inf
        self.is_interrupted = False
        self._ticked = self._saved = time.monotonic()
        self._every_s = plan.checkpoint_every_s

    def interrupt(self) -> None:
        """Stop after the current batch."""
        self.is_interrupted = True

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Go on with the optimizer's state of the killed run; train together with the others of the team."""
        assert isinstance(module, Learner)
        if self.team.size > 1:
            module.shared = self.team.sharing(module.network)
        if self.optimizer_state is not None:
            trainer.optimizers[0].load_state_dict(self.optimizer_state)

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Draw this epoch's randomness."""
        assert isinstance(module, Learner)
        self.batches.epoch = self.progress.epoch
        torch.manual_seed(draw(self.ctx.seed, self.progress.epoch, 1 + 4 * self.team.rank))
        module.objective.seed(draw(self.ctx.seed, self.progress.epoch, 2))
        module.loss_sum = torch.zeros((), device=module.device)

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set the learning rate, and what this process has of the batch."""
        whole = batch_idx - batch_idx % self.batches.pieces  # all pieces of a batch take one step together
        if self.team.size > 1:
            assert isinstance(module, Learner)
            first, count, total = self.batches.place(batch_idx)
            module.objective.augment.share(first, total)
            module.weight = count * self.team.size * self.batches.pieces / total
            self.team.join(module.shared, is_last=(batch_idx + 1) % self.batches.pieces == 0)
        # The clock of the first process counts, so that all of them take the same step and end together.
        share = rate_share(self.team.number(self._share(whole)), self.plan.warmup)
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = self.plan.rate * share

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop where the user asks to or the time is over."""
        self._stop_if_asked()
        if self.team.number(self.budget.share()) >= 1:
            self.progress.ended = "budget"
            trainer.should_stop = True
        if time.monotonic() - self._ticked >= TICK_EVERY_S:
            self._tick(batch_idx + 1)
            self._check_loss(module)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Judge the epoch, keep the best weights, write the checkpoint."""
        assert isinstance(module, Learner)
        self._check_loss(module)
        done = self.progress.epoch + 1
        self.ctx.metric("train_loss", done, self.team.mean(module.loss_sum) / max(1, trainer.num_training_batches))
        self._judge(module, done)
        self.progress.epoch = done
        self.progress.spent_s = self.budget.spent_s()
        if done >= self.plan.epochs:
            self.progress.ended = self.progress.ended or "epochs"
        elif self.val is not None and done - self.progress.best_epoch >= self.plan.patience:
            self.progress.ended = self.progress.ended or "patience"
        if self.progress.ended:
            self.progress.is_done = True
            trainer.should_stop = True
            if self.val is None:
                # Without validation items the last weights are the ones to keep.
                self._keep(module, done, 0.0, 0.0)
        if self.progress.is_done or time.monotonic() - self._saved >= self._every_s:
            self._save(module, trainer.optimizers[0])
        self._tick(0)

    def _judge(self, module: Learner, done: int) -> None:
        if self.val is None:
            return
        began = time.monotonic()
        pieces = self.progress.pieces
        count = max(1, self.plan.batch // pieces) if pieces > 1 else 2 * self.plan.batch
        answers, loss = self._answers(module, self.val, count)
        value = self.judge(answers) if self.team.is_first else 0.0
        value, loss = self.team.told((value, loss))
        self.ctx.metric("val_loss", done, loss)
        self.ctx.metric("val_headline", done, value)
        if self.team.is_first:
            self._picture(answers, done)
        if (value, -loss) > (self.progress.best_value, -self.progress.best_loss):
            self._keep(module, done, value, loss)
        # Validation and test items are asked once more, of the written file.
        self.budget.reserve(2 * (time.monotonic() - began) * self.team.size)

    def _answers(self, module: Learner, val: Split, count: int) -> tuple[dict[str, NDArray[Any]], float]:
        """Answers for all of ``val`` and the mean loss, for the first of the team; each asks for its part."""
        if self.team.size == 1:
            return evaluate(module, val, count, self._stop_if_asked)
        mine = val.part(self.team.places(len(val)))
        found = evaluate(module, mine, count, self._stop_if_asked) if len(mine) else ({}, 0.0)
        parts = [(part, loss, size) for part, loss, size in self.team.gathered((*found, len(mine))) if size]
        if not parts:
            return {}, 0.0
        together = {name: np.concatenate([part[name] for part, _, _ in parts]) for name in parts[0][0]}
        return together, sum(loss * size for _, loss, size in parts) / len(val)

    def _picture(self, answers: Arrays, done: int) -> None:
        if self.show is None or self.val is None or time.monotonic() - self._shown < SHOW_EVERY_S:
            return
        some = {name: values[:SHOWN] for name, values in answers.items()}
        self.ctx.picture(
            "val", done, self.show(self.val.images[:SHOWN].numpy(), self.val.targets[:SHOWN].numpy(), some)
        )
        self._shown = time.monotonic()

    def _keep(self, module: Learner, done: int, value: float, loss: float) -> None:
        self.progress.best_value, self.progress.best_loss, self.progress.best_epoch = value, loss, done
        self.progress.best = {name: x.detach().cpu().clone() for name, x in module.network.state_dict().items()}

    def _save(self, module: Learner, optimizer: torch.optim.Optimizer) -> None:
        if not self.team.is_first:
            return
        state = {
            "network": module.network.state_dict(),
            "optimizer": optimizer.state_dict(),
            "progress": {name: getattr(self.progress, name) for name in Progress.__slots__},
        }
        began = time.monotonic()
        try:
            save_atomically(state, self.ctx.scratch / CHECKPOINT)
        except NoSpace as error:
            # The epochs done are worth more than the checkpoint: there may be room again before anything is killed.
            self.progress.unsaved += 1
            log.warning("checkpoint not written epoch=%d error=%s", self.progress.epoch, error.message)
        self._saved = time.monotonic()
        # Large networks take long to write: not more than one part in fifty of the time goes into checkpoints.
        if self.plan.checkpoint_every_s:
            self._every_s = max(self.plan.checkpoint_every_s, 50 * (self._saved - began))

    def _share(self, batch: int) -> float:
        steps = (self.progress.epoch + batch / len(self.batches)) / self.plan.epochs
        return min(1.0, max(steps, self.budget.share()))

    def _tick(self, batch: int) -> None:
        self._ticked = time.monotonic()
        best = "" if self.val is None or not self.progress.best_epoch else f", best {self.progress.best_value:.3f}"
        full = ", the disk is full: no checkpoint" if self.progress.unsaved else ""
        epoch = min(self.progress.epoch + 1, self.plan.epochs)
        self.ctx.tick(self._share(batch), f"epoch {epoch} of {self.plan.epochs}{best}{full}")

    def _stop_if_asked(self) -> None:
        if self.is_interrupted or self.ctx.stopped():
            raise Cancelled

    def _check_loss(self, module: LightningModule) -> None:
        assert isinstance(module, Learner)
        if not math.isfinite(float(module.loss_sum)):
            raise Failed(
                f"training loss must be finite; got {float(module.loss_sum)} in epoch {self.progress.epoch + 1}",
                f"lower the learning rate (rate={self.plan.rate:g}), or look for damaged images",
            )


def fit(
    learner: Learner,
    train: Split,
    val: Split | None,
    judge: Judge,
    *,
    fingerprint: str,
    budget: Budget,
    ctx: Context,
    show: Show | None = None,
) -> Progress:
    """Train ``learner.network`` in place and load its best weights.

    Where a batch has no room in memory, it is fed in halves (quarters, ...) whose gradients are added up, and the
    training goes on from its last checkpoint; what batch norm sees is then a half. A disk that is full costs
    checkpoints, not the training.

    Args:
        learner: what learns; its network's weights are where the training begins.
        train: items to learn from; at least one.
        val: items that choose the best epoch; ``None`` keeps the last.
        judge: headline metric of answers for ``val``.
        fingerprint: says what is trained from what; a checkpoint with another one is not continued.
        budget: the training's clock.
        ctx: its scratch folder holds the checkpoint.
        show: makes pictures of validation items for ``ctx.picture``.
    Raises: Cancelled, Failed (loss not finite, or no room for a single item).
    """
    plan = learner.plan
    learner.network.to(memory_format=torch.channels_last)
    first = {name: x.detach().clone() for name, x in learner.network.state_dict().items()}
    with machine.threads(plan.threads):
        progress, optimizer_state = resume(ctx.scratch / CHECKPOINT, fingerprint, learner.network)
        budget.resume(progress.spent_s)
        pieces = progress.pieces
        while not progress.is_done:
            progress.pieces = pieces
            batches = Batches(train, plan.batch, ctx.seed, pieces)
            if attempt(learner, Coach(plan, progress, optimizer_state, batches, val, judge, budget, ctx, show)):
                break
            pieces = smaller(batches, learner)
            learner.network.load_state_dict(first)
            progress, optimizer_state = resume(ctx.scratch / CHECKPOINT, fingerprint, learner.network)
    learner.network.load_state_dict(progress.best)
    learner.network.eval()
    return progress


def smaller(batches: Batches, learner: Learner) -> int:
    """Pieces to feed a batch in, where so many had no room; memory of the failed try is free when it returns."""
    learner.zero_grad(set_to_none=True)
    machine.free_memory()
    has_norm = any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in learner.network.modules())
    if batches.least < 2 * (2 if has_norm else 1):
        raise Failed("training must fit into memory; got out of memory", "lower image_size, or take a smaller network")
    log.warning("out of memory: batches are fed in pieces=%d", 2 * batches.pieces)
    return 2 * batches.pieces


def attempt(learner: Learner, coach: Coach) -> bool:
    """Train to the end; ``False`` where memory ran out."""
    with machine.quiet(*LOGGERS), machine.interrupts(coach.interrupt), torch.random.fork_rng(devices=[]):
        trainer = Trainer(
            max_epochs=coach.plan.epochs - coach.progress.epoch,
            accelerator="auto",
            devices=1,
            precision=machine.precision(),
            accumulate_grad_batches=coach.batches.pieces,
            logger=False,
            callbacks=[coach],
            limit_val_batches=0,
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            use_distributed_sampler=False,
            default_root_dir=str(coach.ctx.scratch),
        )
        learner.train()
        try:
            trainer.fit(learner, coach.batches)
        except (RuntimeError, MemoryError, ValueError) as error:
            if "more than 1 value per channel" in str(error):
                raise Failed("batches must hold more than one image for this network; got one", "batch=2") from None
            if not machine.is_out_of_memory(error):
                raise
            return False
    return True
