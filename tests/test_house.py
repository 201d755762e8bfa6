"""The house: imports point down, folders stand in the order of the flow, heavy libraries stay in the files named for them."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# From the ground up: a module imports from its own folder and from those before it.
FLOORS = (
    "operators",
    "operators.prompts",
    "operators.retrieval",
    "operators.scoring",
    "operators.selection",
    "pipeline (ground)",
    "pipeline.storage",
    "pipeline.engine",
    "pipeline.reading",
    "pipeline.retrieval",
    "pipeline.scoring",
    "pipeline.selection",
    "pipeline.runs",
    "pipeline.report",
    "pipeline.planning",
    "pipeline.export",
    "pipeline.inspection",
    "pipeline",
    "pipeline.demo",
)
GROUND = {  # what every folder of the pipeline may know
    "pipeline.config",
    "pipeline.config_section",
    "pipeline.config_select",
    "pipeline.config_served",
    "pipeline.errors",
    "pipeline.interruption",
}
ABOVE_THE_DEMO = {"pipeline.cli", "pipeline.__main__", "pipeline.submit"}  # commands, of which the demo is one
HEAVY = {
    "torch": {
        "models",
        "checkpoint",
        "scorer",
        "probe",
        "decoder",
        "packed_modules",
        "recurrent",
        "attention",
        "head",
        "batch_budget",
        "load_scorer",
        "sharded_scorer",
        "shard_process",
        "sharding",
        "generator",
        "gpu_tiles",
    },
    "transformers": {
        "models",
        "checkpoint",
        "packed_modules",
        "sharding",
        "load_tokenizer",
        "chat_template",
        "generator",
        "embedder",
    },
    "sentence_transformers": {"embedder"},
    "sklearn": {"embedder", "clusters"},
}


def modules() -> dict[str, Path]:
    found = {}
    for layer in ("operators", "pipeline"):
        for path in (ROOT / layer).rglob("*.py"):
            found[".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imports_of(path: Path) -> set[str]:
    """Modules, of this project by their full names and of others by their packages."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if module.split(".")[0] not in ("operators", "pipeline"):
                found.add(module.split(".")[0])
            for alias in node.names if module.split(".")[0] in ("operators", "pipeline") else ():
                inner = f"{module}.{alias.name}"
                found.add(inner if inner in MODULES else module)
    return found


def floor_of(module: str) -> int:
    if module in GROUND:
        return FLOORS.index("pipeline (ground)")
    if module in ABOVE_THE_DEMO:
        return len(FLOORS)
    folder = module if module in FLOORS else module.rpartition(".")[0]
    return FLOORS.index(folder)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_down(module):
    above = [other for other in imports_of(MODULES[module]) if other in MODULES and floor_of(other) > floor_of(module)]
    assert not above


def test_every_folder_has_a_floor_and_modules():
    folders = {module.rpartition(".")[0] for module in MODULES if "." in module}
    assert folders == set(FLOORS) - {"pipeline (ground)"}


def test_operators_import_neither_ray_nor_pipeline():
    operators = {module: path for module, path in MODULES.items() if module.startswith("operators")}
    assert len(operators) > 20
    for module, path in operators.items():
        assert not {name.split(".")[0] for name in imports_of(path)} & {"ray", "pipeline"}, module


def test_heavy_libraries_stay_in_the_files_named_for_them():
    for module, path in MODULES.items():
        for library, files in HEAVY.items() if module.startswith("operators") else ():
            assert library not in imports_of(path) or module.rpartition(".")[2] in files, (module, library)


def test_no_module_hides_one_of_the_standard_library():
    names = {module.rpartition(".")[2] for module in MODULES}
    assert not names & set(sys.stdlib_module_names) - {"__main__"}


RIDDLES = {"one", "found", "told", "said"}


@pytest.mark.parametrize("module", sorted(module for module in MODULES if module.startswith("operators")))
def test_values_have_names_that_say_what_they_are(module):
    names = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, (ast.arg, ast.keyword)):
            names.add(node.arg)
        elif isinstance(node, ast.Attribute):
            names.add(node.attr)
    assert not {name.strip("_") for name in names if name} & RIDDLES


def test_no_file_and_no_function_has_outgrown_the_house():
    lines = {module: path.read_text().count("\n") for module, path in MODULES.items() if path.name != "__init__.py"}
    assert max(lines.values()) <= 300, [module for module, count in lines.items() if count > 300]
    assert sorted(lines.values())[len(lines) // 2] < 150
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                assert (node.end_lineno or 0) - node.lineno < 50, f"{module}.{node.name}"
