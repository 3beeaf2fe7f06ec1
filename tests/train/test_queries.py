"""Detectors of transformers as recipes: tiny random networks, learnt, exported for any batch, begun from a folder."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from safetensors.numpy import load_file
from tests.train.pictures import CLASSES, things
from tests.train.test_detection import context

from loopworks.core.bundle import Bundle
from loopworks.core.errors import Invalid, Unreachable
from loopworks.core.values import LabelSchema
from loopworks.train import stage, weights

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from loopworks.train.detection import queries  # noqa: E402
from loopworks.train.detection.transformers import create  # noqa: E402

pytestmark = pytest.mark.train
FAMILIES = {"rt_detr": "RTDetr", "rt_detr_v2": "RTDetrV2", "d_fine": "DFine"}


def tiny(kind: str, classes: int = 5) -> Any:
    backbone = transformers.RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    return getattr(transformers, f"{FAMILIES[kind]}Config")(
        backbone_config=backbone, encoder_in_channels=[16, 16, 32], encoder_hidden_dim=32, encoder_ffn_dim=32,
        encoder_attention_heads=2, d_model=32, decoder_in_channels=[32] * 3, decoder_ffn_dim=32,
        decoder_attention_heads=2, decoder_layers=2, num_queries=24, num_labels=classes, anchor_image_size=[64, 64],
        freeze_backbone_batch_norms=False,
    )  # fmt: skip


def saved(folder: Path, kind: str = "rt_detr_v2") -> Path:
    torch.manual_seed(7)
    transformers.AutoModelForObjectDetection.from_config(tiny(kind)).save_pretrained(folder)
    return folder


def train(folder: Path, *, seed: int = 0, **params: Any) -> Bundle:
    return stage.train(
        things(16, 8, 0),
        recipe="transformers-detector",
        params={"epochs": 1, "batch": 8, "image_size": 96, **params},
        folder=folder / "bundle",
        ctx=context(folder / "scratch", seed),
        threads=1,
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(FAMILIES))
def test_every_family_becomes_a_bundle_that_answers_any_batch(tmp_path: Path, kind: str) -> None:
    made = train(tmp_path, model=str(saved(tmp_path / "model", kind)))
    assert made.notes[0].startswith(f"{FAMILIES[kind]}ForObjectDetection began from pretrained weights")
    assert {"map", "map50"} <= set(made.metrics["val"])
    session = onnxruntime.InferenceSession(str(made.path("model.onnx")), providers=["CPUExecutionProvider"])
    pixels = things(0, 7, 0).inputs(made.rule, "val")["image"]
    whole = dict(zip(("boxes", "scores", "classes"), session.run(None, {"image": pixels}), strict=True))
    assert {name: x.shape for name, x in whole.items()} == {
        "boxes": (7, 100, 4),
        "scores": (7, 100),
        "classes": (7, 100),
    }
    assert (np.diff(whole["scores"], axis=1) <= 0).all(), "the best come first"
    assert set(np.unique(whole["classes"])) <= set(range(len(CLASSES)))
    for count in (1, 2):
        some = session.run(["scores"], {"image": pixels[:count]})[0]
        np.testing.assert_allclose(some, whole["scores"][:count], atol=1e-4)


@pytest.mark.slow
def test_it_learns_what_is_where(tmp_path: Path) -> None:
    short = train(tmp_path / "short", weights="random", model=str(saved(tmp_path / "model")), rate=1e-9)
    made = train(tmp_path, weights="random", model=str(tmp_path / "model"), epochs=60, rate=3e-3, patience=60)
    assert made.notes[0] == "RTDetrV2ForObjectDetection began from random weights: asked for"
    before, after = (one.metrics["val"]["map50"].value for one in (short, made))
    assert after > before + 0.1, (before, after)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    model = str(saved(tmp_path / "model"))
    one, same, other = (train(tmp_path / str(i), seed=seed, model=model) for i, seed in enumerate((3, 3, 4)))
    assert one.sha256 == same.sha256
    assert one.sha256["model.safetensors"] != other.sha256["model.safetensors"]


@pytest.mark.slow
def test_without_a_network_it_begins_small_and_says_why_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(repo: str) -> None:
        raise Unreachable("the hub cannot be reached (ConnectionError)")

    monkeypatch.setattr(weights, "cached", lambda repo, others=(): None)
    monkeypatch.setattr(weights, "_probe", away)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    made = train(tmp_path)
    said = [note for note in made.notes if "began from" in note]
    assert said == ["RTDetrV2ForObjectDetection began from random weights: the hub cannot be reached (ConnectionError)"]


def test_a_folder_gives_its_weights_or_only_its_shape(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model")
    nets = [create(transformers, folder, 3, is_random=is_random).state_dict() for is_random in (False, True)]
    held = load_file(folder / "model.safetensors")
    name = next(key for key, x in held.items() if "backbone" in key and x.ndim == 4)
    assert np.array_equal(nets[0][name], held[name])
    assert not np.array_equal(nets[1][name], held[name])
    assert nets[0]["model.decoder.class_embed.0.weight"].shape[0] == 3


def test_the_small_one_is_small() -> None:
    network = create(transformers, None, 2, is_random=True)
    assert 0.3e6 < sum(x.numel() for x in network.parameters()) < 3e6


def test_labels_are_centres_and_sides_and_no_crowds() -> None:
    targets = torch.zeros((2, 3, 10))
    targets[..., 0] = -1
    targets[0, 0, :5] = torch.tensor([1, 0.2, 0.4, 0.1, 0.2])
    targets[0, 1, :6] = torch.tensor([0, 0.0, 0.0, 0.5, 0.5, 1])
    first, second = queries.things(targets)
    assert first["class_labels"].tolist() == [1]
    assert first["boxes"].tolist()[0] == pytest.approx([0.25, 0.5, 0.1, 0.2])
    assert second["boxes"].shape == (0, 4)


def test_the_answer_is_the_best_pairs_of_query_and_class() -> None:
    raw = {
        "logits": torch.tensor([[[2.0, -9.0], [1.0, 3.0]]]),
        "pred_boxes": torch.tensor([[[0.5, 0.5, 0.2, 0.4], [0.25, 0.25, 0.5, 0.1]]]),
    }
    said = queries.Queries(None, None).answer(raw)  # type: ignore[arg-type]
    assert said["classes"][0, :3].tolist() == [1, 0, 0]
    assert said["scores"][0, :3].tolist() == pytest.approx([0.952574, 0.880797, 0.731059], abs=1e-5)
    assert said["boxes"][0, 0].tolist() == pytest.approx([0, 0.2, 0.5, 0.1])
    assert said["boxes"][0, 1].tolist() == pytest.approx([0.4, 0.3, 0.2, 0.4])
    assert said["scores"][0, 3:].sum() == 0


def test_what_is_no_known_detector_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="a folder, or owner/name on the hub"):
        train(tmp_path, model="nowhere")
    with pytest.raises(Invalid, match="auto or random"):
        train(tmp_path, weights="mine.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(Invalid, match=r"no config.json"):
        train(tmp_path, model=str(tmp_path / "empty"))
    (tmp_path / "empty" / "config.json").write_text('{"model_type": "yolos"}')
    with pytest.raises(Invalid, match="one of the family yolos"):
        train(tmp_path, model=str(tmp_path / "empty"), weights="random")


@pytest.mark.slow
def test_a_warm_start_moves_the_rows_of_the_classes(tmp_path: Path) -> None:
    model = str(saved(tmp_path / "model"))
    first = train(tmp_path, model=model)
    source = replace(things(16, 8, 0), schema=LabelSchema(classes=("block", "disc", "ring")))
    made = stage.train(
        source,
        recipe="transformers-detector",
        params={"epochs": 1, "batch": 8, "image_size": 96, "rate": 1e-9, "model": model, "weights": "random"},
        folder=tmp_path / "second",
        ctx=context(tmp_path / "scratch-2"),
        threads=1,
        start=first,
    )
    assert any("began from an earlier model" in note for note in made.notes)
    old, new = (load_file(one.path("model.safetensors")) for one in (first, made))
    name = "net.model.decoder.class_embed.1.weight"
    np.testing.assert_allclose(new[name][0], old[name][1], atol=1e-5)  # block
