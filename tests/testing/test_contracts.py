"""Every contract passes on a right plug-in, and each of its tests fails on a plug-in that is wrong in that one way."""

import contextlib
import hashlib
import inspect
import io
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from loopworks.core.contracts import Arrays, Context, Metric
from loopworks.core.errors import Cancelled, Invalid, NotFound
from loopworks.core.values import LabelSchema, Shape, TensorSpec
from loopworks.tasks.classes import Classes
from loopworks.testing import (
    BlobsContract,
    PredictorContract,
    RuntimeContract,
    SamplerContract,
    StepContract,
    TaskContract,
)

FORBID = ConfigDict(use_attribute_docstrings=True, extra="forbid")


def failures(contract: type, folder: Path, only: str = "") -> set[str]:
    """Names of the contract's tests that fail, run as pytest would: a fresh object and folder for each."""
    found = set()
    for name, _ in inspect.getmembers(contract, inspect.isfunction):
        if not name.startswith("test_") or (only and name != only):
            continue
        (own := folder / f"{contract.__name__}-{name}").mkdir()
        test = getattr(contract(), name)
        try:
            test(**({"tmp_path": own} if "tmp_path" in inspect.signature(test).parameters else {}))
        except AssertionError as error:
            found.add(name if str(error) else f"{name} without saying why")
        except Exception:
            found.add(name)
    return found


def cover(contract: type, faulty: Sequence[tuple[str, Any]]) -> None:
    """Every test of ``contract`` has a faulty plug-in that must fail it."""
    tests = {name for name, _ in inspect.getmembers(contract, inspect.isfunction) if name.startswith("test_")}
    missing = sorted(tests - {name for name, _ in faulty})
    assert not missing, f"no faulty plug-in shows that these can fail: {missing}"


