import json
import random
import shutil
from dataclasses import replace

import pytest

from detector.console import UsageError
from model.describer.describer import Describer
from model.describer.grammar import Writer
from model.describer.lexicon import Wording, join
from training.recipes import DescriberRecipe
from training.train.describer import (
    collate,
    exact_rates,
    examples,
    fresh,
    reference,
    train_describer,
)

TINY = DescriberRecipe(
    steps=30, batch=8, hidden=32, layers=1, heads=2, warmup=5, learning_rate=1e-2, held_out=50
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("describer")
    return folder, train_describer(folder, TINY)


def test_loss_falls(trained):
    _, facts = trained
    assert facts.last_loss < 0.75 * facts.first_loss


def test_facts_are_written_beside_the_weights(trained):
    folder, facts = trained
    written = json.loads((folder / "training.json").read_text())
    assert written["settings"]["seed"] == TINY.seed
    assert written["settings"]["steps"] == TINY.steps
    assert written["last_loss"] == facts.last_loss
    assert 0 <= written["free_exact"] <= written["held_exact"] <= 1


def test_the_result_loads_and_writes(trained):
    folder, _ = trained
    describer = Describer.load(folder)
    free, constrained = exact_rates(describer, random.Random(9), 50)
    assert free <= constrained


def test_same_seed_same_weights(trained, tmp_path):
    folder, _ = trained
    train_describer(tmp_path, TINY)
    name = "model.safetensors"
    assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_another_recipe_is_not_resumed(trained, tmp_path):
    run = shutil.copytree(trained[0], tmp_path / "run")
    with pytest.raises(UsageError, match="another steps"):
        train_describer(run, replace(TINY, steps=31), resume=True)
    with pytest.raises(UsageError, match="another base"):
        train_describer(run, TINY, base=trained[0], resume=True)
    (run / "checkpoint.pt").write_bytes(b"half")
    with pytest.raises(UsageError, match="is broken or of another recipe"):
        train_describer(run, TINY, resume=True)


def test_a_base_model_is_fine_tuned(trained, tmp_path):
    folder, facts = trained
    further = train_describer(tmp_path, TINY, base=folder)
    assert further.first_loss < facts.first_loss
    assert further.parameters == facts.parameters


def test_references_are_sentences_of_the_grammar():
    stream = examples(random.Random(2))
    describer = fresh(TINY)
    for _ in range(200):
        mentions, wording = next(stream)
        pieces = reference(mentions, wording)
        writer = Writer(mentions, describer.spell)
        for piece in pieces:
            for token in describer.spell(piece):
                writer.write(token)
        assert writer.is_finished
        assert writer.text == join(pieces)


def test_wordings():
    mentions = next(f for f, _ in examples(random.Random(0)) if len(f) == 3)
    texts = {join(reference(mentions, wording)) for wording in Wording}
    assert len(texts) >= 3


def test_only_the_answer_is_a_target():
    describer = fresh(TINY)
    stream = examples(random.Random(1))
    batch = [next(stream) for _ in range(4)]
    ids, targets = collate(describer, batch)
    for row, (mentions, wording) in enumerate(batch):
        length = len(describer.encode_prompt(mentions, wording))
        assert (targets[row, :length] == -100).all()
        answer = targets[row][targets[row] != -100]
        assert ids[row, length : length + len(answer)].equal(answer)
        assert describer.tokenizer.decode(answer[-1:].tolist()).startswith(".")
