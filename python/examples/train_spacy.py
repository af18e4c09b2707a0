"""Train a text classifier in spaCy, where one line of the configuration chooses the optimizer.

The texts are made here: orders and complaints, put together from a few words. thinc's own Adam,
which is spaCy's default, trains the same classifier beside it.

In a clone of the repository:

    pip install ".[thinc]" spacy
    python python/examples/train_spacy.py

The exit status is 1 if either of the two classifiers gets less than 95 % of the test texts right,
or if the losses differ by more than one percent.
"""

from __future__ import annotations

import argparse
import random
import sys
from time import perf_counter
from typing import Any

import spacy
from spacy.training import Example
from spacy.util import load_model_from_config, registry
from thinc.api import Config, fix_random_seed

CONFIG = """
[nlp]
lang = "en"
pipeline = ["textcat"]

[components]

[components.textcat]
factory = "textcat"

[components.textcat.model]
@architectures = "spacy.TextCatBOW.v3"
exclusive_classes = true
length = 262144
ngram_size = 2
no_output_layer = false

[training]

[training.optimizer]
@optimizers = "Adam.v1"
"""
OURS = CONFIG.replace('@optimizers = "Adam.v1"', '@optimizers = "fusedopt.Adam.v1"')

WORDS = {
    "ORDER": "please send order buy two ten boxes need more size colour deliver soon like",
    "COMPLAINT": "broken late wrong angry refund return never again missing torn poor bad",
}
COMMON = "the a my this your for of shirt shoes lamp table parcel card phone week today and"


def make_texts(number: int, rng: random.Random) -> list[tuple[str, str]]:
    texts = []
    for _ in range(number):
        label = rng.choice(list(WORDS))
        words = rng.choices(COMMON.split(), k=12) + rng.choices(WORDS[label].split(), k=4)
        words += rng.choices(" ".join(WORDS.values()).split(), k=3)
        rng.shuffle(words)
        texts.append((" ".join(words), label))
    return texts


def train(name: str, text: str, epochs: int) -> tuple[float, float]:
    fix_random_seed(0)
    rng = random.Random(0)
    training, test = make_texts(400, rng), make_texts(200, rng)
    config = Config().from_str(text)
    nlp = load_model_from_config(config, auto_fill=True)
    optimizer = registry.resolve(config["training"])["optimizer"]
    examples = [
        Example.from_dict(nlp.make_doc(words), {"cats": {each: each == label for each in WORDS}})
        for words, label in training
    ]
    nlp.initialize(lambda: examples)

    optimizer_seconds = 0.0

    def timed(*arguments: Any, **options: Any) -> Any:
        nonlocal optimizer_seconds
        start = perf_counter()
        returned = optimizer(*arguments, **options)
        optimizer_seconds += perf_counter() - start
        return returned

    start = perf_counter()
    for _ in range(epochs):
        rng.shuffle(examples)
        loss = 0.0
        for batch in spacy.util.minibatch(examples, 16):
            loss += nlp.update(batch, sgd=timed)["textcat"]
    seconds = perf_counter() - start

    with nlp.use_params(optimizer.averages):
        documents = nlp.pipe(words for words, _ in test)
        found = [max(doc.cats, key=lambda each: doc.cats[each]) for doc in documents]
    right = sum(a == b for a, (_, b) in zip(found, test, strict=True)) / len(test)
    share = optimizer_seconds / seconds
    print(
        f"{name:28} loss {loss:.5f}   right {right:.1%}   optimizer {share:6.1%} of {seconds:.2f} s"
    )
    return loss, right


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=4)
    epochs = parser.parse_args().epochs
    loss_1, right_1 = train("Adam.v1", CONFIG, epochs)
    loss_2, right_2 = train("fusedopt.Adam.v1", OURS, epochs)
    return 0 if min(right_1, right_2) >= 0.95 and abs(loss_1 - loss_2) < 0.01 * loss_1 else 1


if __name__ == "__main__":
    sys.exit(main())
