"""Detections of a video as a Parquet file; the files of a folder are one data set."""

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Final

from flowdet.errors import ConfigError

__all__ = ["need_parquet", "read_parquet_info", "write_parquet"]

_KEY: Final = b"flowdet"  # of what a file says of itself, beside its columns
_ROWS_AT_ONCE: Final = 1 << 16


def need_parquet() -> None:
    """Passes if Parquet files can be written.

    Raises:
        ConfigError: They cannot.
    """
    try:
        import pyarrow.parquet  # noqa: F401, PLC0415  (an extra)
    except ImportError as error:
        raise ConfigError("Parquet files need pyarrow: pip install pyarrow") from error


def write_parquet(path: Path, rows: Iterable[Mapping[str, Any]], info: Mapping[str, Any]) -> None:
    """Writes a row a detection.

    Args:
        path: The file to write.
        rows: Values by column; `track_id` may be None.
        info: What the file says of itself.

    Raises:
        ConfigError: pyarrow is missing.
        OSError: The file cannot be written.
    """
    need_parquet()
    import pyarrow  # noqa: PLC0415
    from pyarrow import parquet  # noqa: PLC0415

    number, text = pyarrow.float64(), pyarrow.string()
    columns = {
        "source": text,
        "frame_index": pyarrow.int64(),
        "time": number,
        "category_id": pyarrow.int32(),
        "category_name": text,
        "score": number,
        **dict.fromkeys(("x1", "y1", "x2", "y2"), number),
        "track_id": pyarrow.int64(),
    }
    schema = pyarrow.schema(columns, metadata={_KEY: json.dumps(info, default=str)})
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in _batches(iter(rows)):
            writer.write_table(pyarrow.Table.from_pylist(batch, schema=schema))


def read_parquet_info(path: Path) -> dict[str, Any]:
    """Returns what a file of `write_parquet` says of itself.

    Raises:
        OSError: It cannot be read.
        ValueError: It is something else.
        ConfigError: pyarrow is missing.
    """
    need_parquet()
    from pyarrow import parquet  # noqa: PLC0415

    found: dict[str, Any] = json.loads((parquet.read_schema(path).metadata or {}).get(_KEY, b""))
    return found


def _batches(rows: Iterator[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    while batch := list(islice(rows, _ROWS_AT_ONCE)):
        yield batch
