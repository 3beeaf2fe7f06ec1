"""Backbones of timm: with weights from a file, from the cache, or random with one clear note; never a hang."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm as backbones
import torch
from safetensors.torch import save_file
from tests.train.source import squares

from loopworks.core.bundle import Bundle
from loopworks.core.contracts import Context
from loopworks.core.errors import Cancelled, Invalid, NotFound
from loopworks.train import stage, weights
from loopworks.train import timm as recipe

pytestmark = pytest.mark.train
SMALL = "test_resnet"
"""timm's own network for tests: 0.5 million weights."""


def context(folder: Path, stop: Callable[[], bool] = lambda: False) -> Context:
    return Context(seed=0, scratch=folder, report=lambda share, text: None, stopped=stop)


def train(folder: Path, **params: Any) -> Bundle:
    values = {"backbone": SMALL, "image_size": 32, "epochs": 1, "batch": 8, **params}
    return stage.train(
        squares(), recipe="timm", params=values, folder=folder / "bundle", ctx=context(folder / "scratch"), threads=1
    )


@pytest.fixture
def pretrained(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    path = tmp_path / "weights.safetensors"
    save_file(backbones.create_model(SMALL, num_classes=1000).state_dict(), path)
    return path


def test_random_weights_are_noted_in_one_line(tmp_path: Path) -> None:
    bundle = train(tmp_path, weights="random")
    assert bundle.notes[0] == f"{SMALL} began from random weights: asked for"
    assert bundle.params["backbone"] == SMALL


def test_a_local_file_gives_the_weights_but_not_the_last_layer(pretrained: Path, tmp_path: Path) -> None:
    bundle = train(tmp_path, weights=str(pretrained))
    assert bundle.notes[0] == f"{SMALL} began from pretrained weights (weights.safetensors)"
    network = recipe.create(SMALL, 3, pretrained)
    expected = backbones.create_model(SMALL, num_classes=1000)
    from safetensors.torch import load_file

    expected.load_state_dict(load_file(pretrained))
    assert torch.equal(network.get_parameter("conv1.0.weight"), expected.get_parameter("conv1.0.weight"))
    assert network.get_parameter("fc.weight").shape[0] == 3


def test_cached_weights_are_found_without_the_network(
    pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "_probe", lambda repo: pytest.fail("the network must not be asked"))
    monkeypatch.setattr(weights, "cached", lambda repo, others=(): pretrained)
    path, why = weights.find("timm/anything", context(tmp_path))
    assert (path, why) == (pretrained, "")
    assert recipe.has_weights()


def test_offline_by_setting_asks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(weights, "_probe", lambda repo: pytest.fail("the network must not be asked"))
    path, why = weights.find("timm/not-in-the-cache", context(tmp_path))
    assert path is None
    assert "HF_HUB_OFFLINE" in why


def test_a_hub_that_refuses_means_random_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    def refuse(repo: str) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(weights, "_probe", refuse)
    bundle = train(tmp_path)
    assert bundle.notes[0] == f"{SMALL} began from random weights: the hub cannot be reached (ConnectionError)"


def test_a_hub_that_never_answers_is_given_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    from huggingface_hub import constants

    never = threading.Event()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(weights, "REACH_S", 0.3)
    monkeypatch.setattr(weights, "_probe", lambda repo: never.wait(30))
    began = time.monotonic()
    path, why = weights.find("timm/not-in-the-cache", context(tmp_path))
    never.set()
    assert path is None
    assert "no answer in time" in why
    assert time.monotonic() - began < 2


def test_waiting_for_the_hub_can_be_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    from huggingface_hub import constants

    never = threading.Event()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(weights, "_probe", lambda repo: never.wait(30))
    with pytest.raises(Cancelled):
        weights.find("timm/not-in-the-cache", context(tmp_path, stop=lambda: True))
    never.set()


def test_a_pickled_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(Invalid, match="pickled checkpoints can run code"):
        train(tmp_path, weights=str(path))
    with pytest.raises(Invalid, match="auto, random, or an existing"):
        train(tmp_path, weights=str(tmp_path / "nothing.safetensors"))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"stem.weight": torch.zeros(3)}, path)
    with pytest.raises(Invalid, match=f"weights of {SMALL}"):
        train(tmp_path, weights=str(path))
    path.write_bytes(b"not safetensors at all")
    with pytest.raises(Invalid, match=r"weights other\.safetensors"):
        train(tmp_path, weights=str(path))


def test_an_unknown_backbone_names_the_closest(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="'resnet81'") as caught:
        train(tmp_path, backbone="resnet81")
    assert "resnet18" in caught.value.hint


def test_a_backbone_of_fixed_size_refuses_another(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="it is fixed"):
        train(tmp_path, backbone="vit_tiny_patch16_224", image_size=96)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet", "test_convnext"])
def test_other_families_are_exported_with_the_same_answers(tmp_path: Path, name: str) -> None:
    size = int(recipe.backbone(name).input_size[-1])
    bundle = train(tmp_path, backbone=name, weights="random", image_size=size)
    assert np.isfinite(bundle.metrics["val"]["accuracy"].value)
