"""Hugging Face's `save_to_disk` folders: which Arrow files make a split, as `state.json` and `dataset_dict.json` say.

The library reads exactly the files that `state.json` lists, in that order. A folder that holds others, or lists them
in another order than their names', would be read differently here, so it is refused.

Source: huggingface/datasets, `Dataset.save_to_disk` and `DatasetDict.save_to_disk`.
"""

import posixpath
from collections.abc import Sequence
from typing import Any

from millcert.errors import HostileDataError, UsageError
from millcert.pipelines.formats.json_strict import JsonFaultError, parse_record

STATE = "state.json"
SPLITS = "dataset_dict.json"

#: How rows are shown to Python; none of them changes what is stored.
_FORMAT_TYPES = frozenset(
    {None, "python", "numpy", "torch", "pytorch", "tensorflow", "jax", "pandas", "arrow", "polars"}
)


def check_split(state: bytes, present: Sequence[str], *, name: str) -> None:
    """Refuse a split's folder whose Arrow files are not those of its `state.json`, in their names' order.

    Args:
        state: the bytes of `state.json`.
        present: names of the Arrow files in the folder, without folders.
        name: of the `state.json`, for errors.

    Raises:
        UsageError: it is no state that can be read as the library reads it: indices, an unknown format type.
        HostileDataError: it is malformed, or lists other files than there are.
    """
    entries = _object(state, name)
    if entries.get("_indices_files"):
        raise UsageError(
            f"{name}: the split is a selection of rows by index files, which are not read.",
            hint="Save it with flatten_indices() first.",
            path=name,
        )
    if (kind := entries.get("_format_type")) not in _FORMAT_TYPES:
        raise UsageError(
            f"{name}: unknown format type {str(kind)[:100]!r}.", hint="Save it with reset_format().", path=name
        )
    files = entries.get("_data_files")
    if not isinstance(files, list) or not all(isinstance(each, dict) for each in files):
        raise HostileDataError(f"{name}: `_data_files` is missing or no list of files.", path=name)
    listed = [each.get("filename") for each in files]
    if not all(isinstance(each, str) and each == posixpath.basename(each) for each in listed):
        raise HostileDataError(f"{name}: `_data_files` names a file outside its folder.", path=name)
    if listed != sorted(present):
        raise HostileDataError(
            f"{name} lists {len(listed)} files, the folder has {len(present)}, or they stand in another order.",
            hint="Save the data set again; its files were added to, taken away or renamed.",
            path=name,
            listed=tuple(listed),
            present=tuple(sorted(present)),
        )


def check_splits(data: bytes, present: Sequence[str], *, name: str) -> None:
    """Refuse a folder of splits that are not those of its `dataset_dict.json`.

    Args:
        data: the bytes of `dataset_dict.json`.
        present: names of the folders in it that hold data.
        name: of the `dataset_dict.json`, for errors.

    Raises:
        HostileDataError: it is malformed, or lists other splits than there are.
    """
    listed = _object(data, name).get("splits")
    if not isinstance(listed, list) or not all(isinstance(each, str) for each in listed):
        raise HostileDataError(f"{name}: `splits` is missing or no list of names.", path=name)
    if sorted(listed) != sorted(present):
        raise HostileDataError(
            f"{name} lists the splits {listed!r}; the folder has {sorted(present)!r}.",
            hint="Save the data set again, or name the folder of one split.",
            path=name,
        )


def _object(data: bytes, name: str) -> dict[str, Any]:
    try:
        return parse_record(data)
    except JsonFaultError as fault:
        raise HostileDataError(f"{name}: {fault.detail}", hint="Save the data set again.", path=name) from fault
