"""spaCy trained with fusedopt.thinc's optimizers: the same losses and scores as with thinc's own."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

spacy = pytest.importorskip("spacy")
thinc = pytest.importorskip("thinc.api")
pytest.importorskip("fusedopt.thinc")

from spacy.tokens import DocBin  # noqa: E402
from spacy.training import Example  # noqa: E402
from spacy.training.initialize import init_nlp  # noqa: E402
from spacy.training.loop import train  # noqa: E402

WORDS = [f"w{number}" for number in range(40)]
MODELS = {
    "textcat": {
        "@architectures": "spacy.TextCatBOW.v3",
        "exclusive_classes": True,
        "ngram_size": 1,
        "no_output_layer": False,
        "length": 4096,
    },
    "tagger": {
        "@architectures": "spacy.Tagger.v2",
        "tok2vec": {
            "@architectures": "spacy.HashEmbedCNN.v2",
            "pretrained_vectors": None,
            "width": 16,
            "depth": 1,
            "embed_size": 100,
            "window_size": 1,
            "maxout_pieces": 2,
            "subword_features": False,
        },
    },
}


def pipeline(pipe: str) -> Any:
    nlp = spacy.blank("en")
    nlp.add_pipe(pipe, config={"model": MODELS[pipe]})
    return nlp


def examples(nlp: Any, pipe: str, count: int = 60) -> list[Any]:
    """Texts whose category is told by most of their words, and whose tags by each."""
    source = random.Random(0)
    found = []
    for _ in range(count):
        words = [source.choice(WORDS) for _ in range(9)]
        is_low = [int(word[1:]) < 20 for word in words]
        low = float(sum(is_low) > 4)
        annotations = {
            "textcat": {"cats": {"low": low, "high": 1.0 - low}},
            "tagger": {"tags": ["L" if each else "H" for each in is_low]},
        }
        found.append(Example.from_dict(nlp.make_doc(" ".join(words)), annotations[pipe]))
    return found


def optimizer_of(name: str, **arguments: Any) -> Any:
    return spacy.registry.resolve({"one": {"@optimizers": name, **arguments}})["one"]


def losses_and_score(pipe: str, optimizer: Any, steps: int = 24) -> tuple[list[float], float]:
    thinc.fix_random_seed(0)
    nlp = pipeline(pipe)
    data = examples(nlp, pipe)
    nlp.initialize(lambda: data, sgd=optimizer)
    found = []
    for step in range(steps):
        losses: dict[str, float] = {}
        first = step % 6 * 10
        nlp.update(data[first : first + 10], sgd=optimizer, losses=losses)
        optimizer.step_schedules()
        found.append(losses[pipe])
    with nlp.use_params(optimizer.averages):
        scores = nlp.evaluate(data)
    return found, scores["cats_score" if pipe == "textcat" else "tag_acc"]


@pytest.mark.parametrize("pipe", MODELS)
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("Adam.v1", {"learn_rate": 0.01, "L2": 0.01}),
        ("Adam.v1", {"learn_rate": 0.01, "L2": 0.01, "L2_is_weight_decay": False}),
        ("RAdam.v1", {"learn_rate": 0.01}),
        ("SGD.v1", {"learn_rate": 0.1}),
    ],
    ids=["Adam", "Adam with L2", "RAdam", "SGD"],
)
def test_losses(pipe: str, name: str, arguments: dict[str, Any]) -> None:
    ours, our_score = losses_and_score(pipe, optimizer_of(f"fusedopt.{name}", **arguments))
    theirs, their_score = losses_and_score(pipe, optimizer_of(name, **arguments))
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)
    assert ours[-1] < ours[0]
    assert our_score == pytest.approx(their_score, abs=0.02)


def trained_from_a_file(folder: Path, optimizer: str, pipe: str) -> tuple[Any, str]:
    """Train as ``spacy train`` does, with a configuration that is a text."""
    nlp = pipeline(pipe)
    data = folder / "data.spacy"
    DocBin(docs=[one.reference for one in examples(nlp, pipe)], store_user_data=True).to_disk(data)
    config = nlp.config.copy()
    config["paths"] |= {"train": str(data), "dev": str(data)}
    config["training"] |= {"max_steps": 12, "eval_frequency": 5, "seed": 1}
    config["training"]["optimizer"] |= {
        "use_averages": True,
        "learn_rate": {
            "@schedules": "warmup_linear.v1",
            "warmup_steps": 4,
            "total_steps": 20,
            "initial_rate": 0.02,
        },
    }
    text = config.to_str()
    assert text.count('"Adam.v1"') == 1
    text = text.replace('"Adam.v1"', f'"{optimizer}"')
    made = init_nlp(spacy.util.load_config_from_str(text))
    (folder / "trained").mkdir()
    log = io.StringIO()
    train(made, folder / "trained", stdout=log, stderr=log)
    return spacy.load(folder / "trained" / "model-last"), log.getvalue()


@pytest.mark.parametrize("pipe", MODELS)
def test_the_loop_of_spacy_with_one_line_changed(pipe: str, tmp_path: Path) -> None:
    parameters = []
    for optimizer in ("Adam.v1", "fusedopt.Adam.v1"):
        folder = tmp_path / optimizer
        folder.mkdir()
        nlp, log = trained_from_a_file(folder, optimizer, pipe)
        assert "Initial learn rate: 0.0" in log
        model = nlp.get_pipe(pipe).model
        parameters.append(
            [
                node.get_param(name)
                for node in model.walk()
                for name in node.param_names
                if node.has_param(name)
            ]
        )
    for theirs, ours in zip(*parameters, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def test_a_loaded_pipeline_goes_on(tmp_path: Path) -> None:
    """Its arrays are new ones, and its nodes have new identifiers."""
    nlp, _ = trained_from_a_file(tmp_path, "fusedopt.Adam.v1", "textcat")
    optimizer = nlp.resume_training()
    assert type(optimizer).__module__ == "fusedopt.thinc.optimizer"
    losses: dict[str, float] = {}
    data = examples(nlp, "textcat")
    nlp.update(data, sgd=optimizer, losses=losses)
    after: dict[str, float] = {}
    for _ in range(5):
        optimizer.step_schedules()
        nlp.update(data, sgd=optimizer)
    nlp.update(data, sgd=optimizer, losses=after)
    assert after["textcat"] < losses["textcat"]


def test_a_label_is_added_in_mid_training() -> None:
    """spaCy puts a larger layer in the old one's place, with another identifier."""
    nlp = pipeline("textcat")
    data = examples(nlp, "textcat")
    optimizer = optimizer_of("fusedopt.Adam.v1")
    nlp.initialize(lambda: data, sgd=optimizer)
    nlp.update(data, sgd=optimizer)
    keys = set(optimizer.nr_update)
    nlp.get_pipe("textcat").add_label("other")
    nlp.update(data, sgd=optimizer)
    assert optimizer.nr_update.keys() > keys
