"""Parts: made of models in folders, opened by a bundle's rules, one line for what is wrong."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detector.anatomy import View
from detector.errors import ErrorCode, QCError
from model.nextgen_uia.checkpoint import load_tower, save_trained, tower_sha256
from model.nextgen_uia.network import AdaptedNetwork, HeadConfig, Task
from model.parts.build import build_part
from model.parts.opinion import LOW_PROBABILITY, LOW_SIMILARITY, SECOND_OPINION, Opinion, PartId
from model.parts.part import MANIFEST, Family, Part, RejectThresholds, verify_part
from model.parts.view_models import OpinionModel
from model.spatialclip.backbone import SONONET
from model.spatialclip.checkpoint import save_spatialclip
from tests.support.command_line import qc_daemon_here
from tests.support.parts import (
    VIEWS,
    dual_branch_folder,
    dual_branch_part,
    fetalclip_part,
    write_json,
)
from tests.support.towers import spatialclip, tower_folder, write_sononet

CPU = torch.device("cpu")
SCREEN = np.full((60, 80, 3), 90, np.uint8)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Part:
    return dual_branch_part(tmp_path_factory.mktemp("parts") / "planes")


def copy(part: Part, folder: Path) -> Path:
    shutil.copytree(part.path, folder)
    return folder


def ask(part: Part) -> Opinion:
    model = OpinionModel.load(SECOND_OPINION, part, CPU)
    first, second = model.opinions(SCREEN, [SCREEN[:50], SCREEN])
    assert first.label == second.label
    return first


def test_a_part_has_its_classes_views_and_card(classifier: Part) -> None:
    assert classifier.views == {
        "Nasal triangle": (View.NT,),
        "Stomach": (View.ABDOMEN,),
        "Femur": (),
    }
    assert classifier.id.family == "dual-branch"
    assert "| Femur | none of ours |" in classifier.card
    assert verify_part(classifier.path) == []
    assert not list(classifier.path.rglob("*.pt"))


def test_a_class_is_an_opinion_on_the_view(classifier: Part) -> None:
    opinion = ask(classifier)
    assert (opinion.label, opinion.views, opinion.reason) == ("Nasal triangle", (View.NT,), None)
    assert opinion.probability == pytest.approx(1 / (1 + 2 * np.exp(-4)), abs=1e-6)
    assert opinion.agrees_with(View.NT) is True
    assert opinion.agrees_with(View.OTHER) is False


@pytest.mark.parametrize("kind", ["clip", "spatialclip", "sononet16"])
def test_a_head_on_any_tower_is_a_part(kind: str, tmp_path: Path) -> None:
    source = tmp_path / kind
    if kind == "clip":
        tower_folder(source)
    elif kind == "spatialclip":
        save_spatialclip(source, spatialclip(SONONET))
    else:
        source = write_sononet(tmp_path / "sononet16.safetensors")
    tower = load_tower(source)
    head = HeadConfig(Task.CLASSIFICATION, ("NT", "HEAD"), width=8)
    network = AdaptedNetwork(tower, head)
    save_trained(tmp_path / "run", tower, tower_sha256(tower), head=network.head, head_config=head)
    part = build_part(
        Family.NEXTGEN_UIA, tmp_path / "run", tmp_path / "part", name="heads", version="1",
        tower=source,
    )  # fmt: skip
    shutil.rmtree(tmp_path / "run")
    (shutil.rmtree if source.is_dir() else Path.unlink)(source)
    assert ask(part).label in head.classes


def test_a_class_of_none_of_our_views_says_nothing(tmp_path: Path) -> None:
    opinion = ask(dual_branch_part(tmp_path / "planes", answer="Femur"))
    assert opinion.label == "Femur"
    assert opinion.agrees_with(View.HEAD) is None


def test_a_part_that_is_not_sure_says_nothing(tmp_path: Path) -> None:
    part = dual_branch_part(tmp_path / "planes", reject=RejectThresholds(min_probability=0.99))
    opinion = ask(part)
    assert (opinion.reason, opinion.views) == (LOW_PROBABILITY, ())
    assert opinion.agrees_with(View.CRL) is None


def test_prompts_give_an_opinion_unless_the_picture_is_like_none(tmp_path: Path) -> None:
    views = {"face": ["NT", "HEAD"], "belly": ["NT", "HEAD"]}
    opinion = ask(fetalclip_part(tmp_path / "fetal", views))
    assert opinion.label in views
    assert opinion.views == (View.NT, View.HEAD)
    assert opinion.agrees_with(View.HEAD) is True
    strict = fetalclip_part(tmp_path / "strict", views, reject=RejectThresholds(min_cosine=1.0))
    assert ask(strict).reason == LOW_SIMILARITY


def test_a_part_without_prompts_names_no_class(tmp_path: Path) -> None:
    with pytest.raises(QCError, match="part fetal: it has no prompts"):
        OpinionModel.load(SECOND_OPINION, fetalclip_part(tmp_path / "fetal"), CPU)


def test_an_opinion_survives_json() -> None:
    part = PartId("dual-branch", "planes", "1", "ab" * 32)
    for opinion in (
        Opinion(SECOND_OPINION, part, "Femur", 0.5, (), None),
        Opinion(SECOND_OPINION, part, "Kopf", 0.25, (View.HEAD, View.NT), None),
        Opinion(SECOND_OPINION, part, "Kopf", 0.25, (), LOW_SIMILARITY),
    ):
        data = json.loads(json.dumps(opinion.to_json(View.NT)))
        assert Opinion.from_json(data) == opinion
        assert data["agrees"] == opinion.agrees_with(View.NT)
    with pytest.raises(ValueError, match="no probability"):
        Opinion.from_json(data | {"probability": 1.5})


@pytest.mark.parametrize(
    ("name", "content", "code", "message"),
    [
        ("model/weights.safetensors", b"x" * 99, "mismatch", "another hash than part.json says"),
        ("model/weights.safetensors", None, "incomplete", "model/weights.safetensors is missing"),
        ("model/more.pt", b"x", "incomplete", "more.pt is not listed in part.json: remove it"),
        (MANIFEST, b"{", "mismatch", "part.json is invalid"),
        (MANIFEST, None, "incomplete", "no readable part.json"),
    ],
)
def test_a_part_whose_files_are_wrong_is_refused_in_one_line(
    classifier: Part, tmp_path: Path, name: str, content: bytes | None, code: str, message: str
) -> None:
    path = copy(classifier, tmp_path / "copy") / name
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(QCError, match=message) as caught:
        Part.open(tmp_path / "copy")
    assert caught.value.code == ErrorCode(f"bundle-{code}")
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "unet"}, "family 'unet' is none of"),
        ({"name": "a/b"}, "name has a /"),
        ({"views": {"x": "HEART"}}, "'HEART', which is none of"),
        ({"reject": {}}, "min_probability"),
    ],
)
def test_a_manifest_with_wrong_facts_is_refused(
    classifier: Part, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    folder = copy(classifier, tmp_path / "copy")
    (folder / MANIFEST).write_text(json.dumps({**classifier.manifest, **change}))
    (problem,) = verify_part(folder)
    assert "part.json is invalid" in problem
    assert message in problem


def test_views_of_classes_that_the_network_lacks_are_refused(
    classifier: Part, tmp_path: Path
) -> None:
    folder = copy(classifier, tmp_path / "copy")
    views = {**classifier.manifest["views"], "Heart": []}
    (folder / MANIFEST).write_text(json.dumps({**classifier.manifest, "views": views}))
    with pytest.raises(QCError, match="part planes: there is no class 'Heart'"):
        OpinionModel.load(SECOND_OPINION, Part.open(folder), CPU)


def test_the_command_makes_a_part_that_verify_and_show_know(tmp_path: Path) -> None:
    model = dual_branch_folder(tmp_path / "run", "NT", ("NT", "OTHER"))
    (tmp_path / "run" / "training.json").write_text("{}")
    command = ("bundle", "part", "--family", "dual-branch", "--model", model, "--name", "mine")
    done = qc_daemon_here(*command, "--out", tmp_path / "part")
    assert done.returncode == 0, done.stderr
    assert Part.open(tmp_path / "part").views == {"NT": (View.NT,), "OTHER": (View.OTHER,)}
    assert not (tmp_path / "part" / "model" / "training.json").exists()
    assert qc_daemon_here("bundle", "verify", tmp_path / "part").returncode == 0
    process = qc_daemon_here("bundle", "show", tmp_path / "part", "--format", "json")
    assert json.loads(process.stdout)["name"] == "mine"
    again = qc_daemon_here(*command, "--out", tmp_path / "part")
    assert (again.returncode, "exists: name a new folder" in again.stderr) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("--family", "unet"), 2, "--family unet: give one of fetalclip, dual-branch, nextgen-uia"),
        (("--family", "dual-branch"), 1, "--views is needed: class 'Nasal triangle' stands for"),
        (("--family", "dual-branch", "--views", "few.json"), 1, "the views of class 'Femur'"),
        (("--family", "dual-branch", "--prompts", "few.json"), 1, "prompts are of the family"),
        (("--family", "nextgen-uia"), 1, "a tower goes with a head"),
        (("--family", "fetalclip"), 1, "model.safetensors cannot be read"),
    ],
)
def test_what_no_part_can_be_made_of_is_one_line(
    tmp_path: Path, arguments: tuple[str, ...], status: int, message: str
) -> None:
    model = dual_branch_folder(tmp_path / "run", "Stomach")
    write_json(tmp_path / "few.json", {k: v for k, v in VIEWS.items() if k != "Femur"})
    paths = [str(tmp_path / each) if each.endswith(".json") else each for each in arguments]
    out = tmp_path / "part"
    done = qc_daemon_here(
        *("bundle", "part", "--model", model, "--name", "p", "--out", out), *paths
    )
    assert done.returncode == status, done.stderr
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not out.exists()
