"""How the package is built: short functions, imports from above to below, private names kept."""

import ast
from collections import deque
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "implicitrm_sk"
#: From what users call to the ground. A module imports from its own layer and those below; of two
#: entries that fit, the longer one says where a module belongs. "__init__" is the package's own.
LAYERS = (
    ("cli", "demo"),
    ("__init__",),
    ("inspection", "integrations", "datasets"),
    ("_pipeline", "_search"),
    ("_estimator",),
    ("_prediction", "persistence"),
    ("_checkpoint", "_fit", "_held_out", "_activity"),
    ("training",),
    (
        "_log",
        "_features",
        "_assumptions",
        "_identification",
        "_association",
        "_coincidences",
        "_dispersion",
        "_independence",
        "_examination",
        "_false_actions",
        "_score_test",
        "_goodness",
        "_labels",
    ),
    ("objectives",),
    ("signals",),
    ("measurement",),
    (
        "_device",
        "_keys",
        "_lazy",
        "_optional",
        "_paths",
        "_ray",
        "_side_columns",
        "_sklearn",
        "_sources",
        "_tables",
        "_transaction",
        "_typing",
        "_validation",
        "_waits",
        "_warnings",
        "embedding",
        "exceptions",
        "metrics",
    ),
)
MAX_LINES = 100
MAX_LINES_OF_THE_ESTIMATOR = 700
#: Private names that a module uses though they belong to another, and why.
PRIVATE_OF_OTHERS = {
    ("_sklearn", "_getframe"): "Python's only way to what calls",
    ("_warnings", "_getframe"): "Python's only way to what calls",
    ("embedding._embedder", "_mmap"): "NumPy's only way to the memory behind an array",
    ("inspection._plot._identification", "_held_out"): "of the report, which the display draws",
    ("integrations._transformers", "_source"): "a model is built from what an embedder settled",
    ("integrations.modeling_implicitrm", "_model_mapping"): "transformers': class of a config",
}
#: The one module for private names of scikit-learn.
SKLEARN = "_sklearn"
SKLEARN_ATTRIBUTES = (
    "_init_callback_context",
    "_parent_callback_ctx",
    "_scorers",
    "_skl_callbacks",
    "_validate_params",
)


# ---------------------------------------------------------------------- length


def functions_of(tree, prefix=""):
    """Yield name and node of every function and method; those within a function are part of it."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + node.name, node
        else:
            inner = f"{prefix}{node.name}." if isinstance(node, ast.ClassDef) else prefix
            yield from functions_of(node, inner)


def n_lines(function):
    """Return the lines of a function beside its docstring, decorators left out."""
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function, clean=False) is not None:
        lines -= function.body[0].end_lineno - function.body[0].lineno + 1
    return lines


def too_long(root):
    return [
        f"{path.relative_to(root.parent)}: {name} has {n_lines(function)} lines"
        for path in sorted(root.rglob("*.py"))
        for name, function in functions_of(ast.parse(path.read_text()))
        if n_lines(function) > MAX_LINES
    ]


def test_functions_are_short():
    found = too_long(PACKAGE)
    assert not found, f"more than {MAX_LINES} lines beside the docstring:\n" + "\n".join(found)


def test_the_estimator_is_a_face():
    """What it does stands in the modules below it."""
    lines = (PACKAGE / "_estimator.py").read_text().count("\n")
    assert lines <= MAX_LINES_OF_THE_ESTIMATOR


# ---------------------------------------------------------------------- errors


def test_errors_of_values_have_one_class():
    """Whoever calls can catch ImplicitRMError, and knows that the message says what to do."""
    found = [
        f"{path.relative_to(PACKAGE.parent)}, line {node.lineno}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.name not in ("modeling_implicitrm.py", "exceptions.py")  # the first stands alone
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "ValueError"
    ]
    assert not found, "raise ImplicitRMError instead:\n" + "\n".join(found)


# ---------------------------------------------------------------------- imports


def modules_of(root):
    """Return the path of each module of a package by its full name."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def around(name):
    """Return the packages around a module, the outermost first."""
    parts = name.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts))]


