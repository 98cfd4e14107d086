"""Makes `cultivar_runner/wire.py` of the server's JSON Schema: `python -m tests.wire_models`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "cultivar_runner"
SCHEMA = PACKAGE / "wire_schema.json"
MODELS = PACKAGE / "wire.py"
DOCSTRING = (
    '''"""Types of the runner protocol. Generated of wire_schema.json by tests/wire_models.py: do not edit."""'''
)
OPTIONS = """
--input-file-type jsonschema --output-model-type pydantic_v2.BaseModel --target-python-version 3.11
--use-standard-collections --use-union-operator --use-double-quotes --strict-nullable --field-constraints
--use-annotated --collapse-root-models --skip-root-model --enum-field-as-literal all --disable-timestamp
--base-class cultivar_runner.wire_base.Wire --formatters builtin
"""


def write_models(target: Path) -> None:
    """Writes the types to `target`."""
    codegen = [sys.executable, "-m", "datamodel_code_generator", "--input", str(SCHEMA), "--output", str(target)]
    subprocess.run([*codegen, "--custom-file-header", DOCSTRING, *OPTIONS.split()], check=True)
    ruff = [sys.executable, "-m", "ruff"]
    subprocess.run([*ruff, "check", "--quiet", "--fix", "--ignore", "D101,RUF012", str(target)], check=True)
    subprocess.run([*ruff, "format", "--quiet", str(target)], check=True)


if __name__ == "__main__":
    write_models(MODELS)
