"""A small student learns from a teacher: the loss by hand, its schedule, and resumption."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from model.fetalclip.checkpoint import load_fetalclip
from model.fetalclip.network import Architecture, FetalClip
from model.fetalclip.preprocess import TextEncoder
from model.fetalclip.student import StudentSize, student_architecture
from tests.support.clips import SMALL, random_clip, write_clip
from tests.support.planes import CLASSES, write_pictures
from training.data.captions import Captioned, caption_by_class, divide_captions
from training.data.labelled import read_labelled
from training.data.samples import SampleError
from training.fetalclip_recipes import DistillationRecipe
from training.train.fetalclip import distillation
from training.train.fetalclip.distillation import augment, beta_of, distil, distillation_loss

STUDENT = Architecture(
    embed_dim=16, vision_width=64, vision_layers=1, patch=16, image=32,
    text_width=16, text_layers=1, text_heads=2, vocabulary=600, context=117,
)  # fmt: skip
RECIPE = DistillationRecipe(epochs=3, batch=6, learning_rate=2e-3)
PROMPTS = {name: (f"a {name}", f"the {name} of it") for name in CLASSES}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Captioned], list[Captioned]]:
    path = write_pictures(tmp_path_factory.mktemp("planes"), patients=8)
    pictures = read_labelled(path, label_column="class")
    return divide_captions(caption_by_class(pictures, PROMPTS), 0.3, 0)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    return TextEncoder.load(write_clip(tmp_path_factory.mktemp("clip")), SMALL)


def _student() -> FetalClip:
    torch.manual_seed(3)
    return FetalClip(STUDENT)


def test_the_loss_by_hand() -> None:
    student = torch.tensor([[2.0, 0.0], [1.0, 1.0]])
    teacher = torch.tensor([[5.0, 0.0], [0.0, 5.0]])

    def softmax(a: float, b: float) -> tuple[float, float]:
        return math.exp(a) / (math.exp(a) + math.exp(b)), math.exp(b) / (math.exp(a) + math.exp(b))

    p = softmax(1.0, 0.0)  # Of the teacher at temperature 5, the matching one first.
    rows = [softmax(2, 0), softmax(1, 1)]
    columns = [softmax(2, 1), softmax(1, 0)]
    for beta in (2.0, 0.0, -0.8):
        expected = 0.0
        for q in (*rows, *columns):
            expected -= (p[0] * math.log(q[0]) + beta * p[1] * math.log(q[1])) / 4
        value = distillation_loss(student, teacher, torch.eye(2, dtype=torch.bool), beta, 5.0)
        assert float(value) == pytest.approx(expected, rel=1e-5)


def test_equal_captions_match_too() -> None:
    logits = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    all_match = torch.ones(3, 3, dtype=torch.bool)
    # Where everything matches, the weight of the others is of nothing.
    values = [distillation_loss(logits, logits, all_match, beta, 5.0) for beta in (2.0, -0.8)]
    assert values[0] == values[1]


@pytest.mark.parametrize(("beta", "follows"), [(2.0, True), (-0.8, False)])
def test_a_coupled_student_follows_the_teachers_confusions_and_a_repelled_one_does_not(
    beta: float, follows: bool
) -> None:
    """The teacher confuses the first two; logits learn freely, held by CLIP's own loss."""
    teacher = torch.tensor([[5.0, 4.0, -9.0], [4.0, 5.0, -9.0], [-9.0, -9.0, 5.0]])
    logits: Tensor = torch.zeros(3, 3, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.05)
    match = torch.eye(3, dtype=torch.bool)
    for _ in range(60):
        own = torch.nn.functional.cross_entropy(logits, torch.arange(3))
        loss = own + distillation_loss(logits, teacher, match, beta, 5.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    confused, other = float(logits[0, 1].detach()), float(logits[0, 2].detach())
    assert (confused > other) == follows


def test_the_weight_falls_from_coupled_to_repulsive() -> None:
    recipe = DistillationRecipe(epochs=5)
    assert [beta_of(epoch, recipe) for epoch in range(5)] == pytest.approx(
        [2.0, 1.3, 0.6, -0.1, -0.8]
    )
    assert beta_of(0, DistillationRecipe(epochs=1)) == 2.0


@pytest.mark.parametrize("is_augmented", [True, False])
def test_a_killed_run_resumes_to_the_same_losses(
    tmp_path: Path,
    pairs: tuple[list[Captioned], list[Captioned]],
    encoder: TextEncoder,
    is_augmented: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = DistillationRecipe(epochs=3, batch=6, learning_rate=2e-3, augment=is_augmented)

    def run(out: Path, *, resume: bool = False) -> dict[str, Any]:
        return distil(
            random_clip(), _student(), encoder, *pairs, out, recipe, teacher_sha256="t",
            resume=resume,
        )  # fmt: skip

    whole = run(tmp_path / "a")
    end_epoch = distillation._Run.end_epoch

    def die(self: Any, loss: float, value: float) -> None:
        if self.epoch == 1:
            raise KeyboardInterrupt
        end_epoch(self, loss, value)

    with monkeypatch.context() as patch:
        patch.setattr(distillation._Run, "end_epoch", die)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "b")
    again = run(tmp_path / "b", resume=True)
    assert again["losses"] == whole["losses"]
    assert again["validation losses"] == whole["validation losses"]
    # What is written is a FetalCLIP folder, with its tokenizer, and the same network.
    first, second = (load_fetalclip(tmp_path / name) for name in "ab")
    assert first.architecture == STUDENT
    for one, other in zip(first.clip.parameters(), second.clip.parameters(), strict=True):
        assert torch.equal(one, other)
    assert TextEncoder.load(tmp_path / "a", STUDENT).tokens(["a disc"]).shape[0] == 1
    facts = json.loads((tmp_path / "a/training.json").read_text())
    assert facts["teacher"]["parameters"] > facts["student"]["parameters"]


def test_the_teacher_stays_as_it_is(
    tmp_path: Path, pairs: tuple[list[Captioned], list[Captioned]], encoder: TextEncoder
) -> None:
    teacher, before = random_clip(), random_clip()
    recipe = DistillationRecipe(epochs=1, batch=6, learning_rate=2e-3)
    student = _student()
    start = {name: tensor.clone() for name, tensor in student.clip.state_dict().items()}
    distil(teacher, student, encoder, *pairs, tmp_path / "a", recipe)
    for one, other in zip(teacher.clip.parameters(), before.clip.parameters(), strict=True):
        assert torch.equal(one, other)
    moved = [
        name for name, t in student.clip.state_dict().items() if not torch.equal(t, start[name])
    ]
    assert any(name.startswith("text_model") for name in moved)
    assert any(name.startswith("vision_model") for name in moved)
    assert "logit_scale" in moved


def test_students_are_small_and_of_the_teachers_tokens() -> None:
    teacher = Architecture()
    for size, most in ((StudentSize.TINY, 25e6), (StudentSize.SMALL, 55e6)):
        architecture = student_architecture(size, teacher)
        assert (architecture.vocabulary, architecture.context) == (49408, 117)
        assert architecture.patch == 16
        with torch.device("meta"):
            student = FetalClip(architecture)
        assert sum(p.numel() for p in student.clip.parameters()) < most


def test_pictures_are_varied_the_same_for_the_same_generator_and_never_mirrored() -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[16:48, 8:24] = 200
    one, other = (augment(pixels, np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(one, other)
    assert not np.array_equal(one, pixels)
    for seed in range(8):
        varied = augment(pixels, np.random.default_rng(seed)).astype(float)
        assert varied[:, :32].sum() > varied[:, 32:].sum()


def test_a_class_without_prompts_is_named(tmp_path: Path) -> None:
    pictures = read_labelled(write_pictures(tmp_path, patients=1), label_column="class")
    with pytest.raises(SampleError, match="class 'ring' has no prompts, but bar, disc have"):
        caption_by_class(pictures, {name: PROMPTS[name] for name in ("bar", "disc")})
    captions = [pair.caption for pair in caption_by_class(pictures, PROMPTS)]
    assert captions == [pair.caption for pair in caption_by_class(pictures, PROMPTS)]
    assert all(caption in PROMPTS[p.label] for caption, p in zip(captions, pictures, strict=True))