# --- steps --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """The mean of some numbers, in four ticks."""

    __pydantic_config__ = FORBID
    shrink: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of the mean to keep."""

    def run(self, source: NDArray[np.float64], ctx: Context) -> dict[str, Any]:
        noise = np.random.default_rng(ctx.seed).normal()
        for i in range(4):
            ctx.tick(i / 4)
        return {"mean": source.mean() * self.shrink, "noise": noise}


class MeanTests(StepContract):
    plugin = Mean
    refused = {"shrink": 2}

    def source(self, folder: Path) -> NDArray[np.float64]:
        return np.arange(6.0)


@dataclass
class Thawed:
    """Parameters that can be changed after the fact."""

    shrink: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Reads:
    """Does work when it is built."""

    def __post_init__(self) -> None:
        Path(__file__).read_bytes()

    def run(self, source: Any, ctx: Context) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Silent:
    """A parameter without a text."""

    shrink: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Boundless:
    """A parameter without a range."""

    __pydantic_config__ = FORBID
    shrink: float = 1.0
    """Share."""


def run_random(self: Any, source: Any, ctx: Context) -> float:
    ctx.tick(0.0)
    return float(np.random.default_rng().normal())


def run_sorting(self: Any, source: Any, ctx: Context) -> float:
    ctx.tick(0.0)
    source[:] = source[::-1].copy()
    return 0.0


def run_overshooting(self: Any, source: Any, ctx: Context) -> float:
    ctx.tick(1.5)
    return 0.0


def run_never_ticking(self: Any, source: Any, ctx: Context) -> float:
    return 0.0


def run_swallowing(self: Any, source: Any, ctx: Context) -> float:
    for _ in range(4):
        with contextlib.suppress(Cancelled):
            ctx.tick(0.5)
    return 0.0


def run_stopping_late(self: Any, source: Any, ctx: Context) -> float:
    stopped = None
    for _ in range(4):
        try:
            ctx.tick(0.5)
        except Cancelled as error:
            stopped = error
    if stopped:
        raise stopped
    return 0.0


def step(run: Callable[..., Any]) -> type:
    return dataclass(frozen=True, kw_only=True)(type("Faulty", (), {"run": run, "__doc__": "Faulty."}))


FAULTY_STEPS: list[tuple[str, dict[str, Any]]] = [
    ("test_parameters_are_the_fields_of_a_frozen_dataclass", {"plugin": Thawed, "refused": {}}),
    ("test_parameters_are_the_fields_of_a_frozen_dataclass", {"plugin": type("Plain", (), {}), "refused": {}}),
    ("test_building_does_no_work", {"plugin": Reads, "refused": {}}),
    ("test_parameters_can_be_shown_as_a_form", {"plugin": Silent, "refused": {}}),
    ("test_parameters_can_be_shown_as_a_form", {"refused": {"typo": 1}}),
    ("test_values_out_of_range_are_refused_by_name", {"plugin": Boundless}),
    ("test_registry_knows_the_name", {"name": "train.nobody-registered-this"}),
    ("test_same_seed_and_source_give_the_same_artifact", {"plugin": step(run_random), "refused": {}}),
    ("test_source_is_left_untouched", {"plugin": step(run_sorting), "refused": {}}),
    ("test_progress_is_a_share_between_0_and_1", {"plugin": step(run_overshooting), "refused": {}}),
    ("test_progress_is_a_share_between_0_and_1", {"plugin": step(run_never_ticking), "refused": {}}),
    ("test_stops_when_asked_before_the_start", {"plugin": step(run_never_ticking), "refused": {}}),
    ("test_stops_when_asked_before_the_start", {"plugin": step(run_swallowing), "refused": {}}),
    ("test_stops_when_asked_halfway", {"plugin": step(run_swallowing), "refused": {}}),
    ("test_stops_when_asked_halfway", {"plugin": step(run_stopping_late), "refused": {}}),
]


def test_the_step_contract_holds_on_a_right_step(tmp_path: Path) -> None:
    assert failures(MeanTests, tmp_path) == set()


@pytest.mark.parametrize(("test", "faulty"), FAULTY_STEPS, ids=lambda x: x if isinstance(x, str) else "")
def test_the_step_contract_fails_on_a_faulty_step(tmp_path: Path, test: str, faulty: dict[str, Any]) -> None:
    assert test in failures(type("Tests", (MeanTests,), faulty), tmp_path, test)


def test_every_test_of_the_step_contract_can_fail() -> None:
    cover(StepContract, FAULTY_STEPS)


def test_a_step_may_be_given_some_ticks_to_stop(tmp_path: Path) -> None:
    patient = type("Tests", (MeanTests,), {"plugin": step(run_stopping_late), "refused": {}, "ticks_to_stop": 4})
    assert failures(patient, tmp_path) == set()


# --- samplers -----------------------------------------------------------------------------------------------------

Pick = Callable[[NDArray[np.float64], NDArray[np.float32], int, int], NDArray[Any]]


def sampler(pick: Pick) -> type:
    def method(self: Any, uncertainty: Any, features: Any, count: int, *, seed: int) -> NDArray[Any]:
        return pick(uncertainty, features, count, seed)

    return dataclass(frozen=True, kw_only=True)(type("Faulty", (), {"pick": method, "__doc__": "Faulty."}))


def shuffled(u: NDArray[np.float64], f: NDArray[np.float32], count: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).permutation(len(u))[:count].astype(np.int64)


def spoiling(u: NDArray[np.float64], f: NDArray[np.float32], count: int, seed: int) -> NDArray[np.int64]:
    u[:] = 0
    return shuffled(u, f, count, seed)


def dividing(u: NDArray[np.float64], f: NDArray[np.float32], count: int, seed: int) -> NDArray[np.int64]:
    if u.max() == 0:
        raise ZeroDivisionError
    return shuffled(u, f, count, seed)


class SamplerTests(SamplerContract):
    plugin = sampler(shuffled)


ANY_PICK = "test_picks_are_different_positions_of_the_pool"
FAULTY_SAMPLERS: list[tuple[str, Pick]] = [
    (ANY_PICK, lambda u, f, n, s: np.zeros(min(n, len(u)), np.int64)),
    (ANY_PICK, lambda u, f, n, s: shuffled(u, f, n + 1, s)),
    (ANY_PICK, lambda u, f, n, s: shuffled(u, f, n, s) + 1),
    (ANY_PICK, lambda u, f, n, s: shuffled(u, f, n, s) - 1),
    (ANY_PICK, lambda u, f, n, s: shuffled(u, f, n, s).astype(np.float64)),
    (
        "test_more_than_there_are_gives_all",
        lambda u, f, n, s: np.random.default_rng(s).choice(len(u), n, replace=False),
    ),
    ("test_none_asked_for_gives_none", lambda u, f, n, s: shuffled(u, f, max(n, 1), s)),
    ("test_an_empty_pool_gives_none", lambda u, f, n, s: np.array([int(u.argmax())])),
    ("test_the_same_seed_gives_the_same_pick", lambda u, f, n, s: np.random.default_rng().permutation(len(u))[:n]),
    ("test_works_before_any_model_exists", dividing),
    ("test_inputs_are_left_untouched", spoiling),
]


def test_the_sampler_contract_holds_on_a_right_sampler(tmp_path: Path) -> None:
    assert failures(SamplerTests, tmp_path) == set()


@pytest.mark.parametrize(("test", "pick"), FAULTY_SAMPLERS, ids=lambda x: x if isinstance(x, str) else "")
def test_the_sampler_contract_fails_on_a_faulty_sampler(tmp_path: Path, test: str, pick: Pick) -> None:
    assert test in failures(type("Tests", (SamplerContract,), {"plugin": sampler(pick)}), tmp_path, test)


def test_every_test_of_the_sampler_contract_can_fail() -> None:
    cover(SamplerContract, [*FAULTY_SAMPLERS, *FAULTY_STEPS])


# --- predictors and runtimes --------------------------------------------------------------------------------------


class Doubler:
    """Twice the input; ``predict`` and ``close`` are replaced by the faulty ones."""

    def __init__(self) -> None:
        self.closed = False

    def predict(self, batch: Arrays) -> Arrays:
        return {"y": batch["x"] * 2}

    def close(self) -> None:
        self.closed = True


class Stateful(Doubler):
    calls = 0.0

    def predict(self, batch: Arrays) -> Arrays:
        self.calls += 1
        return {"y": batch["x"] * self.calls}


class Shared(Doubler):
    """Hands out its own buffer, as some runtimes do."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer = np.zeros((64, 3), np.float32)

    def predict(self, batch: Arrays) -> Arrays:
        view = self.buffer[: len(batch["x"])]
        view[:] = batch["x"] * 2
        return {"y": view}