def imports_of(name, modules):
    """Return the modules of the package that a module imports, wherever the statement stands.

    As Python does it, a module comes with the packages around it. Those around the importing
    module itself do not count: they are being imported already, whatever they hold.
    """
    path = modules[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    targets = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            targets.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [*around(package), package][-node.level] if node.level else ""
            base = ".".join(filter(None, (base, node.module)))
            inner = {f"{base}.{alias.name}" for alias in node.names}
            targets.update(target if target in modules else base for target in inner)
    ours = {*around(name), name}
    packages = {outer for target in targets for outer in around(target)} - ours
    return (targets | packages) & set(modules)


def graph_of(root):
    """Return which modules each module of a package imports."""
    modules = modules_of(root)
    return {name: imports_of(name, modules) for name in modules}


def path_between(graph, start, end):
    """Return a shortest chain of imports from one module to another, None without one."""
    before, waiting = {start: None}, deque([start])
    while waiting:
        name = waiting.popleft()
        if name == end:
            chain = [name]
            while before[chain[-1]] is not None:
                chain.append(before[chain[-1]])
            return chain[::-1]
        for target in sorted(graph[name]):
            if target not in before:
                before[target] = name
                waiting.append(target)
    return None


def circles_of(graph):
    """Return a shortest circle through each import that is part of one, in words."""
    circles = set()
    for name in graph:
        for target in graph[name]:
            circle = path_between(graph, target, name)
            if circle is not None:
                first = circle.index(min(circle))
                circle = circle[first:] + circle[:first]
                circles.add(" -> ".join([*circle, circle[0]]))
    return sorted(circles)


def layer_of(name, layers):
    """Return the number of a module's layer, 0 for the top; None if it belongs to none."""
    inner = name.partition(".")[2] or "__init__"
    fits = [
        (len(prefix), number)
        for number, layer in enumerate(layers)
        for prefix in layer
        if f"{inner}.".startswith(f"{prefix}.")
    ]
    return max(fits)[1] if fits else None


def without_a_layer(graph, layers):
    return sorted(name for name in graph if layer_of(name, layers) is None)


def imports_from_above(graph, layers):
    """Return the imports of a module from a layer above its own, in words."""
    found = []
    for name, targets in sorted(graph.items()):
        for target in sorted(targets):
            ours, theirs = layer_of(name, layers), layer_of(target, layers)
            if None not in (ours, theirs) and theirs < ours:
                found.append(f"{name} (layer {ours}) imports {target} (layer {theirs})")
    return found


def test_no_imports_in_a_circle():
    found = circles_of(graph_of(PACKAGE))
    assert not found, "modules import each other:\n" + "\n".join(found)


def test_every_module_belongs_to_a_layer():
    found = without_a_layer(graph_of(PACKAGE), LAYERS)
    assert not found, "give these a place in LAYERS of this file:\n" + "\n".join(found)


def test_imports_lead_down():
    found = imports_from_above(graph_of(PACKAGE), LAYERS)
    assert not found, "imports from above (0 is the top):\n" + "\n".join(found)


# ---------------------------------------------------------------------- private names


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def is_own(node):
    """Return whether an expression is `self`, `cls` or `super()`, whose private names are one's."""
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id == "super"
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def private_names_defined(tree):
    """Return the private names of the classes of a module, in their bodies or set on `self`."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if is_own(node.value):
                found.add(node.attr)
        elif isinstance(node, ast.ClassDef):
            for part in node.body:
                if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                    found.add(part.name)
                targets = getattr(part, "targets", [getattr(part, "target", None)])
                found.update(target.id for target in targets if isinstance(target, ast.Name))
    return {name for name in found if is_private(name)}


def attribute_read(node):
    """Return (object, name) of an expression that reaches for an attribute, in whatever way."""
    if isinstance(node, ast.Attribute):
        return node.value, node.attr
    if isinstance(node, ast.Call) and len(node.args) > 0:
        function, first = node.func, node.args[0]
        accessors = ("getattr", "hasattr", "setattr", "delattr")
        if isinstance(function, ast.Name) and function.id in accessors:
            return first, getattr(node.args[1], "value", None)
        if isinstance(function, ast.Attribute) and function.attr in ("get", "pop", "setdefault"):
            return whose_dict(function.value), getattr(first, "value", None)
    if isinstance(node, ast.Subscript):
        return whose_dict(node.value), getattr(node.slice, "value", None)
    return None, None


def whose_dict(node):
    """Return x of `vars(x)` and `x.__dict__`, None of anything else."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "vars":
        return node.args[0] if node.args else None
    if isinstance(node, ast.Attribute) and node.attr == "__dict__":
        return node.value
    return None


def private_names_of_others(name, modules):
    """Return (line, private name, origin) of what a module uses though it belongs to another.

    Two ways lead there. By import: of a function, class or constant, while a private module is
    imported like any other. By attribute, unless the object is `self`, `cls` or `super()`, or a
    class of the module has a private attribute of that name, as in comparisons with another object
    of the class. Origin is the full name of the module imported from, None of attributes.
    """
    path = modules[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    tree = ast.parse(path.read_text())
    defined = private_names_defined(tree)
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            base = [*around(package), package][-node.level] if node.level else ""
            base = ".".join(filter(None, (base, node.module)))
            found.update(
                (node.lineno, alias.name, base)
                for alias in node.names
                if is_private(alias.name) and f"{base}.{alias.name}" not in modules
            )
        owner, attribute = attribute_read(node)
        if owner is None or not isinstance(attribute, str) or not is_private(attribute):
            continue
        if not is_own(owner) and attribute not in defined:
            found.add((node.lineno, attribute, None))
    return found


def private_uses(root):
    """Return {(module, private name): lines} of a package, the module without the package's name.

    What the one module for scikit-learn takes from there is left out.
    """
    modules, found = modules_of(root), {}
    for name in modules:
        inner = name.partition(".")[2] or "__init__"
        for line, private, origin in sorted(private_names_of_others(name, modules), key=str):
            of_sklearn = origin is not None and origin.split(".")[0] == "sklearn"
            if inner != SKLEARN or not (of_sklearn or private in SKLEARN_ATTRIBUTES):
                found.setdefault((inner, private), []).append(line)
    return found


def test_private_names_stay_in_their_module():
    found = private_uses(PACKAGE)
    unknown = [
        f"{module}, line {', '.join(map(str, lines))}: {name}"
        for (module, name), lines in found.items()
        if (module, name) not in PRIVATE_OF_OTHERS
    ]
    assert not unknown, "private names of other modules or classes:\n" + "\n".join(unknown)


def test_exceptions_for_private_names_are_needed():
    unneeded = set(PRIVATE_OF_OTHERS) - set(private_uses(PACKAGE))
    assert not unneeded, f"take these out of PRIVATE_OF_OTHERS of this file: {sorted(unneeded)}"


# ---------------------------------------------------------------------- of these checks themselves


SMALL = {
    "__init__": "from .model import Model\n__version__ = '1'",
    "model": "import numpy as np\nfrom .ground import _checks, measures\n",
    "ground/__init__": "from ._checks import check\nfrom .measures import measure",
    "ground/_checks": "import os.path",
    "ground/measures": "from ._checks import check\nimport small.errors",
    "errors": "",
}
SMALL_LAYERS = (("__init__",), ("model",), ("ground", "errors"))


@pytest.fixture
def small(tmp_path):
    """Return a function that writes a small package, some modules of it replaced or added."""

    def write(**modules):
        for name, text in (SMALL | modules).items():
            path = tmp_path / "small" / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path / "small"

    return write


def test_graph_of_a_small_package(small):
    graph = graph_of(small())
    assert graph == {
        "small": {"small.model"},
        "small.model": {"small.ground", "small.ground._checks", "small.ground.measures"},
        "small.ground": {"small.ground._checks", "small.ground.measures"},
        "small.ground._checks": set(),
        "small.ground.measures": {"small.ground._checks", "small.errors"},
        "small.errors": set(),
    }
    assert circles_of(graph) == []
    assert without_a_layer(graph, SMALL_LAYERS) == []
    assert imports_from_above(graph, SMALL_LAYERS) == []


@pytest.mark.parametrize(
    ("statement", "target"),
    [
        ("from . import __version__", "small"),
        ("from small import __version__", "small"),
        ("import small", "small"),
        ("import small.model as m", "small.model"),
        ("from . import model", "small.model"),
        ("from small.model import Model", "small.model"),
        ("from .model import *", "small.model"),
        ("def f():\n    from .model import Model", "small.model"),
        ("class A:\n    def f(self):\n        if self:\n            import small.model",
         "small.model"),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .model import Model",
         "small.model"),
        ("try:\n    from .model import Model\nexcept ImportError:\n    pass", "small.model"),
        ("from .ground._checks import check", "small.ground"),
        ("from .ground import _checks", "small.ground"),
        ("from .ground import check", "small.ground"),
    ],
)  # fmt: skip
def test_every_kind_of_import_is_seen(statement, target, small):
    assert target in graph_of(small(errors=statement))["small.errors"]


def test_imports_within_a_package(small):
    """Two dots lead out of it; a module of it does not import the package around it."""
    text = "from ..model import Model\nfrom .. import errors\nfrom . import measures"
    graph = graph_of(small(**{"ground/_checks": text}))
    expected = {"small.model", "small.errors", "small.ground.measures"}
    assert graph["small.ground._checks"] == expected


def test_circles_are_found(small):
    text = "def f():\n    from .measures import measure"
    assert circles_of(graph_of(small(**{"ground/_checks": text}))) == [
        "small.ground._checks -> small.ground.measures -> small.ground._checks"
    ]
    text = "from .. import __version__"
    found = circles_of(graph_of(small(**{"ground/_checks": "", "ground/measures": text})))
    assert "small -> small.model -> small.ground.measures -> small" in found


def test_imports_from_above_are_found(small):
    graph = graph_of(small(errors="def f():\n    from .model import Model"))
    assert imports_from_above(graph, SMALL_LAYERS) == [
        "small.errors (layer 2) imports small.model (layer 1)"
    ]
    # The longer of two entries says where a module belongs.
    layers = (("__init__",), ("ground.measures",), ("model",), ("ground", "errors"))
    found = imports_from_above(graph_of(small(errors="")), layers)
    assert found == [
        "small.ground (layer 3) imports small.ground.measures (layer 1)",
        "small.model (layer 2) imports small.ground.measures (layer 1)",
    ]


def test_modules_without_a_layer_are_found(small):
    """A name that only begins like an entry is another one."""
    graph = graph_of(small(model_of="", **{"other/_inner": ""}))
    assert without_a_layer(graph, SMALL_LAYERS) == ["small.model_of", "small.other._inner"]


def test_long_functions_are_found(tmp_path):
    """A docstring does not count, what is defined within does."""
    body = ['"""Text.', *["More."] * 50, '"""'] + ["x = 1"] * (MAX_LINES - 1)
    path = tmp_path / "a.py"
    for more, expected in (
        ([], []),
        (["def inner():", "    pass"], [f"{tmp_path.name}/a.py: A.f has {MAX_LINES + 2} lines"]),
    ):
        lines = ["class A:", "    def f(self):", *(f"        {line}" for line in body + more)]
        path.write_text("\n".join(lines))
        assert too_long(tmp_path) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("from .model import _inner", ["_inner"]),
        ("def f():\n    from small.model import Model, _inner as inner", ["_inner"]),
        ("from sklearn.base import _fit_context", ["_fit_context"]),
        ("from .ground import _checks\n_checks.check()", []),  # a private module
        ("from .ground._checks import check", []),
        ("from . import __version__", []),
        ("model._inner", ["_inner"]),
        ("model.outer._inner()", ["_inner"]),
        ("model._inner = 1", ["_inner"]),
        ("make(1)._inner", ["_inner"]),
        ("model.__dict__", []),
        ("getattr(model, '_inner', None)", ["_inner"]),
        ("hasattr(model, '_inner')", ["_inner"]),
        ("getattr(model, name)", []),
        ("vars(model)['_inner']", ["_inner"]),
        ("vars(model).get('_inner')", ["_inner"]),
        ("model.__dict__.pop('_inner')", ["_inner"]),
        ("state['_inner']", []),  # a key of a plain dict
        ("class A:\n    def f(self):\n        return self._inner, super()._other()", []),
        ("class A:\n    @classmethod\n    def f(cls):\n        return cls._inner", []),
        ("class A:\n    def f(self, other):\n        return other._inner", ["_inner"]),
        ("class A:\n    _inner = 1\n\ndef f(a):\n    return a._inner", []),
        ("class A:\n    _inner: int\n\ndef f(a):\n    return a._inner", []),
        ("class A:\n    def _inner(self): ...\n\nA()._inner()", []),
        ("class A:\n    def f(self, b):\n        self._inner = b._inner", []),
    ],
)
def test_private_names_of_others_are_found(text, expected, small):
    modules = modules_of(small(errors=text))
    found = private_names_of_others("small.errors", modules)
    assert sorted(name for _, name, _ in found) == expected


def test_private_names_of_scikit_learn_have_one_module(small):
    text = (
        "from sklearn.base import _fit_context\nfrom .model import _inner\n"
        "est._validate_params()\nest._other\ngetattr(est, '_skl_callbacks', ())"
    )
    found = private_uses(small(**{"_sklearn": text, "errors": text}))
    assert {name for module, name in found if module == "_sklearn"} == {"_inner", "_other"}
    assert found["errors", "_fit_context"] == [1]
    assert found["errors", "_validate_params"] == [3]
    assert len([module for module, _ in found if module == "errors"]) == 5
