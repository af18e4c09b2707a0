"""Lightning's Trainer: closures, two groups, a scheduler, clipping, checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
lightning = pytest.importorskip("lightning.pytorch")

import fusedopt as fo  # noqa: E402
import fusedopt.torch  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

pytestmark = [
    # Lightning's own, of the machine and of PyTorch's changes.
    pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.:DeprecationWarning"),
]

Make = Callable[[list[dict[str, Any]]], Any]


class Regression(lightning.LightningModule):  # type: ignore[misc]
    def __init__(self, make: Make, losses: list[float]) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)
        )
        self.make, self.losses = make, losses

    def training_step(self, batch: Any, _: int) -> Any:
        x, y = batch
        loss = torch.nn.functional.mse_loss(self.layers(x), y)
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> Any:
        decayed = [p for p in self.parameters() if p.ndim > 1]
        others = [p for p in self.parameters() if p.ndim == 1]
        optimizer = self.make([{"params": decayed}, {"params": others, "weight_decay": 0.0}])
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 16)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


def data() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(64, 8, generator=generator)
    y = x.square().sum(1, keepdim=True) / 8
    return DataLoader(TensorDataset(x, y), batch_size=16)


def trained(
    make: Make, folder: Path, epochs: int = 4, ckpt_path: str | None = None, **options: Any
) -> tuple[Any, Any, list[float]]:
    torch.manual_seed(0)
    losses: list[float] = []
    model = Regression(make, losses)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **options,
    )
    trainer.fit(model, data(), ckpt_path=ckpt_path)
    return trainer, model, losses


def adamw(groups: Any) -> Any:
    return fusedopt.torch.AdamW(groups, lr=1e-2, weight_decay=0.1)


def test_losses_are_those_of_torch(tmp_path: Path) -> None:
    ours = trained(adamw, tmp_path)[2]
    theirs = trained(lambda groups: torch.optim.AdamW(groups, lr=1e-2, weight_decay=0.1), tmp_path)
    assert len(ours) == 16
    assert ours == pytest.approx(theirs[2], rel=1e-4)
    assert ours[-1] < 0.7 * ours[0]


def test_clipping_in_the_step_is_the_trainers(tmp_path: Path) -> None:
    ours = trained(lambda groups: fusedopt.torch.SGD(groups, lr=0.1, max_norm=0.05), tmp_path)[2]
    theirs = trained(
        lambda groups: torch.optim.SGD(groups, lr=0.1),
        tmp_path,
        gradient_clip_val=0.05,
        gradient_clip_algorithm="norm",
    )[2]
    unclipped = trained(lambda groups: torch.optim.SGD(groups, lr=0.1), tmp_path)[2]
    assert ours == pytest.approx(theirs, rel=1e-4)
    assert ours != pytest.approx(unclipped, rel=1e-2)


@pytest.mark.parametrize(
    "make",
    [adamw, lambda groups: fusedopt.torch.Optimizer(groups, fo.Lion(1e-3))],
    ids=["AdamW", "Lion"],
)
def test_a_checkpoint_goes_on_with_the_same_bits(make: Make, tmp_path: Path) -> None:
    straight = trained(make, tmp_path)[1]
    trainer = trained(make, tmp_path, epochs=2)[0]
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    _, resumed, losses = trained(make, tmp_path, ckpt_path=str(tmp_path / "half.ckpt"))
    assert len(losses) == 8
    for found, expected in zip(resumed.parameters(), straight.parameters(), strict=True):
        assert torch.equal(found, expected)


def test_bfloat16_autocast_and_accumulation(tmp_path: Path) -> None:
    options = {"precision": "bf16-mixed", "accumulate_grad_batches": 2}
    ours = trained(adamw, tmp_path, **options)[2]
    theirs = trained(
        lambda groups: torch.optim.AdamW(groups, lr=1e-2, weight_decay=0.1), tmp_path, **options
    )[2]
    assert ours == pytest.approx(theirs, rel=1e-2)
    assert ours[-1] < ours[0]