class Normalizing(Doubler):
    """Uses the batch's own mean: a row's answer hangs on its neighbours."""

    def predict(self, batch: Arrays) -> Arrays:
        return {"y": batch["x"] - batch["x"].mean(axis=0)}


class InPlace(Doubler):
    def predict(self, batch: Arrays) -> Arrays:
        rows = batch["x"]
        rows *= 2
        return {"y": rows.copy()}


class Lossy(Doubler):
    def predict(self, batch: Arrays) -> Arrays:
        return {"y": batch["x"][:1] * 2}


class ClosesOnce(Doubler):
    def close(self) -> None:
        if self.closed:
            raise ValueError("closed twice")
        self.closed = True


class DoublerTests(PredictorContract):
    kind: type[Doubler] = Doubler

    def predictor(self, folder: Path) -> Doubler:
        return self.kind()

    def batch(self) -> Mapping[str, NDArray[Any]]:
        return {"x": np.arange(15, dtype=np.float32).reshape(5, 3)}


FAULTY_PREDICTORS: list[tuple[str, type[Doubler]]] = [
    ("test_a_batch_of_n_gives_n_answers", Lossy),
    ("test_the_same_input_gives_the_same_output", Stateful),
    ("test_the_same_input_gives_the_same_output", Shared),
    ("test_rows_together_are_rows_alone", Normalizing),
    ("test_input_is_left_untouched", InPlace),
    ("test_read_only_input_is_fine", InPlace),
    ("test_closing_twice_is_harmless", ClosesOnce),
]


