"""JSON schemas of the inference protocol's bodies, for the OpenAPI document."""

from typing import Any

from loopworks.infer.protocol import DTYPES

Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
PARAMETERS: Schema = {"type": "object"}
DATATYPE: Schema = {"type": "string", "enum": [*DTYPES, "BYTES"]}


def _object(required: Schema, **optional: Schema) -> Schema:
    return {"type": "object", "required": list(required), "properties": {**required, **optional}}


def _list(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


_DATA = _list({}, description="flat, or nested as the shape says")
_SHAPE = _list(COUNT, maxItems=16)
_SPEC = _object({"name": TEXT, "datatype": DATATYPE, "shape": _list({"type": "integer", "minimum": -1})})
_TIMES = _object({"count": COUNT, "ns": COUNT})

LIVE = _object({"live": {"type": "boolean"}})
READY = _object({"ready": {"type": "boolean"}})
MODEL_READY = _object({"name": TEXT, "ready": {"type": "boolean"}})
SERVER = _object({"name": TEXT, "version": TEXT, "extensions": _list(TEXT)})
MODEL = _object(
    {"name": TEXT, "versions": _list(TEXT), "platform": TEXT, "inputs": _list(_SPEC), "outputs": _list(_SPEC)},
    parameters=PARAMETERS,
)
CONFIG = _object({"name": TEXT, "platform": TEXT, "max_batch_size": COUNT, "input": _list({}), "output": _list({})})
ASK = _object(
    {
        "inputs": _list(
            _object({"name": TEXT, "datatype": DATATYPE, "shape": _SHAPE}, data=_DATA, parameters=PARAMETERS),
            minItems=1,
        )
    },
    id=TEXT,
    outputs=_list(_object({"name": TEXT}, parameters=PARAMETERS)),
    parameters=PARAMETERS,
)
ANSWER = _object(
    {
        "model_name": TEXT,
        "model_version": TEXT,
        "outputs": _list(
            _object({"name": TEXT, "datatype": DATATYPE, "shape": _SHAPE}, data=_DATA, parameters=PARAMETERS)
        ),
    },
    id=TEXT,
)
STATISTICS = _object({
    "model_stats": _list(
        _object({
            "name": TEXT,
            "version": TEXT,
            "last_inference": COUNT,
            "inference_count": COUNT,
            "execution_count": COUNT,
            "inference_stats": {"type": "object", "additionalProperties": _TIMES},
            "batch_stats": _list(_object({"batch_size": COUNT, "compute_infer": _TIMES})),
        })
    )
})
INDEX = _list(_object({"name": TEXT, "version": TEXT, "state": {"enum": ["READY", "UNAVAILABLE"]}, "reason": TEXT}))
READY_ONLY = _object({}, ready={"type": "boolean"})
LOAD = _object({}, parameters=PARAMETERS)
LOADED = _object({"name": TEXT}, version=TEXT)
TRACE = _object({"trace_level": _list(TEXT), "trace_rate": TEXT, "trace_count": TEXT})
LOGS = _object({"log_error": {"type": "boolean"}, "log_verbose_level": COUNT})
REGIONS = _list({"type": "object"}, maxItems=0)
NOTHING = _object({})
