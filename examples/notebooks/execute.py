"""
Execute the notebooks anew and save them with their outputs.

    pip install "solar-trl[analysis,eval,plot,quantization]" ipykernel nbclient nbformat
    python examples/notebooks/execute.py                # all of them
    python examples/notebooks/execute.py qlora          # one

Each runs in an empty folder, so that nothing but the notebook itself is written. What would differ from run to run
(times, folders of this machine, progress bars, execution metadata) is left out of what is saved.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode


FOLDER = Path(__file__).parent
SKIP_TAG = "skip-execution"  # of the cell that installs the package
PARAMETERS_TAG = "parameters"  # of the cell with the model and the number of steps

CLOCK = re.compile(r"(?:\d+:)?\d\d:\d\d")
SPEED = re.compile(r",? *(?:\?|[\d.]+) *(?:it/s|s/it)")
RUNTIME = re.compile(r"('(?:train|eval)_(?:runtime|(?:samples|steps)_per_second)': )'?[\d.]+'?")
FOREIGN_LOG = re.compile(r"\[\d{4}-\d\d-\d\d .*\] \[[A-Z]+\]")  # of DeepSpeed, where it is installed
ADDRESS = re.compile(r" at 0x[0-9a-f]+")
OWN_LOG = "[solar-trl]"


def set_parameters(notebook: NotebookNode, parameters: dict[str, object]) -> None:
    """Give variables of the parameters cell other values."""
    (cell,) = (cell for cell in notebook.cells if PARAMETERS_TAG in cell.metadata.get("tags", []))
    for name, value in parameters.items():
        line = re.compile(rf"^{name} = .*$", re.M)
        match = line.search(cell.source)
        if match is None:
            raise ValueError(f"The parameters cell has no variable {name!r}: {cell.source!r}")
        cell.source = f"{cell.source[: match.start()]}{name} = {value!r}{cell.source[match.end() :]}"


def execute(notebook: NotebookNode, folder: str | Path, timeout: int = 1200) -> None:
    """Run all cells in `folder`, but those that install; their outputs go into the notebook."""
    environment = {"HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore"}
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        skip_cells_with_tag=SKIP_TAG,
        record_timing=False,
    )
    client.execute(env={**os.environ, **environment})


def clean(notebook: NotebookNode, folder: str | Path) -> None:
    """Leave out of the outputs what differs from run to run."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        cell.metadata.pop("execution", None)
        outputs = []
        for output in cell.outputs:
            if output.output_type == "stream":
                output.text = _clean_stream(output.text, output.name, folder)
                if not output.text:
                    continue
                output.name = "stdout"
            for kind in ("text/plain", "text/html"):
                if kind in output.get("data", {}):
                    output.data[kind] = _clean_text(output.data[kind], folder)
            outputs.append(output)
        cell.outputs = outputs


def _clean_stream(text: str, name: str, folder: str | Path) -> str:
    if name == "stderr":  # progress bars and warnings about this machine; the package's own reports are kept
        start = text.find(OWN_LOG)
        text = text[start:] if start >= 0 else ""
    lines = [line for line in text.split("\n") if "\r" not in line and not FOREIGN_LOG.match(line)]
    return _clean_text("\n".join(lines).strip("\n"), folder)


def _clean_text(text: str, folder: str | Path) -> str:
    for path in {str(folder), os.path.realpath(folder)}:
        text = text.replace(path + os.sep, "").replace(path, ".")
    text = RUNTIME.sub(r"\1…", ADDRESS.sub("", text))
    if "<progress" in text:
        text = SPEED.sub("", CLOCK.sub("…", text))
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
    parser.add_argument("names", nargs="*", choices=[[], *names], help=f"of {', '.join(names)}; default: all")
    for name in parser.parse_args().names or names:
        path = FOLDER / f"{name}.ipynb"
        notebook = nbformat.read(path, as_version=4)
        print(f"{path.name} ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            execute(notebook, folder)
            clean(notebook, folder)
        nbformat.write(notebook, path)


if __name__ == "__main__":
    main()