def test_the_predictor_contract_holds_on_a_right_predictor(tmp_path: Path) -> None:
    assert failures(DoublerTests, tmp_path) == set()


@pytest.mark.parametrize(("test", "kind"), FAULTY_PREDICTORS)
def test_the_predictor_contract_fails_on_a_faulty_predictor(tmp_path: Path, test: str, kind: type[Doubler]) -> None:
    assert test in failures(type("Tests", (DoublerTests,), {"kind": kind}), tmp_path, test)


def test_every_test_of_the_predictor_contract_can_fail() -> None:
    cover(PredictorContract, FAULTY_PREDICTORS)


@dataclass(frozen=True)
class FileRuntime:
    """Loads a file that holds one number to multiply with."""

    def load(self, path: Path, *, threads: int, precision: str) -> Doubler:
        try:
            factor = float(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise Invalid(str(path), "a number", "something else") from None
        found = Doubler()
        found.predict = lambda batch: {"y": batch["x"] * factor}  # type: ignore[method-assign]
        return found


@dataclass(frozen=True)
class Careless(FileRuntime):
    """Lets the library's own errors through."""

    def load(self, path: Path, *, threads: int, precision: str) -> Doubler:
        float(path.read_text(encoding="utf-8"))
        return Doubler()


@dataclass(frozen=True)
class Credulous(FileRuntime):
    """Takes anything for a model."""

    def load(self, path: Path, *, threads: int, precision: str) -> Doubler:
        return Doubler()


@dataclass(frozen=True)
class Caching(FileRuntime):
    """Writes a cache beside the model."""

    def load(self, path: Path, *, threads: int, precision: str) -> Doubler:
        path.with_suffix(".cache").write_text("x", encoding="utf-8")
        return Doubler()


class Pooled(Doubler):
    """All predictors share one session; closing one closes all."""

    session = {"open": True}

    def predict(self, batch: Arrays) -> Arrays:
        if not self.session["open"]:
            raise ValueError("closed")
        return super().predict(batch)

    def close(self) -> None:
        self.session["open"] = False


@dataclass(frozen=True)
class Pooling(FileRuntime):
    def load(self, path: Path, *, threads: int, precision: str) -> Doubler:
        Pooled.session["open"] = True
        return Pooled()


class FileRuntimeTests(RuntimeContract):
    plugin = FileRuntime

    def model(self, folder: Path) -> Path:
        path = folder / "model.txt"
        path.write_text("2.0", encoding="utf-8")
        return path

    def batch(self) -> Mapping[str, NDArray[Any]]:
        return DoublerTests().batch()


FAULTY_RUNTIMES: list[tuple[str, type[FileRuntime]]] = [
    ("test_two_predictors_of_one_file_do_not_disturb_each_other", Pooling),
    ("test_the_model_files_are_left_untouched", Caching),
    ("test_a_file_that_is_no_model_is_refused", Credulous),
    ("test_a_file_that_is_no_model_is_refused", Careless),
    ("test_a_missing_file_is_refused", Credulous),
    ("test_a_missing_file_is_refused", Careless),
]


def test_the_runtime_contract_holds_on_a_right_runtime(tmp_path: Path) -> None:
    assert failures(FileRuntimeTests, tmp_path) == set()


@pytest.mark.parametrize(("test", "plugin"), FAULTY_RUNTIMES)
def test_the_runtime_contract_fails_on_a_faulty_runtime(tmp_path: Path, test: str, plugin: type[FileRuntime]) -> None:
    assert test in failures(type("Tests", (FileRuntimeTests,), {"plugin": plugin}), tmp_path, test)


def test_every_test_of_the_runtime_contract_can_fail() -> None:
    cover(RuntimeContract, [*FAULTY_RUNTIMES, *FAULTY_PREDICTORS])


# --- blobs --------------------------------------------------------------------------------------------------------


@dataclass
class MemoryBlobs:
    """A right blob store in memory."""

    held: dict[str, bytes] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, data: BinaryIO) -> str:
        return self.put_bytes(data.read())

    def put_bytes(self, data: bytes) -> str:
        key = hashlib.sha256(data).hexdigest()
        with self.lock:
            self.held[key] = data
        return key

    def open(self, key: str) -> BinaryIO:
        return io.BytesIO(self.read(key))

    def read(self, key: str) -> bytes:
        if key not in self.held:
            raise NotFound("blob", key)
        return self.held[key]

    def has(self, key: str) -> bool:
        return key in self.held

    def delete(self, key: str) -> None:
        self.held.pop(key, None)

    def keys(self) -> Iterator[str]:
        return iter(list(self.held))


