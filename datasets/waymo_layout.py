"""Names and types of the Waymo Open Dataset: enumerations, Parquet components and their columns.

Source: `waymo_open_dataset` 1.6.7, `dataset.proto` (enumerations) and `v2/perception/*.py` (components). A golden file in the tests
holds what the official `schema()` methods gave; older official files store the same columns with `float` for `double`.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from splatmend.datasets.log import ActorClass, ShutterDirection

CAMERA_NAMES: Mapping[int, str] = {
    1: "FRONT",
    2: "FRONT_LEFT",
    3: "FRONT_RIGHT",
    4: "SIDE_LEFT",
    5: "SIDE_RIGHT",
    6: "REAR_LEFT",
    7: "REAR",
    8: "REAR_RIGHT",
}
LIDAR_NAMES: Mapping[int, str] = {1: "TOP", 2: "FRONT", 3: "SIDE_LEFT", 4: "SIDE_RIGHT", 5: "REAR"}
ACTOR_CLASSES: Mapping[int, ActorClass] = {0: "other", 1: "vehicle", 2: "pedestrian", 3: "sign", 4: "cyclist"}
SHUTTER_DIRECTIONS: Mapping[int, ShutterDirection] = {
    1: "top_to_bottom",
    2: "left_to_right",
    3: "bottom_to_top",
    4: "right_to_left",
    5: "global",
}
# `camera_segmentation.proto`. Our labels are `class * PANOPTIC_DIVISOR + instance`, whatever divisor a file uses.
SEMANTIC_CLASSES = range(29)
PANOPTIC_DIVISOR = 1000

SEGMENT = "key.segment_context_name"
TIMESTAMP = "key.frame_timestamp_micros"
CAMERA = "key.camera_name"
LIDAR = "key.laser_name"
OBJECT = "key.laser_object_id"

_CLASS_NAMES: Mapping[str, str] = {
    "camera_image": "CameraImageComponent",
    "camera_calibration": "CameraCalibrationComponent",
    "camera_segmentation": "CameraSegmentationLabelComponent",
    "vehicle_pose": "VehiclePoseComponent",
    "lidar": "LiDARComponent",
    "lidar_calibration": "LiDARCalibrationComponent",
    "lidar_pose": "LiDARPoseComponent",
    "lidar_box": "LiDARBoxComponent",
    "stats": "StatsComponent",
}
# Components that are recognised as Waymo's but not read.
OTHER_COMPONENTS = (
    "camera_box",
    "camera_hkp",
    "camera_to_lidar_box_association",
    "lidar_camera_projection",
    "lidar_camera_synced_box",
    "lidar_hkp",
    "lidar_segmentation",
    "projected_lidar_box",
)
COMPONENTS = (*_CLASS_NAMES, *OTHER_COMPONENTS)

_KEYS: Mapping[str, pa.DataType] = {
    SEGMENT: pa.string(),
    TIMESTAMP: pa.int64(),
    CAMERA: pa.int8(),
    LIDAR: pa.int8(),
    OBJECT: pa.string(),
}
_TRANSFORM = pa.list_(pa.float64(), 16)


def column(component: str, field: str) -> str:
    """Name of a component's column in Parquet, e.g. `[CameraImageComponent].pose.transform`."""
    return f"[{_CLASS_NAMES[component]}].{field}"


def _doubles(*names: str) -> dict[str, pa.DataType]:
    return dict.fromkeys(names, pa.float64())


def _range_images(*returns: str) -> dict[str, pa.DataType]:
    fields: dict[str, pa.DataType] = {}
    for name in returns:
        fields[f"{name}.values"] = pa.list_(pa.float32())
        fields[f"{name}.shape"] = pa.list_(pa.int32(), 3)
    return fields


def _schema(component: str, keys: tuple[str, ...], fields: Mapping[str, pa.DataType]) -> pa.Schema:
    return pa.schema([*((key, _KEYS[key]) for key in keys), *((column(component, name), kind) for name, kind in fields.items())])


SCHEMAS: Mapping[str, pa.Schema] = {
    "camera_image": _schema(
        "camera_image",
        (SEGMENT, TIMESTAMP, CAMERA),
        {
            "image": pa.binary(),
            "pose.transform": _TRANSFORM,
            **{f"velocity.linear_velocity.{axis}": pa.float32() for axis in "xyz"},
            **_doubles(*(f"velocity.angular_velocity.{axis}" for axis in "xyz")),
            **_doubles("pose_timestamp", "rolling_shutter_params.shutter"),
            **_doubles("rolling_shutter_params.camera_trigger_time", "rolling_shutter_params.camera_readout_done_time"),
        },
    ),
    "camera_calibration": _schema(
        "camera_calibration",
        (SEGMENT, CAMERA),
        {
            **_doubles(*(f"intrinsic.{name}" for name in ("f_u", "f_v", "c_u", "c_v", "k1", "k2", "p1", "p2", "k3"))),
            "extrinsic.transform": _TRANSFORM,
            "width": pa.int32(),
            "height": pa.int32(),
            "rolling_shutter_direction": pa.int8(),
        },
    ),
    "vehicle_pose": _schema("vehicle_pose", (SEGMENT, TIMESTAMP), {"world_from_vehicle.transform": _TRANSFORM}),
    "lidar": _schema("lidar", (SEGMENT, TIMESTAMP, LIDAR), _range_images("range_image_return1", "range_image_return2")),
    "lidar_calibration": _schema(
        "lidar_calibration",
        (SEGMENT, LIDAR),
        {
            "extrinsic.transform": _TRANSFORM,
            **_doubles("beam_inclination.min", "beam_inclination.max"),
            "beam_inclination.values": pa.list_(pa.float64()),
        },
    ),
    "lidar_pose": _schema("lidar_pose", (SEGMENT, TIMESTAMP, LIDAR), _range_images("range_image_return1")),
    "lidar_box": _schema(
        "lidar_box",
        (SEGMENT, TIMESTAMP, OBJECT),
        {
            **_doubles(*(f"box.center.{axis}" for axis in "xyz"), *(f"box.size.{axis}" for axis in "xyz"), "box.heading"),
            "type": pa.int8(),
            "num_lidar_points_in_box": pa.int64(),
            "num_top_lidar_points_in_box": pa.int64(),
            **_doubles(*(f"speed.{axis}" for axis in "xyz"), *(f"acceleration.{axis}" for axis in "xyz")),
            "difficulty_level.detection": pa.int8(),
            "difficulty_level.tracking": pa.int8(),
        },
    ),
    "stats": _schema(
        "stats",
        (SEGMENT, TIMESTAMP),
        {
            **dict.fromkeys(("time_of_day", "location", "weather"), pa.string()),
            "lidar_object_counts.types": pa.list_(pa.int8()),
            "lidar_object_counts.counts": pa.list_(pa.int32()),
            "camera_object_counts.types": pa.list_(pa.int8()),
            "camera_object_counts.counts": pa.list_(pa.int32()),
        },
    ),
}


def number_of(names: Mapping[int, str], name: str) -> int:
    """The enumeration's number of a name; `ValueError` for an unknown one."""
    for number, known in names.items():
        if known == name:
            return number
    raise ValueError(f"{name!r} is none of {', '.join(names.values())}")
