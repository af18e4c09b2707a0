"""Any rule in programs that train: accelerate, Lightning and the Trainer of transformers."""

from __future__ import annotations

from typing import Any

import fusedopt as fo
import pytest

torch = pytest.importorskip("torch")

import fusedopt.torch  # noqa: E402
import torch_parameters as given  # noqa: E402

pytestmark = [
    # Lightning's own, of the machine and of PyTorch's changes.
    pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.:DeprecationWarning"),
]

RULES: dict[str, Any] = {
    "Lion": lambda: fo.Lion(0.01, use_ema=True),
    "ScheduleFreeAdamW": lambda: fo.ScheduleFreeAdamW(0.05),
}
every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


def weights(model: Any) -> list[bytes]:
    return given.bits([parameter.detach() for parameter in model.parameters()])


@every_rule
def test_accelerate_resumes(rule: Any, tmp_path: Any) -> None:
    accelerate = pytest.importorskip("accelerate")

    def prepared() -> Any:
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        optimizer = fusedopt.torch.Optimizer(model.parameters(), rule())
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
        accelerator = accelerate.Accelerator(cpu=True)
        return accelerator, *accelerator.prepare(model, optimizer, scheduler)

    def train(steps: range, accelerator: Any, model: Any, optimizer: Any, scheduler: Any) -> None:
        for step in steps:
            optimizer.train()
            optimizer.zero_grad()
            x = given.tensors(step, torch.float32, [(4, 3)])[0]
            accelerator.backward(model(x).square().mean())
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.eval()

    one = prepared()
    train(range(3), *one)
    one[0].save_state(tmp_path)
    other = prepared()
    other[0].load_state(tmp_path)
    for each in (one, other):
        train(range(3, 6), *each)
    assert weights(one[1]) == weights(other[1])


@every_rule
def test_lightning_resumes(rule: Any, tmp_path: Any) -> None:
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.model = torch.nn.Linear(3, 1)

        def training_step(self, batch: Any, index: int) -> Any:
            return self.model(batch[0]).square().mean()

        def configure_optimizers(self) -> Any:
            optimizer = fusedopt.torch.Optimizer(self.parameters(), rule())
            return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]

    data = torch.utils.data.TensorDataset(given.tensors(0, torch.float32, [(16, 3)])[0])
    loader = torch.utils.data.DataLoader(data, batch_size=4)

    def fit(epochs: int, checkpoint: Any = None) -> tuple[Any, Any]:
        trainer = lightning.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            gradient_clip_val=1.0,
            default_root_dir=tmp_path,
        )
        module = Module()
        trainer.fit(module, loader, ckpt_path=checkpoint)
        return trainer, module

    trainer, _ = fit(2)
    trainer.save_checkpoint(path := tmp_path / "two.ckpt")
    _, resumed = fit(4, path)
    _, whole = fit(4)
    assert weights(resumed) == weights(whole)


@every_rule
def test_the_trainer_of_transformers_resumes(rule: Any, tmp_path: Any) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    config = transformers.BertConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=16,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    generator = torch.Generator().manual_seed(0)
    data = [
        {
            "input_ids": torch.randint(0, 20, (6,), generator=generator),
            "labels": torch.tensor(k % 2),
        }
        for k in range(16)
    ]

    def train(resume: Any) -> Any:
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=6,
            eval_strategy="steps",
            eval_steps=2,
            save_steps=2,
            per_device_train_batch_size=4,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=False,
            seed=1,
        )
        torch.manual_seed(0)
        trainer = transformers.Trainer(
            transformers.BertForSequenceClassification(config),
            arguments,
            train_dataset=data,
            eval_dataset=data,
            optimizer_cls_and_kwargs=(fusedopt.torch.Optimizer, {"optimizer": rule()}),
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    trainer = train(None)
    trainer.optimizer.train()
    resumed = train(str(tmp_path / "checkpoint-4"))
    resumed.optimizer.train()
    assert weights(resumed.model) == weights(trainer.model)