class MdBlobs(MemoryBlobs):
    def put_bytes(self, data: bytes) -> str:
        key = hashlib.md5(data).hexdigest()
        self.held[key] = data
        return key


class TextBlobs(MemoryBlobs):
    def read(self, key: str) -> bytes:
        return super().read(key).replace(b"\r\n", b"\n").replace(b"\x00", b"")


class SmallBlobs(MemoryBlobs):
    def put_bytes(self, data: bytes) -> str:
        super().put_bytes(data)
        key = hashlib.sha256(data).hexdigest()
        self.held[key] = data[: 1 << 20]
        return key


class RewindingBlobs(MemoryBlobs):
    def put(self, data: BinaryIO) -> str:
        data.seek(0)
        return super().put(data)


class DoubleBlobs(MemoryBlobs):
    def keys(self) -> Iterator[str]:
        return iter([*self.held, *self.held])


class KeyErrorBlobs(MemoryBlobs):
    def read(self, key: str) -> bytes:
        return self.held[key]


class StrictBlobs(MemoryBlobs):
    def delete(self, key: str) -> None:
        del self.held[key]


class ClearingBlobs(MemoryBlobs):
    def delete(self, key: str) -> None:
        self.held.clear()


class FolderBlobs(MemoryBlobs):
    """Takes any key for a file name."""

    folder: Path

    def read(self, key: str) -> bytes:
        path = self.folder / key
        return path.read_bytes() if key and path.is_file() else super().read(key)


class RacingBlobs(MemoryBlobs):
    """Two writers of one content: the second takes the first one's half for the whole."""

    def put_bytes(self, data: bytes) -> str:
        key = hashlib.sha256(data).hexdigest()
        if threading.current_thread() is threading.main_thread():
            return super().put_bytes(data)
        self.held[key] = data[: len(data) // 2]
        return key


class MemoryBlobsTests(BlobsContract):
    kind: type[MemoryBlobs] = MemoryBlobs
    examples = 20

    def blobs(self, folder: Path) -> MemoryBlobs:
        found = self.kind()
        found.__dict__["folder"] = folder
        return found


FAULTY_BLOBS: list[tuple[str, type[MemoryBlobs]]] = [
    ("test_bytes_come_back_as_they_went_in", MdBlobs),
    ("test_bytes_come_back_as_they_went_in", TextBlobs),
    ("test_both_ways_of_putting_give_the_same_key", MdBlobs),
    ("test_empty_and_large_contents_are_fine", SmallBlobs),
    ("test_only_the_rest_of_a_file_is_stored", RewindingBlobs),
    ("test_putting_twice_keeps_one", DoubleBlobs),
    ("test_what_was_never_put_is_not_found", KeyErrorBlobs),
    ("test_deleting_removes_one_and_is_harmless_twice", StrictBlobs),
    ("test_deleting_removes_one_and_is_harmless_twice", ClearingBlobs),
    ("test_keys_are_all_that_is_there", DoubleBlobs),
    ("test_a_key_that_is_no_digest_reaches_nothing", FolderBlobs),
    ("test_a_key_that_is_no_digest_reaches_nothing", KeyErrorBlobs),
    ("test_many_writers_at_once_lose_nothing", RacingBlobs),
]


def test_the_blobs_contract_holds_on_a_right_store(tmp_path: Path) -> None:
    assert failures(MemoryBlobsTests, tmp_path) == set()


@pytest.mark.parametrize(("test", "kind"), FAULTY_BLOBS)
def test_the_blobs_contract_fails_on_a_faulty_store(tmp_path: Path, test: str, kind: type[MemoryBlobs]) -> None:
    assert test in failures(type("Tests", (MemoryBlobsTests,), {"kind": kind}), tmp_path, test)


def test_every_test_of_the_blobs_contract_can_fail() -> None:
    cover(BlobsContract, FAULTY_BLOBS)


# --- task kinds ---------------------------------------------------------------------------------------------------

SCHEMA = LabelSchema(classes=("dog", "cat", "bird"))


class TaskTests(TaskContract):
    faults: Mapping[str, Any] = {}

    def task(self) -> Any:
        return type("Faulty", (Classes,), dict(self.faults))("image-classification", "image")

    def schema(self) -> LabelSchema:
        return SCHEMA

    def truth(self) -> Sequence[Sequence[Shape]]:
        return [(Shape(label=name),) for name in ("dog", "cat", "bird", "dog", "bird", "cat")]

    def perfect(self) -> Arrays:
        return {"scores": np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 2, 1]]}


