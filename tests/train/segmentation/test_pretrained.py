"""Segmentation networks of torchvision and transformers: weights from files and caches, random ones, none that fit."""

import pickle
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from safetensors.torch import save_file
from tests.train.segmentation.scenes import scenes

from loopworks.core.bundle import Bundle
from loopworks.core.errors import Invalid, Unreachable
from loopworks.testing.context import Recorder
from loopworks.train import weights
from loopworks.train.images import load_libraries
from loopworks.train.segmentation import torchvision, transformers
from loopworks.train.stage import train

pytestmark = pytest.mark.train
LRASPP: Final = "lraspp_mobilenet_v3_large"


def learn(recipe: str, folder: Path, **params: Any) -> Bundle:
    return train(
        scenes(4, 2, 0),
        recipe=recipe,
        params={"epochs": 1, "image_size": 64, **params},
        folder=folder / "bundle",
        ctx=Recorder().context(folder / "scratch"),
        threads=1,
    )


@pytest.fixture(scope="module")
def no_net(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("hub")
        patch.setattr(torch.hub, "get_dir", lambda: str(folder))

        def away(url: str) -> None:
            raise Unreachable("the hub cannot be reached (URLError)")

        patch.setattr(weights, "_head", away)
        yield folder


def test_torchvision_says_why_it_began_from_random_weights(no_net: Path, tmp_path: Path) -> None:
    made = learn("torchvision-segmenter", tmp_path, network=LRASPP)
    assert "began from random weights: their server cannot be reached" in " ".join(made.notes)
    assert made.metrics["val"]["miou"].count == 2


def test_torchvision_takes_what_fits_of_its_cache(no_net: Path, tmp_path: Path) -> None:
    """The published weights are for 21 classes: all but the last layers fit."""
    torch.manual_seed(3)
    state = torchvision.create(LRASPP, 21).state_dict()
    path = no_net / "checkpoints" / torchvision.FILES[LRASPP]
    path.parent.mkdir()
    torch.save(state, path)
    assert torchvision.cached(LRASPP) == path
    network = torchvision.create(LRASPP, 3)
    taken, all_ = torchvision.take(network, torchvision.state_of(path), path.name, LRASPP)
    assert all_ - taken == 4  # weight and bias of two last layers
    key = "backbone.0.0.weight"
    assert torch.equal(network.state_dict()[key], state[key])
    found, why = torchvision.TorchvisionSegmenter(network=LRASPP)._weights(Recorder().context(tmp_path))
    assert (found, why) == (path, "")
    path.unlink()


def test_torchvision_takes_a_file_and_refuses_others(tmp_path: Path) -> None:
    load_libraries()
    save_file(torchvision.create(LRASPP, 3).state_dict(), tmp_path / "ours.safetensors")
    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    network = torchvision.create(LRASPP, 3)
    state = torchvision.state_of(tmp_path / "ours.safetensors")
    taken, all_ = torchvision.take(network, state, "ours", LRASPP)
    assert taken == all_
    for name, message in (("other", "0 of"), ("broken", "a file of tensors")):
        with pytest.raises(Invalid, match=message):
            learn("torchvision-segmenter", tmp_path, network=LRASPP, weights=str(tmp_path / f"{name}.safetensors"))
    with pytest.raises(Invalid, match="auto, random, or an existing"):
        learn("torchvision-segmenter", tmp_path, network=LRASPP, weights="nowhere")


class Hostile:
    def __reduce__(self) -> Any:
        return (print, ("this code ran",))


def test_a_pickle_that_holds_more_than_tensors_is_refused_unread(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load_libraries()
    (tmp_path / "bad.pth").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(Invalid, match="a file of tensors"):
        torchvision.state_of(tmp_path / "bad.pth")
    assert "this code ran" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["deeplabv3_mobilenet_v3_large", "fcn_resnet50"])
def test_other_networks_of_torchvision_keep_their_coarse_grid(name: str) -> None:
    from loopworks.train.segmentation.nets import TorchvisionLogits

    network = TorchvisionLogits(torchvision.create(name, 5)).eval()
    with torch.inference_mode():
        found = network(torch.zeros(1, 3, 64, 96))
    assert found.shape[:2] == (1, 5)
    assert found.shape[2] < 32
    assert f"net.{torchvision.HEADS[name.partition('_')[0]]}.weight" in network.state_dict()


def segformer(folder: Path, classes: int = 7) -> Path:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    config = SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[8, 16], patch_sizes=[7, 3],
        strides=[4, 2], num_attention_heads=[1, 2], mlp_ratios=[2, 2], decoder_hidden_size=16,
    )  # fmt: skip
    config.num_labels = classes
    SegformerForSemanticSegmentation(config).save_pretrained(folder)
    return folder


def test_segformer_is_fine_tuned_from_a_folder(tmp_path: Path) -> None:
    made = learn("transformers-segmenter", tmp_path, model=str(segformer(tmp_path / "model")))
    assert "SegformerForSemanticSegmentation began from pretrained weights" in " ".join(made.notes)
    assert made.rule.to_json()["width"] == 64
    assert made.metrics["val"]["miou"].count == 2


def test_a_folder_gives_its_weights_or_only_its_shape(tmp_path: Path) -> None:
    folder = segformer(tmp_path / "model")
    names = [transformers.create(folder, 3, is_random=is_random).state_dict() for is_random in (False, False, True)]
    key = "segformer.stages.0.patch_embedding.proj.weight"
    key = key if key in names[0] else next(k for k, x in names[0].items() if x.ndim == 4)
    assert torch.equal(names[0][key], names[1][key])
    assert not torch.equal(names[0][key], names[2][key])
    assert names[0]["decode_head.classifier.weight"].shape[0] == 3


def test_eomt_learns_where_it_is_installed(tmp_path: Path) -> None:
    found = pytest.importorskip("transformers")
    config = found.EomtConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=64, patch_size=16, num_blocks=1,
        num_queries=6, num_upscale_blocks=1, num_labels=7,
    )  # fmt: skip
    found.EomtForUniversalSegmentation(config).save_pretrained(tmp_path / "model")
    made = learn("transformers-segmenter", tmp_path, model=str(tmp_path / "model"), image_size=0)
    assert "EomtForUniversalSegmentation began from pretrained weights" in " ".join(made.notes)
    assert (made.rule.to_json()["width"], made.rule.to_json()["height"]) == (64, 64)
    with pytest.raises(Invalid, match="it is fixed"):
        learn("transformers-segmenter", tmp_path / "again", model=str(tmp_path / "model"), image_size=128)


def test_what_is_no_segmentation_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="a folder, or owner/name on the hub"):
        learn("transformers-segmenter", tmp_path, model="nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(Invalid, match=r"no config.json"):
        learn("transformers-segmenter", tmp_path, model=str(tmp_path / "empty"))
    (tmp_path / "empty" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(Invalid, match="a segmentation network of transformers"):
        learn("transformers-segmenter", tmp_path, model=str(tmp_path / "empty"), weights="random")
