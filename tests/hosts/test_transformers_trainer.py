"""Hugging Face's Trainer on a small model made from a configuration: decay groups, warm-up, resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

import fusedopt as fo  # noqa: E402
import fusedopt.torch  # noqa: E402

SETTINGS = {"lr": 3e-3}


class Sequences(torch.utils.data.Dataset):  # type: ignore[misc]
    """Numbers that count up, each sequence from a start of its own."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, i: int) -> dict[str, Any]:
        ids = (torch.arange(16) * (1 + i % 3) + i) % 32
        return {"input_ids": ids, "labels": ids}


def trained(
    folder: Path,
    cls: Any,
    settings: dict[str, Any],
    *,
    steps: int = 12,
    resume: bool = False,
    **more: Any,
) -> tuple[Any, list[float]]:
    transformers.set_seed(0)
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=32,
            n_positions=16,
            n_embd=32,
            n_layer=2,
            n_head=2,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=0,
            eos_token_id=0,
        )
    )
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=12,
        per_device_train_batch_size=8,
        weight_decay=0.1,
        warmup_steps=4,
        logging_steps=1,
        save_strategy="steps",
        save_steps=6,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        **more,
    )

    class Stop(transformers.TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, _: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = state.global_step >= steps

    trainer = transformers.Trainer(
        model,
        arguments,
        train_dataset=Sequences(),
        optimizer_cls_and_kwargs=(cls, settings),
        callbacks=[Stop()],
    )
    trainer.train(resume_from_checkpoint=resume)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return trainer, losses


def test_losses_are_those_of_torch(tmp_path: Path) -> None:
    trainer, ours = trained(tmp_path / "ours", fusedopt.torch.AdamW, SETTINGS)
    _, theirs = trained(tmp_path / "theirs", torch.optim.AdamW, SETTINGS)
    assert len(ours) == 12
    assert ours == pytest.approx(theirs, rel=1e-3)
    assert ours[-1] < 0.9 * ours[0]
    inner = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    assert type(inner) is fusedopt.torch.AdamW
    assert sorted(group["weight_decay"] for group in inner.param_groups) == [0.0, 0.1]


def test_clipping_in_the_step_is_the_trainers(tmp_path: Path) -> None:
    ours = trained(
        tmp_path / "ours", fusedopt.torch.AdamW, SETTINGS | {"max_norm": 0.1}, max_grad_norm=0.0
    )[1]
    theirs = trained(tmp_path / "theirs", torch.optim.AdamW, SETTINGS, max_grad_norm=0.1)[1]
    assert ours == pytest.approx(theirs, rel=1e-3)


@pytest.mark.parametrize(
    ("cls", "settings"),
    [
        (fusedopt.torch.AdamW, SETTINGS),
        (fusedopt.torch.Optimizer, {"optimizer": fo.Lion(1e-3)}),
    ],
    ids=["AdamW", "Lion"],
)
def test_a_checkpoint_goes_on_with_the_same_bits(
    tmp_path: Path, cls: Any, settings: dict[str, Any]
) -> None:
    straight = trained(tmp_path / "straight", cls, settings)[0].model
    trained(tmp_path / "resumed", cls, settings, steps=6)
    trainer, losses = trained(tmp_path / "resumed", cls, settings, resume=True)
    assert trainer.state.global_step == 12
    assert len(losses) == 12  # six of them are in the checkpoint
    for found, expected in zip(trainer.model.parameters(), straight.parameters(), strict=True):
        assert torch.equal(found, expected)