def _measured(change: Callable[[str, float], float]) -> Callable[..., dict[str, Metric]]:
    """Metrics whose values are changed."""

    def metrics(self: Any, *args: Any) -> dict[str, Metric]:
        found = Classes.metrics(self, *args)
        return {name: _changed(name, metric, change) for name, metric in found.items()}

    return metrics


def _changed(name: str, metric: Metric, change: Callable[[str, float], float]) -> Metric:
    return lambda at: change(name, metric(at))


def _stretching(self: Any, targets: Any, outputs: Any, schema: Any) -> Any:
    return Classes.metrics(self, np.broadcast_to(targets, outputs["scores"].shape), outputs, schema)


def _of_all(self: Any, targets: Any, outputs: Any, schema: Any) -> dict[str, Metric]:
    every = np.arange(len(targets))
    found = Classes.metrics(self, targets, outputs, schema)
    return {name: _changed(name, metric, lambda *_, whole=metric: whole(every)) for name, metric in found.items()}


def _refuse() -> None:
    raise Invalid("labels", "others", "these")


def _painting(self: Any, image: Any, shapes: Any) -> Any:
    image[:] = 255
    return image


def _one_sided(self: Any, left: Any, right: Any, schema: Any) -> float:
    apart = Classes.agreement(self, left, right, schema)
    return apart if apart == 1.0 else float(left["scores"][0, 0]) / 2


