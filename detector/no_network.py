"""Switches off the network access of our libraries; it must run before they are imported.

Read at import by ultralytics (online check by DNS, analytics, crash reports, package installs,
`eval` of model files), by huggingface_hub (downloads, telemetry) and by openvino (telemetry).
"""

import atexit
import os
import shutil
import sys
import tempfile
from types import ModuleType

_SWITCHES = {
    "YOLO_OFFLINE": "True",
    "YOLO_AUTOINSTALL": "False",
    "YOLO_VERBOSE": "False",
    "ULTRALYTICS_SAFE_LOAD": "True",
    "ULTRALYTICS_SKIP_REQUIREMENTS_CHECKS": "True",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
}


def quiet() -> None:
    """Set the switches for this process and its children. Cheap, and harmless when repeated."""
    os.environ.update(_SWITCHES)


def ultralytics_tasks() -> ModuleType:
    """The module `ultralytics.nn.tasks`, imported so that it writes nothing to the home directory
    and leaves `PIL.Image.open` as it is.

    Without YOLO_CONFIG_DIR its settings file goes to a folder that vanishes with the process.
    """
    quiet()
    if "YOLO_CONFIG_DIR" not in os.environ:
        folder = tempfile.mkdtemp(prefix="qc-yolo-")
        os.environ["YOLO_CONFIG_DIR"] = folder
        atexit.register(_remove, folder, os.getpid())
    # Importing ultralytics sets OMP_NUM_THREADS=1, which every child process would inherit.
    threads = os.environ.get("OMP_NUM_THREADS")
    import torch  # noqa: F401  (takes its thread count before ultralytics can change it)
    from PIL import Image

    image_open = Image.open
    from ultralytics.nn import tasks

    # It puts its own in the place, which answers an unreadable file by installing a package.
    Image.open = image_open
    if threads is None:
        os.environ.pop("OMP_NUM_THREADS", None)
    return tasks  # type: ignore[no-any-return]


def openvino_module() -> ModuleType:
    """The module `openvino`, imported so that it reports nothing to its maker."""
    quiet()
    # None stands for a module that cannot be imported; openvino then does without.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino  # type: ignore[no-any-return]


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