BASE = Classes
FAULTY_TASKS: list[tuple[str, dict[str, Any]]] = [
    ("test_check_is_canonical_and_idempotent", {"check": lambda self, shapes, schema: tuple(shapes)}),
    ("test_an_unknown_class_is_refused", {"check": lambda self, shapes, schema: tuple(shapes)}),
    ("test_an_unknown_class_is_refused", {"targets": lambda self, labels, schema, sizes: np.zeros((len(labels), 3))}),
    (
        "test_targets_have_a_row_per_item",
        {"targets": lambda self, labels, schema, sizes: BASE.targets(self, labels, schema)[1:]},
    ),
    ("test_the_truth_can_be_taught", {"teachable": lambda self, targets, schema: _refuse()}),
    (
        "test_perfect_answers_have_the_promised_tensors",
        {"outputs": lambda self, schema: (TensorSpec(name="scores", datatype="FP32", shape=(-1, 7)),)},
    ),
    (
        "test_perfect_answers_have_the_promised_tensors",
        {"outputs": lambda self, schema: (TensorSpec(name="logits", datatype="FP32", shape=(-1, 3)),)},
    ),
    (
        "test_perfect_answers_have_the_promised_tensors",
        {"outputs": lambda self, schema: (TensorSpec(name="scores", datatype="FP64", shape=(-1, 3)),)},
    ),
    (
        "test_labels_of_perfect_answers_are_the_truth",
        {
            "labels": lambda self, outputs, schema, author, sizes: (
                [((Shape(label="dog", source="model", author=author), 1.0),)] * 6
            )
        },
    ),
    (
        "test_labels_of_perfect_answers_are_the_truth",
        {"labels": lambda self, outputs, schema, author, sizes: BASE.labels(self, outputs, schema, "")},
    ),
    ("test_decoded_answers_are_plain_json", {"decode": lambda self, outputs, schema, sizes: list(outputs["scores"])}),
    ("test_decoded_answers_are_plain_json", {"decode": lambda self, outputs, schema, sizes: [{}]}),
    (
        "test_uncertainty_is_between_0_and_1_and_higher_where_nothing_is_known",
        {"uncertainty": lambda self, outputs, schema: 1 - BASE.uncertainty(self, outputs, schema)},
    ),
    (
        "test_uncertainty_is_between_0_and_1_and_higher_where_nothing_is_known",
        {"uncertainty": lambda self, outputs, schema: 2 * BASE.uncertainty(self, outputs, schema)},
    ),
    ("test_a_perfect_answer_scores_1", {"metrics": _measured(lambda name, value: 0.9)}),
    ("test_a_perfect_answer_scores_1", {"metrics": lambda self, *args: {"map": BASE.metrics(self, *args)["accuracy"]}}),
    (
        "test_metrics_are_numbers_and_at_most_1_where_more_is_better",
        {"metrics": _measured(lambda name, value: value if value == 1.0 else 1.1)},
    ),
    (
        "test_metrics_are_numbers_and_at_most_1_where_more_is_better",
        {"metrics": _measured(lambda name, value: value if value == 1.0 else float("nan"))},
    ),
    ("test_a_wrong_answer_scores_less", {"metrics": _measured(lambda name, value: 1.0)}),
    ("test_metrics_of_some_items_do_not_depend_on_the_others", {"metrics": _of_all}),
    ("test_targets_of_other_items_are_refused", {"metrics": _stretching}),
    (
        "test_quality_is_in_0_to_1_and_highest_where_the_answer_is_right",
        {"quality": lambda self, targets, outputs, schema: 2 * BASE.quality(self, targets, outputs, schema)},
    ),
    (
        "test_quality_is_in_0_to_1_and_highest_where_the_answer_is_right",
        {"quality": lambda self, targets, outputs, schema: 1 - BASE.quality(self, targets, outputs, schema)},
    ),
    (
        "test_classes_are_judged_one_by_one",
        {"by_class": lambda self, targets, outputs, schema: {"dog": {"count": 2.0, "f1": 1.0}}},
    ),
    (
        "test_classes_are_judged_one_by_one",
        {"by_class": lambda self, targets, outputs, schema: {"horse": {"f1": 1.0}}},
    ),
    ("test_features_are_a_row_per_item", {"features": lambda self, outputs, schema: outputs["scores"].ravel()}),
    (
        "test_features_are_a_row_per_item",
        {"features": lambda self, outputs, schema: outputs["scores"].astype(np.float64)},
    ),
    ("test_agreement_is_1_with_itself_and_less_with_another", {"agreement": lambda self, left, right, schema: 1.0}),
    ("test_agreement_is_1_with_itself_and_less_with_another", {"agreement": _one_sided}),
    ("test_a_picture_is_an_rgb_image", {"draw": _painting}),
    ("test_a_picture_is_an_rgb_image", {"draw": lambda self, image, shapes: image[..., 0]}),
]


def test_the_task_contract_holds_on_a_right_task(tmp_path: Path) -> None:
    assert failures(TaskTests, tmp_path) == set()


@pytest.mark.parametrize(("test", "faults"), FAULTY_TASKS, ids=lambda x: x if isinstance(x, str) else "")
def test_the_task_contract_fails_on_a_faulty_task(tmp_path: Path, test: str, faults: dict[str, Any]) -> None:
    assert test in failures(type("Tests", (TaskTests,), {"faults": faults}), tmp_path, test)


def test_every_test_of_the_task_contract_can_fail() -> None:
    cover(TaskContract, FAULTY_TASKS)
